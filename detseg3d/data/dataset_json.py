"""What a dataset.json says, checked: one understanding of it for planning, training and evaluation alike.

Each function takes the content of the file and its path, for messages, and raises a :class:`DetSeg3DError` that says
what is wrong and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError

__all__ = [
    "MAX_NAMES",
    "parse_channel_names",
    "parse_labels",
    "parse_default_spacing",
    "parse_patients",
    "parse_suv_channels",
]

MAX_NAMES: Final = 1000
"""Of channels, and of labels; plans have the same limit."""

# Python refuses to convert texts of thousands of digits; no label needs this many.
_MAX_NUMBER_LENGTH = 19
_MAX_NAME_LENGTH = 1000


def parse_channel_names(data: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """Names of the channels, in order, from ``channel_names`` (``modality`` in version 1 of nnU-Net)."""
    value = data.get("channel_names", data.get("modality"))
    _check_count(value, "channel_names", file)
    if isinstance(value, list):
        value = {str(index): name for index, name in enumerate(value)}
    if not isinstance(value, dict) or not value or sorted(value, key=_number) != [str(i) for i in range(len(value))]:
        raise DetSeg3DError(
            '"channel_names" must number the channels from 0',
            file=file,
            value=value,
            expected='{"0": "T1", "1": "FLAIR"}',
        )
    return tuple(_name(value[str(index)], file) for index in range(len(value)))


def _check_count(value: Any, entry: str, file: Path) -> None:
    """Refuse an entry of a million names before anything is done with them."""
    if isinstance(value, (dict, list)) and len(value) > MAX_NAMES:
        raise DetSeg3DError(
            f'"{entry}" has too many entries',
            file=file,
            value=f"{len(value)} entries",
            expected=f"at most {MAX_NAMES}",
        )


def _name(value: Any, file: Path) -> str:
    """The name of a channel or a label: text that every file and every terminal can hold."""
    text = str(value)
    lone = any("\ud800" <= character <= "\udfff" for character in text)
    if lone or len(text) > _MAX_NAME_LENGTH:
        raise DetSeg3DError(
            "a name has lone surrogates, which are not characters" if lone else "a name is too long",
            file=file,
            value=text[:80],
            expected=f"at most {_MAX_NAME_LENGTH} characters of Unicode",
            remedy="write another name",
        )
    return text


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < _MAX_NUMBER_LENGTH else -1


def parse_labels(data: Mapping[str, Any], file: Path) -> dict[str, int]:
    """Value of each label, background included, from ``labels``; numbers may be text, or the keys (``{"1": "a"}``)."""
    value = data.get("labels")
    _check_count(value, "labels", file)
    if not isinstance(value, dict):
        raise DetSeg3DError(
            '"labels" is missing or no object', file=file, value=value, expected='{"background": 0, "lesion": 1}'
        )
    if any(isinstance(entry, (list, tuple)) for entry in value.values()):
        raise DetSeg3DError(
            "region-based labels (a list of values for one name) are not supported",
            file=file,
            value=value,
            remedy="give each lesion class one value of its own",
        )
    if "ignore" in value:
        raise DetSeg3DError(
            'an "ignore" label is not supported',
            file=file,
            value=value,
            remedy="annotate these voxels as background or lesion and remove the label",
        )
    if all(_number(key) >= 0 for key in value) and all(_whole(entry) is None for entry in value.values()):
        value = {str(name): int(key) for key, name in value.items()}  # as version 1 of nnU-Net had it
    labels = {str(name): _whole(entry) for name, entry in value.items()}
    numbers = [number for number in labels.values() if number is not None and number >= 0]
    if len(set(numbers)) != len(value) or 0 not in numbers or len(numbers) < 2:
        raise DetSeg3DError(
            "the labels must be different whole numbers: 0 for the background and at least one lesion class",
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
    """Return the spacing of .npy files from ``default_spacing``; ``None`` if it is not stated."""
    value = data.get("default_spacing")
    if value is None:
        return None
    try:
        z, y, x = (float(entry) for entry in value)
    except (TypeError, ValueError):
        z = y = x = 0.0
    if not (0 < z < 1e6 and 0 < y < 1e6 and 0 < x < 1e6):
        raise DetSeg3DError('"default_spacing" must be three positive numbers, z y x in mm', file=file, value=value)
    return z, y, x


def parse_suv_channels(data: Mapping[str, Any], channel_names: Sequence[str], file: Path) -> tuple[str, ...]:
    """Names of the channels whose values are SUV, from ``suv``."""
    value = data.get("suv", [])
    if not isinstance(value, list) or not all(isinstance(name, str) and name in channel_names for name in value):
        raise DetSeg3DError(
            '"suv" must be a list of names of channels',
            file=file,
            value=value,
            expected=f"some of {list(channel_names)}",
        )
    return tuple(name for name in channel_names if name in value)


def parse_patients(data: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Patient of each case that ``patients`` names."""
    value = data.get("patients", {})
    if not isinstance(value, dict) or not all(type(patient) in (str, int) for patient in value.values()):
        raise DetSeg3DError(
            '"patients" must map cases to patients', file=file, value=value, expected='{"CASE": "PATIENT"}'
        )
    return {case: str(patient) for case, patient in value.items()}


def parse_training_list(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the cases that a ``training`` list names, as version 1 of nnU-Net and other programs write it.

    Parameters
    ----------
    data : mapping
        Content of a dataset.json. An entry of the list is a path, or an object with ``label``, ``image`` or both.

    Returns
    -------
    tuple of str or None
        Names of files without folder and ending; that of the label if there is one. ``None`` if there is no list, or
        one that cannot be understood.

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
    """Whether a dataset.json is of version 1 of nnU-Net or of the Medical Segmentation Decathlon."""
    return "file_ending" not in data and bool({"modality", "tensorImageSize", "training"} & set(data))
