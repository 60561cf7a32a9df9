"""The sections of the plans: the settings of each part of the pipeline, with the range of every value."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from detseg3d.core.augmentation import Augmentation
from detseg3d.core.precision import Precision
from detseg3d.planning.limits import (
    MAX_STAGES,
    Axes,
    AxisLength,
    Channels,
    Count,
    FiniteFloat,
    Kernel,
    Length,
    RoiLength,
    Stride,
)
from detseg3d.planning.rules.length import MIN_STEPS, STEPS_PER_EPOCH
from detseg3d.planning.thresholds import NO_GROWTH, Thresholds

__all__ = [
    "ChannelNormalization",
    "CtNormalization",
    "CurriculumPhase",
    "Decision",
    "GroupRecall",
    "InferencePlan",
    "NoNormalization",
    "PositiveFloat",
    "RecallBound",
    "RoiPlan",
    "Spacing",
    "Stage1Plan",
    "Stage2Plan",
    "StrictModel",
    "TrainingPlan",
    "Triple",
    "ZScoreNormalization",
]


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
CandidateCount = Annotated[int, Field(ge=1, le=100_000)]
Spacing = tuple[Length, Length, Length]
Triple = tuple[AxisLength, AxisLength, AxisLength]
Strides = tuple[Stride, Stride, Stride]
Kernels = tuple[Kernel, Kernel, Kernel]


class StrictModel(BaseModel):
    """Base of all sections. It is immutable and refuses unknown keys, so that typing errors are noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Decision(StrictModel):
    """One choice of the planner, with its reason in words."""

    name: str = Field(
        description="Name of the choice.",
    )
    value: str = Field(
        description="Chosen value.",
    )
    reason: str = Field(
        description="Reason of the choice, with the measurements behind it.",
    )


class CtNormalization(StrictModel):
    """Normalisation of a CT: clip to ``lower`` and ``upper``, subtract ``mean``, divide by ``std``.

    All four values are in Hounsfield units and the same for all scans.
    """

    scheme: Literal["ct"] = "ct"
    mean: FiniteFloat = Field(
        description="Mean in Hounsfield units that is subtracted.",
    )
    std: PositiveFloat = Field(
        description="Standard deviation in Hounsfield units that values are divided by.",
    )
    lower: FiniteFloat = Field(
        description="Values below this limit, in Hounsfield units, are clipped.",
    )
    upper: FiniteFloat = Field(
        description="Values above this limit, in Hounsfield units, are clipped.",
    )

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> CtNormalization:
        if self.lower >= self.upper:
            raise ValueError(f"the window from {self.lower} to {self.upper} is empty")
        return self


class ZScoreNormalization(StrictModel):
    """Normalisation of each scan by its own mean and standard deviation in the body.

    Padding, air and outliers do not count, see :func:`detseg3d.core.intensities.intensity_scale`.
    """

    scheme: Literal["zscore"] = "zscore"


class NoNormalization(StrictModel):
    """No normalisation: the values are used as they are."""

    scheme: Literal["none"] = "none"


ChannelNormalization = Annotated[CtNormalization | ZScoreNormalization | NoNormalization, Field(discriminator="scheme")]
"""Normalisation of one input channel."""


