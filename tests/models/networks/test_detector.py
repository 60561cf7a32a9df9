from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from detseg3d.models.networks.detector import Detector
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import Stage1Plan


@pytest.fixture(scope="module")
def detector(tiny_plans: Plans) -> Detector:
    torch.manual_seed(0)
    return Detector(tiny_plans.stage1, num_channels=2, num_classes=3)


def test_every_level_has_the_cells_of_its_stride(detector: Detector) -> None:
    levels = detector(torch.zeros(2, 2, 8, 12, 16)).levels
    assert [tuple(level.heatmap.shape) for level in levels] == [(2, 3, 4, 6, 8), (2, 3, 2, 3, 4)]
    assert [tuple(level.log_size.shape) for level in levels] == [(2, 3, 4, 6, 8), (2, 3, 2, 3, 4)]
    assert [tuple(level.offset.shape) for level in levels] == [(2, 3, 4, 6, 8), (2, 3, 2, 3, 4)]


def test_features_are_those_of_the_finest_level(detector: Detector) -> None:
    assert detector(torch.zeros(1, 2, 8, 12, 16)).features.shape == (1, 8, 4, 6, 8)


def test_a_shape_that_is_not_padded_to_whole_cells_is_an_error(detector: Detector) -> None:
    with pytest.raises(ValueError, match=r"\(8, 8, 6\).*\(4, 4, 4\)"):
        detector(torch.zeros(1, 2, 8, 8, 6))


def test_at_the_start_a_cell_is_a_centre_with_probability_of_one_percent(detector: Detector) -> None:
    for level in detector(torch.randn(1, 2, 16, 16, 16)).levels:
        assert level.heatmap.sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)


def test_each_volume_is_seen_on_its_own(detector: Detector) -> None:
    images = torch.randn(2, 2, 8, 8, 8)
    alone = detector(images[1:]).levels[0].heatmap
    assert torch.allclose(detector(images).levels[0].heatmap[1:], alone, atol=1e-5)


def test_cells_lie_in_the_volumes_order() -> None:
    # A bright spot must answer in its own corner, on each axis.
    torch.manual_seed(1)
    plan = Stage1Plan.model_validate(
        {
            "channels": (8,),
            "strides": ((2, 2, 2),),
            "kernels": ((1, 1, 1),),
            "blocks": (1,),
            "fpn_channels": 8,
            "head_stages": (0,),
            "level_max_sizes": (),
        }
    )
    network = Detector(plan, 1, 1)
    image = torch.zeros(1, 1, 8, 12, 16)
    empty = network(image).features
    image[0, 0, 6:8, 2:4, 10:12] = 100.0
    change = (network(image).features - empty).abs().sum(dim=1)[0]
    assert divmod(int(change.argmax()), 6 * 8) == (3, 1 * 8 + 5)


def test_only_the_named_stages_have_heads(plans_data: dict[str, Any]) -> None:
    plan = Stage1Plan.model_validate({**plans_data["stage1"], "head_stages": [1], "level_max_sizes": []})
    output = Detector(plan, 1, 1)(torch.zeros(1, 1, 16, 16, 16))
    assert len(output.levels) == 1 and output.features.shape[2:] == (4, 4, 4)


def test_a_dense_map_has_a_channel_per_class_on_the_cells_of_its_level(plans_data: dict[str, Any]) -> None:
    plan = Stage1Plan.model_validate({**plans_data["stage1"], "dense_channels": 4})
    output = Detector(plan, 1, 3)(torch.zeros(1, 1, 16, 16, 16))
    assert output.dense is not None and output.dense.shape == (1, 3, 8, 8, 8)
    assert Detector(plan.model_copy(update={"dense_channels": 0}), 1, 3)(torch.zeros(1, 1, 16, 16, 16)).dense is None


def test_a_dense_map_avoids_a_level_at_full_resolution(plans_data: dict[str, Any]) -> None:
    stage1 = {**plans_data["stage1"], "strides": [[1, 1, 1], [2, 2, 2]], "dense_channels": 4}
    plan = Stage1Plan.model_validate(stage1)
    dense = Detector(plan, 1, 1)(torch.zeros(1, 1, 8, 8, 8)).dense
    assert dense is not None and dense.shape == (1, 1, 4, 4, 4)
    only = Stage1Plan.model_validate({**stage1, "head_stages": [0], "level_max_sizes": []})
    assert only.dense_level == 0


def test_anisotropic_strides_multiply_per_axis(plans_data: dict[str, Any]) -> None:
    stage1 = {**plans_data["stage1"], "strides": [[1, 2, 2], [1, 2, 2]], "kernels": [[1, 3, 3], [3, 3, 3]]}
    network = Detector(Stage1Plan.model_validate(stage1), 1, 1)
    assert network.total_stride == (1, 4, 4)
    assert [tuple(level.heatmap.shape[2:]) for level in network(torch.zeros(1, 1, 3, 8, 8)).levels] == [
        (3, 4, 4),
        (3, 2, 2),
    ]


def test_all_parameters_take_part(detector: Detector) -> None:
    detector.zero_grad()
    output = detector(torch.randn(1, 2, 8, 8, 8))
    sum(part.sum() for level in output.levels for part in level).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_no_map_is_kept_that_the_pyramid_does_not_read() -> None:
    plan = Stage1Plan(
        channels=(8, 16, 24),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 3),) * 3,
        blocks=(1, 1, 1),
        fpn_channels=8,
        head_stages=(1, 2),
        level_max_sizes=((16.0, 16.0, 16.0),),
    )
    detector = Detector(plan, 1, 1)
    maps: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    detector.stages[0].register_forward_hook(lambda _module, _inputs, output: maps.append(weakref.ref(output)))
    detector.stages[2].register_forward_hook(lambda *_: alive.append(maps[0]() is not None))
    with torch.no_grad():
        detector(torch.zeros(1, 1, 16, 16, 16))
    assert alive == [False]
