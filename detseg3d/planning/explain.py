"""Explain the decisions of the planner in words, each with the measurements behind it.

The texts are stored in ``plans.json`` and shown to users.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Spacing, Triple, format_shape, format_spacing
from detseg3d.core.precision import Precision
from detseg3d.planning.detection_grid import MIN_GAIN, Budget, Choice, GridOption, Limit, Requirements, prediction_gb
from detseg3d.planning.fingerprint import ChannelIntensities, Fingerprint, IntensityStatistics, ScanFingerprint
from detseg3d.planning.mirroring import ClassOrder
from detseg3d.planning.plans import Plans
from detseg3d.planning.recall_bound import CaseLesions, lesions_in_cells_of_other_classes
from detseg3d.planning.rules.backbone import FINE_UP_TO_CELLS
from detseg3d.planning.rules.ct_window import clipped_fraction
from detseg3d.planning.rules.curriculum import WINDOW_EDGES
from detseg3d.planning.rules.grids import ANISOTROPY, OUTLIER_VOLUME, SPARE_VOLUME, long_axes
from detseg3d.planning.rules.heads import LEVEL_CELLS, assign_levels, lesion_spans
from detseg3d.planning.rules.inference_limits import (
    CANDIDATES_PER_LESION,
    COMPONENT_PERCENTILE,
    MIN_COMPONENT_CELLS,
    MIN_COMPONENT_CELLS_UNLIKE,
    USUAL_PERCENTILE,
)
from detseg3d.planning.rules.length import MAX_STEPS, MIN_STEPS
from detseg3d.planning.rules.rois import MIN_EXTENT_VOXELS
from detseg3d.planning.rules.suppression import DISTANCES, OVERLAPS, Suppression
from detseg3d.planning.sections import (
    ChannelNormalization,
    CtNormalization,
    Decision,
    RoiPlan,
    Stage1Plan,
    Stage2Plan,
    TrainingPlan,
)
from detseg3d.planning.splits import FOLDS

_MAX_NAMES = 5

_AXES = ("z (inferior to superior)", "y (anterior to posterior)", "x (right to left)")


def explain_fine(spacings: Sequence[Sequence[float]], fine: Spacing) -> Decision:
    """Explain the spacing of the fine grid by the spacings of the training scans."""
    median = np.median(np.asarray(spacings, float), axis=0)
    low, high = np.min(spacings, axis=0), np.max(spacings, axis=0)
    reason = (
        f"The median spacing of {len(spacings)} cases is {format_spacing(median)} "
        f"(from {format_spacing(low)} to {format_spacing(high)})."
    )
    ordered = np.sort(median)
    if ordered[2] > ANISOTROPY * ordered[1]:
        reason += (
            f" One axis is {ordered[2] / ordered[1]:.1f}x coarser than the next, so this axis gets its 10th percentile."
        )
    return Decision(name="fine spacing", value=format_spacing(fine), reason=reason)


def explain_volume(cases: Sequence[ScanFingerprint], choice: Choice, needs: Requirements) -> list[Decision]:
    """Explain the planned volume, and name the scans that are larger."""
    volume, chosen = choice.chosen.volume, choice.chosen
    shapes = np.array([case.shape for case in cases], float)
    kept = np.array([case.cropped_shape for case in cases], float).prod(axis=1) / shapes.prod(axis=1)
    percentile = 99 if volume.percentile == 100 else volume.percentile
    reason = f"Each edge is the {percentile}th percentile of the scans."
    if volume.outliers:
        reason += (
            f" {_scans(volume.outliers)} with over {OUTLIER_VOLUME:g} times the voxels of the 90th percentile are left "
            "out, because the detection grid of all scans would become coarser."
        )
    if volume.percentile < 100:
        largest = choice.largest
        reason += (
            f" The largest volume, {format_shape(largest.volume.shape)}, would need a detection grid of "
            f"{format_spacing(largest.spacing)}. There, {_reach(largest)}. On the chosen grid, {_reach(chosen)}."
        )
    if choice.forgone is not None:
        other, scan = choice.forgone, max(needs.scans, key=lambda scan: scan.voxels)
        reason += (
            f" A volume of the {other.volume.percentile}th percentile, {format_shape(other.volume.shape)}, would allow "
            f"a grid of {format_spacing(other.spacing)} ({_reach(other)}). But then {scan.name} ({scan.header}) would "
            f"need {prediction_gb(needs, other, scan.shape):.3g} GB to predict. A higher --inference_gb allows it."
        )
    reason += f" The crop to the body keeps {kept.mean():.0%} of the voxels."
    decisions = [Decision(name="planned volume", value=format_shape(volume.shape) + " fine voxels", reason=reason)]
    larger = sorted((scan for scan in needs.scans if volume.cuts(scan.shape)), key=lambda scan: -scan.voxels)
    if larger:
        names = ", ".join(f"{scan.name} ({scan.header})" for scan in larger[:_MAX_NAMES])
        if len(larger) > _MAX_NAMES:
            names += f" and {len(larger) - _MAX_NAMES} more"
        most = prediction_gb(needs, chosen, larger[0].shape)
        reason = (
            f"These scans have over {SPARE_VOLUME - 1:.0%} more voxels than the planned volume: {names}. Training "
            "shows only parts of them, also in the phase of whole volumes. Prediction never cuts a scan. It reads the "
            f"header first and refuses a scan that needs more memory than is free. {larger[0].name} needs {most:.3g} "
            "GB above its input."
        )
        decisions.append(Decision(name="larger scans", value=f"{len(larger)} of {len(needs.scans)}", reason=reason))
    return decisions


def explain_precision(precision: Precision) -> Decision:
    """Explain the precision of the feature maps that the memory is planned for."""
    return Decision(
        name="precision",
        value=str(precision),
        reason=f"The memory is planned for feature maps with {precision.bytes_per_value} bytes per value. A training "
        "in another precision logs the memory that it needs.",
    )


def _scans(count: int) -> str:
    return "1 scan" if count == 1 else f"{count} scans"


def explain_normalization(
    normalization: Sequence[ChannelNormalization], channel_names: Sequence[str], intensity: Sequence[ChannelIntensities]
) -> list[Decision]:
    """Explain how each channel is normalised; ``intensity`` is that of the fingerprint's summary."""
    decisions = []
    for index, (chosen, name) in enumerate(zip(normalization, channel_names, strict=True)):
        if chosen.scheme == "ct":
            reason = _explain_window(chosen, intensity[index])
        elif chosen.scheme == "none":
            reason = "The name of the channel asks for it."
        else:
            reason = (
                "The intensities have no absolute scale. Each scan is normalised by its own mean and standard "
                "deviation inside the body, without outliers. Outliers are clipped."
            )
        decisions.append(Decision(name=f"normalisation of {name}", value=chosen.scheme, reason=reason))
    return decisions + _doubtful_names(normalization, channel_names)


