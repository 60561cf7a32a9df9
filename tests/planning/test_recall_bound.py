from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.boxes import boxes_from_centers_and_sizes
from detseg3d.models.merging.decode import DenseLevel, decode, suppression_of
from detseg3d.models.objectives.roi_sampling import match_proposals
from detseg3d.models.objectives.targets import VolumeTargets, assign_levels, level_targets
from detseg3d.planning.fingerprint import LesionRecord, ScanFingerprint
from detseg3d.planning.recall_bound import (
    CaseLesions,
    DetectionLevels,
    case_lesions,
    lesions_in_cells_of_other_classes,
    recall_bound,
)
from detseg3d.planning.sections import InferencePlan, RecallBound

Lengths = tuple[float, float, float]
NAMES = ("first", "second", "third")


def scan(
    size: Lengths, centers: Sequence[Sequence[float]], edges: Sequence[Any], classes: Sequence[int] | None = None
) -> CaseLesions:
    """A case of ``size`` mm with a lesion at each of ``centers``; an edge is one length or three."""
    count = len(centers)
    extents = np.array([np.broadcast_to(edge, 3) for edge in edges], float).reshape(-1, 3)
    labels = np.zeros(count, np.int64) if classes is None else np.array(classes, np.int64)
    return CaseLesions(size, np.array(centers, float).reshape(-1, 3), extents, labels, np.full(count, 20))


def bound_of(cases: list[CaseLesions], levels: DetectionLevels, **inference: Any) -> RecallBound:
    return recall_bound(cases, levels, InferencePlan(**inference), NAMES[:1])


# -- The same by the drawn targets, the decoding and the matching of the models ----------------------------------------


def found_by_drawing(case: CaseLesions, levels: DetectionLevels, inference: InferencePlan) -> set[int]:
    """Return the lesions that are found if the targets are drawn as maps and decoded."""
    fine = np.asarray(levels.fine_spacing)
    shape = np.rint(np.asarray(case.extent) / fine).astype(int).tolist()
    truth = boxes_from_centers_and_sizes(case.centers / fine, case.extents / fine)
    level = assign_levels(truth, levels.fine_spacing, levels.upper_sizes)
    cells = [tuple(np.asarray(cell) / fine) for cell in levels.cells]
    dense = []
    for index, cell in enumerate(cells):
        grid = [math.ceil(n / unit - 1e-9) for n, unit in zip(shape, cell, strict=True)]
        here = level == index
        targets = level_targets(
            [truth[here]],
            [case.classes[here]],
            len(NAMES),
            grid,
            cell,
            boxes_per_class=levels.boxes_per_class,
        )
        boxes = len(NAMES) if levels.boxes_per_class else 1
        sizes, offsets = torch.zeros(boxes, 3, *grid), torch.zeros(boxes, 3, *grid)
        z, y, x = targets.cells[:, 1:].T
        sizes[targets.box, :, z, y, x], offsets[targets.box, :, z, y, x] = targets.log_size, targets.offset
        dense.append(DenseLevel(targets.heatmap[0], sizes.flatten(0, 1), offsets.flatten(0, 1)))
    found = decode(
        dense,
        cells,
        shape,
        inference.candidate_threshold,
        suppression_of(inference, inference.candidate_limit(case.volume)),
    )
    ids = np.arange(1, len(case) + 1)
    volume = VolumeTargets(torch.zeros(1, 1, 1, dtype=torch.int32), ids, truth, case.classes)
    return set(match_proposals(found.boxes, found.classes, volume).tolist()) - {0}


