"""How long a training will take: what is timed, and what is said."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.data.case_store import CaseStore
from detseg3d.planning.plans import Plans
from detseg3d.training.sampling import Example
from detseg3d.training.state import LossValues
from detseg3d.training.timing import PhaseTime, describe_length, seconds_per_step, steps_left
from tests.training.conftest import QuickTrainer, make_trainer, same_weights, train


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.01, 1)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_the_steps_that_are_left_fall_from_all_to_none(phases: list[tuple[int, float]], fraction: float) -> None:
    steps = [count for count, _ in phases]
    shares = [weight / sum(weight for _, weight in phases) for _, weight in phases]
    left = steps_left(steps, shares, fraction)
    assert all(0 <= some <= count for some, count in zip(left, steps, strict=True))
    assert steps_left(steps, shares, 0.0) == steps
    assert sum(steps_left(steps, shares, 1.0)) <= len(steps)  # a sum of shares may be a little more than 1
    assert sum(steps_left(steps, shares, min(1.0, fraction + 0.1))) <= sum(left)


@pytest.mark.parametrize(
    ("seconds", "expected", "done"),
    [
        ([60.0], 60.0, 1),  # a step this long is not done twice
        ([8.0, 4.0, 4.0], 4.0, 3),  # the first one of a shape is slow
        ([1.0] + [0.1] * 9, 0.1, 10),
    ],
)
def test_steps_are_timed_for_a_few_seconds(seconds: list[float], expected: float, done: int) -> None:
    clock = iter([*seconds, *[99.0] * 20])
    counted = itertools.count()

    def step() -> float:
        next(counted)
        return next(clock)

    assert seconds_per_step(step, lambda value: value) == pytest.approx(expected)
    assert next(counted) == done


def test_all_processes_time_as_many_steps_as_the_main_one() -> None:
    assert seconds_per_step(lambda: 0.001, lambda _: 20.0) == 20.0


def test_the_length_is_said_in_hours_and_by_phase() -> None:
    text = describe_length([PhaseTime("windows 48×48×48", 36_000, 0.5), PhaseTime("whole volumes", 900, 4)])
    assert text.startswith("about 6 h 0 min of training, ")
    assert "36000 steps of 0.5 s (windows 48×48×48), 900 of 4 s (whole volumes)" in text


class Clocked(QuickTrainer):
    """A trainer whose steps do nothing and take 10 seconds on windows and 100 on whole volumes, of its own clock."""

    seconds = 0.0

    def step(self, examples: Sequence[Example], mean_lesions: float = 1.0) -> LossValues:
        type(self).seconds += 10.0 if examples[0].image.shape[1] == 12 else 100.0
        return LossValues()


@pytest.fixture
def clocked() -> type[Clocked]:
    """The trainer with its clock at 0."""
    return type("Clocked", (Clocked,), {})


def test_a_training_logs_how_long_it_takes_from_the_time_of_each_phase(
    plans: Plans, store: CaseStore, tmp_path: Path, clocked: type[Clocked], caplog: pytest.LogCaptureFixture
) -> None:
    longer = plans.evolve(training={"steps": 30})
    with caplog.at_level(logging.INFO):
        train(
            longer,
            store,
            tmp_path,
            kind=clocked,
            val_cases=(),
            min_timed_steps=30,
            clock=lambda: clocked.seconds,
        )
    assert "about 23 min 0 s of training" in caplog.text  # 18 steps of 10 s and 12 of 100 s
    assert clocked.seconds == pytest.approx(18 * 10 + 12 * 100 + 2 * 10 + 100)  # two steps of the first were timed


def test_timing_changes_nothing_of_the_training(trained: Path, plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    steps = itertools.count()

    class Counting(QuickTrainer):
        def step(self, examples: Sequence[Example], mean_lesions: float = 1.0) -> LossValues:
            next(steps)
            return super().step(examples, mean_lesions)

    train(plans, store, tmp_path, kind=Counting, min_timed_steps=1)
    assert next(steps) > 10
    assert same_weights(trained, tmp_path)


@pytest.mark.parametrize(("steps", "minutes"), [(29, None), (30, 1000.0)])
def test_short_and_limited_trainings_are_not_timed(
    plans: Plans,
    store: CaseStore,
    tmp_path: Path,
    clocked: type[Clocked],
    caplog: pytest.LogCaptureFixture,
    steps: int,
    minutes: float | None,
) -> None:
    longer = plans.evolve(training={"steps": steps})
    trainer = make_trainer(
        longer, store, tmp_path, clocked, (), min_timed_steps=30, max_minutes=minutes, clock=lambda: clocked.seconds
    )
    with caplog.at_level(logging.INFO):
        progress = trainer.run()
    assert clocked.seconds == progress.seconds
    assert ("the schedule is fitted into" in caplog.text) == (minutes is not None)
