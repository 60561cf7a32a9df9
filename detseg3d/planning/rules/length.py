"""Choose the length of the training in steps of the optimiser.

The number of steps depends on the number of cases and lesions. Its range was chosen from the trainings of
docs/research_log, "Length of the training". The upper part of the range is a guess, because the longest training that
was measured has 2627 steps.
"""

from __future__ import annotations

import math

__all__ = ["MIN_STEPS", "MAX_STEPS", "STEPS_PER_EPOCH", "choose_steps", "choose_val_every"]

STEPS_PER_EPOCH = 250
"""As in nnU-Net (Isensee et al. 2021)."""

MIN_STEPS, MAX_STEPS = 5_000, 100_000
VALIDATIONS = 10
"""Number of validations of a short training. A long training is validated every ten epochs."""

_PER_ROOT = 1_000
_MAX_EPOCHS_BETWEEN = 10


def choose_steps(cases: int, lesions: int) -> int:
    """Return the steps of a training: 1000 times the square root of cases plus lesions, from 5000 to 100 000.

    More examples need more steps, but not in proportion, because examples have much in common. The result is a whole
    number of epochs.

    Parameters
    ----------
    cases, lesions : int
        Numbers of the data set.

    Returns
    -------
    int

    Examples
    --------
    One scan, 40 scans with 1765 lesions, and a set of ten thousand scans:

    >>> choose_steps(1, 3), choose_steps(40, 1765), choose_steps(10_000, 20_000)
    (5000, 42500, 100000)
    """
    steps = min(max(_PER_ROOT * math.sqrt(cases + lesions), MIN_STEPS), MAX_STEPS)
    return STEPS_PER_EPOCH * round(steps / STEPS_PER_EPOCH)


def choose_val_every(epochs: int) -> int:
    """Return the number of epochs from one validation to the next.

    A training has ten validations. A long training has more validations: one after every ten epochs.

    Parameters
    ----------
    epochs : int
        Length of the training.

    Returns
    -------
    int

    Examples
    --------
    >>> choose_val_every(4), choose_val_every(20), choose_val_every(150)
    (1, 2, 10)
    """
    return min(max(epochs // VALIDATIONS, 1), _MAX_EPOCHS_BETWEEN)
