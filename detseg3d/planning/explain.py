"""The planner's decisions in words, each with the figures behind it."""

from __future__ import annotations

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
from detseg3d.planning.rules.inference_limits import CANDIDATES_PER_LESION
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
        f"median spacing {format_spacing(median)} of {len(spacings)} cases "
        f"(from {format_spacing(low)} to {format_spacing(high)})"
    )
    ordered = np.sort(median)
    if ordered[2] > ANISOTROPY * ordered[1]:
        reason += f"; one axis is {ordered[2] / ordered[1]:.1f}x coarser than the next, so its 10th percentile counts"
    return Decision(name="fine spacing", value=format_spacing(fine), reason=reason)


def explain_volume(cases: Sequence[ScanFingerprint], choice: Choice, needs: Requirements) -> list[Decision]:
    """The planned volume, and which scans are larger."""
    volume, chosen = choice.chosen.volume, choice.chosen
    shapes = np.array([case.shape for case in cases], float)
    kept = np.array([case.cropped_shape for case in cases], float).prod(axis=1) / shapes.prod(axis=1)
    reason = "99th percentile" if volume.percentile == 100 else f"{volume.percentile}th percentile"
    reason += " of each axis"
    if volume.outliers:
        reason += (
            f" without {_scans(volume.outliers)} of over {OUTLIER_VOLUME:g} times the voxels of the 90th "
            "percentile, which would make the detection grid of all scans coarser"
        )
    if volume.percentile < 100:
        largest = choice.largest
        reason += (
            f"; the largest, {format_shape(largest.volume.shape)}, would need a detection grid of "
            f"{format_spacing(largest.spacing)}, on which {_reach(largest)}; here {_reach(chosen)}"
        )
    if choice.forgone is not None:
        other, scan = choice.forgone, max(needs.scans, key=lambda scan: scan.voxels)
        reason += (
            f"; planned for the {other.volume.percentile}th percentile, {format_shape(other.volume.shape)}, the grid "
            f"would be {format_spacing(other.spacing)} ({_reach(other)}), but then {scan.name} ({scan.header}) would "
            f"need "
            f"{prediction_gb(needs, other, scan.shape):.3g} GB to predict: --inference_gb allows it"
        )
    reason += f"; the crop to the body keeps {kept.mean():.0%} of the voxels"
    decisions = [Decision(name="planned volume", value=format_shape(volume.shape) + " fine voxels", reason=reason)]
    larger = sorted((scan for scan in needs.scans if volume.cuts(scan.shape)), key=lambda scan: -scan.voxels)
    if larger:
        names = ", ".join(f"{scan.name} ({scan.header})" for scan in larger[:_MAX_NAMES])
        if len(larger) > _MAX_NAMES:
            names += f" and {len(larger) - _MAX_NAMES} more"
        most = prediction_gb(needs, chosen, larger[0].shape)
        reason = (
            f"over {SPARE_VOLUME - 1:.0%} more voxels than the planned volume: {names}. Where training shows "
            "whole volumes, it shows parts of these. Prediction never cuts a scan: it reads the header first and "
            "refuses a scan that needs more memory than is free; "
            f"{larger[0].name} needs {most:.3g} GB above its input"
        )
        decisions.append(Decision(name="larger scans", value=f"{len(larger)} of {len(needs.scans)}", reason=reason))
    return decisions


