"""Read boxes of any detector: a CSV table, the exports of nnDetection, or the RoI files of ``detseg3d_predict``.

The CSV table has a header and one line per box. The columns can have any order::

    case,z0,y0,x0,z1,y1,x1,score,class
    patient_001,12,40,77,15.5,44,80,0.93,lesion
    patient_002,,,,,,,,

Edges are in voxels of the scan, in the axis order of its file. Voxel ``i`` reaches from ``i`` to ``i + 1``, so the box
of the single voxel ``(5, 6, 7)`` is ``5,6,7,6,7,8``. ``score`` can be any number; a higher score means a more certain
detection. A file of true boxes needs no scores. ``class`` is the name of a class or its value in the label files.
Without this column there is one class. A line that has only a case means that the case has no boxes. Other columns are
ignored. The separator can be a comma, a semicolon or a tabulator.
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

__all__ = ["BoxFolder", "CaseBoxes", "find_class_name", "read_box_table", "read_boxes"]


EDGES = ("z0", "y0", "x0", "z1", "y1", "x1")
"""Columns of a box in a CSV file."""

_MAX_LINES_SHOWN = 20
_MAX_BYTES = 1 << 30  # ten million boxes


@dataclass(frozen=True)
class CaseBoxes:
    """The boxes of one case.

    Attributes
    ----------
    boxes : ndarray of float64, shape ``(N, 6)``
        Edges ``z0 y0 x0 z1 y1 x1`` in voxels.
    scores : ndarray of float64, shape ``(N,)``, or None
        Score of each box; ``None`` if the boxes have no scores.
    classes : tuple of str, or None
        Name of the class of each box. ``None`` if the boxes have no classes.
    order : StoredOrder, or None
        Axis order of the image to which the edges refer; ``None`` if the file does not state the order.
    """

    boxes: FloatArray
    scores: FloatArray | None
    classes: tuple[str, ...] | None
    order: StoredOrder | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def in_order(self, order: StoredOrder | None) -> CaseBoxes:
        """Return the boxes in the axis order of another file. They are unchanged if one of the orders is unknown."""
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
        Boxes of each case, by the name of the case.
    source : str
        Path of the file or folder that was read, for reports.
    one_file : bool
        True if all cases come from one file. A case that the file does not mention has no boxes.
    problems : list of CaseProblem
        Cases with a file that cannot be read, and the reason.
    """

    cases: Mapping[str, CaseBoxes]
    source: str
    one_file: bool
    problems: list[CaseProblem] = field(default_factory=list)


def find_class_name(text: str | int, class_labels: Mapping[str, int] | None) -> str | None:
    """Return the name of the class with this name or label value; ``None`` if the class does not exist.

    Examples
    --------
    >>> labels = {"core": 1, "rim": 2}
    >>> find_class_name("2", labels), find_class_name("rim", labels), find_class_name(2, None)
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
    with_scores: bool = True,
) -> BoxFolder:
    """Read the boxes of all cases.

    Parameters
    ----------
    path : path
        A CSV file with all cases, or a folder. A folder contains ``rois/CASE.json`` of ``detseg3d_predict``, or
        ``CASE_boxes.npz`` or ``CASE_boxes.json`` of nnDetection, or ``CASE.csv`` per case. A table per case needs no
        column ``case``. If a folder contains several kinds, the first kind of this list is read.
    class_labels : dict of str to int, optional
        Value of each lesion class in label files. Without it, the class with the value 1 is called ``label 1``.
    network_spacing : 3 floats, optional
        See :func:`~detseg3d.evaluation.boxes.nndetection.read_nndetection_boxes`.
    with_scores : bool, optional
        Read the scores. If True, a table without scores is an error.

    Returns
    -------
    BoxFolder

    Raises
    ------
    DetSeg3DError
        If the path has no files of boxes, or the table of all cases contains an error.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return BoxFolder(read_box_table(path, class_labels, with_scores=with_scores), str(path), True)
    if not path.is_dir():
        raise DetSeg3DError("there is no such CSV file or folder of boxes", file=path, remedy="check the path")
    problems: list[CaseProblem] = []
    readers: list[tuple[Path, Callable[[Path], str | None], Callable[[Path], CaseBoxes]]] = [
        (
            PredictionFolder(path).records_folder,
            partial(_get_case_id, endings=(".json",)),
            partial(_read_rois, class_labels=class_labels),
        ),
        (
            path,
            partial(_get_case_id, endings=("_boxes.npz", "_boxes.json")),
            partial(_read_nndetection, class_labels=class_labels, network_spacing=network_spacing),
        ),
        (
            path,
            partial(_get_case_id, endings=(".csv",)),
            partial(_read_case_table, class_labels=class_labels, with_scores=with_scores),
        ),
    ]
    for folder, get_case_id, read in readers:
        files = files_by_case(folder, "boxes", get_case_id, problems) if folder.is_dir() else {}
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


