"""Convert a folder of images and a folder of labels to a data set in nnU-Net's layout."""

from __future__ import annotations

import functools
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.names import named_like, normal_name
from detseg3d.data.dataset import RawCase, images_by_stem, list_cases
from detseg3d.data.dataset_json import parse_labels
from detseg3d.data.folders import RawFolder
from detseg3d.data.formats.dicom import is_dicom_file
from detseg3d.data.formats.dicom.segmentation import is_segmentation, read_dicom_segments, segmentation_files
from detseg3d.data.formats.metaimage import is_whole_metaimage
from detseg3d.data.formats.nrrd import read_nrrd_header
from detseg3d.data.formats.slicer_segmentation import read_segments
from detseg3d.data.image_source import ImageSource, SegmentRules
from detseg3d.data.images import file_ending, read_geometry, read_image, read_label_array, write_image
from detseg3d.data.instance_classes import InstanceClasses, instance_class_record, parse_instance_classes
from detseg3d.data.labels import check_same_grid
from detseg3d.data.roots import check_case_id, check_dataset_name
from detseg3d.system.files import copy_file, remove_stale, replace_folder, temporary_beside
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["ConvertOptions", "ScansToConvert", "convert_folders", "convert_scans"]

logger = logging.getLogger(__name__)

# More label values than this are probably numbers of lesions, not classes.
_MAX_CLASSES = 15
_CHANNEL = re.compile(r".+_\d{4}", re.DOTALL)
_MADE_BY = "detseg3d_convert"


@dataclass(frozen=True)
class ConvertOptions:
    """Settings of a conversion.

    Attributes
    ----------
    dataset_name : str
        ``DatasetXXX_Name``.
    test_split : float
        Fraction of the cases that is held out in ``imagesTs`` and ``labelsTs``, at least one case unless it is 0.
    seed : int
        Seed of the draw of the held-out cases.
    channel_names : sequence of str, optional
        By default ``channel_0``, ``channel_1``, …. The name "CT" selects CT normalisation.
    labels : mapping or sequence, optional
        Lesion classes: name to value, or names in the order of their values. By default the values found are named
        ``lesion``, or ``lesion_1``, ``lesion_2``, ….
    spacing : tuple of 3 floats, optional
        Voxel size of .npy files in mm, ``(z, y, x)``. By default 1 mm.
    series : str, optional
        Series to read from DICOM folders, see :class:`~detseg3d.data.image_source.ImageSource`.
    suv : sequence of str
        Channels whose DICOM files of PET are converted to SUV. dataset.json lists them.
    instances : bool
        Labels are instance maps: each value is one lesion. With several ``labels``, a ``CASE.json`` beside each label
        gives the class of each lesion, as in nnDetection (:mod:`detseg3d.data.instance_classes`).
    overwrite : bool
        Replace a data set of this name that was converted before.
    segments : SegmentRules
        Classes of the segments of DICOM segmentations, and the threshold of fractional ones.
    """

    dataset_name: str = "Dataset001_Converted"
    test_split: float = 0.0
    seed: int = 0
    channel_names: Sequence[str] | None = None
    labels: Mapping[str, int] | Sequence[str] | None = None
    spacing: Spacing | None = None
    series: str | None = None
    suv: Sequence[str] = ()
    instances: bool = False
    overwrite: bool = False
    segments: SegmentRules = field(default_factory=SegmentRules)


def convert_folders(
    image_folder: str | Path,
    label_folder: str | Path,
    output_folder: str | Path,
    options: ConvertOptions | None = None,
    run: Run = Run(),
) -> Path:
    """Convert a folder of images and a folder of labels to a data set in nnU-Net's layout.

    Images are ``CASE.nii.gz`` (one channel), or ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, … (several channels), in
    any supported format, or one subfolder per DICOM series. The label of a case has the name of the case.

    Files are copied, so that corrections in the data set do not change the originals. A file is only rewritten to bring
    all files to one format (.mhd becomes .mha, because its voxels lie in a second file), or if a label is a
    segmentation of 3D Slicer or DICOM. A segmentation is put on the grid of its image
    (:mod:`detseg3d.data.formats.slicer_segmentation`, :mod:`detseg3d.data.formats.dicom.segmentation`). A conversion
    that fails leaves no incomplete data set.

    Parameters
    ----------
    image_folder, label_folder : path
    output_folder : path
        The data set becomes a subfolder.
    options : ConvertOptions, optional
    run : Run, optional

    Returns
    -------
    Path
        Folder of the data set.

    Raises
    ------
    DetSeg3DError
        If images and labels do not match (all mismatches in one table), labels cannot be used, or the data set exists.
    """
    options = options or ConvertOptions()
    cases = _matched_cases(Path(image_folder), Path(label_folder), options.channel_names)
    return convert_scans(ScansToConvert(cases, Path(image_folder), Path(label_folder)), output_folder, options, run)


