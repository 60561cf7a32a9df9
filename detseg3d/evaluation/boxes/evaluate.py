"""Evaluate boxes with scores of any detector: FROC, average precision and CPM."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from detseg3d.core.arrays import FloatArray, IntArray, Triple
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.enums import StringEnum
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like
from detseg3d.data.labels import LabelFormat, read_label_format, read_true_lesions
from detseg3d.evaluation.boxes.files import BoxFolder, CaseBoxes, read_boxes
from detseg3d.evaluation.boxes.matching import scored_case_from_boxes
from detseg3d.evaluation.by_class import ByClass
from detseg3d.evaluation.case_files import CaseProblem, common_cases, files_by_case, image_case
from detseg3d.evaluation.scores.froc import ScoredCase, ScoreSummary, add_scored, score_summary
from detseg3d.evaluation.scores.score_intervals import ScoreIntervals, score_intervals
from detseg3d.evaluation.stored_values import CaseValues, check_not_instances, odd_values
from detseg3d.system.json_records import JsonRecord
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["BoxCounts", "BoxCriterion", "BoxEvaluation", "BoxInput", "BoxSummary", "evaluate_boxes", "true_boxes"]

logger = logging.getLogger(__name__)


class BoxCriterion(StringEnum):
    """Condition under which a predicted box finds a lesion. The value is the name of the criterion in files."""

    IOU_01 = "iou_0.1"
    """IoU with the true box of 0.1 or more."""
    IOU_05 = "iou_0.5"
    """IoU with the true box of 0.5 or more."""
    CENTER = "center"
    """The centre of the predicted box lies in the true box."""

    @property
    def minimum_iou(self) -> float | None:
        """IoU that a match needs; ``None`` for the criterion of the centre."""
        if self is BoxCriterion.CENTER:
            return None
        return 0.1 if self is BoxCriterion.IOU_01 else 0.5

    @property
    def label(self) -> str:
        """Name of the criterion in texts."""
        return "centre in box" if self is BoxCriterion.CENTER else f"IoU ≥ {self.minimum_iou}"


@dataclass(frozen=True)
class BoxInput:
    """Boxes to compare, and the format of their files.

    Attributes
    ----------
    truth : path
        A folder of label files, from which the boxes of the lesions are measured, or files of boxes as for
        ``prediction``, without scores. A CSV file of true boxes also needs a line for each case without lesions, with
        only the name of the case.
    prediction : path
        CSV file or folder of boxes, see :func:`~detseg3d.evaluation.boxes.files.read_boxes`.
    label_format : LabelFormat, optional
        Meaning of the label values. By default, it is read from a dataset.json, see
        :func:`~detseg3d.data.labels.read_label_format`.
    network_spacing : 3 floats, optional
        Spacing ``(z, y, x)`` in mm of the network, for boxes of nnDetection; see
        :func:`~detseg3d.evaluation.boxes.nndetection.read_nndetection_boxes`.
    cases : sequence of str, optional
        Names of the cases to evaluate; by default all cases of ``truth``.
    """

    truth: str | Path
    prediction: str | Path
    label_format: LabelFormat | None = None
    network_spacing: Sequence[float] | None = None
    cases: Sequence[str] | None = None


@dataclass(frozen=True)
class BoxCounts(JsonRecord):
    """Counts of a case under one criterion, at the lowest score threshold."""

    found: int
    true_positives: int
    false_positives: int


@dataclass(frozen=True)
class BoxCase(JsonRecord):
    """Numbers of boxes of one case, at the lowest score threshold.

    Attributes
    ----------
    case_id : str
        Name of the case.
    truth, boxes : int
        True and predicted boxes.
    criteria : dict of BoxCriterion to BoxCounts
        Counts under each criterion.
    """

    case_id: str
    truth: int
    boxes: int
    criteria: Mapping[BoxCriterion, BoxCounts]


@dataclass(frozen=True)
class BoxSummary(JsonRecord):
    """Metrics of the boxes of a set of cases.

    Attributes
    ----------
    cases, lesions, boxes : int
        Numbers of cases, of true boxes and of predicted boxes.
    lesions_by_class : dict of str to int
        Number of true boxes of each class.
    lesion_free_scans, boxes_in_lesion_free_scans : int
        Scans without a true lesion, and the predicted boxes in these scans.
    patients : int
        Number of patients.
    cases_without_boxes : tuple of str
        Cases that the table of all boxes does not mention. These cases count as cases without boxes.
    scores : dict of BoxCriterion to ScoreSummary
        FROC, CPM and average precision under each criterion.
    intervals : dict of BoxCriterion to ScoreIntervals
        Intervals of these metrics.
    """

    cases: int
    lesions: int
    boxes: int
    lesions_by_class: Mapping[str, int]
    lesion_free_scans: int
    boxes_in_lesion_free_scans: int
    patients: int
    cases_without_boxes: tuple[str, ...]
    scores: Mapping[BoxCriterion, ScoreSummary]
    intervals: Mapping[BoxCriterion, ScoreIntervals]


@dataclass(frozen=True)
class BoxEvaluation(JsonRecord):
    """Result of an evaluation of boxes.

    Attributes
    ----------
    truth, prediction : str
        Folders or files that were read.
    class_labels : dict of str to int, or None
        Value of each class in label files; ``None`` if no dataset.json names the classes.
    summary : BoxSummary
        Metrics of all cases.
    cases : tuple of BoxCase
        Counts of each case.
    warnings : tuple of CaseProblem
        Cases that were evaluated, but whose boxes look wrong, and the reason.
    problems : tuple of CaseProblem
        Cases that could not be evaluated. The metrics leave these cases out.
    """

    truth: str
    prediction: str
    class_labels: Mapping[str, int] | None
    summary: BoxSummary
    cases: tuple[BoxCase, ...]
    warnings: tuple[CaseProblem, ...] = ()
    problems: tuple[CaseProblem, ...] = ()


@dataclass(frozen=True)
class _Truth:
    """True boxes of a case, and the shape of the scan if it is known from a label file."""

    boxes: CaseBoxes
    shape: Triple | None


def true_boxes(file: Path, label_format: LabelFormat) -> tuple[CaseBoxes, Triple]:
    """Return the tight boxes of the lesions of a label file, and the shape of the file.

    Both are in the axis order ``(z, y, x)`` in which the file is stored.
    """
    truth = read_true_lesions(file, label_format)
    ids, boxes = boxes_from_instances(truth.lesions.instances)
    names = tuple(truth.names[truth.lesions.classes[number]] for number in ids.tolist())
    order = truth.geometry.stored_order
    stored = np.array([order.box_to_stored(box) for box in boxes.tolist()], np.float64).reshape(-1, 6)
    return CaseBoxes(stored, None, names, order), truth.geometry.as_stored().shape


def evaluate_boxes(
    given: BoxInput,
    groups: Mapping[str, str] | None = None,
    samples: int = 1000,
    seed: int = 0,
    run: Run = Run(),
) -> BoxEvaluation:
    """Evaluate the boxes of all cases that both sides have.

    Parameters
    ----------
    given : BoxInput
        Boxes to compare.
    groups : dict of str to str, optional
        Patient of each case, for the intervals. By default each case is a patient.
    samples : int, optional
        Number of bootstrap resamples of the patients; 0 gives no intervals.
    seed : int, optional
        Seed of the bootstrap.
    run : Run, optional
        Number of worker processes and display of progress bars.

    Raises
    ------
    DetSeg3DError
        If a side cannot be read, if there is no common case, or if only one side names the classes of its boxes.
    """
    truth, prediction = Path(given.truth), Path(given.prediction)
    label_format = given.label_format or read_label_format(truth if truth.is_dir() else truth.parent, prediction)
    labels = {"lesion": 1} if label_format.classes is None and label_format.truth_instances else label_format.classes
    predicted = read_boxes(prediction, labels, given.network_spacing)
    problems = list(predicted.problems)
    label_files = files_by_case(truth, "truth", image_case, problems) if truth.is_dir() else {}
    table = None if label_files else read_boxes(truth, labels, with_scores=False)
    known = label_files if table is None else table.cases
    predicted = replace(predicted, cases=named_like(predicted.cases, known))
    groups = named_like(groups or {}, known)
    problems += [] if table is None else table.problems
    available = set(predicted.cases)
    if predicted.one_file and (not available or available & set(known)):
        # A table of all cases may omit cases without boxes. If no name in the table fits, the names are wrong.
        available |= set(known)
    hint = "" if table is None else "; a case without lesions needs a line with only its name"
    common = common_cases(known, available, (truth, prediction), problems, given.cases, hint)
    if table is None:
        files = {case_id: label_files[case_id] for case_id in common}
        truths = _read_truths(files, label_format, problems, run)
    else:
        truths = {case_id: _Truth(table.cases[case_id], None) for case_id in common}
    if not truths:
        raise DetSeg3DError(f"no case could be evaluated; the first problem: {problems[-1].problem}")
    boxes = {
        case_id: predicted.cases.get(case_id, _NO_BOXES).in_order(truth.boxes.order)
        for case_id, truth in truths.items()
    }
    if label_format.classes is None:
        boxes = _rename_single_class([entry.boxes for entry in truths.values()], boxes)
    names = _class_names([entry.boxes for entry in truths.values()], list(boxes.values()), label_format)
    records = {case_id: _match(case_id, truths[case_id].boxes, boxes[case_id], names) for case_id in truths}
    rows = [_counts(case_id, truths[case_id].boxes, boxes[case_id], records[case_id]) for case_id in truths]
    outside = {case_id: _describe_outside(boxes[case_id].boxes, truths[case_id].shape) for case_id in truths}
    patients = [groups.get(case_id, case_id) for case_id in truths]
    return BoxEvaluation(
        truth=str(truth) if table is None else table.source,
        prediction=predicted.source,
        class_labels=None if label_format.classes is None else dict(label_format.classes),
        summary=_summarize(rows, list(records.values()), predicted, patients, (samples, seed)),
        cases=tuple(rows),
        warnings=tuple(CaseProblem(case_id, text) for case_id, text in outside.items() if text),
        problems=tuple(sorted(problems, key=lambda problem: problem.case_id)),
    )


_NO_BOXES = CaseBoxes(np.zeros((0, 6)), np.zeros(0), ())


def _read_truths(
    files: Mapping[str, Path], label_format: LabelFormat, problems: list[CaseProblem], run: Run
) -> dict[str, _Truth]:
    """Read the true boxes of each case. Cases that fail are added to ``problems``."""
    truths = {}
    results = run_cases(partial(true_boxes, label_format=label_format), list(files.values()), run, "reading labels")
    for case_id, result in zip(files, results, strict=True):
        if result.value is not None:
            truths[case_id] = _Truth(*result.value)
        else:
            logger.debug("%s: %s", case_id, result.traceback)
            problems.append(CaseProblem.of(case_id, result.error))
    if label_format.classes is not None or label_format.truth_instances:
        return truths
    values = [_values(case_id, truth.boxes) for case_id, truth in truths.items()]
    check_not_instances(values)
    odd = odd_values(values)
    problems += [CaseProblem.of(case_id, error) for case_id, error in odd.items()]
    return {case_id: truth for case_id, truth in truths.items() if case_id not in odd}


def _values(case_id: str, boxes: CaseBoxes) -> CaseValues:
    """Return the values of a label file whose classes are called ``label 1``, ``label 2`` and so on."""
    return CaseValues(case_id, Counter(int(name.removeprefix("label ")) for name in boxes.classes or ()), {})


CaseRecords = ByClass[dict[BoxCriterion, ScoredCase]]


def _summarize(
    rows: Sequence[BoxCase],
    records: Sequence[CaseRecords],
    predicted: BoxFolder,
    patients: Sequence[str],
    bootstrap: tuple[int, int],
) -> BoxSummary:
    """Return the metrics of all cases; ``bootstrap`` is the number of resamples and the seed."""
    names = list(records[0].classes)
    scored = {
        criterion: ByClass(
            [entry.overall[criterion] for entry in records],
            {name: [entry.classes[name][criterion] for entry in records] for name in names},
        )
        for criterion in BoxCriterion
    }
    lesion_free = [row for row in rows if row.truth == 0]
    return BoxSummary(
        cases=len(rows),
        lesions=sum(row.truth for row in rows),
        boxes=sum(row.boxes for row in rows),
        lesions_by_class={
            name: sum(len(entry.truth_scores) for entry in of_class)
            for name, of_class in scored[BoxCriterion.IOU_01].classes.items()
        },
        lesion_free_scans=len(lesion_free),
        boxes_in_lesion_free_scans=sum(row.boxes for row in lesion_free),
        patients=len(set(patients)),
        cases_without_boxes=tuple(row.case_id for row in rows if row.case_id not in predicted.cases),
        scores={criterion: score_summary(entry) for criterion, entry in scored.items()},
        intervals={
            criterion: score_intervals(entry.overall, *bootstrap, patients) for criterion, entry in scored.items()
        },
    )


def _rename_single_class(truths: Sequence[CaseBoxes], boxes: Mapping[str, CaseBoxes]) -> dict[str, CaseBoxes]:
    """Rename the class of the boxes to the class of the truth, if both have only one class.

    Without a dataset.json a label file names its class ``label 1``, while a table of boxes may call it ``lesion``.
    """
    true_names, names = ({name for entry in side for name in entry.classes or ()} for side in (truths, boxes.values()))
    if len(true_names) == len(names) == 1:
        [true_name], [name] = true_names, names
        if true_name.startswith("label ") and not name.startswith("label "):
            return {
                case_id: entry if entry.classes is None else replace(entry, classes=(true_name,) * len(entry))
                for case_id, entry in boxes.items()
            }
    return dict(boxes)


def _class_names(truths: Sequence[CaseBoxes], boxes: Sequence[CaseBoxes], label_format: LabelFormat) -> list[str]:
    """Return the names of all classes. Boxes without a class belong to the only class."""
    sides = [[entry for entry in side if len(entry)] for side in (truths, boxes)]
    names = [] if label_format.classes is None else list(label_format.classes)
    true_names, box_names = ({name for entry in side for name in entry.classes or ()} for side in sides)
    if not names and true_names and box_names and not true_names & box_names:
        raise DetSeg3DError(
            "true and predicted boxes have no class in common",
            value=f"{sorted(box_names)} against {sorted(true_names)} in the truth",
            remedy="use the same class names on both sides, or name the values in a dataset.json beside the truth",
        )
    names += sorted((true_names | box_names) - set(names), key=lambda name: (len(name), name))
    if len(names) > 1 and any(entry.classes is None for side in sides for entry in side):
        raise DetSeg3DError(
            "there are several classes, but some boxes have no class",
            value=names,
            expected="a column class in each table of boxes",
        )
    return names or ["lesion"]


def _match(case_id: str, truth: CaseBoxes, boxes: CaseBoxes, names: Sequence[str]) -> CaseRecords:
    """Match the boxes of a case within each class, under each criterion."""
    true_classes, box_classes = (_class_indices(side, names) for side in (truth, boxes))
    scores = np.zeros(0) if boxes.scores is None else boxes.scores
    classes: dict[str, dict[BoxCriterion, ScoredCase]] = {}
    for index, name in enumerate(names):
        is_true, is_predicted = true_classes == index, box_classes == index
        classes[name] = {
            criterion: scored_case_from_boxes(
                case_id,
                truth.boxes[is_true],
                true_classes[is_true],
                boxes.boxes[is_predicted],
                scores[is_predicted],
                box_classes[is_predicted],
                criterion.minimum_iou,
            )
            for criterion in BoxCriterion
        }
    overall = {
        criterion: add_scored([of_class[criterion] for of_class in classes.values()]) for criterion in BoxCriterion
    }
    return ByClass(overall, classes)


def _class_indices(boxes: CaseBoxes, names: Sequence[str]) -> IntArray:
    if boxes.classes is None:
        return np.zeros(len(boxes), np.int64)
    return np.array([names.index(name) for name in boxes.classes], np.int64)


def _counts(case_id: str, truth: CaseBoxes, boxes: CaseBoxes, records: CaseRecords) -> BoxCase:
    criteria = {
        criterion: BoxCounts(
            int(np.count_nonzero(np.isfinite(record.truth_scores))),
            len(record.true_positive_scores),
            len(record.false_positive_scores),
        )
        for criterion, record in records.overall.items()
    }
    return BoxCase(case_id, len(truth), len(boxes), criteria)


def _describe_outside(boxes: FloatArray, shape: Triple | None) -> str:
    """Return a warning about boxes outside the scan. The reason is often a different order of the axes."""
    if shape is None:
        return ""
    outside = np.any((boxes[:, :3] >= shape) | (boxes[:, 3:] <= 0), axis=1)
    if not outside.any():
        return ""
    return (
        f"{np.count_nonzero(outside)} of {len(boxes)} boxes lie outside the scan of {' '.join(map(str, shape))} voxels "
        "(z y x): is the order of their axes z y x?"
    )
