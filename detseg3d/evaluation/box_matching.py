"""Predicted boxes against true boxes, for systems that give no masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.boxes import as_boxes, box_centers, iou_matrix
from detseg3d.evaluation.froc import ScoredCase, match_scored

__all__ = ["scored_case_from_boxes"]


def scored_case_from_boxes(
    case_id: str,
    truth_boxes: npt.ArrayLike,
    truth_classes: Sequence[int] | npt.NDArray[np.int64],
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    classes: Sequence[int] | npt.NDArray[np.int64],
    minimum_iou: float | None,
) -> ScoredCase:
    """Match boxes of equal class, in descending order of score, one to one.

    Parameters
    ----------
    case_id : str
    truth_boxes, boxes : array_like, shape ``(T, 6)`` and ``(P, 6)``
        ``z0 y0 x0 z1 y1 x1``, half-open, voxel edges.
    truth_classes, classes : sequence of int
    scores : array_like of float, shape ``(P,)``
    minimum_iou : float or None
        A number: boxes match from this IoU on, the best free one first. ``None``: a prediction matches if its centre
        lies in the true box, the nearest free one first, as LUNA16 has it with spheres (Setio et al. 2017); further
        predictions in a lesion that is found already are not counted, neither as hits nor as false positives.

    Examples
    --------
    >>> case = scored_case_from_boxes("a", [[0, 0, 0, 4, 4, 4]], [0], [[1, 1, 1, 4, 4, 4], [9, 9, 9, 12, 12, 12]],
    ...                               [0.7, 0.3], [0, 0], 0.1)
    >>> case.truth_scores.tolist(), case.false_positive_scores.tolist()
    ([0.7], [0.3])
    """
    truth, found = as_boxes(truth_boxes).astype(np.float64), as_boxes(boxes).astype(np.float64)
    values = np.asarray(scores, np.float64)
    same = np.asarray(truth_classes, np.int64)[:, None] == np.asarray(classes, np.int64)[None]
    if minimum_iou is not None:
        quality = iou_matrix(truth, found)
        allowed = same & (quality >= minimum_iou)
    else:
        center = box_centers(found)[None]
        allowed = same & np.all((center >= truth[:, None, :3]) & (center < truth[:, None, 3:]), axis=2)
        quality = -np.linalg.norm(center - box_centers(truth)[:, None], axis=2)
    truth_index, index = np.nonzero(allowed)
    case = match_scored(case_id, values, len(truth), truth_index, index, quality[truth_index, index])
    if minimum_iou is not None:
        return case
    outside = ~allowed.any(axis=0)
    return ScoredCase(case_id, case.truth_scores, case.true_positive_scores, values[outside])
