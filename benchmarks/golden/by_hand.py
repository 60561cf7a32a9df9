"""Published definitions without a package to ask, written out slowly: whole volumes, one lesion at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import FloatArray

Mask = npt.NDArray[np.bool_]


def surface(mask: Mask) -> npt.NDArray[np.int64]:
    """Voxels of a mask with one of the six neighbours outside it or outside the volume."""
    points = []
    for point in np.argwhere(mask):
        for axis, step in product(range(3), (-1, 1)):
            neighbour = point.copy()
            neighbour[axis] += step
            if np.any(neighbour < 0) or np.any(neighbour >= mask.shape) or not mask[tuple(neighbour)]:
                points.append(point)
                break
    return np.array(points, np.int64).reshape(-1, 3)


def distances(first: Mask, second: Mask, spacing: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Of each surface voxel of one mask to the nearest one of the other, in mm, both ways; all pairs are measured."""
    points = [surface(mask) * np.asarray(spacing) for mask in (first, second)]
    difference = points[0][:, None] - points[1][None]
    pairs = np.sqrt((difference**2).sum(axis=-1))
    return pairs.min(axis=1), pairs.min(axis=0)


def hd95(first: Mask, second: Mask, spacing: Sequence[float]) -> float:
    """The larger of the two directed 95th percentiles."""
    there, back = distances(first, second, spacing)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def nsd(first: Mask, second: Mask, spacing: Sequence[float], tolerance: float) -> float:
    """Share of the surface voxels of both masks within the tolerance of the other surface."""
    there, back = distances(first, second, spacing)
    return float((np.sum(there <= tolerance) + np.sum(back <= tolerance)) / (len(there) + len(back)))


def lesionwise(
    truth: Mask, prediction: Mask, spacing: Sequence[float], dilation: int, smallest: float, penalty: float = 374.0
) -> dict[str, Any]:
    """BraTS 2023: every lesion after merging by dilation, with all predicted components that touch its dilation."""
    cube, cross = np.ones((3, 3, 3)), ndimage.generate_binary_structure(3, 2)
    dilated = ndimage.binary_dilation(truth, cross, iterations=dilation)
    joined, count = ndimage.label(dilated, cube)
    parts, part_count = ndimage.label(prediction, cube)
    used: set[int] = set()
    dice, hausdorff, missed = [], [], 0
    for number in range(1, count + 1):
        lesion = truth & (joined == number)
        around = ndimage.binary_dilation(lesion, cross, iterations=dilation)
        touching = set(np.unique(parts[around]).tolist()) - {0}
        used |= touching
        if lesion.sum() * float(np.prod(spacing)) <= smallest:
            continue
        if not touching:
            missed += 1
            dice.append(0.0)
            hausdorff.append(penalty)
            continue
        found = np.isin(parts, list(touching))
        dice.append(2.0 * float(np.sum(lesion & found)) / float(lesion.sum() + found.sum()))
        hausdorff.append(hd95(lesion, found, spacing))
    false = part_count - len(used)
    total = len(dice) + false
    return {
        "truth": len(dice),
        "missed": missed,
        "false_positives": false,
        "dice": sum(dice) / total if total else 1.0,
        "hd95": (sum(hausdorff) + false * penalty) / total if total else 0.0,
    }


def cc_dice(truth: npt.NDArray[np.integer[Any]], prediction: Mask, spacing: Sequence[float]) -> dict[str, Any]:
    """Dice of each lesion in its Voronoi region; a voxel as near to several lesions is shared among them."""
    ids = [number for number in np.unique(truth).tolist() if number]
    if not ids:
        return {"lesions": [], "ties": 0}
    away = np.stack([ndimage.distance_transform_edt(truth != number, sampling=spacing) for number in ids])
    nearest = away <= away.min(axis=0) + 1e-6
    share = nearest / nearest.sum(axis=0)
    dice = []
    for index, number in enumerate(ids):
        lesion = truth == number
        dice.append(2.0 * float(np.sum(lesion & prediction)) / float(lesion.sum() + share[index][prediction].sum()))
    return {"lesions": dice, "ties": int(np.sum(nearest.sum(axis=0)[prediction] > 1))}