GRIDS = [
    DetectionLevels((1, 1, 1), ((1, 1, 1),)),
    DetectionLevels((1, 1, 1), ((2, 2, 2), (4, 4, 4)), ((6.0,) * 3,)),
    DetectionLevels((3, 0.7, 0.7), ((3, 1.4, 1.4), (6, 5.6, 5.6)), ((5.0,) * 3,)),
    DetectionLevels((1, 1, 1), ((2.6, 2.6, 2.6),)),
    DetectionLevels((4, 1, 1), ((4, 1, 1), (4, 4, 4)), ((6.0,) * 3,)),
    DetectionLevels((1, 1, 1), ((2, 2, 2), (4, 4, 4)), ((6.0,) * 3,), boxes_per_class=True),
    DetectionLevels((1, 1, 1), ((5, 5, 5),), boxes_per_class=True),
]
SHAPES = [(16, 20, 24), (1, 30, 26), (3, 24, 40), (17, 17, 17)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(GRIDS),
    st.sampled_from(SHAPES),
    st.sampled_from([1, 4, 15, 60, 150]),
    st.integers(1, 3),
    st.sampled_from([(0.5, 0.3), (0.9, 0.1), (0.0, 1.0)]),
)
def test_the_bound_agrees_with_drawn_targets(
    seed: int,
    levels: DetectionLevels,
    shape: tuple[int, int, int],
    count: int,
    num_classes: int,
    suppression: tuple[float, float],
) -> None:
    random = np.random.default_rng(seed)
    fine = np.asarray(levels.fine_spacing)
    # Boxes of one voxel to half the volume, many of them at the border.
    sizes = np.exp(random.uniform(0, np.log(np.maximum(np.array(shape) / 2, 1)), (count, 3)))
    centers = np.clip(random.uniform(-2, np.array(shape) + 2, (count, 3)), sizes / 2, shape - sizes / 2)
    z, y, x = (np.array(shape) * fine).tolist()
    classes = random.integers(0, num_classes, count)
    case = CaseLesions((z, y, x), centers * fine, sizes * fine, classes, random.integers(1, 600, count))
    inference = InferencePlan(
        suppression_distance=suppression[0],
        suppression_iou=suppression[1],
        min_candidates=int(random.choice([2, 40, 1000])),
    )
    bound = recall_bound([case], levels, inference, NAMES)
    drawn = found_by_drawing(case, levels, inference)
    assert bound.found == len(drawn)
    assert bound.lesions == count and bound.bound == len(drawn) / count
    of_class = [sum(int(classes[lesion - 1]) == index for lesion in drawn) for index in range(3)]
    assert [group.found for group in bound.by_class] == of_class
    assert sum(group.found for group in bound.by_size) == len(drawn)
    assert sum(group.lesions for group in bound.by_size) == count


# -- By hand ----------------------------------------------------------------------------------------------------------

CELLS_OF_2 = DetectionLevels((1, 1, 1), ((2, 2, 2),))
SIZE = (64.0, 64.0, 64.0)


def test_a_lesion_of_one_voxel_alone_in_a_cell_is_found_and_counts_as_below_a_cell() -> None:
    bound = bound_of([scan(SIZE, [(5.5, 5.5, 5.5), (9.5, 5.5, 5.5)], [1, 1])], CELLS_OF_2)
    assert (bound.found, bound.found_below_cell, bound.bound) == (2, 2, 1.0)


def test_one_of_two_lesions_of_one_voxel_in_a_cell_is_lost_below_the_cell_size() -> None:
    bound = bound_of([scan(SIZE, [(4.5, 4.5, 4.5), (5.5, 5.5, 5.5)], [1, 1])], CELLS_OF_2)
    assert (bound.found, bound.lost_below_cell, bound.lost_same_cell) == (1, 1, 0)


def test_the_larger_of_two_large_lesions_in_a_cell_is_lost() -> None:
    bound = bound_of([scan(SIZE, [(21, 21, 21), (21.5, 21.5, 21.5)], [2, 20])], CELLS_OF_2)
    assert (bound.found, bound.lost_below_cell, bound.lost_same_cell) == (1, 0, 1)


def test_lesions_of_other_cases_classes_and_levels_do_not_share_cells() -> None:
    here = (21.0, 21.0, 21.0)
    apart = [scan(SIZE, [here], [3]), scan(SIZE, [here], [3])]
    two_levels = DetectionLevels((1, 1, 1), ((2, 2, 2), (4, 4, 4)), ((16.0,) * 3,))
    nested = scan(SIZE, [here, (21.5, 21.5, 21.5)], [3, 30])
    assert bound_of(apart, CELLS_OF_2).bound == 1
    assert bound_of([nested], two_levels).bound == 1
    assert bound_of([nested], CELLS_OF_2).lost_same_cell == 1


def test_true_boxes_that_overlap_too_much_are_suppressed() -> None:
    vertebrae = scan((300, 100, 100), [(30 + 24 * index, 50, 50) for index in range(8)], [(48, 80, 60)] * 8)
    strict = bound_of([vertebrae], CELLS_OF_2, suppression_iou=0.3)
    loose = bound_of([vertebrae], CELLS_OF_2, suppression_iou=0.4)
    assert (strict.found, strict.lost_suppressed) == (4, 4)
    assert (loose.found, loose.lost_suppressed) == (8, 0)


