"""A setting of the thresholds, as the search and its report hold it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from detseg3d.consolidation.thresholds import Setting
from detseg3d.planning.plans import Plans


@pytest.mark.parametrize(("growth", "shown"), [(0.3, 0.3), (0.5, None), (1.0, None)])
def test_a_report_shows_no_growth_that_extends_nothing(tiny_plans: Plans, growth: float, shown: float | None) -> None:
    setting = Setting.of(
        tiny_plans.evolve(inference={"join_touching": True, "score_threshold": 0.5, "growth_threshold": growth})
    )
    assert setting.described() == {**asdict(setting), "growth_threshold": shown}
    apart = Setting.of(tiny_plans.evolve(inference={"score_threshold": 0.5, "growth_threshold": growth}))
    assert apart.described()["growth_threshold"] is None
