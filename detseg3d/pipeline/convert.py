"""Two plain folders, one of images and one of labels, become a data set in nnU-Net's layout."""

from __future__ import annotations

import functools
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.names import named_like, normal_name
from detseg3d.data.dataset import RawCase, images_by_stem, list_cases
from detseg3d.data.dataset_json import parse_labels
from detseg3d.data.folders import RawFolder
from detseg3d.data.formats.metaimage import is_whole_metaimage
from detseg3d.data.formats.nrrd import read_nrrd_header
from detseg3d.data.formats.slicer_segmentation import read_segments
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending, read_geometry, read_image, read_label_array, write_image
from detseg3d.data.instance_classes import InstanceClasses, instance_class_record, parse_instance_classes
from detseg3d.data.roots import check_case_id, check_dataset_name
from detseg3d.system.files import copy_file, remove_stale, replace_folder, temporary_beside
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["convert_folders"]

logger = logging.getLogger(__name__)


# More values than this without names are most probably instance numbers.
_MANY_VALUES = 15
_CHANNEL = re.compile(r".+_\d{4}", re.DOTALL)
_MADE_BY = "detseg3d_convert"


def convert_folders(
    image_folder: str | Path,
    label_folder: str | Path,
    output_folder: str | Path,
    dataset_name: str = "Dataset001_Converted",
    *,
    test_split: float = 0.0,
    seed: int = 0,
    channel_names: Sequence[str] | None = None,
    labels: Mapping[str, int] | Sequence[str] | None = None,
    spacing: Spacing | None = None,
    series: str | None = None,
    suv: Sequence[str] = (),
    instances: bool = False,
    overwrite: bool = False,
    run: Run = Run(),
) -> Path:
    """Make a data set of a folder of images and a folder of labels.

    Images are ``CASE.nii.gz`` (one channel) or ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, … (several); any supported
    format or one subfolder per DICOM series. The label of a case has the case's name. Files are copied, so that a label
    corrected in the data set leaves the original as it is; they are written anew only to bring all to one format (.mhd,
    whose voxels lie in a second file, becomes .mha), and where a label is a segmentation of 3D Slicer, which is put on
    the grid of its image (:mod:`detseg3d.data.formats.slicer_segmentation`). A failed or interrupted run leaves no
    half-made data
    set.

    Parameters
    ----------
    image_folder, label_folder : path
    output_folder : path
        The data set becomes a subfolder of it.
    dataset_name : str, optional
        ``DatasetXXX_Name``.
    test_split : float, optional
        Share of the cases that is held out in ``imagesTs`` and ``labelsTs``, drawn by ``seed``; at least one case if
        not 0.
    seed : int, optional
    channel_names : sequence of str, optional
        ``channel_0``, ``channel_1``, … by default. The name "CT" chooses CT normalisation.
    labels : mapping or sequence, optional
        Names of the lesion classes: name to value, or the names alone in the order of their values. By default the
        values found get the names ``lesion``, or ``lesion_1``, ``lesion_2``, ….
    spacing : 3 floats, optional
        Voxel size ``(z, y, x)`` in mm of .npy files; 1 by default.
    series : str, optional
        Series to read from DICOM folders; see :class:`~detseg3d.data.image_source.ImageSource`.
    suv : sequence of str, optional
        Names of channels whose PET is converted to SUV if it is DICOM. dataset.json lists them.
    instances : bool, optional
        Labels are instance maps: each value is one lesion. With several ``labels``, a ``CASE.json`` beside each label
        states the class of each lesion, as in nnDetection (:mod:`detseg3d.data.instance_classes`).
    overwrite : bool, optional
        Replace a data set of this name that was converted before.
    run : Run, optional

    Returns
    -------
    Path
        The data set folder.

    Raises
    ------
    DetSeg3DError
        If images and labels do not match (all mismatches in one table), labels cannot be used, or the data set exists.
    """
    if not 0 <= test_split < 1:
        raise DetSeg3DError("the test split must be at least 0 and less than 1", value=test_split)
    spacing = _checked_spacing(spacing)
    target = Path(output_folder) / check_dataset_name(dataset_name)
    _require_free(target, overwrite)
    cases = _matched_cases(Path(image_folder), Path(label_folder), channel_names)
    channels = _channel_names(channel_names, len(cases[0].images))
    unknown = sorted(set(suv) - set(channels))
    if unknown:
        raise DetSeg3DError(
            "there is no channel of this name to convert to SUV", value=unknown, expected=f"some of {channels}"
        )
    cases = tuple(_read_as(case, spacing, series, [name in suv for name in channels]) for case in cases)
    segment_values = None if instances else _segment_values(cases, labels)
    if labels is None:
        labels = segment_values
    values = _label_values(cases, functools.partial(_values_of, names=segment_values), run)
    names = _label_names(values, labels, instances, Path(label_folder))
    classes = parse_instance_classes({}, names, Path(label_folder), instances)
    ending = _common_ending(cases)
    test_cases = _draw_test_cases([case.case_id for case in cases], test_split, seed)
    description: dict[str, Any] = {
        "name": dataset_name.split("_", 1)[1],
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": names,
        "numTraining": len(cases) - len(test_cases),
        "file_ending": ending,
        "made_by": _MADE_BY,
    }
    if instances:
        description["instances"] = True
    if suv:
        description["suv"] = [name for name in channels if name in suv]
    if ending == ".npy":
        description["default_spacing"] = list(spacing)
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
            )
            for case in cases
        ]
        results = run_cases(_place_case, jobs, run, "convert")
        failures = describe_failures(results, lambda job: job.case.case_id)
        if failures:
            raise DetSeg3DError(f"some cases cannot be converted:\n{failures}", file=image_folder)
        write_json(description, RawFolder(partial).dataset_json)
        if target.exists():
            earlier = temporary_beside(target)
            replace_folder(target, partial, earlier)
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s: %d training and %d test cases", target, len(cases) - len(test_cases), len(test_cases))
    return target


