"""Shifts of the field of view and of the pose, and masks of the body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import FloatArray, as_triple
from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.synthetic.shifts.grids import Occupancy, place_lesions, regrid
from detseg3d.synthetic.shifts.intensity_scale import air_like, body_outline, measure_channel
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength

__all__ = ["cropped", "masked", "padded", "rotated"]

# Masks keep this distance from lesions, in mm.
_KEPT_AROUND_LESIONS = 4.0


def cropped(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return a box of the scan at a random place with 0.9, 0.8 or 0.65 of each length.

    Lesions outside the box are not part of the result. A lesion at the border of the box keeps its visible part.
    """
    share = strength.choose(0.9, 0.8, 0.65)
    kept = [max(1, round(share * n)) for n in scan.geometry.shape]
    start = [round(place * (n - k)) for place, n, k in zip(random.random(3), scan.geometry.shape, kept, strict=True)]
    window = box_slices((*start, *(first + length for first, length in zip(start, kept, strict=True))))
    return replace(
        scan,
        images=np.ascontiguousarray(scan.images[:, window[0], window[1], window[2]]),
        instances=np.ascontiguousarray(scan.instances[window]),
        geometry=regrid(scan.geometry, start, kept, scan.geometry.spacing),
    )


def padded(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan in a larger field of view: 0.1, 0.2 or 0.4 of each length is added as air.

    The air is divided at random between the two sides of each axis. It has the noise of the air around the body, or the
    value of the padding if the scan is padded.
    """
    share = strength.choose(0.1, 0.2, 0.4)
    added = [round(share * n) for n in scan.geometry.shape]
    before = [round(part * n) for part, n in zip(random.random(3), added, strict=True)]
    shape = as_triple(n + a for n, a in zip(scan.geometry.shape, added, strict=True))
    ends = (first + n for first, n in zip(before, scan.geometry.shape, strict=True))
    window = box_slices((*before, *ends))
    body = body_outline(scan)
    images = np.empty((len(scan.images), *shape), np.float32)
    for channel, ct, target in zip(scan.images, scan.is_ct, images, strict=True):
        target[:] = air_like(channel, body, measure_channel(channel, ct).air, shape, random)
        target[window] = channel
    instances = np.zeros(shape, np.int32)
    instances[window] = scan.instances
    geometry = regrid(scan.geometry, [-first for first in before], shape, scan.geometry.spacing)
    return replace(scan, images=images, instances=instances, geometry=geometry)


def masked(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with one constant value outside the body (mild) or outside its inner part.

    The inner part begins at 0.15 (medium) or 0.25 (strong) of the largest depth below the surface. In a head this
    removes the scalp and the skull, as a brain extraction does. In CT the mask begins at 0, 0.05 or 0.1. Lesions and
    4 mm around them always stay. The constant is 0, or the smallest value of a channel with negative values.
    """
    del random
    body = body_outline(scan)
    spacing = scan.geometry.spacing
    share = strength.choose(0.0, 0.05, 0.1) if all(scan.is_ct) else strength.choose(0.0, 0.15, 0.25)
    if share > 0:
        # At the top and the bottom of the volume the body goes on; at its sides the surface is near.
        closed = np.pad(body, [(0, 0), (1, 1), (1, 1)])
        depth = ndimage.distance_transform_edt(closed, sampling=spacing)[:, 1:-1, 1:-1]
        body = depth > share * depth.max()
    if scan.instances.any():
        body = body | (ndimage.distance_transform_edt(scan.instances == 0, sampling=spacing) <= _KEPT_AROUND_LESIONS)
    return scan.each_channel(lambda channel, _: np.where(body, channel, min(0.0, float(channel.min()))))


def rotated(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with the patient turned by 10, 20 or 30 degrees about a random axis through the body.

    The field of view stays the same: tissue that leaves it is lost, and air fills the corners. Images are interpolated
    by cubic B-splines.
    """
    angle = np.deg2rad(strength.choose(10.0, 20.0, 30.0))
    axis = random.standard_normal(3)
    rotation = rotation_matrix(axis, angle)
    body = body_outline(scan)
    center = np.array(ndimage.center_of_mass(body)) if body.any() else (np.array(body.shape) - 1) / 2
    spacing = np.array(scan.geometry.spacing)
    # From voxel indices of the result to those of the scan: to mm, back by the rotation, to voxels.
    matrix = rotation.T * spacing[None, :] / spacing[:, None]
    offset = center - matrix @ center
    outside = ~ndimage.affine_transform(np.ones(body.shape, np.uint8), matrix, offset, order=0).astype(np.bool_)
    images = []
    for channel, ct in zip(scan.images, scan.is_ct, strict=True):
        turned = ndimage.affine_transform(channel, matrix, offset, order=3, mode="nearest")
        turned = np.clip(turned, channel.min(), channel.max())
        air = air_like(channel, body, measure_channel(channel, ct).air, (int(outside.sum()),), random)
        turned[outside] = air
        images.append(turned)
    lesions = place_lesions(_turned_lesions(scan.instances, matrix, offset), body.shape)
    return replace(scan, images=np.stack(images).astype(np.float32), instances=lesions)


def rotation_matrix(axis: FloatArray, angle: float) -> FloatArray:
    """Return the matrix of a rotation about an axis of any length, by Rodrigues' formula.

    Rows and columns are z, y, x. The angle in radians counts clockwise about the axis, because z, y, x is a left-handed
    system.
    """
    z, y, x = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -x, y], [x, 0.0, -z], [-y, z, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _turned_lesions(instances: npt.NDArray[np.int32], matrix: FloatArray, offset: FloatArray) -> Iterable[Occupancy]:
    inverse = np.linalg.inv(matrix)
    shape = np.array(instances.shape)
    ids, boxes = boxes_from_instances(instances)
    for number, box in zip(ids.tolist(), boxes, strict=True):
        corners = np.array(np.meshgrid(*zip(box[:3] - 1.5, box[3:] + 0.5, strict=True))).reshape(3, -1).T
        places = (corners - offset) @ inverse.T
        low = np.maximum(np.floor(places.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(places.max(axis=0)).astype(int) + 1, shape)
        if (low >= high).any():
            continue
        window = box_slices(box)
        start = np.array([part.start for part in window])
        lesion = np.pad((instances[window] == number).astype(np.float32), 1)
        # The same map for the part of the result, in voxels of the padded part of the scan.
        shift = matrix @ low + offset - start + 1
        share = ndimage.affine_transform(lesion, matrix, shift, tuple(high - low), order=1)
        yield Occupancy(int(number), as_triple(low), share)
