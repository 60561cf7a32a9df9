from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.arrays import BoolArray
from detseg3d.measures.body_border import BodyBorder, body_region

SPACING = np.array([3.0, 1.0, 0.5])


def scan_of(body: BoolArray, inside: float = 100.0, outside: float = 0.0) -> np.ndarray:
    return np.where(body, inside, outside)[None].astype(np.float32)


def block(shape: tuple[int, int, int], low: int, high: int) -> BoolArray:
    body = np.zeros(shape, bool)
    body[low:high, low:high, low:high] = True
    return body


def border_of(images: np.ndarray, spacing: np.ndarray = SPACING) -> BodyBorder:
    border = BodyBorder.of_scan(images, np.diag(spacing))
    assert border is not None
    return border


def brute_distance(lesion: BoolArray, outside: BoolArray) -> float:
    """Return the smallest gap between the voxels of two masks, by comparing all pairs."""
    first, second = np.argwhere(lesion), np.argwhere(outside)
    gaps = np.maximum(np.abs(first[:, None] - second[None]) - 1, 0) * SPACING
    return float(np.linalg.norm(gaps, axis=-1).min())


def test_the_distance_is_the_gap_between_the_faces_of_voxels() -> None:
    border = border_of(scan_of(block((20, 20, 20), 4, 16)))
    # From x = 10 to the end of the body at x = 16 are 6 voxels of 0.5 mm, less the voxel itself.
    assert border.distance_mm(np.ones((1, 1, 1), bool), (10, 10, 10)) == pytest.approx(2.5)


@pytest.mark.parametrize("offset", [(4, 10, 10), (10, 15, 10), (10, 10, 4), (2, 10, 10)])
def test_a_lesion_at_the_border_or_outside_has_the_distance_0(offset: tuple[int, int, int]) -> None:
    border = border_of(scan_of(block((20, 20, 20), 4, 16)))
    assert border.distance_mm(np.ones((1, 1, 1), bool), offset) == 0


def test_the_end_of_the_scan_is_not_a_border_of_the_body() -> None:
    body = np.zeros((20, 20, 20), bool)
    body[:, 4:16, 4:16] = True
    border = border_of(scan_of(body), np.ones(3))
    assert border.distance_mm(np.ones((1, 1, 1), bool), (0, 9, 9)) == pytest.approx(5)


def test_a_scan_without_air_and_padding_has_no_border() -> None:
    images = np.random.default_rng(0).uniform(90, 110, (1, 12, 12, 12)).astype(np.float32)
    assert BodyBorder.of_scan(images, np.eye(3)) is None


def test_air_inside_the_body_belongs_to_the_body() -> None:
    body = block((20, 20, 20), 3, 17)
    images = scan_of(body)
    images[0, :17, 9:12, 9:12] = 0  # a windpipe, open at one end
    region = body_region(images)
    assert region is not None and region[5:17, 9:12, 9:12].all()
    assert border_of(images, np.ones(3)).distance_mm(np.ones((1, 1, 1), bool), (10, 12, 10)) == pytest.approx(4)


def test_a_table_beside_the_body_is_left_out() -> None:
    body = block((20, 20, 20), 4, 14)
    images = scan_of(body)
    images[0, :, 17:19, :] = 100
    region = body_region(images)
    assert region is not None and np.array_equal(region, body)


def test_a_body_that_only_one_channel_shows_is_found() -> None:
    wide, narrow = block((20, 20, 20), 3, 17), block((20, 20, 20), 8, 12)
    region = body_region(np.concatenate([scan_of(narrow), scan_of(wide)]))
    assert region is not None and np.array_equal(region, wide)


@given(
    arrays(bool, (3, 3, 4), elements=st.booleans()).filter(lambda mask: bool(mask.any())),
    st.tuples(*[st.integers(5, 11)] * 3),
)
def test_the_distance_agrees_with_a_comparison_of_all_voxels(mask: BoolArray, offset: tuple[int, int, int]) -> None:
    z, y, x = np.mgrid[:20, :20, :20]
    body = (z - 9.3) ** 2 + (y - 9.8) ** 2 + (x - 10.4) ** 2 < 64
    lesion = np.zeros(body.shape, bool)
    lesion[offset[0] : offset[0] + 3, offset[1] : offset[1] + 3, offset[2] : offset[2] + 4] = mask
    distance = border_of(scan_of(body)).distance_mm(mask, offset)
    assert distance == pytest.approx(0 if (lesion & ~body).any() else brute_distance(lesion, ~body))


def test_ct_with_noise_in_the_air_has_the_border_of_the_body() -> None:
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:40, :40, :40]
    body = (z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 15**2
    images = np.where(body, 40.0, -1000.0) + rng.normal(0, 20, body.shape)
    region = body_region(images[None].astype(np.float32))
    assert region is not None and np.count_nonzero(region ^ body) < 0.002 * body.size
    distance = border_of(images[None], np.ones(3)).distance_mm(np.ones((1, 1, 1), bool), (20, 20, 20))
    # The steps of the border come nearer than the ball itself, by up to the diagonal of a voxel.
    assert 14.5 - math.sqrt(3) < distance < 14.5
