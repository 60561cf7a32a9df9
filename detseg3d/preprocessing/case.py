"""Preprocess one case: crop to the body, normalise, resample to the fine grid.

Training and inference use the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.arrays import Spacing, Triple
from detseg3d.core.body import body_box, body_mask, channel_mask
from detseg3d.core.boxes import box_slices, boxes_from_instances, scale_boxes, translate_boxes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import check_spacing
from detseg3d.core.intensities import degeneration
from detseg3d.data.cases import check_finite
from detseg3d.planning.memory import IMAGE_BYTES, LABEL_BYTES
from detseg3d.planning.plans import Plans
from detseg3d.preprocessing.instances import resample_instances
from detseg3d.preprocessing.normalize import normalize
from detseg3d.preprocessing.resample import resample_image, resampled_shape
from detseg3d.system.memory import require_memory

__all__ = ["CaseTransform", "DegenerateChannel", "case_transform", "check_scan", "include_lesions", "preprocess_case"]


IntBox = tuple[int, int, int, int, int, int]


# Largest number of values of a case on the fine grid, all channels together: 16 GB. Only a wrong spacing, in a header
# or in the plans, leads to more.
MAX_VALUES = 1 << 32


@dataclass(frozen=True)
class CaseTransform:
    """The mapping between the original grid of a case and the fine grid. Axes are ``(z, y, x)``.

    The fine grid covers ``crop_box`` from edge to edge. Therefore ``fine_spacing`` may differ slightly from the plans:
    by less than a voxel over the whole volume.

    Attributes
    ----------
    original_shape : 3 ints
    original_spacing : 3 floats
        In mm.
    crop_box : 6 ints
        ``z0 y0 x0 z1 y1 x1`` in voxel edges of the original grid.
    fine_shape : 3 ints
    fine_spacing : 3 floats
        In mm.
    """

    original_shape: Triple
    original_spacing: Spacing
    crop_box: IntBox
    fine_shape: Triple
    fine_spacing: Spacing

    @property
    def crop_shape(self) -> Triple:
        """Voxels of the crop on the original grid."""
        z0, y0, x0, z1, y1, x1 = self.crop_box
        return z1 - z0, y1 - y0, x1 - x0

    @property
    def fine_volume(self) -> float:
        """Volume of the crop in mm³."""
        return math.prod(self.fine_shape) * math.prod(self.fine_spacing)

    @property
    def scale(self) -> Spacing:
        """Fine voxels per original voxel."""
        z, y, x = (fine / crop for fine, crop in zip(self.fine_shape, self.crop_shape, strict=True))
        return z, y, x

    def boxes_to_fine(self, boxes: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
        """Convert boxes ``(N, 6)`` from voxel edges of the original grid to voxel edges of the fine grid."""
        return scale_boxes(translate_boxes(boxes, [-edge for edge in self.crop_box[:3]]), self.scale)

    def boxes_to_original(self, boxes: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
        """Convert boxes ``(N, 6)`` from voxel edges of the fine grid to voxel edges of the original grid."""
        return translate_boxes(scale_boxes(boxes, [1 / factor for factor in self.scale]), self.crop_box[:3])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with lists instead of tuples."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CaseTransform:
        """Make a transform from the result of :meth:`to_dict`."""
        return cls(**{name: tuple(value) for name, value in data.items()})


@dataclass(frozen=True)
class DegenerateChannel:
    """A channel of a case that carries no information after normalisation, and the reason in words."""

    channel: int
    reason: str


@dataclass(frozen=True)
class PreprocessedCase:
    """A case on the fine grid.

    Attributes
    ----------
    image : ndarray of float32, shape ``(C, z, y, x)``
    instances : ndarray of int, shape ``(z, y, x)``, or None
    degenerate : tuple of DegenerateChannel
        Channels that carry no information after normalisation.
    lesions : list of dict
        For each lesion ``id``, ``class`` (from 0), ``box`` (6 floats, fine voxel edges), ``voxels`` (on the fine grid),
        ``volume_mm3`` (true volume, on the original grid) and ``rescued`` (whether it would have vanished in
        resampling).
    transform : CaseTransform
    """

    image: npt.NDArray[np.float32]
    instances: npt.NDArray[np.integer[Any]] | None
    lesions: list[dict[str, Any]]
    transform: CaseTransform
    degenerate: tuple[DegenerateChannel, ...] = ()


def case_transform(shape: Sequence[int], spacing: Sequence[float], crop_box: IntBox, plans: Plans) -> CaseTransform:
    """Return the transform of a case.

    Parameters
    ----------
    shape : 3 ints
        Voxels of the original grid.
    spacing : 3 floats
        Spacing of the original grid in mm.
    crop_box : 6 ints
        ``z0 y0 x0 z1 y1 x1`` in voxel edges of the original grid.
    plans : Plans

    Returns
    -------
    CaseTransform
    """
    crop = [crop_box[axis + 3] - crop_box[axis] for axis in range(3)]
    fine = resampled_shape(crop, spacing, plans.fine_spacing)
    z, y, x = (old * n / m for old, n, m in zip(spacing, crop, fine, strict=True))
    depth, height, width = (int(n) for n in shape)
    old_z, old_y, old_x = (float(length) for length in spacing)
    return CaseTransform((depth, height, width), (old_z, old_y, old_x), crop_box, fine, (z, y, x))


def preprocess_case(
    images: npt.NDArray[Any],
    spacing: Sequence[float],
    plans: Plans,
    instances: npt.NDArray[np.integer[Any]] | None = None,
    classes: npt.NDArray[np.integer[Any]] | None = None,
    admit: Callable[[CaseTransform], None] | None = None,
) -> PreprocessedCase:
    """Crop a case to the body, normalise the case and resample it to the fine grid of the plans.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
        Intensities as they were read. The array is not changed.
    spacing : 3 floats
        ``(z, y, x)`` in mm.
    plans : Plans
    instances : ndarray of int, shape ``(Z, Y, X)``, optional
        Instance map of the label, ids ``1..N``. The crop is enlarged if a lesion lies outside the body.
    classes : ndarray of int, shape ``(N,)``, optional
        Class of the ids ``1..N``, from 0. By default all classes are 0.
    admit : callable, optional
        Called with the transform before anything is resampled. It raises an error if the fine grid is too large. By
        default the free memory is checked.

    Returns
    -------
    PreprocessedCase

    Raises
    ------
    DetSeg3DError
        If the number of channels differs from the plans, the spacing is not positive, a voxel is NaN or infinite, the
        case would have too many voxels on the fine grid, or there is not enough memory.
    """
    check_scan(images, spacing, plans)
    mask = body_mask(images)
    box: IntBox = body_box(images, mask) if plans.crop_to_body else (0, 0, 0, *images.shape[1:])
    ids, lesion_boxes = (None, None) if instances is None else boxes_from_instances(instances)
    if lesion_boxes is not None:
        box = include_lesions(box, lesion_boxes)
    transform = case_transform(images.shape[1:], spacing, box, plans)
    _check_size(transform, plans)
    if admit is not None:
        admit(transform)
    else:
        purpose = f"resampling to {'×'.join(map(str, transform.fine_shape))} voxels of the fine grid"
        require_memory(preprocessing_bytes(transform.fine_shape, len(images)), purpose)
    cut = box_slices(box)
    normalized = torch.from_numpy(normalize(images, plans.normalization, mask, cut))
    degenerate = _degenerate(normalized.numpy(), images, mask, cut)
    # Only this list refers to the normalised crop, so its memory is freed after the first axis was resampled.
    held = [normalized]
    del normalized
    image = resample_image(held.pop(), transform.fine_shape, plans.interpolation_order).numpy()
    if instances is None or ids is None:
        return PreprocessedCase(image, None, [], transform, degenerate)
    cropped = instances[cut]
    fine, rescued = resample_instances(cropped, transform.fine_shape)
    if classes is None:
        classes = np.zeros(int(ids.max(initial=0)), np.int64)
    lesions = _lesion_table(fine, cropped, classes, float(np.prod(spacing)), set(rescued))
    return PreprocessedCase(image, fine, lesions, transform, degenerate)


def include_lesions(box: IntBox, lesion_boxes: npt.NDArray[Any]) -> IntBox:
    """Return ``box`` enlarged until it contains all lesions, because cropping must not lose a lesion.

    Parameters
    ----------
    box : 6 ints
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    lesion_boxes : ndarray, shape ``(N, 6)``
        In voxel edges.

    Returns
    -------
    6 ints
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.

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


