"""Raw data sets in nnU-Net's layout, and folders of scans to predict.

A data set is a folder ``DatasetXXX_Name`` with ``dataset.json``, ``imagesTr`` and ``labelsTr``. Each channel has one
file (``CASE_0000.nii.gz``) and each case one label (``CASE.nii.gz``). DetSeg3D adds optional keys to dataset.json:

- ``instances``: the labels are instance maps.
- ``patients``: the patient of each case, so that folds never split a patient.
- ``default_spacing``: the spacing ``z y x`` of .npy files in mm.
- ``suv``: the channels with SUV values. DICOM images are converted to SUV.
- ``codes``: the codes of finding and site of each class, for DICOM results.
- ``instance_classes`` and ``instance_classes_from``: the classes of the lesions of instance maps, see
  :mod:`detseg3d.data.instance_classes`.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detseg3d.core.arrays import Spacing
from detseg3d.core.codes import ClassCodes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like, normal_name
from detseg3d.data.dataset_json import (
    is_version_1,
    parse_channel_names,
    parse_codes,
    parse_default_spacing,
    parse_labels,
    parse_patients,
    parse_suv_channels,
    parse_training_list,
)
from detseg3d.data.folders import PredictionFolder, RawFolder
from detseg3d.data.formats.dicom import DICOM_ENDINGS, is_dicom_file
from detseg3d.data.formats.endings import segmentation_stem, unread_format, unread_images
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import SUPPORTED_ENDINGS, file_ending, is_dicom_folder, strip_ending
from detseg3d.data.instance_classes import InstanceClasses, parse_instance_classes
from detseg3d.data.roots import check_case_id
from detseg3d.system.files import check_regular_file, open_regular_file
from detseg3d.system.json_files import read_json

__all__ = [
    "RawCase",
    "RawDataset",
    "as_instance_maps",
    "cases_without_images",
    "check_input",
    "images_by_stem",
    "list_cases",
    "list_inputs",
    "load_raw_dataset",
    "read_description",
]

logger = logging.getLogger(__name__)

_MAX_BYTES = 64 << 20  # a dataset.json may list its cases
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


@dataclass(frozen=True)
class RawCase:
    """One case of a raw data set.

    Attributes
    ----------
    case_id : str
    images : tuple of ImageSource
        One image per channel, in channel order.
    label : ImageSource or None
        ``None`` for a case without label.
    """

    case_id: str
    images: tuple[ImageSource, ...]
    label: ImageSource | None = None

    @classmethod
    def of_files(cls, case_id: str, images: Iterable[Path], label: Path | None = None) -> RawCase:
        """Return a case from the paths of its files."""
        return cls(case_id, tuple(map(ImageSource, images)), None if label is None else ImageSource(label))


@dataclass(frozen=True)
class RawDataset:
    """Raw data set, as described by its dataset.json and folders; see :func:`load_raw_dataset`.

    Attributes
    ----------
    folder : Path
    name : str
        Name of the folder, ``DatasetXXX_Name``.
    channel_names : tuple of str
    labels : dict of str to int
        Value of each label, including the background.
    file_ending : str
    cases : tuple of RawCase
        Training cases, sorted by id.
    instances : bool
        The labels are instance maps.
    default_spacing : 3 floats or None
        Spacing ``(z, y, x)`` of .npy files in mm.
    suv_channels : tuple of str
        Names of the channels with SUV values.
    patients : dict of str to str
        Patient of each case that dataset.json lists.
    instance_classes : InstanceClasses or None
        Source of the classes of the lesions in instance maps.
    codes : dict of str to ClassCodes
        Codes of finding and site of the classes that dataset.json lists.
    """

    folder: Path
    name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    file_ending: str
    cases: tuple[RawCase, ...]
    instances: bool = False
    default_spacing: Spacing | None = None
    suv_channels: tuple[str, ...] = ()
    patients: dict[str, str] = field(default_factory=dict)
    instance_classes: InstanceClasses | None = None
    codes: dict[str, ClassCodes] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the lesion classes, by ascending label value."""
        return tuple(sorted((name for name, value in self.labels.items() if value != 0), key=self.labels.__getitem__))

    @property
    def class_labels(self) -> tuple[int, ...]:
        """Label value of each class of :attr:`class_names`."""
        return tuple(self.labels[name] for name in self.class_names)

    @property
    def label_files(self) -> dict[str, Path]:
        """Label file of each labelled case. With the entry ``dataset``, the file may lie in any folder."""
        return {case.case_id: case.label.path for case in self.cases if case.label is not None}

    def patient_of(self, case_id: str) -> str:
        """Return the patient of a case; by default, each case is a separate patient."""
        return self.patients.get(case_id, case_id)


