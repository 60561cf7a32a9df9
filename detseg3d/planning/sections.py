"""The sections of the plans: what each part of the pipeline needs, with the range of every value."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Immutable, and an unknown key is an error: a typo in a hand-edited plan must not pass silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Decision(StrictModel):
    """One choice of the planner and the figures behind it, for people to read."""

    name: str
    value: str
    reason: str


class CtNormalization(StrictModel):
    """Hounsfield units are absolute: clip to ``lower`` and ``upper``, subtract ``mean`` and divide by ``std``.

    All four are in Hounsfield units and the same for every scan.
    """

    scheme: Literal["ct"] = "ct"
    mean: FiniteFloat
    std: PositiveFloat
    lower: FiniteFloat
    upper: FiniteFloat

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> CtNormalization:
        if self.lower >= self.upper:
            raise ValueError(f"the window from {self.lower} to {self.upper} is empty")
        return self


class ZScoreNormalization(StrictModel):
    """Each scan by itself: subtract the mean of its body and divide by the standard deviation there.

    Padding, air and outliers do not count, see :func:`detseg3d.core.intensities.intensity_scale`.
    """

    scheme: Literal["zscore"] = "zscore"


class NoNormalization(StrictModel):
    """The channel is left as it is."""

    scheme: Literal["none"] = "none"


ChannelNormalization = Annotated[CtNormalization | ZScoreNormalization | NoNormalization, Field(discriminator="scheme")]
"""How one input channel is normalised."""


class Stage1Plan(StrictModel):
    """The detector. Stage ``i`` of the backbone begins with a convolution of stride ``strides[i]``.

    The stem has the first stride above 1; before it there may be a fine stage of stride 1, which carries no head. Axes
    are ``(z, y, x)``.
    """

    channels: tuple[Channels, ...] = Field(min_length=1, max_length=MAX_STAGES)
    strides: tuple[Strides, ...] = Field(min_length=1, max_length=MAX_STAGES)
    kernels: tuple[Kernels, ...] = Field(min_length=1, max_length=MAX_STAGES)
    blocks: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(min_length=1, max_length=MAX_STAGES)
    fpn_channels: Channels
    head_stages: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="backbone stages that carry a detection head, finest first"
    )
    level_max_sizes: tuple[tuple[PositiveFloat, PositiveFloat, PositiveFloat], ...] = Field(
        description="between neighbouring levels: the largest lesion (edges z, y, x in mm) that the finer level takes"
    )
    boxes_per_class: bool = Field(
        default=False,
        description="each class has a box of its own in a cell; planned where lesions of two classes share one",
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

    def cumulative_stride(self, stage: int) -> tuple[int, int, int]:
        """Detection-grid voxels per cell of backbone stage ``stage``, ``(z, y, x)``."""
        z, y, x = (math.prod(stride[axis] for stride in self.strides[: stage + 1]) for axis in range(3))
        return z, y, x


class RoiPlan(StrictModel):
    """How a box becomes the cube that Stage 2 sees."""

    size: tuple[RoiLength, RoiLength, RoiLength]
    margin: Annotated[float, Field(ge=0, le=2)] = 0.3
    minimum_extent: Spacing = Field(description="millimetres (z, y, x): smaller boxes are seen with this much context")
    max_scale: float = Field(
        default=1.5, ge=0.25, le=16, description="fine voxels per RoI sample beyond which a box is covered by several"
    )


class Stage2Plan(StrictModel):
    """The RoI U-Net; ``strides[i]`` leads from scale ``i`` to the next coarser scale ``i + 1``."""

    channels: tuple[Channels, ...] = Field(min_length=2, max_length=MAX_STAGES)
    strides: tuple[Strides, ...] = Field(min_length=1, max_length=MAX_STAGES)
    kernels: tuple[Kernels, ...] = Field(min_length=2, max_length=MAX_STAGES)
    feature_channels: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=16, description="channels of live Stage 1 features given to each RoI; 0 cuts the two stages apart"
    )
    context_attention: bool = False

    @model_validator(mode="after")
    def _lengths_agree(self) -> Stage2Plan:
        if len(self.strides) != len(self.channels) - 1 or len(self.kernels) != len(self.channels):
            raise ValueError("Stage 2 needs one kernel per scale and one stride between neighbouring scales")
        return self


class CurriculumPhase(StrictModel):
    """A share of the training time on windows of one size, in fine voxels; ``None`` stands for whole volumes."""

    fraction: Annotated[float, Field(gt=0, le=1)]
    window: Triple | None


class TrainingPlan(StrictModel):
    """Defaults of the training; flags of ``detseg3d_train`` set some of them."""

    steps: Count = MIN_STEPS
    steps_per_epoch: Count = STEPS_PER_EPOCH
    batch_size: Count = 1
    max_windows_per_case: Count = 16
    learning_rate: PositiveFloat = 4e-3
    muon_lr_factor: Annotated[float, Field(ge=0, le=100)] = 2.5
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_fraction: Fraction = 0.02
    gradient_clip: PositiveFloat = 12.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    mask_loss_weight: Annotated[float, Field(ge=0)] = 1.0
    score_loss_weight: Annotated[float, Field(ge=0)] = 0.25
    empty_roi_weight: float = Field(default=0.25, ge=0, description="in the masks' loss; with a lesion it weighs 1")
    hard_negative_threshold: Fraction = 0.3
    min_rois_per_window: Count = 4
    roi_voxel_fraction: Fraction = Field(
        default=0.125, description="more RoIs, up to this share of the window in samples"
    )
    positive_roi_fraction: Fraction = Field(default=0.5, description="share of the RoIs of a step that hold a lesion")
    augmentation_factor: float = Field(default=1.0, ge=0, le=2, description="how often windows are more than flipped")
    mirror_axes: Axes = Field(default=(0, 1, 2), description="along which windows are flipped, 0 is z; none: ()")
    curriculum: tuple[CurriculumPhase, ...] = Field(min_length=1)
    val_every: Count = 10
    precision: Precision = Field(default=Precision.AUTO, description="of the feature maps; auto: what is fast here")
    precision_used: Precision | None = Field(
        default=None, description="written by a training: what auto meant there, or what it fell back to"
    )
    network: str | None = Field(
        default=None,
        description="Custom network, `module:function`; `detseg3d_train --network` sets it.",
    )
    mask_loss: str | None = Field(
        default=None, description="Custom mask loss, `module:function`; `detseg3d_train --loss` sets it."
    )

    @property
    def epochs(self) -> int:
        """Epochs of the training; the last one may be shorter."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> TrainingPlan:
        total = sum(phase.fraction for phase in self.curriculum)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the curriculum must sum to 1, found {total}")
        return self