def _degenerate(
    normalized: npt.NDArray[np.float32],
    images: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_] | None,
    cut: tuple[slice, ...],
) -> tuple[DegenerateChannel, ...]:
    """Return the channels of the normalised crop that carry no information about the body."""
    channels = []
    for index, channel in enumerate(normalized):
        inside = channel_mask(images[index], mask)
        reason = degeneration(channel, None if inside is None else inside[cut])
        if reason is not None:
            channels.append(DegenerateChannel(index, reason))
    return tuple(channels)


def check_scan(images: npt.NDArray[Any], spacing: Sequence[float], plans: Plans) -> None:
    """Check that a scan ``(C, Z, Y, X)`` has the channels of the plans, a valid spacing and finite values.

    Raises
    ------
    DetSeg3DError
        If the number of axes or channels differs, the spacing is not positive, or a voxel is NaN or infinite.
    """
    if images.ndim != 4 or len(images) != plans.num_channels or 0 in images.shape:
        raise DetSeg3DError(
            "the image does not fit the plans",
            value=images.shape,
            expected=f"(C, Z, Y, X) with the {plans.num_channels} channel(s) {', '.join(plans.channel_names)}",
        )
    if len(spacing) != 3 or not all(0 < length < math.inf for length in spacing):
        raise DetSeg3DError("the spacing must be three positive numbers (z y x, mm)", value=tuple(spacing))
    check_spacing(spacing)
    check_finite(images, plans.channel_names)


