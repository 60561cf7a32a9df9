"""Check the rules that every plan must keep, from the fingerprint and the plans alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from benchmarks.survey.fingerprints import describe, draw_fingerprint
from benchmarks.survey.model import Kind, Rule
from detseg3d.core.arrays import AnyFloatArray
from detseg3d.core.tiles import tile_boxes
from detseg3d.planning.fingerprint import CaseFingerprint, Fingerprint
from detseg3d.planning.memory import inference_limit_gb
from detseg3d.planning.planner import plan_dataset
from detseg3d.planning.plans import Plans
from detseg3d.planning.recall_bound import case_lesions
from detseg3d.planning.rules.heads import assign_levels
from detseg3d.planning.rules.length import MAX_STEPS, MIN_STEPS

__all__ = [
    "PlannedKind",
    "Violation",
    "check",
    "check_outlier",
    "check_scale",
    "limited",
    "nnunet_spacing",
    "plan_kind",
]


MIN_BOUND = 0.99
MAX_SECONDS = 5.0  # Processor time of planning. Most plans take less than 0.5 s.
SPANS = (1.0, 16.0)  # Cells of its level that a lesion should span along the pooled axes.
LEVEL_FRACTION = 0.9  # Fraction of the lesions of a level that must span so many cells.
ROI_PERCENTILES = (5, 50, 75)
MIN_SAMPLES = 8.0  # Samples along the longest edge of a lesion, or SAMPLES_PER_VOXEL for each of its voxels.
SAMPLES_PER_VOXEL = 1.6
ONE_ROI_VOXELS = 48.0  # A lesion of up to 48 voxels along each axis must fit in one RoI.
MAX_ROIS = 64  # RoIs of a larger lesion: four along each axis.
GRID_TOLERANCE = 0.06  # One step of the spacings that the planner tries.
_MIN_CASES_FOR_OUTLIERS = 20


class PlannedKind(NamedTuple):
    """A kind of data set, its fingerprint, its plans, and the processor time of planning in seconds."""

    kind: Kind
    fingerprint: Fingerprint
    plans: Plans
    seconds: float


@dataclass(frozen=True)
class Violation:
    """A rule that a plan breaks, and the measured values."""

    rule: Rule
    description: str


def limited(kind: Kind, max_cases: int) -> Kind:
    """Return the kind with at most ``max_cases`` scans, for a quick look."""
    return replace(kind, cases=min(kind.cases, max_cases))


def plan_kind(kind: Kind) -> PlannedKind:
    """Draw the fingerprint of a kind and plan for it."""
    fingerprint, dataset = draw_fingerprint(kind), describe(kind)
    start = time.process_time()
    plans = plan_dataset(fingerprint, dataset)
    return PlannedKind(kind, fingerprint, plans, time.process_time() - start)


def nnunet_spacing(fingerprint: Fingerprint) -> tuple[float, float, float]:
    """Return the spacing that the published rule of nnU-Net gives for the full resolution.

    This is the median of each axis. If one axis is over 3 times coarser than the others and has less than a third of
    their voxels, this axis gets its 10th percentile, but not less than the coarser of the others (Isensee et al.,
    Nature Methods 2021, and the default experiment planner of nnU-Net 2).
    """
    cases = fingerprint.scans
    spacings = np.array([case.spacing for case in cases], np.float64)
    target = np.percentile(spacings, 50, axis=0)
    shape = np.percentile(np.array([case.cropped_shape for case in cases], np.float64), 50, axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(3) if axis != worst]
    coarser = float(target[others].max())
    if target[worst] > 3 * coarser and shape[worst] * 3 < shape[others].min():
        target[worst] = max(float(np.percentile(spacings[:, worst], 10)), coarser)
    z, y, x = target.tolist()
    return z, y, x


def check(planned: PlannedKind) -> list[Violation]:
    """Check all rules that need no second plan."""
    rules: tuple[tuple[Rule, Callable[[PlannedKind], str | None]], ...] = (
        (Rule.BOUND, _bound),
        (Rule.SMALLEST_CELL, _smallest_cell),
        (Rule.LEVELS, _levels),
        (Rule.ROI_MAGNIFICATION, _magnification),
        (Rule.ROI_IN_VOLUME, _roi_in_volume),
        (Rule.MEMORY, _memory),
        (Rule.STEPS, _steps),
        (Rule.CANDIDATES, _candidates),
        (Rule.TIME, _time),
    )
    found = ((rule, test(planned)) for rule, test in rules)
    return [Violation(rule, text) for rule, text in found if text is not None]


def check_outlier(planned: PlannedKind) -> list[Violation]:
    """Plan again with one more scan of nine times the volume and without lesions. The grid must not change."""
    cases = planned.fingerprint.cases
    if len(cases) < _MIN_CASES_FOR_OUTLIERS:
        return []
    largest = max(cases.values(), key=lambda case: math.prod(case.cropped_shape) * math.prod(case.spacing))
    # The scan has the planned spacing, so that it changes no median.
    spacing = planned.plans.fine_spacing
    edges = [n * old / new for n, old, new in zip(largest.cropped_shape, largest.spacing, spacing, strict=True)]
    shape = tuple(max(1, math.ceil(factor * n)) for factor, n in zip((4, 1.5, 1.5), edges, strict=True))
    outlier = largest.model_copy(
        update={
            "spacing": spacing,
            "shape": shape,
            "cropped_shape": shape,
            "crop_box": (0, 0, 0, *shape),
            "lesions": (),
        }
    )
    summary = planned.fingerprint.summary.model_copy(update={"cases": len(cases) + 1})
    fingerprint = planned.fingerprint.model_copy(update={"cases": {**cases, "outlier": outlier}, "summary": summary})
    plans = plan_dataset(fingerprint, describe(planned.kind))
    before, after = planned.plans.detection_spacing, plans.detection_spacing
    if np.allclose(before, after, rtol=GRID_TOLERANCE, atol=0):
        return []
    return [Violation(Rule.OUTLIER, f"{_text(before)} mm become {_text(after)} mm")]


def check_scale(planned: PlannedKind) -> list[Violation]:
    """Plan again with all lengths in another unit. Spacings must scale, and everything else must stay."""
    unit = 1e-3 if max(planned.plans.fine_spacing) > 1 else 1e3
    scaled = plan_dataset(_in_unit(planned.fingerprint, unit), describe(planned.kind))
    plans = planned.plans
    same = {
        "detection spacing": np.allclose(
            scaled.detection_spacing, np.array(plans.detection_spacing) * unit, rtol=1e-3, atol=0
        ),
        "strides": scaled.stage1.strides == plans.stage1.strides,
        "head levels": scaled.stage1.head_stages == plans.stage1.head_stages,
        "RoI size": scaled.roi.size == plans.roi.size,
        "windows": _same_windows(scaled, plans),
        "bound": math.isclose(scaled.recall_bound.bound, plans.recall_bound.bound, abs_tol=0.002),
    }
    return [Violation(Rule.SCALE, f"{name} changes with the unit") for name, equal in same.items() if not equal]


def _same_windows(first: Plans, second: Plans) -> bool:
    """Return whether two plans train on the same windows. Rounded spacings may make an edge one stride longer."""
    windows = [[phase.window or (0, 0, 0) for phase in plans.training.curriculum] for plans in (first, second)]
    return len(windows[0]) == len(windows[1]) and np.allclose(windows[0], windows[1], rtol=0.25)


def _in_unit(fingerprint: Fingerprint, unit: float) -> Fingerprint:
    """Return a fingerprint with all lengths multiplied by ``unit`` and all volumes by its cube.

    The percentiles of the summary stay as they are, because the planner does not read them.
    """

    def scale(lengths: Sequence[float]) -> tuple[float, ...]:
        return tuple(length * unit for length in lengths)

    def scale_case(case: CaseFingerprint) -> CaseFingerprint:
        lesions = tuple(
            lesion.model_copy(
                update={
                    "volume_mm3": lesion.volume_mm3 * unit**3,
                    "extents_mm": scale(lesion.extents_mm),
                    "diameter_mm": lesion.diameter_mm * unit,
                    "center_mm": scale(lesion.center_mm),
                    "nearest_mm": None if lesion.nearest_mm is None else lesion.nearest_mm * unit,
                }
            )
            for lesion in case.lesions
        )
        return case.model_copy(update={"spacing": scale(case.spacing), "lesions": lesions})

    return fingerprint.model_copy(
        update={"cases": {name: scale_case(case) for name, case in fingerprint.cases.items()}}
    )


def _text(values: Sequence[float]) -> str:
    return "×".join(f"{value:.3g}" for value in values)


def _cells(plans: Plans) -> AnyFloatArray:
    """Return the edges in mm of the cells of each head level, shape ``(levels, 3)``."""
    return np.array(plans.cell_sizes()) * np.array(plans.fine_spacing)


def _bound(planned: PlannedKind) -> str | None:
    bound = planned.plans.recall_bound
    if bound.bound >= MIN_BOUND:
        return None
    lost = f"below a cell {bound.lost_below_cell}, same cell {bound.lost_same_cell}, suppressed {bound.lost_suppressed}"
    return f"{bound.bound:.4f} of {bound.lesions} lesions; lost: {lost}, over the limit {bound.lost_over_limit}"


def _smallest_cell(planned: PlannedKind) -> str | None:
    extents = planned.fingerprint.lesion_extents
    if len(extents) == 0:
        return None
    span = float(np.percentile((extents / _cells(planned.plans)[0]).max(axis=1), 5))
    return None if span >= 1 - 1e-6 else f"{span:.2f} cells instead of 1"


def _levels(planned: PlannedKind) -> str | None:
    plans, extents = planned.plans, planned.fingerprint.lesion_extents
    if len(extents) == 0:
        return None
    cells, voxel = _cells(plans), np.array(plans.detection_spacing)
    level = assign_levels(extents, plans.stage1.level_max_sizes)
    for index, cell in enumerate(cells):
        edges = extents[level == index]
        if len(edges) == 0:
            return f"level {index} has no lesion"
        pooled = cell > 1.5 * voxel
        spans = (edges / cell)[:, pooled if pooled.any() else np.ones(3, bool)].max(axis=1)
        share = float(np.mean(spans >= SPANS[0] - 1e-6))
        if index and share < LEVEL_FRACTION:
            return f"level {index}: {1 - share:.0%} of {len(spans)} lesions are smaller than its cells"
        if float(np.mean(spans <= SPANS[1])) < LEVEL_FRACTION:
            return f"level {index}: the lesions span up to {spans.max():.0f} of its cells"
    return None


def _magnification(planned: PlannedKind) -> str | None:
    plans, extents = planned.plans, planned.fingerprint.lesion_extents
    if len(extents) == 0:
        return None
    voxels = extents / np.array(plans.fine_spacing)
    minimum = np.array(plans.roi.minimum_extent) / np.array(plans.fine_spacing)
    order = np.argsort(voxels.max(axis=1), kind="stable")
    for percentile in ROI_PERCENTILES:
        edges = voxels[order[round(percentile / 100 * (len(order) - 1))]]
        box = np.concatenate([np.zeros(3), edges])[None]
        tiles, _ = tile_boxes(box, plans.roi.margin, minimum, plans.roi.size, plans.roi.max_scale)
        if len(tiles) > (1 if edges.max() <= ONE_ROI_VOXELS else MAX_ROIS):
            return f"the {percentile}th percentile lesion of {_text(edges)} voxels takes {len(tiles)} RoIs"
        window = tiles[0, 3:] - tiles[0, :3]
        longest = int(edges.argmax())
        samples = edges[longest] / window[longest] * plans.roi.size[longest]
        wanted = min(MIN_SAMPLES, SAMPLES_PER_VOXEL * edges[longest], float(plans.roi.size[longest]))
        if samples < 0.95 * wanted:
            return f"{samples:.1f} samples for a lesion of {edges[longest]:.1f} voxels (percentile {percentile})"
    return None


def _roi_in_volume(planned: PlannedKind) -> str | None:
    size, shape = planned.plans.roi.size, planned.plans.planned_shape
    # A network needs at least four samples, and a multiple of four along pooled axes.
    if all(samples <= max(4, 4 * math.ceil(voxels / 4)) for samples, voxels in zip(size, shape, strict=True)):
        return None
    return f"RoIs of {_text(size)} samples in a volume of {_text(shape)} voxels"


def _memory(planned: PlannedKind) -> str | None:
    plans = planned.plans
    limit = inference_limit_gb(math.prod(plans.planned_shape), plans.num_channels)
    if plans.predicted_training_gb > plans.training_budget_gb + 1e-3:
        return f"training takes {plans.predicted_training_gb:.2f} of {plans.training_budget_gb:g} GB"
    if plans.predicted_inference_gb > limit + 1e-3:
        return f"prediction takes {plans.predicted_inference_gb:.2f} of {limit:.2f} GB"
    return None


def _steps(planned: PlannedKind) -> str | None:
    steps = planned.plans.training.steps
    return None if MIN_STEPS <= steps <= MAX_STEPS else f"{steps} steps"


def _candidates(planned: PlannedKind) -> str | None:
    inference = planned.plans.inference
    for name, scan in planned.fingerprint.cases.items():
        case = case_lesions(scan)
        limit = inference.candidate_limit(case.volume)
        if limit < len(case):
            return f"{limit} candidates for {len(case)} lesions in scan {name}"
    return None


def _time(planned: PlannedKind) -> str | None:
    return None if planned.seconds <= MAX_SECONDS else f"{planned.seconds:.1f} s"
