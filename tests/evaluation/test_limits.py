from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.evaluation.definitions.lesionwise import lesionwise_scores
from detseg3d.evaluation.definitions.surfaces import surface_metrics
from detseg3d.evaluation.limits import exceeds, reaches, within
from detseg3d.evaluation.probabilities.components import reaches_volume
from detseg3d.evaluation.summary import VOLUME_EDGES, recall_by_size
from tests.evaluation.cohort import evaluate_at

SPACINGS = (0.1, 0.3, 0.4, 0.48, 0.7, 0.8, 1.1, 1.2)


def single(value: float) -> float:
    """Return the value in single precision, as a NIfTI header stores it."""
    return float(np.float32(value))


@given(st.integers(1, 3000), st.sampled_from(SPACINGS), st.booleans())
def test_a_multiple_of_a_decimal_is_within_its_value_and_the_next_is_not(
    count: int, spacing: float, header: bool
) -> None:
    exact = float(Fraction(str(spacing)) * count)
    stored = single(spacing) if header else spacing
    assert within(count * stored, exact)
    assert reaches(count * stored, exact)
    assert not exceeds(count * stored, exact)
    assert exceeds((count + 1) * stored, exact)
    assert not within((count + 1) * stored, exact)
    assert not reaches((count - 1) * stored, exact)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("header", [False, True])
def test_a_shift_by_the_tolerance_is_within_it(spacing: float, slices: int, header: bool) -> None:
    truth = np.zeros((16, 12, 12), np.uint8)
    truth[4:9, 3:9, 3:9] = 1
    stored = single(spacing) if header else spacing
    tolerance = float(Fraction(str(spacing)) * slices)
    assert surface_metrics(truth, np.roll(truth, slices, 0), (stored, 100.0, 100.0), tolerance).nsd == 1.0
    assert surface_metrics(truth, np.roll(truth, slices, 0), (stored, 100.0, 100.0), tolerance * 0.999).nsd < 1.0


@pytest.mark.parametrize("header", [False, True])
def test_ten_voxels_reach_ten_times_their_volume(header: bool) -> None:
    for spacing in SPACINGS:
        volume = single(spacing) if header else spacing
        assert reaches_volume(np.array([9, 10, 11]), volume, float(Fraction(str(spacing)) * 10)).tolist() == [
            False,
            True,
            True,
        ]


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.48), (0.48, 0.5, 0.5), (0.3, 1.0, 0.4)])
@pytest.mark.parametrize("header", [False, True])
def test_a_lesion_as_large_as_a_limit_in_mm3_is_in_the_upper_bin(
    spacing: tuple[float, float, float], header: bool
) -> None:
    voxels = Fraction(30) / (Fraction(str(spacing[0])) * Fraction(str(spacing[1])) * Fraction(str(spacing[2])))
    assert voxels.denominator == 1
    truth = np.zeros((1, 1, int(voxels)), np.int32)
    truth[:] = 1
    case = evaluate_at(truth, truth, tuple(single(value) for value in spacing) if header else spacing)
    rows = recall_by_size(case.lesions[:1], lambda lesion: lesion.volume_mm3, VOLUME_EDGES, "mm³")
    assert [row.low for row in rows if row.lesions] == [30]


@pytest.mark.parametrize("spacing", [(5.0, 0.5, 0.4), (0.8, 1.25, 1.0)])
@pytest.mark.parametrize("header", [False, True])
def test_a_lesion_of_2_mm3_is_ignored(spacing: tuple[float, float, float], header: bool) -> None:
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[2, 2, 2:4], truth[8:10, 6:10, 6:10] = 1, 1  # two voxels of 1 mm³, and a large lesion
    prediction = truth.copy()
    prediction[2, 2, 2:4] = 0
    stored = tuple(single(value) for value in spacing) if header else spacing
    assert lesionwise_scores(truth, prediction, stored).dice == 1.0
