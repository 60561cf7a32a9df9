"""Shifts of the acquisition: thick slices, a lower resolution, another spacing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn, idctn
from scipy.special import ndtr

from detseg3d.core.arrays import FloatArray
from detseg3d.synthetic.shifts.grids import AxisWeights, interpolation, resample_axes
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength

__all__ = ["blur", "other_spacing", "slice_weights", "thick_slices"]

# Width of the edge of a slice profile, in slice thicknesses: the standard deviation of its smoothing.
_PROFILE_EDGE = 0.12


def thick_slices(scan: Scan, strength: Strength, random: np.random.Generator, axis: int) -> Scan:
    """Return the scan with slices of 3, 5 or 8 mm along an axis, without gaps.

    Slices that are thick already become 1.5, 2 or 3 times as thick, if this is more.

    Parameters
    ----------
    scan : Scan
    strength : Strength
    random : Generator
        Not used.
    axis : int
        0 for z, 1 for y, 2 for x.
    """
    del random
    spacing = scan.geometry.spacing[axis]
    thickness = max(strength.choose(3.0, 5.0, 8.0), strength.choose(1.5, 2.0, 3.0) * spacing)
    weights: list[AxisWeights | None] = [None, None, None]
    weights[axis] = averages(scan.geometry.shape[axis], spacing, thickness)
    return resample_axes(scan, weights)


def averages(length: int, spacing: float, thickness: float) -> AxisWeights:
    """Return weights that average voxels over slices of about a thickness in mm, which divide the axis evenly."""
    count = max(1, round(length * spacing / thickness))
    return AxisWeights(slice_weights(length, count, _PROFILE_EDGE), slice_weights(length, count, 0.0))


def slice_weights(length: int, count: int, edge: float) -> FloatArray:
    """Return the weights of voxels in slices with a smoothed rectangular profile.

    Parameters
    ----------
    length : int
        Voxels along the axis.
    count : int
        Slices over the same length.
    edge : float
        Standard deviation of the Gaussian that smooths the rectangle, in slice thicknesses; 0 for a rectangle.

    Returns
    -------
    ndarray of float64, shape ``(count, length)``
        The integral of each profile over each voxel. Rows have the sum 1.

    Examples
    --------
    >>> slice_weights(4, 2, 0.0).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    # Edges of the voxels, seen from the centre of each slice, in slice thicknesses.
    edges = np.linspace(0, count, length + 1)[None] - (np.arange(count) + 0.5)[:, None]
    cumulated = _smoothed_ramp(edges + 0.5, edge) - _smoothed_ramp(edges - 0.5, edge)
    weights = np.diff(cumulated, axis=1)
    weights[weights < 1e-9] = 0.0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _smoothed_ramp(x: FloatArray, sigma: float) -> FloatArray:
    """Return the integral of a smoothed step; the difference of two such ramps is the integral of a rectangle."""
    if sigma == 0:
        return np.maximum(x, 0.0)
    return np.asarray(x * ndtr(x / sigma) + sigma * np.exp(-0.5 * (x / sigma) ** 2) / np.sqrt(2 * np.pi))


def blur(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan as acquired with voxels 1.25, 1.75 or 2.5 times as large and interpolated to the present grid.

    All spatial frequencies above the limit of the larger voxels are removed. A Hamming window lowers the others, as
    scanners do against ringing. The cosine transform treats the image as mirrored at its borders, so opposite borders
    do not mix. Voxels below 1 mm count as 1 mm.
    """
    del random
    voxel = max(1.0, float(np.prod(scan.geometry.spacing)) ** (1 / 3)) * strength.choose(1.25, 1.75, 2.5)
    limit = 1 / (2 * voxel)  # cycles per mm
    shape, spacing = scan.geometry.shape, scan.geometry.spacing
    axes = [np.arange(n) / (2 * n * mm) for n, mm in zip(shape, spacing, strict=True)]
    frequency = np.sqrt(sum(part**2 for part in np.meshgrid(*axes, indexing="ij", sparse=True)))
    window = np.where(frequency < limit, 0.54 + 0.46 * np.cos(np.pi * frequency / limit), 0.0).astype(np.float32)

    def change(channel: npt.NDArray[np.float32], _: bool) -> npt.NDArray[np.float32]:
        changed = idctn(dctn(channel, norm="ortho") * window, norm="ortho")
        return np.asarray(np.clip(changed, channel.min(), channel.max()))

    return scan.each_channel(change)


def other_spacing(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with voxels 1.25, 1.5 or 2 times as long along two axes and shorter along the third axis.

    The third axis is drawn; its voxels are 1.25, 1.4 or 1.6 times as short. Longer voxels are averages, shorter voxels
    are interpolated.
    """
    fine_axis = int(random.integers(3))
    weights: list[AxisWeights | None] = []
    for axis, (length, spacing) in enumerate(zip(scan.geometry.shape, scan.geometry.spacing, strict=True)):
        if length < 2:
            weights.append(None)
        elif axis == fine_axis:
            weights.append(interpolation(length, round(length * strength.choose(1.25, 1.4, 1.6))))
        else:
            weights.append(averages(length, spacing, spacing * strength.choose(1.25, 1.5, 2.0)))
    return resample_axes(scan, weights)
