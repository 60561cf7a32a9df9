"""Match predicted boxes with true boxes, for systems without masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, iou_matrix
from detseg3d.evaluation.scores.froc import ScoredCase, match_scored

__all__ = ["scored_case_from_boxes"]


_ROUNDING = 1e-12  # relative difference up to which an IoU reaches the minimum
_MAX_PAIRS = 250_000
"""Maximum number of pairs of boxes that are compared at a time, because all pairs of 10 000 boxes need gigabytes."""


def scored_case_from_boxes(
    case_id: str,
    truth_boxes: npt.ArrayLike,
    truth_classes: Sequence[int] | IntArray,
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    classes: Sequence[int] | IntArray,
    minimum_iou: float | None,
) -> ScoredCase:
    """Match boxes of equal class one-to-one, in descending order of score.

    A box that is matched at some threshold keeps its partner at every lower threshold. Therefore one record is enough
    for all thresholds.

    Parameters
    ----------
    case_id : str
        Name of the case in the record.
    truth_boxes, boxes : array_like, shape ``(T, 6)`` and ``(P, 6)``
        ``z0 y0 x0 z1 y1 x1``, half-open, voxel edges.
    truth_classes, classes : sequence of int, shape ``(T,)`` and ``(P,)``
        Number of the class of each box.
    scores : array_like of float, shape ``(P,)``
        Finite scores. If scores are equal, the pair with the higher IoU is matched first, or, under the rule of the
        centre, the nearer pair. If the IoU or distance is also equal, pairs are matched in the order of the boxes.
    minimum_iou : float or None
        A number above 0 is the minimum IoU of a match, as in COCO. Each prediction takes the true box with the highest
        IoU that is not yet taken. All other predictions, including duplicates, are false positives.

        ``None`` selects the rule of the centre. A prediction finds a lesion if its centre lies in the true box. If
        several true boxes contain the centre, the prediction takes the box with the nearest centre that is not yet
        taken. The distance is divided by the size of the true box, so that it does not depend on the voxel spacing. If
        all boxes that contain the centre are taken, the prediction counts neither as true nor as false positive. A
        prediction is a false positive only if no true box of its class contains its centre.

    Raises
    ------
    ValueError
        If lengths differ, a score is not finite, or ``minimum_iou`` is not in ``(0, 1]``.

    References
    ----------
    The rule of the centre follows LUNA16 (Setio et al. 2017, Medical Image Analysis 42). LUNA16 has spheres instead of
    boxes, and a candidate in two lesions belongs to the lesion that is listed first.

    Examples
    --------
    >>> case = scored_case_from_boxes("a", [[0, 0, 0, 4, 4, 4]], [0], [[1, 1, 1, 4, 4, 4], [9, 9, 9, 12, 12, 12]],
    ...                               [0.7, 0.3], [0, 0], 0.1)
    >>> case.truth_scores.tolist(), case.false_positive_scores.tolist()
    ([0.7], [0.3])
    """
    truth, predicted = as_boxes(truth_boxes).astype(np.float64), as_boxes(boxes).astype(np.float64)
    values = np.asarray(scores, np.float64).reshape(-1)
    true_class, class_index = np.asarray(truth_classes, np.int64).reshape(-1), np.asarray(classes, np.int64).reshape(-1)
    if len(true_class) != len(truth) or not len(class_index) == len(values) == len(predicted):
        raise ValueError(
            f"{len(truth)} true boxes have {len(true_class)} classes; "
            f"{len(predicted)} boxes have {len(values)} scores and {len(class_index)} classes"
        )
    if not np.all(np.isfinite(values)):
        raise ValueError("a score is NaN or infinite")
    if minimum_iou is not None and not 0 < minimum_iou <= 1:
        raise ValueError(f"minimum_iou must be above 0 and at most 1, found {minimum_iou}")
    truth_index, index, quality = _pairs(truth, true_class, predicted, class_index, minimum_iou)
    case = match_scored(case_id, values, len(truth), truth_index, index, quality)
    if minimum_iou is not None:
        return case
    outside = np.ones(len(predicted), np.bool_)
    outside[index] = False
    return ScoredCase(case_id, case.truth_scores, case.true_positive_scores, values[outside])


def _pairs(
    truth: FloatArray, true_class: IntArray, predicted: FloatArray, class_index: IntArray, minimum_iou: float | None
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the pairs that may match, and the quality of each pair."""
    step = max(1, _MAX_PAIRS // max(len(predicted), 1))
    parts: list[tuple[IntArray, IntArray, FloatArray]] = []
    for start in range(0, len(truth), step):
        rows = slice(start, start + step)
        allowed = true_class[rows, None] == class_index[None]
        if minimum_iou is not None:
            quality = iou_matrix(truth[rows], predicted).astype(np.float64, copy=False)
            allowed &= quality >= minimum_iou * (1 - _ROUNDING)
        else:
            low, high = truth[rows, None, :3], truth[rows, None, 3:]
            center = box_centers(predicted)[None]
            allowed &= np.all((center >= low) & (center < high), axis=2)
            size = np.maximum(box_sizes(truth[rows]), np.finfo(np.float64).tiny)
            distance = np.linalg.norm((center - box_centers(truth[rows])[:, None]) / size[:, None], axis=2)
            quality = -np.round(distance, 9)  # rounded, so that rounding errors do not decide between equal distances
        first, second = np.nonzero(allowed)
        parts.append((first + start, second, quality[first, second]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    truth_index, index, quality = (np.concatenate(column) for column in zip(*parts, strict=True))
    return truth_index, index, quality
