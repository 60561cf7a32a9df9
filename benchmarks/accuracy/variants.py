"""The variants that are compared: what each changes in the plans, and why one might want it.

A variant is a mapping from a section of the plans to new values; what it does not name stays as the baseline has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy.mask_losses import blob_dice_ce, component_dice_ce
from detseg3d.models.detseg import DetSeg3D, MaskLoss
from detseg3d.models.networks.group_norm import GroupNorm
from detseg3d.models.networks.segmenter import Segmenter
from detseg3d.planning.mirroring import copied_axes
from detseg3d.planning.plans import Plans
from detseg3d.planning.rules.backbone import add_fine_stage
from detseg3d.planning.rules.heads import LEVEL_CELLS
from detseg3d.planning.rules.rois import requested_roi_size
from detseg3d.planning.rules.segmenter import stage2_plan

__all__ = ["VARIANTS", "Variant"]

Change = Callable[[Plans], Plans]


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes
    ----------
    question : str
        What it answers.
    changes : mapping
        Sections of the plans with the fields to replace.
    plan : callable
        For changes that depend on the data set's own plans.
    build_model : callable
        The network of a plan.
    """

    question: str
    changes: dict[str, Any] = field(default_factory=dict)
    plan: Change = lambda plans: plans
    build_model: Callable[[Plans], DetSeg3D] = DetSeg3D

    def apply(self, plans: Plans) -> Plans:
        """The plans of this variant."""
        return self.plan(plans).evolve(**self.changes)


def _training(question: str, **values: Any) -> Variant:
    return Variant(question, {"training": values})


def _mirrored(*axes: int) -> Variant:
    """Windows in training, and copies at inference, flipped along these axes only."""
    return Variant("mirroring", {"training": {"mirror_axes": axes}, "inference": {"mirror_axes": copied_axes(axes)}})


def _roi(edge: int) -> Change:
    def change(plans: Plans) -> Plans:
        size = requested_roi_size(edge, plans.fine_spacing, plans.planned_shape)
        shape = stage2_plan(size, plans.fine_spacing).model_dump(include={"channels", "strides", "kernels"})
        return plans.evolve(roi={"size": size}, stage2=shape)

    return change


def _extent(factor: float) -> Change:
    def change(plans: Plans) -> Plans:
        return plans.evolve(roi={"minimum_extent": [factor * extent for extent in plans.roi.minimum_extent]})

    return change


def _curriculum(*shares: float) -> Change:
    """Shares of the first and the last phase (and of one between, if there is one); 0 leaves a phase out."""

    def change(plans: Plans) -> Plans:
        phases = [phase.model_dump() for phase in plans.training.curriculum]
        chosen = [{**phase, "fraction": share} for phase, share in zip(phases, shares, strict=False) if share]
        return plans.evolve(training={"curriculum": chosen})

    return change


def _window(edge: int, per_case: int, rois: int) -> Change:
    """Another size of the smallest window, and as many of them as take the same time."""

    def change(plans: Plans) -> Plans:
        phases = [phase.model_dump() for phase in plans.training.curriculum]
        phases[0]["window"] = [edge] * 3
        budget = {"max_windows_per_case": per_case, "min_rois_per_window": rois}
        return plans.evolve(training={"curriculum": phases, **budget})

    return change


def _sizes(**shares: float) -> Change:
    """Windows of several sizes, one after the other: ``w32=0.5`` is half of the time on 32³, ``whole`` on volumes."""

    def change(plans: Plans) -> Plans:
        windows = {name: None if name == "whole" else [int(name[1:])] * 3 for name in shares}
        phases = [{"fraction": share, "window": windows[name]} for name, share in shares.items()]
        budget = {"max_windows_per_case": 32, "min_rois_per_window": 4}
        return plans.evolve(training={"curriculum": phases, **budget})

    return change


def _without_fine_stage(plans: Plans) -> Plans:
    stage1 = plans.stage1
    if max(stage1.strides[0]) > 1 or stage1.head_stages[0] == 0:
        return plans
    rest = {name: getattr(stage1, name)[1:] for name in ("channels", "strides", "kernels", "blocks")}
    return plans.evolve(stage1={**rest, "head_stages": tuple(stage - 1 for stage in stage1.head_stages)})


