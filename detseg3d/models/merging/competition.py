"""Decide which candidate owns each voxel if RoIs overlap.

The averaged probability decides whether a voxel belongs to a lesion. The strongest claim decides which candidate owns
the voxel.

Voxels do not depend on each other. A large volume is processed in slabs, so only a few million voxels need memory at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.core.boxes import box_slices
from detseg3d.core.roi import box_shares, sample_positions
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import PastedRoi, RoiPrediction

__all__ = ["Competition"]

# A candidate that keeps less than this fraction of its own mask is a duplicate: a stronger candidate outlines the same
# lesion.
_KEPT_FRACTION = 0.3
# Voxels of a slab. Six numbers per voxel are held at a time.
_SLAB_VOXELS = 2**21

Window = tuple[slice, slice, slice]


class Competition:
    """The RoIs that compete for the voxels of a volume, and the map of owners.

    Parameters
    ----------
    owner : ndarray of unsigned int, shape ``(Z, Y, X)``
        Array of zeros. It receives the number of the candidate that owns each voxel, from 1.
    rois : sequence of PastedRoi
        All RoIs that take part.
    candidates : Detections
    scores : ndarray of float64, shape ``(N,)``
        Final scores of the candidates.
    mask_threshold : float
        Lowest averaged probability of a voxel that a candidate owns.
    """

    def __init__(
        self,
        owner: npt.NDArray[np.unsignedinteger[Any]],
        rois: Sequence[PastedRoi],
        candidates: Detections,
        scores: npt.NDArray[np.float64],
        mask_threshold: float,
    ) -> None:
        self.owner = owner
        self.rois = _keep_fine_lesions(rois, candidates, mask_threshold)
        self.candidates = candidates
        self.scores = scores
        self.mask_threshold = mask_threshold
        self.regions = np.array([roi.corners for roi in rois], np.int64).reshape(-1, 6)
        self.candidate_of = np.array([roi.candidate for roi in rois], np.int64)
        self.is_active = np.all(self.regions[:, 3:] > self.regions[:, :3], axis=1)

    def assign_all(self, maps: npt.NDArray[np.float16] | None) -> None:
        """Give every voxel to a candidate or to the background.

        Parameters
        ----------
        maps : ndarray of float16, shape ``(K, Z, Y, X)``, or None
            The array receives the averaged probability of each class. Voxels that no RoI of the class covers keep their
            values.
        """
        active = np.flatnonzero(self.is_active)
        if len(active):
            for window in _slabs(self.regions[active]):
                self._assign(window, active, maps)

    def _assign(
        self,
        window: Window,
        group: npt.NDArray[np.int64],
        maps: npt.NDArray[np.float16] | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Give the voxels of a window to the RoIs of a group; only the ``allowed`` voxels, if given."""
        owner = self.owner[window]
        strongest_of_all = np.zeros(owner.shape, np.float32)  # claim of the owner, over the classes seen so far
        classes = self.candidates.classes[self.candidate_of[group]]
        for class_index in np.unique(classes):
            claims, weights, strongest = (np.zeros(owner.shape, np.float32) for _ in range(3))
            claimant = np.zeros(owner.shape, owner.dtype)
            for index in group[classes == class_index].tolist():
                roi = self.rois[index]
                in_window, in_roi = _common(roi.region, window)
                # A poor RoI, or the border of an RoI, must not halve the probability of a good one.
                weight = roi.closeness(in_roi) * np.float32(self.scores[roi.candidate])
                claim = weight * roi.probability[in_roi].astype(np.float32)
                claims[in_window] += claim
                weights[in_window] += weight
                is_stronger = claim > strongest[in_window]
                np.copyto(strongest[in_window], claim, where=is_stronger)
                np.copyto(claimant[in_window], owner.dtype.type(roi.candidate + 1), where=is_stronger)
            # The weighted mean is compared without a division. Between classes the stronger claim wins.
            is_won = (claims >= np.float32(self.mask_threshold) * weights) & (strongest > strongest_of_all)
            if maps is not None:
                covered = weights > 0
                maps[class_index][window][covered] = claims[covered] / weights[covered]
            if allowed is not None:
                is_won &= allowed
            np.copyto(strongest_of_all, strongest, where=is_won)
            np.copyto(owner, claimant, where=is_won)

    def drop_duplicates(self) -> None:
        """Remove the duplicates, the lowest score first.

        The neighbours of a duplicate compete again for its voxels, so that the lesion does not get a hole. Duplicates
        are removed one by one. If several candidates share a lesion evenly, removing all of them together would lose
        the lesion.
        """
        names, voxels = np.unique(self.owner[self.owner > 0], return_counts=True)
        count = dict(zip((names.astype(np.int64) - 1).tolist(), voxels.tolist(), strict=True))
        for candidate in sorted(count, key=lambda index: (self.scores[index], -index)):
            is_own = self.candidate_of == candidate
            own = self.regions[is_own & self.is_active]
            low, high = own[:, :3].min(axis=0), own[:, 3:].max(axis=0)
            overlaps = np.all((self.regions[:, :3] < high) & (self.regions[:, 3:] > low), axis=1)
            neighbours = np.flatnonzero(overlaps & ~is_own & self.is_active)
            # Without neighbours, no other candidate can have taken its voxels.
            if len(neighbours) == 0 or count[candidate] >= _KEPT_FRACTION * self._own_voxels(candidate):
                continue
            self.is_active &= ~is_own
            for window in _slabs(own):
                owner = self.owner[window]
                is_free = owner == candidate + 1
                owner[is_free] = 0
                self._assign(window, neighbours, allowed=is_free)
                # A neighbour that gains these voxels is less likely to be a duplicate itself.
                names, voxels = np.unique(owner[is_free], return_counts=True)
                for name, gained in zip(names.tolist(), voxels.tolist(), strict=True):
                    if name:
                        count[name - 1] = count.get(name - 1, 0) + gained

    def _own_voxels(self, candidate: int) -> float:
        """Return the voxels of a candidate's own mask before the competition, estimated from its RoI samples.

        Only voxels in the detected box count. The RoI of a small lesion may also show and outline a large neighbour, or
        the repeated border of the volume. If other candidates get these voxels, the small lesion is still not a
        duplicate.
        """
        own = [self.rois[index].prediction for index in np.flatnonzero(self.candidate_of == candidate).tolist()]
        return _own_voxels(own, self.candidates.boxes[candidate], self.mask_threshold)