class Stage1Plan(StrictModel):
    """Plan of the detector.

    Stage ``i`` of the backbone begins with a convolution of stride ``strides[i]``. The stem is the first stage with a
    stride above 1. A fine stage of stride 1 may precede it. Axes are ``(z, y, x)``.
    """

    channels: tuple[Channels, ...] = Field(
        min_length=1,
        max_length=MAX_STAGES,
        description="Number of channels of each stage of the backbone.",
    )
    strides: tuple[Strides, ...] = Field(
        min_length=1,
        max_length=MAX_STAGES,
        description=(
            "Stride (z, y, x) of the first convolution of each stage. The first stride above 1 belongs to the "
            "stem. A stage of stride 1 in front of the stem is the fine stage."
        ),
    )
    kernels: tuple[Kernels, ...] = Field(
        min_length=1,
        max_length=MAX_STAGES,
        description="Kernel size (z, y, x) of each stage of the backbone.",
    )
    blocks: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(
        min_length=1,
        max_length=MAX_STAGES,
        description="Number of residual blocks of each stage of the backbone.",
    )
    fpn_channels: Channels = Field(
        description="Number of channels of the feature pyramid and of the heads.",
    )
    head_stages: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1,
        description="Indices of the backbone stages that have a detection head, finest first.",
    )
    level_max_sizes: tuple[tuple[PositiveFloat, PositiveFloat, PositiveFloat], ...] = Field(
        description=(
            "For each pair of neighbouring levels, the largest lesion that the finer level takes: edges (z, y, "
            "x) in mm."
        ),
    )
    boxes_per_class: bool = Field(
        default=False,
        description=(
            "Each class has its own box in every cell. Planned if lesions of two classes have their centres in "
            "one cell, such as a core inside its oedema."
        ),
    )
    dense_channels: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=0,
        description=(
            "Number of channels of the dense map. The map gives the fraction of each cell that lesions fill, and so "
            "trains the detector on every voxel of a lesion. 0: no dense map."
        ),
    )

    @model_validator(mode="after")
    def _lengths_agree(self) -> Stage1Plan:
        lengths = {name: len(getattr(self, name)) for name in ("channels", "strides", "kernels", "blocks")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"one entry per stage expected in each of {lengths}")
        if list(self.head_stages) != sorted(set(self.head_stages)) or self.head_stages[-1] >= len(self.channels):
            raise ValueError(
                f"head_stages {self.head_stages} must ascend and name stages 0 to {len(self.channels) - 1}"
            )
        if len(self.level_max_sizes) != len(self.head_stages) - 1:
            raise ValueError("level_max_sizes needs one entry less than head_stages")
        for finer, coarser in pairwise(self.level_max_sizes):
            if any(upper < lower for lower, upper in zip(finer, coarser, strict=True)):
                raise ValueError(f"level_max_sizes {self.level_max_sizes} must not descend along any axis")
        return self

    @property
    def dense_level(self) -> int:
        """Level of the dense map: the finest level whose cells are larger than a voxel of the detection grid.

        A level at full resolution would take eight times the memory and time, and exact borders are the task of
        Stage 2.
        """
        larger = [level for level, stage in enumerate(self.head_stages) if max(self.cumulative_stride(stage)) > 1]
        return larger[0] if larger else len(self.head_stages) - 1

    @property
    def coarse_factor(self) -> tuple[int, int, int]:
        """Detection voxels ``(z, y, x)`` per voxel of the second reading: the stride of the stem.

        The stem leaves out axes that are already coarse. 1 along all axes if no stage pools.
        """
        return next((stride for stride in self.strides if max(stride) > 1), (1, 1, 1))

    def cumulative_stride(self, stage: int) -> tuple[int, int, int]:
        """Return the detection voxels ``(z, y, x)`` per cell of a backbone stage."""
        z, y, x = (math.prod(stride[axis] for stride in self.strides[: stage + 1]) for axis in range(3))
        return z, y, x


class RoiPlan(StrictModel):
    """Plan of the RoIs: how a box becomes the cube that Stage 2 sees."""

    size: tuple[RoiLength, RoiLength, RoiLength] = Field(
        description="Number of samples (z, y, x) of the cube in which Stage 2 sees a lesion.",
    )
    margin: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.3,
        description="Fraction of its size by which a box is enlarged on each side.",
    )
    minimum_extent: Spacing = Field(
        description=(
            "Smallest extent (z, y, x) in mm that an RoI shows. Small lesions are therefore magnified and shown "
            "with their surroundings."
        ),
    )
    max_scale: float = Field(
        default=1.5,
        ge=0.25,
        le=16,
        description="Largest number of fine voxels per sample. A box that would need more is covered by several RoIs.",
    )