def _explain_window(chosen: CtNormalization, measured: ChannelIntensities) -> str:
    """Explain where the window of a CT comes from, and which share of the body it clips."""
    lesions, body = _central_range(measured.lesions), _central_range(measured.body)
    source = "from the 0.5th to the 99.5th percentile of the body, because the lesions do not determine a window"
    if lesions is not None and chosen.lower <= lesions[0] and lesions[1] <= chosen.upper:
        if (chosen.lower, chosen.upper) == lesions:
            source = "from the 0.5th to the 99.5th percentile of the lesions"
        elif (chosen.lower, chosen.upper) != body and measured.body is not None:
            clipped = clipped_fraction(measured.body, *lesions)
            source = (
                f"the range of the lesions, [{lesions[0]:.0f}, {lesions[1]:.0f}], would clip {clipped:.0%} of the "
                "body, so the window also contains the quartiles of the body"
            )
    clipped = 0.0 if measured.body is None else clipped_fraction(measured.body, chosen.lower, chosen.upper)
    return (
        f"Hounsfield units have an absolute scale. The window is [{chosen.lower:.0f}, {chosen.upper:.0f}] ({source}). "
        f"It clips {clipped:.0%} of the body. The mean is {chosen.mean:.1f}, the standard deviation {chosen.std:.1f}."
    )


def _central_range(region: IntensityStatistics | None) -> tuple[float, float] | None:
    """Return the percentiles 0.5 and 99.5 of a region."""
    return None if region is None else (region.percentiles[0.5], region.percentiles[99.5])


