"""The terms of the loss of the two-stage network, and the stages that each term trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg3d.models.detseg import DetSeg3D, Losses
from detseg3d.models.objectives.losses import roi_mask_loss
from detseg3d.planning.plans import Plans
from tests.models.factory import LESIONS, SHAPE, gradients, make_model, make_targets, train


def test_the_segmentation_loss_alone_reaches_every_stage_of_the_backbone(model: DetSeg3D) -> None:
    train(model, [make_targets(SHAPE, LESIONS)]).segmentation.backward()
    assert all(gradients(stage) > 0 for stage in model.detector.stages)


def test_without_feature_channels_the_stages_share_no_gradient(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, stage2={"feature_channels": 0})
    train(model, [make_targets(SHAPE, LESIONS)]).segmentation.backward()
    assert gradients(model.detector) == 0 and gradients(model.segmenter) > 0


def test_the_detection_losses_do_not_train_stage_2(model: DetSeg3D) -> None:
    losses = train(model, [make_targets(SHAPE, LESIONS)])
    (losses.heatmap + losses.size + losses.offset).backward()
    assert gradients(model.segmenter) == 0 and gradients(model.detector) > 0


def test_a_batch_without_lesions_gives_finite_losses_and_gradients(model: DetSeg3D) -> None:
    losses = train(model, [make_targets(SHAPE, []), make_targets(SHAPE, [])])
    losses.total(1.0, 1.0).backward()
    assert all(part.isfinite() for part in losses)
    assert losses.size == 0 and losses.offset == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_lesions_that_fill_the_volume_give_finite_losses(model: DetSeg3D) -> None:
    losses = train(model, [make_targets((8, 8, 8), [[0, 0, 0, 8, 8, 8]])])
    assert all(part.isfinite() for part in losses)


def test_every_parameter_takes_part_in_the_total(model: DetSeg3D) -> None:
    train(model, [make_targets(SHAPE, LESIONS)]).total(1.0, 1.0).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_total_weighs_the_segmentation() -> None:
    parts = Losses(*(torch.tensor(float(value)) for value in (1, 2, 4, 8, 16, 32)))
    assert parts.total(0.5, 0.25).item() == 1 + 2 + 4 + 8 + 0.5 * 16 + 0.25 * 32


def test_without_a_dense_map_its_loss_is_zero(model: DetSeg3D) -> None:
    assert train(model, [make_targets(SHAPE, LESIONS)]).dense == 0
    assert not [name for name, _ in model.named_parameters() if "dense" in name]


def test_the_loss_of_the_dense_map_trains_the_map_and_the_backbone(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, stage1={"dense_channels": 4})
    train(model, [make_targets(SHAPE, LESIONS)] * 2).dense.backward()
    assert model.detector.dense is not None and gradients(model.detector.dense) > 0
    assert all(gradients(stage) > 0 for stage in model.detector.stages)
    assert gradients(model.segmenter) == 0 and gradients(model.detector.heads) == 0


def test_an_roi_without_a_lesion_weighs_less_in_the_masks_loss(tiny_plans: Plans) -> None:
    # A mask loss of 1 for every RoI: what is left is the mean of the weights. Two hold a lesion, two do not.
    def masks_loss(weight: float) -> float:
        plans = tiny_plans.evolve(
            training={"empty_roi_weight": weight, "min_rois_per_window": 4, "positive_roi_fraction": 0.5}
        )
        model = DetSeg3D(plans, mask_loss=lambda logits, target, weight: torch.ones(len(logits)))
        return train(model, [make_targets(SHAPE, LESIONS)]).segmentation.item()

    assert [masks_loss(weight) for weight in (1.0, 0.5, 0.0)] == pytest.approx([1.0, 0.75, 0.5])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 2), (1.0, 3)])
def test_the_number_of_rois_of_a_window_follows_from_roi_voxel_fraction(
    tiny_plans: Plans, share: float, expected: int
) -> None:
    # 24 × 20 × 22 voxels are 2.6 RoIs of 16³ samples.
    plans = tiny_plans.evolve(
        roi={"size": (16, 16, 16)}, training={"min_rois_per_window": 2, "roi_voxel_fraction": share}
    )
    seen = []

    def mask_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return roi_mask_loss(logits, target, weight)

    train(DetSeg3D(plans, mask_loss), [make_targets(SHAPE, LESIONS)])
    assert seen == [expected]


def test_the_same_seed_gives_the_same_losses(model: DetSeg3D) -> None:
    targets = [make_targets(SHAPE, LESIONS)]
    assert torch.stack(list(train(model, targets, 3))).equal(torch.stack(list(train(model, targets, 3))))


def test_several_channels_and_classes_train(tiny_plans: Plans) -> None:
    model = make_model(
        tiny_plans,
        channel_names=["T1", "FLAIR"],
        normalization=[{"scheme": "none"}] * 2,
        class_names=["a", "b", "c"],
        class_labels=[1, 2, 3],
        stage1={"dense_channels": 4},
    )
    losses = train(model, [make_targets(SHAPE, LESIONS, [2, 0, 2])])
    losses.total(1.0, 1.0).backward()
    assert all(part.isfinite() and part > 0 for part in losses)


def test_a_few_steps_lower_every_part_of_the_loss(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, stage1={"dense_channels": 4})
    targets = [make_targets((16, 16, 16), [[4, 4, 4, 9, 9, 9]])]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    history = []
    for step in range(25):
        losses = train(model, targets, step)
        optimizer.zero_grad()
        losses.total(1.0, 1.0).backward()
        optimizer.step()
        history.append([part.item() for part in losses])
    first, last = np.mean(history[:5], axis=0), np.mean(history[-5:], axis=0)
    assert np.all(last < first)
