"""Which lesion has which voxel where RoIs overlap: the average decides whether any, the strongest claim decides which.

Voxels do not depend on each other, so a large part is looked at in slices: memory is that of a few million voxels.
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

# An instance that keeps less than this of its own mask in its box was outlined before by a stronger one: a duplicate.
_KEPT_SHARE = 0.3
# The sums of so many voxels are kept at a time, six numbers each.
_BLOCK_VOXELS = 2**21

Window = tuple[slice, slice, slice]


class Competition:
    """The map of who owns which voxel, and the RoIs that compete for it.

    Parameters
    ----------
    owner : ndarray of unsigned int, shape ``(Z, Y, X)``
        Zeros; filled with the number of the candidate that owns a voxel, from 1, in place.
    rois : sequence of PastedRoi
        All that take part.
    found : Detections
        The candidates.
    scores : ndarray of float64, shape ``(N,)``
        Of the candidates.
    mask_threshold : float

    Attributes
    ----------
    certainty : ndarray of float16, shape ``(Z, Y, X)``
        The averaged probability of each voxel that is owned; what others hold means nothing.
    """

    def __init__(
        self,
        owner: npt.NDArray[np.unsignedinteger[Any]],
        rois: Sequence[PastedRoi],
        found: Detections,
        scores: npt.NDArray[np.float64],
        mask_threshold: float,
    ) -> None:
        self.owner = owner
        self.rois = _keep_fine_lesions(rois, found, mask_threshold)
        self.found = found
        self.scores = scores
        self.mask_threshold = mask_threshold
        self.certainty = np.zeros(owner.shape, np.float16)
        self.regions = np.array([roi.corners for roi in rois], np.int64).reshape(-1, 6)
        self.candidates = np.array([roi.candidate for roi in rois], np.int64)
        self.taking_part = np.all(self.regions[:, 3:] > self.regions[:, :3], axis=1)

    def assign_all(self, maps: npt.NDArray[np.float16] | None) -> None:
        """Give every voxel to a lesion or to none.

        Parameters
        ----------
        maps : ndarray of float16, shape ``(K, Z, Y, X)``, or None
            Filled in place with the averaged probability of each class; voxels that no RoI of the class covers stay as
            they are.
        """
        everyone = np.flatnonzero(self.taking_part)
        if len(everyone):
            for window in _blocks(self.regions[everyone]):
                self._assign(window, everyone, maps)

    def _assign(
        self,
        window: Window,
        group: npt.NDArray[np.int64],
        maps: npt.NDArray[np.float16] | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Give the voxels of a window (of these only the ``allowed`` ones) to the RoIs of a group."""
        part = self.owner[window]
        claim = np.zeros(part.shape, np.float32)
        classes = self.found.classes[self.candidates[group]]
        for label in np.unique(classes):
            weighted, total, best = (np.zeros(part.shape, np.float32) for _ in range(3))
            nearest = np.zeros(part.shape, part.dtype)
            for index in group[classes == label].tolist():
                roi = self.rois[index]
                here, there = _common(roi.region, window)
                weight = roi.closeness(there) * np.float32(self.scores[roi.candidate])
                strength = weight * roi.probability[there].astype(np.float32)
                weighted[here] += strength
                total[here] += weight
                stronger = strength > best[here]
                np.copyto(best[here], strength, where=stronger)
                np.copyto(nearest[here], part.dtype.type(roi.candidate + 1), where=stronger)
            inside = (weighted >= np.float32(self.mask_threshold) * total) & (best > claim)
            if maps is not None:
                covered = total > 0
                maps[label][window][covered] = weighted[covered] / total[covered]
            if allowed is not None:
                inside &= allowed
            np.copyto(claim, best, where=inside)
            np.copyto(part, nearest, where=inside)
            self.certainty[window][inside] = weighted[inside] / total[inside]

    def drop_duplicates(self) -> None:
        """Take the duplicates out, the weakest first.

        The voxels of a duplicate are merged again without it. Were they left empty, the lesion it repeats would have a
        hole; were all duplicates taken out at once, those that share a lesion evenly would take it with them.
        """
        names, voxels = np.unique(self.owner[self.owner > 0], return_counts=True)
        count = dict(zip((names.astype(np.int64) - 1).tolist(), voxels.tolist(), strict=True))
        for candidate in sorted(count, key=lambda index: (self.scores[index], -index)):
            mine = self.candidates == candidate
            own = self.regions[mine & self.taking_part]
            low, high = own[:, :3].min(axis=0), own[:, 3:].max(axis=0)
            meets = np.all((self.regions[:, :3] < high) & (self.regions[:, 3:] > low), axis=1)
            heirs = np.flatnonzero(meets & ~mine & self.taking_part)
            if len(heirs) == 0 or count[candidate] >= _KEPT_SHARE * self._own_voxels(candidate):
                continue
            self.taking_part &= ~mine
            for window in _blocks(own):
                part = self.owner[window]
                free = part == candidate + 1
                part[free] = 0
                self._assign(window, heirs, allowed=free)
                names, voxels = np.unique(part[free], return_counts=True)
                for name, gained in zip(names.tolist(), voxels.tolist(), strict=True):
                    if name:
                        count[name - 1] = count.get(name - 1, 0) + gained

    def _own_voxels(self, candidate: int) -> float:
        """Voxels of a candidate's own mask before the lesions compete, estimated on its RoI samples.

        Only those in the detected box count. Around a small lesion an RoI may show and outline a large neighbour, or
        the repeated border of the volume: what others get of these does not make the small lesion a duplicate.
        """
        mine = [self.rois[index].prediction for index in np.flatnonzero(self.candidates == candidate).tolist()]
        return _own_voxels(mine, self.found.boxes[candidate], self.mask_threshold)


