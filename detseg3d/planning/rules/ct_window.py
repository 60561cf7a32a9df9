"""Choose the window of Hounsfield units to which a CT channel is clipped, and its scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detseg3d.planning.fingerprint import ChannelIntensities, IntensityStatistics
from detseg3d.planning.sections import CtNormalization

__all__ = ["clipped_fraction", "ct_window"]

# Smallest window of the lesions in Hounsfield units. Lesions of a few voxels, or of one value, determine no window.
_MIN_WINDOW = 10.0
# Largest fraction of the body that may be clipped. If more is clipped, the detector cannot recognise the anatomy.
_MAX_CLIPPED = 0.5
# Levels at which a distribution is sampled by interpolation between its percentiles.
_LEVELS = (np.arange(1000) + 0.5) / 1000


def ct_window(measured: ChannelIntensities) -> CtNormalization:
    """Choose window and scale of a CT channel.

    The window is the range from the 0.5th to the 99.5th percentile in the lesions, as in nnU-Net. If the lesions are
    brighter or darker than their surroundings, most of the body may lie outside this window. Then the window is widened
    until it contains the quartiles of the body. Mean and standard deviation are then computed after clipping, from
    lesions and body in equal parts. Without lesions, or if the lesions have nearly one value, the window is that of the
    body.

    Parameters
    ----------
    measured : ChannelIntensities
        Intensities over the data set, from the summary of the fingerprint.

    Returns
    -------
    CtNormalization
        In Hounsfield units.

    Examples
    --------
    >>> aneurysms = IntensityStatistics(mean=108, std=14, percentiles={0.5: 75, 99.5: 141})
    >>> body = IntensityStatistics(mean=0, std=60, percentiles={0.5: -110, 25: -60, 50: 30, 75: 50, 99.5: 300})
    >>> window = ct_window(ChannelIntensities(lesions=aneurysms, body=body))
    >>> window.lower, window.upper
    (-60.0, 141.0)
    """
    body, lesions = measured.body, measured.lesions
    if lesions is None or (body and lesions.percentiles[99.5] - lesions.percentiles[0.5] < _MIN_WINDOW):
        assert body is not None, "a data set with scans has voxels"
        return _window(body.percentiles[0.5], body.percentiles[99.5], body)
    lower, upper = lesions.percentiles[0.5], lesions.percentiles[99.5]
    if body is None or clipped_fraction(body, lower, upper) <= _MAX_CLIPPED:
        return _window(lower, upper, lesions)
    first, third = (float(value) for value in _quantiles(body, np.array([0.25, 0.75])))
    lower, upper = min(lower, first), max(upper, third)
    parts = [_quantiles(region, _LEVELS).clip(lower, upper) for region in (lesions, body)]
    both = np.concatenate(parts)
    return _normalization(lower, upper, float(both.mean()), float(both.std()))


def _window(lower: float, upper: float, region: IntensityStatistics) -> CtNormalization:
    """Return a window with the mean and standard deviation of a region."""
    return _normalization(lower, upper, region.mean, region.std)


def _normalization(lower: float, upper: float, mean: float, std: float) -> CtNormalization:
    if upper <= lower:  # All voxels of the data set have one intensity.
        lower, upper = lower - 0.5, upper + 0.5
    return CtNormalization(mean=mean, std=max(std, 1e-3), lower=lower, upper=upper)


def clipped_fraction(region: IntensityStatistics, lower: float, upper: float) -> float:
    """Return the fraction of the voxels that lie outside a window.

    Parameters
    ----------
    region : IntensityStatistics
    lower, upper : float

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> body = IntensityStatistics(mean=50, std=30, percentiles={0: 0, 50: 50, 100: 100})
    >>> round(clipped_fraction(body, 10, 60), 3)
    0.5
    """
    values = _quantiles(region, _LEVELS)
    return float(np.mean((values < lower) | (values > upper)))


def _quantiles(region: IntensityStatistics, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Interpolate the quantiles at ``levels`` (0 to 1) linearly between the known percentiles."""
    known = sorted(region.percentiles.items())
    return np.interp(levels, [percent / 100 for percent, _ in known], [value for _, value in known])
