"""Evaluate boxes with scores, whoever made them: FROC, average precision and CPM."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like
from detseg3d.data.labels import LabelFormat, read_label_format, read_true_lesions
from detseg3d.evaluation.boxes.files import BoxFolder, CaseBoxes, read_boxes
from detseg3d.evaluation.boxes.matching import scored_case_from_boxes
from detseg3d.evaluation.case_files import (
    common_cases,
    describe_problem,
    files_by_case,
    image_case,
)
from detseg3d.evaluation.remarks import interval_note, left_out, too_few
from detseg3d.evaluation.scores.froc import FROC_RATES, ScoredCase, add_scored, score_summary
from detseg3d.evaluation.scores.score_intervals import score_intervals
from detseg3d.evaluation.stored_values import CaseValues, check_not_instances, odd_values
from detseg3d.evaluation.table import markdown_table
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["BOX_CRITERIA", "evaluate_boxes", "format_box_evaluation", "true_boxes"]

logger = logging.getLogger(__name__)

BOX_CRITERIA: dict[str, float | None] = {"iou_0.1": 0.1, "iou_0.5": 0.5, "center": None}
"""When a predicted box finds a lesion: IoU of the boxes, or centre in the true box. See
:func:`~detseg3d.evaluation.boxes.matching.scored_case_from_boxes`."""


@dataclass(frozen=True)
class _Truth:
    """The true boxes of a case, and the size of the scan if a label file tells it."""

    boxes: CaseBoxes
    shape: tuple[int, int, int] | None


def true_boxes(file: Path, form: LabelFormat) -> tuple[CaseBoxes, tuple[int, int, int]]:
    """The tight boxes of the lesions of a label file, and its size ``(z, y, x)``, both as the file is stored."""
    truth = read_true_lesions(file, form)
    ids, boxes = boxes_from_instances(truth.lesions.instances)
    names = tuple(truth.names[truth.lesions.classes[number]] for number in ids.tolist())
    order = truth.geometry.stored_order
    stored = np.array([order.box_to_stored(box) for box in boxes.tolist()], np.float64).reshape(-1, 6)
    return CaseBoxes(stored, None, names, order), truth.geometry.as_stored().shape


def evaluate_boxes(
    truth: str | Path,
    prediction: str | Path,
    *,
    label_format: LabelFormat | None = None,
    network_spacing: Sequence[float] | None = None,
    groups: Mapping[str, str] | None = None,
    samples: int = 1000,
    seed: int = 0,
    cases: Sequence[str] | None = None,
    run: Run = Run(),
) -> dict[str, Any]:
    """Evaluate the boxes of all cases that both sides have.

    Parameters
    ----------
    truth : path
        A folder of label files: the boxes are those of the lesions. Or boxes as for ``prediction``, without scores
        (the CSV needs a line for each lesion-free case, too, with nothing but its name).
    prediction : path
        See :func:`~detseg3d.evaluation.boxes.files.read_boxes`.
    label_format : LabelFormat, optional
        By default from a dataset.json, see :func:`~detseg3d.data.labels.read_label_format`.
    network_spacing : 3 floats, optional
        For boxes of nnDetection, see :func:`~detseg3d.evaluation.boxes.nndetection.read_nndetection_boxes`.
    groups : dict of str to str, optional
        Patient of each case, for the intervals. By default each case is a patient.
    samples, seed : int, optional
        Of the bootstrap.
    cases : sequence of str, optional
        Only these; by default all of ``truth``.
    run : Run, optional

    Returns
    -------
    dict
        Ready for JSON. ``truth``, ``prediction``: what was read. ``summary``: ``cases``, ``lesions``,
        ``lesions_by_class``, ``boxes``, ``lesion_free`` (``scans`` without a true lesion and their ``boxes``),
        ``patients`` (their number), ``cases_without_boxes`` (those that a table of all cases does not mention, which
        counts as no boxes),
        ``scores`` (see :func:`~detseg3d.evaluation.scores.froc.score_summary`) and ``intervals`` (see
        :func:`~detseg3d.evaluation.scores.score_intervals.score_intervals`), both by :data:`BOX_CRITERIA`. ``cases``:
        counts
        of each case, all scores included. ``warnings`` and ``problems``: ``{"case", "warning"}`` of what looks wrong,
        and ``{"case", "problem"}`` of what could not be evaluated and is in no figure.

    Raises
    ------
    DetSeg3DError
        If a side cannot be read, there is no case in common, or only one side says the classes of its boxes.
    """
    truth, prediction = Path(truth), Path(prediction)
    form = label_format or read_label_format(truth if truth.is_dir() else truth.parent, prediction)
    labels = {"lesion": 1} if form.classes is None and form.truth_instances else form.classes
    predicted = read_boxes(prediction, labels, network_spacing)
    problems = list(predicted.problems)
    by_label = files_by_case(truth, "truth", image_case, problems) if truth.is_dir() else {}
    table = None if by_label else read_boxes(truth, labels, scores=False)
    known = by_label if table is None else table.cases
    predicted = replace(predicted, cases=named_like(predicted.cases, known))
    groups = named_like(groups or {}, known)
    problems += [] if table is None else table.problems
    available = set(predicted.cases)
    if predicted.one_file and (not available or available & set(known)):
        # In a table of all cases one without boxes need not occur. But if no name fits, the names are wrong.
        available |= set(known)
    hint = "" if table is None else "; a case without lesions needs a line with nothing but its name"
    common = common_cases(known, available, (truth, prediction), problems, cases, hint)
    if table is None:
        truths = _read_truths(common, by_label, form, problems, run)
    else:
        truths = {case_id: _Truth(table.cases[case_id], None) for case_id in common}
    if not truths:
        raise DetSeg3DError(f"no case could be evaluated; the first problem: {problems[-1]['problem']}")
    return {
        "truth": str(truth) if table is None else table.source,
        "prediction": predicted.source,
        "class_labels": None if form.classes is None else dict(form.classes),
        **_evaluate(truths, predicted, form, groups, samples, seed),
        "problems": sorted(problems, key=lambda problem: problem["case"]),
    }


def _read_truths(
    cases: Sequence[str],
    files: Mapping[str, Path],
    form: LabelFormat,
    problems: list[dict[str, str]],
    run: Run,
) -> dict[str, _Truth]:
    truths = {}
    paths = [files[case_id] for case_id in cases]
    results = run_cases(partial(true_boxes, form=form), paths, run, "reading labels")
    for case_id, result in zip(cases, results, strict=True):
        if result.value is not None:
            truths[case_id] = _Truth(*result.value)
        else:
            logger.debug("%s: %s", case_id, result.traceback)
            problems.append(describe_problem(case_id, result.error))
    if form.classes is not None or form.truth_instances:
        return truths
    values = [_values(case_id, truth.boxes) for case_id, truth in truths.items()]
    check_not_instances(values)
    odd = odd_values(values)
    problems += [describe_problem(case_id, error) for case_id, error in odd.items()]
    return {case_id: truth for case_id, truth in truths.items() if case_id not in odd}


def _values(case_id: str, boxes: CaseBoxes) -> CaseValues:
    """The values of a label file whose classes are called ``label 1``, ``label 2`` and so on."""
    return CaseValues(case_id, Counter(int(name.removeprefix("label ")) for name in boxes.classes or ()), {})


def _evaluate(
    truths: Mapping[str, _Truth],
    predicted: BoxFolder,
    form: LabelFormat,
    groups: Mapping[str, str],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    nothing = CaseBoxes(np.zeros((0, 6)), np.zeros(0), ())
    boxes = {
        case_id: predicted.cases.get(case_id, nothing).in_order(truth.boxes.order) for case_id, truth in truths.items()
    }
    if form.classes is None:
        boxes = _named_as_the_truth([truth.boxes for truth in truths.values()], boxes)
    names = _class_names([truth.boxes for truth in truths.values()], list(boxes.values()), form)
    scored: dict[str, dict[str, list[ScoredCase]]] = {
        name: {criterion: [] for criterion in BOX_CRITERIA} for name in ("all", *names)
    }
    rows, warnings = [], []
    for case_id, truth in truths.items():
        records = _match(case_id, truth.boxes, boxes[case_id], names)
        for name, of_class in records.items():
            for criterion, record in of_class.items():
                scored[name][criterion].append(record)
        rows.append(_counts(case_id, truth.boxes, boxes[case_id], records["all"]))
        outside = _outside(boxes[case_id].boxes, truth.shape)
        if outside:
            warnings.append({"case": case_id, "warning": outside})
    patients = [groups.get(case_id, case_id) for case_id in truths]
    free = [row for row in rows if row["truth"] == 0]
    summary = {
        "cases": len(rows),
        "lesions": sum(row["truth"] for row in rows),
        "lesions_by_class": {
            name: sum(len(record.truth_scores) for record in scored[name]["iou_0.1"]) for name in names
        },
        "boxes": sum(row["boxes"] for row in rows),
        "lesion_free": {"scans": len(free), "boxes": sum(row["boxes"] for row in free)},
        "patients": len(set(patients)),
        "cases_without_boxes": [case_id for case_id in truths if case_id not in predicted.cases],
        "scores": score_summary(scored),
        "intervals": {
            criterion: score_intervals(records, samples, seed, patients) for criterion, records in scored["all"].items()
        },
    }
    return {"summary": summary, "cases": rows, "warnings": warnings}


def _named_as_the_truth(truths: Sequence[CaseBoxes], boxes: Mapping[str, CaseBoxes]) -> dict[str, CaseBoxes]:
    """A single class that has a name only in the boxes and a value only in the labels is one and the same."""
    mine, theirs = ({name for one in side for name in one.classes or ()} for side in (truths, boxes.values()))
    if len(mine) == len(theirs) == 1 and min(mine).startswith("label ") and not min(theirs).startswith("label "):
        return {
            case_id: one if one.classes is None else replace(one, classes=(min(mine),) * len(one))
            for case_id, one in boxes.items()
        }
    return dict(boxes)


def _class_names(truths: Sequence[CaseBoxes], boxes: Sequence[CaseBoxes], form: LabelFormat) -> list[str]:
    """All classes. Boxes without a class are of the only one there is."""
    sides = [[one for one in side if len(one)] for side in (truths, boxes)]
    names = [] if form.classes is None else list(form.classes)
    mine, theirs = ({name for one in side for name in one.classes or ()} for side in sides)
    if not names and mine and theirs and not mine & theirs:
        raise DetSeg3DError(
            "true and predicted boxes have no class in common",
            value=f"{sorted(theirs)} against {sorted(mine)} in the truth",
            remedy="name the classes alike, or their values in a dataset.json beside the truth",
        )
    names += sorted((mine | theirs) - set(names), key=lambda name: (len(name), name))
    silent = any(one.classes is None for side in sides for one in side)
    if silent and len(names) > 1:
        raise DetSeg3DError(
            "there are several classes, but not every box says of which it is",
            value=names,
            expected="a column class in each table of boxes",
        )
    return names or ["lesion"]


def _match(case_id: str, truth: CaseBoxes, boxes: CaseBoxes, names: Sequence[str]) -> dict[str, dict[str, ScoredCase]]:
    """Records by class, and of all classes added up, by criterion."""
    of_truth, of_boxes = (_class_indices(side, names) for side in (truth, boxes))
    scores = np.zeros(0) if boxes.scores is None else boxes.scores
    records: dict[str, dict[str, ScoredCase]] = {}
    for index, name in enumerate(names):
        true, found = of_truth == index, of_boxes == index
        records[name] = {
            criterion: scored_case_from_boxes(
                case_id, truth.boxes[true], of_truth[true], boxes.boxes[found], scores[found], of_boxes[found], iou
            )
            for criterion, iou in BOX_CRITERIA.items()
        }
    everything = {
        criterion: add_scored([of_class[criterion] for of_class in records.values()]) for criterion in BOX_CRITERIA
    }
    return {"all": everything, **records}


def _class_indices(boxes: CaseBoxes, names: Sequence[str]) -> npt.NDArray[np.int64]:
    if boxes.classes is None:
        return np.zeros(len(boxes), np.int64)
    return np.array([names.index(name) for name in boxes.classes], np.int64)


def _counts(case_id: str, truth: CaseBoxes, boxes: CaseBoxes, records: Mapping[str, ScoredCase]) -> dict[str, Any]:
    criteria = {
        name: {
            "found": int(np.count_nonzero(np.isfinite(record.truth_scores))),
            "true_positives": len(record.true_positive_scores),
            "false_positives": len(record.false_positive_scores),
        }
        for name, record in records.items()
    }
    return {"case_id": case_id, "truth": len(truth), "boxes": len(boxes), "criteria": criteria}


def _outside(boxes: npt.NDArray[np.float64], shape: tuple[int, int, int] | None) -> str:
    """What to say of boxes that lie wholly outside the scan: most often their axes are in another order."""
    if shape is None:
        return ""
    outside = np.any((boxes[:, :3] >= shape) | (boxes[:, 3:] <= 0), axis=1)
    if not outside.any():
        return ""
    return (
        f"{np.count_nonzero(outside)} of {len(boxes)} boxes lie outside the scan of {' '.join(map(str, shape))} voxels "
        "(z y x): is the order of their axes z y x?"
    )


_TITLES = {"iou_0.1": "IoU ≥ 0.1", "iou_0.5": "IoU ≥ 0.5", "center": "centre in box"}


def format_box_evaluation(result: Mapping[str, Any]) -> str:
    """What :func:`evaluate_boxes` returned, as Markdown."""
    summary = result["summary"]
    parts = [
        "### Boxes\n\n"
        + markdown_table(
            ("criterion", "AP", "95 % interval", "mAP", "CPM", "95 % interval"),
            [_headline(name, summary) for name in BOX_CRITERIA],
        ),
        "### Recall at false positives per scan\n\n"
        + markdown_table(
            ("criterion", *(f"{rate:g}" for rate in FROC_RATES)),
            [
                (_TITLES[name], *(_measured(row["recall"], summary) for row in summary["scores"][name]["froc"]))
                for name in BOX_CRITERIA
            ],
        ),
        _cases(summary),
        _intervals(summary),
        "mAP is the mean AP of the classes that occur in the truth. By centre, further boxes in a lesion that is\n"
        "found already do not count, as in LUNA16; by IoU they are false positives.",
    ]
    classes = summary["scores"]["iou_0.1"]["classes"]
    if len(classes) > 1:
        rows = [
            (
                name,
                *(
                    _share(summary["scores"][criterion]["classes"][name]["average_precision"])
                    if summary["lesions_by_class"][name]
                    else "–"
                    for criterion in BOX_CRITERIA
                ),
            )
            for name in classes
        ]
        parts.insert(2, "### AP by class\n\n" + markdown_table(("class", *(_TITLES[c] for c in BOX_CRITERIA)), rows))
    for title, key in (("Looks wrong", "warning"), ("Not evaluated", "problem")):
        entries = result[f"{key}s"]
        if entries:
            lines = [f"- {entry['case']}: {' '.join(entry[key].split())}" for entry in entries]
            parts.append(f"### {title}: {len(entries)}\n\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def _headline(name: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    scores, intervals = summary["scores"][name], summary["intervals"][name]
    ranges = [
        "–" if ends["low"] is None else f"{ends['low']:.3f} to {ends['high']:.3f}"
        for ends in (intervals["average_precision"], intervals["cpm"])
    ]
    ap, cpm = (_measured(scores[figure], summary) for figure in ("average_precision", "cpm"))
    return _TITLES[name], ap, ranges[0], _share(scores["map"]), cpm, ranges[1]


def _intervals(summary: Mapping[str, Any]) -> str:
    headlines = [figures[name] for figures in summary["intervals"].values() for name in ("average_precision", "cpm")]
    if all(ends["low"] is None for ends in headlines):
        return ""
    figures = [{str(place): entry for place, entry in enumerate(headlines)}]
    few = too_few(figures)
    notes = interval_note({"": summary["patients"]}), left_out(figures), few and f"**{few}**"
    return " ".join(note for note in notes if note)


def _cases(summary: Mapping[str, Any]) -> str:
    free, silent = summary["lesion_free"], summary["cases_without_boxes"]
    text = (
        f"{summary['cases']} cases with {summary['lesions']} lesions and {summary['boxes']} boxes; "
        f"cases without lesions: {free['scans']},\nwith {free['boxes']} of the boxes."
    )
    if silent:
        shown = ", ".join(silent[:5]) + (", …" if len(silent) > 5 else "")
        text += f" Cases that the table of boxes does not mention, which counts as no boxes: {len(silent)} ({shown})."
    return text


def _measured(value: float | None, summary: Mapping[str, Any]) -> str:
    """A figure that needs true lesions. Without any, the definitions give 0 or 1, which nobody measured."""
    return _share(value if summary["lesions"] else None)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