@dataclass(frozen=True)
class ScansToConvert:
    """Scans and labels that become a data set.

    Attributes
    ----------
    labelled : tuple of RawCase
    image_folder, label_folder : Path
        Folders that messages name.
    unlabelled : tuple of RawCase
        Scans without a label. They become test images.
    patients : mapping of str to str
        Patient of each case, for dataset.json. A case without an entry is a separate patient.
    check_grids : bool
        Compare the grids of all images and the label of each case. Planning compares them in any case.
    """

    labelled: tuple[RawCase, ...]
    image_folder: Path
    label_folder: Path
    unlabelled: tuple[RawCase, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)
    check_grids: bool = False

    def read_as(self, channels: Sequence[str], options: ConvertOptions) -> ScansToConvert:
        """Return the scans with the options with which their files are read."""
        labelled = _with_read_options(self.labelled, channels, options)
        return replace(self, labelled=labelled, unlabelled=_with_read_options(self.unlabelled, channels, options))

    @property
    def cases(self) -> tuple[RawCase, ...]:
        """All cases."""
        return (*self.labelled, *self.unlabelled)


def convert_scans(scans: ScansToConvert, output_folder: str | Path, options: ConvertOptions, run: Run = Run()) -> Path:
    """Convert scans and their labels to a data set in nnU-Net's layout, see :func:`convert_folders`.

    All cases of a patient are training cases, or all are test cases.

    Parameters
    ----------
    scans : ScansToConvert
    output_folder : path
        The data set becomes a subfolder.
    options : ConvertOptions
    run : Run, optional

    Returns
    -------
    Path
        Folder of the data set.

    Raises
    ------
    DetSeg3DError
        If labels cannot be used, a case lies on several grids, or the data set exists.
    """
    if not 0 <= options.test_split < 1:
        raise DetSeg3DError("the test split must be at least 0 and less than 1", value=options.test_split)
    target = Path(output_folder) / check_dataset_name(options.dataset_name)
    _require_free(target, options.overwrite)
    channels = _channel_names(options.channel_names, len(scans.cases[0].images))
    scans = scans.read_as(channels, options)
    cases = scans.labelled
    segment_values = None if options.instances else _segment_values(cases, options.labels)
    labels = segment_values if options.labels is None else options.labels
    if cases:
        values = _label_values(cases, functools.partial(_values_of, names=segment_values), run)
        names = _label_names(values, labels, options.instances, scans.label_folder)
    else:
        names = _stated_names(labels or ["lesion"], scans.image_folder)
    classes = parse_instance_classes({}, names, scans.label_folder, options.instances)
    ending = _common_ending(scans.cases)
    test_cases = _draw_test_cases([case.case_id for case in cases], options.test_split, options.seed, scans.patients)
    test_cases |= {case.case_id for case in scans.unlabelled}
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target.parent)
    partial = temporary_beside(target)
    try:
        jobs = [
            _Job(
                case,
                partial,
                "Ts" if case.case_id in test_cases else "Tr",
                ending,
                segment_values,
                classes,
                scans.check_grids,
            )
            for case in scans.cases
        ]
        results = run_cases(_write_case, jobs, run, "convert")
        failures = describe_failures(results, lambda job: job.case.case_id)
        if failures:
            raise DetSeg3DError(f"some cases cannot be converted:\n{failures}", file=scans.image_folder)
        description = _description(channels, names, ending, len(scans.cases) - len(test_cases), options)
        if scans.patients:
            description["patients"] = dict(sorted(scans.patients.items()))
        write_json(description, RawFolder(partial).dataset_json)
        if target.exists():
            earlier = temporary_beside(target)
            replace_folder(target, partial, earlier)
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s: %d training and %d test cases", target, len(scans.cases) - len(test_cases), len(test_cases))
    return target


