"""How long a training will take on this machine, from a few steps of each phase of its curriculum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detseg3d.training.log import describe_seconds

__all__ = ["PhaseTime", "describe_length", "seconds_per_step", "steps_left"]

# The first step of a shape takes longer than those that follow. If it takes this long alone, it is all that is timed.
_SECONDS = 15.0
_MOST_STEPS = 10


@dataclass(frozen=True)
class PhaseTime:
    """A phase of the curriculum: its name, the steps that it still has, and what a step takes."""

    name: str
    steps: int
    seconds_per_step: float


def steps_left(steps: Sequence[int], shares: Sequence[float], fraction: float) -> list[int]:
    """Steps that each phase still has when ``fraction`` of the training is done.

    Parameters
    ----------
    steps : sequence of int
        Of each phase in all.
    shares : sequence of float
        Of the training, by phase.
    fraction : float
        Of the training that is done, 0 to 1.

    Examples
    --------
    >>> steps_left([800, 100], [0.5, 0.5], 0.25), steps_left([800, 100], [0.5, 0.5], 0.75)
    ([400, 100], [0, 50])
    """
    left, begin = [], 0.0
    for count, share in zip(steps, shares, strict=True):
        done = min(max((fraction - begin) / share, 0.0), 1.0)
        left.append(round(count * (1 - done)))
        begin += share
    return left


def seconds_per_step(step: Callable[[], float], agree: Callable[[float], float]) -> float:
    """Mean seconds of a step.

    Parameters
    ----------
    step : callable
        Does a step and returns its seconds.
    agree : callable
        Makes the seconds of the main process those of all processes that train together: all do as many steps.

    Returns
    -------
    float
        Without the first step, unless it is the only one.
    """
    seconds = [agree(step())]
    while sum(seconds) < _SECONDS and len(seconds) < _MOST_STEPS:
        seconds.append(agree(step()))
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def describe_length(phases: Sequence[PhaseTime]) -> str:
    """One line for the log.

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
