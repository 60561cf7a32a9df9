from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.precision import Precision
from detseg3d.planning.memory import (
    NetworkPlan,
    Region,
    detection_cells,
    inference_bytes,
    planned_training_bytes,
    roi_bytes,
    saved_values,
    training_bytes,
)
from detseg3d.planning.rules.rois import choose_roi_size, roi_plan
from detseg3d.planning.rules.segmenter import stage2_plan
from detseg3d.planning.sections import CurriculumPhase, Stage1Plan, TrainingPlan

STAGE1 = Stage1Plan(
    channels=(24, 48, 96),
    strides=((2, 2, 2),) * 3,
    kernels=((3, 3, 3),) * 3,
    blocks=(1, 1, 2),
    fpn_channels=48,
    head_stages=(0, 1),
    level_max_sizes=((16.0, 16.0, 16.0),),
)
ROI, STAGE2 = roi_plan((32, 32, 32), (1, 1, 1)), stage2_plan((32, 32, 32), (1, 1, 1))


def network(plan: Stage1Plan = STAGE1, channels: int = 1, precision: Precision = Precision.BF16) -> NetworkPlan:
    return NetworkPlan(plan, STAGE2, ROI, channels, 1, precision)


def train(shape: tuple[int, int, int], plan: Stage1Plan = STAGE1, batch: int = 1, channels: int = 1) -> float:
    return training_bytes(network(plan, channels), Region(shape, math.prod(shape)), 8, batch)


def predict(shape: tuple[int, int, int], precision: Precision = Precision.BF16) -> float:
    return inference_bytes(network(precision=precision), Region(shape, math.prod(shape)))


def test_cells_are_those_of_the_padded_volume() -> None:
    assert detection_cells(STAGE1, (16, 17, 24)) == [8 * 12 * 12, 4 * 6 * 6, 2 * 3 * 3]


def test_cells_agree_with_the_network() -> None:
    import torch

    from detseg3d.models.networks.detector import Detector

    detector = Detector(STAGE1, 1, 1)
    sizes = []
    for stage in detector.stages:
        stage.register_forward_hook(lambda _module, _inputs, output: sizes.append(output[0, 0].numel()))
    with torch.no_grad():
        detector(torch.zeros(1, 1, 16, 24, 24))  # 17 voxels padded to the total stride of 8
    assert sizes == detection_cells(STAGE1, (16, 17, 24))


def saved_by_autograd(run: Callable[[], Any]) -> int:
    """Bytes of everything that autograd keeps of ``run`` under mixed precision, weights and their copies included."""
    import torch

    storages: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = run()
    assert output is not None
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


@pytest.mark.parametrize(("first_head", "dense_channels"), [(0, 0), (1, 0), (0, 24)])
def test_saved_values_agree_with_the_values_that_autograd_saves(first_head: int, dense_channels: int) -> None:
    import torch

    from detseg3d.models.networks.detector import Detector

    plan = STAGE1.model_copy(update={"head_stages": (first_head, 2), "dense_channels": dense_channels})
    detector = Detector(plan, 1, 1)
    # The difference of two sizes leaves the weights out; the input itself is saved as well.
    small, large = (saved_by_autograd(lambda n=n: detector(torch.zeros(1, 1, n, n, n))) for n in (24, 48))
    few, many = (2 * (saved_values(plan, detection_cells(plan, (n,) * 3)) + n**3) for n in (24, 48))
    assert large - small == pytest.approx(many - few, rel=0.01)