def _read_as(case: RawCase, spacing: Spacing, series: str | None, suv: Sequence[bool]) -> RawCase:
    """Return the case with the spacing of its .npy files, and with how its DICOM folders are read."""
    images = tuple(
        replace(image, spacing=spacing, series=series if image.path.is_dir() else None, suv=flag)
        for image, flag in zip(case.images, suv, strict=True)
    )
    return replace(case, images=images, label=None if case.label is None else replace(case.label, spacing=spacing))


def _checked_spacing(spacing: Sequence[float] | None) -> Spacing:
    if spacing is None:
        return 1.0, 1.0, 1.0
    if len(spacing) != 3 or not all(np.isfinite(value) and value > 0 for value in spacing):
        raise DetSeg3DError("the spacing must be three positive numbers, z y x in mm", value=list(spacing))
    z, y, x = (float(value) for value in spacing)
    return z, y, x


def _require_free(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    record = RawFolder(target).dataset_json
    # Only what this function made may be removed: a data set can be the only copy of somebody's annotations.
    ours = record.is_file() and isinstance(data := read_json(record), dict) and data.get("made_by") == _MADE_BY
    if overwrite and ours:
        return
    raise DetSeg3DError(
        "the data set exists already" + (" and was not made by this command" if overwrite else ""),
        file=target,
        remedy="choose another name" + (" or remove the folder" if overwrite or not ours else " or use --overwrite"),
    )


def _matched_cases(image_folder: Path, label_folder: Path, channel_names: Sequence[str] | None) -> tuple[RawCase, ...]:
    """Images and labels of the same name; raises one table of all that lack a partner."""
    for folder, what in ((image_folder, "images"), (label_folder, "labels")):
        if not folder.is_dir():
            raise DetSeg3DError(f"the folder of {what} does not exist", file=folder, remedy="check the path")
    image_stems = images_by_stem(image_folder)
    label_stems = named_like(images_by_stem(label_folder), image_stems)
    if not image_stems:
        list_cases(image_folder, 1)  # raises, saying what lies there
    by_name = _named_alike(set(map(normal_name, image_stems)), set(map(normal_name, label_stems)))
    channel_count = 1 if by_name else _channel_count(set(image_stems))
    if channel_names is not None and len(channel_names) != channel_count:
        raise DetSeg3DError(
            f"{len(channel_names)} channel name(s) for {channel_count} channel(s)", value=list(channel_names)
        )
    if by_name:
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
        table = "\n".join(f"    {name:<{width}}{what}" for name, what in sorted(rows))
        raise DetSeg3DError(
            f"images and labels do not match ({len(rows)} without a partner, {len(known)} images):\n{table}",
            file=image_folder,
            expected="a label CASE.nii.gz for each image CASE.nii.gz, or for the channels CASE_0000.nii.gz, …",
            remedy="rename, add or remove these files",
        )
    return cases


def _named_alike(images: set[str], labels: set[str]) -> bool:
    """Whether labels have the very names of the images, so that final digits are no channel numbers (scan_0001)."""
    cases = {stem[:-5] for stem in images if _CHANNEL.fullmatch(stem)}
    return len(images & labels) > len(cases & labels)


def _channel_count(images: set[str]) -> int:
    """Channels per case, from names that end in a channel number."""
    numbers = [int(stem[-4:]) for stem in images if _CHANNEL.fullmatch(stem)]
    return 1 + max(numbers) if 0 in numbers else 1


def _segment_values(
    cases: Sequence[RawCase], labels: Mapping[str, int] | Sequence[str] | None
) -> Mapping[str, int] | None:
    """Value of each segment of 3D Slicer by its name; ``None`` where the files' own label values count.

    Given names decide. Without them a name must have the same label value in all files, and a value the same name.
    """
    if isinstance(labels, Mapping):
        return labels
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
                    remedy="name the classes: --labels NAME=VALUE for each; segments are then told by their names",
                )
    if labels is not None:
        # Names alone, in the order of their values.
        by_name = {name: value for value, name in enumerate(labels, start=1)}
        return by_name if found and found.keys() <= by_name.keys() else None
    return {name: value for name, (value, _) in found.items()} if found and not plain else None


