"""Variants of Stage 2: their plans hold, and the score of the core ignores the faint rest of a mask."""

from __future__ import annotations

import pytest
import torch

from benchmarks.accuracy.variants import VARIANTS
from detseg3d.models.networks.segmenter import Segmenter
from detseg3d.planning.plans import Plans
from detseg3d.planning.rules.segmenter import stage2_plan


@pytest.mark.parametrize(
    ("name", "millions"),
    [("baseline", 0.4), ("Stage 2 wider, 1.5", 0.9), ("Stage 2 wider, 2.4", 2.3), ("Stage 2, one more scale", 2.2)],
)
def test_wider_segmenters_have_the_stated_number_of_parameters(name: str, millions: float, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(stage2=stage2_plan((24, 24, 24), (1.0, 1.0, 1.0)).model_dump())
    stage2 = VARIANTS[name].apply(plans).stage2
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in Segmenter(stage2, 1, 1, 128).parameters())
    assert round(size / 1e6, 1) == millions


def test_the_score_of_the_core_ignores_the_faint_rest_of_a_mask(tiny_plans: Plans) -> None:
    segmenter = VARIANTS["score of the core"].build_model(tiny_plans).segmenter
    mask = torch.full((1, 1, 1, 1, 101), -3.0)  # 100 samples of probability .047, and one of .95
    mask[..., 0] = 3.0
    assert float(Segmenter.mask_weight(segmenter, mask)[0, 0]) < 0.2
    assert segmenter.mask_weight(mask)[0].tolist() == [1.0, *[0.0] * 100]