def explain_mirroring(axes: Sequence[int], orders: Sequence[ClassOrder], class_names: Sequence[str]) -> Decision:
    """Explain along which axes windows are flipped, and which classes forbid the other axes."""
    value = f"along {' '.join('zyx'[axis] for axis in axes)}" if axes else "none"
    if len(axes) > 1:
        value += f"; at inference, one copy mirrored along {'zyx'[axes[-1]]}"
    if not orders:
        classes = (
            "There is 1 class" if len(class_names) == 1 else f"No two of the {len(class_names)} classes keep an order"
        )
        return Decision(name="mirroring", value=value, reason=f"{classes}, so no axis has a direction.")
    kept_orders = "; ".join(
        f"Along {_AXES[order.axis]}, {class_names[order.first]} comes before {class_names[order.second]} in "
        f"{order.agreeing} of {order.scans} scans"
        for order in orders
    )
    return Decision(name="mirroring", value=value, reason=f"{kept_orders}. A mirror image would show another anatomy.")


def _doubtful_names(normalization: Sequence[ChannelNormalization], channel_names: Sequence[str]) -> list[Decision]:
    """Warn of channels that seem to be CT but are not named "CT". As in nnU-Net, only the whole name counts."""
    warnings = []
    for index, (chosen, name) in enumerate(zip(normalization, channel_names, strict=True)):
        if chosen.scheme == "zscore" and "ct" in re.split(r"[^a-z0-9]+", name.lower()):
            reason = (
                f'Channel {index} is called "{name}", so each scan is normalised by its own mean and standard '
                'deviation. Only the name "CT" stands for Hounsfield units. If the channel has Hounsfield units, '
                "rename it to CT in dataset.json and plan again."
            )
            warnings.append(Decision(name="warning", value=f"is {name} a CT?", reason=reason))
    return warnings


def explain_stage2(roi: RoiPlan, stage2: Stage2Plan, fine: Spacing, largest: Triple) -> Decision:
    """Explain the strides, kernels and channels of the RoI network by the RoI size and the spacing."""
    long = long_axes(largest)
    flat = [axis for axis, k in zip("zyx", stage2.kernels[0], strict=True) if k == 1 and "zyx".index(axis) in long]
    reason = (
        f"An RoI is a box enlarged by {roi.margin:.0%} on each side. It measures at least "
        f"{format_spacing(roi.minimum_extent)} ({MIN_EXTENT_VOXELS} voxels of the finest axis), so small lesions are "
        "magnified."
    )
    if flat:
        reason += (
            f" Axis {' and '.join(flat)} is over 2x coarser than the finest axis ({format_spacing(fine)}). Its kernel "
            "is 1, and it is not pooled at first."
        )
    strides = " ".join(format_shape(stride) for stride in stage2.strides)
    channels = ", ".join(map(str, stage2.channels))
    return Decision(name="Stage 2", value=f"channels {channels}; strides {strides}", reason=reason)


def explain_detection(choice: Choice, needs: Requirements) -> Decision:
    """Explain the detection grid, and name the memory limit that forbids a finer grid."""
    chosen, finest, budget = choice.chosen, choice.finest, needs.budget
    volume = format_shape(chosen.volume.shape)
    limit = choice.limit(budget)
    if chosen.spacing == needs.fine:
        reason = f"This is the fine grid. The planned volume {volume} needs {_memory(chosen, budget)}."
    else:
        reason = (
            f"On the fine grid ({format_spacing(needs.fine)}), the planned volume {volume} would need "
            f"{_memory(finest, budget)}. On this grid it needs {chosen.training_gb:.2g} and "
            f"{chosen.inference_gb:.2g} GB."
        )
    reason += f" {limit.value[0].upper()}{limit.value[1:]} forbids a finer grid"
    flags = {Limit.TRAINING: "--training_gb", Limit.PREDICTION: "--inference_gb"}
    if limit in flags:
        reason += f" (flag {flags[limit]})"
    elif limit is Limit.BOTH:
        reason += " (flags --training_gb and --inference_gb)"
    return Decision(name="detection spacing", value=format_spacing(chosen.spacing), reason=f"{reason}.")


def _memory(option: GridOption, budget: Budget) -> str:
    return (
        f"{option.training_gb:.2g} GB to train (budget {budget.training_gb:g}) and {option.inference_gb:.2g} GB to "
        f"predict (limit {option.inference_limit_gb:.2g} above the input)"
    )


