"""Predicted boxes against true boxes, for systems that give no masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, iou_matrix
from detseg3d.evaluation.scores.froc import ScoredCase, match_scored

__all__ = ["scored_case_from_boxes"]


_ROUNDING = 1e-12  # relative: an IoU that equals the minimum but for rounding reaches it
_PAIRS_AT_ONCE = 250_000
"""Pairs of boxes compared at a time: a detector with 10 000 boxes a case would otherwise need gigabytes."""


def scored_case_from_boxes(
    case_id: str,
    truth_boxes: npt.ArrayLike,
    truth_classes: Sequence[int] | IntArray,
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    classes: Sequence[int] | IntArray,
    minimum_iou: float | None,
) -> ScoredCase:
    """Match boxes of equal class, in descending order of score, one to one.

    A box that is matched at some threshold keeps its partner at every lower one, so the record serves all thresholds.

    Parameters
    ----------
    case_id : str
    truth_boxes, boxes : array_like, shape ``(T, 6)`` and ``(P, 6)``
        ``z0 y0 x0 z1 y1 x1``, half-open, voxel edges.
    truth_classes, classes : sequence of int, shape ``(T,)`` and ``(P,)``
    scores : array_like of float, shape ``(P,)``
        Finite. Of boxes with equal scores the pair of higher IoU is matched first (by centre: the nearer pair). Only
        pairs that are equal in this, too, are matched in the order in which the boxes are given.
    minimum_iou : float or None
        A number above 0: each prediction takes, of the true boxes still free, the one of highest IoU, at least this
        (as COCO does). All other predictions, duplicates among them, are false positives.

        ``None``: a prediction hits a lesion if its centre lies in the true box. It takes, of the boxes still free that
        hold its centre, the one to whose centre it is nearest, measured in sizes of that box (so that the voxel
        spacing does not matter). A prediction that finds all of its boxes taken is neither a hit nor a false positive;
        only those with their centre in no true box of their class are false positives. This is the rule of LUNA16
        (Setio et al. 2017, Medical Image Analysis 42), which has spheres where boxes are here, and gives a candidate
        in two lesions to the one that is listed first.

    Raises
    ------
    ValueError
        If lengths differ, a score is not finite, or ``minimum_iou`` is not in ``(0, 1]``.

    Examples
    --------
    >>> case = scored_case_from_boxes("a", [[0, 0, 0, 4, 4, 4]], [0], [[1, 1, 1, 4, 4, 4], [9, 9, 9, 12, 12, 12]],
    ...                               [0.7, 0.3], [0, 0], 0.1)
    >>> case.truth_scores.tolist(), case.false_positive_scores.tolist()
    ([0.7], [0.3])
    """
    truth, found = as_boxes(truth_boxes).astype(np.float64), as_boxes(boxes).astype(np.float64)
    values = np.asarray(scores, np.float64).reshape(-1)
    of_truth, of_found = np.asarray(truth_classes, np.int64).reshape(-1), np.asarray(classes, np.int64).reshape(-1)
    if len(of_truth) != len(truth) or not len(of_found) == len(values) == len(found):
        raise ValueError(
            f"{len(truth)} true boxes have {len(of_truth)} classes; "
            f"{len(found)} boxes have {len(values)} scores and {len(of_found)} classes"
        )
    if not np.all(np.isfinite(values)):
        raise ValueError("a score is NaN or infinite")
    if minimum_iou is not None and not 0 < minimum_iou <= 1:
        raise ValueError(f"minimum_iou must be above 0 and at most 1, found {minimum_iou}")
    truth_index, index, quality = _pairs(truth, of_truth, found, of_found, minimum_iou)
    case = match_scored(case_id, values, len(truth), truth_index, index, quality)
    if minimum_iou is not None:
        return case
    outside = np.ones(len(found), np.bool_)
    outside[index] = False
    return ScoredCase(case_id, case.truth_scores, case.true_positive_scores, values[outside])


def _pairs(
    truth: FloatArray, of_truth: IntArray, found: FloatArray, of_found: IntArray, minimum_iou: float | None
) -> tuple[IntArray, IntArray, FloatArray]:
    """The pairs that may match, and how good each is."""
    step = max(1, _PAIRS_AT_ONCE // max(len(found), 1))
    parts: list[tuple[IntArray, IntArray, FloatArray]] = []
    for start in range(0, len(truth), step):
        rows = slice(start, start + step)
        allowed = of_truth[rows, None] == of_found[None]
        if minimum_iou is not None:
            quality = iou_matrix(truth[rows], found).astype(np.float64, copy=False)
            allowed &= quality >= minimum_iou * (1 - _ROUNDING)
        else:
            low, high = truth[rows, None, :3], truth[rows, None, 3:]
            center = box_centers(found)[None]
            allowed &= np.all((center >= low) & (center < high), axis=2)
            size = np.maximum(box_sizes(truth[rows]), np.finfo(np.float64).tiny)
            distance = np.linalg.norm((center - box_centers(truth[rows])[:, None]) / size[:, None], axis=2)
            quality = -np.round(distance, 9)  # so that rounding errors do not decide between equals
        first, second = np.nonzero(allowed)
        parts.append((first + start, second, quality[first, second]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    truth_index, index, quality = (np.concatenate(column) for column in zip(*parts, strict=True))
    return truth_index, index, quality
