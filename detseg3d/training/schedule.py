"""How far the training is, and what follows from it: phase of the curriculum, learning rate, length of an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detseg3d.planning.plans import CurriculumPhase, TrainingPlan

__all__ = ["learning_rate_factor", "phase_at", "phase_end", "steps_per_epoch", "whole_volume_curriculum"]

_EPSILON = 1e-9


def whole_volume_curriculum() -> tuple[CurriculumPhase, ...]:
    """The curriculum of ``--whole_volume``: none."""
    return (CurriculumPhase(share=1.0, window=None),)


def phase_at(curriculum: Sequence[CurriculumPhase], progress: float) -> int:
    """Index of the phase at ``progress`` in [0, 1).

    Examples
    --------
    >>> phases = [CurriculumPhase(share=0.6, window=(64, 64, 64)), CurriculumPhase(share=0.4, window=None)]
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
    return sum(phase.share for phase in curriculum[: index + 1])


def steps_per_epoch(plan: TrainingPlan, window: Sequence[int] | None, shape: Sequence[int], cases: int) -> int:
    """Steps of one epoch in a phase.

    An epoch costs about one pass over the whole volumes, whatever the size of the windows: smaller windows mean more
    steps. Beyond ``max_windows_per_case`` a large scan has nothing new to show around its lesions.

    Parameters
    ----------
    plan : TrainingPlan
    window : sequence of 3 ints, or None for whole volumes
    shape : sequence of 3 ints
        A typical volume, in fine voxels.
    cases : int

    Examples
    --------
    >>> plan = TrainingPlan(batch_size=2, curriculum=(CurriculumPhase(share=1, window=None),))
    >>> steps_per_epoch(plan, None, (128, 128, 128), 32), steps_per_epoch(plan, (64, 64, 64), (128, 128, 128), 32)
    (16, 128)
    """
    windows = 1.0
    if window is not None:
        windows = min(max(math.prod(shape) / math.prod(window), 1.0), plan.max_windows_per_case)
    return max(1, math.ceil(cases * windows / plan.batch_size))


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
