from __future__ import annotations

from detseg3d.planning.rules.segmenter import stage2_plan


def test_stage2_has_about_two_million_parameters() -> None:
    plan = stage2_plan((32, 32, 32), (1, 1, 1))
    from detseg3d.models.networks.segmenter import Segmenter

    count = sum(parameter.numel() for parameter in Segmenter(plan, 1, 1, 48).parameters())
    assert 1.5e6 < count < 3e6