def load_raw_dataset(folder: str | Path) -> RawDataset:
    """Read dataset.json and list the training cases.

    Deviations of existing data sets are accepted: a wrong ``numTraining``, unknown keys, ``modality`` instead of
    ``channel_names``, labels as ``{"1": "lesion"}`` and numbers as text. Files are listed but not opened. A case may
    lack a channel or a label; :func:`detseg3d.data.verify.verify_dataset` reports such cases.

    Parameters
    ----------
    folder : path
        ``DatasetXXX_Name``.

    Raises
    ------
    DetSeg3DError
        If dataset.json is missing or incomplete, if it uses an ``ignore`` label or region-based labels, which are not
        supported, or if there is no training case.
    """
    folder = Path(folder)
    raw = RawFolder(folder)
    file = raw.dataset_json
    if not folder.is_dir():
        raise DetSeg3DError("the data set folder does not exist", file=folder, remedy="check the path")
    data, channels, labels = read_description(file)
    instances = data.get("instances", False)
    if not isinstance(instances, bool):
        raise DetSeg3DError('"instances" must be true or false', file=file, value=instances)
    ending = data.get("file_ending")
    if is_version_1(data):
        raise DetSeg3DError(
            '"file_ending" is missing: this is a dataset.json of version 1 of nnU-Net',
            file=file,
            expected="one of " + " ".join(SUPPORTED_ENDINGS),
            remedy='add "file_ending", such as ".nii.gz"; with one channel, images may be named CASE.nii.gz or '
            "CASE_0000.nii.gz",
        )
    if ending not in SUPPORTED_ENDINGS:
        raise DetSeg3DError(
            '"file_ending" is not supported' if ending is not None else '"file_ending" is missing',
            file=file,
            value=ending,
            expected="one of " + " ".join(SUPPORTED_ENDINGS),
        )
    if "dataset" in data:
        cases = _listed_cases(data["dataset"], folder, file)
    else:
        cases = list_cases(raw.training_images, len(channels), ending, raw.training_labels, complete=False)
        _compare_with_list(data, cases, file)
    if not cases:
        raise _unnumbered(raw.training_images, channels, ending)
    spacing, suv_channels = parse_default_spacing(data, file), parse_suv_channels(data, channels, file)
    classes = parse_instance_classes(data, labels, file, instances)
    _warn_of_unknown_cases(classes, cases, folder)
    return RawDataset(
        folder=folder,
        name=folder.name,
        channel_names=channels,
        labels=labels,
        file_ending=ending,
        cases=tuple(_read_as(case, spacing, [name in suv_channels for name in channels]) for case in cases),
        instances=instances,
        default_spacing=spacing,
        suv_channels=suv_channels,
        patients=_known_patients(parse_patients(data, file), file, cases),
        instance_classes=classes,
        codes=parse_codes(data, [name for name, value in labels.items() if value != 0], file),
    )


def _read_as(case: RawCase, spacing: Spacing | None, suv: Sequence[bool]) -> RawCase:
    """Return the case with the spacing of its .npy files, and with the channels to convert to SUV."""
    # The number of images may differ from the number of channels. The verification reports such a case later.
    flags = (*suv, *[False] * len(case.images))
    images = tuple(replace(image, spacing=spacing, suv=flag) for image, flag in zip(case.images, flags, strict=False))
    label = None if case.label is None else replace(case.label, spacing=spacing)
    return replace(case, images=images, label=label)


def as_instance_maps(dataset: RawDataset) -> RawDataset:
    """Return the data set with labels that are read as instance maps, whatever dataset.json states.

    Raises
    ------
    DetSeg3DError
        If the data set has several classes and the classes of the lesions cannot be read.
    """
    if dataset.instances:
        return dataset
    file = RawFolder(dataset.folder).dataset_json
    data, _, labels = read_description(file)
    return replace(dataset, instances=True, instance_classes=parse_instance_classes(data, labels, file, True))


