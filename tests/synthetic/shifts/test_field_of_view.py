from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from detseg3d.synthetic.shifts.field_of_view import cropped, masked, padded, rotated, rotation_matrix
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength
from tests.synthetic.shifts.scans import ball, make_scan, world_center


def place_of(inner: Scan, outer: Scan) -> tuple[slice, ...]:
    """Where the grid of a scan lies in the grid of another scan, from their geometries."""
    start = outer.geometry.world_to_voxel_edges(inner.geometry.voxel_edges_to_world([[0, 0, 0]]))[0]
    assert np.allclose(start, np.round(start), atol=1e-6)
    first = np.round(start).astype(int)
    return tuple(slice(int(a), int(a) + n) for a, n in zip(first, inner.geometry.shape, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_cropped_scan_is_a_part_of_the_scan(seed: int) -> None:
    scan = make_scan()
    part = cropped(scan, Strength.STRONG, np.random.default_rng(seed))
    window = place_of(part, scan)
    assert (part.images[0] == scan.images[0][window]).all() and (part.instances == scan.instances[window]).all()
    assert part.geometry.shape == (20, 26, 29)  # 0.65 of 30, 40 and 44


def test_lesions_outside_a_cropped_scan_are_absent() -> None:
    scan = make_scan()
    scan.instances[:2, :2, :2] = 4  # in a corner of the volume
    parts = [cropped(scan, Strength.STRONG, np.random.default_rng(seed)) for seed in range(12)]
    for part in parts:
        assert part.lesion_ids == sorted(set(scan.instances[place_of(part, scan)].ravel().tolist()) - {0})
    assert sum(4 in part.lesion_ids for part in parts) < len(parts)


@pytest.mark.parametrize("seed", range(4))
def test_a_padded_scan_holds_the_scan_in_air(seed: int) -> None:
    scan = make_scan()
    larger = padded(scan, Strength.MEDIUM, np.random.default_rng(seed))
    window = place_of(scan, larger)
    assert larger.geometry.shape == (36, 48, 53)  # 0.2 of each length is added
    assert (larger.images[0][window] == scan.images[0]).all() and (larger.instances[window] == scan.instances).all()
    outside = np.ones(larger.geometry.shape, bool)
    outside[window] = False
    air = larger.images[0][outside]
    assert air.max() < 20 and air.std() > 0.2 and not larger.instances[outside].any()


def test_the_air_around_a_padded_scan_has_the_value_of_the_padding() -> None:
    scan = make_scan()
    body = ball(scan.geometry.shape, (15, 20, 22), 17)
    stripped = Scan(np.where(body, scan.images, 0).astype(np.float32), scan.instances, scan.geometry, (False,))
    larger = padded(stripped, Strength.MEDIUM, np.random.default_rng(0))
    assert (larger.images[0, :, :, -1] == 0).all()


def test_a_mild_mask_removes_the_noise_of_air_and_nothing_else() -> None:
    scan = make_scan()
    changed = masked(scan, Strength.MILD, np.random.default_rng(0)).images[0]
    assert (changed[0, 0] == 0).all()
    body = ball(scan.geometry.shape, (15, 20, 22), 15)
    assert (changed[body] == scan.images[0][body]).all()


def test_stronger_masks_remove_the_surface_of_the_body_but_no_lesion() -> None:
    scan = make_scan()
    seen = [(masked(scan, strength, np.random.default_rng(0)).images[0] != 0) for strength in Strength]
    assert seen[0].sum() > seen[1].sum() > seen[2].sum()
    for mask in seen:
        assert mask[scan.instances > 0].all()


def test_a_mask_of_ct_keeps_lungs_and_uses_the_lowest_value() -> None:
    scan = make_scan(ct=True)
    image = scan.images[0].copy()
    lung = ball(scan.geometry.shape, (15, 20, 22), 6)
    image[lung & (scan.instances == 0)] = -850
    chest = Scan(image[None], scan.instances, scan.geometry, (True,))
    changed = masked(chest, Strength.MILD, np.random.default_rng(0)).images[0]
    assert (changed[lung] == image[lung]).all()
    assert (changed[0, 0] == image.min()).all()


def test_a_rotation_is_that_of_scipy() -> None:
    axis = np.array([1.0, -2.0, 0.5])
    # The axes of SciPy are x, y, z, a right-handed system; z, y, x is left-handed.
    expected = Rotation.from_rotvec(-0.4 * axis[::-1] / np.linalg.norm(axis)).as_matrix()
    np.testing.assert_allclose(rotation_matrix(axis, 0.4)[::-1, ::-1], expected, atol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)], ids=["cubes", "slices"])
def test_lesions_turn_by_the_angle_and_keep_their_distances(spacing: tuple[float, float, float]) -> None:
    scan = make_scan(spacing=spacing)
    changed = rotated(scan, Strength.STRONG, np.random.default_rng(3))
    before = world_center(scan, 2) - world_center(scan, 1)
    after = world_center(changed, 2) - world_center(changed, 1)
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=0.06)
    angle = np.degrees(np.arccos(before @ after / np.linalg.norm(before) / np.linalg.norm(after)))
    assert 3 < angle < 32  # at most the angle of the rotation; less if the line lies near the axis
    for number in (1, 2):
        assert (changed.instances == number).sum() == pytest.approx((scan.instances == number).sum(), rel=0.15)


def test_air_comes_in_at_the_corners_of_a_rotated_scan() -> None:
    changed = rotated(make_scan(), Strength.STRONG, np.random.default_rng(0)).images[0]
    assert changed[0, 0, 0] < 20 and changed[-1, -1, -1] < 20
