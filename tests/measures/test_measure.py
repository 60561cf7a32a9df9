from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.geometry import Geometry
from detseg3d.measures.lesion import LesionMeasures, LesionShape
from detseg3d.measures.measure import MeasuredScan, acquisition_axis, measure_lesions
from tests.measures.shapes import ellipsoid

# Turned by 30 degrees about the axis from right to left.
COSINE, SINE = math.cos(math.pi / 6), math.sin(math.pi / 6)
OBLIQUE = (1.0, 0.0, 0.0, 0.0, COSINE, -SINE, 0.0, SINE, COSINE)
MAPS = arrays(np.uint16, (4, 5, 6), elements=st.integers(0, 2)).filter(lambda array: bool((array == 1).any()))


def measure(
    instances: AnyIntArray, geometry: Geometry | None = None, scan: MeasuredScan | None = None
) -> LesionMeasures:
    """Measure lesion 1 of an instance map."""
    [measures] = measure_lesions(instances, [1], geometry or Geometry(instances.shape), scan)
    return measures


def lengths(measures: LesionMeasures) -> list[float]:
    return [
        measures.volume_mm3,
        measures.diameter_mm,
        measures.long_axis_mm,
        measures.short_axis_mm,
        measures.maximum_diameter_mm,
        measures.surface_mm2,
        measures.sphericity,
    ]


def test_one_voxel_is_measured_exactly() -> None:
    instances = np.zeros((4, 4, 4), np.uint16)
    instances[1, 2, 3] = 1
    measures = measure(instances, Geometry((4, 4, 4), (3.0, 1.0, 0.5), origin=(10.0, 20.0, 30.0)))
    assert (measures.voxels, measures.volume_mm3) == (1, 1.5)
    assert measures.diameter_mm == pytest.approx((6 * 1.5 / math.pi) ** (1 / 3))
    assert measures.centroid == (1.5, 2.5, 3.5)
    assert measures.centroid_world == pytest.approx((10 + 3 * 0.5, 20 + 2, 30 + 3))
    assert (measures.long_axis_mm, measures.short_axis_mm, measures.maximum_diameter_mm) == (1.0, 0.5, 3.0)
    assert measures.long_axis_ends.voxel == ((1.5, 2.0, 3.5), (1.5, 3.0, 3.5))
    assert np.allclose(measures.long_axis_ends.world, [(11.5, 21.5, 33), (11.5, 22.5, 33)])
    assert (measures.slice_axis, measures.slice_index) == ("z", 1)
    assert measures.intensities == () and measures.border_distance_mm is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (0.5, 0.5, 0.5)])
def test_a_ball_is_measured_within_the_stated_error(spacing: tuple[float, float, float]) -> None:
    radius = 12.0
    instances = ellipsoid((radius,) * 3, spacing).astype(np.uint16)
    measures = measure(instances, Geometry(instances.shape, spacing))
    assert measures.volume_mm3 == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)
    assert measures.diameter_mm == pytest.approx(2 * radius, rel=0.01)
    assert measures.long_axis_mm == pytest.approx(2 * radius, abs=1.001 * spacing[2])
    assert measures.maximum_diameter_mm == pytest.approx(2 * radius, abs=1.001 * spacing[0])
    assert measures.surface_mm2 == pytest.approx(4 * math.pi * radius**2 * 1.1, rel=0.07)
    middle = tuple(size / 2 for size in instances.shape)
    assert measures.centroid == pytest.approx(middle)
    assert measures.slice_index == instances.shape[0] // 2


def test_intensities_are_those_of_each_channel_of_the_scan() -> None:
    instances = np.zeros((2, 2, 3), np.uint16)
    instances[0, 0, :] = 1
    images = np.zeros((2, 2, 2, 3), np.float32)
    images[0, 0, 0] = 10, 20, 60
    images[1, 0, 0] = -1, -1, -1
    first, second = measure(instances, scan=MeasuredScan(images, ("CT", "PET"))).intensities
    assert (first.channel, first.mean, first.minimum, first.maximum) == ("CT", 30, 10, 60)
    assert first.standard_deviation == pytest.approx(math.sqrt((400 + 100 + 900) / 3))
    assert (second.channel, second.mean, second.standard_deviation) == ("PET", -1, 0)


def test_the_distance_to_the_border_of_the_body_is_measured_in_the_scan() -> None:
    images = np.zeros((1, 20, 20, 20), np.float32)
    images[0, 4:16, 4:16, 4:16] = 50
    instances = np.zeros((20, 20, 20), np.uint16)
    instances[8:10, 6:14, 7] = 1
    scan = MeasuredScan(images, ("MR",))
    assert measure(instances, Geometry((20, 20, 20), (2.0, 1.0, 1.0)), scan).border_distance_mm == pytest.approx(2)


