from __future__ import annotations

from typing import Any

import pytest

from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.network_size import parameter_count
from detseg3d.planning.plans import Plans

THREE_STAGES = {
    "channels": [8, 12, 20],
    "strides": [[1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "kernels": [[1, 3, 3], [3, 3, 3], [3, 5, 5]],
    "blocks": [1, 3, 2],
    "fpn_channels": 12,
    "head_stages": [1, 2],
    "level_max_sizes": [[10, 10, 10]],
}


FOUR_SCALES = {
    "channels": [4, 8, 12, 16],
    "strides": [[1, 2, 2], [2, 2, 2], [1, 2, 2]],
    "kernels": [[1, 3, 3], [3, 3, 3], [3, 5, 3], [3, 3, 3]],
}


@pytest.mark.parametrize("stage1", [{}, THREE_STAGES, {"dense_channels": 12}, {"boxes_per_class": True}])
@pytest.mark.parametrize(
    "stage2", [{}, FOUR_SCALES, {**FOUR_SCALES, "context_attention": True}, {"feature_channels": 0}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_are_counted_as_the_network_has_them(
    tiny_plans: Plans, stage1: dict[str, Any], stage2: dict[str, Any], channels: int
) -> None:
    plans = tiny_plans.evolve(
        stage1=stage1,
        stage2=stage2,
        channel_names=["a", "b", "c"][:channels],
        normalization=[{"scheme": "zscore"}] * channels,
        class_names=["one", "two"],
        class_labels=[1, 2],
    )
    expected = sum(parameter.numel() for parameter in DetSeg3D(plans).parameters())
    assert parameter_count(plans.stage1, plans.stage2, plans.num_channels, plans.num_classes) == expected