def cases_without_images(dataset: RawDataset) -> list[str]:
    """Return the cases in the table of instance classes that are neither training nor test cases."""
    if dataset.instance_classes is None:
        return []
    return _unknown_cases(dataset.instance_classes, dataset.cases, dataset.folder)


def _unknown_cases(classes: InstanceClasses, cases: Sequence[RawCase], folder: Path) -> list[str]:
    names = {case.case_id for case in cases}
    raw = RawFolder(folder)
    for test_folder in (raw.test_images, raw.test_labels):
        if test_folder.is_dir():
            stems = {strip_ending(entry) for entry in test_folder.iterdir()}
            names |= stems | {_CHANNEL.sub(r"\1", stem) for stem in stems}
    return classes.unknown_cases(names)


def _warn_of_unknown_cases(classes: InstanceClasses | None, cases: Sequence[RawCase], folder: Path) -> None:
    unknown = [] if classes is None else _unknown_cases(classes, cases, folder)
    if classes is not None and unknown:
        logger.warning(
            "%s: the classes of instances are stated for %d case(s) that do not exist: %s",
            classes.file,
            len(unknown),
            unknown[:5],
        )


def _compare_with_list(data: Mapping[str, Any], cases: Sequence[RawCase], file: Path) -> None:
    """Compare the entry ``training`` with the files, because all cases of imagesTr are used for training.

    Raises
    ------
    DetSeg3DError
        If the entry leaves out cases. These cases may be reserved for a test.
    """
    if "training" not in data:
        return
    names = parse_training_list(data)
    if names is None:
        if data["training"]:
            logger.warning('%s: the entry "training" is ignored; all cases of imagesTr are training cases', file)
        return
    listed = set(names) | {match.group(1) for match in map(_CHANNEL.fullmatch, names) if match is not None}
    known = {case.case_id for case in cases}
    left_out = sorted(known - listed)
    if left_out:
        raise DetSeg3DError(
            f'the entry "training" names {len(known) - len(left_out)} of the {len(known)} cases in imagesTr, but all '
            "cases would be used for training",
            file=file,
            value=left_out[:5],
            remedy='move the files of the other cases out of imagesTr and labelsTr, or remove the entry "training" to '
            "train on all cases",
        )
    missing = [name for name in names if not known & {name, _CHANNEL.sub(r"\1", name)}]
    if missing:
        logger.warning(
            '%s: the entry "training" lists %d case(s) that are missing in imagesTr: %s',
            file,
            len(missing),
            missing[:5],
        )


def read_description(file: Path) -> tuple[dict[str, Any], tuple[str, ...], dict[str, int]]:
    """Read a dataset.json.

    Returns
    -------
    content : dict
        The whole content of the file.
    channel_names : tuple of str
        In channel order.
    labels : dict of str to int
        Value of each label, including the background.

    Raises
    ------
    DetSeg3DError
        If the file is missing or incomplete.
    """
    data = read_json(file, _MAX_BYTES)
    if not isinstance(data, dict):
        raise DetSeg3DError("dataset.json does not hold an object", file=file, value=type(data).__name__)
    return data, parse_channel_names(data, file), parse_labels(data, file)