def _description(
    channels: Sequence[str], names: Mapping[str, int], ending: str, train_cases: int, options: ConvertOptions
) -> dict[str, Any]:
    """Return the content of dataset.json."""
    description: dict[str, Any] = {
        "name": options.dataset_name.split("_", 1)[1],
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": names,
        "numTraining": train_cases,
        "file_ending": ending,
        "made_by": _MADE_BY,
    }
    if options.instances:
        description["instances"] = True
    if options.suv:
        description["suv"] = [name for name in channels if name in options.suv]
    if ending == ".npy":
        description["default_spacing"] = list(_checked_spacing(options.spacing))
    return description


def _with_read_options(
    cases: Sequence[RawCase], channels: Sequence[str], options: ConvertOptions
) -> tuple[RawCase, ...]:
    """Return the cases with the spacing of their .npy files and the options of their DICOM folders."""
    spacing = _checked_spacing(options.spacing)
    unknown = sorted(set(options.suv) - set(channels))
    if unknown:
        raise DetSeg3DError(
            "the channel to convert to SUV does not exist", value=unknown, expected=f"some of {list(channels)}"
        )
    flags = [name in options.suv for name in channels]
    return tuple(_read_as(case, spacing, options.series, flags, options.segments) for case in cases)


def _read_as(
    case: RawCase, spacing: Spacing, series: str | None, suv: Sequence[bool], segments: SegmentRules
) -> RawCase:
    """Return the case with the spacing of its .npy files and the options of its DICOM folders."""
    images = tuple(
        replace(image, spacing=spacing, series=series if image.path.is_dir() else None, suv=flag)
        for image, flag in zip(case.images, suv, strict=True)
    )
    label = None if case.label is None else replace(case.label, spacing=spacing, segments=segments)
    return replace(case, images=images, label=label)


def _checked_spacing(spacing: Sequence[float] | None) -> Spacing:
    """Return the spacing if it is valid; 1 mm by default."""
    if spacing is None:
        return 1.0, 1.0, 1.0
    if len(spacing) != 3 or not all(np.isfinite(value) and value > 0 for value in spacing):
        raise DetSeg3DError(
            "the spacing is not valid", value=list(spacing), expected="three positive numbers, z y x in mm"
        )
    z, y, x = (float(value) for value in spacing)
    return z, y, x


def _require_free(target: Path, overwrite: bool) -> None:
    """Raise an error if the target exists and must not be replaced."""
    if not target.exists():
        return
    record = RawFolder(target).dataset_json
    # Only converted data sets may be removed: another data set may be the only copy of its annotations.
    is_converted = record.is_file() and isinstance(data := read_json(record), dict) and data.get("made_by") == _MADE_BY
    if overwrite and is_converted:
        return
    raise DetSeg3DError(
        "the data set exists already" + (" and was not made by this command" if overwrite else ""),
        file=target,
        remedy="choose another name"
        + (" or remove the folder" if overwrite or not is_converted else " or use --overwrite"),
    )


def _matched_cases(image_folder: Path, label_folder: Path, channel_names: Sequence[str] | None) -> tuple[RawCase, ...]:
    """Return the cases, or raise an error with a table of all files without a partner."""
    for folder, content in ((image_folder, "images"), (label_folder, "labels")):
        if not folder.is_dir():
            raise DetSeg3DError(f"the folder of {content} does not exist", file=folder, remedy="check the path")
    image_stems = images_by_stem(image_folder)
    label_stems = named_like(_labels_by_stem(label_folder), image_stems)
    if not image_stems:
        list_cases(image_folder, 1)  # raises an error that names the files of the folder
    same_names = _have_same_names(set(map(normal_name, image_stems)), set(map(normal_name, label_stems)))
    channel_count = 1 if same_names else _channel_count(set(image_stems))
    if channel_names is not None and len(channel_names) != channel_count:
        raise DetSeg3DError(
            f"{len(channel_names)} channel name(s) for {channel_count} channel(s)", value=list(channel_names)
        )
    if same_names:
        cases = tuple(
            RawCase.of_files(check_case_id(stem), [path], label_stems.get(stem))
            for stem, path in sorted(image_stems.items())
        )
    else:
        found = list_cases(image_folder, channel_count)
        label_stems = named_like(label_stems, [case.case_id for case in found])
        cases = tuple(
            RawCase.of_files(case.case_id, [image.path for image in case.images], label_stems.get(case.case_id))
            for case in found
        )
    rows = [(case.images[0].name, "has no label") for case in cases if case.label is None]
    known = {case.case_id for case in cases}
    rows += [(path.name, "is a label without an image") for stem, path in label_stems.items() if stem not in known]
    if rows:
        width = max(len(name) for name, _ in rows) + 2
        table = "\n".join(f"    {name:<{width}}{problem}" for name, problem in sorted(rows))
        raise DetSeg3DError(
            f"images and labels do not match ({len(rows)} without a partner, {len(known)} images):\n{table}",
            file=image_folder,
            expected="a label CASE.nii.gz for each image CASE.nii.gz, or for the channels CASE_0000.nii.gz, …",
            remedy="rename, add or remove these files",
        )
    return cases


