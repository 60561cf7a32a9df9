"""Crop a case to the body."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.body import body_box, body_mask

__all__ = ["IntBox", "body_box", "body_mask", "include_lesions"]

IntBox = tuple[int, int, int, int, int, int]


def include_lesions(box: IntBox, lesion_boxes: npt.NDArray[Any]) -> IntBox:
    """``box`` grown until it holds all ``lesion_boxes`` ``(N, 6)``: cropping must not lose a lesion.

    Examples
    --------
    >>> include_lesions((2, 2, 2, 8, 8, 8), np.array([[0, 3, 3, 4, 9, 5]]))
    (0, 2, 2, 8, 9, 8)
    """
    if len(lesion_boxes) == 0:
        return box
    low = np.minimum(box[:3], np.floor(lesion_boxes[:, :3].min(axis=0))).astype(int)
    high = np.maximum(box[3:], np.ceil(lesion_boxes[:, 3:].max(axis=0))).astype(int)
    z0, y0, x0, z1, y1, x1 = (int(edge) for edge in (*low, *high))
    return z0, y0, x0, z1, y1, x1
