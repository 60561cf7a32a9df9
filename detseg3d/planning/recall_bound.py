"""Compute which lesions a perfect Stage 1 would find: an upper bound of its recall.

The detector is trained on targets: the size of a lesion determines its level, and its centre determines its cell. If
the output of the network were exactly these targets, decoding would still lose some lesions: lesions that share a cell
with another lesion, lesions that the suppression takes for duplicates, and lesions beyond the limit of candidates. The
fraction of the other lesions is the bound.

The targets are not drawn here. In :func:`detseg3d.models.objectives.targets.level_targets`, the heatmap of a lesion is
1 in the cell of the centre and falls along every axis. Therefore the peaks of the heatmap are exactly the cells that
contain a centre. Tests compare the result with drawn targets, :func:`detseg3d.models.merging.decode.decode` and
:func:`detseg3d.models.objectives.roi_sampling.match_proposals`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import AnyFloatArray, BoolArray, IntArray
from detseg3d.core.boxes import (
    box_centers,
    box_sizes,
    box_volumes,
    boxes_from_centers_and_sizes,
    clip_boxes,
)
from detseg3d.core.nms import Suppression, suppress
from detseg3d.core.size_classes import size_classes
from detseg3d.planning.fingerprint import ScanFingerprint
from detseg3d.planning.plans import Plans
from detseg3d.planning.rules.heads import assign_levels
from detseg3d.planning.sections import GroupRecall, InferencePlan, RecallBound

__all__ = [
    "PEAKS_PER_CANDIDATE",
    "CaseLesions",
    "DetectionLevels",
    "case_lesions",
    "fine_boxes",
    "found_by_targets",
    "levels_of_plans",
    "lesions_in_cells_of_other_classes",
    "recall_bound",
]

Lengths = tuple[float, float, float]

PEAKS_PER_CANDIDATE = 10
"""Number of peaks that enter the suppression, as a multiple of the limit of candidates."""


@dataclass(frozen=True)
class CaseLesions:
    """The lesions of one training case as arrays.

    Attributes
    ----------
    extent : 3 floats
        Edges ``(z, y, x)`` of the cropped volume in mm.
    centers, extents : ndarray of float64, shape ``(N, 3)``
        Centres of the lesions' boxes, from the corner of the cropped volume, and edges of the boxes; ``(z, y, x)`` in
        mm.
    classes : ndarray of int64, shape ``(N,)``
        Class index of each lesion, from 0.
    voxels : ndarray of int64, shape ``(N,)``
        Voxels of each lesion on the grid of the scan.
    """

    extent: Lengths
    centers: AnyFloatArray
    extents: AnyFloatArray
    classes: IntArray
    voxels: IntArray

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def volume(self) -> float:
        """Volume of the cropped scan in mm³."""
        return math.prod(self.extent)


@dataclass(frozen=True)
class DetectionLevels:
    """The cells of the heads of a detection grid.

    Attributes
    ----------
    fine_spacing : 3 floats
        Edges ``(z, y, x)`` in mm of a voxel of the fine grid, on which boxes are suppressed and matched.
    cells : tuple of 3 floats each
        Edges ``(z, y, x)`` of a cell of each level in mm, finest level first.
    upper_sizes : tuple of 3 floats each
        Longest edges ``(z, y, x)`` in mm of the lesions of each level but the last.
    boxes_per_class : bool
        True if each class has its own box in a cell.
    """

    fine_spacing: Lengths
    cells: tuple[Lengths, ...]
    upper_sizes: tuple[Lengths, ...] = ()
    boxes_per_class: bool = False

    def __post_init__(self) -> None:
        assert len(self.upper_sizes) == len(self.cells) - 1


def case_lesions(scan: ScanFingerprint) -> CaseLesions:
    """Return the lesions of a case of the fingerprint.

    Preprocessing enlarges the crop to the body until it contains all lesions, and so does this function.

    Parameters
    ----------
    scan : ScanFingerprint

    Returns
    -------
    CaseLesions

    Examples
    --------
    >>> from detseg3d.planning.fingerprint import LesionRecord
    >>> lesion = LesionRecord(class_index=0, voxels=8, volume_mm3=8, extents_mm=(2, 2, 2), diameter_mm=2.5,
    ...                       center_mm=(-1, 4, 4))
    >>> scan = ScanFingerprint(spacing=(1, 1, 1), shape=(9, 8, 8), crop_box=(1, 0, 0, 9, 8, 8), cropped_shape=(8, 8, 8),
    ...                        lesions=(lesion,))
    >>> case = case_lesions(scan)
    >>> case.extent, case.centers.tolist()
    ((10.0, 8.0, 8.0), [[1.0, 4.0, 4.0]])
    """
    centers, extents = scan.lesion_centers, scan.lesion_extents
    size = np.asarray(scan.cropped_shape, np.float64) * np.asarray(scan.spacing, np.float64)
    low = np.minimum((centers - extents / 2).min(axis=0, initial=0), 0)
    z, y, x = (np.maximum((centers + extents / 2).max(axis=0, initial=0), size) - low).tolist()
    return CaseLesions(
        (z, y, x),
        centers - low,
        extents,
        scan.lesion_classes,
        np.array([lesion.voxels for lesion in scan.lesions], np.int64),
    )


def levels_of_plans(plans: Plans) -> DetectionLevels:
    """Return the cells of the heads of plans."""
    cells = []
    for stage in plans.stage1.head_stages:
        stride = plans.stage1.cumulative_stride(stage)
        z, y, x = (factor * length for factor, length in zip(stride, plans.detection_spacing, strict=True))
        cells.append((z, y, x))
    return DetectionLevels(plans.fine_spacing, tuple(cells), plans.stage1.level_max_sizes, plans.stage1.boxes_per_class)


def recall_bound(
    cases: Sequence[CaseLesions], levels: DetectionLevels, inference: InferencePlan, class_names: Sequence[str]
) -> RecallBound:
    """Compute the recall of a Stage 1 whose output equals its training targets.

    Parameters
    ----------
    cases : sequence of CaseLesions
        From :func:`case_lesions`.
    levels : DetectionLevels
    inference : InferencePlan
        Suppression and limit of candidates are read. All scores are 1, so the score thresholds do not matter.
    class_names : sequence of str

    Returns
    -------
    RecallBound

    Examples
    --------
    The centres of two of three lesions lie in one cell of 2 mm, so one of these two lesions is lost:

    >>> case = CaseLesions((8.0, 8.0, 8.0), np.array([[1, 1, 1], [1.5, 1, 1], [5, 5, 5]]), np.full((3, 3), 2.0),
    ...                    np.zeros(3, np.int64), np.full(3, 8))
    >>> bound = recall_bound([case], DetectionLevels((1, 1, 1), ((2, 2, 2),)), InferencePlan(), ["lesion"])
    >>> bound.found, bound.lost_same_cell, round(bound.bound, 3)
    (2, 1, 0.667)
    """
    fates = [_decode_targets(case, levels, inference) for case in cases]
    outcome = np.concatenate([np.zeros(0, np.int64), *(fate.outcome for fate in fates)])
    small = np.concatenate([np.zeros(0, np.bool_), *(fate.below_one_cell for fate in fates)])
    classes = np.concatenate([np.zeros(0, np.int64), *(case.classes for case in cases)])
    voxels = np.concatenate([np.zeros(0, np.int64), *(case.voxels for case in cases)])
    is_found = outcome == _FOUND
    return RecallBound(
        lesions=len(outcome),
        found=int(is_found.sum()),
        found_below_cell=int((is_found & small).sum()),
        lost_below_cell=int(((outcome == _SAME_CELL) & small).sum()),
        lost_same_cell=int(((outcome == _SAME_CELL) & ~small).sum()),
        lost_suppressed=int((outcome == _SUPPRESSED).sum()),
        lost_over_limit=int((outcome == _OVER_LIMIT).sum()),
        by_class=tuple(_group(name, is_found[classes == index]) for index, name in enumerate(class_names)),
        by_size=tuple(
            _group(size.name, is_found[(voxels >= size.low) & (voxels < size.high)]) for size in size_classes()
        ),
        bound=float(is_found.mean()) if len(is_found) else 1.0,
    )


def found_by_targets(case: CaseLesions, levels: DetectionLevels, inference: InferencePlan) -> BoolArray:
    """Return which lesions a Stage 1 finds if its output equals its training targets, shape ``(N,)``.

    Examples
    --------
    >>> case = CaseLesions((8.0, 8.0, 8.0), np.array([[1, 1, 1], [1.5, 1, 1]]), np.array([[2.0] * 3, [1.5] * 3]),
    ...                    np.zeros(2, np.int64), np.full(2, 8))
    >>> found_by_targets(case, DetectionLevels((1, 1, 1), ((2, 2, 2),)), InferencePlan()).tolist()
    [False, True]
    """
    is_found: BoolArray = _decode_targets(case, levels, inference).outcome == _FOUND
    return is_found


def _group(name: str, is_found: BoolArray) -> GroupRecall:
    return GroupRecall(name=name, lesions=len(is_found), found=int(is_found.sum()))


_FOUND, _SAME_CELL, _SUPPRESSED, _OVER_LIMIT = range(4)


def lesions_in_cells_of_other_classes(cases: Sequence[CaseLesions], levels: DetectionLevels) -> int:
    """Count the lesions with a centre in a cell that also contains a centre of another class.

    This occurs with nested classes, such as a core inside its oedema. If all classes shared one box in a cell, only one
    of these lesions could have its own box.

    Parameters
    ----------
    cases : sequence of CaseLesions
    levels : DetectionLevels

    Returns
    -------
    int

    Examples
    --------
    >>> case = CaseLesions((8.0, 8.0, 8.0), np.array([[3, 3, 3], [3.5, 3, 3], [7, 7, 7]]), np.full((3, 3), 2.0),
    ...                    np.array([0, 1, 0]), np.full(3, 8))
    >>> lesions_in_cells_of_other_classes([case], DetectionLevels((1, 1, 1), ((2, 2, 2),)))
    2
    """
    count = 0
    for case in cases:
        if len(np.unique(case.classes)) < 2:
            continue
        fine = np.asarray(levels.fine_spacing, np.float64)
        truth, shape = fine_boxes(case, levels.fine_spacing)
        level = assign_levels(box_sizes(truth) * fine, levels.upper_sizes)
        place = _places(truth, level, np.asarray(levels.cells, np.float64) / fine, shape)
        pairs = np.unique(np.column_stack([place, case.classes]), axis=0)
        cells, classes = np.unique(pairs[:, :4], axis=0, return_counts=True)
        shared = {tuple(cell) for cell in cells[classes > 1].tolist()}
        count += sum(tuple(cell) in shared for cell in place.tolist())
    return count


@dataclass(frozen=True)
class _Fates:
    """The outcome of each lesion of a case, and whether the lesion spans less than one cell."""

    outcome: IntArray
    below_one_cell: BoolArray


@dataclass(frozen=True)
class _Peaks:
    """The peaks of the perfect heatmaps, in the order of :func:`detseg3d.models.merging.decode.decode`.

    Attributes
    ----------
    classes : ndarray of int64, shape ``(P,)``
    owner : ndarray of int64, shape ``(P,)``
        The lesion whose box the cell has learned. Its class may differ from the class of the peak.
    """

    classes: IntArray
    owner: IntArray


def _decode_targets(case: CaseLesions, levels: DetectionLevels, inference: InferencePlan) -> _Fates:
    if len(case) == 0:
        return _Fates(np.zeros(0, np.int64), np.zeros(0, np.bool_))
    fine = np.asarray(levels.fine_spacing, np.float64)
    truth, shape = fine_boxes(case, levels.fine_spacing)
    cells = np.asarray(levels.cells, np.float64) / fine
    level = assign_levels(box_sizes(truth) * fine, levels.upper_sizes)
    peaks = _find_peaks(truth, case.classes, _places(truth, level, cells, shape), levels.boxes_per_class)
    # As in decode: boxes are clipped to the volume.
    boxes = clip_boxes(truth[peaks.owner], shape)
    limit = inference.candidate_limit(case.volume)
    entering = min(PEAKS_PER_CANDIDATE * limit, len(boxes))
    kept = suppress(
        boxes[:entering],
        np.ones(entering),
        peaks.classes[:entering],
        Suppression(inference.suppression_distance, inference.suppression_iou),
    )
    candidates = kept[:limit]
    matched = _match(boxes[candidates], peaks.classes[candidates], peaks.owner[candidates], truth, case.classes)
    outcome = np.full(len(case), _SAME_CELL)
    # If the cell of a lesion has learned the box of this lesion, the lesion was lost later: by the limit or the
    # suppression.
    own = peaks.classes == case.classes[peaks.owner]
    outcome[peaks.owner[own]] = _SUPPRESSED
    beyond = np.zeros(len(boxes), np.bool_)
    beyond[kept[limit:]] = beyond[entering:] = True
    outcome[peaks.owner[own & beyond]] = _OVER_LIMIT
    outcome[matched] = _FOUND
    return _Fates(outcome, _below_one_cell(truth, cells[level]))


def fine_boxes(case: CaseLesions, fine_spacing: Sequence[float]) -> tuple[AnyFloatArray, AnyFloatArray]:
    """Return the lesions on the fine grid. Every lesion spans at least one voxel and lies in the volume.

    Parameters
    ----------
    case : CaseLesions
    fine_spacing : 3 floats
        Edges ``(z, y, x)`` of a fine voxel in mm.

    Returns
    -------
    boxes : ndarray of float64, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    shape : ndarray of float64, shape ``(3,)``
        Voxels of the volume.

    Examples
    --------
    >>> case = CaseLesions((4.0, 4.0, 4.0), np.array([[1.0, 2, 2]]), np.array([[1.0, 4, 2]]), np.zeros(1, int), [4])
    >>> boxes, shape = fine_boxes(case, (2, 2, 1))
    >>> boxes.tolist(), shape.tolist()
    ([[0.0, 0.0, 1.0, 1.0, 2.0, 3.0]], [2.0, 2.0, 4.0])
    """
    shape = np.maximum(np.rint(np.asarray(case.extent) / np.asarray(fine_spacing, np.float64)), 1)
    scale = shape / np.asarray(case.extent)
    sizes = np.clip(case.extents * scale, 1, shape)
    centers = np.clip(case.centers * scale, sizes / 2, shape - sizes / 2)
    return boxes_from_centers_and_sizes(centers, sizes), shape


def _places(truth: AnyFloatArray, level: IntArray, cells: AnyFloatArray, shape: AnyFloatArray) -> IntArray:
    """Return the cell of each lesion's centre, ``(N, 4)``: level, z, y, x."""
    units = cells[level]
    last = np.ceil(shape / units) - 1
    return np.column_stack([level, np.clip(np.floor(box_centers(truth) / units), 0, last)]).astype(np.int64)