def list_cases(
    folder_of_images: str | Path,
    channel_count: int,
    file_ending: str | None = None,
    label_folder: str | Path | None = None,
    complete: bool = True,
    by_study: bool = False,
) -> tuple[RawCase, ...]:
    """List the cases of a folder of images, sorted by name.

    Files are named ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, …, one per channel. With a single channel, names without
    number (``CASE.nii.gz``) are accepted if no file is numbered ``_0000``. A subfolder with a DICOM series counts as a
    file. A folder that holds the files of one series is one case.

    Parameters
    ----------
    folder_of_images : path
    channel_count : int
    file_ending : str, optional
        Only files with this ending; by default all supported endings.
    label_folder : path, optional
        Folder of the labels (``CASE.nii.gz``). A case without a label has ``label=None``.
    complete : bool, optional
        Raise if a channel is missing or superfluous. If false, missing channels are listed with their expected paths.
    by_study : bool, optional
        Treat a folder as one case if all its subfolders hold DICOM files of one study. A series is chosen later.

    Returns
    -------
    tuple of RawCase
        Sorted by case id.

    Raises
    ------
    DetSeg3DError
        If the folder does not exist or holds no case, if a channel has two files, or if channels are missing and
        ``complete`` is true. The message names all affected cases.
    """
    folder = Path(folder_of_images)
    if not folder.is_dir():
        raise DetSeg3DError("the folder of images does not exist", file=folder, remedy="check the path")
    found = images_by_stem(folder, file_ending)
    if by_study and _is_one_study(found):
        found = {folder.resolve().name: folder}
    if not found:
        raise _no_image(folder, file_ending)
    labels = {} if label_folder is None else _labels_by_case(Path(label_folder), file_ending)
    channels, plain = _channels_by_case(found, channel_count)
    labels = named_like(labels, channels)
    if complete:
        _require_complete(channels, plain, channel_count, folder)
    cases = []
    for case_id in sorted(channels):
        paths = channels[case_id]
        template = next(iter(paths.values()))
        ending = "" if template.is_dir() else template.name[len(strip_ending(template)) :]
        images = [paths.get(c, folder / f"{case_id}_{c:04d}{ending}") for c in range(channel_count)]
        cases.append(RawCase.of_files(check_case_id(case_id), images, labels.get(case_id)))
    return tuple(cases)


def check_input(source: str | Path) -> None:
    """Raise an error if an input cannot hold a scan.

    Call this function before a model is loaded.

    Parameters
    ----------
    source : path
        A file, or a folder of files or of DICOM series.

    Raises
    ------
    DetSeg3DError
        If the input does not exist, cannot be read, is empty, or is not an image or a folder with an image.
    """
    path = Path(source)
    try:
        if path.is_dir():
            if not images_by_stem(path):
                raise _no_image(path, None)
            return
        check_regular_file(path)
        with open_regular_file(path) as handle:
            empty = handle.read(1) == b""
    except FileNotFoundError as error:
        subject = "the folder of images" if file_ending(path) is None else "the image"
        raise DetSeg3DError(f"{subject} does not exist", file=path, remedy="check the path") from error
    except OSError as error:
        raise DetSeg3DError(
            f"the input cannot be read: {error.strerror or error}", file=path, remedy="check its permissions"
        ) from error
    if file_ending(path) is None and not is_dicom_file(path):
        raise unread_format(path) or DetSeg3DError(
            "the file is not an image",
            file=path,
            expected=f"one of {' '.join(SUPPORTED_ENDINGS)}, or a DICOM file with several frames",
        )
    if empty:
        raise DetSeg3DError("the file is empty", file=path, remedy="copy it again from its source")


def list_inputs(source: str | Path, channel_count: int, series: Sequence[str] = ()) -> tuple[RawCase, ...]:
    """List the cases of an input folder or of a single image file.

    Parameters
    ----------
    source : path
    channel_count : int
        Number of channels that the model needs.
    series : sequence of str, optional
        Series to read from DICOM folders. The subfolders of one study are then one case. With one series per channel,
        all channels of a case are read from one folder.

    Returns
    -------
    tuple of RawCase
        Sorted by case id. The cases have no labels.

    Raises
    ------
    DetSeg3DError
        If the input holds no case or if channels are missing.
    """
    path = Path(source)
    check_input(path)
    if path.is_dir() and len(series) > 1:
        cases = list_cases(path, 1, by_study=True)
        return tuple(replace(case, images=case.images * channel_count) for case in cases)
    if path.is_dir():
        return list_cases(path, channel_count, by_study=bool(series))
    if channel_count != 1:
        raise DetSeg3DError(
            f"the model needs {channel_count} channels, but a file holds one channel",
            file=path,
            remedy="give the folder that holds CASE_0000, CASE_0001, …",
        )
    # Do not call list_cases: it would check the other files in the folder, and these may have any names.
    name = path.stem if path.suffix.lower() in DICOM_ENDINGS else strip_ending(path)
    return (RawCase.of_files(check_case_id(name.removesuffix("_0000")), [path]),)


