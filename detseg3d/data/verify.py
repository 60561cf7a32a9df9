"""Check a whole raw data set, and report all problems together."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry, check_spacing
from detseg3d.core.intensities import (
    LARGEST_VALUE,
    Scheme,
    channel_scheme,
    degeneration_of_scan,
    is_image_of_label,
)
from detseg3d.data.dataset import RawCase, RawDataset, cases_without_images
from detseg3d.data.folders import RawFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending, read_image
from detseg3d.data.labels import LabelFormat, lesion_classes, read_label
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["Problem", "format_problems", "verify_dataset"]


@dataclass(frozen=True)
class Problem:
    """One problem of a data set.

    Attributes
    ----------
    case_id : str
        The case, or ``-`` for a problem of the whole data set.
    file : Path or None
    description : str
    stops : bool
        True if the problem prevents the use of the case. If false, the file can be used but may have another meaning
        than intended.
    """

    case_id: str
    file: Path | None
    description: str
    stops: bool = True


@dataclass(frozen=True)
class _Rules:
    """Rules for the cases of a data set."""

    schemes: tuple[Scheme, ...]  # normalisation of each channel
    label_format: LabelFormat


@dataclass(frozen=True)
class _CheckedCase:
    """Problems of a case, and its properties that are compared with other cases."""

    problems: tuple[Problem, ...]
    hashes: tuple[str | None, ...]  # one per channel; None for an unreadable or constant channel
    classes: frozenset[int] | None = None  # class indices of the lesions; None for a label that cannot be used


def verify_dataset(dataset: RawDataset, run: Run = Run(), folds: int = 5) -> list[Problem]:
    """Open every file of a data set and return all problems.

    These problems prevent the use of a data set:

    - missing channels and labels; unreadable, 2D, 4D and colour images;
    - images and labels of one case that differ in size, spacing, origin or direction beyond the tolerance of
      :meth:`detseg3d.core.geometry.Geometry.difference`;
    - NaN and infinite values, and values that are too large for a channel without normalisation;
    - label values that are negative, not whole numbers, or not in dataset.json;
    - lesions of instance maps without a class, and classes without a lesion;
    - the same image in two cases, and files that belong to no case.

    These problems are reported but do not prevent the use:

    - NIfTI files that state two different positions;
    - images without information after normalisation, such as constant images;
    - images that show only the label;
    - classes that occur in fewer cases than there are folds.

    Parameters
    ----------
    dataset : RawDataset
    run : Run, optional
    folds : int, optional
        Number of folds of the cross-validation.

    Returns
    -------
    list of Problem
        Sorted by case; empty if no problem was found.
    """
    rules = _Rules(
        schemes=tuple(channel_scheme(name) for name in dataset.channel_names),
        label_format=LabelFormat.of_dataset(dataset),
    )
    function = functools.partial(_verify_case, rules=rules)
    problems: list[Problem] = []
    hashes: dict[str, tuple[str | None, ...]] = {}
    present: list[frozenset[int]] = []
    for result in run_cases(function, dataset.cases, run, "verify"):
        if result.value is None:
            problems.append(Problem(result.item.case_id, None, f"the check itself failed: {result.error}"))
        else:
            problems.extend(result.value.problems)
            hashes[result.item.case_id] = result.value.hashes
            if result.value.classes is not None:
                present.append(result.value.classes)
    problems += _duplicates(dataset, hashes)
    problems += _stray_files(dataset)
    problems += [
        Problem(case, dataset.instance_classes.file, "classes of instances are stated for a case that does not exist")
        for case in cases_without_images(dataset)
        if dataset.instance_classes is not None
    ]
    problems += _rare_classes(dataset, present, folds)
    return sorted(problems, key=lambda problem: (problem.case_id, str(problem.file)))


def format_problems(problems: Sequence[Problem]) -> str:
    """Return all problems as one table with the columns case, file and problem.

    Examples
    --------
    >>> print(format_problems([Problem("case_1", Path("imagesTr/case_1_0001.nii.gz"), "the channel is missing")]))
    1 problem in 1 case
    case    file                problem
    case_1  case_1_0001.nii.gz  the channel is missing
    """
    if not problems:
        return "no problems"
    rows = [(p.case_id, "" if p.file is None else p.file.name, p.description.replace("\n", " ")) for p in problems]
    case_width = max(len("case"), *(len(row[0]) for row in rows)) + 2
    file_width = max(len("file"), *(len(row[1]) for row in rows)) + 2
    cases = len({row[0] for row in rows})
    lines = [f"{_count(len(rows), 'problem')} in {_count(cases, 'case')}"]
    lines += [f"{c:<{case_width}}{f:<{file_width}}{w}" for c, f, w in [("case", "file", "problem"), *rows]]
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _verify_case(case: RawCase, rules: _Rules) -> _CheckedCase:
    problems: list[Problem] = []
    hashes: list[str | None] = []
    images: list[tuple[Path, npt.NDArray[Any]]] = []
    grid: Geometry | None = None
    grid_image: ImageSource | None = None
    if len(case.images) != len(rules.schemes):
        description = f"{len(case.images)} image(s) are listed for {_count(len(rules.schemes), 'channel')}"
        problems.append(Problem(case.case_id, None, description))
    for channel, image in enumerate(case.images):
        path = image.path
        if not path.exists():
            problems.append(Problem(case.case_id, path, f"channel {channel} is missing"))
            hashes.append(None)
            continue
        try:
            array, geometry = read_image(image)
        except DetSeg3DError as error:
            problems.append(Problem(case.case_id, path, _brief(error)))
            hashes.append(None)
            continue
        problems += _contradictions(case, path, geometry)
        problems += _spacing_problem(case, path, geometry)
        if grid is None or grid_image is None:
            grid, grid_image = geometry, image
        else:
            problems += [
                Problem(case.case_id, path, text) for text in _grid_differences(grid, geometry, grid_image.name)
            ]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            wrong = int(np.count_nonzero(~np.isfinite(array)))
            problems.append(Problem(case.case_id, path, f"{_count(wrong, 'voxel')} NaN or infinite"))
        elif array.size:
            problems += _content_problems(case, path, array, rules.schemes[channel : channel + 1])
        hashes.append(_content_hash(array))
        images.append((path, array))
    problems_of_label, classes = _label_problems(case, rules, grid, grid_image, images)
    return _CheckedCase((*problems, *problems_of_label), tuple(hashes), classes)


def _content_problems(case: RawCase, path: Path, array: npt.NDArray[Any], schemes: tuple[Scheme, ...]) -> list[Problem]:
    """Return the reasons why a channel carries no information; ``schemes`` is empty for a superfluous channel."""
    problems = []
    for scheme in schemes:
        largest = max(float(array.max()), -float(array.min()))
        if scheme == "none" and largest > LARGEST_VALUE:
            excess = f"{largest:g} is too large to be stored; a channel named noNorm is not normalised"
            problems.append(Problem(case.case_id, path, f"{excess}: at most {LARGEST_VALUE:g}"))
            continue
        reason = degeneration_of_scan(array, scheme)
        if reason is not None:
            problems.append(
                Problem(case.case_id, path, f"carries no information after normalisation: {reason}", stops=False)
            )
    return problems


def _label_problems(
    case: RawCase,
    rules: _Rules,
    grid: Geometry | None,
    grid_image: ImageSource | None,
    images: Sequence[tuple[Path, npt.NDArray[Any]]],
) -> tuple[list[Problem], frozenset[int] | None]:
    """Return the problems of the label and the classes of its lesions, ``None`` if the label cannot be used."""
    if case.label is None or not case.label.path.exists():
        file = None if case.label is None else case.label.path
        return [Problem(case.case_id, file, "the case has no label")], None
    file = case.label.path
    try:
        # An unreadable image is reported as a separate problem.
        label, geometry = read_label(case.label, rules.label_format, grid_image)
    except DetSeg3DError as error:
        return [Problem(case.case_id, file, _brief(error))], None
    problems = _contradictions(case, file, geometry)
    if grid is not None and grid_image is not None:
        problems += [Problem(case.case_id, file, text) for text in _grid_differences(grid, geometry, grid_image.name)]
    copy = "shows only the label: a label may lie among the images"
    problems += [
        Problem(case.case_id, path, copy, stops=False) for path, array in images if is_image_of_label(array, label)
    ]
    try:
        return problems, lesion_classes(label, file, rules.label_format, case.case_id)
    except DetSeg3DError as error:
        return [*problems, Problem(case.case_id, error.file or file, _brief(error))], None


def _contradictions(case: RawCase, path: Path, geometry: Geometry) -> list[Problem]:
    return [Problem(case.case_id, path, geometry.caveat, stops=False)] if geometry.contradicted else []


def _spacing_problem(case: RawCase, path: Path, geometry: Geometry) -> list[Problem]:
    """Return a problem if planning would refuse the spacing."""
    try:
        check_spacing(geometry.spacing)
    except DetSeg3DError as error:
        return [Problem(case.case_id, path, _brief(error))]
    return []


def _grid_differences(grid: Geometry, geometry: Geometry, grid_file: str) -> list[str]:
    return [f"{difference} ({grid_file} against this file)" for difference in grid.difference(geometry)]


def _brief(error: DetSeg3DError) -> str:
    return error.problem if error.value is None else f"{error.problem}: {error.value}"


def _content_hash(array: npt.NDArray[Any]) -> str | None:
    """Return a hash of size and voxels, or ``None`` for a constant image, which may occur in several cases."""
    flat = array.reshape(-1)
    # NaN is not equal to itself. An image with NaN is reported separately.
    if not flat.size or (flat == flat[0]).all():
        return None
    digest = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _rare_classes(dataset: RawDataset, present: Sequence[frozenset[int]], folds: int) -> list[Problem]:
    """Return a problem for each class that occurs in fewer cases than there are folds."""
    folds = min(folds, len(present))
    problems = []
    for index, name in enumerate(dataset.class_names):
        count = sum(index in classes for classes in present)
        if count < folds:
            description = f"class {name} is in {_count(count, 'case')} of {len(present)}, fewer than the {folds} folds"
            problems.append(Problem("-", None, description, stops=False))
    return problems


def _duplicates(dataset: RawDataset, hashes: dict[str, tuple[str | None, ...]]) -> list[Problem]:
    first_seen: dict[str, tuple[str, str]] = {}
    problems = []
    for case in dataset.cases:
        for image, content in zip(case.images, hashes.get(case.case_id, ()), strict=False):
            if content is None:
                continue
            other_case, other_file = first_seen.setdefault(content, (case.case_id, image.name))
            if other_case != case.case_id:
                description = f"the same image as {other_file} of case {other_case}: it would leak between folds"
                problems.append(Problem(case.case_id, image.path, description))
    return problems


def _stray_files(dataset: RawDataset) -> list[Problem]:
    """Return images and labels that belong to no case, usually because of an error in a name."""
    images = {image.path for case in dataset.cases for image in case.images}
    labels = set(dataset.label_files.values())
    folders = {path.parent for path in images} & {RawFolder(dataset.folder).training_images}
    problems = []
    for folder in folders:
        for path in sorted(set(_image_files(folder)) - images):
            last = len(dataset.channel_names) - 1
            description = f"belongs to no case: expected CASE_0000{dataset.file_ending}"
            description += f" to CASE_{last:04d}{dataset.file_ending}" if last else ""
            problems.append(Problem("-", path, description))
    for path in sorted(set(_image_files(RawFolder(dataset.folder).training_labels)) - labels):
        problems.append(Problem("-", path, "a label without an image"))
    return problems


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [e for e in folder.iterdir() if e.is_file() and not e.name.startswith(".") and file_ending(e) is not None]