class InferencePlan(Thresholds):
    """Settings of the inference: the thresholds, and what they are applied to."""

    candidate_density: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="candidates that a scan may have for each mm³ of its volume"
    )
    min_candidates: CandidateCount = Field(default=100, description="so many a scan may have, however small it is")
    max_candidates: CandidateCount = Field(default=1000, description="more no scan may have, however large it is")
    detection_weight: Fraction = Field(
        default=0.5, description="of Stage 1 in the score: heatmap^w × RoI score^(1 - w); 0.5 is the geometric mean"
    )
    join_touching: bool = Field(default=False, description="masks of a class that are connected are one lesion")
    mirror_axes: Axes = Field(default=(0, 1, 2), description="of the mirrored copies, each flipped in training, too")
    roi_batch_size: Count = 16
    calibration: tuple[tuple[Fraction, Fraction], ...] = Field(
        default=(),
        description="from score to the observed share of true lesions, joined by straight lines; empty: none",
    )
    calibration_base_rate: Fraction = Field(default=0.5, description="share of lesions among all that was predicted")
    calibration_variance: float = Field(
        default=0.0, ge=0, description="of the log-odds of a single network's score, within lesions and within others"
    )

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds alone. ``growth_threshold`` is ``NO_GROWTH`` if ``join_touching`` is off."""
        values = self.values()
        return Thresholds(**(values if self.join_touching else {**values, "growth_threshold": NO_GROWTH}))

    def candidate_limit(self, volume: float) -> int:
        """How many candidates a scan may have.

        Parameters
        ----------
        volume : float
            mm³ of the scan, or of the part of it that is predicted.

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
                raise ValueError("the points of the calibration must be two or more and ascend in both coordinates")
        return self


class GroupRecall(StrictModel):
    """Recall of a perfect Stage 1 on some of the training lesions: those of a class, or of a size."""

    name: str
    lesions: Annotated[int, Field(ge=0)]
    found: Annotated[int, Field(ge=0)]

    @property
    def bound(self) -> float:
        """Share of the lesions that is found; 1 without any."""
        return self.found / self.lesions if self.lesions else 1.0


class RecallBound(StrictModel):
    """What a perfect Stage 1 finds of the training lesions, and why it loses the others.

    Each lesion is counted once: ``lesions`` is the sum of ``found``, ``lost_below_cell``, ``lost_same_cell``,
    ``lost_suppressed`` and ``lost_over_limit``. See :func:`detseg3d.planning.recall_bound.recall_bound`.
    """

    lesions: Annotated[int, Field(ge=0)]
    found: Annotated[int, Field(ge=0)]
    found_below_cell: int = Field(default=0, ge=0, description="found, but smaller than one cell of their level")
    lost_below_cell: int = Field(
        default=0, ge=0, description="lost: smaller than a cell, and another lesion has the cell"
    )
    lost_same_cell: int = Field(default=0, ge=0, description="lost: of a cell or more, and another lesion has the cell")
    lost_suppressed: int = Field(default=0, ge=0, description="lost: taken for a duplicate of another lesion")
    lost_over_limit: int = Field(default=0, ge=0, description="lost: more lesions than candidates in the scan")
    by_class: tuple[GroupRecall, ...] = ()
    by_size: tuple[GroupRecall, ...] = Field(default=(), description="by voxels of a lesion in its scan")
    bound: Fraction = Field(description="share of the lesions that is found; 1 without any lesion")

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