def _explain_fine_stage(choice: Choice, needs: Requirements) -> Decision:
    """Explain whether there is a stage at full resolution, and whether it carries a head."""
    name, limit = "fine stage", f"{FINE_UP_TO_CELLS:g}"
    extents, chosen, tried = needs.extents, choice.chosen, choice.full_head
    if len(extents) == 0:
        return Decision(name=name, value="none", reason="There is no lesion to measure.")
    if tried is not None and chosen is tried:
        return Decision(
            name=name,
            value=f"{chosen.stage1.channels[0]} channels at full resolution, with a head",
            reason=f"With the head, {_reach(chosen)}. Without the head, on a grid of "
            f"{format_spacing(choice.without_head.spacing)}, {_reach(choice.without_head)}. A gain of {MIN_GAIN:g} in "
            "the product is worth the longer training step.",
        )
    cell = chosen.stem_cell()
    median = float(np.median(lesion_spans(extents, cell, chosen.spacing)))
    reason = f"The median lesion spans {median:.2g} cells of the stem ({format_spacing(cell)})"
    value = "none"
    if chosen.fine_stage:
        value = f"{chosen.stage1.channels[0]} channels at full resolution"
        reason += f", at most {limit}"
    elif choice.wanted.fine_stage:
        reason += (
            f", at most {limit}. But with such a stage the network would need {_memory(choice.wanted, needs.budget)}"
        )
    elif chosen.full_head:
        reason += ". The stem already has full resolution"
    else:
        reason += f", more than {limit}"
    return Decision(name=name, value=value, reason=f"{reason}. {_why_no_full_head(choice, needs)}")


def _why_no_full_head(choice: Choice, needs: Requirements) -> str:
    chosen, tried = choice.chosen, choice.full_head
    result = f"With this network, {_reach(chosen)}"
    if chosen.full_head or tried is None:
        return f"{result}."
    limit = tried.refused_by(needs.budget)
    full = f"With a head at full resolution on a grid of {format_spacing(tried.spacing)}, {_reach(tried)}"
    if limit is Limit.NONE:
        return f"{result}. {full}. The product gains less than {MIN_GAIN:g}."
    return f"{result}. {full}. But it would need {_memory(tried, needs.budget)}, which {limit.value} forbids."


def _reach(option: GridOption) -> str:
    reach = option.reach
    return (
        f"{reach.spanning:.1%} of the lesions span a cell of their level; a lesion covers {reach.coverage:.3f} of a "
        f"cell on average (at most 1); the recall bound is {reach.bound.bound:.3f}, and the product of these two is "
        f"{reach.score:.3f}"
    )


def explain_network(choice: Choice, needs: Requirements) -> list[Decision]:
    """Explain the fine stage, the strides and the levels of the detector."""
    fine_stage = _explain_fine_stage(choice, needs)
    detection, extents = choice.chosen, needs.extents
    stage1, cells = detection.stage1, detection.cells()
    reason = f"{len(stage1.strides)} stages lead to cells of {format_spacing(cells[-1])}."
    long = long_axes(detection.volume.shape)
    flat = [axis for axis, k in zip("zyx", stage1.kernels[0], strict=True) if k == 1 and "zyx".index(axis) in long]
    if flat:
        reason += f" Axis {' and '.join(flat)} is over 2x coarser than the finest axis. {_pooled_when(stage1, flat)}"
    short = [
        f"{axis} ({n})" for axis, n in zip("zyx", detection.volume.shape, strict=True) if "zyx".index(axis) not in long
    ]
    if short:
        reason += f" Axis {' and '.join(short)} has too few voxels to be pooled."
    if max(detection.stem_stride) == 1:
        reason += " The stride of the stem is 1, because the volume is tiny and small lesions must span 2 cells."
    strides = Decision(
        name="Stage 1 strides", value=" ".join(format_shape(stride) for stride in stage1.strides), reason=reason
    )
    heads = [cells[stage] for stage in stage1.head_stages]
    value = ", ".join(f"stage {stage} (cells {format_spacing(cells[stage])})" for stage in stage1.head_stages)
    if len(extents) == 0:
        levels = Decision(
            name="head levels", value=value, reason="There is no lesion to measure, so there is one level."
        )
        return [fine_stage, strides, levels, _explain_dense(detection, needs.budget)]
    longest = extents.max(axis=1)
    level = assign_levels(extents, stage1.level_max_sizes)
    counts = np.bincount(level, minlength=len(heads))
    bounds = ", ".join(format_spacing(upper) for upper in stage1.level_max_sizes) or "none"
    reason = (
        f"The longest edges of {len(longest)} lesions have the percentiles 5/50/95 "
        + "/".join(f"{p:.3g}" for p in np.percentile(longest, (5, 50, 95)))
        + f" mm. A level takes lesions that span up to 8 of its cells (bounds: {bounds}). The levels get "
        + "/".join(map(str, counts))
        + " lesions."
    )
    # A fine stage without a head was never considered for a level.
    dropped = len(cells) - len(heads) - int(detection.fine_stage and stage1.head_stages[0] > 0)
    if dropped:
        reason += f" {dropped} level(s) are left out, because they would get no lesion or hardly any."
    levels = Decision(name="head levels", value=value, reason=reason)
    return [fine_stage, strides, levels, *_explain_boxes(choice.chosen, needs), _explain_dense(detection, needs.budget)]


