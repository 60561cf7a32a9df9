"""Choose the detection grid and the detector.

An option is a planned volume, a detection grid, and the strides and heads of the detector. Options are compared by the
memory that they need and by how well the lesions fit their cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from detseg3d.core.arrays import FloatArray, Spacing, Triple
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.planning.memory import (
    GIGABYTE,
    INFERENCE_GB,
    NetworkPlan,
    Region,
    inference_bytes,
    inference_limit_gb,
    planned_training_bytes,
)
from detseg3d.planning.recall_bound import (
    CaseLesions,
    DetectionLevels,
    lesions_in_cells_of_other_classes,
    recall_bound,
)
from detseg3d.planning.rules.backbone import (
    DENSE_CHANNELS,
    add_fine_stage,
    add_full_head,
    stage1_plan,
    wants_fine_stage,
)
from detseg3d.planning.rules.curriculum import choose_curriculum
from detseg3d.planning.rules.grids import PlannedVolume, coarser_spacings, long_axes
from detseg3d.planning.rules.heads import assign_levels, lesion_spans
from detseg3d.planning.sections import (
    CurriculumPhase,
    InferencePlan,
    RecallBound,
    RoiPlan,
    Stage1Plan,
    Stage2Plan,
    TrainingPlan,
)

__all__ = [
    "MIN_GAIN",
    "Budget",
    "Choice",
    "GridOption",
    "Limit",
    "Requirements",
    "Scan",
    "choose_detection",
    "prediction_gb",
]


MIN_GAIN = 0.01
"""Smallest gain in :attr:`Reach.score` for which a more expensive option is taken. The gain is 0.01 if, for example,
one lesion in fifty spanned half a cell before and spans a whole cell now. A head at full resolution makes a training
step about four times as long (docs/research_log), and a smaller planned volume cuts scans into parts."""
MAX_COARSENING_FOR_FULL_HEAD = math.sqrt(2)
"""Largest ratio of the voxel edges of a grid with a head at full resolution to those of the grid without this head. A
cell of the head is one voxel long instead of two, so it is still shorter by a factor of √2."""


@dataclass(frozen=True)
class Budget:
    """Memory in GB that a training step may use, and memory that a prediction may use above its input.

    ``precision`` is the precision of the feature maps in training and prediction, never ``AUTO``.
    """

    training_gb: float = 8.0
    inference_gb: float = INFERENCE_GB
    precision: Precision = Precision.BF16


class Limit(Enum):
    """The memory limit that an option exceeds."""

    NONE = "neither memory limit"
    TRAINING = "the memory for training"
    PREDICTION = "the memory for prediction"
    BOTH = "the memory for training and that for prediction"


@dataclass(frozen=True)
class Scan:
    """A training scan: name, size and spacing as text, shape in fine voxels, lesions."""

    name: str
    header: str
    shape: Triple
    lesions: CaseLesions

    @property
    def voxels(self) -> int:
        """Number of fine voxels."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Reach:
    """Fit of the lesions of a data set to the cells of an option.

    A lesion smaller than a cell of its level may be found, but a network learns it badly.

    Attributes
    ----------
    spanning : float
        Fraction of the lesions that span at least one cell.
    coverage : float
        Mean over the lesions of the fraction of a cell that each lesion spans, at most 1. Smaller cells raise the
        coverage even if they are still larger than the lesion.
    bound : RecallBound
        Lesions that a perfect Stage 1 finds.
    """

    spanning: float
    coverage: float
    bound: RecallBound

    @property
    def score(self) -> float:
        """The number by which options are compared: coverage times recall bound, because both must be high."""
        return self.coverage * self.bound.bound


_NO_LESIONS = Reach(1.0, 1.0, RecallBound(lesions=0, found=0, bound=1.0))


