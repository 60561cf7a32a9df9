from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg3d.models.objectives.dense import DenseTargets, dense_loss, dense_targets
from detseg3d.models.objectives.targets import volume_targets
from tests.models.factory import make_targets


def test_occupancy_is_the_filled_fraction_of_each_cell() -> None:
    random = np.random.default_rng(0)
    instances = random.integers(0, 3, (6, 8, 4)).astype(np.int32)
    target = volume_targets(instances, np.array([0, 0, 1]))
    wanted = dense_targets([target], 2, (3, 4, 2), (2, 2, 2))
    for label in (0, 1):
        mask = torch.from_numpy((instances == label + 1).astype(np.float32))[None, None]
        pooled = torch.nn.functional.avg_pool3d(mask, 2)[0, 0]
        assert torch.allclose(wanted.occupancy[0, label], pooled)


def test_each_lesion_has_the_same_weight_which_its_voxels_share() -> None:
    target = make_targets((8, 8, 8), [[0, 0, 0, 4, 4, 4], [7, 7, 7, 8, 8, 8]])
    weight = dense_targets([target], 1, (4, 4, 4), (2, 2, 2)).weight[0, 0]
    assert weight[:2, :2, :2].sum() == pytest.approx(0.5) and weight[3, 3, 3] == pytest.approx(0.5)
    assert weight[0, 0, 0] == pytest.approx(0.5 / 8)


def test_each_class_has_its_own_weights_and_volumes_stay_apart() -> None:
    boxes = [[0, 0, 0, 2, 2, 2], [4, 4, 4, 6, 6, 6], [6, 0, 0, 8, 2, 2]]
    batch = [make_targets((8, 8, 8), boxes, [0, 1, 1]), make_targets((8, 8, 8), [])]
    wanted = dense_targets(batch, 3, (4, 4, 4), (2, 2, 2))
    assert wanted.weight.sum((2, 3, 4)).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert wanted.occupancy.sum((2, 3, 4)).tolist() == [[1, 2, 0], [0, 0, 0]]


def test_a_lesion_fills_the_cells_inside_it_also_if_cells_are_no_whole_number_of_voxels() -> None:
    target = make_targets((10, 10, 10), [[0, 0, 0, 10, 10, 10]])
    wanted = dense_targets([target], 1, (4, 4, 4), (2.5, 2.5, 2.5))
    assert torch.equal(wanted.occupancy, torch.ones(1, 1, 4, 4, 4))


def test_cells_of_the_padding_are_empty() -> None:
    target = make_targets((3, 4, 4), [[0, 0, 0, 3, 4, 4]])
    occupancy = dense_targets([target], 1, (4, 2, 2), (2, 2, 2)).occupancy[0, 0]
    assert occupancy[:2].eq(1).all() and occupancy[2:].eq(0).all()


def loss(logits: torch.Tensor, targets: DenseTargets) -> float:
    return dense_loss(logits, targets).item()


def test_a_perfect_map_costs_nothing_and_the_opposite_costs_much() -> None:
    targets = dense_targets([make_targets((8, 8, 8), [[0, 0, 0, 4, 4, 4]])], 1, (4, 4, 4), (2, 2, 2))
    logits = torch.where(targets.occupancy > 0, 30.0, -30.0)
    assert loss(logits, targets) == pytest.approx(0, abs=1e-6)
    assert loss(-logits, targets) > 30


def test_small_and_large_lesions_cost_the_same_if_they_are_missed() -> None:
    boxes = [[0, 0, 0, 2, 2, 2], [4, 0, 0, 12, 12, 12]]
    targets = dense_targets([make_targets((12, 12, 12), boxes)], 1, (6, 6, 6), (2, 2, 2))
    perfect = torch.where(targets.occupancy > 0, 12.0, -12.0)
    small, large = perfect.clone(), perfect.clone()
    small[0, 0, :1], large[0, 0, 2:] = -12.0, -12.0
    dice = [1 - (2 * kept + 1) / (kept + 65 + 1) for kept in (64, 1)]  # of 1 and 64 cells
    costs = [2 * loss(missed, targets) - lost for missed, lost in zip((small, large), dice, strict=True)]
    assert costs == pytest.approx([6, 6], rel=0.01)


def test_a_volume_without_lesions_learns_the_background() -> None:
    targets = dense_targets([make_targets((4, 4, 4), [])], 1, (2, 2, 2), (2, 2, 2))
    logits = torch.full((1, 1, 2, 2, 2), 3.0, dtype=torch.bfloat16, requires_grad=True)
    result = dense_loss(logits, targets)
    assert result.dtype is torch.float32
    assert result.item() == pytest.approx(0.5 * 4 * np.log1p(np.exp(3.0)))
    [gradient] = torch.autograd.grad(result, [logits])
    assert gradient.gt(0).all()


def test_the_batch_is_the_mean_of_its_volumes() -> None:
    first = dense_targets([make_targets((4, 4, 4), [[0, 0, 0, 2, 2, 2]])], 1, (2, 2, 2), (2, 2, 2))
    second = dense_targets([make_targets((4, 4, 4), [])], 1, (2, 2, 2), (2, 2, 2))
    both = DenseTargets(torch.cat([first.occupancy, second.occupancy]), torch.cat([first.weight, second.weight]))
    logits = torch.randn(2, 1, 2, 2, 2)
    assert loss(logits, both) == pytest.approx((loss(logits[:1], first) + loss(logits[1:], second)) / 2)