def explain_precision(precision: Precision) -> Decision:
    """The precision of the feature maps that the memory is planned for."""
    return Decision(
        name="precision",
        value=str(precision),
        reason=f"the memory is planned for feature maps of {precision.bytes_per_value} bytes a value; a training in "
        "another precision says at its start what it will take",
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
            reason = "the channel's name asks for it"
        else:
            reason = (
                "intensities have no absolute scale: mean and standard deviation of each case inside the body, without "
                "outliers, which are cut off"
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
        f"It clips {clipped:.0%} of the body. The mean is {chosen.mean:.1f}, the standard deviation {chosen.std:.1f}"
    )


def _central_range(region: IntensityStatistics | None) -> tuple[float, float] | None:
    """Return the percentiles 0.5 and 99.5 of a region."""
    return None if region is None else (region.percentiles[0.5], region.percentiles[99.5])


def explain_mirroring(axes: Sequence[int], orders: Sequence[ClassOrder], class_names: Sequence[str]) -> Decision:
    """Along which axes windows are flipped, and which classes forbid the others."""
    value = f"along {' '.join('zyx'[axis] for axis in axes)}" if axes else "none"
    if not orders:
        classes = "1 class" if len(class_names) == 1 else f"{len(class_names)} classes, no two of which keep an order"
        return Decision(name="mirroring", value=value, reason=f"{classes}: nothing says that an axis has a direction")
    found = "; ".join(
        f"along {_AXES[order.axis]}, {class_names[order.first]} comes before {class_names[order.second]} in "
        f"{order.agreeing} of {order.scans} scans"
        for order in orders
    )
    return Decision(name="mirroring", value=value, reason=f"{found}: its mirror image would be another anatomy")


def _doubtful_names(normalization: Sequence[ChannelNormalization], channel_names: Sequence[str]) -> list[Decision]:
    """Warnings of channels that seem to be CT, but are not called just so: as in nnU-Net only the whole name counts."""
    warnings = []
    for index, (chosen, name) in enumerate(zip(normalization, channel_names, strict=True)):
        if chosen.scheme == "zscore" and "ct" in re.split(r"[^a-z0-9]+", name.lower()):
            reason = (
                f'channel {index} is called "{name}", so each case is normalised by its own mean and deviation; only '
                'the whole name "CT" means Hounsfield units: if the channel has them, rename it to CT in dataset.json '
                "and plan again"
            )
            warnings.append(Decision(name="warning", value=f"is {name} a CT?", reason=reason))
    return warnings


def explain_stage2(roi: RoiPlan, stage2: Stage2Plan, fine: Spacing, largest: Triple) -> Decision:
    """Explain the strides, kernels and channels of the RoI network by the RoI size and the spacing."""
    long = long_axes(largest)
    flat = [axis for axis, k in zip("zyx", stage2.kernels[0], strict=True) if k == 1 and "zyx".index(axis) in long]
    reason = (
        f"a RoI is a box grown by {roi.margin:.0%} a side and at least {format_spacing(roi.minimum_extent)}, "
        f"{MIN_EXTENT_VOXELS} voxels of the finest axis: small lesions are magnified"
    )
    if flat:
        reason += (
            f"; axis {' and '.join(flat)} is over 2x coarser ({format_spacing(fine)}): kernel 1, not pooled at first"
        )
    strides = " ".join(format_shape(stride) for stride in stage2.strides)
    channels = ", ".join(map(str, stage2.channels))
    return Decision(name="Stage 2", value=f"channels {channels}; strides {strides}", reason=reason)


def explain_detection(choice: Choice, needs: Requirements) -> Decision:
    """The detection grid, and which memory limit forbids a finer one."""
    chosen, finest, budget = choice.chosen, choice.finest, needs.budget
    volume = format_shape(chosen.volume.shape)
    limit = choice.limit(budget)
    if chosen.spacing == needs.fine:
        reason = f"the fine grid itself: the planned volume {volume} needs {_memory(chosen, budget)}"
    else:
        reason = (
            f"on the fine grid ({format_spacing(needs.fine)}) the planned volume {volume} would need "
            f"{_memory(finest, budget)}; "
            f"here it needs {chosen.training_gb:.2g} and {chosen.inference_gb:.2g} GB"
        )
    reason += f"; {limit.value} forbids a finer grid"
    flags = {Limit.TRAINING: "--memory_gb", Limit.PREDICTION: "--inference_gb"}
    if limit in flags:
        reason += f": {flags[limit]} raises it"
    elif limit is Limit.BOTH:
        reason += ": --memory_gb and --inference_gb raise them"
    return Decision(name="detection spacing", value=format_spacing(chosen.spacing), reason=reason)


def _memory(option: GridOption, budget: Budget) -> str:
    return (
        f"{option.training_gb:.2g} GB to train (budget {budget.training_gb:g}) and {option.inference_gb:.2g} GB to "
        f"predict (limit {option.inference_limit_gb:.2g} above the input)"
    )


def _explain_fine_stage(choice: Choice, needs: Requirements) -> Decision:
    """Whether there is a stage at full resolution, and whether it carries a head."""
    name, limit = "fine stage", f"{FINE_UP_TO_CELLS:g}"
    extents, chosen, tried = needs.extents, choice.chosen, choice.full_head
    if len(extents) == 0:
        return Decision(name=name, value="none", reason="no lesion to measure")
    if tried is not None and chosen is tried:
        return Decision(
            name=name,
            value=f"{chosen.stage1.channels[0]} channels at full resolution, with a head",
            reason=f"{_reach(chosen)}; without the head, on a grid of {format_spacing(choice.without_head.spacing)}, "
            f"{_reach(choice.without_head)}: a gain of {MIN_GAIN:g} in the product is worth the longer training step",
        )
    cell = chosen.stem_cell()
    median = float(np.median(lesion_spans(extents, cell, chosen.spacing)))
    reason = f"the median lesion spans {median:.2g} cells of the stem ({format_spacing(cell)})"
    value = "none"
    if chosen.fine_stage:
        value = f"{chosen.stage1.channels[0]} channels at full resolution"
        reason += f", at most {limit}"
    elif choice.wanted.fine_stage:
        reason += f", at most {limit}, but with such a stage it would take {_memory(choice.wanted, needs.budget)}"
    elif chosen.full_head:
        reason += ", which has full resolution itself"
    else:
        reason += f", more than {limit}"
    return Decision(name=name, value=value, reason=f"{reason}; {_why_no_full_head(choice, needs)}")


def _why_no_full_head(choice: Choice, needs: Requirements) -> str:
    chosen, tried = choice.chosen, choice.full_head
    if chosen.full_head or tried is None:
        return _reach(chosen)
    limit = tried.refused_by(needs.budget)
    full = f"with a head at full resolution on a grid of {format_spacing(tried.spacing)}, {_reach(tried)}"
    if limit is Limit.NONE:
        return f"{_reach(chosen)}; {full}: the product gains less than {MIN_GAIN:g}"
    return f"{_reach(chosen)}; {full}, but it would take {_memory(tried, needs.budget)}: {limit.value} forbids it"


def _reach(option: GridOption) -> str:
    reach = option.reach
    return (
        f"{reach.spanning:.1%} of the lesions span a cell of their level, a lesion covers {reach.coverage:.3f} of a "
        f"cell on average (at most 1), the recall bound is {reach.bound.bound:.3f}; their product is {reach.score:.3f}"
    )


def explain_network(choice: Choice, needs: Requirements) -> list[Decision]:
    """Fine stage, strides and levels of the detection network."""
    fine_stage = _explain_fine_stage(choice, needs)
    detection, extents = choice.chosen, needs.extents
    stage1, cells = detection.stage1, detection.cells()
    reason = f"{len(stage1.strides)} stages lead to cells of {format_spacing(cells[-1])}"
    long = long_axes(detection.volume.shape)
    flat = [axis for axis, k in zip("zyx", stage1.kernels[0], strict=True) if k == 1 and "zyx".index(axis) in long]
    if flat:
        reason += f"; axis {' and '.join(flat)} is over 2x coarser than the finest: {_pooled_when(stage1, flat)}"
    short = [
        f"{axis} ({n})" for axis, n in zip("zyx", detection.volume.shape, strict=True) if "zyx".index(axis) not in long
    ]
    if short:
        reason += f"; axis {' and '.join(short)} has too few voxels to be pooled"
    if max(detection.stem_stride) == 1:
        reason += "; stem stride 1: the volume is tiny and its small lesions would not span 2 cells otherwise"
    strides = Decision(
        name="Stage 1 strides", value=" ".join(format_shape(stride) for stride in stage1.strides), reason=reason
    )
    heads = [cells[stage] for stage in stage1.head_stages]
    value = ", ".join(f"stage {stage} (cells {format_spacing(cells[stage])})" for stage in stage1.head_stages)
    if len(extents) == 0:
        levels = Decision(name="head levels", value=value, reason="no lesion to measure: one level")
        return [fine_stage, strides, levels]
    longest = extents.max(axis=1)
    level = assign_levels(extents, stage1.level_max_sizes)
    counts = np.bincount(level, minlength=len(heads))
    bounds = ", ".join(format_spacing(upper) for upper in stage1.level_max_sizes) or "none"
    reason = (
        f"longest edges of {len(longest)} lesions, 5th/50th/95th percentile "
        + "/".join(f"{p:.3g}" for p in np.percentile(longest, (5, 50, 95)))
        + f" mm; a level takes lesions that span up to 8 of its cells (bounds: {bounds}), which gives "
        + "/".join(map(str, counts))
        + " lesions"
    )
    # A fine stage without a head is not one of the levels that could have been.
    dropped = len(cells) - len(heads) - int(detection.fine_stage and stage1.head_stages[0] > 0)
    if dropped:
        reason += f"; {dropped} level(s) dropped that would get no or hardly any lesion"
    levels = Decision(name="head levels", value=value, reason=reason)
    return [fine_stage, strides, levels, *_explain_boxes(choice.chosen, needs)]


def _explain_boxes(option: GridOption, needs: Requirements) -> list[Decision]:
    """Why each class has a box of its own in a cell, if it has."""
    if not option.stage1.boxes_per_class:
        return []
    shared = lesions_in_cells_of_other_classes([scan.lesions for scan in needs.scans], option.levels(needs.fine))
    reason = f"{shared} lesions have their centre in a cell that holds the centre of a lesion of another class"
    return [Decision(name="boxes", value="one for each class in a cell", reason=reason)]


def _pooled_when(stage1: Stage1Plan, axes: Sequence[str]) -> str:
    """What becomes of axes that are too coarse for the first kernels."""
    if any(stride["zyx".index(axis)] > 1 for axis in axes for stride in stage1.strides):
        return "pooled later, kernel 1 until then"
    return "kernel 1 at first, and too few slices to be pooled"


def explain_bound(plans: Plans, cells: Sequence[Sequence[float]], extents: npt.NDArray[np.float64]) -> Decision:
    """The bound of Stage 1's recall, and whether the target for small lesions is reached."""
    bound = plans.recall_bound
    if bound.lesions == 0:
        return Decision(name="recall bound", value="unknown", reason="the training cases have no lesion")
    cell = cells[plans.stage1.head_stages[0]]
    small = float(np.percentile(lesion_spans(extents, cell, plans.fine_spacing), 5))
    lost = [
        (bound.lost_below_cell, "smaller than the cell that they share with another"),
        (bound.lost_same_cell, "in the same cell as another"),
        (bound.lost_suppressed, "suppressed as a duplicate of another"),
        (bound.lost_over_limit, "beyond the limit of candidates"),
    ]
    losses = ", ".join(f"{count} {cause}" for count, cause in lost if count) or "none"
    reason = (
        f"a perfect Stage 1, decoded as planned, finds {bound.found} of {bound.lesions} training lesions; lost: "
        f"{losses}; {bound.found_below_cell} of the lesions found are smaller than a cell (finest: "
        f"{format_spacing(cell)}), which makes them hard to learn; a 5th-percentile lesion spans {small:.2g} cells"
    )
    target = LEVEL_CELLS[0]
    if small < target:
        if max(plans.detection_scale) > 1 + 1e-6:
            cause = "the memory allows no finer grid (see detection spacing)"
        elif max(plans.stage1.cumulative_stride(plans.stage1.head_stages[0])) > 1:
            cause = "a head at full resolution is not worth its cost, or does not fit (see fine stage)"
        else:
            cause = "the images themselves are no finer"
        reason += f" where {target:g} are wanted: {cause}"
    return Decision(name="recall bound", value=f"{bound.bound:.3f}", reason=reason)


def explain_curriculum(plans: Plans) -> Decision:
    """Explain the phases of the training by the window sizes that were planned."""
    phases = plans.training.curriculum
    value = ", ".join(
        f"{phase.fraction:.0%} {'whole volumes' if phase.window is None else format_shape(phase.window)}"
        for phase in phases
    )
    if len(phases) == 1:
        reason = f"a window would be nearly the whole of the planned volume {format_shape(plans.planned_shape)}"
    else:
        reason = (
            "small windows around lesions learn fast, whole volumes at the end unlearn false positives; windows have "
            f"about {' and '.join(map(str, WINDOW_EDGES))} detection voxels, more if a 95th-percentile "
            f"lesion would fill half of one; the planned volume has {format_shape(plans.planned_shape)} fine voxels"
        )
    return Decision(name="curriculum", value=value, reason=reason)


def explain_length(training: TrainingPlan, cases: int, lesions: int) -> Decision:
    """How many steps the training has."""
    return Decision(
        name="length of training",
        value=f"{training.steps} steps ({training.epochs} epochs of {training.steps_per_epoch})",
        reason=f"{cases} cases and {lesions} lesions: 1000 times the root of their sum, from {MIN_STEPS} to "
        f"{MAX_STEPS}; detseg3d_train says how many hours that takes, and --max_minutes fits it in less",
    )


def explain_candidates(plans: Plans, cases: Sequence[CaseLesions]) -> Decision:
    """The limit of candidates per scan."""
    inference = plans.inference
    usual = float(np.median([case.volume for case in cases]))
    return Decision(
        name="candidates",
        value=f"at most {inference.candidate_limit(usual)} in a scan of the usual volume",
        reason=f"a training case has up to {max(len(case) for case in cases)} lesions; a network that is not sure "
        f"needs about {CANDIDATES_PER_LESION} candidates for each, and every candidate costs Stage 2 time: "
        f"{inference.candidate_density:.3g} for each mm³ of a scan, but from {inference.min_candidates} to "
        f"{inference.max_candidates} (their masks take memory)",
    )


def explain_suppression(suppression: Suppression) -> Decision:
    """From which distance and overlap on two candidates are taken for one lesion."""
    value = f"nearer than {suppression.distance:g} sizes, or IoU above {suppression.iou:g}"
    if suppression.lesions == 0:
        return Decision(name="suppression", value=value, reason="the training cases have no lesion: usual values")
    strictest = f"{DISTANCES[0]:g} sizes and IoU {OVERLAPS[0]:g}"
    reason = (
        f"two candidates so much alike are taken for one lesion; {suppression.lost} of {suppression.lesions} true "
        f"lesions are as close to another of their class"
    )
    if (suppression.distance, suppression.iou) != (DISTANCES[0], OVERLAPS[0]):
        reason += f", and {suppression.lost_by_default} would be lost with the usual {strictest}"
    return Decision(name="suppression", value=value, reason=reason)


def explain_data(fingerprint: Fingerprint, plans: Plans) -> list[Decision]:
    """Warnings about the data, and what the classes mean."""
    summary = fingerprint.summary
    decisions = []
    if len(plans.class_names) > 1:
        counts = ", ".join(f"{name}: {count}" for name, count in summary.lesions_per_class.items())
        decisions.append(
            Decision(name="classes", value=f"{len(plans.class_names)}, a class per lesion", reason=f"lesions {counts}")
        )
    if plans.inference.join_touching:
        count = summary.lesions
        reason = f"the labels do not number their {count} lesions: a lesion is what is connected (26 neighbours)"
        decisions.append(Decision(name="touching masks", value="joined", reason=reason))
    missing = [name for name, count in summary.lesions_per_class.items() if count == 0]
    empty = summary.cases_without_lesions
    if summary.lesions == 0:
        message = f"none of the {summary.cases} cases has a lesion: sizes are guesses and training learns no lesion"
        decisions.append(Decision(name="warning", value="no lesions", reason=message))
    elif missing:
        message = f"no training case has a lesion of class {', '.join(missing)}: it cannot be learned"
        decisions.append(Decision(name="warning", value="class without lesions", reason=message))
    decisions += _doubtful_cases(fingerprint, plans)
    if empty and summary.lesions:
        reason = f"{len(empty)} of {summary.cases} cases have no lesion; they train and count as negatives"
        decisions.append(Decision(name="cases without lesions", value=str(len(empty)), reason=reason))
    return decisions


def _doubtful_cases(fingerprint: Fingerprint, plans: Plans) -> list[Decision]:
    """Warnings about classes in few cases, and about images that say nothing or too much."""
    cases = fingerprint.cases
    found = []
    folds = min(FOLDS, len(cases))
    present = [{lesion.class_index for lesion in case.lesions} for case in cases.values()]
    for index, name in enumerate(plans.class_names):
        count = sum(index in classes for classes in present)
        if 0 < count < folds:
            reason = (
                f"class {name} is in {count} of {len(cases)} cases, fewer than the {folds} folds: some folds cannot "
                "validate it, and a fold that validates its only case does not train on it"
            )
            found.append(("class in few cases", reason))
    for index, name in enumerate(plans.channel_names):
        faults = {case: record.degenerate[index : index + 1] for case, record in cases.items()}
        named = {case: fault[0] for case, fault in faults.items() if fault and fault[0]}
        if named:
            case, fault = next(iter(named.items()))
            reason = f"channel {name} says nothing in {_some(list(named))}; in {case} {fault}"
            found.append(("channel without content", reason))
    labels = [case for case, record in cases.items() if record.image_is_label]
    if labels:
        reason = f"the image says nothing but the label in {_some(labels)}: a label may lie among the images"
        found.append(("image equal to its label", reason))
    return [Decision(name="warning", value=value, reason=reason) for value, reason in found]


def _some(cases: Sequence[str], most: int = 5) -> str:
    """Number and first names of cases, for a text."""
    more = f" and {len(cases) - most} more" if len(cases) > most else ""
    return f"{len(cases)} case{'' if len(cases) == 1 else 's'} ({', '.join(cases[:most])}{more})"