def _labels_by_stem(folder: Path) -> dict[str, Path]:
    """Return the labels of a folder by name: either DICOM segmentations or images of other formats.

    Raises
    ------
    DetSeg3DError
        If the folder holds both, because two labels of one case could then be confused.
    """
    segmentations = segmentation_files(folder)
    if not segmentations:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        objects = [path for path in files if file_ending(path) is None and is_dicom_file(path)]
        if objects and not any(file_ending(path) for path in files):
            raise DetSeg3DError(
                "the folder of labels holds DICOM files that are not segmentations",
                file=objects[0],
                value=f"{len(objects)} file(s), such as {objects[0].name}",
                expected="DICOM segmentations (SEG), or labels in another format",
                remedy="remove reports and other objects, or export the segmentations",
            )
        return images_by_stem(folder)
    others = sorted(path.name for path in folder.iterdir() if file_ending(path) is not None)
    if others:
        raise DetSeg3DError(
            "the folder of labels holds DICOM segmentations and labels of other formats",
            file=folder,
            value=others[:5],
            expected="labels of one kind",
            remedy="put the labels of one kind into a separate folder",
        )
    return segmentations


def _is_segmentation(label: Path) -> bool:
    """Return whether a label consists of named segments, so that it must be read with its image."""
    if file_ending(label) == ".nrrd":
        return bool(read_segments(label))
    return _is_dicom(label)


def _is_dicom(label: Path) -> bool:
    return file_ending(label) is None and label.is_file() and is_segmentation(label)


def _have_same_names(images: set[str], labels: set[str]) -> bool:
    """Return whether labels have the full names of images. Digits at the end (scan_0001) are then not channels."""
    cases = {stem[:-5] for stem in images if _CHANNEL.fullmatch(stem)}
    return len(images & labels) > len(cases & labels)


def _channel_count(images: set[str]) -> int:
    """Return the number of channels of a case from names that end in a channel number."""
    numbers = [int(stem[-4:]) for stem in images if _CHANNEL.fullmatch(stem)]
    return 1 + max(numbers) if 0 in numbers else 1


def _segment_values(
    cases: Sequence[RawCase], labels: Mapping[str, int] | Sequence[str] | None
) -> Mapping[str, int] | None:
    """Return the value of each segment by the name of its class; ``None`` if the label values of the files are used.

    With ``labels``, their names decide. Without them, each name must have one value in all files, and each value one
    name.
    """
    if isinstance(labels, Mapping):
        return labels
    dicom = [case.label for case in cases if case.label is not None and _is_dicom(case.label.path)]
    if dicom:
        # Segments of DICOM are numbered in each file anew, so only their names identify a class.
        classes = {s.class_name for label in dicom for s in read_dicom_segments(label.path, label.segments)}
        return {name: value for value, name in enumerate(labels or sorted(classes), start=1)}
    found: dict[str, tuple[int, Path]] = {}
    plain = False
    for path in (case.label.path for case in cases if case.label is not None):
        segments = read_segments(path) if file_ending(path) == ".nrrd" else ()
        plain |= not segments
        for segment in segments:
            value, first = found.setdefault(segment.name, (segment.value, path))
            same_value = [name for name, (other, _) in found.items() if other == segment.value and name != segment.name]
            if labels is None and (value != segment.value or same_value):
                raise DetSeg3DError(
                    "a segment has another label value than in another file"
                    if value != segment.value
                    else "two segments of different names have the same label value",
                    file=path,
                    value=f"{segment.name}: {segment.value}",
                    expected=f"{segment.name}: {value}, as in {first}"
                    if value != segment.value
                    else f"another value than {same_value[0]} has in {found[same_value[0]][1]}",
                    remedy="give --labels NAME=VALUE for each class; segments are then identified by their names",
                )
    if labels is not None:
        # Names without values are in the order of their values.
        by_name = {name: value for value, name in enumerate(labels, start=1)}
        return by_name if found and found.keys() <= by_name.keys() else None
    return {name: value for name, (value, _) in found.items()} if found and not plain else None


