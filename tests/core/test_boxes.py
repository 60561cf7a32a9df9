from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detseg3d.core import boxes as bx
from detseg3d.core.boxes import box_slices

SIDE = 7


@st.composite
def integer_boxes(draw: st.DrawFn, count: int = 4) -> np.ndarray:
    """Boxes with integer edges inside a cube of SIDE voxels; possibly empty along an axis."""
    edges = draw(hnp.arrays(np.int64, (draw(st.integers(0, count)), 2, 3), elements=st.integers(0, SIDE)))
    return np.sort(edges, axis=1).reshape(-1, 6)


def voxels(box: np.ndarray) -> set[tuple[int, int, int]]:
    """Return the set of the voxels that a half-open integer box covers, as an oracle."""
    z0, y0, x0, z1, y1, x1 = (int(edge) for edge in box)
    return {(z, y, x) for z in range(z0, z1) for y in range(y0, y1) for x in range(x0, x1)}


def test_as_boxes_converts_integers_to_float32_and_keeps_float64() -> None:
    assert bx.as_boxes([[0, 0, 0, 1, 1, 1]]).dtype == np.float32
    assert bx.as_boxes(np.zeros((1, 6), np.float64)).dtype == np.float64


def test_as_boxes_of_an_empty_list_has_six_columns() -> None:
    assert bx.as_boxes([]).shape == (0, 6)
    assert bx.as_boxes(np.zeros((0, 6), np.float32)).shape == (0, 6)


@pytest.mark.parametrize("shape", [(6,), (1, 5), (1, 1, 6)])
def test_as_boxes_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(N, 6\)"):
        bx.as_boxes(np.zeros(shape))


def test_as_boxes_refuses_a_box_that_ends_before_it_begins() -> None:
    with pytest.raises(ValueError, match="ends before it begins"):
        bx.as_boxes([[0, 0, 2, 1, 1, 1]])


@given(integer_boxes())
def test_volumes_count_voxels(boxes: np.ndarray) -> None:
    assert bx.box_volumes(boxes).tolist() == [len(voxels(box)) for box in boxes]


def test_center_of_one_voxel_is_half_a_voxel_from_its_edge() -> None:
    assert bx.box_centers([[3, 4, 5, 4, 5, 6]]).tolist() == [[3.5, 4.5, 5.5]]


@given(integer_boxes())
def test_centers_and_sizes_restore_the_box(boxes: np.ndarray) -> None:
    again = bx.boxes_from_centers_and_sizes(bx.box_centers(boxes), bx.box_sizes(boxes))
    np.testing.assert_array_equal(again, bx.as_boxes(boxes))


@settings(deadline=None)
@given(hnp.arrays(np.int32, (4, 5, 6), elements=st.sampled_from([0, 0, 0, 1, 2, 70000])))
def test_boxes_of_instances_are_tight(instances: np.ndarray) -> None:
    ids, boxes = bx.boxes_from_instances(instances)
    assert ids.tolist() == sorted(set(instances.ravel().tolist()) - {0})
    assert boxes.dtype == np.float32
    for number, box in zip(ids, boxes, strict=True):
        where = np.argwhere(instances == number)
        assert box.tolist() == [*where.min(axis=0).tolist(), *(where.max(axis=0) + 1).tolist()]


def test_an_empty_map_has_no_boxes() -> None:
    ids, boxes = bx.boxes_from_instances(np.zeros((2, 2, 2), np.uint8))
    assert ids.shape == (0,)
    assert boxes.shape == (0, 6)


def test_boxes_of_instances_refuses_a_channel_axis() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(Z, Y, X\)"):
        bx.boxes_from_instances(np.zeros((1, 2, 2, 2), np.uint8))


@given(integer_boxes(), hnp.arrays(np.float64, 3, elements=st.floats(0.1, 10)))
def test_scaling_there_and_back_changes_nothing(boxes: np.ndarray, factors: np.ndarray) -> None:
    back = bx.scale_boxes(bx.scale_boxes(boxes.astype(np.float64), factors), 1 / factors)
    np.testing.assert_allclose(back, boxes, atol=1e-12)


def test_scaling_keeps_the_dtype() -> None:
    assert bx.scale_boxes(np.ones((1, 6), np.float32), (2.0, 2.0, 2.0)).dtype == np.float32


@given(integer_boxes(), st.tuples(*[st.integers(-9, 9)] * 3))
def test_translation_moves_every_voxel(boxes: np.ndarray, offset: tuple[int, int, int]) -> None:
    moved = bx.translate_boxes(boxes, offset)
    for old, new in zip(boxes, moved, strict=True):
        assert voxels(new) == {tuple(np.add(voxel, offset).tolist()) for voxel in voxels(old)}


@given(integer_boxes(), st.tuples(*[st.integers(-5, 5)] * 3))
def test_clipping_keeps_the_voxels_inside(boxes: np.ndarray, offset: tuple[int, int, int]) -> None:
    shape = (5, 6, 4)
    moved = bx.translate_boxes(boxes, offset)
    for before, after in zip(moved, bx.clip_boxes(moved, shape), strict=True):
        inside = {v for v in voxels(before) if all(0 <= v[axis] < shape[axis] for axis in range(3))}
        assert voxels(after) == inside


@settings(max_examples=50, deadline=None)
@given(integer_boxes(), integer_boxes())
def test_intersection_and_iou_count_common_voxels(first: np.ndarray, second: np.ndarray) -> None:
    common, iou = bx.intersection_volumes(first, second), bx.iou_matrix(first, second)
    assert common.shape == iou.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            both, either = len(voxels(a) & voxels(b)), len(voxels(a) | voxels(b))
            assert common[i, j] == both
            assert iou[i, j] == pytest.approx(both / either if either else 0)


@pytest.mark.parametrize(("side", "expected"), [(3, 0.174), (5, 0.344), (8, 0.504)])
def test_iou_of_a_cube_shifted_by_one_voxel_on_all_axes(side: int, expected: float) -> None:
    # Values by hand. If the boxes were one voxel too large, the result for side 3 would be 0.27.
    iou = bx.iou_matrix([[0, 0, 0, side, side, side]], [[1, 1, 1, side + 1, side + 1, side + 1]])
    assert iou[0, 0] == pytest.approx(expected, abs=5e-4)


def test_box_slices_cut_the_box_out() -> None:
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    assert np.array_equal(volume[box_slices((1, 0, 2, 3, 4, 6))], volume[1:3, 0:4, 2:6])