def _no_image(folder: Path, ending: str | None) -> DetSeg3DError:
    others = sorted({_ending(entry) or entry.suffix or entry.name for entry in folder.iterdir()})[:10]
    unread = next((error for path in unread_images(folder) if (error := unread_format(path))), None)
    return DetSeg3DError(
        "there is no image in the folder"
        if unread is None
        else "there is no image of a supported format in the folder",
        file=folder,
        value=others or "an empty folder",
        expected=f"files ending in {ending or ' '.join(SUPPORTED_ENDINGS)}",
        remedy=None if unread is None else unread.remedy,
    )


def _ending(path: Path) -> str | None:
    return file_ending(path)


def images_by_stem(folder: Path, ending: str | None = None) -> dict[str, Path]:
    """Return the images in a folder by name without ending: files, and DICOM series in subfolders.

    If the folder itself holds a DICOM series, the folder is the only image. Images of unsupported formats and
    segmentations of 3D Slicer among the images are left out, with a warning.

    Parameters
    ----------
    folder : Path
    ending : str, optional
        Only files with this ending; by default all supported formats. Series in subfolders are listed in both cases.

    Raises
    ------
    DetSeg3DError
        If two images have the same name, or if a DICOM series lies beside other images.
    """
    found: dict[str, Path] = {}
    known: dict[str, str] = {}
    # Skip hidden files. Files that are still being written are hidden.
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    stems = {strip_ending(entry).removesuffix("_0000") for entry in entries if segmentation_stem(entry) is None}
    # A segmentation beside an image of the same name belongs to that image. Without such an image it may be a label.
    segmentations = [entry for entry in entries if segmentation_stem(entry) in stems]
    _warn_of_left_out(
        folder,
        tuple(path.name for path in unread_images(folder)),
        tuple(path.name for path in segmentations),
    )
    results = PredictionFolder(folder)
    # The DICOM objects of a folder of predictions are results, not a scan.
    left_out = {*segmentations, *([results.dicom_folder] if results.records_folder.is_dir() else [])}
    entries = [entry for entry in entries if entry not in left_out]
    for entry in entries:
        if entry.is_dir() and is_dicom_folder(entry):
            stem = entry.name
        elif _ending(entry) is not None and ending in (None, _ending(entry)):
            # The entry may be a folder with the name of an image. Reading the entry later raises the error.
            stem = strip_ending(entry)
        else:
            continue
        name = normal_name(stem)
        if name in known:
            first = found[known[name]].name
            is_other_form = stem != known[name]
            raise DetSeg3DError(
                f"two images have names that differ only in their Unicode normal form: {first!a} and {entry.name!a}"
                if is_other_form
                else f"two images have the same name with different endings: {first} and {entry.name}",
                file=folder,
                remedy="remove one of them",
            )
        found[stem] = entry
        known[name] = stem
    if ending is not None or not is_dicom_folder(folder, recursive=False):
        return _one_series_in_subfolders(folder, found) if ending is None else found
    if found:
        raise DetSeg3DError(
            "the folder holds a DICOM series and other images",
            file=folder,
            value=sorted(found)[:5],
            remedy="move the series to a separate folder",
        )
    return {folder.resolve().name: folder}


def _one_series_in_subfolders(folder: Path, found: dict[str, Path]) -> dict[str, Path]:
    """Return ``found``, or the folder as one case if its subfolders hold the slices of one series."""
    if len(found) < 2 or not all(path.is_dir() for path in found.values()):
        return found
    from detseg3d.data.formats.dicom.reader import (
        share_series,  # imported here, because importing pydicom takes half a second
    )

    return {folder.resolve().name: folder} if share_series(found.values()) else found


def _is_one_study(found: Mapping[str, Path]) -> bool:
    if len(found) < 2 or not all(path.is_dir() for path in found.values()):
        return False
    from detseg3d.data.formats.dicom.reader import is_one_study

    return is_one_study(found.values())