def _explain_dense(option: GridOption, budget: Budget) -> Decision:
    """Explain whether Stage 1 has a dense map."""
    stage1, name = option.stage1, "dense map"
    if not stage1.dense_channels:
        reason = f"The network needs {_memory(option, budget)} without the map. With the map, it does not fit."
        return Decision(name=name, value="none", reason=reason)
    cell = option.cells()[stage1.head_stages[stage1.dense_level]]
    return Decision(
        name=name,
        value=f"{stage1.dense_channels} channels, cells {format_spacing(cell)}",
        reason="The map learns from every voxel of a lesion and not only from its centre. It also shows lesions that "
        f"are larger than those of the training. With the map, the network needs {_memory(option, budget)}.",
    )


def _explain_boxes(option: GridOption, needs: Requirements) -> list[Decision]:
    """Explain why each class has its own box in a cell. Empty if all classes share one box."""
    if not option.stage1.boxes_per_class:
        return []
    shared = lesions_in_cells_of_other_classes([scan.lesions for scan in needs.scans], option.levels(needs.fine))
    reason = f"{shared} lesions have their centre in a cell that contains the centre of a lesion of another class."
    return [Decision(name="boxes", value="one for each class in a cell", reason=reason)]


def _pooled_when(stage1: Stage1Plan, axes: Sequence[str]) -> str:
    """Describe how the network treats axes that are too coarse for the first kernels."""
    if any(stride["zyx".index(axis)] > 1 for axis in axes for stride in stage1.strides):
        return "It is pooled later and has kernel 1 until then."
    return "It has kernel 1 at first and too few slices to be pooled."


def explain_bound(plans: Plans, cells: Sequence[Sequence[float]], extents: npt.NDArray[np.float64]) -> Decision:
    """Explain the recall bound of Stage 1, and whether small lesions span enough cells."""
    bound = plans.recall_bound
    if bound.lesions == 0:
        return Decision(name="recall bound", value="unknown", reason="The training cases have no lesion.")
    cell = cells[plans.stage1.head_stages[0]]
    small = float(np.percentile(lesion_spans(extents, cell, plans.fine_spacing), 5))
    lost = [
        (bound.lost_below_cell, "smaller than the cell that they share with another lesion"),
        (bound.lost_same_cell, "in the same cell as another lesion"),
        (bound.lost_suppressed, "suppressed as duplicates of another lesion"),
        (bound.lost_over_limit, "beyond the limit of candidates"),
    ]
    losses = ", ".join(f"{count} {cause}" for count, cause in lost if count) or "none"
    reason = (
        f"A perfect Stage 1 finds {bound.found} of {bound.lesions} training lesions. Lost lesions: {losses}. "
        f"{bound.found_below_cell} of the found lesions are smaller than a cell (finest cell: "
        f"{format_spacing(cell)}) and therefore hard to learn. A 5th-percentile lesion spans {small:.2g} cells."
    )
    target = LEVEL_CELLS[0]
    if small < target:
        if max(plans.detection_scale) > 1 + 1e-6:
            cause = "The memory allows no finer grid (see detection spacing)."
        elif max(plans.stage1.cumulative_stride(plans.stage1.head_stages[0])) > 1:
            cause = "A head at full resolution is not worth its cost or does not fit (see fine stage)."
        else:
            cause = "The images are not finer."
        reason += f" It should span {target:g} cells. {cause}"
    return Decision(name="recall bound", value=f"{bound.bound:.3f}", reason=reason)


