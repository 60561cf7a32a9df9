from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from detseg3d.core.arrays import Box
from detseg3d.core.rigid import IDENTITY, RigidTransform
from detseg3d.follow.matching import find_links, match_lesions
from detseg3d.follow.time_point import LesionFacts
from tests.follow.maps import time_point

Boxes = dict[int, Box]


def groups(earlier: Boxes, later: Boxes, tolerance: float = 0.5) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    matched = match_lesions(time_point(earlier), time_point(later), IDENTITY, tolerance)
    return [(group.earlier, group.later) for group in matched]


def test_the_same_place_is_the_same_lesion_whatever_its_number() -> None:
    assert groups(
        {1: (2, 2, 2, 6, 6, 6), 2: (10, 10, 10, 14, 14, 14)}, {5: (10, 10, 10, 14, 14, 14), 9: (2, 2, 2, 6, 6, 6)}
    ) == [
        ((1,), (9,)),
        ((2,), (5,)),
    ]


def test_lesions_at_other_places_have_no_partner() -> None:
    assert groups({1: (2, 2, 2, 6, 6, 6)}, {1: (12, 12, 12, 16, 16, 16)}) == [((1,), ()), ((), (1,))]


def test_two_lesions_that_become_one_are_one_group() -> None:
    assert groups({1: (2, 2, 2, 6, 6, 6), 2: (2, 2, 8, 6, 6, 12)}, {1: (2, 2, 2, 6, 6, 12)}) == [((1, 2), (1,))]


def test_one_lesion_that_becomes_two_is_one_group() -> None:
    assert groups({4: (2, 2, 2, 6, 6, 12)}, {1: (2, 2, 2, 6, 6, 6), 2: (2, 2, 8, 6, 6, 12)}) == [((4,), (1, 2))]


def test_a_new_lesion_beside_an_old_one_is_not_a_part_of_it() -> None:
    # The new lesion touches the old one within the tolerance, but does not lie inside it.
    assert groups({1: (2, 2, 2, 6, 6, 6)}, {1: (2, 2, 2, 6, 6, 6), 2: (2, 2, 7, 6, 6, 8)}, tolerance=2.0) == [
        ((1,), (1,)),
        ((), (2,)),
    ]


def test_a_lesion_that_grew_tenfold_is_still_the_same() -> None:
    assert groups({1: (8, 12, 12, 10, 14, 14)}, {1: (5, 9, 9, 13, 17, 17)}) == [((1,), (1,))]


def test_a_single_voxel_within_the_tolerance_is_the_same_lesion() -> None:
    one, other = {1: (5, 5, 5, 6, 6, 6)}, {1: (5, 5, 6, 6, 6, 7)}
    assert groups(one, other, tolerance=0.5) == [((1,), ()), ((), (1,))]
    assert groups(one, other, tolerance=1.0) == [((1,), (1,))]


def test_the_motion_is_applied() -> None:
    earlier, later = time_point({1: (2, 2, 2, 4, 4, 4)}), time_point({1: (2, 2, 12, 4, 4, 14)})
    shift = RigidTransform(IDENTITY.rotation, (10.0, 0.0, 0.0))
    assert len(match_lesions(earlier, later, shift, 0.5)) == 1
    assert len(match_lesions(earlier, later, shift.inverse(), 0.5)) == 2


def test_lesions_of_other_classes_are_never_parts() -> None:
    earlier = time_point({1: (2, 2, 2, 6, 6, 12)}, {1: LesionFacts("a")})
    later = time_point({1: (2, 2, 2, 6, 6, 6), 2: (2, 2, 8, 6, 6, 12)}, {1: LesionFacts("a"), 2: LesionFacts("b")})
    assert [(g.earlier, g.later) for g in match_lesions(earlier, later, IDENTITY, 0.5)] == [((1,), (1,)), ((), (2,))]


def test_a_lesion_whose_class_changed_keeps_its_partner() -> None:
    box: Box = (2, 2, 2, 6, 6, 6)
    earlier, later = time_point({1: box}, {1: LesionFacts("a")}), time_point({1: box}, {1: LesionFacts("b")})
    assert len(match_lesions(earlier, later, IDENTITY, 0.5)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_assignment_has_the_largest_possible_sum_of_weights(seed: int) -> None:
    random = np.random.default_rng(seed)

    def boxes() -> Boxes:
        # A row of four cuboids of random place and size. Neighbours of both scans overlap.
        starts = 2 + 6 * np.arange(4) + random.integers(0, 3, 4)
        return {n + 1: (5, 5, int(a), 9, 9, int(a + random.integers(2, 4))) for n, a in enumerate(starts)}

    earlier, later = time_point(boxes()), time_point(boxes())
    weights = np.zeros((4, 4))
    for link in find_links(earlier, later, IDENTITY, 3.0):
        weights[link.earlier - 1, link.later - 1] = link.weight
    best = max(sum(weights[row, column] for row, column in enumerate(order)) for order in permutations(range(4)))
    chosen = [group.links[0].weight for group in match_lesions(earlier, later, IDENTITY, 3.0) if group.links]
    assert sum(chosen) == pytest.approx(best)


def test_the_overlap_is_stated_as_shares_of_both_lesions() -> None:
    # 4×4×4 and 4×4×8 voxels, the first inside the second.
    (link,) = find_links(time_point({1: (2, 2, 2, 6, 6, 6)}), time_point({1: (2, 2, 2, 6, 6, 10)}), IDENTITY, 0.5)
    assert (link.inside_earlier, link.inside_later, link.distance_mm) == (1.0, 0.5, 0.0)
    assert link.weight == pytest.approx((64 + 64) / (64 + 128))
