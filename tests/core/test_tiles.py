from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.tiles import rois_from_boxes, tile_boxes

SIZE = (32, 32, 32)
seeds = st.integers(0, 2**32 - 1)


def test_rois_keep_the_centre_of_their_box() -> None:
    rois = rois_from_boxes([[4, 10, 20, 6, 30, 21]], 0.25, (8, 8, 8))
    assert rois.tolist() == [[1, 5, 16.5, 9, 35, 24.5]]


def test_no_boxes_have_no_rois() -> None:
    assert rois_from_boxes([], 0.3, (8, 8, 8)).shape == (0, 6)


def test_no_boxes_have_no_tiles() -> None:
    rois, parents = tile_boxes([], 0.3, (8, 8, 8), SIZE, 1.5)
    assert rois.shape == (0, 6) and parents.shape == (0,)


def test_a_small_box_has_one_tile_equal_to_its_roi() -> None:
    box = [[4, 4, 4, 10, 10, 10]]
    rois, parents = tile_boxes(box, 0.3, (8, 8, 8), SIZE, 1.5)
    assert np.array_equal(rois, rois_from_boxes(box, 0.3, (8, 8, 8))) and parents.tolist() == [0]


@settings(max_examples=100, deadline=None)
@given(seeds, st.floats(0, 0.5), st.floats(0.5, 2))
def test_tiles_cover_their_roi_overlap_and_keep_the_resolution(seed: int, margin: float, max_scale: float) -> None:
    random = np.random.default_rng(seed)
    low = random.uniform(-20, 20, (3, 3))
    boxes = np.concatenate([low, low + random.uniform(1, 60, (3, 3))], axis=1)
    wholes = rois_from_boxes(boxes, margin, (8, 8, 8))
    tiles, parents = tile_boxes(boxes, margin, (8, 8, 8), (16, 24, 32), max_scale)
    assert sorted(set(parents.tolist())) == [0, 1, 2]
    for index, whole in enumerate(wholes):
        own = tiles[parents == index]
        for axis, samples in enumerate((16, 24, 32)):
            spans = sorted({(round(a, 6), round(b, 6)) for a, b in own[:, [axis, axis + 3]].tolist()})
            assert spans[0][0] == pytest.approx(whole[axis], abs=1e-4)
            assert spans[-1][1] == pytest.approx(whole[axis + 3], abs=1e-4)
            for (a0, a1), (b0, _) in pairwise(spans):
                assert a1 - b0 == pytest.approx(0.25 * (a1 - a0), abs=1e-4)
            assert max(b - a for a, b in spans) <= samples * max_scale + 1e-4


def test_boxes_that_would_take_countless_rois_are_refused_before_they_are_made() -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)too many RoIs.*for 2 of 2 boxes.*at most 200000"):
        tile_boxes([[0, 0, 0, 9, 9, 9], [0, 0, 0, 1e7, 1e7, 1e7]], 0.3, (8, 8, 8), (16, 16, 16), 1.5)
