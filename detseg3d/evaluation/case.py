"""Lesion metrics of one case, from two instance maps: pure, without files, used by training and evaluation alike."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import cc3d
import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import BoolArray, IntArray
from detseg3d.evaluation.definitions.per_case import CaseFigures, FigureRule, case_figures, preset_result
from detseg3d.evaluation.definitions.presets import PresetInput
from detseg3d.evaluation.matching import (
    InstanceTable,
    OverlapTable,
    best_overlaps,
    match_any_overlap,
    match_one_to_one,
    overlap_table,
)
from detseg3d.evaluation.metrics import (
    CRITERIA,
    CaseMetrics,
    ClassMetrics,
    DetectionCounts,
    LesionRecord,
    PanopticCounts,
)
from detseg3d.evaluation.scores.froc import ScoredCase, add_scored, scored_case
from detseg3d.evaluation.summary import summarize

__all__ = ["class_metrics", "detect", "evaluate_case", "panoptic_counts", "summarize"]

logger = logging.getLogger(__name__)

Value = TypeVar("Value", int, float)
PerLesion = Mapping[int, Value] | Sequence[Value] | npt.NDArray[Any]


def evaluate_case(
    case_id: str,
    truth: npt.NDArray[np.integer[Any]],
    prediction: npt.NDArray[np.integer[Any]],
    spacing: Sequence[float],
    *,
    truth_classes: PerLesion[int] | None = None,
    prediction_classes: PerLesion[int] | None = None,
    prediction_scores: PerLesion[float] | None = None,
    class_names: Sequence[str] | None = None,
    figures: FigureRule | None = None,
    voxel_volume: float | None = None,
) -> CaseMetrics:
    """Compare a predicted with a true instance map. For masks use :func:`~detseg3d.evaluation.arrays.evaluate_arrays`.

    Lesions are compared within their class. Definitions: :func:`detect`, :func:`panoptic_counts` and
    :class:`~detseg3d.evaluation.metrics.ClassMetrics`.

    Parameters
    ----------
    case_id : str
        Name, for the records.
    truth, prediction : ndarray of int, shape ``(Z, Y, X)``
        Instance maps on one grid: 0 is background, every other value is one lesion, however many pieces it has. A
        warning is logged if both have no value but 1, in several pieces, as masks would.
    spacing : 3 floats
        Millimetres ``(z, y, x)``.
    truth_classes, prediction_classes : sequence or dict, optional
        Class index of each lesion: a sequence for ids ``1..N`` or a dict from id to class index. All 0 by default.
    prediction_scores : sequence or dict, optional
        Score of each predicted lesion, likewise; from them the records for FROC and average precision follow.
    class_names : sequence of str, optional
        Name of each class index; ``lesion`` if there is but one class, else ``class 0``, ``class 1``, …
    figures : FigureRule, optional
        Also compute what takes more than counting: surface and lesion-wise figures.
    voxel_volume : float, optional
        Of one voxel in mm³, which is less than the product of the spacing if the grid is sheared; by default that.

    Raises
    ------
    ValueError
        If the shapes differ, or a lesion has no class, or a class no name; or if an array is of type bool, which is a
        mask.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 4, 4), np.int32)
    >>> truth[0, 0, 0:2], truth[0, 3, 3] = 1, 2
    >>> prediction[0, 0, 0:2] = 1
    >>> case = evaluate_case("a", truth, prediction, (3.0, 1.0, 1.0))
    >>> case.overall.detection["any"].recall, case.overall.detection["any"].precision, round(case.dice, 3)
    (0.5, 1.0, 0.8)
    """
    z, y, x = (float(value) for value in spacing)
    volume = z * y * x if voxel_volume is None else voxel_volume
    table = overlap_table(truth, prediction)
    _check_not_masks((truth, prediction), table)
    class_of_truth = _per_lesion(table.truth, truth_classes, "true", "class")
    class_of_prediction = _per_lesion(table.prediction, prediction_classes, "predicted", "class")
    scores = None
    if prediction_scores is not None:
        scores = _per_lesion(table.prediction, prediction_scores, "predicted", "score")
    names = _names(class_names, class_of_truth, class_of_prediction)
    table = table.keep(class_of_truth[table.truth_index] == class_of_prediction[table.prediction_index])
    parts = {
        name: (table.select(class_of_truth == index, class_of_prediction == index), class_of_prediction == index)
        for index, name in enumerate(names)
    }
    true_names, predicted_names = ([names[int(index)] for index in of] for of in (class_of_truth, class_of_prediction))
    lesions = (
        *_records(case_id, "truth", table, true_names, None, volume),
        *_records(case_id, "prediction", table, predicted_names, scores, volume),
    )
    more: dict[str, CaseFigures] = {}
    if figures is not None:
        of_truth = dict(zip(table.truth.ids.tolist(), class_of_truth.tolist(), strict=True))
        of_prediction = dict(zip(table.prediction.ids.tolist(), class_of_prediction.tolist(), strict=True))
        more = case_figures(truth, prediction, of_truth, of_prediction, names, (z, y, x), figures, volume)
    preset = None
    if figures is not None and figures.preset is not None:
        given = PresetInput(truth, prediction, table, scores, (z, y, x), volume)
        preset = preset_result(figures.preset, given, class_of_truth, class_of_prediction, names)
    return CaseMetrics(
        case_id,
        (z, y, x),
        volume,
        {name: class_metrics(part) for name, (part, _) in parts.items()},
        lesions,
        more,
        {} if scores is None else _scored(case_id, parts, scores),
        preset,
    )


def _check_not_masks(maps: Sequence[npt.NDArray[Any]], table: OverlapTable) -> None:
    if any(map_.dtype == np.bool_ for map_ in maps):
        raise ValueError("an array of type bool is a mask, not an instance map; use evaluate_arrays")
    ids = {*table.truth.ids.tolist(), *table.prediction.ids.tolist()}
    if ids == {1} and any(int(cc3d.connected_components(map_ != 0, connectivity=26).max()) > 1 for map_ in maps):
        logger.warning(
            "truth and prediction have no value but 1, in several pieces, and were taken for one lesion each; if they "
            "are masks, use evaluate_arrays"
        )


def _scored(
    case_id: str, parts: Mapping[str, tuple[OverlapTable, BoolArray]], scores: npt.NDArray[np.float64]
) -> dict[str, dict[str, ScoredCase]]:
    """Records of each class and of all together, for every criterion."""
    result = {
        name: {
            criterion: scored_case(case_id, table, scores[members], minimum_iou)
            for criterion, minimum_iou in CRITERIA.items()
        }
        for name, (table, members) in parts.items()
    }
    nothing = ScoredCase(case_id, *(np.zeros(0) for _ in range(3)))  # a case may have no class at all
    result["all"] = {name: add_scored([nothing, *(part[name] for part in result.values())]) for name in CRITERIA}
    return result


def detect(table: OverlapTable, minimum_iou: float | None) -> tuple[BoolArray, BoolArray]:
    """Which true lesions are found and which predicted ones are true positives.

    Parameters
    ----------
    table : OverlapTable
    minimum_iou : float or None
        ``None``: *any overlap*. A true lesion is found if any predicted lesion shares at least one voxel with it; a
        predicted lesion is a true positive if it shares at least one voxel with any true lesion. Recall is counted over
        true lesions, precision over predicted ones, F1 is their harmonic mean. One prediction may find several lesions.

        A number: *one-to-one* with at least this IoU, by the Hungarian method, see
        :func:`~detseg3d.evaluation.matching.match_one_to_one`. Duplicates are false positives.

    Returns
    -------
    found : ndarray of bool, shape ``(T,)``
    true_positive : ndarray of bool, shape ``(P,)``
    """
    if minimum_iou is None:
        return match_any_overlap(table)
    matches = match_one_to_one(table, minimum_iou)
    found, true_positive = np.zeros(len(table.truth), np.bool_), np.zeros(len(table.prediction), np.bool_)
    found[matches.truth_index] = True
    true_positive[matches.prediction_index] = True
    return found, true_positive


def panoptic_counts(table: OverlapTable) -> PanopticCounts:
    """Matches with IoU above 0.5 for the panoptic quality; see :class:`PanopticCounts`."""
    iou = table.iou
    matched = iou > 0.5
    return PanopticCounts(
        len(table.truth), len(table.prediction), int(np.count_nonzero(matched)), float(iou[matched].sum())
    )


def class_metrics(table: OverlapTable) -> ClassMetrics:
    """All counts of one class, whose lesions and overlaps ``table`` holds."""
    detection = {}
    for name, minimum_iou in CRITERIA.items():
        found, true_positive = detect(table, minimum_iou)
        detection[name] = DetectionCounts(
            len(table.truth),
            int(np.count_nonzero(found)),
            len(table.prediction),
            int(np.count_nonzero(true_positive)),
        )
    return ClassMetrics(
        int(table.truth.voxels.sum()),
        int(table.prediction.voxels.sum()),
        int(table.intersection.sum()),
        detection,
        panoptic_counts(table),
    )


def _per_lesion(table: InstanceTable, values: PerLesion[Any] | None, which: str, what: str) -> npt.NDArray[Any]:
    """The value of each lesion of the table; all 0 without any."""
    if values is None:
        return np.zeros(len(table), np.int64)
    ids = table.ids.tolist()
    known = values if isinstance(values, Mapping) else dict(enumerate(np.asarray(values).tolist(), start=1))
    missing = [number for number in ids if number not in known]
    if missing:
        shown = ", ".join(str(number) for number in missing[:5])
        raise ValueError(f"{len(missing)} {which} lesion(s) of the instance map have no {what}: {shown}")
    return np.array([known[number] for number in ids], np.int64 if what == "class" else np.float64)


def _names(class_names: Sequence[str] | None, *classes: IntArray) -> list[str]:
    used = [int(values.max()) for values in classes if len(values)]
    count = max(used, default=0) + 1
    if class_names is None:
        return ["lesion"] if count == 1 else [f"class {index}" for index in range(count)]
    lowest = min((int(values.min()) for values in classes if len(values)), default=0)
    if used and (count > len(class_names) or lowest < 0):
        raise ValueError(f"class indices reach from {lowest} to {count - 1}, but the classes are {list(class_names)}")
    return list(class_names)


def _records(
    case_id: str,
    kind: str,
    table: OverlapTable,
    class_names: Sequence[str],
    scores: npt.NDArray[np.float64] | None,
    voxel_volume: float,
) -> Iterator[LesionRecord]:
    side = 0 if kind == "truth" else 1
    own, other = (table.truth, table.prediction) if side == 0 else (table.prediction, table.truth)
    partner_index = table.prediction_index if side == 0 else table.truth_index
    matched = {name: detect(table, minimum_iou)[side] for name, minimum_iou in CRITERIA.items()}
    best, iou, dice = best_overlaps(table)[side], table.iou, table.dice
    for index in range(len(own)):
        pair = int(best[index])
        z, y, x = own.centers[index].tolist()
        yield LesionRecord(
            case_id=case_id,
            kind=kind,
            id=int(own.ids[index]),
            class_name=class_names[index],
            voxels=int(own.voxels[index]),
            volume_mm3=float(own.voxels[index] * voxel_volume),
            center=(z, y, x),
            matched={name: bool(values[index]) for name, values in matched.items()},
            partner=int(other.ids[partner_index[pair]]) if pair >= 0 else None,
            iou=float(iou[pair]) if pair >= 0 else 0.0,
            dice=float(dice[pair]) if pair >= 0 else 0.0,
            score=None if scores is None else float(scores[index]),
        )
