"""Metrics of one case, computed from two instance maps without reading files; for training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyIntArray, BoolArray, FloatArray, IntArray, Spacing, as_spacing, as_triple
from detseg3d.core.geometry import Geometry
from detseg3d.data.labels import Lesions
from detseg3d.evaluation.by_class import ByClass
from detseg3d.evaluation.definitions.outlines import MetricVariants, combine_outlines, measure_outlines
from detseg3d.evaluation.definitions.presets import PresetInput, PresetResult, preset_case
from detseg3d.evaluation.matching import (
    InstanceTable,
    OverlapTable,
    best_overlaps,
    match_any_overlap,
    match_one_to_one,
    overlap_table,
)
from detseg3d.evaluation.metrics import (
    CaseMetrics,
    ClassMetrics,
    Criterion,
    DetectionCounts,
    LesionMetrics,
    PanopticCounts,
)
from detseg3d.evaluation.scores.froc import ScoredCase, add_scored, scored_case
from detseg3d.measures.lesion import LesionShape
from detseg3d.measures.measure import measure_lesions

__all__ = ["as_lesions", "detection_counts", "evaluate_case", "panoptic_counts"]

logger = logging.getLogger(__name__)


def as_lesions(
    instances: AnyIntArray,
    classes: Mapping[int, int] | Sequence[int] | IntArray | None = None,
    scores: Mapping[int, float] | Sequence[float] | FloatArray | None = None,
) -> Lesions:
    """Return an instance map with the classes and scores of its lesions.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map: 0 is background, every other value is one lesion.
    classes : sequence or dict, optional
        Class index of each lesion: a sequence for the ids ``1..N``, or a dict from id to class index. By default every
        lesion has class index 0.
    scores : sequence or dict, optional
        Score of each lesion, in the same form.

    Examples
    --------
    >>> as_lesions(np.array([[[0, 1, 2]]]), scores=[0.9, 0.4]).scores
    {1: 0.9, 2: 0.4}
    """
    if classes is None:
        classes = dict.fromkeys(np.unique(instances[instances != 0]).tolist(), 0)
    return Lesions(instances, _by_id(classes), None if scores is None else _by_id(scores))


def _by_id(values: Mapping[int, Any] | Sequence[Any] | npt.NDArray[Any]) -> Mapping[int, Any]:
    return values if isinstance(values, Mapping) else dict(enumerate(np.asarray(values).tolist(), start=1))


@dataclass(frozen=True)
class _CasePair:
    """Truth and prediction of a case: instance maps, overlaps, and the class and score of each lesion."""

    case_id: str
    truth: AnyIntArray
    prediction: AnyIntArray
    spacing: Spacing
    voxel_volume_mm3: float
    table: OverlapTable
    truth_classes: IntArray
    prediction_classes: IntArray
    scores: FloatArray | None

    def of_class(self, index: int) -> PresetInput:
        """Return the lesions of one class."""
        is_truth, is_predicted = self.truth_classes == index, self.prediction_classes == index
        return PresetInput(
            _keep(self.truth, self.table.truth.ids, is_truth),
            _keep(self.prediction, self.table.prediction.ids, is_predicted),
            self.table.select(is_truth, is_predicted),
            None if self.scores is None else self.scores[is_predicted],
            self.spacing,
            self.voxel_volume_mm3,
        )


def _keep(instances: AnyIntArray, ids: IntArray, kept: BoolArray) -> AnyIntArray:
    """Return the instance map with only the kept lesions. If all lesions are kept, the result is not a copy."""
    if kept.all():
        return instances
    if not kept.any():
        return np.zeros_like(instances)
    result: AnyIntArray = np.where(np.isin(instances, ids[~kept]), 0, instances)
    return result


def evaluate_case(
    case_id: str,
    truth: Lesions,
    prediction: Lesions,
    spacing: Sequence[float],
    *,
    class_names: Sequence[str] | None = None,
    variants: MetricVariants | None = None,
    voxel_volume_mm3: float | None = None,
) -> CaseMetrics:
    """Compare predicted with true lesions. For masks use :func:`~detseg3d.evaluation.arrays.evaluate_arrays`.

    Lesions are compared within their class. See :func:`detect`, :func:`panoptic_counts` and
    :class:`~detseg3d.evaluation.metrics.ClassMetrics` for the definitions.

    Parameters
    ----------
    case_id : str
        Name of the case in the result.
    truth, prediction : Lesions
        Instance maps on the same grid, with the class index of each lesion; see :func:`as_lesions`. Every value except
        0 is one lesion, even if the lesion consists of several components. If both maps have only the value 1, in
        several components, they may be masks, and a warning is logged. If the prediction has scores, the result has
        records for FROC and average precision.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    class_names : sequence of str, optional
        Name of each class index. By default ``lesion`` for a single class, else ``class 0``, ``class 1``, …
    variants : MetricVariants, optional
        Also compute the metrics that need more than counts: surface metrics, lesion-wise metrics, and the shape of
        each lesion.
    voxel_volume_mm3 : float, optional
        Volume of one voxel in mm³; by default the product of the spacing. On a sheared grid, the volume is smaller than
        the product.

    Raises
    ------
    ValueError
        If the shapes differ, a lesion has no class, a class has no name, or an array is a mask of type bool.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 4, 4), np.int32)
    >>> truth[0, 0, 0:2], truth[0, 3, 3] = 1, 2
    >>> prediction[0, 0, 0:2] = 1
    >>> case = evaluate_case("a", as_lesions(truth), as_lesions(prediction), (3.0, 1.0, 1.0))
    >>> found = case.overall.detection[Criterion.ANY]
    >>> found.recall, found.precision, round(case.dice, 3)
    (0.5, 1.0, 0.8)
    """
    pair = _pair(case_id, truth, prediction, as_spacing(spacing), voxel_volume_mm3)
    names = _class_names(class_names, pair.truth_classes, pair.prediction_classes)
    with_shapes = variants is not None
    lesions = (
        *_lesion_metrics(pair, "truth", names, with_shapes),
        *_lesion_metrics(pair, "prediction", names, with_shapes),
    )
    counts: dict[str, ClassMetrics] = {}
    outlines = {}
    presets = {}
    scored: dict[str, dict[Criterion, ScoredCase]] = {}
    for index, name in enumerate(names):
        part = pair.of_class(index)
        counts[name] = class_metrics(part.table)
        if part.scores is not None:
            scored[name] = _scored(case_id, part.table, part.scores)
        if variants is not None:
            outlines[name] = measure_outlines(
                part.truth, part.prediction, pair.spacing, variants, pair.voxel_volume_mm3
            )
            if variants.preset is not None:
                presets[name] = preset_case(variants.preset, part)
    return CaseMetrics(
        case_id=case_id,
        spacing=pair.spacing,
        voxel_volume_mm3=pair.voxel_volume_mm3,
        classes=counts,
        lesions=lesions,
        outlines=None
        if variants is None
        else ByClass(
            combine_outlines(list(outlines.values()), variants.distances),
            {name: part.metrics for name, part in outlines.items()},
        ),
        preset=None if variants is None or variants.preset is None else PresetResult(variants.preset, presets),
        scored=None if pair.scores is None else ByClass(_scored_overall(case_id, scored), scored),
    )


def _pair(
    case_id: str, truth: Lesions, prediction: Lesions, spacing: Spacing, voxel_volume_mm3: float | None
) -> _CasePair:
    table = overlap_table(truth.instances, prediction.instances)
    _check_not_masks((truth.instances, prediction.instances), table)
    truth_classes = _per_lesion(table.truth, truth.classes, "true lesion(s) of the instance map have no class")
    prediction_classes = _per_lesion(
        table.prediction, prediction.classes, "predicted lesion(s) of the instance map have no class"
    )
    scores = None
    if prediction.scores is not None:
        problem = "predicted lesion(s) of the instance map have no score"
        scores = _per_lesion(table.prediction, prediction.scores, problem).astype(np.float64)
    z, y, x = spacing
    return _CasePair(
        case_id,
        truth.instances,
        prediction.instances,
        spacing,
        z * y * x if voxel_volume_mm3 is None else voxel_volume_mm3,
        # Lesions of different classes never match.
        table.keep(truth_classes[table.truth_index] == prediction_classes[table.prediction_index]),
        truth_classes.astype(np.int64),
        prediction_classes.astype(np.int64),
        scores,
    )


def _check_not_masks(maps: Sequence[npt.NDArray[Any]], table: OverlapTable) -> None:
    """Raise for bool arrays; warn if integer arrays look like masks."""
    if any(map_.dtype == np.bool_ for map_ in maps):
        raise ValueError("an array of type bool is a mask, not an instance map; use evaluate_arrays")
    ids = {*table.truth.ids.tolist(), *table.prediction.ids.tolist()}
    if ids == {1} and any(int(cc3d.connected_components(map_ != 0, connectivity=26).max()) > 1 for map_ in maps):
        logger.warning(
            "truth and prediction have only the value 1, in several components, and each array counts as one lesion; "
            "if the arrays are masks, use evaluate_arrays"
        )


def _per_lesion(table: InstanceTable, values: Mapping[int, Any], problem: str) -> npt.NDArray[Any]:
    """Return the value of each lesion of the table."""
    ids = table.ids.tolist()
    missing = [number for number in ids if number not in values]
    if missing:
        raise ValueError(f"{len(missing)} {problem}: {', '.join(map(str, missing[:5]))}")
    return np.array([values[number] for number in ids])


def _class_names(class_names: Sequence[str] | None, *classes: IntArray) -> list[str]:
    """Return the name of each class index. Raise a ValueError if an index that occurs has no name."""
    used = [int(values.max()) for values in classes if len(values)]
    count = max(used, default=0) + 1
    if class_names is None:
        return ["lesion"] if count == 1 else [f"class {index}" for index in range(count)]
    lowest = min((int(values.min()) for values in classes if len(values)), default=0)
    if used and (count > len(class_names) or lowest < 0):
        raise ValueError(
            f"the class indices range from {lowest} to {count - 1}, but the classes are {list(class_names)}"
        )
    return list(class_names)


def _scored(case_id: str, table: OverlapTable, scores: FloatArray) -> dict[Criterion, ScoredCase]:
    return {criterion: scored_case(case_id, table, scores, criterion.minimum_iou) for criterion in Criterion}


def _scored_overall(case_id: str, classes: Mapping[str, Mapping[Criterion, ScoredCase]]) -> dict[Criterion, ScoredCase]:
    """Return the records of all classes together. The records are empty if the case has no class."""
    return {
        criterion: add_scored([ScoredCase.empty(case_id), *(part[criterion] for part in classes.values())])
        for criterion in Criterion
    }


def detect(table: OverlapTable, minimum_iou: float | None) -> tuple[BoolArray, BoolArray]:
    """Classify the lesions: true lesions as found or missed, predictions as true or false positives.

    Parameters
    ----------
    table : OverlapTable
        Lesions and overlaps, with only pairs of equal class.
    minimum_iou : float or None
        ``None`` means *any overlap*. A true lesion is found if a predicted lesion shares at least one voxel with it. A
        predicted lesion is a true positive if it shares at least one voxel with any true lesion. Recall is counted over
        true lesions, precision over predicted lesions, and F1 is their harmonic mean. One prediction may find several
        lesions.

        A number means *one-to-one* matching with at least this IoU by the Hungarian method, see
        :func:`~detseg3d.evaluation.matching.match_one_to_one`. Duplicates are false positives.

    Returns
    -------
    found : ndarray of bool, shape ``(T,)``
        True for each true lesion that is found.
    true_positive : ndarray of bool, shape ``(P,)``
        True for each predicted lesion that is a true positive.
    """
    if minimum_iou is None:
        return match_any_overlap(table)
    matches = match_one_to_one(table, minimum_iou)
    found, true_positive = np.zeros(len(table.truth), np.bool_), np.zeros(len(table.prediction), np.bool_)
    found[matches.truth_index] = True
    true_positive[matches.prediction_index] = True
    return found, true_positive


def detection_counts(table: OverlapTable, minimum_iou: float | None) -> DetectionCounts:
    """Return the numbers of found lesions and true positives; see :func:`detect`."""
    found, true_positive = detect(table, minimum_iou)
    return DetectionCounts(
        len(table.truth),
        int(np.count_nonzero(found)),
        len(table.prediction),
        int(np.count_nonzero(true_positive)),
    )


def panoptic_counts(table: OverlapTable) -> PanopticCounts:
    """Return the counts of matches with an IoU above 0.5; see :class:`PanopticCounts`."""
    iou = table.iou
    matched = iou > 0.5
    return PanopticCounts(
        len(table.truth), len(table.prediction), int(np.count_nonzero(matched)), float(iou[matched].sum())
    )


def class_metrics(table: OverlapTable) -> ClassMetrics:
    """Return all counts of one class from the lesions of this class and their overlaps."""
    return ClassMetrics(
        int(table.truth.voxels.sum()),
        int(table.prediction.voxels.sum()),
        int(table.intersection.sum()),
        {criterion: detection_counts(table, criterion.minimum_iou) for criterion in Criterion},
        panoptic_counts(table),
    )


def _lesion_shapes(instances: AnyIntArray, ids: IntArray, spacing: Spacing) -> list[LesionShape]:
    geometry = Geometry(as_triple(instances.shape), spacing)
    return [LesionShape.of(measures) for measures in measure_lesions(instances, ids, geometry)]


def _lesion_metrics(
    pair: _CasePair, kind: str, class_names: Sequence[str], with_shapes: bool
) -> Iterator[LesionMetrics]:
    """Yield the metrics of each lesion of one side."""
    table, side = pair.table, 0 if kind == "truth" else 1
    own, other = (table.truth, table.prediction) if side == 0 else (table.prediction, table.truth)
    classes = pair.truth_classes if side == 0 else pair.prediction_classes
    partner_index = table.prediction_index if side == 0 else table.truth_index
    scores = None if side == 0 else pair.scores
    instances = pair.truth if side == 0 else pair.prediction
    shapes = _lesion_shapes(instances, own.ids, pair.spacing) if with_shapes else None
    matched = {criterion: detect(table, criterion.minimum_iou)[side] for criterion in Criterion}
    best, iou, dice = best_overlaps(table)[side], table.iou, table.dice
    for index in range(len(own)):
        overlap = int(best[index])
        z, y, x = own.centers[index].tolist()
        yield LesionMetrics(
            case_id=pair.case_id,
            kind=kind,
            id=int(own.ids[index]),
            class_name=class_names[classes[index]],
            voxels=int(own.voxels[index]),
            volume_mm3=float(own.voxels[index] * pair.voxel_volume_mm3),
            center=(z, y, x),
            matched={criterion: bool(values[index]) for criterion, values in matched.items()},
            partner=int(other.ids[partner_index[overlap]]) if overlap >= 0 else None,
            iou=float(iou[overlap]) if overlap >= 0 else 0.0,
            dice=float(dice[overlap]) if overlap >= 0 else 0.0,
            score=None if scores is None else float(scores[index]),
            shape=None if shapes is None else shapes[index],
        )
