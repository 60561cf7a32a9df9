from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from detseg3d.core.geometry import Geometry
from detseg3d.synthetic.shifts.intensity_scale import measure_channel
from detseg3d.synthetic.shifts.noise import gaussian_noise, reconstruction_noise, rician_noise
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength
from tests.synthetic.shifts.scans import make_scan

SHAPE = (20, 40, 40)


def two_tissues(ct: bool = False) -> Scan:
    """Tissue of 100 and 200, half and half; with air in a quarter of the volume."""
    image = np.full(SHAPE, 100, np.float32)
    image[:, :, 20:] = 200
    image[:, :10] = -1000 if ct else 0
    image[0, 0, 0] = -1024 if ct else 1  # without padding in all corners
    return Scan(image[None], np.zeros(SHAPE, np.int32), Geometry(SHAPE), (ct,))


def test_gaussian_noise_has_a_share_of_the_spread_of_the_tissue() -> None:
    scan = two_tissues()
    spread = (200 - 100) / 3.29
    for strength, share in ((Strength.MILD, 0.15), (Strength.MEDIUM, 0.3), (Strength.STRONG, 0.5)):
        noise = gaussian_noise(scan, strength, np.random.default_rng(0)).images - scan.images
        body = noise[0, :, 10:]
        assert body.std() == pytest.approx(share * spread, rel=0.02) and abs(body.mean()) < 0.01 * spread


def test_rician_noise_has_the_second_moment_of_a_magnitude() -> None:
    # Of a signal A with noise sigma, the mean of the squared magnitude is A² + 2 sigma².
    scan = two_tissues()
    sigma = 0.3 * measure_channel(scan.images[0], False).spread
    noisy = rician_noise(scan, Strength.MEDIUM, np.random.default_rng(0)).images[0, :, 10:].astype(np.float64)
    for part, signal in ((noisy[:, :, :20], 100), (noisy[:, :, 20:], 200)):
        assert (part**2).mean() == pytest.approx(signal**2 + 2 * sigma**2, rel=0.005)


def test_rician_noise_makes_air_brighter() -> None:
    # Air of a magnitude image follows a Rayleigh distribution, with the mean sigma * sqrt(pi / 2).
    random = np.random.default_rng(1)
    scan = make_scan()
    sigma = 0.5 * measure_channel(scan.images[0], False).spread
    noisy = rician_noise(scan, Strength.STRONG, random).images[0, :3, :3]
    assert noisy.mean() > scan.images[0, :3, :3].mean() + 0.5 * sigma


def test_noise_of_ct_is_in_hounsfield_units_with_the_texture_of_a_reconstruction() -> None:
    scan = two_tissues(ct=True)
    noise = (gaussian_noise(scan, Strength.MEDIUM, np.random.default_rng(0)).images - scan.images)[0, :, 10:]
    assert noise.std() == pytest.approx(40, rel=0.05)
    texture = reconstruction_noise((4, 64, 64), np.random.default_rng(0))
    power = (np.abs(fft.fft2(texture)) ** 2).mean(axis=0)
    frequency = np.hypot(fft.fftfreq(64)[:, None], fft.fftfreq(64)[None])
    slow, middle = power[frequency < 0.04].mean(), power[(frequency > 0.2) & (frequency < 0.3)].mean()
    assert slow < 0.2 * middle
    assert texture.std() == pytest.approx(1)


def test_padding_stays_without_noise() -> None:
    scan = make_scan()
    image = scan.images[0].copy()
    image[:, :5] = image[:, -5:] = 0
    padded = Scan(image[None], scan.instances, scan.geometry, (False,))
    for change in (gaussian_noise, rician_noise):
        noisy = change(padded, Strength.STRONG, np.random.default_rng(0)).images[0]
        assert (noisy[:, :5] == 0).all() and (noisy[:, 10:15] == image[:, 10:15]).mean() < 0.01