def test_a_lesion_at_the_border_of_the_volume_is_measured_like_any_other() -> None:
    middle, corner = np.zeros((2, 9, 9, 9), np.uint16)
    middle[3:5, 3:6, 3:7] = 1
    corner[0:2, 0:3, 0:4] = 1
    assert lengths(measure(corner)) == pytest.approx(lengths(measure(middle)))


def test_the_direction_of_the_volume_changes_positions_and_no_lengths() -> None:
    instances = np.zeros((6, 7, 8), np.uint16)
    instances[1:5, 2:6, 1:7] = 1
    instances[2, 1, 3] = 1
    straight = measure(instances, Geometry(instances.shape, (3.0, 1.0, 0.5)))
    geometry = Geometry(instances.shape, (3.0, 1.0, 0.5), (5.0, -7.0, 9.0), OBLIQUE)
    oblique = measure(instances, geometry)
    assert lengths(oblique) == lengths(straight)
    for ends in (oblique.long_axis_ends, oblique.short_axis_ends, oblique.maximum_diameter_ends):
        assert np.allclose(geometry.world_to_voxel_edges(ends.world), ends.voxel)
    first, second = np.array(oblique.long_axis_ends.world)
    assert np.linalg.norm(first - second) == pytest.approx(oblique.long_axis_mm)
    assert oblique.centroid_world == pytest.approx(geometry.voxel_edges_to_world([oblique.centroid])[0])


def test_lesions_are_measured_separately_and_in_the_given_order() -> None:
    instances = np.zeros((3, 4, 20), np.uint32)
    instances[0, 0, :2], instances[0, 1, :7], instances[2, 2, 5:8] = 70_000, 3, 900
    measured = measure_lesions(instances, [900, 70_000, 3], Geometry(instances.shape))
    assert [measures.long_axis_mm for measures in measured] == [3, 2, 7]
    assert [measures.slice_index for measures in measured] == [2, 0, 0]
    assert measured[0].centroid == (2.5, 2.5, 6.5)


def test_without_lesions_nothing_is_measured() -> None:
    assert measure_lesions(np.zeros((2, 2, 2), np.uint16), [], Geometry((2, 2, 2))) == []


def test_a_number_without_voxels_is_an_error() -> None:
    with pytest.raises(ValueError):
        measure_lesions(np.ones((2, 2, 2), np.uint16), [1, 2], Geometry((2, 2, 2)))


def test_a_scan_of_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError):
        measure(np.ones((2, 2, 2), np.uint16), scan=MeasuredScan(np.zeros((1, 2, 2, 3), np.float32), ("CT",)))


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1.0, 1.0, 1.0), 0),
        ((5.0, 1.0, 1.0), 0),
        ((1.0, 5.0, 1.0), 1),
        ((1.0, 1.0, 1.2), 2),
        ((1.0, 1.0, 1.001), 0),
        ((0.9, 1.0, 1.0), 0),
    ],
)
def test_the_slices_lie_across_the_coarsest_axis_or_are_axial(spacing: tuple[float, float, float], axis: int) -> None:
    assert acquisition_axis(Geometry((9, 9, 9), spacing)) == axis


def test_the_slices_of_a_dicom_series_are_known() -> None:
    # Sagittal slices of 1 mm with pixels of 2 mm: the first stored axis runs from right to left.
    sagittal = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    identity = DicomIdentity("1", "2", "3", "4", "MR", "", "", (), ())
    stored = Geometry((9, 9, 9), (1.0, 2.0, 2.0), direction=sagittal)
    geometry = replace(stored, dicom=(identity,)).canonical()
    assert geometry.spacing == (2.0, 2.0, 1.0)
    assert acquisition_axis(geometry) == 2
    assert acquisition_axis(stored.canonical()) == 0


def test_positions_are_converted_to_the_order_of_the_file() -> None:
    flipped = Geometry((6, 7, 8), (3.0, 1.0, 0.5), direction=(-1, 0, 0, 0, 1, 0, 0, 0, -1)).canonical()
    instances = np.zeros((6, 7, 8), np.uint16)
    instances[1, 2:5, 3] = 1
    canonical = measure(instances, flipped)
    stored = canonical.to_stored(flipped.stored_order)
    [index] = {
        tuple(row) for row in np.argwhere(flipped.stored_order.to_stored(instances == 1)).tolist() if row[1] == 3
    }
    assert stored.centroid == tuple(value + 0.5 for value in index)
    assert (stored.slice_axis, stored.slice_index) == ("z", 4)
    assert stored.centroid_world == canonical.centroid_world
    file = flipped.as_stored()
    for name in ("long_axis_ends", "short_axis_ends", "maximum_diameter_ends"):
        ends = getattr(stored, name)
        assert np.allclose(file.voxel_edges_to_world(ends.voxel), ends.world)
        assert np.allclose(ends.world, getattr(canonical, name).world)