def _values_of(case: RawCase, names: Mapping[str, int] | None) -> dict[int, int]:
    assert case.label is not None
    label, _ = read_label_array(case.label, names)
    values, counts = np.unique(label, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _label_values(cases: Sequence[RawCase], values_of: Callable[[RawCase], dict[int, int]], run: Run) -> dict[int, str]:
    """All values found in the labels but 0, and a case that has each."""
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
    """The entry ``labels`` of dataset.json."""
    if not values:
        raise DetSeg3DError("no label holds a lesion: all values are 0", file=folder)
    if min(values) < 0:
        raise DetSeg3DError("a label has negative values", file=folder, value={min(values): values[min(values)]})
    if instances:
        named = labels if isinstance(labels, Mapping) else {name: 1 + i for i, name in enumerate(labels or ["lesion"])}
        named = {name: int(value) for name, value in named.items() if value != 0 and name != "background"}
        return parse_labels({"labels": {"background": 0, **named}}, folder)
    if labels is None:
        if len(values) > _MANY_VALUES:
            raise DetSeg3DError(
                f"the labels hold {len(values)} different values",
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
            "the labels hold values without a name" if unknown else "two classes have the same value",
            file=folder,
            value=", ".join(f"{value} (first in {case})" for value, case in unknown.items()) or dict(named),
            expected=f"names for {list(values)}",
            remedy="give NAME=VALUE for each class",
        )
    return {"background": 0, **named}


def _channel_names(names: Sequence[str] | None, count: int) -> list[str]:
    return [f"channel_{index}" for index in range(count)] if names is None else [str(name) for name in names]


def _common_ending(cases: Sequence[RawCase]) -> str:
    """The ending of most images; .npy only if all are, since it loses the geometry."""
    endings = Counter(
        ".nii.gz" if image.path.is_dir() else file_ending(image.path) for case in cases for image in case.images
    )
    if len(endings) > 1:
        del endings[".npy"]
    ending = endings.most_common(1)[0][0]
    assert ending is not None
    return ".mha" if ending == ".mhd" else ending


def _draw_test_cases(case_ids: Sequence[str], share: float, seed: int) -> set[str]:
    if share == 0:
        return set()
    count = max(1, round(share * len(case_ids)))
    if count >= len(case_ids):
        raise DetSeg3DError(
            f"{len(case_ids)} case(s) are too few to hold out a share of {share:g} and keep one for training",
            remedy="add cases or do without --test_split",
        )
    order = np.random.default_rng(seed).permutation(len(case_ids))
    return {sorted(case_ids)[index] for index in order[:count]}


@dataclass(frozen=True)
class _Job:
    """Where the files of a case go."""

    case: RawCase
    folder: Path
    part: str
    ending: str
    segment_values: Mapping[str, int] | None = None
    instance_classes: InstanceClasses | None = None


def _place_case(job: _Job) -> None:
    images, labels = job.folder / f"images{job.part}", job.folder / f"labels{job.part}"
    case_id, ending = job.case.case_id, job.ending
    for channel, image in enumerate(job.case.images):
        _place_file(image, images / f"{case_id}_{channel:04d}{ending}", None)
    label_source = job.case.label
    assert label_source is not None
    if job.instance_classes is not None:
        write_json(instance_class_record(job.instance_classes.of_case(label_source.path)), labels / f"{case_id}.json")
    if file_ending(label_source.path) == ".nrrd" and read_segments(label_source.path):
        label, geometry = read_label_array(label_source, job.segment_values, job.case.images[0])
        write_image(label, geometry, labels / f"{case_id}{ending}")
        return
    # A label without a place of its own (.npy) lies where its image lies.
    grid = None
    if file_ending(label_source.path) == ".npy" and ending != ".npy":
        grid = read_geometry(job.case.images[0])
    _place_file(label_source, labels / f"{case_id}{ending}", grid)


def _is_whole(source: Path) -> bool:
    """Whether a file can be copied alone: its voxels do not lie in a second one."""
    ending = file_ending(source)
    if ending == ".nrrd":
        return read_nrrd_header(source).is_whole
    return ending != ".mha" or is_whole_metaimage(source)


def _place_file(source: ImageSource, target: Path, grid: Geometry | None) -> None:
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
