"""Schedule of a training: phase of the curriculum, learning rate and moving average for each completed fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detseg3d.planning.sections import CurriculumPhase, TrainingPlan

__all__ = [
    "average_weight",
    "fraction_of_step",
    "learning_rate_factor",
    "phase_at",
    "phase_end",
    "phase_name",
    "phase_steps",
]

_EPSILON = 1e-9
# The moving average spans at most about this fraction of the training.
_MAX_AVERAGED_FRACTION = 0.03
# The learning rate falls to this fraction of its maximum.
_FINAL_RATE = 0.01


def phase_name(phase: CurriculumPhase) -> str:
    """Return the name of a phase for logs.

    Examples
    --------
    >>> phase_name(CurriculumPhase(fraction=0.5, window=(32, 64, 64)))
    'windows 32×64×64'
    """
    return "whole volumes" if phase.window is None else "windows " + "×".join(map(str, phase.window))


def phase_at(curriculum: Sequence[CurriculumPhase], fraction: float) -> int:
    """Return the index of the phase at a completed fraction of the training, 0 to 1.

    Examples
    --------
    >>> phases = [CurriculumPhase(fraction=0.6, window=(64, 64, 64)), CurriculumPhase(fraction=0.4, window=None)]
    >>> phase_at(phases, 0.59), phase_at(phases, 0.6)
    (0, 1)
    """
    for index in range(len(curriculum)):
        if fraction < phase_end(curriculum, index) - _EPSILON:
            return index
    return len(curriculum) - 1


def phase_end(curriculum: Sequence[CurriculumPhase], index: int) -> float:
    """Return the completed fraction of the training at which a phase ends."""
    if index == len(curriculum) - 1:
        return 1.0
    return sum(phase.fraction for phase in curriculum[: index + 1])


def phase_steps(plan: TrainingPlan, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the number of steps of each phase of the curriculum.

    Each phase takes about its share of the training time. Steps on small windows are faster. Their phase therefore has
    more steps: its share is multiplied by the number of windows in a typical volume, at most ``max_windows_per_case``,
    because more windows show nothing new around the lesions of a large scan.

    Parameters
    ----------
    plan : TrainingPlan
        ``steps`` is the sum over the phases. Each phase has at least one step.
    shape : sequence of 3 ints
        Shape of a typical volume in fine voxels.

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> phases = (CurriculumPhase(fraction=0.5, window=(64, 64, 64)), CurriculumPhase(fraction=0.5, window=None))
    >>> phase_steps(TrainingPlan(steps=900, curriculum=phases), (128, 128, 128))
    (800, 100)
    """
    weights = []
    for phase in plan.curriculum:
        windows = 1.0 if phase.window is None else math.prod(shape) / math.prod(phase.window)
        weights.append(phase.fraction * min(max(windows, 1.0), plan.max_windows_per_case))
    exact = [plan.steps * weight / sum(weights) for weight in weights]
    steps = [max(1, math.floor(value)) for value in exact]
    # The steps lost by rounding down go to the phases that lost most.
    order = sorted(range(len(steps)), key=lambda index: math.floor(exact[index]) - exact[index])
    for index in order[: max(0, plan.steps - sum(steps))]:
        steps[index] += 1
    # Steps added to phases that would have none are taken from the longest phase.
    excess = sum(steps) - plan.steps
    longest = max(range(len(steps)), key=lambda index: steps[index])
    steps[longest] -= max(0, min(excess, steps[longest] - 1))
    return tuple(steps)


def fraction_of_step(planned: float, seconds: float, max_minutes: float | None) -> float:
    """Return the fraction of the training that a step takes.

    Parameters
    ----------
    planned : float
        Planned fraction.
    seconds : float
        Duration of the step.
    max_minutes : float or None
        Time limit of the training. A slow step takes its fraction of this time, if that is larger.

    Examples
    --------
    >>> fraction_of_step(0.001, 6.0, None), fraction_of_step(0.001, 6.0, 10.0), fraction_of_step(0.001, 0.06, 10.0)
    (0.001, 0.01, 0.001)
    """
    return planned if max_minutes is None else max(planned, seconds / (60 * max_minutes))


def average_weight(step: int, decay: float, fraction: float) -> float:
    """Return the weight of the current weights in the moving average after a step.

    The weight is at least ``1 - decay``. In the first steps it is larger, so that the average forgets the initial
    weights. It is also so large that the average spans at most about 3 % of the training: a step on a whole volume
    counts as the many steps on small windows that take the same time.

    Parameters
    ----------
    step : int
        Completed steps, at least 1.
    decay : float
        0 gives the current weights alone.
    fraction : float
        Fraction of the training that the step took.

    Examples
    --------
    >>> round(average_weight(1, 0.998, 1e-5), 3), round(average_weight(10**5, 0.998, 1e-5), 3)
    (0.9, 0.002)
    >>> round(average_weight(1000, 0.998, 0.006), 3)
    0.181
    """
    return max(1 - min(decay, step / (9 + step)), -math.expm1(-fraction / _MAX_AVERAGED_FRACTION))


def learning_rate_factor(fraction: float, warmup: float) -> float:
    """Return the learning rate as a fraction of its maximum.

    It rises linearly during the warm-up and then falls as a cosine to 1 %.

    Parameters
    ----------
    fraction : float
        Completed fraction of the training, 0 to 1.
    warmup : float
        Fraction of the training that the warm-up takes.

    References
    ----------
    Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".

    Examples
    --------
    >>> learning_rate_factor(0.01, 0.02), round(learning_rate_factor(1.0, 0.02), 3)
    (0.5, 0.01)
    """
    if fraction < warmup:
        return max(fraction / warmup, _FINAL_RATE)
    position = (fraction - warmup) / max(1 - warmup, _EPSILON)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(position, 1.0)))