def explain_curriculum(plans: Plans) -> Decision:
    """Explain the phases of the training by the window sizes that were planned."""
    phases = plans.training.curriculum
    value = ", ".join(
        f"{phase.fraction:.0%} {'whole volumes' if phase.window is None else format_shape(phase.window)}"
        for phase in phases
    )
    if len(phases) == 1:
        reason = f"A window would be nearly as large as the planned volume {format_shape(plans.planned_shape)}."
    else:
        reason = (
            "The network learns fast from small windows around lesions. Whole volumes at the end reduce false "
            f"positives. Windows have edges of about {' and '.join(map(str, WINDOW_EDGES))} detection voxels, or more "
            "if a 95th-percentile lesion would fill half of a window. The planned volume has "
            f"{format_shape(plans.planned_shape)} fine voxels."
        )
    return Decision(name="curriculum", value=value, reason=reason)


def explain_length(training: TrainingPlan, cases: int, lesions: int) -> Decision:
    """Explain how many steps the training has."""
    return Decision(
        name="length of training",
        value=f"{training.steps} steps ({training.epochs} epochs of {training.steps_per_epoch})",
        reason=f"There are {cases} cases and {lesions} lesions. The number of steps is 1000 times the square root of "
        f"their sum, from {MIN_STEPS} to {MAX_STEPS}. detseg3d_train logs how many hours this takes. --max_minutes "
        "makes it shorter.",
    )


def explain_coarse_reading(plans: Plans) -> Decision:
    """Explain the second reading of Stage 1 at half resolution."""
    name, size = "coarse reading", plans.inference.coarse_reading_size
    if size is None:
        return Decision(name=name, value="none", reason="There is no lesion to measure.")
    work = 1 / math.prod(plans.stage1.coarse_factor)
    return Decision(
        name=name,
        value=f"for boxes larger than {format_spacing(size)}",
        reason=f"{USUAL_PERCENTILE} % of the training lesions are smaller, so the detector has seen few larger ones. "
        f"At half resolution, larger lesions look like the usual ones. This takes {work:.2g} of the time of the first "
        "reading.",
    )


def explain_components(plans: Plans) -> list[Decision]:
    """Explain which components of the dense map become candidates. Empty if none become candidates."""
    minimum, unlike = plans.inference.dense_minimum_mm3, plans.inference.dense_minimum_unlike_mm3
    if minimum is None or unlike is None:
        return []
    reason = (
        "A component of the dense map becomes a candidate if the boxes of lesions cover less than half of it. It must "
        f"be larger than {COMPONENT_PERCENTILE} % of the training lesions, and have at least {MIN_COMPONENT_CELLS} "
        "cells. Smaller components would add false positives. In a scan that is unlike the training scans, boxes miss "
        f"more lesions, so components from {MIN_COMPONENT_CELLS_UNLIKE} cells become candidates."
    )
    value = f"from {minimum:g} mm³; from {unlike:g} mm³ in a scan that is unlike the training scans"
    return [Decision(name="components of the dense map", value=value, reason=reason)]


def explain_candidates(plans: Plans, cases: Sequence[CaseLesions]) -> Decision:
    """Explain the limit of candidates of a scan."""
    inference = plans.inference
    usual = float(np.median([case.volume for case in cases]))
    return Decision(
        name="candidates",
        value=f"at most {inference.candidate_limit(usual)} in a scan of the usual volume",
        reason=f"A training case has up to {max(len(case) for case in cases)} lesions. An uncertain network needs "
        f"about {CANDIDATES_PER_LESION} candidates for each lesion, and every candidate costs time in Stage 2. The "
        f"limit is {inference.candidate_density:.3g} candidates per mm³ of a scan, at least "
        f"{inference.min_candidates} and at most {inference.max_candidates}, because masks take memory.",
    )


