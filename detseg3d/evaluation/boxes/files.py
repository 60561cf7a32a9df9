"""Boxes of any detector: a plain CSV, nnDetection's exports, or the RoI files of ``detseg3d_predict``.

The CSV has a header and a line per box, columns in any order::

    case,z0,y0,x0,z1,y1,x1,score,class
    patient_001,12,40,77,15.5,44,80,0.93,lesion
    patient_002,,,,,,,,

Edges are in voxels of the scan as its file stores them, half-open: voxel ``i`` reaches from ``i`` to ``i + 1``, so the
box of the single voxel
``(5, 6, 7)`` is ``5,6,7,6,7,8``. ``score`` may be any number, higher is surer; a file of true boxes needs none.
``class`` is the name of a class or its value in the label files; without the column there is one class. A line with
nothing but a case says that the case has no boxes. Other columns are of no interest. Semicolons and tabulators separate
as well as commas.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import normal_name
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.labels import read_roi_lesions, read_roi_order
from detseg3d.evaluation.boxes.nndetection import pickles_only, read_nndetection_boxes
from detseg3d.evaluation.case_files import CaseProblem, files_by_case
from detseg3d.system.files import read_bounded

__all__ = ["EDGES", "BoxFolder", "CaseBoxes", "class_name", "read_box_table", "read_boxes"]


EDGES = ("z0", "y0", "x0", "z1", "y1", "x1")
"""Columns of a box in a CSV."""

_LINES_SHOWN = 20
_MOST_BYTES = 1 << 30  # of a table: ten million boxes


@dataclass(frozen=True)
class CaseBoxes:
    """The boxes of one case.

    Attributes
    ----------
    boxes : ndarray of float64, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1``, half-open, voxel edges.
    scores : ndarray of float64, shape ``(N,)``, or None
        ``None`` if none are given.
    classes : tuple of str, or None
        Name of the class of each box; ``None`` if none are given.
    order : StoredOrder, or None
        Of the file whose voxels the edges count; ``None`` if the boxes do not state it.
    """

    boxes: FloatArray
    scores: FloatArray | None
    classes: tuple[str, ...] | None
    order: StoredOrder | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def in_order(self, order: StoredOrder | None) -> CaseBoxes:
        """Return the boxes in voxels of a file of that order; they are as they were if either order is not known."""
        if self.order is None or order is None or self.order.axes == order.axes:
            return self
        boxes = [order.box_to_stored(self.order.box_to_canonical(box)) for box in self.boxes.tolist()]
        return replace(self, boxes=np.array(boxes, np.float64).reshape(-1, 6), order=order)


@dataclass(frozen=True)
class BoxFolder:
    """The boxes of all cases.

    Attributes
    ----------
    cases : dict of str to CaseBoxes
    source : str
        What was read, for people.
    one_file : bool
        All cases come from one file, so a case that is not in it has no boxes; otherwise its file is missing.
    problems : list of CaseProblem
        Cases whose file cannot be read.
    """

    cases: Mapping[str, CaseBoxes]
    source: str
    one_file: bool
    problems: list[CaseProblem] = field(default_factory=list)


def class_name(text: str | int, class_labels: Mapping[str, int] | None) -> str | None:
    """The class that a name or a label value stands for; ``None`` if there is no such class.

    Examples
    --------
    >>> class_name("2", {"core": 1, "rim": 2}), class_name("rim", {"core": 1, "rim": 2}), class_name(2, None)
    ('rim', 'rim', 'label 2')
    """
    text = str(text).strip()
    if class_labels is None:
        return f"label {int(text)}" if text.isdecimal() else text
    if text in class_labels:
        return text
    return next((name for name, value in class_labels.items() if text.isdecimal() and value == int(text)), None)


def read_boxes(
    path: str | Path,
    class_labels: Mapping[str, int] | None = None,
    network_spacing: Sequence[float] | None = None,
    scores: bool = True,
) -> BoxFolder:
    """Read the boxes of all cases.

    Parameters
    ----------
    path : path
        A CSV file with all cases; or a folder with ``rois/CASE.json`` of ``detseg3d_predict``, with ``CASE_boxes.npz``
        or ``CASE_boxes.json`` of nnDetection, or with ``CASE.csv`` per case, which then needs no column ``case``. What
        comes first in this list is read.
    class_labels : dict of str to int, optional
        Value of each lesion class in label files. Without it a class that is a number is called ``label 1``, ….
    network_spacing : 3 floats, optional
        See :func:`~detseg3d.evaluation.boxes.nndetection.read_nndetection_boxes`.
    scores : bool, optional
        Boxes need scores.

    Returns
    -------
    BoxFolder

    Raises
    ------
    DetSeg3DError
        If there is nothing of this kind, or a table of all cases is not as it should be.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return BoxFolder(read_box_table(path, class_labels, scores=scores), str(path), True)
    if not path.is_dir():
        raise DetSeg3DError("there is no such CSV file or folder of boxes", file=path, remedy="check the path")
    problems: list[CaseProblem] = []
    readers: list[tuple[Path, Callable[[Path], str | None], Callable[[Path], CaseBoxes]]] = [
        (
            PredictionFolder(path).records_folder,
            partial(_case, endings=(".json",)),
            partial(_read_rois, class_labels=class_labels),
        ),
        (
            path,
            partial(_case, endings=("_boxes.npz", "_boxes.json")),
            partial(_read_nndetection, class_labels=class_labels, network_spacing=network_spacing),
        ),
        (
            path,
            partial(_case, endings=(".csv",)),
            partial(_read_case_table, class_labels=class_labels, scores=scores),
        ),
    ]
    for folder, case_of, read in readers:
        files = files_by_case(folder, "boxes", case_of, problems) if folder.is_dir() else {}
        if files or problems:
            return _read_all(files, folder, read, problems)
    pickles = sorted(path.glob("*_boxes.pkl"))
    if pickles:
        raise pickles_only(path, pickles)
    raise DetSeg3DError(
        "there are no boxes in the folder",
        file=path,
        expected="rois/CASE.json, CASE_boxes.npz, CASE_boxes.json or CASE.csv",
    )


