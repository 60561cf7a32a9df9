from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from detseg3d.synthetic.random_scans.canvas import Canvas

NEIGHBOURS = np.ones((3, 3, 3), bool)


@pytest.fixture
def canvas() -> Canvas:
    return Canvas((40, 48, 44), np.random.default_rng(0))


def test_a_field_has_mean_0_and_standard_deviation_1(canvas: Canvas) -> None:
    field = canvas.smooth(7.0)
    assert field.shape == (40, 48, 44) and field.dtype == np.float32
    assert float(field.mean()) == pytest.approx(0, abs=1e-4)
    assert float(field.std()) == pytest.approx(1, abs=1e-4)


def test_a_larger_scale_gives_a_smoother_field(canvas: Canvas) -> None:
    steps = [float(np.abs(np.diff(canvas.smooth(scale), axis=0)).mean()) for scale in (2.0, 6.0, 18.0)]
    assert steps[0] > 2 * steps[1] > 4 * steps[2]


def test_a_field_can_have_another_scale_along_each_axis(canvas: Canvas) -> None:
    field = canvas.smooth((20.0, 3.0, 3.0))
    along_z, along_y = (float(np.abs(np.diff(field, axis=axis)).mean()) for axis in (0, 1))
    assert along_z < along_y / 3


def test_the_radius_is_1_at_the_semi_axes(canvas: Canvas) -> None:
    radius = canvas.radius((20.5, 24.5, 22.5), (10, 5, 8))
    assert radius[20, 24, 22] == 0
    assert [radius[30, 24, 22], radius[20, 29, 22], radius[20, 24, 30]] == pytest.approx([1, 1, 1])


def test_an_infinite_semi_axis_gives_a_cylinder(canvas: Canvas) -> None:
    radius = canvas.radius((20, 24, 22), (np.inf, 5, 5))
    assert np.array_equal(radius[0], radius[39])


@pytest.mark.parametrize("diameter", [6.0, 12.0, 20.0])
def test_a_smooth_blob_has_the_volume_of_its_ball(canvas: Canvas, diameter: float) -> None:
    blob = canvas.blob((20, 24, 22), diameter, roughness=0.0)
    assert np.count_nonzero(blob.values < 1) == pytest.approx(np.pi / 6 * diameter**3, rel=0.1)


def test_the_smallest_blob_has_one_voxel_at_its_centre(canvas: Canvas) -> None:
    blob = canvas.blob((20.5, 24.5, 22.5), 0.1, roughness=0.0)
    inside = np.zeros(canvas.shape, bool)
    inside[blob.slices] = blob.values < 1
    assert np.argwhere(inside).tolist() == [[20, 24, 22]]


def test_a_tube_is_connected_and_stays_in_its_region(canvas: Canvas) -> None:
    allowed = np.zeros(canvas.shape, bool)
    allowed[5:35, 5:40, 5:40] = True
    tube = canvas.tube(np.array([20.0, 24, 22]), radius=1.5, length=60, allowed=allowed)
    assert 20 < np.count_nonzero(tube) < 1000
    assert not (tube & ~allowed).any()
    assert ndimage.label(tube, NEIGHBOURS)[1] == 1


def test_a_point_lies_in_its_region(canvas: Canvas) -> None:
    region = np.zeros(canvas.shape, bool)
    region[10:30, 10:30, 10:30] = True
    for _ in range(20):
        point = canvas.place_in(region)
        assert point is not None and region[tuple(point.astype(int))]


def test_an_empty_region_has_no_point(canvas: Canvas) -> None:
    assert canvas.place_in(np.zeros(canvas.shape, bool)) is None
