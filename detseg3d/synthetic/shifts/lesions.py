"""Shifts of the lesions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import AnyFloatArray, BoolArray
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.synthetic.shifts.intensity_scale import tissue_of
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength

__all__ = ["fade_lesions", "fainter_lesions"]

# Surroundings of a lesion reach this far from it, in mm, and at least this many voxels.
_RING_MM, _RING_VOXELS = 4.0, 2.0
_MIN_RING_VOXELS = 5
_SMOOTHING_VOXELS = 0.6
# Beyond the outline, a difference below this share of the contrast counts as noise.
_NOISE_SHARE = 0.2


def fainter_lesions(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with 0.75, 0.5 or 0.35 times the contrast of each lesion against its surroundings."""
    del random
    return fade_lesions(scan, strength.choose(0.75, 0.5, 0.35))


def fade_lesions(scan: Scan, factor: float) -> Scan:
    """Return the scan with ``factor`` times the contrast of each lesion.

    The contrast is the median of the lesion minus the median of the tissue around it. The reduction is smooth and
    reaches one voxel beyond the outline, where voxels hold a part of the lesion. Noise and texture of the lesion stay.
    A lesion without tissue around it stays as it is.
    """
    images = np.stack(
        [
            _fade(channel, tissue_of(channel, ct), scan, factor)
            for channel, ct in zip(scan.images, scan.is_ct, strict=True)
        ]
    )
    return replace(scan, images=images)


def _fade(channel: npt.NDArray[np.float32], tissue: BoolArray, scan: Scan, factor: float) -> npt.NDArray[np.float32]:
    spacing = np.array(scan.geometry.spacing)
    reach = np.maximum(_RING_MM, _RING_VOXELS * spacing)
    margin = np.ceil(reach / spacing).astype(int) + 1
    reduction = np.zeros(channel.shape, np.float32)
    ids, boxes = boxes_from_instances(scan.instances)
    for number, box in zip(ids.tolist(), boxes.astype(int), strict=True):
        low = np.maximum(box[:3] - margin, 0)
        high = np.minimum(box[3:] + margin, channel.shape)
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        numbers = scan.instances[window]
        lesion = numbers == number
        values = channel[window]
        # Distances in mm divided by the reach along each axis: 1 is the end of the surroundings.
        distance = ndimage.distance_transform_edt(~lesion, sampling=spacing / reach)
        step = float((spacing / reach).max())
        ring = (numbers == 0) & (distance > step) & (distance <= 1.0 + 1e-6)
        if np.count_nonzero(ring & tissue[window]) >= _MIN_RING_VOXELS:
            ring &= tissue[window]
        elif np.count_nonzero(ring) < _MIN_RING_VOXELS:
            continue
        around = float(np.median(values[ring]))
        contrast = float(np.median(values[lesion])) - around
        rim = (numbers == 0) & (distance <= step)
        taken = ((1 - factor) * _excess(values - around, lesion, rim, contrast)).astype(np.float32)
        part = reduction[window]
        np.copyto(part, taken, where=np.abs(taken) > np.abs(part))
    return channel - reduction


def _excess(difference: npt.NDArray[np.float32], lesion: BoolArray, rim: BoolArray, contrast: float) -> AnyFloatArray:
    """Return the share of the difference from the surroundings that belongs to the lesion.

    Within the lesion this is the mean over neighbouring voxels of the lesion, so that its noise stays. In the rim it is
    the part of the difference that noise does not explain.
    """
    sign = 1.0 if contrast >= 0 else -1.0
    inside = ndimage.gaussian_filter(np.where(lesion, difference, 0.0), _SMOOTHING_VOXELS)
    weight = ndimage.gaussian_filter(lesion.astype(np.float64), _SMOOTHING_VOXELS)
    smooth = np.divide(inside, weight, out=np.zeros_like(inside), where=lesion)
    outside = np.clip(sign * difference - _NOISE_SHARE * abs(contrast), 0.0, abs(contrast))
    return np.where(lesion, sign * np.maximum(sign * smooth, 0.0), np.where(rim, sign * outside, 0.0))