def _check_size(transform: CaseTransform, plans: Plans) -> None:
    if math.prod(transform.fine_shape) * plans.num_channels > MAX_VALUES:
        raise DetSeg3DError(
            "the scan is too large on the grid of the plans",
            value=f"{transform.fine_shape} voxels of {plans.fine_spacing} mm, from {transform.crop_shape} of "
            f"{transform.original_spacing} mm",
            expected=f"at most {MAX_VALUES} values",
            remedy="check the spacing in the header of the image and fine_spacing in plans.json",
        )


def _lesion_table(
    fine: npt.NDArray[np.integer[Any]],
    original: npt.NDArray[np.integer[Any]],
    classes: npt.NDArray[np.integer[Any]],
    voxel_mm3: float,
    rescued: set[int],
) -> list[dict[str, Any]]:
    """Return a record for each lesion of the fine grid."""
    ids, boxes = boxes_from_instances(fine)
    count = int(ids.max(initial=0)) + 1
    fine_voxels = np.bincount(fine[fine > 0], minlength=count)
    original_voxels = np.bincount(original[original > 0], minlength=count)
    return [
        {
            "id": int(lesion),
            "class": int(classes[lesion - 1]),
            "box": [float(edge) for edge in box],
            "voxels": int(fine_voxels[lesion]),
            "volume_mm3": float(original_voxels[lesion] * voxel_mm3),
            "rescued": int(lesion) in rescued,
        }
        for lesion, box in zip(ids, boxes, strict=True)
    ]


def preprocessing_bytes(fine_shape: Sequence[int], num_channels: int) -> float:
    """Return the peak memory in bytes of resampling and storing a case, above the case as it was read.

    The measured peak is 5 to 7 bytes per fine voxel for one channel, and 9 bytes for two channels. The result also
    counts the half-precision copy that is written to the case store.

    Parameters
    ----------
    fine_shape : 3 ints
        Voxels of the case on the fine grid.
    num_channels : int

    Returns
    -------
    float
    """
    return math.prod(fine_shape) * (num_channels * (IMAGE_BYTES + 2) + LABEL_BYTES)