@functools.lru_cache(maxsize=1000)
def _warn_of_left_out(folder: Path, unread: tuple[str, ...], segmentations: tuple[str, ...]) -> None:
    """Warn about files that are left out, once per folder."""
    if unread:
        error = unread_format(unread[0])
        logger.warning(
            "%s: %d file(s) of unsupported formats are left out: %s%s (%s)",
            folder,
            len(unread),
            ", ".join(unread[:5]),
            ", …" if len(unread) > 5 else "",
            None if error is None else error.remedy,
        )
    if segmentations:
        logger.warning(
            "%s: %d segmentation(s) of 3D Slicer among the images are left out: %s",
            folder,
            len(segmentations),
            ", ".join(segmentations[:5]),
        )


def _channels_by_case(found: Mapping[str, Path], channel_count: int) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Return the files by case and channel, and the names without a channel number."""
    numbered = any(stem.endswith("_0000") for stem in found) or channel_count > 1
    channels: dict[str, dict[int, Path]] = {}
    names: dict[str, str] = {}  # the channels of a case may have names in different normal forms
    plain = []
    for stem, path in found.items():
        match = _CHANNEL.fullmatch(stem) if numbered else None
        if match is not None:
            case_id = names.setdefault(normal_name(match.group(1)), match.group(1))
            channels.setdefault(case_id, {})[int(match.group(2))] = path
        elif numbered:
            plain.append(stem)
        else:
            channels[stem] = {0: path}
    return channels, plain


def _require_complete(
    channels: Mapping[str, Mapping[int, Path]], plain: list[str], channel_count: int, folder: Path
) -> None:
    wanted = set(range(channel_count))
    lines = [f"    {stem}: no channel number" for stem in plain]
    for case_id, paths in sorted(channels.items()):
        for word, numbers in (("missing", wanted - set(paths)), ("superfluous", set(paths) - wanted)):
            if numbers:
                listing = " ".join(f"_{number:04d}" for number in sorted(numbers))
                lines.append(f"    {case_id}: {word} channel {listing}")
    if lines:
        raise DetSeg3DError(
            f"{len(lines)} case(s) have missing or superfluous channels:\n" + "\n".join(lines),
            file=folder,
            expected=", ".join(f"CASE_{c:04d}" for c in range(channel_count)) + " for each case",
            remedy="add, remove or rename these files",
        )


def _unnumbered(folder: Path, channels: tuple[str, ...], ending: str) -> DetSeg3DError:
    """Return the error of a data set with several channels, if the names of its images have no channel numbers."""
    return DetSeg3DError(
        f"there is no case in the folder: no file name holds a number of the {len(channels)} channels",
        file=folder,
        value=[path.name for path in images_by_stem(folder, ending).values()][:5],
        expected=", ".join(f"CASE_{c:04d}{ending} ({name})" for c, name in enumerate(channels)),
        remedy="rename the files",
    )


def _labels_by_case(folder: Path, ending: str | None) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    labels: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        # If a label exists with two endings, the ending of the data set has priority.
        wanted = _ending(entry) is not None and not entry.name.startswith(".") and entry.is_file()
        if wanted and (strip_ending(entry) not in labels or _ending(entry) == ending):
            labels[strip_ending(entry)] = entry
    return labels


def _listed_cases(listing: Any, folder: Path, file: Path) -> tuple[RawCase, ...]:
    """Return the cases of nnU-Net's optional key ``dataset``: ``{case: {"images": [...], "label": ...}}``."""
    cases = []
    try:
        for case_id, entry in sorted(listing.items()):
            if not isinstance(entry["images"], list) or not entry["images"]:
                raise TypeError(f"{case_id} has no list of images")
            images = [folder / str(image) for image in entry["images"]]
            cases.append(RawCase.of_files(check_case_id(case_id), images, folder / str(entry["label"])))
    except (AttributeError, KeyError, TypeError) as error:
        raise DetSeg3DError(
            '"dataset" has another form', file=file, expected='{"CASE": {"images": [...], "label": "..."}}'
        ) from error
    if not cases:
        raise DetSeg3DError('"dataset" lists no case', file=file)
    return tuple(cases)


def _known_patients(patients: dict[str, str], file: Path, cases: tuple[RawCase, ...]) -> dict[str, str]:
    patients = named_like(patients, [case.case_id for case in cases])
    unknown = sorted(set(patients) - {case.case_id for case in cases})
    if unknown:
        logger.warning('%s: "patients" lists %d case(s) that do not exist: %s', file, len(unknown), unknown[:5])
    return patients
