"""Which Hounsfield units of a CT are told apart: the window that a channel is clipped to, and its scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.planning.sections import CtNormalization

__all__ = ["clipped_share", "ct_window"]

# Hounsfield units; lesions of a few voxels, or of one value, do not say where a scan may be cut off.
_NARROWEST = 10.0
# Share of the body that may be clipped. Beyond, the detector cannot tell where in the body it is.
_MOST_CLIPPED = 0.5
# Levels at which a distribution is sampled that is known by its percentiles.
_LEVELS = (np.arange(1000) + 0.5) / 1000


def ct_window(measured: Mapping[str, Any]) -> CtNormalization:
    """Window and scale of a CT channel.

    The window goes from the 0.5th to the 99.5th percentile in the lesions of the set, as in nnU-Net. Where the lesions
    are brighter or darker than their surroundings, all of the body would lie on one side of it. So a window that clips
    most of the body is widened until it holds the body's quartiles; mean and standard deviation are then those of
    lesions and body in equal parts, clipped. Without lesions, or if they are of nearly one value, the window is the
    body's.

    Parameters
    ----------
    measured : mapping
        ``body`` and ``lesions`` (or ``None``) of the fingerprint's summary: ``mean``, ``std`` and percentiles.

    Returns
    -------
    CtNormalization
        In Hounsfield units.

    Examples
    --------
    >>> aneurysms = {"mean": 108.0, "std": 14.0, "p0.5": 75.0, "p99.5": 141.0}
    >>> body = {"mean": 0.0, "std": 60.0, "p0.5": -110.0, "p25": -60.0, "p50": 30.0, "p75": 50.0, "p99.5": 300.0}
    >>> window = ct_window({"lesions": aneurysms, "body": body})
    >>> window.lower, window.upper
    (-60.0, 141.0)
    """
    body, lesions = measured["body"], measured["lesions"]
    if lesions is None or (body and lesions["p99.5"] - lesions["p0.5"] < _NARROWEST):
        return _window(body["p0.5"], body["p99.5"], body["mean"], body["std"])
    lower, upper = lesions["p0.5"], lesions["p99.5"]
    if not body or clipped_share(body, lower, upper) <= _MOST_CLIPPED:
        return _window(lower, upper, lesions["mean"], lesions["std"])
    first, third = (float(value) for value in _quantiles(body, np.array([0.25, 0.75])))
    lower, upper = min(lower, first), max(upper, third)
    parts = [_quantiles(figures, _LEVELS).clip(lower, upper) for figures in (lesions, body)]
    both = np.concatenate(parts)
    return _window(lower, upper, float(both.mean()), float(both.std()))


def _window(lower: float, upper: float, mean: float, std: float) -> CtNormalization:
    if upper <= lower:  # a set of one intensity
        lower, upper = lower - 0.5, upper + 0.5
    return CtNormalization(mean=mean, std=max(std, 1e-3), lower=lower, upper=upper)


def clipped_share(figures: Mapping[str, float], lower: float, upper: float) -> float:
    """Share of the voxels that lie outside a window.

    Parameters
    ----------
    figures : mapping
        Percentiles of the intensities, ``p25`` and so on; ``min`` and ``max`` where they are known.
    lower, upper : float

    Examples
    --------
    >>> round(clipped_share({"min": 0.0, "p50": 50.0, "max": 100.0}, 10.0, 60.0), 3)
    0.5
    """
    values = _quantiles(figures, _LEVELS)
    return float(np.mean((values < lower) | (values > upper)))


def _quantiles(figures: Mapping[str, float], levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quantiles at ``levels`` from percentiles, joined by straight lines."""
    known = {0.0: figures.get("min", math.nan), 1.0: figures.get("max", math.nan)}
    known |= {float(name[1:]) / 100: value for name, value in figures.items() if name[0] == "p" and name[1:2].isdigit()}
    points = sorted((level, value) for level, value in known.items() if not math.isnan(value))
    return np.interp(levels, [level for level, _ in points], [value for _, value in points])
