"""Compute metrics from numbers of voxels."""

from __future__ import annotations

__all__ = ["dice_from_counts"]


def dice_from_counts(intersection: int, truth: int, prediction: int) -> float:
    """Return the Dice coefficient from numbers of voxels; 1.0 if both masks are empty.

    Parameters
    ----------
    intersection : int
        Voxels in both masks.
    truth, prediction : int
        Voxels in each mask.

    References
    ----------
    Dice (1945), "Measures of the amount of ecologic association between species", Ecology 26.

    Examples
    --------
    >>> dice_from_counts(2, 4, 4), dice_from_counts(0, 0, 0), dice_from_counts(0, 0, 3)
    (0.5, 1.0, 0.0)
    """
    return 2 * intersection / (truth + prediction) if truth + prediction else 1.0
