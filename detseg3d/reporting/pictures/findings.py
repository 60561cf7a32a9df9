"""What there is to show of a case: lesions found, lesions missed and false positives, and a fair choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.evaluation.matching import OverlapTable, best_overlaps, overlap_table

__all__ = ["DETECTED", "FALSE_POSITIVE", "FOUND", "MISSED", "Finding", "collect_findings", "select_findings"]

Box = tuple[float, float, float, float, float, float]

FOUND, MISSED, FALSE_POSITIVE, DETECTED = "FOUND", "MISSED", "FALSE POSITIVE", "DETECTED"


@dataclass(frozen=True)
class Finding:
    """One lesion to be shown.

    Attributes
    ----------
    status : str
        ``FOUND``, ``MISSED`` or ``FALSE POSITIVE``; ``DETECTED`` where there is no truth to compare with.
    extent : tuple of 6 floats
        Box around the lesion in truth and prediction, voxel edges.
    voxels : int
        Of the true lesion; of the predicted one where there is no true one.
    diameter_mm : float
        Of the sphere with the same volume.
    truth_id, prediction_id : int or None
        Values in the instance maps. Of several predictions in one lesion, that with the highest IoU.
    box : tuple of 6 floats or None
        Of the prediction, voxel edges.
    score : float or None
    dice : float or None
        Of the two, for a lesion that was found.
    class_name : str or None
    """

    status: str
    extent: Box
    voxels: int
    diameter_mm: float
    truth_id: int | None = None
    prediction_id: int | None = None
    box: Box | None = None
    score: float | None = None
    dice: float | None = None
    class_name: str | None = None


def collect_findings(
    spacing: Sequence[float],
    predictions: AnyIntArray | None,
    records: Sequence[Mapping[str, Any]] | None,
    truth: AnyIntArray | None,
    truth_classes: Mapping[int, str] | None = None,
    prediction_classes: Mapping[int, str] | None = None,
) -> list[Finding]:
    """List every lesion of truth and prediction; a lesion counts as found at any overlap with one of its class.

    Parameters
    ----------
    spacing : 3 floats
        Millimetres ``(z, y, x)``.
    predictions, truth : ndarray of int, shape ``(Z, Y, X)``, optional
        Instance maps.
    records : sequence of dict, optional
        The predicted lesions as in ``rois/CASE.json``; ``id`` and any of ``box``, ``score``, ``class`` are used.
    truth_classes, prediction_classes : dict of int to str, optional
        Class of each lesion, by its value in the map. A lesion whose class is not known may be of any.

    Returns
    -------
    list of Finding
        Found and missed lesions in the order of the truth, then the others in that of the predictions.
    """
    shape = next((volume.shape for volume in (truth, predictions) if volume is not None), (1, 1, 1))
    nothing = np.zeros(shape, np.uint8)
    true_map, map_ = nothing if truth is None else truth, nothing if predictions is None else predictions
    of_true, of_predicted = truth_classes or {}, prediction_classes or {}
    table = _within_classes(overlap_table(true_map, map_), of_true, of_predicted)
    _, true_boxes = boxes_from_instances(true_map)
    _, boxes = boxes_from_instances(map_)
    known = {int(record["id"]): record for record in records or ()}
    voxel_volume = float(np.prod(np.asarray(spacing, np.float64)))
    of_truth, _ = best_overlaps(table)
    hit = np.zeros(len(table.prediction), np.bool_)
    hit[table.prediction_index] = True

    findings = []
    for index, true_id in enumerate(table.truth.ids.tolist()):
        size = _size(int(table.truth.voxels[index]), voxel_volume)
        if of_truth[index] < 0:
            missed = {"truth_id": true_id, "class_name": of_true.get(true_id)}
            findings.append(Finding(MISSED, _box(true_boxes[index]), **size, **missed))
            continue
        pair = int(of_truth[index])
        partner = int(table.prediction_index[pair])
        both = _union(true_boxes[index], boxes[partner])
        found = {"dice": float(table.dice[pair]), "truth_id": true_id}
        predicted = _predicted(int(table.prediction.ids[partner]), boxes[partner], known, of_predicted)
        findings.append(Finding(FOUND, both, **size, **found, **predicted))
    for index in np.flatnonzero(~hit).tolist():
        size = _size(int(table.prediction.voxels[index]), voxel_volume)
        status = DETECTED if truth is None else FALSE_POSITIVE
        predicted = _predicted(int(table.prediction.ids[index]), boxes[index], known, of_predicted)
        findings.append(Finding(status, _box(boxes[index]), **size, **predicted))
    return findings


def _within_classes(
    table: OverlapTable, truth_classes: Mapping[int, str], prediction_classes: Mapping[int, str]
) -> OverlapTable:
    """Only the pairs of one class, as far as classes are known."""
    truths = [truth_classes.get(number) for number in table.truth.ids[table.truth_index].tolist()]
    predictions = [prediction_classes.get(number) for number in table.prediction.ids[table.prediction_index].tolist()]
    alike = [mine is None or other in (None, mine) for mine, other in zip(truths, predictions, strict=True)]
    return table.keep(np.array(alike, np.bool_))


def _size(voxels: int, voxel_volume: float) -> dict[str, Any]:
    return {"voxels": voxels, "diameter_mm": float(np.cbrt(6 * voxels * voxel_volume / np.pi))}


def _box(values: npt.NDArray[Any]) -> Box:
    z0, y0, x0, z1, y1, x1 = (float(value) for value in values)
    return z0, y0, x0, z1, y1, x1


def _union(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Box:
    return _box(np.concatenate([np.minimum(first[:3], second[:3]), np.maximum(first[3:], second[3:])]))


def _predicted(
    number: int,
    tight_box: npt.NDArray[Any],
    known: Mapping[int, Mapping[str, Any]],
    classes: Mapping[int, str],
) -> dict[str, Any]:
    record = known.get(number, {})
    score = record.get("score")
    return {
        "prediction_id": number,
        "box": _box(np.asarray(record.get("box", tight_box), np.float64)),
        "score": None if score is None else float(score),
        "class_name": classes.get(number, record.get("class")),
    }


def select_findings(findings: Sequence[Finding], maximum: int) -> list[Finding]:
    """At most ``maximum`` findings: errors first, each kind given its share, a share not needed going to the others.

    Missed lesions and found ones are drawn evenly over their sizes, largest first, so that a picture does not show only
    the easy ones; false positives by score, the most confident first.

    Examples
    --------
    >>> box = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    >>> many = [Finding(FOUND, box, size, float(size)) for size in range(1, 101)] + [Finding(MISSED, box, 5, 5.0)]
    >>> [finding.voxels for finding in select_findings(many, 4)]
    [5, 100, 50, 1]
    """
    groups = [
        sorted((f for f in findings if f.status == status), key=lambda f: -f.voxels)
        for status in (MISSED, FALSE_POSITIVE, FOUND, DETECTED)
    ]
    groups[1].sort(key=lambda f: (-(f.score or 0.0), -f.voxels))
    shares = [0] * len(groups)
    for _ in range(min(maximum, len(findings))):
        # One place at a time to the group that has the fewest of those that still want one.
        wanting = [index for index, group in enumerate(groups) if shares[index] < len(group)]
        shares[min(wanting, key=lambda index: shares[index])] += 1
    chosen: list[Finding] = []
    for group, share in zip(groups, shares, strict=True):
        by_score = bool(group) and group[0].status == FALSE_POSITIVE
        places = range(share) if by_score else np.linspace(0, len(group) - 1, share).round().astype(int).tolist()
        chosen += [group[place] for place in places]
    return chosen
