from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.boxes import boxes_from_centers_and_sizes
from detseg3d.core.nms import Suppression, suppress
from detseg3d.planning.recall_bound import CaseLesions
from detseg3d.planning.rules.suppression import DISTANCES, OVERLAPS, choose_suppression


def scan(centers: np.ndarray, extents: np.ndarray, classes: list[int] | None = None) -> CaseLesions:
    labels = np.zeros(len(centers), np.int64) if classes is None else np.array(classes, np.int64)
    return CaseLesions((500.0, 500.0, 500.0), centers, extents, labels, np.full(len(centers), 100))


def column(distance: float, extent: tuple[float, float, float], count: int = 12) -> CaseLesions:
    """Boxes above each other."""
    centers = np.array([[60 + distance * index, 100, 100] for index in range(count)], float)
    return scan(centers, np.tile(extent, (count, 1)).astype(float))


def left_by(case: CaseLesions, distance: float, iou: float) -> int:
    boxes = boxes_from_centers_and_sizes(case.centers, case.extents)
    return len(suppress(boxes, np.ones(len(case)), case.classes, Suppression(distance=distance, iou=iou)))


@pytest.mark.parametrize("distance, height", [(35, 48), (24, 48), (21, 44), (17, 32)])
def test_no_vertebra_is_suppressed_by_the_next(distance: float, height: float) -> None:
    case = column(distance, (height, 80, 60))
    chosen = choose_suppression([case], (1, 1, 1))
    assert left_by(case, chosen.distance, chosen.iou) == 12
    assert chosen.lost == 0
    assert chosen.lost_by_default == 12 - left_by(case, DISTANCES[0], OVERLAPS[0])


def test_distant_lesions_keep_the_strictest_values() -> None:
    chosen = choose_suppression([column(40, (30, 30, 30))], (1, 1, 1))
    assert (chosen.distance, chosen.iou) == (DISTANCES[0], OVERLAPS[0])


def test_a_pair_of_many_lesions_changes_nothing() -> None:
    pair = column(5, (30, 30, 30), count=2)
    many = [column(35, (30, 30, 30)) for _ in range(50)]
    chosen = choose_suppression([pair, *many], (1, 1, 1))
    assert (chosen.distance, chosen.iou, chosen.lost) == (DISTANCES[0], OVERLAPS[0], 1)
    few = choose_suppression([pair, *many[:3]], (1, 1, 1))
    assert (few.distance, few.iou, few.lost) == (0.15, 0.75, 0)


def test_lesions_of_other_classes_and_cases_may_lie_in_one_place() -> None:
    centers, extents = np.full((2, 3), 50.0), np.full((2, 3), 10.0)
    chosen = choose_suppression([scan(centers, extents, [0, 1]), scan(centers[:1], extents[:1])], (1, 1, 1))
    assert (chosen.distance, chosen.iou) == (DISTANCES[0], OVERLAPS[0])


def test_a_small_lesion_in_the_box_of_a_large_lesion_changes_nothing() -> None:
    nested = scan(np.array([[50.0] * 3, [52.0] * 3]), np.array([[40.0] * 3, [4.0] * 3]))
    chosen = choose_suppression([nested], (1, 1, 1))
    assert (chosen.distance, chosen.iou) == (DISTANCES[0], OVERLAPS[0])
    assert left_by(nested, chosen.distance, chosen.iou) == 2


def test_equal_boxes_do_not_change_the_suppression() -> None:
    twins = scan(np.full((2, 3), 50.0), np.full((2, 3), 10.0))
    chosen = choose_suppression([twins], (1, 1, 1))
    assert (chosen.distance, chosen.iou, chosen.lost) == (DISTANCES[0], OVERLAPS[0], 1)


def test_without_lesions_the_values_are_the_usual_ones() -> None:
    chosen = choose_suppression([scan(np.zeros((0, 3)), np.zeros((0, 3)))], (1, 1, 1))
    assert (chosen.distance, chosen.iou, chosen.lesions) == (DISTANCES[0], OVERLAPS[0], 0)
