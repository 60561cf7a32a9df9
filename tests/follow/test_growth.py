from __future__ import annotations

import pytest

from detseg3d.follow.growth import doubling_time


def test_a_volume_that_is_eight_times_as_large_doubled_three_times() -> None:
    assert doubling_time(50.0, 400.0, 300) == pytest.approx(100.0)


def test_the_doubling_time_of_daily_growth_is_that_of_the_simulated_volumes() -> None:
    volume = [2.0 * 1.01**day for day in range(366)]
    days = doubling_time(volume[0], volume[365], 365)
    assert days is not None
    assert volume[0] * 1.01**days == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("before", "after", "days"),
    [(None, 2, 10), (1, None, 10), (1, 2, None), (1, 2, 0), (1, 2, -5), (0, 2, 10), (2, 2, 10), (2, 1, 10)],
)
def test_without_growth_or_time_there_is_no_doubling_time(
    before: float | None, after: float | None, days: int | None
) -> None:
    assert doubling_time(before, after, days) is None
