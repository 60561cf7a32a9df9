"""Metrics that count voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["dice_from_counts", "dice_score"]


def dice_from_counts(intersection: int, truth: int, prediction: int) -> float:
    """Dice from numbers of voxels; 1.0 if both masks are empty, as nothing was there and nothing was claimed.

    Dice (1945), "Measures of the amount of ecologic association between species", Ecology 26.

    Examples
    --------
    >>> dice_from_counts(2, 4, 4), dice_from_counts(0, 0, 0), dice_from_counts(0, 0, 3)
    (0.5, 1.0, 0.0)
    """
    return 2 * intersection / (truth + prediction) if truth + prediction else 1.0


def dice_score(truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> float:
    """Dice of two masks; every value but 0 is foreground. Both empty: 1.0; one empty: 0.0.

    Parameters
    ----------
    truth, prediction : ndarray, same shape

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dice_score(np.array([1, 1, 0]), np.array([0, 1, 1]))
    0.5
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    first, second = truth != 0, prediction != 0
    both = int(np.count_nonzero(first & second))
    return dice_from_counts(both, int(np.count_nonzero(first)), int(np.count_nonzero(second)))
