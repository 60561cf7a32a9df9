from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.evaluation.definitions.agreement import VolumeAgreement, volume_agreement

volumes = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), min_size=2, max_size=8)


def test_limits_are_two_standard_deviations_around_the_bias() -> None:
    # Differences 10, -10 and 30: mean 10, standard deviation 20.
    agreement = volume_agreement([100, 200, 300], [110, 190, 330])
    assert agreement.bias_mm3 == 10
    assert agreement.limits_mm3 == pytest.approx([10 - 1.96 * 20, 10 + 1.96 * 20])
    assert agreement.mean_absolute_difference_mm3 == pytest.approx(50 / 3)


def test_proportional_volumes_correlate_but_do_not_agree() -> None:
    # Variances 2/3 and 8/3, covariance 4/3, means 2 and 4: 2 · 4/3 / (2/3 + 8/3 + 4).
    assert volume_agreement([1, 2, 3], [2, 4, 6]).concordance == pytest.approx(8 / 22)


@given(volumes)
def test_equal_volumes_agree(pairs: list[tuple[float, float]]) -> None:
    truth = [first for first, _ in pairs]
    agreement = volume_agreement(truth, truth)
    assert agreement.concordance == pytest.approx(1.0)
    assert agreement.limits_mm3 == (0, 0)


@given(volumes)
def test_the_order_of_the_cases_does_not_matter(pairs: list[tuple[float, float]]) -> None:
    first, second = (volume_agreement(*np.array(order).T) for order in (pairs, pairs[::-1]))
    assert first.concordance == pytest.approx(second.concordance)
    assert first.bias_mm3 == pytest.approx(second.bias_mm3)


def test_one_case_has_no_limits_and_no_case_has_no_values() -> None:
    assert volume_agreement([5], [7]).limits_mm3 is None
    assert volume_agreement([], []) == VolumeAgreement(0, None, None, None, None)


def test_numbers_of_cases_must_agree() -> None:
    with pytest.raises(ValueError):
        volume_agreement([1, 2], [1])