def _get_case_id(path: Path, endings: Sequence[str]) -> str | None:
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
    if any(lesion.box is None or lesion.score is None for lesion in lesions):
        raise DetSeg3DError(
            "a lesion of the RoI file has no box or no score", file=file, remedy="run detseg3d_predict again"
        )
    names = [_require_class(lesion.label, class_labels, file) for lesion in lesions]
    boxes = np.array([lesion.box for lesion in lesions], np.float64).reshape(-1, 6)
    if not np.all(np.isfinite(boxes)) or np.any(boxes[:, 3:] < boxes[:, :3]):
        raise DetSeg3DError(
            "a box of the RoI file contains a wrong edge",
            file=file,
            value=boxes.tolist(),
            expected="finite numbers with z1 >= z0, y1 >= y0 and x1 >= x0",
        )
    scores = _require_finite([lesion.score for lesion in lesions if lesion.score is not None], file)
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
            names.append(_require_class(values[label] if label < len(values) else -1, class_labels, file, label))
    return CaseBoxes(boxes, scores, tuple(names))


def _require_finite(values: Sequence[float], file: Path) -> FloatArray:
    array = np.array(values, np.float64)
    if not np.all(np.isfinite(array)):
        raise DetSeg3DError(
            "a score is not a finite number", file=file, value=array[~np.isfinite(array)].tolist(), expected="numbers"
        )
    return array


def _require_class(label: int, class_labels: Mapping[str, int] | None, file: Path, shown: int | None = None) -> str:
    name = find_class_name(label, class_labels)
    if name is None:
        raise DetSeg3DError(
            "a box has an unknown class",
            file=file,
            value=label if shown is None else shown,
            expected=f"one of {dict(class_labels or {})}",
        )
    return name