def _find_peaks(truth: AnyFloatArray, classes: IntArray, place: IntArray, boxes_per_class: bool) -> _Peaks:
    """Find the cells that contain centres. The smallest lesion in a cell (or of its class there) gets the box."""
    rivals = np.column_stack([place, classes]) if boxes_per_class else place
    _, cell = np.unique(rivals, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    owner_of_cell = np.zeros(int(cell.max()) + 1, np.int64)
    # Written from the largest to the smallest lesion. Of equal lesions the last one gets the cell, as in the targets.
    order = np.argsort(-box_volumes(truth), kind="stable")
    owner_of_cell[cell[order]] = order
    # One peak for each class in a cell, in the order of decode: level, class, z, y, x.
    keys, first = np.unique(np.column_stack([place[:, 0], classes, place[:, 1:]]), axis=0, return_index=True)
    return _Peaks(keys[:, 1], owner_of_cell[cell[first]])


def _match(
    boxes: AnyFloatArray, box_classes: IntArray, owner: IntArray, truth: AnyFloatArray, classes: IntArray
) -> IntArray:
    """Return the lesions that are matched by candidates, with the rule of ``match_proposals``.

    A candidate with the box of a lesion of its class matches this lesion. Another candidate comes from a cell that has
    learned the box of another class. It matches the nearest lesion of its class under two conditions: the centre of the
    candidate lies in the box of the lesion or up to a voxel outside, and the distance of both centres is below the mean
    size of both boxes.
    """
    own = box_classes == classes[owner]
    matched = [owner[own]]
    for box, label in zip(boxes[~own], box_classes[~own], strict=True):
        lesions = np.flatnonzero(classes == label)
        center, size = box_centers(box[None])[0], box_sizes(box[None])[0]
        inside = np.all((center >= truth[lesions, :3] - 1) & (center <= truth[lesions, 3:] + 1), axis=1)
        unit = np.maximum((size + box_sizes(truth[lesions])) / 2, 1)
        distance = np.sqrt((((center - box_centers(truth[lesions])) / unit) ** 2).sum(axis=1))
        distance[~inside | (distance >= 1)] = np.inf
        nearest = int(distance.argmin())
        if np.isfinite(distance[nearest]):
            matched.append(lesions[nearest : nearest + 1])
    return np.unique(np.concatenate(matched))


def _below_one_cell(truth: AnyFloatArray, cells: AnyFloatArray) -> BoolArray:
    """Return whether each lesion spans less than one cell of its level along every pooled axis.

    Along an axis that is not pooled, a cell is a voxel and every lesion spans it.
    """
    pooled = cells > 1 + 1e-6
    spans = np.where(pooled, box_sizes(truth) / cells, 0).max(axis=1)
    below: BoolArray = pooled.any(axis=1) & (spans < 1 - 1e-6)
    return below