def _values_of(case: RawCase, names: Mapping[str, int] | None) -> dict[int, int]:
    """Return the values of a label and their numbers of voxels."""
    assert case.label is not None
    beside = case.images[0] if _is_dicom(case.label.path) else None
    label, _ = read_label_array(case.label, names, beside)
    values, counts = np.unique(label, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _label_values(cases: Sequence[RawCase], values_of: Callable[[RawCase], dict[int, int]], run: Run) -> dict[int, str]:
    """Return all values of the labels except 0, each with the first case that contains it."""
    results = run_cases(values_of, cases, run, "read labels")
    failures = describe_failures(results, lambda case: case.case_id)
    if failures:
        raise DetSeg3DError(f"some labels cannot be used:\n{failures}")
    found: dict[int, str] = {}
    for result in results:
        for value in result.value or ():
            found.setdefault(value, result.item.case_id)
    found.pop(0, None)
    return dict(sorted(found.items()))


def _label_names(
    values: Mapping[int, str], labels: Mapping[str, int] | Sequence[str] | None, instances: bool, folder: Path
) -> dict[str, int]:
    """Return the entry ``labels`` of dataset.json."""
    if not values:
        raise DetSeg3DError("the labels contain no lesion: all values are 0", file=folder)
    if min(values) < 0:
        raise DetSeg3DError("a label has negative values", file=folder, value={min(values): values[min(values)]})
    if instances:
        return _stated_names(labels or ["lesion"], folder)
    if labels is None:
        if len(values) > _MAX_CLASSES:
            raise DetSeg3DError(
                f"the labels have {len(values)} different values",
                file=folder,
                value=list(values)[:5],
                expected="one value per lesion class",
                remedy="add --instances if each value is one lesion, or name the classes with --labels",
            )
        labels = {"lesion" if len(values) == 1 else f"lesion_{value}": value for value in values}
    elif not isinstance(labels, Mapping):
        if len(labels) != len(values):
            raise DetSeg3DError(
                f"{len(labels)} class name(s) for {len(values)} label value(s)",
                value=f"names {list(labels)}, values {list(values)}",
                remedy="give NAME=VALUE for each class",
            )
        labels = dict(zip(labels, values, strict=True))
    named = {name: int(value) for name, value in labels.items() if value != 0 and name != "background"}
    unknown = {value: case for value, case in values.items() if value not in named.values()}
    if unknown or len(set(named.values())) != len(named):
        raise DetSeg3DError(
            "the labels have values without a name" if unknown else "two classes have the same value",
            file=folder,
            value=", ".join(f"{value} (first in {case})" for value, case in unknown.items()) or dict(named),
            expected=f"names for {list(values)}",
            remedy="give NAME=VALUE for each class",
        )
    return {"background": 0, **named}


def _stated_names(labels: Mapping[str, int] | Sequence[str], folder: Path) -> dict[str, int]:
    """Return the entry ``labels`` of dataset.json from the classes alone, without values of voxels."""
    named = labels if isinstance(labels, Mapping) else {name: value for value, name in enumerate(labels, start=1)}
    named = {name: int(value) for name, value in named.items() if value != 0 and name != "background"}
    return parse_labels({"labels": {"background": 0, **named}}, folder)


def _channel_names(names: Sequence[str] | None, count: int) -> list[str]:
    return [f"channel_{index}" for index in range(count)] if names is None else [str(name) for name in names]


def _common_ending(cases: Sequence[RawCase]) -> str:
    """Return the file ending of most images; .npy only if all images have it, because .npy files have no geometry."""
    endings = Counter(
        ".nii.gz" if image.path.is_dir() else file_ending(image.path) for case in cases for image in case.images
    )
    if len(endings) > 1:
        del endings[".npy"]
    ending = endings.most_common(1)[0][0]
    assert ending is not None
    return ".mha" if ending == ".mhd" else ending


def _draw_test_cases(
    case_ids: Sequence[str], fraction: float, seed: int, patients: Mapping[str, str] = MappingProxyType({})
) -> set[str]:
    """Draw the held-out cases: a fraction of the patients, with all their cases."""
    if fraction == 0:
        return set()
    groups = sorted({patients.get(case_id, case_id) for case_id in case_ids})
    count = max(1, round(fraction * len(groups)))
    if count >= len(groups):
        raise DetSeg3DError(
            f"{len(groups)} {'patient' if patients else 'case'}(s) are too few to hold out a fraction of {fraction:g} "
            "and train on the others",
            remedy="add cases, or leave out --test_split",
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    drawn = {groups[index] for index in order[:count]}
    return {case_id for case_id in case_ids if patients.get(case_id, case_id) in drawn}


@dataclass(frozen=True)
class _Job:
    """A case and the place of its files: ``part`` is ``Tr`` or ``Ts``."""

    case: RawCase
    folder: Path
    part: str
    ending: str
    segment_values: Mapping[str, int] | None = None
    instance_classes: InstanceClasses | None = None
    check_grids: bool = False


def _write_case(job: _Job) -> None:
    """Write images and label of a case."""
    if job.check_grids:
        _check_grids(job.case)
    images, labels = job.folder / f"images{job.part}", job.folder / f"labels{job.part}"
    case_id, ending = job.case.case_id, job.ending
    for channel, image in enumerate(job.case.images):
        _write_file(image, images / f"{case_id}_{channel:04d}{ending}", None)
    label_source = job.case.label
    if label_source is None:
        return
    if job.instance_classes is not None:
        write_json(instance_class_record(_instance_classes(job, label_source)), labels / f"{case_id}.json")
    if _is_segmentation(label_source.path):
        label, geometry = read_label_array(label_source, job.segment_values, job.case.images[0])
        write_image(label, geometry, labels / f"{case_id}{ending}")
        return
    # A label without geometry (.npy) gets the geometry of its image.
    grid = None
    if file_ending(label_source.path) == ".npy" and ending != ".npy":
        grid = read_geometry(job.case.images[0])
    _write_file(label_source, labels / f"{case_id}{ending}", grid)


def _check_grids(case: RawCase) -> None:
    """Raise an error if an image or the label lies on another grid than the first image."""
    first, *others = case.images
    grid = read_geometry(first)
    for image in others:
        check_same_grid(grid, read_geometry(image), (first.path, image.path), "two channels")
    if case.label is not None:
        check_same_grid(grid, read_geometry(case.label), (first.path, case.label.path), "image and label")


def _instance_classes(job: _Job, label: ImageSource) -> dict[int, int]:
    """Return the index of the class of each lesion of an instance map.

    Raises
    ------
    DetSeg3DError
        If the classes are not stated, or a segment of a DICOM segmentation has an unknown class.
    """
    assert job.instance_classes is not None
    if not _is_dicom(label.path):
        return job.instance_classes.of_case(label.path)
    indices = {name.strip().casefold(): index for index, name in enumerate(job.instance_classes.names)}
    segments = read_dicom_segments(label.path, label.segments)
    unknown = [f"{s.number}: {s.class_name}" for s in segments if s.class_name.strip().casefold() not in indices]
    if unknown:
        raise DetSeg3DError(
            "segments of the DICOM segmentation do not belong to a class",
            file=label.path,
            value=unknown[:10],
            expected=f"classes among {list(job.instance_classes.names)}",
            remedy="give the class of each segment in a JSON file after --segments",
        )
    return {segment.number: indices[segment.class_name.strip().casefold()] for segment in segments}


def _is_whole(source: Path) -> bool:
    """Return whether a file can be copied alone, because its voxels do not lie in a second file."""
    ending = file_ending(source)
    if ending == ".nrrd":
        return read_nrrd_header(source).is_whole
    return ending != ".mha" or is_whole_metaimage(source)


def _write_file(source: ImageSource, target: Path, grid: Geometry | None) -> None:
    """Copy a file, or convert it if its format must change; ``grid`` replaces its geometry."""
    path = source.path
    if path.is_file() and file_ending(path) == file_ending(target) and _is_whole(path):
        copy_file(path, target)
        return
    array, geometry = read_image(source if grid is None else source.oriented_like(grid))
    if grid is not None:
        if grid.shape != geometry.shape:
            raise DetSeg3DError(
                "label and image differ in size", file=path, value=geometry.shape, expected=str(grid.shape)
            )
        geometry = grid
    write_image(array, geometry, target)