def _keep_fine_lesions(rois: Sequence[PastedRoi], candidates: Detections, threshold: float) -> list[PastedRoi]:
    """Let a lesion that is finer than the voxels keep the voxel that it covers most.

    The mask of such a lesion may reach the threshold on samples of its RoI, but on no voxel. The lesion would then
    vanish. The resampling of labels keeps such a lesion in the same way.
    """
    rois_of: dict[int, list[int]] = {}
    for index, roi in enumerate(rois):
        rois_of.setdefault(roi.candidate, []).append(index)
    result = list(rois)
    for candidate, own in rois_of.items():
        if any(rois[index].probability.max(initial=0) >= threshold for index in own):
            continue
        covered = [_most_covered(rois[index], candidates.boxes[candidate], threshold) for index in own]
        best = max(range(len(own)), key=lambda place: covered[place].samples)
        if covered[best].samples > 0:
            probability = rois[own[best]].probability.copy()
            probability[covered[best].voxel] = covered[best].probability
            result[own[best]] = rois[own[best]]._replace(probability=probability)
    return result


class _Covered(NamedTuple):
    """The voxel that a mask covers most."""

    voxel: tuple[int, int, int]  # counted from the first voxel of the RoI's region
    samples: float  # samples of the mask in the voxel
    probability: float  # highest probability of the RoI


