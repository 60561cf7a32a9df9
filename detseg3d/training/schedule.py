"""How far the training is, and what follows from it: phase of the curriculum, learning rate, steps of a phase."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detseg3d.planning.sections import CurriculumPhase, TrainingPlan

__all__ = [
    "average_weight",
    "learning_rate_factor",
    "phase_at",
    "phase_end",
    "phase_steps",
    "share_of_step",
    "whole_volume_curriculum",
]

_EPSILON = 1e-9
# The moving average of the weights remembers about this share of the training, at most.
_REMEMBERED = 0.03


def whole_volume_curriculum() -> tuple[CurriculumPhase, ...]:
    """The curriculum of ``--whole_volume``: none."""
    return (CurriculumPhase(fraction=1.0, window=None),)


def phase_at(curriculum: Sequence[CurriculumPhase], progress: float) -> int:
    """Index of the phase at ``progress`` in [0, 1).

    Examples
    --------
    >>> phases = [CurriculumPhase(fraction=0.6, window=(64, 64, 64)), CurriculumPhase(fraction=0.4, window=None)]
    >>> phase_at(phases, 0.59), phase_at(phases, 0.6)
    (0, 1)
    """
    for index in range(len(curriculum)):
        if progress < phase_end(curriculum, index) - _EPSILON:
            return index
    return len(curriculum) - 1


def phase_end(curriculum: Sequence[CurriculumPhase], index: int) -> float:
    """Progress at which phase ``index`` ends."""
    if index == len(curriculum) - 1:
        return 1.0
    return sum(phase.fraction for phase in curriculum[: index + 1])


def phase_steps(plan: TrainingPlan, shape: Sequence[int]) -> tuple[int, ...]:
    """Steps of each phase of the curriculum.

    A phase with a share of the training takes about that share of its time. Steps on small windows are quick, so there
    are more of them: as many as there are windows in a typical volume. Beyond ``max_windows_per_case`` a large scan has
    nothing new to show around its lesions.

    Parameters
    ----------
    plan : TrainingPlan
        ``steps`` is the sum; there are more if there are fewer steps than phases.
    shape : sequence of 3 ints
        A typical volume, in fine voxels.

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
    # What rounding down leaves goes to the phases that lost most by it.
    order = sorted(range(len(steps)), key=lambda index: math.floor(exact[index]) - exact[index])
    for index in order[: max(0, plan.steps - sum(steps))]:
        steps[index] += 1
    # A phase has one step at least; the longest phase gives it.
    excess = sum(steps) - plan.steps
    longest = max(range(len(steps)), key=lambda index: steps[index])
    steps[longest] -= max(0, min(excess, steps[longest] - 1))
    return tuple(steps)


def share_of_step(planned: float, seconds: float, max_minutes: float | None) -> float:
    """What a step takes of the training: its planned share, or of a time limit what it lasted, if that is more.

    Examples
    --------
    >>> share_of_step(0.001, 6.0, None), share_of_step(0.001, 6.0, 10.0), share_of_step(0.001, 0.06, 10.0)
    (0.001, 0.01, 0.001)
    """
    return planned if max_minutes is None else max(planned, seconds / (60 * max_minutes))


def average_weight(step: int, decay: float, advance: float) -> float:
    """What the moving average of the weights takes of the current ones after a step.

    At least ``1 - decay``; more in the first steps, or it would remember the initialisation; and so much that it never
    remembers more than 3 % of the training. A step on a whole volume counts for what it takes: the few dozen at the end
    of a short training are hundreds of small windows' worth, and an average over steps would hardly notice them.

    Parameters
    ----------
    step : int
        Steps done, at least 1.
    decay : float
        0 gives the current weights alone.
    advance : float
        Share of the training that the step took.

    Examples
    --------
    >>> round(average_weight(1, 0.998, 1e-5), 3), round(average_weight(10**5, 0.998, 1e-5), 3)
    (0.9, 0.002)
    >>> round(average_weight(1000, 0.998, 0.006), 3)
    0.181
    """
    return max(1 - min(decay, step / (9 + step)), -math.expm1(-advance / _REMEMBERED))


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Linear warm-up over the share ``warmup`` of the training, then a cosine down to 1 % (Loshchilov & Hutter 2017).

    Examples
    --------
    >>> learning_rate_factor(0.01, 0.02), round(learning_rate_factor(1.0, 0.02), 3)
    (0.5, 0.01)
    """
    if progress < warmup:
        return max(progress / warmup, 0.01)
    position = (progress - warmup) / max(1 - warmup, _EPSILON)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(position, 1.0)))