def test_lesions_beyond_the_limit_of_candidates_are_lost() -> None:
    rows = [(8.0, 8.0, 4 + 6.0 * index) for index in range(10)]
    bound = bound_of([scan(SIZE, rows, [3] * 10)], CELLS_OF_2, min_candidates=4)
    assert (bound.found, bound.lost_over_limit) == (4, 6)


def test_the_limit_grows_with_the_scan() -> None:
    rows = [(8.0, 8.0, 4 + 6.0 * index) for index in range(10)]
    density = {"candidate_density": 8 / 64**3, "min_candidates": 2}
    assert bound_of([scan(SIZE, rows, [3] * 10)], CELLS_OF_2, **density).lost_over_limit == 2
    assert bound_of([scan((64, 64, 128), rows, [3] * 10)], CELLS_OF_2, **density).lost_over_limit == 0


def test_a_lesion_is_smaller_than_a_cell_along_the_pooled_axes_only() -> None:
    flat = DetectionLevels((5, 1, 1), ((5, 2, 2),))
    # One slice thick, so it spans the cell along z: that says nothing of its size.
    bound = bound_of([scan((40, 64, 64), [(12.5, 5.5, 5.5)], [(5, 1, 1)])], flat)
    assert bound.found_below_cell == 1
    assert bound_of([scan(SIZE, [(12.5, 5.5, 5.5)], [1])], GRIDS[0]).found_below_cell == 0


def test_a_lesion_that_reaches_out_of_the_crop_widens_it() -> None:
    lesions = tuple(
        LesionRecord(class_index=0, voxels=8, volume_mm3=8, extents_mm=(2, 2, 2), diameter_mm=2.5, center_mm=center)
        for center in ((-3, 4, 4), (4, 4, 9))
    )
    case = case_lesions(
        ScanFingerprint(
            spacing=(2, 1, 1), shape=(8, 9, 10), crop_box=(2, 0, 0, 6, 8, 8), cropped_shape=(4, 8, 8), lesions=lesions
        )
    )
    assert case.extent == (12, 8, 10)
    assert case.centers.tolist() == [[1, 4, 4], [8, 4, 9]]


def test_without_lesions_the_bound_is_1() -> None:
    bound = bound_of([scan(SIZE, [], [])], CELLS_OF_2)
    assert (bound.lesions, bound.bound) == (0, 1.0)


# -- Classes that share a cell -----------------------------------------------------------------------------------------


def nested() -> CaseLesions:
    """Two cores within their oedemas, and one separate lesion."""
    centers = np.array([[8.0, 8, 8], [8.5, 8, 8], [24, 24, 24], [24, 24.5, 24], [8, 24, 8]])
    extents = np.array([[4.0] * 3, [7.0] * 3, [3.0] * 3, [7.5] * 3, [5.0] * 3])
    return CaseLesions((32.0,) * 3, centers, extents, np.array([0, 1, 0, 1, 1]), np.full(5, 20))


def test_nested_classes_are_found_if_each_class_has_its_own_box() -> None:
    cells = ((4.0,) * 3,)
    shared = recall_bound([nested()], DetectionLevels((1, 1, 1), cells), InferencePlan(), NAMES)
    apart = recall_bound([nested()], DetectionLevels((1, 1, 1), cells, boxes_per_class=True), InferencePlan(), NAMES)
    assert apart.found == 5
    assert shared.found <= apart.found


def test_lesions_in_cells_of_other_classes_are_counted() -> None:
    case = nested()
    assert lesions_in_cells_of_other_classes([case, case], DetectionLevels((1, 1, 1), ((4.0,) * 3,))) == 8
    # In cells of a quarter of a voxel, or on levels of their own, nobody shares one.
    assert lesions_in_cells_of_other_classes([case], DetectionLevels((1, 1, 1), ((0.25,) * 3,))) == 0
    by_size = DetectionLevels((1, 1, 1), ((4.0,) * 3, (4.0,) * 3), ((6.0,) * 3,))
    assert lesions_in_cells_of_other_classes([case], by_size) == 0


def test_lesions_of_one_class_in_a_cell_do_not_count() -> None:
    case = nested()
    alike = CaseLesions(case.extent, case.centers, case.extents, np.zeros(5, np.int64), case.voxels)
    assert lesions_in_cells_of_other_classes([alike], DetectionLevels((1, 1, 1), ((4.0,) * 3,))) == 0