class Stage2Plan(StrictModel):
    """Plan of the U-Net that segments an RoI. ``strides[i]`` is the stride from scale ``i`` to scale ``i + 1``."""

    channels: tuple[Channels, ...] = Field(
        min_length=2,
        max_length=MAX_STAGES,
        description="Number of channels of each scale of the U-Net, finest first.",
    )
    strides: tuple[Strides, ...] = Field(
        min_length=1,
        max_length=MAX_STAGES,
        description="Stride (z, y, x) from each scale to the next coarser scale.",
    )
    kernels: tuple[Kernels, ...] = Field(
        min_length=2,
        max_length=MAX_STAGES,
        description="Kernel size (z, y, x) of each scale.",
    )
    feature_channels: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=16,
        description=(
            "Number of channels of Stage 1 features that each RoI gets. 0: Stage 2 gets no features, and the two "
            "stages share nothing."
        ),
    )
    context_attention: bool = Field(
        default=False,
        description="RoIs attend to the coarse feature map of the whole volume.",
    )

    @model_validator(mode="after")
    def _lengths_agree(self) -> Stage2Plan:
        if len(self.strides) != len(self.channels) - 1 or len(self.kernels) != len(self.channels):
            raise ValueError("Stage 2 needs one kernel per scale and one stride between neighbouring scales")
        return self

    def feature_size(self, roi_size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the samples ``(z, y, x)`` of the Stage 1 features in an RoI: those of the second scale."""
        z, y, x = (size // stride for size, stride in zip(roi_size, self.strides[0], strict=True))
        return z, y, x


class CurriculumPhase(StrictModel):
    """A phase of the training with windows of one size."""

    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Fraction of the training time.",
    )
    window: Triple | None = Field(
        description="Edges (z, y, x) of the windows in voxels of the fine grid. null: whole volumes.",
    )


class TrainingPlan(StrictModel):
    """Plan of the training. Flags of ``detseg3d_train`` change some of the fields."""

    steps: Count = Field(
        default=MIN_STEPS,
        description="Length of the training in steps of the optimiser.",
    )
    steps_per_epoch: Count = Field(
        default=STEPS_PER_EPOCH,
        description="Number of steps between two records in the log. A checkpoint is written after each epoch.",
    )
    batch_size: Count = Field(
        default=1,
        description="Number of windows in a step.",
    )
    max_windows_per_case: Count = Field(
        default=16,
        description=(
            "A phase with small windows gets more steps than its fraction of the training: the fraction is multiplied "
            "by the number of windows in a typical scan. This field limits the factor."
        ),
    )
    learning_rate: PositiveFloat = Field(
        default=4e-3,
        description="Highest learning rate of AdamW. The rate rises linearly and then falls like a cosine.",
    )
    muon_lr_factor: Annotated[float, Field(ge=0, le=100)] = Field(
        default=2.5,
        description=(
            "Learning rate of Muon, which trains the kernels of the convolutions, as a multiple of "
            "`learning_rate`. 0: AdamW trains everything."
        ),
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=1e-4,
        description="Weight decay of both optimisers.",
    )
    warmup_fraction: Fraction = Field(
        default=0.02,
        description="Fraction of the training during which the learning rate rises.",
    )
    gradient_clip: PositiveFloat = Field(
        default=12.0,
        description="Largest norm of the gradient. A longer gradient is scaled down to it.",
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.998,
        description=(
            "Moving average of the weights, over about 1 / (1 - `ema_decay`) steps and never over more than 3 % "
            "of the training. 0: no average."
        ),
    )
    mask_loss_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="Weight of the mask loss in the total loss.",
    )
    score_loss_weight: Annotated[float, Field(ge=0)] = Field(
        default=0.25,
        description="Weight of the loss of the RoI score in the total loss.",
    )
    empty_roi_weight: float = Field(
        default=0.25,
        ge=0,
        description="Weight, in the mask loss, of an RoI that contains no lesion. RoIs with a lesion have weight 1.",
    )
    hard_negative_threshold: Fraction = Field(
        default=0.3,
        description="Candidates with a higher score that hit no lesion are hard negatives of Stage 2.",
    )
    min_rois_per_window: Count = Field(
        default=4,
        description="Smallest number of RoIs that a step draws from a window or a volume.",
    )
    roi_voxel_fraction: Fraction = Field(
        default=0.125,
        description=(
            "A larger window gets more RoIs, up to 32, until their samples add up to this fraction of its voxels."
        ),
    )
    positive_roi_fraction: Fraction = Field(
        default=0.5,
        description="Fraction of the RoIs of a step that contain a lesion.",
    )
    augmentation: Augmentation = Field(
        default=Augmentation.STANDARD,
        description=(
            "How much windows are changed: `none` (they are only flipped), `standard` (moderate changes) or `strong` "
            "(imitates other scanners, protocols and patients)."
        ),
    )
    mirror_axes: Axes = Field(
        default=(0, 1, 2),
        description=(
            "Axes along which half of the windows are flipped; 0 is z. Planned: axes along which no two classes "
            "keep an order in 95 % of ten scans or more."
        ),
    )
    curriculum: tuple[CurriculumPhase, ...] = Field(
        min_length=1,
        description="Phases of the training, in their order. Each phase has its own window size.",
    )
    val_every: Count = Field(
        default=10,
        description="Number of epochs from one validation to the next.",
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        description=(
            "Precision of the feature maps: `auto` (half precision if the hardware has it, otherwise `fp32`), "
            "`bf16`, `fp16` (CUDA only) or `fp32`."
        ),
    )
    precision_used: Precision | None = Field(
        default=None,
        description="Precision in which the training computed. The training writes this field.",
    )
    network: str | None = Field(
        default=None,
        description=(
            "Custom network, `module:function`; `detseg3d_train --network` sets it. `null`: DetSeg3D. The name "
            "is never imported unless the command names it as well."
        ),
    )
    mask_loss: str | None = Field(
        default=None,
        description="Custom mask loss, `module:function`; `detseg3d_train --loss` sets it.",
    )

    @property
    def epochs(self) -> int:
        """Number of epochs of the training. The last epoch may be shorter."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> TrainingPlan:
        total = sum(phase.fraction for phase in self.curriculum)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the fractions of the curriculum must sum to 1, found {total}")
        return self


class InferencePlan(Thresholds):
    """Plan of the inference: the thresholds and all other settings."""

    candidate_density: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Number of candidates that a scan may have per mm³ of its volume.",
    )
    min_candidates: CandidateCount = Field(
        default=100,
        description="Number of candidates that even the smallest scan may have.",
    )
    max_candidates: CandidateCount = Field(
        default=1000,
        description="Largest number of candidates, even in the largest scan.",
    )
    detection_weight: Fraction = Field(
        default=0.5,
        description="Weight *w* of Stage 1 in the score: heatmap^w × RoI score^(1 − w). 0.5 gives the geometric mean.",
    )
    join_touching: bool = Field(
        default=False,
        description=(
            "Each connected component of the masks of a class is one lesion, and detached parts are background. "
            "Planned if the labels do not number the lesions."
        ),
    )
    mirror_axes: Axes = Field(
        default=(2,),
        description=(
            "Axes of the mirrored copies of test-time augmentation; 0 is z. They must be among the axes of the "
            "training. One axis gives one copy, two axes 3, three axes 7. Planned: the last axis of the training."
        ),
    )
    coarse_reading_size: Spacing | None = Field(
        default=None,
        description=(
            "Stage 1 reads the volume a second time at half resolution, for boxes with an edge (z, y, x) in mm longer "
            "than this. Planned: the 95th percentile of the training lesions. null: no second reading."
        ),
    )
    dense_threshold: Fraction = Field(
        default=0.3,
        description="Lowest probability of a cell of the dense map that belongs to a component.",
    )
    dense_minimum_mm3: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description=(
            "Connected components of the dense map become candidates if they have at least this volume in mm³ and the "
            "boxes of lesions cover less than half of them. Planned: the 99th percentile of the training lesions. "
            "null: no component becomes a candidate."
        ),
    )
    dense_minimum_unlike_mm3: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description=(
            "The same for a scan that is unlike the training scans. Stage 2 trains on components from the smaller of "
            "both volumes. Planned: 12 cells of the dense map. null: as in other scans."
        ),
    )
    roi_batch_size: Count = Field(
        default=16,
        description=(
            "Number of RoIs that Stage 2 processes together. Planned: 16, or fewer if an RoI has over 32³ samples."
        ),
    )
    calibration: tuple[tuple[Fraction, Fraction], ...] = Field(
        default=(),
        description=(
            "Points that map a score to the observed fraction of true lesions, joined by straight lines. Empty "
            "until `detseg3d_consolidate` has fitted them."
        ),
    )
    calibration_base_rate: Fraction = Field(
        default=0.5,
        description="Fraction of true lesions among all predictions of the cross-validation.",
    )
    calibration_variance: float = Field(
        default=0.0,
        ge=0,
        description=(
            "Variance of the log-odds of the score of a single network, within true lesions and within false "
            "positives. It adapts the calibration of one network to an ensemble."
        ),
    )

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds alone. ``growth_threshold`` is ``NO_GROWTH`` if ``join_touching`` is off."""
        values = self.values()
        return Thresholds(**(values if self.join_touching else {**values, "growth_threshold": NO_GROWTH}))

    @property
    def smallest_component_mm3(self) -> float | None:
        """Volume in mm³ of the smallest component of the dense map in any scan; ``None`` if no scan has components."""
        volumes = [v for v in (self.dense_minimum_mm3, self.dense_minimum_unlike_mm3) if v is not None]
        return min(volumes, default=None)

    def for_unlike_scan(self) -> InferencePlan:
        """Return the plan of the inference for a scan that is unlike the training scans.

        Examples
        --------
        >>> plan = InferencePlan(dense_minimum_mm3=2000, dense_minimum_unlike_mm3=100)
        >>> plan.for_unlike_scan().dense_minimum_mm3, InferencePlan().for_unlike_scan().dense_minimum_mm3
        (100.0, None)
        """
        if self.dense_minimum_unlike_mm3 is None:
            return self
        return self.model_copy(update={"dense_minimum_mm3": self.dense_minimum_unlike_mm3})

    def candidate_limit(self, volume: float) -> int:
        """Return the number of candidates that a scan may have.

        Parameters
        ----------
        volume : float
            Volume in mm³ of the part of the scan that is predicted.

        Returns
        -------
        int

        Examples
        --------
        >>> plan = InferencePlan(candidate_density=0.01, min_candidates=50, max_candidates=400)
        >>> [plan.candidate_limit(volume) for volume in (1e3, 2e4, 1e6)]
        [50, 200, 400]
        """
        return min(max(math.ceil(self.candidate_density * volume), self.min_candidates), self.max_candidates)

    @model_validator(mode="after")
    def _calibration_keeps_the_order(self) -> InferencePlan:
        for axis in zip(*self.calibration, strict=True):
            if len(axis) < 2 or any(after <= before for before, after in pairwise(axis)):
                raise ValueError("the calibration needs two points or more, which ascend in both coordinates")
        return self


class GroupRecall(StrictModel):
    """Recall of a perfect Stage 1 on the training lesions of one class or one size class."""

    name: str = Field(
        description="Name of the class or of the size class.",
    )
    lesions: Annotated[int, Field(ge=0)] = Field(
        description="Number of training lesions in the group.",
    )
    found: Annotated[int, Field(ge=0)] = Field(
        description="Number of these lesions that a perfect Stage 1 finds.",
    )

    @property
    def bound(self) -> float:
        """Fraction of the lesions that are found; 1 if there is no lesion."""
        return self.found / self.lesions if self.lesions else 1.0


class RecallBound(StrictModel):
    """Number of training lesions that a perfect Stage 1 finds, and the reasons why it loses the others.

    Each lesion is counted once: ``lesions`` is the sum of ``found``, ``lost_below_cell``, ``lost_same_cell``,
    ``lost_suppressed`` and ``lost_over_limit``. See :func:`detseg3d.planning.recall_bound.recall_bound`.
    """

    lesions: Annotated[int, Field(ge=0)] = Field(
        description="Number of lesions of the training cases.",
    )
    found: Annotated[int, Field(ge=0)] = Field(
        description=(
            "Number of lesions that a perfect Stage 1 finds. The training targets are used as its output and are "
            "decoded and matched as planned."
        ),
    )
    found_below_cell: int = Field(
        default=0,
        ge=0,
        description="Number of found lesions that are smaller than a cell of their level. They are hard to learn.",
    )
    lost_below_cell: int = Field(
        default=0,
        ge=0,
        description="Number of lost lesions that are smaller than a cell and share their cell with another lesion.",
    )
    lost_same_cell: int = Field(
        default=0,
        ge=0,
        description=(
            "Number of lost lesions that are as large as a cell or larger and share their cell with another lesion."
        ),
    )
    lost_suppressed: int = Field(
        default=0,
        ge=0,
        description="Number of lost lesions that the suppression removes as duplicates of another lesion.",
    )
    lost_over_limit: int = Field(
        default=0,
        ge=0,
        description="Number of lost lesions beyond the limit of candidates of their scan.",
    )
    by_class: tuple[GroupRecall, ...] = Field(
        default=(),
        description="The numbers of lesions and of found lesions of each class.",
    )
    by_size: tuple[GroupRecall, ...] = Field(
        default=(),
        description=(
            "The numbers of lesions and of found lesions of each size class, by the voxels of a lesion in its scan."
        ),
    )
    bound: Fraction = Field(
        description="Fraction of the lesions that a perfect Stage 1 finds; 1 if there is no lesion.",
    )

    @model_validator(mode="after")
    def _every_lesion_is_counted_once(self) -> RecallBound:
        total = self.found + self.lost_below_cell + self.lost_same_cell + self.lost_suppressed + self.lost_over_limit
        if total != self.lesions:
            raise ValueError(f"{total} lesions are found or lost, but there are {self.lesions}")
        if self.found_below_cell > self.found:
            raise ValueError(f"{self.found_below_cell} of {self.found} lesions found are smaller than a cell")
        if abs(self.bound * self.lesions - self.found) > 1e-3 * max(self.lesions, 1):
            raise ValueError(f"a bound of {self.bound} does not fit {self.found} of {self.lesions} lesions")
        return self
