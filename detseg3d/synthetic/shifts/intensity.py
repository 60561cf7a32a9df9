"""Shifts of the intensities: shading, curves, inverted contrast, another unit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from detseg3d.core.body import channel_mask
from detseg3d.synthetic.shifts.intensity_scale import AIR_HU, measure_channel
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength

__all__ = ["bias_field", "gamma", "inverted_contrast", "monotone_curve", "offset_and_scale"]

Volume = npt.NDArray[np.float32]

_CURVE_PARTS = 5


def bias_field(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with the shading of a receive coil: the brightest place is 1.5, 2 or 3 times as bright.

    The sensitivity falls with the distance from a coil beside the body, as 1 / (1 + d²). The distance d is measured in
    half lengths of the volume. One coil serves all channels. Channels in Hounsfield units stay as they are.
    """
    shape = np.array(scan.geometry.shape)
    half = 0.5 * float((shape * scan.geometry.spacing).max())
    direction = random.standard_normal(3)
    coil = 1.2 * direction / np.linalg.norm(direction)
    axes = [
        ((np.arange(n) + 0.5 - n / 2) * mm / half - place)
        for n, mm, place in zip(shape, scan.geometry.spacing, coil, strict=True)
    ]
    squared = sum(part**2 for part in np.meshgrid(*axes, indexing="ij", sparse=True))
    logarithm = -np.log1p(squared)
    span = float(np.ptp(logarithm))
    ratio = np.log(strength.choose(1.5, 2.0, 3.0)) / span if span > 0 else 0.0
    sensitivity = np.exp(ratio * (logarithm - logarithm.mean())).astype(np.float32)

    def change(channel: Volume, is_ct: bool) -> Volume:
        if is_ct:
            return channel
        air = np.float32(measure_channel(channel, False).air)
        return (channel - air) * sensitivity + air

    return scan.each_channel(change)


def gamma(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with intensities between air and bright tissue raised to a power.

    The exponent is 1.25, 1.6 or 2.2, or its inverse. Channels in Hounsfield units stay as they are.
    """
    exponent = strength.choose(1.25, 1.6, 2.2)
    if random.random() < 0.5:
        exponent = 1 / exponent

    def curve(fraction: Volume) -> Volume:
        return np.asarray(np.sign(fraction) * np.abs(fraction) ** np.float32(exponent))

    return scan.each_channel(lambda channel, is_ct: channel if is_ct else _between_air_and_tissue(channel, curve))


def monotone_curve(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with intensities changed by a random ascending curve.

    The curve is a monotone cubic interpolation (PCHIP) through six points between air and bright tissue. Its rises
    between the points are random by a share of 0.4, 0.65 or 0.85. Channels in Hounsfield units stay as they are.

    References
    ----------
    Fritsch and Carlson (1980), "Monotone piecewise cubic interpolation", SIAM Journal on Numerical Analysis 17.
    """
    share = strength.choose(0.4, 0.65, 0.85)
    rises = (1 - share) / _CURVE_PARTS + share * random.dirichlet(np.ones(_CURVE_PARTS))
    knots = np.linspace(0, 1, _CURVE_PARTS + 1)
    pchip = PchipInterpolator(knots, np.concatenate([[0.0], np.cumsum(rises)]))

    def curve(fraction: Volume) -> Volume:
        inside = np.clip(fraction, 0, 1)
        # Beyond both ends the curve continues with slope 1, so that extreme intensities keep their order.
        return np.asarray(pchip(inside) + (fraction - inside), np.float32)

    return scan.each_channel(lambda channel, is_ct: channel if is_ct else _between_air_and_tissue(channel, curve))


def _between_air_and_tissue(channel: Volume, curve: Callable[[Volume], Volume]) -> Volume:
    """Apply a curve to intensities as fractions of the way from air (0) to the brightest tissue (1)."""
    scale = measure_channel(channel, False)
    span = scale.highest - scale.air
    if span <= 0:
        return channel
    return np.asarray(curve((channel - scale.air) / np.float32(span)) * span + scale.air, np.float32)


def inverted_contrast(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan with bright tissue dark and dark tissue bright; air stays dark.

    The inverted contrast has 0.5, 0.75 or 1 times the size of the present contrast. Channels in Hounsfield units stay
    as they are.
    """
    del random
    size = strength.choose(0.5, 0.75, 1.0)

    def change(channel: Volume, is_ct: bool) -> Volume:
        if is_ct:
            return channel
        scale = measure_channel(channel, False)
        middle = (scale.low + scale.highest) / 2
        inverted = np.maximum(middle - size * (channel - middle), scale.air + 0.5 * (scale.low - scale.air))
        # Between air and dark tissue the inversion fades out, because the surroundings of the body stay dark.
        limit = max(scale.low - scale.air, 1e-6 * scale.spread, np.finfo(np.float32).tiny)
        tissue = np.clip((channel - scale.air) / limit, 0, 1)
        return np.asarray(tissue * inverted + (1 - tissue) * channel, np.float32)

    return scan.each_channel(change)


def offset_and_scale(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Return the scan in another unit: a factor and an offset for all voxels.

    The factor is 1.4, 2 or 4 or its inverse. The offset is 0.5, 1 or 2 spreads of the tissue, up or down, padding
    included. In CT the change is a wrong calibration: 10, 20 or 40 HU up or down and a factor within 1, 2 or 4 % about
    air.
    """
    up, larger = random.random(2) < 0.5

    def change(channel: Volume, is_ct: bool) -> Volume:
        if is_ct:
            factor = 1 + strength.choose(0.01, 0.02, 0.04) * (1 if larger else -1)
            offset = strength.choose(10.0, 20.0, 40.0) * (1 if up else -1)
            changed = (channel - AIR_HU) * factor + AIR_HU + offset
            changed = np.maximum(changed, channel.min())  # files end at -1024 HU
            inside = channel_mask(channel)
            return np.asarray(changed if inside is None else np.where(inside, changed, channel), np.float32)
        factor = strength.choose(1.4, 2.0, 4.0)
        offset = strength.choose(0.5, 1.0, 2.0) * measure_channel(channel, False).spread * (1 if up else -1)
        return np.asarray((channel + offset) * (factor if larger else 1 / factor), np.float32)

    return scan.each_channel(change)
