"""Shifts of the lesions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import BoolArray
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.synthetic.shifts.intensity_scale import tissue_of
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength

__all__ = ["fade_lesions", "fainter_lesions"]

# Surroundings of a lesion reach this far from it, in mm, and at least this many voxels.
_RING_MM, _RING_VOXELS = 4.0, 2.0
_MIN_RING_VOXELS = 5


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
        # Voxels at the edge hold less of the lesion, so less is taken from them.
        smooth = ndimage.gaussian_filter(values - around, 0.6)
        excess = np.clip(smooth, min(contrast, 0.0), max(contrast, 0.0))
        own = lesion | ((numbers == 0) & (distance <= step))
        taken = np.where(own, (1 - factor) * excess, 0.0).astype(np.float32)
        part = reduction[window]
        np.copyto(part, taken, where=np.abs(taken) > np.abs(part))
    return channel - reduction
