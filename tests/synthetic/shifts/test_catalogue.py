"""What holds for every shift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detseg3d.core.geometry import Geometry
from detseg3d.synthetic.shifts.catalogue import SHIFTS, shifts_for
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Shift, Strength, case_seed
from tests.synthetic.shifts.scans import CENTERS, make_scan, world_center

CT_SHIFTS = [shift for shift in SHIFTS if shift.sensible_for_ct]
# These change where the tissue of the patient lies, or which part of it is seen.
MOVING = ("rotated", "cropped")


def by_name(shift: Shift) -> str:
    return shift.name


@pytest.fixture(scope="module")
def scan() -> Scan:
    return make_scan()


@pytest.mark.parametrize("strength", Strength, ids=str)
@pytest.mark.parametrize("shift", SHIFTS, ids=by_name)
def test_a_shift_changes_the_scan_and_keeps_the_numbers_of_the_lesions(
    shift: Shift, strength: Strength, scan: Scan
) -> None:
    before = scan.images.copy(), scan.instances.copy()
    changed = shift.apply(scan, strength, 7)
    assert changed.images.dtype == np.float32 and np.isfinite(changed.images).all()
    assert set(changed.lesion_ids) <= {1, 2, 3} and (shift.name in MOVING or changed.lesion_ids == [1, 2, 3])
    same_grid = changed.geometry.shape == scan.geometry.shape
    assert not same_grid or not np.allclose(changed.images, scan.images)
    assert (scan.images == before[0]).all() and (scan.instances == before[1]).all()


@pytest.mark.parametrize("shift", SHIFTS, ids=by_name)
def test_the_same_seed_gives_the_same_result(shift: Shift, scan: Scan) -> None:
    first, second = (shift.apply(scan, Strength.STRONG, case_seed("case_1")) for _ in range(2))
    assert (first.images == second.images).all() and (first.instances == second.instances).all()
    assert first.geometry == second.geometry


@pytest.mark.parametrize("name", ["gamma", "monotone_curve", "bias_field", "rotated", "cropped", "gaussian_noise"])
def test_another_case_is_changed_in_another_way(name: str, scan: Scan) -> None:
    shift = next(shift for shift in SHIFTS if shift.name == name)
    results = [shift.apply(scan, Strength.MEDIUM, case_seed(f"case_{number}")) for number in range(8)]
    assert len({(result.images.tobytes(), result.geometry.origin) for result in results}) > 1


@pytest.mark.parametrize("shift", [shift for shift in SHIFTS if shift.name != "inverted_contrast"], ids=by_name)
def test_image_and_lesions_stay_in_register(shift: Shift, scan: Scan) -> None:
    # The large lesions stay the brightest objects, so a threshold half-way to the tissue finds them in the image.
    changed = shift.apply(scan, Strength.MILD, 3)
    lesions = (changed.instances == 1) | (changed.instances == 2)
    inside = float(np.median(changed.images[0][lesions]))
    shell = np.zeros(lesions.shape, bool)
    for axis in range(3):
        shell |= np.roll(lesions, 3, axis) | np.roll(lesions, -3, axis)
    around = float(np.median(changed.images[0][shell & (changed.instances == 0)]))
    bright = changed.images[0] > (inside + around) / 2
    overlap = 2 * (bright & lesions).sum() / (lesions.sum() + (bright & (lesions | shell)).sum())
    assert overlap > 0.75


@pytest.mark.parametrize("shift", [shift for shift in SHIFTS if shift.name not in MOVING], ids=by_name)
def test_lesions_stay_at_their_place_in_the_world(shift: Shift, scan: Scan) -> None:
    changed = shift.apply(scan, Strength.MEDIUM, 11)
    for number in (1, 2):
        slack = 0.35 * max(changed.geometry.spacing)
        assert np.abs(world_center(changed, number) - world_center(scan, number)).max() < slack


@pytest.mark.parametrize("shift", SHIFTS, ids=by_name)
def test_strengths_are_in_units_of_the_scan(shift: Shift, scan: Scan) -> None:
    if shift.name == "masked":
        pytest.skip("the constant of a mask is 0 in every unit")
    other_unit = replace(scan, images=scan.images * np.float32(10))
    expected = shift.apply(scan, Strength.MEDIUM, 5).images * 10
    result = shift.apply(other_unit, Strength.MEDIUM, 5).images
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=2.0)


@pytest.mark.parametrize("shift", CT_SHIFTS, ids=by_name)
def test_ct_keeps_hounsfield_units(shift: Shift) -> None:
    scan = make_scan(ct=True)
    changed = shift.apply(scan, Strength.STRONG, 2)
    assert changed.images.min() >= -1024
    tissue = changed.images[0][changed.images[0] > -300]
    assert abs(float(np.median(tissue))) < 90
    assert (np.abs(changed.images[0] + 1000) < 150).mean() > 0.3 or shift.name in MOVING


def test_shifts_that_no_ct_scanner_makes_are_left_out_for_ct() -> None:
    names = {shift.name for shift in SHIFTS} - {shift.name for shift in shifts_for(["CT"])}
    assert names == {"rician_noise", "bias_field", "gamma", "monotone_curve", "inverted_contrast"}
    assert shifts_for(["CT", "PET"]) == SHIFTS
    with pytest.raises(ValueError, match="CT"):
        next(shift for shift in SHIFTS if shift.name == "gamma").apply(make_scan(ct=True), Strength.MILD, 0)


@pytest.mark.parametrize("name", ["rician_noise", "bias_field", "gamma", "monotone_curve", "inverted_contrast"])
def test_ct_channels_stay_as_they_are_beside_other_channels(name: str, scan: Scan) -> None:
    ct = make_scan(ct=True)
    both = Scan(np.concatenate([ct.images, scan.images]), scan.instances, scan.geometry, (True, False))
    changed = next(shift for shift in SHIFTS if shift.name == name).apply(both, Strength.STRONG, 1)
    assert (changed.images[0] == both.images[0]).all() and not np.allclose(changed.images[1], both.images[1])


@pytest.mark.parametrize("shift", SHIFTS, ids=by_name)
@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 4, 5)], ids=["one_slice", "tiny"])
def test_small_and_flat_scans_without_lesions_are_changed(shift: Shift, shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    images = random.normal(100, 10, (1, *shape)).astype(np.float32)
    empty = Scan(images, np.zeros(shape, np.int32), Geometry(shape, (6.0, 1.0, 1.0)), (False,))
    for strength in Strength:
        changed = shift.apply(empty, strength, 0)
        assert np.isfinite(changed.images).all() and min(changed.geometry.shape) >= 1 and not changed.lesion_ids


@pytest.mark.parametrize("shift", SHIFTS, ids=by_name)
def test_a_constant_scan_gives_finite_values(shift: Shift) -> None:
    shape = (8, 9, 10)
    scan = Scan(np.full((1, *shape), 5, np.float32), np.zeros(shape, np.int32), Geometry(shape), (False,))
    assert np.isfinite(shift.apply(scan, Strength.STRONG, 0).images).all()


def test_names_are_unique_and_every_lesion_of_the_tests_is_in_the_body(scan: Scan) -> None:
    assert len({shift.name for shift in SHIFTS}) == len(SHIFTS)
    assert len(CENTERS) == len(scan.lesion_ids)
