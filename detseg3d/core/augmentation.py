"""Amounts of augmentation in the training."""

from __future__ import annotations

from detseg3d.core.enums import StringEnum

__all__ = ["Augmentation"]


class Augmentation(StringEnum):
    """How much the training changes the windows that it sees.

    ``NONE`` only flips windows. ``STANDARD`` also makes moderate changes, which cost little accuracy on scans like
    those of the training. ``STRONG`` imitates other scanners, protocols and patients.
    :mod:`detseg3d.training.augmentation.table` lists the changes and their probabilities.
    """

    NONE = "none"
    STANDARD = "standard"
    STRONG = "strong"
