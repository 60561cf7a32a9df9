"""Estimate of the duration of a training from a few steps of each phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detseg3d.training.log import describe_seconds

__all__ = ["PhaseTime", "describe_length", "seconds_per_step", "steps_left"]

# Steps are timed until they have taken this time. A first step that takes longer is the only one.
_MAX_SECONDS = 15.0
_MAX_STEPS = 10


@dataclass(frozen=True)
class PhaseTime:
    """Expected time of a phase.

    Attributes
    ----------
    name : str
    steps : int
        Steps that are left.
    seconds_per_step : float
    """

    name: str
    steps: int
    seconds_per_step: float


def steps_left(steps: Sequence[int], shares: Sequence[float], fraction: float) -> list[int]:
    """Return the number of steps that are left in each phase.

    Parameters
    ----------
    steps : sequence of int
        All steps of each phase.
    shares : sequence of float
        Share of each phase in the training.
    fraction : float
        Completed fraction of the training, 0 to 1.

    Examples
    --------
    >>> steps_left([800, 100], [0.5, 0.5], 0.25), steps_left([800, 100], [0.5, 0.5], 0.75)
    ([400, 100], [0, 50])
    """
    left, begin = [], 0.0
    for count, share in zip(steps, shares, strict=True):
        completed = min(max((fraction - begin) / share, 0.0), 1.0)
        left.append(round(count * (1 - completed)))
        begin += share
    return left


def seconds_per_step(step: Callable[[], float], synchronize: Callable[[float], float]) -> float:
    """Measure the mean duration of a step.

    Parameters
    ----------
    step : callable
        Performs a step and returns its seconds.
    synchronize : callable
        Returns the seconds of the main process in all processes of the training. All of them then make the same number
        of steps.

    Returns
    -------
    float
        Seconds. The first step is slower than the others and does not count, unless it is the only one.
    """
    seconds = [synchronize(step())]
    while sum(seconds) < _MAX_SECONDS and len(seconds) < _MAX_STEPS:
        seconds.append(synchronize(step()))
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def describe_length(phases: Sequence[PhaseTime]) -> str:
    """Return the expected duration in one line.

    Examples
    --------
    >>> describe_length([PhaseTime("windows 48×48×48", 9000, 0.4), PhaseTime("whole", 200, 9)])
    'about 1 h 30 min of training, without validations: 9000 steps of 0.4 s (windows 48×48×48), 200 of 9 s (whole)'
    """
    total = describe_seconds(sum(phase.steps * phase.seconds_per_step for phase in phases))
    parts = []
    for index, phase in enumerate(phases):
        unit = " steps" if index == 0 else ""
        parts.append(f"{phase.steps}{unit} of {phase.seconds_per_step:.2g} s ({phase.name})")
    return f"about {total} of training, without validations: {', '.join(parts)}"
