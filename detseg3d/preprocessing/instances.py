"""Resample instance maps lesion by lesion, so that no lesion vanishes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Array
from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.preprocessing.resample import axis_matrix

__all__ = ["resample_instances"]


def resample_instances(instances: Array, new_shape: Sequence[int]) -> tuple[Array, list[int]]:
    """Resample an instance map from edge to edge.

    Each lesion is resampled alone, inside its box, and thresholded at one half. If two lesions cover half of a voxel
    each, the smaller lesion gets the voxel. A lesion that would lose all voxels keeps the voxel that it covers most.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        0 is background. The ids need not be consecutive.
    new_shape : 3 ints
        ``(z, y, x)``.

    Returns
    -------
    resampled : ndarray, shape ``new_shape``, dtype of ``instances``
        Instance map with the same ids. The result is ``instances`` if the shape does not change.
    rescued : list of int
        Ids of the lesions that would have vanished, ascending.

    Raises
    ------
    ValueError
        If the new grid has fewer voxels than there are lesions.

    Examples
    --------
    >>> instances = np.zeros((4, 4, 4), np.int32); instances[1, 1, 1] = 3
    >>> resampled, rescued = resample_instances(instances, (2, 2, 2))
    >>> resampled[0, 0, 0], rescued
    (np.int32(3), [3])
    """
    shape = tuple(int(n) for n in new_shape)
    if shape == instances.shape:
        return instances, []
    result = np.zeros(shape, instances.dtype)
    ids, boxes = boxes_from_instances(instances)
    if len(ids) > result.size:
        raise ValueError(f"{len(ids)} lesions cannot lie on a grid of {result.size} voxels")
    matrices = [axis_matrix(old, new) for old, new in zip(instances.shape, shape, strict=True)]
    by_size = np.argsort(-(boxes[:, 3:] - boxes[:, :3]).prod(axis=1), kind="stable")
    for index in by_size:
        region, share = _coverage(instances, int(ids[index]), boxes[index].astype(int), matrices)
        # With the tolerance, a voxel that is covered by exactly one half belongs to the lesion despite rounding errors.
        result[region][share >= 0.5 - 1e-5] = ids[index]
    present, counts = np.unique(result[result > 0], return_counts=True)
    voxels = dict(zip(present.tolist(), counts.tolist(), strict=True))
    rescued = [lesion for lesion in ids.tolist() if lesion not in voxels]
    for lesion in rescued:
        box = boxes[np.searchsorted(ids, lesion)].astype(int)
        _rescue(result, lesion, _coverage(instances, lesion, box, matrices), voxels)
    return result, rescued


def _coverage(
    instances: Array, lesion: int, box: npt.NDArray[np.int_], matrices: Sequence[npt.NDArray[np.float32]]
) -> tuple[tuple[slice, ...], npt.NDArray[np.float32]]:
    """Return the region of the new grid that a lesion can cover, and which fraction of each voxel it covers."""
    source = box_slices(box)
    share = (instances[source] == lesion).astype(np.float32)
    target = []
    for axis, matrix in enumerate(matrices):
        weights = matrix[:, source[axis]]
        rows = np.flatnonzero(weights.any(axis=1))
        target.append(slice(int(rows[0]), int(rows[-1]) + 1))
        share = np.moveaxis(np.tensordot(weights[target[axis]], share, axes=(1, axis)), 0, axis)
    return tuple(target), share


def _rescue(
    result: Array,
    lesion: int,
    coverage: tuple[tuple[slice, ...], npt.NDArray[np.float32]],
    voxels: dict[int, int],
) -> None:
    """Give a lesion the voxel that it covers most, but never the last voxel of another lesion."""
    region, share = coverage
    origin = np.array([part.start for part in region])
    by_share = np.stack(np.unravel_index(np.argsort(-share, axis=None, kind="stable"), share.shape), axis=1) + origin
    target = next((voxel for voxel in by_share if voxels.get(int(result[tuple(voxel)]), 2) > 1), None)
    if target is None:
        # All voxels that the lesion covers are the last voxel of another lesion, so it gets the nearest other voxel.
        free = np.argwhere(~np.isin(result, [other for other, count in voxels.items() if count == 1]))
        target = free[np.square(free - by_share[0]).sum(axis=1).argmin()]
    loser = int(result[tuple(target)])
    if loser:
        voxels[loser] -= 1
    result[tuple(target)] = lesion
    voxels[lesion] = 1
