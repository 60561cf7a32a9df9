from __future__ import annotations

import pytest
import torch

from detseg3d.models.networks.segmenter import Segmenter
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import Stage2Plan


@pytest.fixture(scope="module")
def segmenter(tiny_plans: Plans) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(tiny_plans.stage2, num_channels=2, num_classes=3, context_channels=16)


def test_mask_and_score_have_a_channel_per_class(segmenter: Segmenter) -> None:
    output = segmenter(torch.zeros(5, 3, 16, 16, 16), torch.zeros(5, 4, 8, 8, 8))
    assert output.mask.shape == (5, 3, 16, 16, 16) and output.score.shape == (5, 3)


def test_features_are_wanted_at_the_second_scale(segmenter: Segmenter) -> None:
    assert segmenter.plan.feature_size((16, 24, 32)) == (8, 12, 16)


def test_odd_sizes_are_restored_by_the_decoder(segmenter: Segmenter) -> None:
    size = segmenter.plan.feature_size((9, 16, 11))
    assert segmenter(torch.zeros(1, 3, 9, 16, 11), torch.zeros(1, 4, *size)).mask.shape == (1, 3, 9, 16, 11)


def test_each_roi_is_seen_on_its_own(segmenter: Segmenter) -> None:
    crops, features = torch.randn(3, 3, 16, 16, 16), torch.randn(3, 4, 8, 8, 8)
    together, alone = segmenter(crops, features), segmenter(crops[2:], features[2:])
    assert torch.allclose(together.mask[2:], alone.mask, atol=1e-4)
    assert torch.allclose(together.score[2:], alone.score, atol=1e-4)


def test_the_stage_one_features_matter(segmenter: Segmenter) -> None:
    crops = torch.randn(1, 3, 16, 16, 16)
    zeros, ones = (segmenter(crops, torch.full((1, 4, 8, 8, 8), value)).mask for value in (0.0, 1.0))
    assert not torch.allclose(zeros, ones, atol=1e-3)


def test_missing_features_are_an_error(segmenter: Segmenter) -> None:
    with pytest.raises(AssertionError, match="the plan gives Stage 1 features to Stage 2"):
        segmenter(torch.zeros(1, 3, 16, 16, 16))


def test_without_feature_channels_no_features_are_needed(tiny_plans: Plans) -> None:
    plan = tiny_plans.stage2.model_copy(update={"feature_channels": 0})
    assert Segmenter(plan, 1, 1, 16)(torch.zeros(1, 2, 16, 16, 16)).mask.shape == (1, 1, 16, 16, 16)


def test_the_score_sends_no_gradient_through_the_mask(segmenter: Segmenter) -> None:
    segmenter.zero_grad()
    segmenter(torch.randn(1, 3, 16, 16, 16), torch.randn(1, 4, 8, 8, 8)).score.sum().backward()
    assert segmenter.mask.weight.grad is None


def test_new_context_attention_changes_nothing_but_takes_part(tiny_plans: Plans) -> None:
    plan = Stage2Plan.model_validate({**tiny_plans.stage2.model_dump(), "context_attention": True})
    torch.manual_seed(0)
    network = Segmenter(plan, 1, 1, 16)
    crops, features = torch.randn(2, 2, 16, 16, 16), torch.randn(2, 4, 8, 8, 8)
    outputs = [network(crops, features, torch.randn(2, 16, 4, 4, 4)).mask for _ in range(2)]
    assert torch.allclose(*outputs, atol=1e-5)
    outputs[0].sum().backward()
    assert network.attention is not None and network.attention.attention.out_proj.weight.grad is not None
