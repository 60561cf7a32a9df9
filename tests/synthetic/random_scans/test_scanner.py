from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detseg3d.synthetic.random_scans.anatomy import Anatomy
from detseg3d.synthetic.random_scans.canvas import Canvas, Volume
from detseg3d.synthetic.random_scans.scanner import Acquired, Protocol, acquire, paint_regions

SHAPE = (40, 36, 32)
NEUTRAL = Protocol(
    blur=0.01,
    noise=0.0,
    noise_blur=0.0,
    is_magnitude=False,
    bias=0.0,
    gamma=1.0,
    thickness=1.0,
    axis=0,
    voxel=1.0,
    scale=1.0,
    offset=0.0,
)


def scan_with(protocol: Protocol, image: Volume | None = None) -> Acquired:
    canvas = Canvas(SHAPE, np.random.default_rng(0))
    image = np.full(SHAPE, 0.5, np.float32) if image is None else image
    return acquire(canvas, image, np.zeros(SHAPE, np.float32), protocol)


def test_a_neutral_protocol_changes_nothing() -> None:
    image = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    acquired = scan_with(NEUTRAL, image)
    assert np.allclose(acquired.image, image, atol=1e-5)
    assert acquired.spacing == (1, 1, 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_means_and_keep_the_size_of_the_patient(axis: int) -> None:
    image = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    acquired = scan_with(replace(NEUTRAL, thickness=2.0, axis=axis), image)
    moved = np.moveaxis(image, axis, 0)
    assert np.allclose(np.moveaxis(acquired.image, axis, 0), (moved[::2] + moved[1::2]) / 2, atol=1e-5)
    assert acquired.spacing[axis] == pytest.approx(2.0)
    assert np.multiply(acquired.image.shape, acquired.spacing) == pytest.approx(SHAPE)


def test_a_thick_slice_counts_a_cut_voxel_in_part() -> None:
    image = np.zeros(SHAPE, np.float32)
    image[:, :, :] = np.arange(40)[:, None, None]
    acquired = scan_with(replace(NEUTRAL, thickness=2.5), image)
    # The first of 16 slices contains the voxels 0 and 1 and half of voxel 2.
    assert acquired.image.shape[0] == 16
    assert float(acquired.image[0, 0, 0]) == pytest.approx((0 + 1 + 0.5 * 2) / 2.5)


def test_the_noise_has_the_requested_deviation() -> None:
    for noise_blur in (0.0, 0.8):
        acquired = scan_with(replace(NEUTRAL, noise=0.05, noise_blur=noise_blur))
        assert float(acquired.image.std()) == pytest.approx(0.05, rel=0.05)


def test_magnitude_images_are_never_negative() -> None:
    acquired = scan_with(replace(NEUTRAL, noise=0.1, is_magnitude=True), np.zeros(SHAPE, np.float32))
    assert float(acquired.image.min()) >= 0


def test_scale_and_offset_give_the_values_of_the_file() -> None:
    acquired = scan_with(replace(NEUTRAL, scale=1000.0, offset=-1000.0))
    assert float(acquired.image.mean()) == pytest.approx(-500, abs=1)


def test_the_bias_field_changes_intensities_smoothly() -> None:
    image = scan_with(replace(NEUTRAL, bias=0.3)).image
    assert float(image.std()) > 0.02
    assert float(np.abs(np.diff(image, axis=0)).max()) < 0.1


def test_regions_get_intensities_of_their_own() -> None:
    regions = np.repeat(np.arange(4, dtype=np.uint8), 12)[:, None, None] * np.ones((1, 40, 40), np.uint8)
    image = paint_regions(Canvas(regions.shape, np.random.default_rng(0)), Anatomy(regions, (1, 2, 3)))
    means = [float(image[regions == number].mean()) for number in range(4)]
    assert len({round(mean, 2) for mean in means}) == 4


def test_protocols_have_thin_and_thick_slices_along_every_axis() -> None:
    random = np.random.default_rng(0)
    protocols = [Protocol.draw(random) for _ in range(200)]
    thick = [protocol for protocol in protocols if protocol.thickness > 1]
    assert 0.2 < len(thick) / len(protocols) < 0.5
    assert {protocol.axis for protocol in thick} == {0, 1, 2}
    assert max(protocol.thickness for protocol in thick) <= 8