def _case(path: Path, endings: Sequence[str]) -> str | None:
    lower = path.name.lower()
    return next((path.name[: -len(end)] for end in endings if lower.endswith(end) and lower != end), None)


def _read_all(
    files: Mapping[str, Path], folder: Path, read: Callable[[Path], CaseBoxes], problems: list[CaseProblem]
) -> BoxFolder:
    cases = {}
    for case_id, file in files.items():
        try:
            cases[case_id] = read(file)
        except DetSeg3DError as error:
            problems.append(CaseProblem.of(case_id, error))
    if files and not cases:
        first = problems[-len(files)].problem
        raise DetSeg3DError(f"none of the {len(files)} file(s) of boxes can be read; the first problem: {first}")
    return BoxFolder(cases, str(folder), False, problems)


def _read_rois(file: Path, class_labels: Mapping[str, int] | None) -> CaseBoxes:
    lesions = read_roi_lesions(file)
    if any(lesion.get("box") is None or lesion["score"] is None for lesion in lesions):
        raise DetSeg3DError("a lesion of the RoI file has no box or no score", file=file)
    names = [_known_class(lesion["label"], class_labels, file) for lesion in lesions]
    boxes = np.array([lesion["box"] for lesion in lesions], np.float64).reshape(-1, 6)
    if not np.all(np.isfinite(boxes)) or np.any(boxes[:, 3:] < boxes[:, :3]):
        raise DetSeg3DError("a box of the RoI file ends before it begins or is not finite", file=file)
    scores = _finite([lesion["score"] for lesion in lesions], file)
    return CaseBoxes(boxes, scores, tuple(names), read_roi_order(file))


def _read_nndetection(
    file: Path, class_labels: Mapping[str, int] | None, network_spacing: Sequence[float] | None
) -> CaseBoxes:
    boxes, scores, labels = read_nndetection_boxes(file, network_spacing)
    # nnDetection counts classes from 0, in the order of the labels.
    values = None if class_labels is None else sorted(class_labels.values())
    names = []
    for label in labels:
        if values is None:
            names.append(f"label {label + 1}")
        else:
            names.append(_known_class(values[label] if label < len(values) else -1, class_labels, file, label))
    return CaseBoxes(boxes, scores, tuple(names))


def _finite(values: Sequence[float], file: Path) -> FloatArray:
    array = np.array(values, np.float64)
    if not np.all(np.isfinite(array)):
        raise DetSeg3DError("a score is not a finite number", file=file)
    return array


def _known_class(label: int, class_labels: Mapping[str, int] | None, file: Path, shown: int | None = None) -> str:
    name = class_name(label, class_labels)
    if name is None:
        raise DetSeg3DError(
            "a box has an unknown class",
            file=file,
            value=label if shown is None else shown,
            expected=f"one of {dict(class_labels or {})}",
        )
    return name