@pytest.mark.parametrize(("edge", "spacing"), [(32, (1, 1, 1)), (48, (4.2, 1, 1)), (24, (1, 1.7, 1.7))])
def test_roi_bytes_agree_with_the_bytes_that_autograd_saves(edge: int, spacing: tuple[float, float, float]) -> None:
    import torch

    from detseg3d.models.networks.segmenter import Segmenter

    size = choose_roi_size(edge, spacing, (400, 400, 400))
    plan = stage2_plan(size, spacing)
    segmenter = Segmenter(plan, 1, 1, 48)

    def run(count: int) -> Any:
        features = torch.zeros(count, plan.feature_channels, *plan.feature_size(size))
        return segmenter(torch.zeros(count, 2, *size), features)

    one, two = (saved_by_autograd(lambda n=n: run(n)) for n in (1, 2))
    assert roi_bytes(plan, size, Precision.BF16) == pytest.approx(two - one, rel=0.1)


@given(st.tuples(*[st.integers(8, 300)] * 3), st.integers(0, 2))
def test_more_voxels_need_more_memory(shape: tuple[int, int, int], axis: int) -> None:
    larger = tuple(n + 8 * (index == axis) for index, n in enumerate(shape))
    assert train(larger) > train(shape)
    assert predict(larger) > predict(shape)


def test_training_is_linear_in_the_batch_above_the_base() -> None:
    one, two, three = (train((64, 64, 64), batch=batch) for batch in (1, 2, 3))
    assert abs((three - two) - (two - one)) < 1
    assert two > one


def test_more_channels_and_blocks_need_more() -> None:
    wide = STAGE1.model_copy(update={"channels": (48, 48, 96)})
    deep = STAGE1.model_copy(update={"blocks": (2, 1, 2)})
    assert train((64, 64, 64), wide) > train((64, 64, 64))
    assert train((64, 64, 64), deep) > train((64, 64, 64))
    assert train((64, 64, 64), channels=4) > train((64, 64, 64))


def test_a_dense_map_needs_more() -> None:
    dense = STAGE1.model_copy(update={"dense_channels": 24})
    region = Region((64, 64, 64), 64**3)
    assert train((64, 64, 64), dense) > train((64, 64, 64))
    assert inference_bytes(network(dense), region) > inference_bytes(network(), region)


def test_inference_needs_far_less_than_training() -> None:
    shape = (256, 256, 256)
    assert predict(shape) < 0.5 * train(shape)


def test_a_coarser_first_head_needs_less() -> None:
    coarse = STAGE1.model_copy(update={"head_stages": (1,), "level_max_sizes": ()})
    assert train((128, 128, 128), coarse) < train((128, 128, 128))


@pytest.mark.parametrize("half", [Precision.BF16, Precision.FP16])
def test_float32_needs_up_to_twice_the_memory_of_half_precision(half: Precision) -> None:
    region = Region((128, 128, 128), 128**3)
    for needed in (inference_bytes, lambda n, r: training_bytes(n, r, 8)):
        less, more = (needed(network(precision=precision), region) for precision in (half, Precision.FP32))
        assert 1.2 * less < more < 2 * less


def test_the_curriculum_needs_the_memory_of_its_largest_phase() -> None:
    phases = [CurriculumPhase(fraction=0.5, window=(32, 32, 32)), CurriculumPhase(fraction=0.5, window=None)]
    training = TrainingPlan(curriculum=tuple(phases), min_rois_per_window=8, roi_voxel_fraction=0.0)
    needed = planned_training_bytes(network(), training, (96, 96, 96), (1.0, 1.0, 1.0))
    assert needed == train((96, 96, 96))
    crowded = training.model_copy(update={"batch_size": 100})  # whole volumes run one by one, windows together
    assert planned_training_bytes(network(), crowded, (96, 96, 96), (1.0, 1.0, 1.0)) == train((32, 32, 32), batch=100)


def test_on_a_coarser_detection_grid_fewer_cells_count() -> None:
    training = TrainingPlan(
        curriculum=(CurriculumPhase(fraction=1.0, window=None),), min_rois_per_window=8, roi_voxel_fraction=0.0
    )
    coarse = planned_training_bytes(network(), training, (96, 96, 96), (2.0, 2.0, 2.0))
    assert coarse == training_bytes(network(), Region((48, 48, 48), 96**3), 8)
