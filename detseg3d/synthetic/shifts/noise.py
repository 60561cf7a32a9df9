"""Shifts of the noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft

from detseg3d.core.body import channel_mask
from detseg3d.synthetic.shifts.intensity_scale import measure_channel
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength

__all__ = ["gaussian_noise", "rician_noise"]


def gaussian_noise(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with additional Gaussian noise of 0.15, 0.3 or 0.5 spreads of the tissue.

    In CT the noise has 20, 40 or 80 HU and the texture of a reconstruction: low frequencies are weak within each axial
    slice. Padding has no noise.
    """

    def change(channel: npt.NDArray[np.float32], is_ct: bool) -> npt.NDArray[np.float32]:
        if is_ct:
            noise = strength.choose(20.0, 40.0, 80.0) * reconstruction_noise(channel.shape, random)
            noisy = np.maximum(channel + noise, min(-1024.0, float(channel.min())))  # files end at -1024 HU
        else:
            sigma = strength.choose(0.15, 0.3, 0.5) * measure_channel(channel, False).spread
            noisy = channel + sigma * random.standard_normal(channel.shape, np.float32)
        return _keep_padding(channel, noisy)

    return scan.each_channel(change)


def rician_noise(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan as the magnitude of a complex signal with noise of 0.15, 0.3 or 0.5 spreads of the tissue.

    Dark voxels become brighter, as in magnitude images. Channels in Hounsfield units and padding stay as they are.

    References
    ----------
    Gudbjartsson and Patz (1995), "The Rician distribution of noisy MRI data", Magnetic Resonance in Medicine 34.
    """

    def change(channel: npt.NDArray[np.float32], is_ct: bool) -> npt.NDArray[np.float32]:
        if is_ct:
            return channel
        scale = measure_channel(channel, False)
        sigma = strength.choose(0.15, 0.3, 0.5) * scale.spread
        real = np.maximum(channel - scale.air, 0) + sigma * random.standard_normal(channel.shape, np.float32)
        imaginary = sigma * random.standard_normal(channel.shape, np.float32)
        return _keep_padding(channel, np.hypot(real, imaginary) + np.float32(scale.air))

    return scan.each_channel(change)


def reconstruction_noise(shape: tuple[int, ...], random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return noise of standard deviation 1 with the spectrum of filtered back-projection in each axial slice.

    The spectrum rises with the frequency up to a smooth limit.
    """
    noise = random.standard_normal(shape, np.float32)
    _, height, width = shape
    frequency = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None])
    ramp = np.sqrt(frequency) * np.exp(-((frequency / 0.35) ** 4))
    filtered = fft.irfft2(fft.rfft2(noise) * ramp.astype(np.float32), s=(height, width))
    deviation = float(filtered.std())
    return np.asarray(filtered / deviation if deviation > 0 else noise, np.float32)


def _keep_padding(channel: npt.NDArray[np.float32], noisy: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    inside = channel_mask(channel)
    return np.asarray(noisy if inside is None else np.where(inside, noisy, channel), np.float32)