def read_box_table(
    file: str | Path, class_labels: Mapping[str, int] | None = None, case_id: str | None = None, scores: bool = True
) -> dict[str, CaseBoxes]:
    """Read a CSV of boxes; its form is described in :mod:`detseg3d.evaluation.boxes.files`.

    Parameters
    ----------
    file : path
    class_labels : dict of str to int, optional
        Value of each lesion class in label files.
    case_id : str, optional
        The file is that of one case: a column ``case`` may be missing, and must not name another.
    scores : bool, optional
        A column ``score`` is needed; otherwise it is not read.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, columns are missing, or lines are wrong; all such lines are named at once.
    """
    file = Path(file)
    reader, places = _open_table(file, ["case"] * (case_id is None) + [*EDGES] + ["score"] * scores)
    if not scores:
        places.pop("score", None)
    rows: dict[str, list[tuple[list[float], float, str]]] = {} if case_id is None else {case_id: []}
    wrong: list[str] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        row = {name: cells[place].strip() if place < len(cells) else "" for name, place in places.items()}
        case = row.get("case") or case_id or ""
        errors = [] if case else ["column case: it is empty"]
        if case_id is not None and normal_name(case) == normal_name(case_id):
            case = case_id
        elif case_id is not None:
            errors.append(f"column case: {case!r} in the file of {case_id!r}")
        if all(not row[name] for name in row if name != "case"):  # the case has no boxes
            entry = None
        else:
            entry, found = _parse(row, class_labels)
            errors += found
        wrong += [f"line {reader.line_num}, {error}" for error in errors]
        if not errors:
            rows.setdefault(case, []).extend([] if entry is None else [entry])
    if wrong:
        shown = wrong[:_LINES_SHOWN] + [f"and {len(wrong) - _LINES_SHOWN} more"] * (len(wrong) > _LINES_SHOWN)
        raise DetSeg3DError(
            f"{len(wrong)} value(s) of the table of boxes are wrong:\n    " + "\n    ".join(shown),
            file=file,
            expected="numbers as in 12,40,77,15.5,44,80,0.93: half-open edges in voxels, so that z1 > z0, y1 > y0, "
            "x1 > x0, and a score",
        )
    return {case: _case_boxes(entries, "score" in places, "class" in places) for case, entries in rows.items()}


def _open_table(file: Path, needed: Sequence[str]) -> tuple[Any, dict[str, int]]:
    """The lines below the header, and where each column of interest is."""
    try:
        text = read_bounded(file, _MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DetSeg3DError("the table of boxes does not exist", file=file, remedy="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DetSeg3DError(f"the table of boxes cannot be read: {error}", file=file, expected="UTF-8 text") from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    header = [cell.strip().lower() for cell in next(reader, [])]
    wanted = ("case", *EDGES, "score", "class")
    missing = [name for name in needed if name not in header]
    twice = [name for name in wanted if header.count(name) > 1]
    if missing or twice:
        found = "lacks the column(s) " + ", ".join(missing) if missing else "has twice: " + ", ".join(twice)
        raise DetSeg3DError(
            f"the table of boxes {found}", file=file, value=header, expected="case,z0,y0,x0,z1,y1,x1,score[,class]"
        )
    return reader, {name: header.index(name) for name in wanted if name in header}


def _parse(
    row: Mapping[str, str], class_labels: Mapping[str, int] | None
) -> tuple[tuple[list[float], float, str], list[str]]:
    """One box, and what is wrong with it."""
    errors, numbers = [], {}
    for name in (*EDGES, "score"):
        if name not in row:
            continue
        try:
            numbers[name] = float(row[name])
        except ValueError:
            numbers[name] = np.nan
        if not np.isfinite(numbers[name]):
            errors.append(f"column {name}: {row[name]!r} is no number" if row[name] else f"column {name}: it is empty")
    for axis in "zyx":
        low, high = numbers[f"{axis}0"], numbers[f"{axis}1"]
        if high <= low:  # NaN compares false
            errors.append(f"column {axis}1: {high:g} is not greater than {axis}0, {low:g}")
    of_class: str | None = ""
    if "class" in row:
        of_class = class_name(row["class"], class_labels) if row["class"] else None
        if of_class is None:
            known = "" if class_labels is None else f", known are {', '.join(class_labels)}"
            errors.append(f"column class: {row['class']!r} is no class{known}")
    return ([numbers[edge] for edge in EDGES], numbers.get("score", np.nan), of_class or ""), errors


def _case_boxes(entries: Sequence[tuple[list[float], float, str]], scores: bool, classes: bool) -> CaseBoxes:
    boxes = np.array([box for box, _, _ in entries], np.float64).reshape(-1, 6)
    return CaseBoxes(
        boxes,
        np.array([score for _, score, _ in entries], np.float64) if scores else None,
        tuple(name for _, _, name in entries) if classes else None,
    )


def _read_case_table(file: Path, class_labels: Mapping[str, int] | None, scores: bool) -> CaseBoxes:
    case_id = _case(file, (".csv",)) or ""
    return read_box_table(file, class_labels, case_id, scores)[case_id]