def test_the_slice_axis_follows_a_changed_order_of_axes() -> None:
    coronal_first = Geometry((5, 6, 7), (4.0, 1.0, 1.0), direction=(1, 0, 0, 0, 0, 1, 0, -1, 0)).canonical()
    instances = np.zeros(coronal_first.shape, np.uint16)
    instances[1:4, 2, 3:5] = 1
    measures = measure(instances, coronal_first)
    assert (measures.slice_axis, measures.slice_index) == ("y", 2)
    assert measures.to_stored(coronal_first.stored_order).slice_axis == "z"


def test_measures_are_read_back_from_json() -> None:
    instances = np.zeros((4, 4, 4), np.uint16)
    instances[1:3, 2, 1:] = 1
    measures = measure(instances, scan=MeasuredScan(np.ones((1, 4, 4, 4), np.float32), ("CT",)))
    assert LesionMeasures.from_json(measures.to_json()) == measures
    assert LesionShape.from_json(measures.to_json()) == LesionShape.of(measures)


@given(MAPS, st.sampled_from([(0,), (1,), (2,), (0, 2)]))
def test_flips_change_no_measure(instances: AnyIntArray, flipped: tuple[int, ...]) -> None:
    geometry = Geometry(instances.shape, (3.0, 1.0, 0.5))
    images = np.random.default_rng(0).normal(size=(1, *instances.shape)).astype(np.float32)
    here = measure(instances, geometry, MeasuredScan(images, ("MR",)))
    turned = MeasuredScan(np.flip(images, [axis + 1 for axis in flipped]), ("MR",))
    there = measure(np.flip(instances, flipped), geometry, turned)
    # The mesh of marching cubes divides some ambiguous cubes in another way after a flip.
    expected = [pytest.approx(value) for value in lengths(here)[:5]]
    assert lengths(there)[:5] == expected
    assert there.surface_mm2 == pytest.approx(here.surface_mm2, rel=0.1)
    assert there.intensities[0].mean == pytest.approx(here.intensities[0].mean)


@given(MAPS, st.integers(1, 3))
def test_quarter_turns_change_no_measure(instances: AnyIntArray, turns: int) -> None:
    turned = np.rot90(instances, turns, (1, 2))
    here, there = (measure(array, Geometry(array.shape, (3.0, 0.7, 0.7))) for array in (instances, turned))
    assert lengths(there)[:5] == [pytest.approx(value) for value in lengths(here)[:5]]
    assert there.surface_mm2 == pytest.approx(here.surface_mm2, rel=0.1)


@given(MAPS, st.floats(0.01, 100))
def test_measures_grow_with_the_spacing(instances: AnyIntArray, scale: float) -> None:
    here = measure(instances, Geometry(instances.shape, (3.0, 1.0, 0.5)))
    there = measure(instances, Geometry(instances.shape, (3.0 * scale, scale, 0.5 * scale)))
    powers = (3, 1, 1, 1, 1, 2, 0)
    expected = [value * scale**power for value, power in zip(lengths(here), powers, strict=True)]
    assert lengths(there) == pytest.approx(expected)


@given(MAPS)
def test_the_order_of_the_measures_is_that_of_their_definitions(instances: AnyIntArray) -> None:
    measures = measure(instances, Geometry(instances.shape, (3.0, 1.0, 0.5)))
    assert measures.short_axis_mm <= measures.long_axis_mm * (1 + 1e-9)
    assert measures.long_axis_mm <= measures.maximum_diameter_mm * (1 + 1e-9)
    assert 0 < measures.sphericity <= 1


@pytest.mark.slow
def test_many_lesions_of_a_large_scan_are_measured_in_seconds() -> None:
    rng = np.random.default_rng(0)
    instances, images = np.zeros((256,) * 3, np.uint16), np.zeros((1, 256, 256, 256), np.float32)
    images[0, 20:236, 20:236, 20:236] = 100 + rng.normal(0, 5, (216,) * 3)
    for number in range(1, 301):
        ball = ellipsoid((rng.uniform(1, 9),) * 3, (1.0, 1.0, 1.0))
        z, y, x = (int(rng.integers(25, 230 - size)) for size in ball.shape)
        instances[z : z + ball.shape[0], y : y + ball.shape[1], x : x + ball.shape[2]][ball] = number
    ids = np.unique(instances)[1:]
    start = time.process_time()
    measure_lesions(instances, ids, Geometry(instances.shape), MeasuredScan(images, ("CT",)))
    # A multiple of the usual time, because test machines are busy.
    assert time.process_time() - start < 20