def _most_covered(roi: PastedRoi, box: npt.NDArray[np.floating[Any]], threshold: float) -> _Covered:
    """Return the voxel with most samples that reach ``threshold`` in the detected box; it may have 0 samples."""
    prediction = roi.prediction
    depth, height, width = prediction.probability.shape
    shares = [axis[0] for axis in box_shares(box[None], prediction.roi[None], (depth, height, width))]
    z, y, x = shares
    probability = prediction.probability.float().numpy()
    samples_inside = np.where(probability >= threshold, z[:, None, None] * y[:, None] * x, 0)
    # Count the samples of each voxel, along one axis after the other.
    for axis, voxels in enumerate(roi.region):
        low, high, samples = prediction.roi[axis], prediction.roi[axis + 3], probability.shape[axis]
        voxel = np.floor(sample_positions(low, high, samples)).astype(np.int64)
        lies_in = (np.arange(voxels.start, voxels.stop)[:, None] == voxel).astype(np.float32)
        samples_inside = np.moveaxis(np.tensordot(lies_in, samples_inside, axes=(1, axis)), 0, axis)
    if samples_inside.size == 0:
        return _Covered((0, 0, 0), 0.0, 0.0)
    first, second, third = np.unravel_index(int(samples_inside.argmax()), samples_inside.shape)
    return _Covered((int(first), int(second), int(third)), float(samples_inside.max()), float(probability.max()))


def _own_voxels(predictions: Sequence[RoiPrediction], box: npt.NDArray[np.floating[Any]], threshold: float) -> float:
    """Return the voxels in ``box`` that the RoIs of one candidate outline. Overlaps of RoIs count once."""
    rois = np.array([prediction.roi for prediction in predictions])
    total = 0.0
    for prediction in predictions:
        depth, height, width = prediction.probability.shape
        shares = [axis[0] for axis in box_shares(box[None], prediction.roi[None], (depth, height, width))]
        within = [np.flatnonzero(axis) for axis in shares]
        if not all(len(axis) for axis in within):
            continue
        shares = [share / _covering(rois, prediction.roi, axis, len(share)) for axis, share in enumerate(shares)]
        window = tuple(slice(axis[0], axis[-1] + 1) for axis in within)
        z, y, x = (axis[voxels] for axis, voxels in zip(shares, window, strict=True))
        mask = (prediction.probability.numpy()[window] >= threshold).astype(np.float32)
        voxels_per_sample = float(np.prod(prediction.roi[3:] - prediction.roi[:3])) / prediction.probability.numel()
        total += float(mask @ x @ y @ z) * voxels_per_sample
    return total


def _covering(
    rois: npt.NDArray[np.floating[Any]], roi: npt.NDArray[np.floating[Any]], axis: int, samples: int
) -> npt.NDArray[np.float32]:
    """For each sample of an RoI along ``axis``, count the RoIs of the same candidate that cover it.

    The RoIs of a candidate form a grid of tiles, so each axis can be counted alone.
    """
    spans = np.unique(rois[:, [axis, axis + 3]].round(4), axis=0)
    points = roi[axis] + (np.arange(samples) + 0.5) / samples * (roi[axis + 3] - roi[axis])
    inside = (points >= spans[:, :1]) & (points < spans[:, 1:])
    return np.maximum(inside.sum(axis=0), 1).astype(np.float32)


def _common(region: Window, window: Window) -> tuple[Window, Window]:
    """Return the overlap of a region and a window, in coordinates of the window and in those of the region."""
    low = [max(a.start, b.start) for a, b in zip(region, window, strict=True)]
    high = [max(first, min(a.stop, b.stop)) for first, a, b in zip(low, region, window, strict=True)]

    def relative_to(origin: Window) -> Window:
        z, y, x = (slice(a - axis.start, b - axis.start) for a, b, axis in zip(low, high, origin, strict=True))
        return z, y, x

    return relative_to(window), relative_to(region)


def _slabs(regions: npt.NDArray[np.int64]) -> Iterator[Window]:
    """Divide the box around all regions into slabs along z that are not too large."""
    low, high = regions[:, :3].min(axis=0), regions[:, 3:].max(axis=0)
    thickness = max(1, _SLAB_VOXELS // int(np.prod((high - low)[1:])))
    for first in range(int(low[0]), int(high[0]), thickness):
        end = min(first + thickness, int(high[0]))
        yield box_slices([first, *low[1:], end, *high[1:]])
