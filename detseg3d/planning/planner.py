"""The planner: fingerprint in, plans out, each decision with the figures behind it. Needs no GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.raw_dataset import RawDataset
from detseg3d.planning import explain, roi_rules, rules
from detseg3d.planning.explain import Detection
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION
from detseg3d.planning.memory import GIGABYTE, inference_bytes, inference_limit_gb, training_bytes
from detseg3d.planning.orientation import find_class_orders, undirected_axes
from detseg3d.planning.plans import (
    ChannelNormalization,
    CurriculumPhase,
    Decision,
    InferencePlan,
    Plans,
    RoiPlan,
    Stage2Plan,
    TrainingPlan,
)
from detseg3d.planning.recall_bound import CaseLesions, case_lesions, recall_bound

__all__ = ["choose_normalization", "plan_dataset"]

# Hounsfield units; lesions of a few voxels, or of one value, do not say where a scan may be cut off.
_NARROWEST_WINDOW = 10.0

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class _Lesions:
    """The lesions of the set as arrays, one entry per case. Lengths in mm, axes ``(z, y, x)``."""

    centers: list[npt.NDArray[np.float64]]
    extents: list[npt.NDArray[np.float64]]
    classes: list[npt.NDArray[np.int64]]
    volumes: npt.NDArray[np.float64]  # mm³, of all cases

    @property
    def all_extents(self) -> npt.NDArray[np.float64]:
        return np.concatenate([*self.extents, np.zeros((0, 3))])


def plan_dataset(
    fingerprint: dict[str, Any],
    dataset: RawDataset,
    memory_gb: float = 8.0,
    roi_size: int | Sequence[int] | None = None,
    image_order: int = 1,
) -> Plans:
    """Plan the pipeline of a data set.

    Parameters
    ----------
    fingerprint : dict
        From :func:`detseg3d.planning.fingerprint.measure_dataset`.
    dataset : RawDataset
        For names, labels and file ending.
    memory_gb : float, optional
        Memory that training may take.
    roi_size : int or 3 ints, optional
        Overrides the planned RoI: samples along the finest axis, or per axis.
    image_order : {1, 3}, optional
        Interpolation of images: linear or cubic.

    Returns
    -------
    Plans

    Raises
    ------
    DetSeg3DError
        If no detection grid fits into ``memory_gb``, or the fingerprint is not one of this version.

    Examples
    --------
    >>> plans = plan_dataset(measure_dataset(dataset), dataset)      # doctest: +SKIP
    >>> print(plans.decisions[0].because)                            # doctest: +SKIP
    """
    cases = list(_cases_of(fingerprint).values())
    lesions = _gather_lesions(cases)
    extents = lesions.all_extents
    decisions: list[Decision] = []
    spacings = [case["spacing"] for case in cases]
    fine = rules.choose_fine_spacing(spacings)
    decisions.append(explain.explain_fine(spacings, fine))
    largest = rules.planned_shape([case["cropped_shape"] for case in cases], spacings, fine)
    decisions.append(explain.explain_volume(cases, largest))
    orders = find_class_orders(lesions.centers, lesions.classes)
    mirror_axes = undirected_axes(orders)
    normalization = choose_normalization(fingerprint["summary"], dataset.channel_names)
    decisions += explain.explain_normalization(normalization, dataset.channel_names)
    roi, stage2, reasons = _plan_rois(extents, fine, roi_size)
    decisions += reasons
    training = TrainingPlan(
        curriculum=(CurriculumPhase(share=1.0, window=None),),
        rois_per_volume=roi_rules.choose_rois_per_volume(roi.size),
        mirror_axes=mirror_axes,
    )

    def try_spacing(spacing: Spacing) -> list[Detection]:
        return _assess(spacing, fine, largest, extents, roi, stage2, dataset, training)

    choice = _choose_detection(fine, try_spacing, memory_gb, _largest_case(fingerprint))
    detection = choice.chosen
    decisions.append(explain.explain_detection(detection, choice.finest, fine, largest, memory_gb))
    decisions += explain.explain_network(detection, choice.wanted, extents, memory_gb)
    measured = [case_lesions(case) for case in cases]
    inference = _plan_inference(lesions, measured, roi, dataset, mirror_axes)
    plans = Plans(
        **_identity(dataset),
        normalization=tuple(normalization),
        fine_spacing=fine,
        detection_spacing=detection.spacing,
        largest_shape=largest,
        image_order=3 if image_order == 3 else 1,
        stage1=detection.stage1,
        roi=roi,
        stage2=stage2,
        training=training.model_copy(update={"curriculum": detection.curriculum}),
        inference=inference,
        memory_budget_gb=memory_gb,
        predicted_training_gb=round(detection.training_gb, 3),
        predicted_inference_gb=round(detection.inference_gb, 3),
        recall_bound=recall_bound(measured, detection.levels(fine), inference, dataset.class_names),
    )
    decisions += [explain.explain_bound(plans, detection.cells(), extents), explain.explain_curriculum(plans)]
    decisions.append(explain.explain_mirroring(mirror_axes, orders, dataset.class_names))
    decisions.append(explain.explain_candidates(plans, measured))
    decisions += explain.explain_data(fingerprint, plans)
    return plans.evolve(decisions=[decision.model_dump() for decision in decisions])


def _plan_inference(
    lesions: _Lesions,
    cases: Sequence[CaseLesions],
    roi: RoiPlan,
    dataset: RawDataset,
    mirror_axes: tuple[int, ...],
) -> InferencePlan:
    """Room for the fullest scan; where labels do not number their lesions, a lesion is what is connected."""
    limit = rules.choose_candidate_limit([len(case) for case in cases], [case.volume for case in cases], roi.size)
    return InferencePlan(
        candidate_density=limit.density,
        min_candidates=limit.fewest,
        max_candidates=limit.most,
        join_touching=not dataset.instances,
        # What lies apart from a mask is more often a crumb than the smallest lesion ever seen.
        minimum_part_mm3=0.0 if dataset.instances else roi_rules.smallest_lesion(lesions.volumes),
        mirror_axes=mirror_axes,
        roi_batch_size=roi_rules.choose_roi_batch(roi.size),
    )


def _identity(dataset: RawDataset) -> dict[str, Any]:
    """What the plans repeat of the data set, so that they say by themselves what goes in and what comes out."""
    return {
        "dataset_name": dataset.name,
        "file_ending": dataset.file_ending,
        "channel_names": dataset.channel_names,
        "class_names": dataset.class_names,
        "class_labels": dataset.class_labels,
        "instances": dataset.instances,
        "npy_spacing": dataset.npy_spacing,
        "suv_channels": dataset.suv_channels,
    }


def _cases_of(fingerprint: dict[str, Any]) -> dict[str, Any]:
    cases = fingerprint.get("cases")
    if fingerprint.get("version") != FINGERPRINT_VERSION or not cases:
        raise DetSeg3DError(
            "the fingerprint cannot be used",
            value=f"version {fingerprint.get('version')}, {len(cases or ())} cases",
            expected=f"version {FINGERPRINT_VERSION} and at least one case",
            remedy="run detseg3d_plan_and_preprocess with --clean",
        )
    assert isinstance(cases, dict)
    return cases


def _gather_lesions(cases: Sequence[dict[str, Any]]) -> _Lesions:
    def collect(key: str) -> list[npt.NDArray[np.float64]]:
        return [np.array([lesion[key] for lesion in case["lesions"]], float).reshape(-1, 3) for case in cases]

    classes = [np.array([lesion["class"] for lesion in case["lesions"]], np.int64) for case in cases]
    volumes = np.array([lesion["volume_mm3"] for case in cases for lesion in case["lesions"]], float)
    return _Lesions(collect("center_mm"), collect("extents_mm"), classes, volumes)


def choose_normalization(summary: dict[str, Any], channel_names: Sequence[str]) -> list[ChannelNormalization]:
    """CT is clipped and scaled by the lesions' percentiles over the set, others by their own z-score.

    As in nnU-Net the whole name of the channel decides, upper and lower case alike: ``CT``, or ``noNorm`` for one that
    is left alone. Without any lesion CT takes the body's percentiles.

    Parameters
    ----------
    summary : dict
        Of the fingerprint.
    channel_names : sequence of str
    """
    chosen = []
    for index, name in enumerate(channel_names):
        if name.strip().lower() == "nonorm":
            chosen.append(ChannelNormalization(scheme="none"))
        elif name.strip().lower() == "ct":
            measured = summary["intensity"][f"{index}_{name}"]
            figures = measured["lesions"] or measured["body"]
            if figures["p99.5"] - figures["p0.5"] < _NARROWEST_WINDOW:
                figures = measured["body"]
            chosen.append(
                ChannelNormalization(
                    scheme="ct",
                    mean=figures["mean"],
                    std=max(figures["std"], 1e-3),
                    lower=figures["p0.5"],
                    upper=figures["p99.5"],
                )
            )
        else:
            chosen.append(ChannelNormalization(scheme="zscore"))
    return chosen


def _plan_rois(
    extents: npt.NDArray[np.float64], fine: Spacing, override: int | Sequence[int] | None
) -> tuple[RoiPlan, Stage2Plan, list[Decision]]:
    """The RoI, the network that reads it, and why."""
    size, because = _roi_size(extents, fine, override)
    roi, stage2 = roi_rules.roi_plan(size, fine), roi_rules.stage2_plan(size, fine)
    decision = Decision(name="RoI size", value=explain.times(size), because=because)
    return roi, stage2, [decision, explain.explain_stage2(roi, stage2, fine)]


def _roi_size(
    extents: npt.NDArray[np.float64], fine: Spacing, override: int | Sequence[int] | None
) -> tuple[Triple, str]:
    voxels = (extents / np.asarray(fine)).max(axis=1) if len(extents) else np.zeros(0)
    edge, large = roi_rules.choose_roi_edge(voxels)
    figures = "no lesion to measure"
    if len(voxels):
        largest = float(np.percentile(voxels, 95))
        figures = f"75 % of the lesions span up to {large:.1f} fine voxels, 95 % up to {largest:.1f}"
    if override is None:
        size = roi_rules.choose_roi_size(edge, fine)
        uneven = "" if len(set(size)) == 1 else f"; fewer along axes with coarser spacing ({explain.mm(fine)})"
        return size, figures + uneven
    if isinstance(override, int):
        size = roi_rules.choose_roi_size(override, fine)
    else:
        z, y, x = (int(n) for n in override)
        size = (z, y, x)
    if min(size) < 4 or max(size) > 128:
        raise DetSeg3DError("the RoI size is out of range", value=override, expected="4 to 128 samples an axis")
    return size, f"chosen by the user; {figures}, the rule says {explain.times(roi_rules.choose_roi_size(edge, fine))}"


def _assess(
    spacing: Spacing,
    fine: Spacing,
    largest: Triple,
    extents: npt.NDArray[np.float64],
    roi: RoiPlan,
    stage2: Stage2Plan,
    dataset: RawDataset,
    training: TrainingPlan,
) -> list[Detection]:
    """Network, windows and memory for one detection grid; where lesions are small, with a fine stage and without."""
    scale = [d / f for d, f in zip(spacing, fine, strict=True)]
    shape = [max(1, math.ceil(n / s - 1e-6)) for n, s in zip(largest, scale, strict=True)]
    stage1 = rules.stage1_plan(spacing, shape, extents)
    large = float(np.percentile(extents.max(axis=1), 95)) if len(extents) else 0.0
    stride = stage1.cumulative_stride(len(stage1.strides) - 1)
    curriculum = roi_rules.choose_curriculum(spacing, scale, stride, largest, large)
    variants = [Detection(spacing, stage1, curriculum)]
    if rules.wants_fine_stage(stage1, spacing, extents):
        variants.insert(0, Detection(spacing, rules.add_fine_stage(stage1), curriculum, fine_stage=True))
    return [_with_memory(variant, shape, scale, largest, roi, stage2, dataset, training) for variant in variants]


def _with_memory(
    detection: Detection,
    shape: Sequence[int],
    scale: Sequence[float],
    largest: Triple,
    roi: RoiPlan,
    stage2: Stage2Plan,
    dataset: RawDataset,
    training: TrainingPlan,
) -> Detection:
    """What its training and its inference take."""
    stage1, curriculum = detection.stage1, detection.curriculum
    needs = []
    for phase in curriculum:
        window = phase.window or largest
        needs.append(
            training_bytes(
                stage1,
                stage2,
                roi,
                [math.ceil(n / s - 1e-6) for n, s in zip(window, scale, strict=True)],
                math.prod(window),
                len(dataset.channel_names),
                len(dataset.class_names),
                roi_rules.rois_of_window(training, roi.size, math.prod(window) / math.prod(scale)),
                # Whole volumes, but for small ones, run one by one; windows of equal shape as one batch.
                1 if phase.window is None else training.batch_size,
            )
        )
    voxels, channels = math.prod(largest), len(dataset.channel_names)
    inference = inference_bytes(stage1, shape, voxels, channels, len(dataset.class_names))
    return replace(
        detection,
        training_gb=max(needs) / GIGABYTE,
        inference_gb=inference / GIGABYTE,
        inference_limit_gb=inference_limit_gb(voxels, channels),
    )


def _largest_case(fingerprint: dict[str, Any]) -> str:
    """The scan that spans most, for people: a spacing that is wrong by orders of magnitude shows there."""
    cases = _cases_of(fingerprint)
    name = max(cases, key=lambda name: math.prod(cases[name]["cropped_shape"]) * math.prod(cases[name]["spacing"]))
    shape, spacing = cases[name]["cropped_shape"], cases[name]["spacing"]
    return f"{name}: {'×'.join(map(str, shape))} voxels of {explain.mm(spacing)}"


class _Choice(NamedTuple):
    chosen: Detection
    wanted: Detection  # of the same spacing, with a fine stage if that would help: the one chosen, if it fits
    finest: Detection  # of the fine grid, the cheapest


def _choose_detection(
    fine: Spacing, assess: Callable[[Spacing], list[Detection]], memory_gb: float, largest_case: str
) -> _Choice:
    """The finest detection grid that fits; a fine stage if that fits, too: it is not worth a coarser grid."""
    first = None
    for spacing in rules.coarser_spacings(fine):
        variants = assess(spacing)
        first = first or variants[-1]
        for detection in variants:
            if detection.training_gb <= memory_gb and detection.inference_gb <= detection.inference_limit_gb:
                return _Choice(detection, variants[0], first)
    raise DetSeg3DError(
        f"no detection grid fits into {memory_gb:g} GB: the coarsest tried, {explain.mm(detection.spacing)}, needs "
        f"{detection.training_gb:.1f} GB to train and {detection.inference_gb:.1f} GB to predict",
        value=f"the largest scan, {largest_case}",
        remedy="correct that scan's spacing if it is wrong; otherwise raise --memory_gb",
    )