@dataclass(frozen=True)
class GridOption:
    """A detection grid with its detector, the memory that they need in GB, and how well the lesions fit them."""

    spacing: Spacing
    volume: PlannedVolume
    stage1: Stage1Plan
    curriculum: tuple[CurriculumPhase, ...]
    training_gb: float = math.inf
    inference_gb: float = math.inf
    inference_limit_gb: float = INFERENCE_GB
    fine_stage: bool = False  # True if a stage at full resolution lies in front of the stem
    reach: Reach = _NO_LESIONS  # measured only for the options that are compared

    @property
    def full_head(self) -> bool:
        """True if the finest head is at full resolution: its cells are the voxels of the detection grid."""
        return max(self.stage1.cumulative_stride(self.stage1.head_stages[0])) == 1

    @property
    def stem_stride(self) -> Triple:
        """Stride of the stem, which comes after the fine stage if there is one."""
        return self.stage1.strides[int(self.fine_stage)]

    def stem_cell(self) -> tuple[float, ...]:
        """Edges in mm of a cell of the stem."""
        return tuple(stride * length for stride, length in zip(self.stem_stride, self.spacing, strict=True))

    def cells(self) -> list[tuple[float, ...]]:
        """Edges in mm of a cell of each backbone stage."""
        return [
            tuple(stride * s for stride, s in zip(self.stage1.cumulative_stride(stage), self.spacing, strict=True))
            for stage in range(len(self.stage1.strides))
        ]

    def levels(self, fine_spacing: Spacing) -> DetectionLevels:
        """Return the cells of the heads."""
        cells = self.cells()
        heads = tuple((cells[stage][0], cells[stage][1], cells[stage][2]) for stage in self.stage1.head_stages)
        return DetectionLevels(fine_spacing, heads, self.stage1.level_max_sizes, self.stage1.boxes_per_class)

    def refused_by(self, budget: Budget) -> Limit:
        """Return the limit that the option exceeds."""
        training, prediction = self.training_gb > budget.training_gb, self.inference_gb > self.inference_limit_gb
        if training and prediction:
            return Limit.BOTH
        if training or prediction:
            return Limit.TRAINING if training else Limit.PREDICTION
        return Limit.NONE


@dataclass(frozen=True)
class Requirements:
    """Requirements of every option: the scans, the settings of the later stages, and the memory limits."""

    scans: Sequence[Scan]
    fine: Spacing
    roi: RoiPlan
    stage2: Stage2Plan
    training: TrainingPlan
    inference: InferencePlan
    num_channels: int
    class_names: Sequence[str]
    budget: Budget

    @property
    def extents(self) -> FloatArray:
        """Edges of all lesions' boxes in mm, shape ``(N, 3)``."""
        return np.concatenate([*(scan.lesions.extents for scan in self.scans), np.zeros((0, 3))])


@dataclass(frozen=True)
class Choice:
    """The option that was chosen, and the options that explain the choice."""

    chosen: GridOption
    wanted: GridOption  # on the same grid, with a fine stage if the lesions are small
    finest: GridOption  # the cheapest option on the fine grid
    refused: GridOption | None  # the cheapest option on the next finer grid, which needs too much memory, if any
    without_head: GridOption  # the option without a head at full resolution
    full_head: GridOption | None  # the option with such a head, if it was tried
    largest: GridOption  # the option for the largest planned volume
    forgone: GridOption | None = None  # better, for a smaller volume, but too large for the larger scans

    def limit(self, budget: Budget) -> Limit:
        """Return the memory limit that forbids a finer grid."""
        return Limit.NONE if self.refused is None else self.refused.refused_by(budget)


def choose_detection(needs: Requirements, volumes: Sequence[PlannedVolume]) -> Choice:
    """Choose the option for the data set.

    The first option is the finest detection grid that fits into the memory for the largest planned volume. It has a
    fine stage if the lesions are small and the stage fits into the memory. Two variants are compared with the first
    option by :attr:`Reach.score`: a head at full resolution, and a smaller planned volume. A variant is taken if its
    score is higher by at least 0.01. A smaller volume is taken only if the larger scans can still be predicted within
    the larger of the two memory limits.

    Parameters
    ----------
    needs : Requirements
    volumes : sequence of PlannedVolume
        From :func:`detseg3d.planning.rules.grids.planned_volumes`, the largest first.

    Returns
    -------
    Choice

    Raises
    ------
    DetSeg3DError
        If no detection grid fits for the largest planned volume.
    """
    largest = _choose_grid(needs, volumes[0])
    if isinstance(largest, GridOption):
        raise _no_grid(needs, largest)
    best = largest
    for volume in volumes[1:]:
        if best.chosen.reach.score > 1 - MIN_GAIN:
            break
        other = _choose_grid(needs, volume)
        if isinstance(other, GridOption) or other.chosen.reach.score < best.chosen.reach.score + MIN_GAIN:
            continue
        if _can_predict_usual_scans(needs, other.chosen):
            best = replace(other, largest=largest.chosen)
        else:
            best = replace(best, forgone=best.forgone or other.chosen)
    return best


