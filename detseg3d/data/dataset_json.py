"""Parse and check the entries of a dataset.json, for planning, training and evaluation.

Each function takes the content of the file and, for messages, its path. It raises a :class:`DetSeg3DError` if the
content is not valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from detseg3d.core.arrays import Spacing, as_spacing
from detseg3d.core.codes import ClassCodes, Code
from detseg3d.core.errors import DetSeg3DError

__all__ = [
    "MAX_NAMES",
    "parse_channel_names",
    "parse_codes",
    "parse_labels",
    "parse_default_spacing",
    "parse_patients",
    "parse_suv_channels",
]

MAX_NAMES: Final = 1000
"""Maximum number of channels and of labels. Plans have the same limit."""

# Digits of a label value. Python refuses to convert texts of thousands of digits.
_MAX_NUMBER_LENGTH = 19
_MAX_NAME_LENGTH = 1000


def parse_channel_names(data: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """Return the names of the channels in order, from ``channel_names`` (``modality`` in version 1 of nnU-Net)."""
    value = data.get("channel_names", data.get("modality"))
    _check_count(value, "channel_names", file)
    if isinstance(value, list):
        value = {str(index): name for index, name in enumerate(value)}
    if not isinstance(value, dict) or not value or sorted(value, key=_number) != [str(i) for i in range(len(value))]:
        raise DetSeg3DError(
            '"channel_names" does not number the channels from 0',
            file=file,
            value=value,
            expected='{"0": "T1", "1": "FLAIR"}',
        )
    return tuple(_name(value[str(index)], file) for index in range(len(value)))


def _check_count(value: Any, entry: str, file: Path) -> None:
    """Raise an error if an entry has more than :data:`MAX_NAMES` names."""
    if isinstance(value, (dict, list)) and len(value) > MAX_NAMES:
        raise DetSeg3DError(
            f'"{entry}" has too many entries',
            file=file,
            value=f"{len(value)} entries",
            expected=f"at most {MAX_NAMES}",
        )


def _name(value: Any, file: Path) -> str:
    """Return a name of a channel or label; raise if it is too long or holds lone surrogates."""
    text = str(value)
    lone = any("\ud800" <= character <= "\udfff" for character in text)
    if lone or len(text) > _MAX_NAME_LENGTH:
        raise DetSeg3DError(
            "a name has lone surrogates, which are not characters" if lone else "a name is too long",
            file=file,
            value=text[:80],
            expected=f"at most {_MAX_NAME_LENGTH} characters of Unicode",
            remedy="choose another name",
        )
    return text


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < _MAX_NUMBER_LENGTH else -1


def parse_labels(data: Mapping[str, Any], file: Path) -> dict[str, int]:
    """Return the value of each label, including the background, from ``labels``.

    Values may be text. Version 1 of nnU-Net uses the values as keys (``{"1": "lesion"}``).

    Returns
    -------
    dict of str to int
        Value of each label by name.
    """
    value = data.get("labels")
    _check_count(value, "labels", file)
    if not isinstance(value, dict):
        raise DetSeg3DError(
            '"labels" is missing or not an object', file=file, value=value, expected='{"background": 0, "lesion": 1}'
        )
    if any(isinstance(entry, (list, tuple)) for entry in value.values()):
        raise DetSeg3DError(
            "region-based labels (a list of values for one name) are not supported",
            file=file,
            value=value,
            remedy="give each lesion class a separate value",
        )
    if "ignore" in value:
        raise DetSeg3DError(
            'an "ignore" label is not supported',
            file=file,
            value=value,
            remedy="annotate these voxels as background or lesion and remove the label",
        )
    if all(_number(key) >= 0 for key in value) and all(_whole(entry) is None for entry in value.values()):
        value = {str(name): int(key) for key, name in value.items()}  # the form of version 1 of nnU-Net
    labels = {str(name): _whole(entry) for name, entry in value.items()}
    numbers = [number for number in labels.values() if number is not None and number >= 0]
    if len(set(numbers)) != len(value) or 0 not in numbers or len(numbers) < 2:
        raise DetSeg3DError(
            "the labels are not different whole numbers with 0 for the background and at least one lesion class",
            file=file,
            value=data["labels"],
            expected='{"background": 0, "lesion": 1}',
        )
    return {_name(name, file): number for name, number in labels.items() if number is not None}


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < _MAX_NUMBER_LENGTH else None
    return int(value) if isinstance(value, (int, float)) and value == int(value) else None


def parse_default_spacing(data: Mapping[str, Any], file: Path) -> Spacing | None:
    """Return the spacing ``(z, y, x)`` of .npy files in mm from ``default_spacing``; ``None`` if it is missing."""
    value = data.get("default_spacing")
    if value is None:
        return None
    try:
        spacing = as_spacing(value)
    except (TypeError, ValueError):
        spacing = (0.0, 0.0, 0.0)
    if not all(0 < length < 1e6 for length in spacing):
        raise DetSeg3DError(
            '"default_spacing" does not hold three positive numbers', file=file, value=value, expected="z y x in mm"
        )
    return spacing


def parse_suv_channels(data: Mapping[str, Any], channel_names: Sequence[str], file: Path) -> tuple[str, ...]:
    """Return the names of the channels with SUV values, from ``suv``."""
    value = data.get("suv", [])
    if not isinstance(value, list) or not all(isinstance(name, str) and name in channel_names for name in value):
        raise DetSeg3DError(
            '"suv" is not a list of names of channels',
            file=file,
            value=value,
            expected=f"some of {list(channel_names)}",
        )
    return tuple(name for name in channel_names if name in value)


def parse_patients(data: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Return the patient of each case that ``patients`` lists."""
    value = data.get("patients", {})
    if not isinstance(value, dict) or not all(type(patient) in (str, int) for patient in value.values()):
        raise DetSeg3DError(
            '"patients" does not map cases to patients', file=file, value=value, expected='{"CASE": "PATIENT"}'
        )
    return {case: str(patient) for case, patient in value.items()}


