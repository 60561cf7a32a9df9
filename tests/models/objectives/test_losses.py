from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.models.networks.detector import LevelOutput
from detseg3d.models.objectives.losses import (
    detection_losses,
    heatmap_focal_loss,
    roi_mask_loss,
    roi_score_loss,
)
from detseg3d.models.objectives.targets import LevelTargets, level_targets


def naive_focal(logits: np.ndarray, target: np.ndarray) -> float:
    total = 0.0
    for row, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        for logit, y in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-logit))
            if y == 1:
                total -= (1 - p) ** 2 * math.log(p)
            else:
                total -= (1 - y) ** 4 * p**2 * math.log(1 - p)
    return total


def output_at(logit: float, shape: tuple[int, ...] = (1, 1, 4, 4, 4)) -> LevelOutput:
    regression = (shape[0], 3, *shape[2:])
    return LevelOutput(
        torch.full(shape, float(logit), requires_grad=True),
        torch.zeros(regression, requires_grad=True),
        torch.zeros(regression, requires_grad=True),
    )


def targets_of(*boxes: list[float]) -> LevelTargets:
    return level_targets([list(boxes)], [np.zeros(len(boxes), np.int64)], 1, (4, 4, 4), (2, 2, 2))


def cubes(*values: float) -> torch.Tensor:
    """RoIs of 2×1×2 voxels with these values."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 2, 1, 2)


# -- Detection -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_focal_loss_agrees_with_a_naive_double_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, target = random.normal(0, 3, (3, 5)), random.choice([0, 0.3, 0.9, 1.0], (3, 5))
    value = heatmap_focal_loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert value.item() == pytest.approx(naive_focal(logits, target), rel=1e-4, abs=1e-6)


def test_focal_loss_of_a_lesion_free_volume_is_small() -> None:
    # 100³ cells at the prior of 0.01: 10⁶ · 0.01² · 0.01 = 1, not the 10⁴ of plain cross-entropy.
    logits = torch.full((100, 100, 100), -math.log(99))
    assert heatmap_focal_loss(logits, torch.zeros_like(logits)).item() == pytest.approx(1.005, abs=0.01)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_focal_loss_and_its_gradient_stay_finite_at_extreme_logits(logit: float) -> None:
    logits = torch.full((4,), logit, requires_grad=True)
    loss = heatmap_focal_loss(logits, torch.tensor([0, 0.5, 0.99, 1]))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_focal_loss_is_computed_in_float32() -> None:
    assert heatmap_focal_loss(torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3)).dtype == torch.float32


def test_a_batch_without_lesions_has_finite_losses_and_no_regression() -> None:
    output = output_at(-math.log(99))
    heatmap, size, offset = detection_losses([output], [targets_of()])
    (heatmap + size + offset).backward()
    assert heatmap.item() == pytest.approx(64 * 1.005e-6, rel=0.01)
    assert size.item() == 0 and offset.item() == 0
    assert output.log_size.grad is not None and not output.log_size.grad.any()


def test_the_heatmap_loss_is_divided_by_the_positives_of_all_levels() -> None:
    targets = [targets_of([0, 0, 0, 2, 2, 2], [4, 4, 4, 6, 6, 6]), targets_of([0, 0, 4, 2, 2, 6])]
    outputs = [output_at(0.3), output_at(-1.0)]
    summed = sum(heatmap_focal_loss(o.heatmap, t.heatmap).item() for o, t in zip(outputs, targets, strict=True))
    assert detection_losses(outputs, targets)[0].item() == pytest.approx(summed / 3)


def test_parts_of_a_batch_divided_by_the_positives_of_the_whole_add_up_to_it() -> None:
    boxes = [[[0, 0, 0, 2, 2, 2], [4, 4, 4, 6, 6, 6]], []]
    classes = [np.zeros(len(part), np.int64) for part in boxes]
    whole = detection_losses(
        [output_at(0.3, (2, 1, 4, 4, 4))], [level_targets(boxes, classes, 1, (4, 4, 4), (2, 2, 2))]
    )
    parts = [detection_losses([output_at(0.3)], [targets_of(*part)], positives=2) for part in boxes]
    for index in range(3):
        assert sum(part[index].item() for part in parts) == pytest.approx(whole[index].item())


def test_regression_losses_are_mean_absolute_differences_at_the_centres() -> None:
    targets = targets_of([0, 0, 0, 2, 4, 8], [5, 5, 5, 6, 6, 6])  # sizes 1, 2, 4 and ½, ½, ½ cells
    _, size, offset = detection_losses([output_at(0)], [targets])
    assert size.item() == pytest.approx((math.log(2) + math.log(4) + 3 * math.log(2)) / 3 / 2)
    # Centres 1, 2, 4 voxels: cells 0, 1, 2 begin at 0, 2, 4, so offsets 0, -½, -½; 5.5 lies at ¾ of cell 2: ¼.
    assert offset.item() == pytest.approx((0 + 0.5 + 0.5 + 3 * 0.25) / 3 / 2)


def test_the_regression_of_a_perfect_prediction_costs_nothing() -> None:
    targets = targets_of([0, 0, 0, 2, 4, 8])
    output = output_at(0)
    volume, z, y, x = targets.cells.unbind(1)
    with torch.no_grad():
        output.log_size[volume, :, z, y, x] = targets.log_size
        output.offset[volume, :, z, y, x] = targets.offset
    _, size, offset = detection_losses([output], [targets])
    assert size.item() == 0 and offset.item() == 0


# -- RoI masks -------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_costs_nothing_beside_another_lesion() -> None:
    # The blob-loss trap: the other lesion (second voxel) is predicted, too, and must not be punished.
    logits = cubes(20, 20, -20, -20)
    loss = roi_mask_loss(logits, cubes(1, 0, 0, 0), cubes(1, 0, 1, 1))
    assert loss.item() < 1e-6


def test_voxels_of_other_lesions_get_no_gradient() -> None:
    logits = cubes(0.5, 3, -1, 2).requires_grad_()
    roi_mask_loss(logits, cubes(1, 0, 0, 1), cubes(1, 0, 1, 1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten()[1] == 0 and (logits.grad.flatten()[[0, 2, 3]] != 0).all()


def test_mask_loss_by_hand() -> None:
    # p = ½ everywhere: cross-entropy ln 2; Dice (2·½ + 1) / (4·¼ + 1 + 1) = 2/3.
    loss = roi_mask_loss(cubes(0, 0, 0, 0), cubes(1, 0, 0, 0), torch.ones(1, 2, 1, 2))
    assert loss.item() == pytest.approx(math.log(2) + 1 - 2 / 3)


def test_an_roi_without_a_lesion_costs_cross_entropy_only() -> None:
    loss = roi_mask_loss(cubes(0, 0, 0, 0), cubes(0, 0, 0, 0), torch.ones(1, 2, 1, 2))
    assert loss.item() == pytest.approx(math.log(2))


def test_an_roi_without_any_weight_costs_nothing() -> None:
    logits = cubes(3, 3, 3, 3).requires_grad_()
    loss = roi_mask_loss(logits, cubes(1, 0, 0, 0), torch.zeros(1, 2, 1, 2))
    loss.sum().backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_loss_of_a_soft_target_is_lowest_at_the_target(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    target = torch.rand(1, 3, 3, 3, generator=random) * 0.9 + 0.05
    weight = torch.ones_like(target)
    logits = target.logit().requires_grad_()
    least = roi_mask_loss(logits, target, weight)
    least.sum().backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-5
    other = target.logit() + torch.randn(target.shape, generator=random)
    assert roi_mask_loss(other, target, weight).item() > least.item()


def test_lesions_of_all_sizes_have_the_same_weight() -> None:
    target = torch.zeros(2, 8, 8, 8)
    target[0, 4, 4, 4] = 1
    target[1, 1:7, 1:7, 1:7] = 1
    missed = roi_mask_loss(torch.full_like(target, -3.0), target, torch.ones_like(target))
    both = roi_mask_loss(torch.full((3, 8, 8, 8), -3.0), target[[0, 1, 1]], torch.ones(3, 8, 8, 8))
    assert torch.allclose(both, missed[[0, 1, 1]])


def test_no_rois_give_no_losses() -> None:
    none = torch.zeros(0, 2, 1, 2)
    assert roi_mask_loss(none, none, none).shape == (0,)


def test_mask_loss_is_computed_in_float32() -> None:
    logits = torch.zeros(1, 2, 2, 2, dtype=torch.float16)
    assert roi_mask_loss(logits, torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2)).dtype == torch.float32


# -- RoI scores ------------------------------------------------------------------------------------------------


def test_score_loss_is_the_mean_cross_entropy() -> None:
    loss = roi_score_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_score_loss_without_rois_is_zero() -> None:
    assert roi_score_loss(torch.zeros(0), torch.zeros(0)).item() == 0


def test_a_lesion_trains_the_box_of_its_class_alone() -> None:
    lesion = [1.0, 1, 1, 5, 5, 5]
    targets = level_targets([[lesion, lesion]], [np.array([0, 2])], 3, (4, 4, 4), (2, 2, 2), boxes_per_class=True)
    assert sorted(targets.box.tolist()) == [0, 2]
    heatmap = torch.zeros(1, 3, 4, 4, 4)
    sizes, offsets = (torch.zeros(1, 9, 4, 4, 4, requires_grad=True) for _ in range(2))
    losses = detection_losses([LevelOutput(heatmap, sizes, offsets)], [targets])
    (losses.size + losses.offset).backward()
    assert sizes.grad is not None
    assert sizes.grad.abs().sum(dim=(0, 2, 3, 4)).gt(0).tolist() == [True] * 3 + [False] * 3 + [True] * 3


def test_boxes_per_class_give_the_losses_of_single_boxes() -> None:
    random = torch.Generator().manual_seed(0)
    targets = level_targets([[[1.0, 1, 1, 5, 5, 5]]], [np.array([1])], 2, (4, 4, 4), (2, 2, 2), boxes_per_class=True)
    alone = level_targets([[[1.0, 1, 1, 5, 5, 5]]], [np.array([1])], 2, (4, 4, 4), (2, 2, 2))
    heatmap = torch.randn(1, 2, 4, 4, 4, generator=random)
    sizes, offsets = (torch.randn(1, 6, 4, 4, 4, generator=random) for _ in range(2))
    both = detection_losses([LevelOutput(heatmap, sizes, offsets)], [targets])
    single = detection_losses([LevelOutput(heatmap, sizes[:, 3:], offsets[:, 3:])], [alone])
    for first, second in zip(both, single, strict=True):
        torch.testing.assert_close(first, second)
