"""Paste RoI masks onto the voxels of a volume, and compute the weight of each RoI at each voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.roi import paste_roi

__all__ = ["PastedRoi", "RoiPrediction", "paste_predictions", "region_corners", "rois_of"]

# Weight of an RoI at its faces, relative to its centre.
_CLOSENESS_AT_FACES = 0.1


class RoiPrediction(NamedTuple):
    """Output of Stage 2 for one RoI.

    Attributes
    ----------
    roi : ndarray, shape ``(6,)``
        ``z0 y0 x0 z1 y1 x1`` in voxel edges of the output grid.
    candidate : int
        Index of the candidate of the RoI. A large candidate has several RoIs.
    probability : Tensor of float16, shape ``(z, y, x)``
        Probability that a sample belongs to the lesion.
    score : float
        Probability that the RoI shows a lesion of its class.
    """

    roi: npt.NDArray[Any]
    candidate: int
    probability: torch.Tensor
    score: float


class PastedRoi(NamedTuple):
    """An RoI on the voxels of a volume.

    Attributes
    ----------
    prediction : RoiPrediction
    region : tuple of 3 slices
        Voxels whose centre lies inside the RoI; empty if the RoI lies outside the volume.
    probability : ndarray of float16
        Probability at the voxels of the region.
    profiles : tuple of 3 ndarrays of float32
        Closeness to the RoI's centre along each axis of the region: 1 at the centre, falling linearly to 0.1 at the
        faces.
    """

    prediction: RoiPrediction
    region: tuple[slice, slice, slice]
    probability: npt.NDArray[np.float16]
    profiles: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]

    @property
    def candidate(self) -> int:
        """Index of the candidate that the RoI belongs to."""
        return self.prediction.candidate

    @property
    def corners(self) -> tuple[int, ...]:
        """First voxel and end of the region, ``z0 y0 x0 z1 y1 x1``."""
        return region_corners(self.region)

    def closeness(self, part: tuple[slice, slice, slice]) -> npt.NDArray[np.float32]:
        """Return the product of the three profiles in a part of the region.

        Parameters
        ----------
        part : tuple of 3 slices
            Relative to the first voxel of the region, not of the volume.

        Returns
        -------
        ndarray of float32, shape ``(z, y, x)`` of the part
        """
        z, y, x = (profile[voxels] for profile, voxels in zip(self.profiles, part, strict=True))
        product: npt.NDArray[np.float32] = z[:, None, None] * (y[:, None] * x)
        return product

    def seen_from(self, corner: npt.NDArray[np.int64], candidate: int) -> PastedRoi:
        """Return the RoI relative to a part of the volume, with another candidate index.

        Parameters
        ----------
        corner : ndarray of int64, shape ``(3,)``
            First voxel ``z y x`` of the part.
        candidate : int

        Returns
        -------
        PastedRoi
        """
        z, y, x = (
            slice(voxels.start - int(first), voxels.stop - int(first))
            for voxels, first in zip(self.region, corner, strict=True)
        )
        roi = np.asarray(self.prediction.roi, np.float64) - np.tile(corner, 2)
        return self._replace(prediction=self.prediction._replace(roi=roi, candidate=candidate), region=(z, y, x))


def rois_of(candidates: npt.NDArray[np.int64], predictions: Sequence[RoiPrediction]) -> list[RoiPrediction]:
    """Return the RoIs of some candidates, which get the numbers of their places in ``candidates``.

    Examples
    --------
    >>> rois = [RoiPrediction(np.zeros(6), owner, torch.zeros(1, 1, 1), 0.5) for owner in (0, 1, 1, 2)]
    >>> [roi.candidate for roi in rois_of(np.array([2, 1]), rois)]
    [1, 1, 0]
    """
    place = {int(old): new for new, old in enumerate(candidates)}
    return [roi._replace(candidate=place[roi.candidate]) for roi in predictions if roi.candidate in place]


def region_corners(region: tuple[slice, slice, slice]) -> tuple[int, ...]:
    """Return the first voxel and the end of a region, ``z0 y0 x0 z1 y1 x1``."""
    return (*(axis.start for axis in region), *(axis.stop for axis in region))


def paste_predictions(predictions: Sequence[RoiPrediction], shape: Sequence[int]) -> list[PastedRoi]:
    """Interpolate each RoI on the voxels of a volume.

    Parameters
    ----------
    predictions : sequence of RoiPrediction
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the volume.

    Returns
    -------
    list of PastedRoi
        One for each prediction, in the same order.

    Examples
    --------
    >>> cube = torch.tensor([[[0.0, 0.5, 1.0, 1.0]]]).half()
    >>> prediction = RoiPrediction(np.array([0.0, 0, 2, 1, 1, 6]), 0, cube, 1.0)
    >>> [pasted] = paste_predictions([prediction], (1, 1, 5))
    >>> pasted.region[2], pasted.probability[0, 0].tolist()
    (slice(2, 5, None), [0.0, 0.5, 1.0])
    """
    return [_paste(prediction, shape) for prediction in predictions]


def _paste(prediction: RoiPrediction, shape: Sequence[int]) -> PastedRoi:
    roi = np.asarray(prediction.roi, np.float64)
    values, region = paste_roi(prediction.probability[None], roi, shape)
    probability = values[0].clamp(0, 1).half().numpy()
    z, y, x = (_profile(roi[axis], roi[axis + 3], voxels) for axis, voxels in enumerate(region))
    return PastedRoi(prediction, region, probability, (z, y, x))


def _profile(low: float, high: float, voxels: slice) -> npt.NDArray[np.float32]:
    center, half = (low + high) / 2, max((high - low) / 2, 1e-6)
    distance = np.abs(np.arange(voxels.start, voxels.stop) + 0.5 - center) / half
    return (1 - (1 - _CLOSENESS_AT_FACES) * np.clip(distance, 0, 1)).astype(np.float32)
