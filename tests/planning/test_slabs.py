"""The memory of a prediction in slabs: less with each slab, never less than what is held as a whole."""

from __future__ import annotations

import math

import pytest

from detseg3d.core.precision import Precision
from detseg3d.planning.memory import NetworkPlan, Region, inference_bytes
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import Stage1Plan
from detseg3d.planning.slabs import Passes, max_slabs, slab_inference_bytes

FULL_RESOLUTION = Stage1Plan(
    channels=(8, 32, 64),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    kernels=((3, 3, 3),) * 3,
    blocks=(1, 1, 1),
    fpn_channels=32,
    head_stages=(1, 2),
    level_max_sizes=((16.0, 16.0, 16.0),),
)
SHAPE = (400, 200, 200)


@pytest.fixture
def network(tiny_plans: Plans) -> NetworkPlan:
    return NetworkPlan(FULL_RESOLUTION, tiny_plans.stage2, tiny_plans.roi, 1, 1, Precision.FP32)


def need(network: NetworkPlan, slabs: int, several: bool = False) -> float:
    return slab_inference_bytes(network, Region(SHAPE, math.prod(SHAPE)), Passes(slabs, several))


def test_more_slabs_never_need_more(network: NetworkPlan) -> None:
    needs = [need(network, slabs) for slabs in (2, 3, 5, 10, 20, 50, 100)]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] < inference_bytes(network, Region(SHAPE, math.prod(SHAPE)))


def test_the_images_and_two_maps_of_the_finest_level_are_held(network: NetworkPlan) -> None:
    voxels = math.prod(SHAPE)
    held = 2 * 4 * voxels + 2 * 32 * 4 * voxels / 8
    assert held < need(network, 100) < 1.6 * held


def test_several_passes_hold_a_mirrored_image_and_the_features_of_an_earlier_pass(network: NetworkPlan) -> None:
    features = network.stage2.feature_channels * math.prod(SHAPE) / 8 * 4
    assert need(network, 20, several=True) - need(network, 20) == pytest.approx(4 * math.prod(SHAPE) + features)


def test_no_slab_is_thinner_than_the_coarsest_cell() -> None:
    assert max_slabs(FULL_RESOLUTION, (30, 41, 10)) == 11
    assert max_slabs(FULL_RESOLUTION, (3, 3, 3)) == 1