def _can_predict_usual_scans(needs: Requirements, option: GridOption) -> bool:
    """Return whether all scans except outliers can be predicted within the larger of the two memory limits."""
    usual = sorted(needs.scans, key=lambda scan: scan.voxels)
    shape = usual[len(usual) - 1 - option.volume.outliers].shape
    allowed = max(needs.budget.training_gb, _limit_gb(needs, shape))
    return prediction_gb(needs, option, shape) <= allowed


def _choose_grid(needs: Requirements, volume: PlannedVolume) -> Choice | GridOption:
    """Return the choice for one planned volume, or the cheapest option that was tried if no option fits."""
    finest = refused = None
    for spacing in coarser_spacings(needs.fine, volume.shape):
        variants = [_assess(needs, option) for option in _variants(needs, volume, spacing)]
        finest = finest or variants[-1]
        fitting = [option for option in variants if option.refused_by(needs.budget) is Limit.NONE]
        if fitting:
            base = replace(fitting[0], reach=reach_of(needs, fitting[0]))
            choice = Choice(base, variants[0], finest, refused, base, None, base)
            return choice if base.reach.score > 1 - MIN_GAIN else _with_full_head(needs, choice)
        refused = variants[-1]
    assert refused is not None
    return refused


def _variants(needs: Requirements, volume: PlannedVolume, spacing: Spacing) -> Iterator[GridOption]:
    """Yield the detectors for one grid, the preferred one first: with a fine stage (if lesions are small), without."""
    extents = needs.extents
    stage1 = stage1_plan(spacing, _detection_shape(needs, volume.shape, spacing), extents)
    plain = GridOption(spacing, volume, stage1, _curriculum(needs, volume, spacing, stage1))
    if wants_fine_stage(stage1, spacing, extents):
        yield replace(plain, stage1=add_fine_stage(stage1), fine_stage=True)
    yield plain


def _with_full_head(needs: Requirements, choice: Choice) -> Choice:
    """Return the choice with a head at full resolution on the finest grid that fits, if this option is better."""
    base, tried = choice.chosen, None
    if base.full_head:
        return choice
    for spacing in coarser_spacings(needs.fine, base.volume.shape):
        ratios = [new / old for new, old in zip(spacing, base.spacing, strict=True)]
        if min(ratios) < 1 - 1e-6:
            continue
        if max(ratios) > MAX_COARSENING_FOR_FULL_HEAD:
            break
        shape = _detection_shape(needs, base.volume.shape, spacing)
        plain = stage1_plan(spacing, shape, needs.extents)
        stage1 = add_full_head(plain, spacing, needs.extents)
        curriculum = _curriculum(needs, base.volume, spacing, stage1)
        option = _assess(needs, GridOption(spacing, base.volume, stage1, curriculum, fine_stage=True))
        fits = option.refused_by(needs.budget) is Limit.NONE
        if fits or tried is None:
            option = replace(option, reach=reach_of(needs, option))
            tried = tried or option  # the finest
        if fits:
            if option.reach.score < base.reach.score + MIN_GAIN:
                return replace(choice, full_head=option)
            refused = choice.refused if tried is option else tried
            return replace(choice, chosen=option, full_head=option, refused=refused)
    return replace(choice, full_head=tried)


def _detection_shape(needs: Requirements, shape: Sequence[int], spacing: Spacing) -> list[int]:
    """Return the detection voxels ``(z, y, x)`` of a volume of ``shape`` fine voxels."""
    scale = [d / f for d, f in zip(spacing, needs.fine, strict=True)]
    return [max(1, math.ceil(n / s - 1e-6)) for n, s in zip(shape, scale, strict=True)]


def _curriculum(
    needs: Requirements, volume: PlannedVolume, spacing: Spacing, stage1: Stage1Plan
) -> tuple[CurriculumPhase, ...]:
    scale = [d / f for d, f in zip(spacing, needs.fine, strict=True)]
    long = long_axes(volume.shape)
    extents = needs.extents[:, long]
    large = float(np.percentile(extents.max(axis=1), 95)) if len(extents) else 0.0
    return choose_curriculum(spacing, scale, stage1.cumulative_stride(len(stage1.strides) - 1), volume.shape, large)


def _with_boxes_per_class(needs: Requirements, option: GridOption) -> GridOption:
    """Return the option with a box for each class if lesions of two classes share a cell in the data."""
    shared = lesions_in_cells_of_other_classes([scan.lesions for scan in needs.scans], option.levels(needs.fine))
    return replace(option, stage1=option.stage1.model_copy(update={"boxes_per_class": shared > 0}))