def _fine_stage(channels: int, head: bool = False) -> Change:
    """A stage at full resolution of this width, if wanted with a head of its own."""

    def change(plans: Plans) -> Plans:
        stage1 = add_fine_stage(_without_fine_stage(plans).stage1, channels)
        shape = stage1.model_dump()
        if head:
            cells = tuple(LEVEL_CELLS[1] * length for length in plans.detection_spacing)
            shape["head_stages"] = (0, *stage1.head_stages)
            shape["level_max_sizes"] = (cells, *stage1.level_max_sizes)
        return plans.evolve(stage1=shape)

    return change


def _narrow(factor: float) -> Change:
    def change(plans: Plans) -> Plans:
        return plans.evolve(
            stage1={
                "channels": tuple(8 * round(factor * n / 8) for n in plans.stage1.channels),
                "fpn_channels": 8 * round(factor * plans.stage1.fpn_channels / 8),
            }
        )

    return change


def _with_norm(make: Callable[[int], nn.Module]) -> Callable[[Plans], DetSeg3D]:
    """The network with other normalisation layers; those that begin at zero do so still."""

    def build(plans: Plans) -> DetSeg3D:
        model = DetSeg3D(plans)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, GroupNorm):
                    layer = make(len(child.weight))
                    layer.load_state_dict({"weight": child.weight, "bias": child.bias}, strict=False)
                    setattr(parent, name, layer)
        return model

    return build


def _instance_norm(channels: int) -> nn.Module:
    return nn.InstanceNorm3d(channels, affine=True)


def _wider(factor: float) -> Change:
    """Stage 2 with more channels at every scale. Its parameters grow with the square of the factor."""

    def change(plans: Plans) -> Plans:
        return plans.evolve(stage2={"channels": tuple(8 * round(factor * n / 8) for n in plans.stage2.channels)})

    return change


def _one_more_scale(plans: Plans) -> Plans:
    """Stage 2 with one more scale of 160 channels, which costs little because it has few samples."""
    stage2 = plans.stage2
    return plans.evolve(
        stage2={
            "channels": (*stage2.channels, 160),
            "strides": (*stage2.strides, (2, 2, 2)),
            "kernels": (*stage2.kernels, (3, 3, 3)),
        }
    )


class _CoreSegmenter(Segmenter):
    """Stage 2 that scores an RoI from the core of its mask, the samples of at least half the highest probability."""

    def mask_weight(self, mask: torch.Tensor) -> torch.Tensor:
        weight = super().mask_weight(mask)
        core = weight * (weight >= 0.5 * weight.amax(dim=1, keepdim=True))
        return core / core.sum(dim=1, keepdim=True)


def _score_from_core(plans: Plans) -> DetSeg3D:
    model = DetSeg3D(plans)
    segmenter = _CoreSegmenter(plans.stage2, plans.num_channels, plans.num_classes, plans.stage1.channels[-1])
    model.segmenter = segmenter.to(memory_format=torch.channels_last_3d)
    return model


def _with_mask_loss(loss: MaskLoss) -> Callable[[Plans], DetSeg3D]:
    return lambda plans: DetSeg3D(plans, mask_loss=loss)