def explain_suppression(suppression: Suppression) -> Decision:
    """Explain when two candidates are taken for one lesion."""
    value = f"nearer than {suppression.distance:g} sizes, or IoU above {suppression.iou:g}"
    if suppression.lesions == 0:
        return Decision(
            name="suppression", value=value, reason="The training cases have no lesion, so the usual values are taken."
        )
    strictest = f"{DISTANCES[0]:g} sizes and IoU {OVERLAPS[0]:g}"
    reason = (
        f"Two candidates that are so similar are taken for one lesion. {suppression.lost} of {suppression.lesions} "
        "true lesions are as close to another lesion of their class."
    )
    if (suppression.distance, suppression.iou) != (DISTANCES[0], OVERLAPS[0]):
        reason += f" With the usual values ({strictest}), {suppression.lost_by_default} would be lost."
    return Decision(name="suppression", value=value, reason=reason)


def explain_data(fingerprint: Fingerprint, plans: Plans) -> list[Decision]:
    """Explain the lesions of this data set, and warn of problems of the data."""
    summary = fingerprint.summary
    decisions = []
    if len(plans.class_names) > 1:
        counts = ", ".join(f"{name}: {count}" for name, count in summary.lesions_per_class.items())
        decisions.append(
            Decision(
                name="classes",
                value=f"{len(plans.class_names)}, a class per lesion",
                reason=f"Number of lesions: {counts}.",
            )
        )
    if plans.inference.join_touching:
        count = summary.lesions
        reason = (
            f"The labels do not number their {count} lesions, so a lesion is a connected component (26 neighbours)."
        )
        decisions.append(Decision(name="touching masks", value="joined", reason=reason))
    missing = [name for name, count in summary.lesions_per_class.items() if count == 0]
    empty = summary.cases_without_lesions
    if summary.lesions == 0:
        message = (
            f"None of the {summary.cases} cases has a lesion. All sizes are guesses, and training learns no lesion."
        )
        decisions.append(Decision(name="warning", value="no lesions", reason=message))
    elif missing:
        message = f"No training case has a lesion of class {', '.join(missing)}, so it cannot be learned."
        decisions.append(Decision(name="warning", value="class without lesions", reason=message))
    decisions += _doubtful_cases(fingerprint, plans)
    if empty and summary.lesions:
        reason = f"{len(empty)} of {summary.cases} cases have no lesion. They are used as negative examples."
        decisions.append(Decision(name="cases without lesions", value=str(len(empty)), reason=reason))
    return decisions


def _doubtful_cases(fingerprint: Fingerprint, plans: Plans) -> list[Decision]:
    """Warn of classes in few cases, of images without content and of images that hold the label."""
    cases = fingerprint.cases
    warnings = []
    folds = min(FOLDS, len(cases))
    present = [{lesion.class_index for lesion in case.lesions} for case in cases.values()]
    for index, name in enumerate(plans.class_names):
        count = sum(index in classes for classes in present)
        if 0 < count < folds:
            reason = (
                f"Class {name} is in {count} of {len(cases)} cases, fewer than the {folds} folds. Some folds cannot "
                "validate it, and a fold that validates its only case does not train on it."
            )
            warnings.append(("class in few cases", reason))
    for index, name in enumerate(plans.channel_names):
        faults = {case: record.degenerate[index : index + 1] for case, record in cases.items()}
        named = {case: fault[0] for case, fault in faults.items() if fault and fault[0]}
        if named:
            case, fault = next(iter(named.items()))
            reason = f"Channel {name} carries no information in {_some(list(named))}. In {case}, {fault}."
            warnings.append(("channel without content", reason))
    labels = [case for case, record in cases.items() if record.image_is_label]
    if labels:
        reason = f"An image holds the label and nothing else in {_some(labels)}. A label may lie among the images."
        warnings.append(("image equal to its label", reason))
    return [Decision(name="warning", value=value, reason=reason) for value, reason in warnings]


def _some(cases: Sequence[str], limit: int = 5) -> str:
    """Return the number and the first names of cases, for a text."""
    more = f" and {len(cases) - limit} more" if len(cases) > limit else ""
    return f"{len(cases)} case{'' if len(cases) == 1 else 's'} ({', '.join(cases[:limit])}{more})"