def read_box_table(
    file: str | Path,
    class_labels: Mapping[str, int] | None = None,
    case_id: str | None = None,
    with_scores: bool = True,
) -> dict[str, CaseBoxes]:
    """Read a CSV table of boxes. :mod:`detseg3d.evaluation.boxes.files` describes the columns.

    Parameters
    ----------
    file : path
        CSV file.
    class_labels : dict of str to int, optional
        Value of each lesion class in label files.
    case_id : str, optional
        Name of the case if the table contains one case. The column ``case`` is then optional, and must not contain
        another case.
    with_scores : bool, optional
        Read the column ``score``, which is then required.

    Returns
    -------
    dict of str to CaseBoxes
        The boxes of each case.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, columns are missing, or lines contain errors. The message lists these lines.
    """
    file = Path(file)
    reader, places = _open_table(file, ["case"] * (case_id is None) + [*EDGES] + ["score"] * with_scores)
    if not with_scores:
        places.pop("score", None)
    rows: dict[str, list[tuple[list[float], float, str]]] = {} if case_id is None else {case_id: []}
    wrong: list[str] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        row = {name: cells[place].strip() if place < len(cells) else "" for name, place in places.items()}
        case = row.get("case") or case_id or ""
        errors = [] if case else ["column case: the cell is empty"]
        if case_id is not None and normal_name(case) == normal_name(case_id):
            case = case_id
        elif case_id is not None:
            errors.append(f"column case: the case is {case!r}, but the file belongs to {case_id!r}")
        if all(not row[name] for name in row if name != "case"):  # the case has no boxes
            entry = None
        else:
            entry, found = _parse(row, class_labels)
            errors += found
        wrong += [f"line {reader.line_num}, {error}" for error in errors]
        if not errors:
            rows.setdefault(case, []).extend([] if entry is None else [entry])
    if wrong:
        shown = wrong[:_MAX_LINES_SHOWN]
        if len(wrong) > len(shown):
            shown.append(f"and {len(wrong) - len(shown)} more")
        raise DetSeg3DError(
            f"the table of boxes contains {len(wrong)} wrong value(s):\n    " + "\n    ".join(shown),
            file=file,
            expected="edges in voxels with z1 > z0, y1 > y0 and x1 > x0, and a score, for example "
            "12,40,77,15.5,44,80,0.93",
        )
    return {case: _case_boxes(entries, "score" in places, "class" in places) for case, entries in rows.items()}


def _open_table(file: Path, needed: Sequence[str]) -> tuple[Any, dict[str, int]]:
    """Return a reader of the lines below the header, and the position of each column."""
    try:
        text = read_bounded(file, _MAX_BYTES).decode("utf-8-sig")
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
        found = f"lacks the column(s) {', '.join(missing)}" if missing else f"repeats the column(s) {', '.join(twice)}"
        raise DetSeg3DError(
            f"the table of boxes {found}", file=file, value=header, expected="case,z0,y0,x0,z1,y1,x1,score[,class]"
        )
    return reader, {name: header.index(name) for name in wanted if name in header}


def _parse(
    row: Mapping[str, str], class_labels: Mapping[str, int] | None
) -> tuple[tuple[list[float], float, str], list[str]]:
    """Return the edges, the score and the class of one box, and its errors."""
    errors, numbers = [], {}
    for name in (*EDGES, "score"):
        if name not in row:
            continue
        try:
            numbers[name] = float(row[name])
        except ValueError:
            numbers[name] = np.nan
        if not np.isfinite(numbers[name]):
            errors.append(
                f"column {name}: {row[name]!r} is not a number" if row[name] else f"column {name}: the cell is empty"
            )
    for axis in "zyx":
        low, high = numbers[f"{axis}0"], numbers[f"{axis}1"]
        if high <= low:  # NaN compares false
            errors.append(f"column {axis}1: {high:g} is not greater than {axis}0, {low:g}")
    class_name: str | None = ""
    if "class" in row:
        class_name = find_class_name(row["class"], class_labels) if row["class"] else None
        if class_name is None:
            known = "" if class_labels is None else f"; the classes are {', '.join(class_labels)}"
            errors.append(f"column class: {row['class']!r} is not a class{known}")
    return ([numbers[edge] for edge in EDGES], numbers.get("score", np.nan), class_name or ""), errors


def _case_boxes(entries: Sequence[tuple[list[float], float, str]], with_scores: bool, with_classes: bool) -> CaseBoxes:
    boxes = np.array([box for box, _, _ in entries], np.float64).reshape(-1, 6)
    return CaseBoxes(
        boxes,
        np.array([score for _, score, _ in entries], np.float64) if with_scores else None,
        tuple(name for _, _, name in entries) if with_classes else None,
    )


def _read_case_table(file: Path, class_labels: Mapping[str, int] | None, with_scores: bool) -> CaseBoxes:
    case_id = _get_case_id(file, (".csv",)) or ""
    return read_box_table(file, class_labels, case_id, with_scores)[case_id]