VARIANTS: dict[str, Variant] = {
    "baseline": Variant("the plan as it is"),
    # Curriculum
    "small windows only": Variant("window curriculum", plan=_curriculum(1.0)),
    "whole volumes only": _training("window curriculum", curriculum=[{"fraction": 1.0, "window": None}]),
    "longer ending": Variant("window curriculum", plan=_curriculum(0.4, 0.25, 0.35)),
    "shorter ending": Variant("window curriculum", plan=_curriculum(0.75, 0.15, 0.1)),
    "windows of 64": Variant("size of the windows", plan=_window(64, 8, 6)),
    "windows of 48": Variant("size of the windows", plan=_window(48, 16, 4)),
    "windows of 32": Variant("size of the windows", plan=_window(32, 32, 3)),
    "32, 64, 96, whole": Variant("size of the windows", plan=_sizes(w32=0.35, w64=0.25, w96=0.25, whole=0.15)),
    "48, 64, 96, whole": Variant("size of the windows", plan=_sizes(w48=0.4, w64=0.2, w96=0.25, whole=0.15)),
    # Full resolution, heads, width
    "no fine stage": Variant("a stage at full resolution", plan=_without_fine_stage),
    "fine stage of 16": Variant("width of the stage at full resolution", plan=_fine_stage(16)),
    "fine head": Variant("finest head at stride 1", plan=_fine_stage(16, head=True)),
    "narrow": Variant("width of Stage 1", plan=_narrow(0.75)),
    # Optimisation
    "batch 1": _training("batch size", batch_size=1),
    "batch 2": _training("batch size", batch_size=2),
    "batch 4": _training("batch size", batch_size=4),
    "rate 1e-3, kernels 1e-2": _training("learning rate of AdamW", learning_rate=1e-3, muon_lr_factor=10.0),
    "half the rate": _training("learning rate", learning_rate=2e-3),
    "twice the rate": _training("learning rate", learning_rate=8e-3),
    "kernel rate 1": _training("rate of the kernels, the others 1e-3", learning_rate=1e-3, muon_lr_factor=1.0),
    "kernel rate 3": _training("rate of the kernels, the others 1e-3", learning_rate=1e-3, muon_lr_factor=3.0),
    "kernel rate 30": _training("rate of the kernels, the others 1e-3", learning_rate=1e-3, muon_lr_factor=30.0),
    "AdamW": _training("optimiser", learning_rate=1e-3, muon_lr_factor=0.0),
    "AdamW, rate 2e-3": _training("learning rate without Muon", learning_rate=2e-3, muon_lr_factor=0.0),
    "AdamW, rate 4e-3": _training("learning rate without Muon", learning_rate=4e-3, muon_lr_factor=0.0),
    "AdamW, rate 5e-4": _training("learning rate without Muon", learning_rate=5e-4, muon_lr_factor=0.0),
    "no average": _training("moving average of the weights", ema_decay=0.0),
    "no augmentation": _training("augmentation", augmentation="none"),
    "strong augmentation": _training("augmentation", augmentation="strong"),
    "no mirroring": _mirrored(),
    "mirroring of all axes": _mirrored(0, 1, 2),
    "batch norm": Variant("normalisation", build_model=_with_norm(nn.BatchNorm3d)),
    "instance norm": Variant("normalisation", build_model=_with_norm(_instance_norm)),
    # Stage 2
    "RoI 24": Variant("RoI size", plan=_roi(24)),
    "RoI 32": Variant("RoI size", plan=_roi(32)),
    "extent 8": Variant("context of small lesions", plan=_extent(8 / 12)),
    "extent 16": Variant("context of small lesions", plan=_extent(16 / 12)),
    "image only": Variant("input of Stage 2", {"stage2": {"feature_channels": 0}}),
    "lambda 0.5": _training("weight of the masks", mask_loss_weight=0.5),
    "lambda 2": _training("weight of the masks", mask_loss_weight=2.0),
    "score weight 1": _training(
        "weight of the RoI score and of empty RoIs", score_loss_weight=1.0, empty_roi_weight=1.0
    ),
    "score weight 0.05": _training("weight of the RoI score", score_loss_weight=0.05),
    "more negatives": _training("hard negatives", positive_roi_fraction=0.25),
    "fewer negatives": _training("hard negatives", positive_roi_fraction=0.75),
    "RoIs alike": _training("RoIs of larger windows", roi_voxel_fraction=0.0),
    "more RoIs": _training("RoIs of larger windows", roi_voxel_fraction=0.5),
    "12 RoIs": _training("RoIs of a step", min_rois_per_window=12),
    "3 RoIs": _training("RoIs of a step", min_rois_per_window=3),
    "Stage 2, one more scale": Variant("capacity of Stage 2", plan=_one_more_scale),
    "Stage 2 wider, 1.5": Variant("capacity of Stage 2", plan=_wider(1.5)),
    "Stage 2 wider, 2.4": Variant("capacity of Stage 2", plan=_wider(2.4)),
    "score of the core": Variant("score of small lesions", build_model=_score_from_core),
    "blob loss": Variant("mask loss", build_model=_with_mask_loss(blob_dice_ce)),
    "loss per component": Variant("mask loss", build_model=_with_mask_loss(component_dice_ce)),
    "attention": Variant("context attention", {"stage2": {"context_attention": True}}),
    # Inference
    "detection weight 0.7": Variant("how the scores combine", {"inference": {"detection_weight": 0.7}}),
    "detection weight 0.3": Variant("how the scores combine", {"inference": {"detection_weight": 0.3}}),
}
