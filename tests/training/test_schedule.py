from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.sections import CurriculumPhase, TrainingPlan
from detseg3d.training.schedule import (
    average_weight,
    learning_rate_factor,
    phase_at,
    phase_end,
    phase_steps,
)

PHASES = [
    CurriculumPhase(fraction=0.5, window=(64, 64, 64)),
    CurriculumPhase(fraction=0.3, window=(96, 96, 96)),
    CurriculumPhase(fraction=0.2, window=None),
]


@pytest.mark.parametrize(
    ("progress", "phase"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.79, 1), (0.8, 2), (0.999, 2), (1.0, 2), (1.2, 2)]
)
def test_phase_at(progress: float, phase: int) -> None:
    assert phase_at(PHASES, progress) == phase


def test_a_sum_of_rounded_steps_ends_the_phase() -> None:
    progress = sum([0.1] * 8)  # 0.7999999999999999
    assert progress < 0.8
    assert phase_at(PHASES, progress) == 2


def test_phases_end_where_their_shares_add_up() -> None:
    assert [phase_end(PHASES, index) for index in range(3)] == pytest.approx([0.5, 0.8, 1.0])


def test_the_last_phase_ends_at_one_exactly() -> None:
    thirds = [CurriculumPhase(fraction=1 / 3, window=None)] * 3
    assert phase_end(thirds, 2) == 1.0


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.floats(0, 1, exclude_max=True))
def test_progress_lies_before_the_end_of_its_phase(weights: list[float], progress: float) -> None:
    phases = [CurriculumPhase(fraction=weight / sum(weights), window=None) for weight in weights]
    index = phase_at(phases, progress)
    assert progress < phase_end(phases, index) + 1e-9
    assert index == 0 or progress >= phase_end(phases, index - 1) - 2e-9


def make_plan(steps: int, most: int = 8, phases: Sequence[CurriculumPhase] = PHASES) -> TrainingPlan:
    return TrainingPlan(steps=steps, max_windows_per_case=most, curriculum=tuple(phases))


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        ((128, 128, 128), 1000, (813, 145, 42)),  # weights .5 × 8, .3 × 2.37 and .2 × 1
        ((500, 500, 500), 1000, (606, 364, 30)),  # at most 8 windows a case: .5 × 8, .3 × 8, .2 × 1
        ((32, 32, 32), 1000, (500, 300, 200)),  # a window larger than the volume counts as one
        ((128, 128, 128), 3, (1, 1, 1)),  # every phase has a step
        ((128, 128, 128), 1, (1, 1, 1)),
        ((128, 128, 128), 10, (8, 1, 1)),
    ],
)
def test_phase_steps(shape: tuple[int, int, int], steps: int, expected: tuple[int, ...]) -> None:
    plan = make_plan(steps)
    assert phase_steps(plan, shape) == pytest.approx(expected, abs=1)
    assert sum(phase_steps(plan, shape)) == max(steps, len(PHASES))


def test_a_single_phase_has_all_steps() -> None:
    assert phase_steps(make_plan(777, phases=(CurriculumPhase(fraction=1.0, window=None),)), (10, 10, 10)) == (777,)


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    st.integers(1, 100_000),
    st.integers(1, 16),
    st.lists(st.integers(4, 64), min_size=5, max_size=5),
)
def test_phases_have_the_planned_steps_in_all(weights: list[float], steps: int, most: int, edges: list[int]) -> None:
    shares = [weight / sum(weights) for weight in weights]
    phases = [
        CurriculumPhase(fraction=share, window=(edge, edge, edge)) for share, edge in zip(shares, edges, strict=False)
    ]
    found = phase_steps(make_plan(steps, most, phases), (100, 100, 100))
    assert sum(found) == max(steps, len(phases))
    assert min(found) >= 1


@pytest.mark.parametrize("count", [991, 33_100])
def test_the_schedule_has_the_shape_of_epochs_over_all_windows(count: int) -> None:
    """As it was when an epoch was a pass over the volumes: 32 scans of 96 × 160 × 128, windows of 48³ and 96³."""
    phases = [
        CurriculumPhase(fraction=0.6, window=(48, 48, 48)),
        CurriculumPhase(fraction=0.25, window=(96, 96, 96)),
        CurriculumPhase(fraction=0.15, window=None),
    ]
    passes = [0.6 * 512, 0.25 * 72, 0.15 * 32]  # share × windows of a pass
    found = phase_steps(make_plan(count, 16, phases), (96, 160, 128))
    assert found == pytest.approx([count * part / sum(passes) for part in passes], rel=0.02, abs=1)


@pytest.mark.parametrize(
    ("progress", "warmup", "factor"),
    [
        (0.0, 0.1, 0.01),  # never 0: the first step must do something
        (0.05, 0.1, 0.5),
        (0.1, 0.1, 1.0),
        (0.55, 0.1, 0.505),  # half-way down the cosine: 0.01 + 0.99 / 2
        (1.0, 0.1, 0.01),
        (1.3, 0.1, 0.01),
        (0.0, 0.0, 1.0),
        (0.5, 1.0, 0.5),
        (1.0, 1.0, 1.0),
    ],
)
def test_learning_rate_factor(progress: float, warmup: float, factor: float) -> None:
    assert learning_rate_factor(progress, warmup) == pytest.approx(factor)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_the_learning_rate_falls_after_the_warmup(first: float, second: float, warmup: float) -> None:
    early, late = sorted((warmup + first * (1 - warmup), warmup + second * (1 - warmup)))
    assert learning_rate_factor(early, warmup) >= learning_rate_factor(late, warmup) - 1e-12
    assert 0.01 <= learning_rate_factor(late, warmup) <= 1 and math.isfinite(early)


def test_the_average_ends_with_the_phase_of_whole_volumes_however_few_its_steps_are() -> None:
    """A training of 1171 steps as one was: 1049 on small windows, 98 on larger ones, 24 on whole volumes."""
    shares, step = [0.0, 0.0, 0.0], 0
    for phase, (steps, share) in enumerate([(1049, 0.6), (98, 0.25), (24, 0.15)]):
        for _ in range(steps):
            step += 1
            weight = average_weight(step, 0.998, share / steps)
            shares = [(1 - weight) * part + weight * (number == phase) for number, part in enumerate(shares)]
    assert sum(shares) == pytest.approx(1)
    assert shares[2] > 0.98
    assert 1 - 0.993**24 < 0.16, "what an average over 145 steps took of them"


def test_the_average_of_a_long_training_is_one_over_steps() -> None:
    assert average_weight(30_000, 0.998, 1 / 100_000) == pytest.approx(0.002)


def test_without_decay_there_is_no_average() -> None:
    assert average_weight(500, 0.0, 1e-4) == 1.0