def _keep_fine_lesions(rois: Sequence[PastedRoi], found: Detections, threshold: float) -> list[PastedRoi]:
    """A lesion that is finer than the voxels keeps the voxel that it covers most, as labels do when they are resampled.

    Such a lesion may be certain on the samples of its RoI and below the threshold on every voxel. Without this it would
    leave nothing.
    """
    of_candidate: dict[int, list[int]] = {}
    for index, roi in enumerate(rois):
        of_candidate.setdefault(roi.candidate, []).append(index)
    kept = list(rois)
    for candidate, mine in of_candidate.items():
        if any(rois[index].probability.max(initial=0) >= threshold for index in mine):
            continue
        covered = [_most_covered(rois[index], found.boxes[candidate], threshold) for index in mine]
        best = max(range(len(mine)), key=lambda place: covered[place].samples)
        if covered[best].samples > 0:
            probability = rois[mine[best]].probability.copy()
            probability[covered[best].voxel] = covered[best].probability
            kept[mine[best]] = rois[mine[best]]._replace(probability=probability)
    return kept


class _Covered(NamedTuple):
    """The voxel that a mask covers most, seen from the region of its RoI, by how many samples, and how certainly."""

    voxel: tuple[int, int, int]
    samples: float
    probability: float


def _most_covered(roi: PastedRoi, box: npt.NDArray[np.floating[Any]], threshold: float) -> _Covered:
    """The voxel with most samples of ``threshold`` or more in the detected box; none if it has 0 samples."""
    prediction = roi.prediction
    depth, height, width = prediction.probability.shape
    shares = [axis[0] for axis in box_shares(box[None], prediction.roi[None], (depth, height, width))]
    z, y, x = shares
    probability = prediction.probability.float().numpy()
    certain = np.where(probability >= threshold, z[:, None, None] * y[:, None] * x, 0)
    # From samples to the voxels in which they lie, along one axis after the other.
    for axis, voxels in enumerate(roi.region):
        low, high, samples = prediction.roi[axis], prediction.roi[axis + 3], probability.shape[axis]
        voxel = np.floor(sample_positions(low, high, samples)).astype(np.int64)
        lies_in = (np.arange(voxels.start, voxels.stop)[:, None] == voxel).astype(np.float32)
        certain = np.moveaxis(np.tensordot(lies_in, certain, axes=(1, axis)), 0, axis)
    if certain.size == 0:
        return _Covered((0, 0, 0), 0.0, 0.0)
    first, second, third = np.unravel_index(int(certain.argmax()), certain.shape)
    return _Covered((int(first), int(second), int(third)), float(certain.max()), float(probability.max()))


def _own_voxels(predictions: Sequence[RoiPrediction], box: npt.NDArray[np.floating[Any]], threshold: float) -> float:
    """Voxels in ``box`` that the RoIs of one candidate outline; where they overlap each counts its share."""
    rois = np.array([prediction.roi for prediction in predictions])
    total = 0.0
    for prediction in predictions:
        depth, height, width = prediction.probability.shape
        shares = [axis[0] for axis in box_shares(box[None], prediction.roi[None], (depth, height, width))]
        within = [np.flatnonzero(axis) for axis in shares]
        if not all(len(axis) for axis in within):
            continue
        shares = [share / _showing(rois, prediction.roi, axis, len(share)) for axis, share in enumerate(shares)]
        part = tuple(slice(axis[0], axis[-1] + 1) for axis in within)
        z, y, x = (axis[voxels] for axis, voxels in zip(shares, part, strict=True))
        mask = (prediction.probability.numpy()[part] >= threshold).astype(np.float32)
        voxels_per_sample = float(np.prod(prediction.roi[3:] - prediction.roi[:3])) / prediction.probability.numel()
        total += float(mask @ x @ y @ z) * voxels_per_sample
    return total


def _showing(
    rois: npt.NDArray[np.floating[Any]], roi: npt.NDArray[np.floating[Any]], axis: int, samples: int
) -> npt.NDArray[np.float32]:
    """How many of a candidate's RoIs, which divide each axis for itself, show the samples of one of them along it."""
    spans = np.unique(rois[:, [axis, axis + 3]].round(4), axis=0)
    points = roi[axis] + (np.arange(samples) + 0.5) / samples * (roi[axis + 3] - roi[axis])
    inside = (points >= spans[:, :1]) & (points < spans[:, 1:])
    return np.maximum(inside.sum(axis=0), 1).astype(np.float32)


def _common(region: Window, window: Window) -> tuple[Window, Window]:
    """What a region and a window have in common: seen from the window, and seen from the region."""
    low = [max(mine.start, other.start) for mine, other in zip(region, window, strict=True)]
    high = [max(first, min(a.stop, b.stop)) for first, a, b in zip(low, region, window, strict=True)]

    def seen_from(origin: Window) -> Window:
        z, y, x = (slice(a - axis.start, b - axis.start) for a, b, axis in zip(low, high, origin, strict=True))
        return z, y, x

    return seen_from(window), seen_from(region)


def _blocks(regions: npt.NDArray[np.int64]) -> Iterator[Window]:
    """The box that holds all regions, in slices that are not too large: no voxel depends on another."""
    low, high = regions[:, :3].min(axis=0), regions[:, 3:].max(axis=0)
    thickness = max(1, _BLOCK_VOXELS // int(np.prod((high - low)[1:])))
    for first in range(int(low[0]), int(high[0]), thickness):
        end = min(first + thickness, int(high[0]))
        yield box_slices([first, *low[1:], end, *high[1:]])