def _assess(needs: Requirements, option: GridOption) -> GridOption:
    """Return the option with the boxes of its cells, the memory that it needs, and a dense map if this map fits."""
    plain = _with_memory(needs, _with_boxes_per_class(needs, option))
    stage1 = plain.stage1.model_copy(update={"dense_channels": DENSE_CHANNELS})
    dense = _with_memory(needs, replace(plain, stage1=stage1))
    return dense if dense.refused_by(needs.budget) is Limit.NONE else plain


def _with_memory(needs: Requirements, option: GridOption) -> GridOption:
    """Return the option with the memory of its training and prediction."""
    shape = option.volume.shape
    scale = [d / f for d, f in zip(option.spacing, needs.fine, strict=True)]
    training = needs.training.model_copy(update={"curriculum": option.curriculum})
    taken = planned_training_bytes(_network(needs, option), training, shape, scale)
    return replace(
        option,
        training_gb=taken / GIGABYTE,
        inference_gb=prediction_gb(needs, option, shape),
        inference_limit_gb=_limit_gb(needs, shape),
    )


def prediction_gb(needs: Requirements, option: GridOption, shape: Sequence[int]) -> float:
    """Return the memory in GB above the input for predicting a scan of ``shape`` fine voxels."""
    cells = _detection_shape(needs, shape, option.spacing)
    return inference_bytes(_network(needs, option), Region(cells, math.prod(shape))) / GIGABYTE


def _network(needs: Requirements, option: GridOption) -> NetworkPlan:
    return NetworkPlan(
        option.stage1, needs.stage2, needs.roi, needs.num_channels, len(needs.class_names), needs.budget.precision
    )


def _limit_gb(needs: Requirements, shape: Sequence[int]) -> float:
    return inference_limit_gb(math.prod(shape), needs.num_channels, needs.budget.inference_gb)


def reach_of(needs: Requirements, option: GridOption) -> Reach:
    """Measure how well the lesions fit the cells of an option."""
    extents = needs.extents
    cases = [scan.lesions for scan in needs.scans]
    bound = recall_bound(cases, option.levels(needs.fine), needs.inference, needs.class_names)
    if len(extents) == 0:
        return Reach(1.0, 1.0, bound)
    spans = level_spans(needs.fine, option, extents)
    return Reach(float(np.mean(spans >= 1 - 1e-6)), float(np.minimum(spans, 1.0).mean()), bound)


def level_spans(fine: Spacing, option: GridOption, extents: FloatArray) -> FloatArray:
    """Count the cells that each lesion spans on the level that takes it.

    See :func:`detseg3d.planning.rules.heads.lesion_spans`.

    Parameters
    ----------
    fine : 3 floats
        Fine spacing in mm.
    option : GridOption
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.

    Returns
    -------
    ndarray of float, shape ``(N,)``
    """
    level = assign_levels(extents, option.stage1.level_max_sizes)
    cells = option.cells()
    spans = np.zeros(len(extents))
    for index, stage in enumerate(option.stage1.head_stages):
        is_on_level = level == index
        spans[is_on_level] = lesion_spans(extents[is_on_level], cells[stage], fine)
    return spans


def _no_grid(needs: Requirements, coarsest: GridOption) -> DetSeg3DError:
    """Return the error that no grid fits. The error names the largest scan, because its spacing may be wrong."""
    scan = max(needs.scans, key=lambda scan: scan.voxels)
    limit = coarsest.refused_by(needs.budget)
    flags = {
        Limit.TRAINING: "--training_gb",
        Limit.PREDICTION: "--inference_gb",
        Limit.BOTH: "--training_gb and --inference_gb",
        Limit.NONE: "--training_gb",
    }
    grid = "×".join(f"{length:.3g}" for length in coarsest.spacing)
    return DetSeg3DError(
        f"no detection grid fits into {needs.budget.training_gb:g} GB: the coarsest grid, {grid} mm, needs "
        f"{coarsest.training_gb:.1f} GB to train and {coarsest.inference_gb:.1f} GB to predict (limit "
        f"{coarsest.inference_limit_gb:.1f})",
        value=f"the largest scan, {scan.name}: {scan.header}",
        remedy=f"correct the spacing of this scan if it is wrong; otherwise raise {flags[limit]}",
    )
