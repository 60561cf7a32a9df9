from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm, t

from detseg3d.consolidation.gain import Gain, PatientResamples, expanded_tail
from detseg3d.consolidation.outcomes import CaseCounts


def counts(truth: int, predictions: int, matched: int, dice: float = 0.5) -> CaseCounts:
    return CaseCounts(truth, matched, predictions, matched, matched, dice)


def gain_of(patients: Sequence[str], first: Sequence[CaseCounts], second: Sequence[CaseCounts]) -> Gain:
    resamples = PatientResamples(patients)
    return resamples.gain(resamples.metrics(first), resamples.metrics(second))


PATIENTS = [f"p{n}" for n in range(20)]


@pytest.mark.parametrize("patients", [2, 5, 10, 100])
def test_the_tail_is_that_of_a_t_interval(patients: int) -> None:
    """The bootstrap's standard deviation is too small by sqrt((n - 1) / n): times the normal quantile it is t's."""
    of_bootstrap = -norm.ppf(expanded_tail(patients, 0.1)) * math.sqrt((patients - 1) / patients)
    assert of_bootstrap == pytest.approx(t.ppf(0.9, patients - 1))


def test_nothing_can_be_said_of_one_patient() -> None:
    gain = gain_of(["a", "a"], [counts(4, 4, 1)] * 2, [counts(4, 4, 4)] * 2)
    assert gain.f1 == 0.75 and not gain.is_more_than_noise
    assert expanded_tail(1) == 0.0


def test_a_gain_in_every_patient_is_more_than_noise() -> None:
    gain = gain_of(PATIENTS, [counts(4, 4, 2)] * 20, [counts(4, 4, 3)] * 20)
    assert gain.f1 == gain.f1_low == 0.25 and gain.is_more_than_noise and not gain.outlines_better


def test_a_gain_in_one_patient_alone_is_noise() -> None:
    same = [counts(4, 4, 2)] * 19
    gain = gain_of(PATIENTS, [*same, counts(4, 4, 0)], [*same, counts(4, 4, 4)])
    assert gain.f1 == pytest.approx(0.05) and gain.f1_low == 0.0 and not gain.is_more_than_noise


def test_cases_of_a_patient_stand_and_fall_together() -> None:
    """Ten of twenty cases gain, but all of them are one patient's."""
    before, after = [counts(4, 4, 2)] * 20, [counts(4, 4, 3)] * 10 + [counts(4, 4, 2)] * 10
    together = ["one"] * 10 + [f"p{n}" for n in range(10)]
    assert gain_of(PATIENTS, before, after).is_more_than_noise
    assert not gain_of(together, before, after).is_more_than_noise


@pytest.mark.parametrize(
    ("f1", "dice_low", "expected"),
    [(0.0, 0.01, True), (-0.005, 0.01, True), (-0.006, 0.01, False), (0.1, 0.0, False)],
)
def test_a_better_outline_may_cost_next_to_nothing(f1: float, dice_low: float, expected: bool) -> None:
    assert Gain(f1, -0.1, 0.05, dice_low).is_more_than_noise == expected


@pytest.mark.parametrize("patients", [5, 20])
def test_no_gain_is_rarely_called_one(patients: int) -> None:
    """Two settings of which either may be the better one: at most some 5 % of the draws may pass for a gain in F1."""
    random = np.random.default_rng(0)
    resamples = PatientResamples([f"p{n}" for n in range(patients)])
    passed = 0
    for _ in range(200):
        first, second = (
            [counts(5, 5, int(n)) for n in random.binomial(5, random.uniform(0.4, 0.8, patients))] for _ in range(2)
        )
        passed += resamples.gain(resamples.metrics(first), resamples.metrics(second)).f1_low > 0
    assert passed <= 200 * 0.08


def test_resamples_without_any_lesion_are_left_out() -> None:
    resamples = PatientResamples(["a", "b"])
    gain = gain_of(["a", "b"], [counts(4, 4, 2), counts(0, 0, 0)], [counts(4, 4, 3), counts(0, 0, 0)])
    assert gain.f1_low == gain.f1 == 0.25
    nothing, wrong = [counts(0, 0, 0)] * 2, [counts(0, 3, 0)] * 2
    assert gain_of(["a", "b"], wrong, nothing).f1_low == 1.0, "of lesion-free scans alone, silence is right"
    assert not gain_of(["a", "b"], nothing, nothing).is_more_than_noise
    assert resamples.f1_interval([counts(0, 0, 0)] * 2) is None
