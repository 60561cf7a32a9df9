from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.rules.length import MAX_STEPS, MIN_STEPS, STEPS_PER_EPOCH, choose_steps, choose_val_every


@given(st.integers(1, 100_000), st.integers(0, 1_000_000))
def test_steps_are_whole_epochs_within_the_range(cases: int, lesions: int) -> None:
    steps = choose_steps(cases, lesions)
    assert MIN_STEPS <= steps <= MAX_STEPS
    assert steps % STEPS_PER_EPOCH == 0


@given(st.integers(1, 5_000), st.integers(0, 50_000), st.integers(1, 1000))
def test_more_to_learn_never_means_fewer_steps(cases: int, lesions: int, more: int) -> None:
    assert choose_steps(cases + more, lesions) >= choose_steps(cases, lesions)
    assert choose_steps(cases, lesions + more) >= choose_steps(cases, lesions)


def test_four_times_the_data_take_twice_the_steps() -> None:
    assert choose_steps(400, 1600) / choose_steps(100, 400) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(("cases", "lesions"), [(1, 0), (1, 4), (5, 20)])
def test_few_cases_have_the_fewest_steps(cases: int, lesions: int) -> None:
    assert choose_steps(cases, lesions) == MIN_STEPS


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (9, 1), (10, 1), (20, 2), (99, 9), (100, 10), (4000, 10)])
def test_a_training_is_validated_ten_times_or_every_ten_epochs(epochs: int, every: int) -> None:
    assert choose_val_every(epochs) == every