_CODE_LENGTHS = (16, 16, 64)  # the value representations SH, SH and LO of DICOM
_CODE_EXAMPLE = '["52988006", "SCT", "Lesion"]: value, scheme and meaning, at most 16, 16 and 64 characters'


def parse_codes(data: Mapping[str, Any], class_names: Sequence[str], file: Path) -> dict[str, ClassCodes]:
    """Return the codes of the lesion classes, from ``codes``.

    Parameters
    ----------
    data : mapping
        Content of a dataset.json.
    class_names : sequence of str
        Names of the lesion classes.
    file : Path
        The file that messages name.

    Returns
    -------
    dict of str to ClassCodes
        Codes by class name. Classes without codes are left out.

    Examples
    --------
    >>> data = {"codes": {"cyst": {"finding": ["103552005", "SCT", "Cyst"]}}}
    >>> parse_codes(data, ["cyst", "metastasis"], Path("dataset.json"))["cyst"].finding.meaning
    'Cyst'
    """
    value = data.get("codes", {})
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise DetSeg3DError(
            '"codes" does not map classes to codes',
            file=file,
            value=value,
            expected='{"CLASS": {"finding": [value, scheme, meaning], "site": [value, scheme, meaning]}}',
        )
    unknown = [name for name in value if name not in class_names]
    if unknown:
        raise DetSeg3DError(
            '"codes" names classes that do not exist',
            file=file,
            value=unknown[:5],
            expected=f"some of {list(class_names)[:20]}",
        )
    codes = {}
    for name, entry in value.items():
        others = sorted(set(entry) - {"finding", "site"})
        if others:
            raise DetSeg3DError(
                f'"codes" of {name} has unknown entries', file=file, value=others[:5], expected="finding, site"
            )
        finding = _code(entry["finding"], file) if "finding" in entry else None
        codes[name] = ClassCodes(finding, _code(entry["site"], file) if "site" in entry else None)
    return codes


def _code(value: Any, file: Path) -> Code:
    """Return a code from value, scheme and meaning; raise if it cannot be written to DICOM."""
    valid = isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value)
    if not valid or not all(
        len(part.strip()) > 0 and len(part) <= length and "\\" not in part and part.isprintable()
        for part, length in zip(value, _CODE_LENGTHS, strict=True)
    ):
        raise DetSeg3DError("a code cannot be understood", file=file, value=value, expected=_CODE_EXAMPLE)
    return Code(*(part.strip() for part in value))


def parse_training_list(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the cases in the list ``training``, which version 1 of nnU-Net and other programs write.

    Parameters
    ----------
    data : mapping
        Content of a dataset.json. An entry of the list is a path, or an object with ``label``, ``image`` or both.

    Returns
    -------
    tuple of str or None
        Names of the label files, or of the image files if labels are not listed, without folder and ending. ``None`` if
        the list is missing or has another form.

    Examples
    --------
    >>> parse_training_list({"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]})
    ('a',)
    """
    entries = data.get("training")
    if not isinstance(entries, list) or not entries:
        return None
    names = []
    for entry in entries:
        file = entry
        if isinstance(entry, Mapping):
            file = entry.get("label", entry.get("image"))
        if isinstance(file, list) and file:
            file = file[0]
        if not isinstance(file, str):
            return None
        names.append(_without_ending(file))
    return tuple(names)


def _without_ending(file: str) -> str:
    name = file.replace("\\", "/").rsplit("/", 1)[-1]
    for ending in (".gz", ".nii", ".mha", ".mhd", ".nrrd", ".npy"):
        name = name.removesuffix(ending)
    return name


def is_version_1(data: Mapping[str, Any]) -> bool:
    """Return whether a dataset.json has the form of nnU-Net version 1 or the Medical Segmentation Decathlon."""
    return "file_ending" not in data and bool({"modality", "tensorImageSize", "training"} & set(data))
