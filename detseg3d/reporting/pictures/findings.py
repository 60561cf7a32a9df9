"""List the findings of a case (lesions that were found, missed lesions, false positives) and choose some to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from detseg3d.core.arrays import Array, Box, Spacing
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.evaluation.matching import OverlapTable, best_overlaps, overlap_table
from detseg3d.reporting.pictures.case_view import LesionMap

__all__ = ["Finding", "Outcome", "collect_findings", "select_findings"]


class Outcome(Enum):
    """Outcome of a lesion. The value is the text in the picture."""

    FOUND = "FOUND"
    MISSED = "MISSED"
    FALSE_POSITIVE = "FALSE POSITIVE"
    DETECTED = "DETECTED"
    """A predicted lesion of a case without truth."""


@dataclass(frozen=True)
class Finding:
    """One lesion that a picture can show.

    Attributes
    ----------
    outcome : Outcome
        Outcome of the lesion.
    extent : Box
        Box around the lesion in truth and prediction.
    voxels : int
        Number of voxels of the true lesion, or of the predicted lesion if there is no true lesion.
    diameter_mm : float
        Diameter of a sphere with the same volume.
    truth_id, prediction_id : int or None
        Values in the instance maps. If several predictions overlap the true lesion, ``prediction_id`` is the prediction
        with the highest IoU.
    box : Box or None
        Box of the prediction.
    score : float or None
        Score of the prediction; ``None`` if there is no score.
    dice : float or None
        Overlap of truth and prediction, if the lesion was found.
    class_name : str or None
        Name of the class; ``None`` if unknown.
    """

    outcome: Outcome
    extent: Box
    voxels: int
    diameter_mm: float
    truth_id: int | None = None
    prediction_id: int | None = None
    box: Box | None = None
    score: float | None = None
    dice: float | None = None
    class_name: str | None = None

    @property
    def number(self) -> str:
        """Number of the prediction in the instance map; for a missed lesion, ``T`` and its number in the truth."""
        return f"T{self.truth_id}" if self.prediction_id is None else str(self.prediction_id)


def collect_findings(spacing: Spacing, truth: LesionMap | None, prediction: LesionMap | None) -> list[Finding]:
    """List every lesion of truth and prediction.

    A true lesion counts as found if a predicted lesion of its class has at least one voxel in common with it.

    Parameters
    ----------
    spacing : 3 floats
        Voxel size ``(z, y, x)`` in mm.
    truth, prediction : LesionMap or None
        Lesions on the same grid.

    Returns
    -------
    list of Finding
        First the true lesions in the order of their numbers, then the predicted lesions that found no true lesion.
    """
    shape = next((lesions.instances.shape for lesions in (truth, prediction) if lesions is not None), (1, 1, 1))
    empty = LesionMap(np.zeros(shape, np.uint8))
    true_lesions, predicted_lesions = truth or empty, prediction or empty
    table = overlap_table(true_lesions.instances, predicted_lesions.instances)
    table = _within_classes(table, true_lesions.classes, predicted_lesions.classes)
    _, true_boxes = boxes_from_instances(true_lesions.instances)
    _, predicted_boxes = boxes_from_instances(predicted_lesions.instances)
    voxel_volume = float(np.prod(np.asarray(spacing, np.float64)))
    best_pairs, _ = best_overlaps(table)

    findings = []
    for index, truth_id in enumerate(table.truth.ids.tolist()):
        voxels, pair = int(table.truth.voxels[index]), int(best_pairs[index])
        if pair < 0:
            finding = Finding(
                Outcome.MISSED,
                _box(true_boxes[index]),
                voxels,
                _diameter(voxels * voxel_volume),
                truth_id=truth_id,
                class_name=true_lesions.classes.get(truth_id),
            )
        else:
            partner = int(table.prediction_index[pair])
            prediction_id = int(table.prediction.ids[partner])
            finding = Finding(
                Outcome.FOUND,
                _union(true_boxes[index], predicted_boxes[partner]),
                voxels,
                _diameter(voxels * voxel_volume),
                truth_id=truth_id,
                prediction_id=prediction_id,
                box=predicted_lesions.boxes.get(prediction_id, _box(predicted_boxes[partner])),
                score=predicted_lesions.scores.get(prediction_id),
                dice=float(table.dice[pair]),
                class_name=predicted_lesions.classes.get(prediction_id),
            )
        findings.append(finding)
    touching = set(table.prediction_index.tolist())
    for index, prediction_id in enumerate(table.prediction.ids.tolist()):
        if index in touching:
            continue
        voxels = int(table.prediction.voxels[index])
        findings.append(
            Finding(
                Outcome.DETECTED if truth is None else Outcome.FALSE_POSITIVE,
                _box(predicted_boxes[index]),
                voxels,
                _diameter(voxels * voxel_volume),
                prediction_id=prediction_id,
                box=predicted_lesions.boxes.get(prediction_id, _box(predicted_boxes[index])),
                score=predicted_lesions.scores.get(prediction_id),
                class_name=predicted_lesions.classes.get(prediction_id),
            )
        )
    return findings


def _within_classes(
    table: OverlapTable, truth_classes: Mapping[int, str], prediction_classes: Mapping[int, str]
) -> OverlapTable:
    """Keep the pairs with equal classes. An unknown class is equal to every class."""
    truths = [truth_classes.get(number) for number in table.truth.ids[table.truth_index].tolist()]
    predictions = [prediction_classes.get(number) for number in table.prediction.ids[table.prediction_index].tolist()]
    kept = [first is None or second in (None, first) for first, second in zip(truths, predictions, strict=True)]
    return table.keep(np.array(kept, np.bool_))


def _diameter(volume: float) -> float:
    """Return the diameter in mm of a sphere with this volume in mm³."""
    return float(np.cbrt(6 * volume / np.pi))


def _box(values: Array) -> Box:
    z0, y0, x0, z1, y1, x1 = (float(value) for value in values)
    return z0, y0, x0, z1, y1, x1


def _union(first: Array, second: Array) -> Box:
    """Return the smallest box around two boxes."""
    return _box(np.concatenate([np.minimum(first[:3], second[:3]), np.maximum(first[3:], second[3:])]))


def select_findings(findings: Sequence[Finding], maximum: int) -> list[Finding]:
    """Choose at most ``maximum`` findings, errors first.

    Each outcome gets an equal share of the places. If an outcome has fewer findings, the other outcomes get its places.
    Missed and found lesions are spread evenly over their sizes, largest first, so that the picture also shows small
    lesions. False positives are chosen by score, highest first.

    Examples
    --------
    >>> box = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    >>> many = [Finding(Outcome.FOUND, box, size, float(size)) for size in range(1, 101)]
    >>> missed = Finding(Outcome.MISSED, box, 5, 5.0)
    >>> [finding.voxels for finding in select_findings([*many, missed], 4)]
    [5, 100, 50, 1]
    """
    order = (Outcome.MISSED, Outcome.FALSE_POSITIVE, Outcome.FOUND, Outcome.DETECTED)
    groups = [sorted((f for f in findings if f.outcome is outcome), key=lambda f: -f.voxels) for outcome in order]
    groups[order.index(Outcome.FALSE_POSITIVE)].sort(key=lambda f: (-(f.score or 0.0), -f.voxels))
    shares = [0] * len(groups)
    for _ in range(min(maximum, len(findings))):
        # One place at a time goes to the group with the smallest share that still has findings left.
        open_groups = [index for index, group in enumerate(groups) if shares[index] < len(group)]
        shares[min(open_groups, key=lambda index: shares[index])] += 1
    chosen: list[Finding] = []
    for outcome, group, share in zip(order, groups, shares, strict=True):
        if outcome is Outcome.FALSE_POSITIVE:
            places = list(range(share))
        else:
            places = np.linspace(0, len(group) - 1, share).round().astype(int).tolist()
        chosen += [group[place] for place in places]
    return chosen
