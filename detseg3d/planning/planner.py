"""Plan the pipeline of a data set from its fingerprint. Each decision is stored with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Spacing, Triple, format_shape, format_spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import check_spacing
from detseg3d.core.intensities import channel_scheme
from detseg3d.core.precision import Precision
from detseg3d.data.dataset import RawDataset
from detseg3d.planning import explain
from detseg3d.planning.detection_grid import Budget, GridOption, Requirements, Scan, choose_detection
from detseg3d.planning.fingerprint import CaseFingerprint, ChannelIntensities, Fingerprint
from detseg3d.planning.memory import INFERENCE_GB
from detseg3d.planning.mirroring import copied_axes, find_class_orders, undirected_axes
from detseg3d.planning.plans import Plans
from detseg3d.planning.recall_bound import CaseLesions, case_lesions
from detseg3d.planning.rules.ct_window import ct_window
from detseg3d.planning.rules.grids import choose_fine_spacing, planned_volumes
from detseg3d.planning.rules.inference_limits import (
    MIN_COMPONENT_CELLS_UNLIKE,
    choose_candidate_limit,
    choose_coarse_reading_size,
    choose_dense_minimum,
)
from detseg3d.planning.rules.length import STEPS_PER_EPOCH, choose_steps, choose_val_every
from detseg3d.planning.rules.rois import (
    choose_min_rois_per_window,
    choose_roi_batch,
    choose_roi_edge,
    choose_roi_size,
    requested_roi_size,
    roi_plan,
)
from detseg3d.planning.rules.segmenter import stage2_plan
from detseg3d.planning.rules.suppression import Suppression, choose_suppression
from detseg3d.planning.sections import (
    ChannelNormalization,
    CurriculumPhase,
    Decision,
    InferencePlan,
    NoNormalization,
    RoiPlan,
    Stage2Plan,
    TrainingPlan,
    ZScoreNormalization,
)

__all__ = ["choose_normalization", "plan_dataset"]


def plan_dataset(
    fingerprint: Fingerprint,
    dataset: RawDataset,
    training_gb: float = 8.0,
    roi_size: int | Sequence[int] | None = None,
    interpolation_order: int = 1,
    inference_gb: float = INFERENCE_GB,
    precision: Precision = Precision.BF16,
) -> Plans:
    """Plan the pipeline of a data set.

    Parameters
    ----------
    fingerprint : Fingerprint
    dataset : RawDataset
        Its names, labels and file ending are used.
    training_gb : float, optional
        Memory in GB that the training may use.
    roi_size : int or 3 ints, optional
        Samples of an RoI along the finest axis, or along each axis. By default the planner chooses them.
    interpolation_order : {1, 3}, optional
        Interpolation of images: linear or cubic.
    inference_gb : float, optional
        Memory in GB that the prediction of a planned volume may use above its input. The image and the masks on the
        fine grid, and 1 GB more, are always allowed.
    precision : Precision, optional
        Precision of the feature maps for which both memories are planned. Not ``AUTO``.

    Returns
    -------
    Plans

    Raises
    ------
    DetSeg3DError
        If no detection grid fits into ``training_gb`` and ``inference_gb``, or if a spacing is below a nanometre or
        above a kilometre.

    Examples
    --------
    >>> plans = plan_dataset(measure_dataset(dataset), dataset)      # doctest: +SKIP
    >>> print(plans.decisions[0].reason)                            # doctest: +SKIP
    """
    for name, case in fingerprint.cases.items():
        check_spacing(case.spacing, name)
    cases = fingerprint.scans
    extents = fingerprint.lesion_extents
    decisions: list[Decision] = []
    spacings = [case.spacing for case in cases]
    fine = choose_fine_spacing(spacings, [case.shape for case in cases])
    decisions.append(explain.explain_fine(spacings, fine))
    scans = _scans_of(fingerprint, fine)
    orders = find_class_orders([case.lesion_centers for case in cases], [case.lesion_classes for case in cases])
    mirror_axes = undirected_axes(orders)
    normalization = choose_normalization(fingerprint.summary.intensity, dataset.channel_names)
    steps = choose_steps(len(cases), len(extents))
    suppression = choose_suppression([scan.lesions for scan in scans], fine)

    def require(volume: Triple) -> tuple[Requirements, list[Decision]]:
        """Return the requirements for a planned volume, and the decisions about its RoI."""
        roi, stage2, reasons = _plan_rois(extents, fine, volume, roi_size)
        training = TrainingPlan(
            steps=steps,
            val_every=choose_val_every(steps // STEPS_PER_EPOCH),
            curriculum=(CurriculumPhase(fraction=1.0, window=None),),
            min_rois_per_window=choose_min_rois_per_window(roi.size),
            mirror_axes=mirror_axes,
        )
        needs = Requirements(
            scans=scans,
            fine=fine,
            roi=roi,
            stage2=stage2,
            training=training,
            inference=_plan_inference(
                [scan.lesions for scan in scans], suppression, roi, dataset, copied_axes(mirror_axes)
            ),
            num_channels=len(dataset.channel_names),
            class_names=dataset.class_names,
            budget=Budget(training_gb, inference_gb, precision),
        )
        return needs, reasons

    volumes = planned_volumes([scan.shape for scan in scans])
    needs, reasons = require(volumes[0].shape)
    choice = choose_detection(needs, volumes)
    if choice.chosen.volume != volumes[0]:
        # A smaller volume may have room for smaller RoIs only. They need no more memory, so the grid still fits.
        needs, reasons = require(choice.chosen.volume.shape)
        again = choose_detection(needs, [choice.chosen.volume])
        choice = replace(again, largest=choice.largest, forgone=choice.forgone)
    detection = choice.chosen
    decisions += explain.explain_volume(cases, choice, needs)
    decisions += explain.explain_normalization(normalization, dataset.channel_names, fingerprint.summary.intensity)
    decisions += reasons
    decisions.append(explain.explain_precision(precision))
    decisions.append(explain.explain_detection(choice, needs))
    decisions += explain.explain_network(choice, needs)
    plans = Plans(
        **_identity(dataset),
        normalization=tuple(normalization),
        fine_spacing=fine,
        detection_spacing=detection.spacing,
        planned_shape=detection.volume.shape,
        interpolation_order=3 if interpolation_order == 3 else 1,
        stage1=detection.stage1,
        roi=needs.roi,
        stage2=needs.stage2,
        training=needs.training.model_copy(update={"curriculum": detection.curriculum}),
        inference=_with_components(needs.inference, detection, cases),
        training_budget_gb=training_gb,
        inference_budget_gb=inference_gb,
        memory_precision=precision,
        predicted_training_gb=round(detection.training_gb, 3),
        predicted_inference_gb=round(detection.inference_gb, 3),
        recall_bound=detection.reach.bound,
    )
    decisions += [explain.explain_bound(plans, detection.cells(), extents), explain.explain_curriculum(plans)]
    decisions.append(explain.explain_length(needs.training, len(cases), len(extents)))
    decisions.append(explain.explain_mirroring(mirror_axes, orders, dataset.class_names))
    decisions.append(explain.explain_coarse_reading(plans))
    decisions += explain.explain_components(plans)
    decisions.append(explain.explain_candidates(plans, [scan.lesions for scan in scans]))
    decisions.append(explain.explain_suppression(suppression))
    decisions += explain.explain_data(fingerprint, plans)
    return plans.evolve(decisions=[decision.model_dump() for decision in decisions])


def _scans_of(fingerprint: Fingerprint, fine: Spacing) -> list[Scan]:
    """Return the scans with their shape on the fine grid. Size and spacing of the file stay for messages."""
    scans = []
    for name, case in fingerprint.cases.items():
        voxels = np.asarray(case.cropped_shape, float) * np.asarray(case.spacing) / np.asarray(fine)
        z, y, x = (max(1, int(n)) for n in np.rint(voxels))
        header = f"{format_shape(case.cropped_shape)} voxels of {format_spacing(case.spacing)}"
        scans.append(Scan(name, header, (z, y, x), case_lesions(case)))
    return scans


def _plan_inference(
    cases: Sequence[CaseLesions],
    suppression: Suppression,
    roi: RoiPlan,
    dataset: RawDataset,
    mirror_axes: tuple[int, ...],
) -> InferencePlan:
    """Plan the inference. If the labels do not number their lesions, a lesion is a connected component."""
    limit = choose_candidate_limit([len(case) for case in cases], [case.volume for case in cases], roi.size)
    extents = np.concatenate([np.zeros((0, 3)), *(case.extents for case in cases)])
    return InferencePlan(
        candidate_density=limit.density,
        min_candidates=limit.minimum,
        max_candidates=limit.maximum,
        suppression_distance=suppression.distance,
        suppression_iou=suppression.iou,
        join_touching=not dataset.instances,
        mirror_axes=mirror_axes,
        coarse_reading_size=choose_coarse_reading_size(extents),
        roi_batch_size=choose_roi_batch(roi.size),
    )


def _with_components(
    inference: InferencePlan, detection: GridOption, cases: Sequence[CaseFingerprint]
) -> InferencePlan:
    """Return the inference with the smallest component of the dense map, if the detector has this map."""
    if not detection.stage1.dense_channels:
        return inference
    z, y, x = detection.cells()[detection.stage1.head_stages[detection.stage1.dense_level]]
    volumes = [lesion.volume_mm3 for case in cases for lesion in case.lesions]
    smallest = float(f"{MIN_COMPONENT_CELLS_UNLIKE * z * y * x:.4g}") if volumes else None
    minimum = choose_dense_minimum(volumes, (z, y, x))
    return inference.model_copy(update={"dense_minimum_mm3": minimum, "dense_minimum_unlike_mm3": smallest})


def _identity(dataset: RawDataset) -> dict[str, Any]:
    """Return the facts about the data set that the plans repeat, so that plans are complete without dataset.json."""
    return {
        "dataset_name": dataset.name,
        "file_ending": dataset.file_ending,
        "channel_names": dataset.channel_names,
        "class_names": dataset.class_names,
        "class_labels": dataset.class_labels,
        "instances": dataset.instances,
        "default_spacing": dataset.default_spacing,
        "suv_channels": dataset.suv_channels,
        "codes": dataset.codes,
    }


def choose_normalization(
    intensity: Sequence[ChannelIntensities], channel_names: Sequence[str]
) -> list[ChannelNormalization]:
    """Choose how each channel is normalised.

    The name of the channel decides, see :func:`detseg3d.core.intensities.channel_scheme`. A CT is clipped to a window
    that contains the lesions of the data set, see :func:`detseg3d.planning.rules.ct_window.ct_window`.

    Parameters
    ----------
    intensity : sequence of ChannelIntensities
        Intensities of each channel over the data set, from the fingerprint's summary.
    channel_names : sequence of str

    Returns
    -------
    list of ChannelNormalization
        One entry for each channel.
    """
    chosen: list[ChannelNormalization] = []
    for channel, name in zip(intensity, channel_names, strict=True):
        scheme = channel_scheme(name)
        if scheme == "none":
            chosen.append(NoNormalization())
        elif scheme == "ct":
            chosen.append(ct_window(channel))
        else:
            chosen.append(ZScoreNormalization())
    return chosen


def _plan_rois(
    extents: npt.NDArray[np.float64], fine: Spacing, largest: Triple, override: int | Sequence[int] | None
) -> tuple[RoiPlan, Stage2Plan, list[Decision]]:
    """Return the RoI, its network and the reasons; ``largest`` is the planned volume in fine voxels."""
    size, reason = _roi_size(extents, fine, largest, override)
    roi, stage2 = roi_plan(size, fine), stage2_plan(size, fine)
    decision = Decision(name="RoI size", value=format_shape(size), reason=reason)
    return roi, stage2, [decision, explain.explain_stage2(roi, stage2, fine, largest)]


def _roi_size(
    extents: npt.NDArray[np.float64], fine: Spacing, largest: Triple, override: int | Sequence[int] | None
) -> tuple[Triple, str]:
    """Return the samples of an RoI and the reason."""
    voxels = (extents / np.asarray(fine)).max(axis=1) if len(extents) else np.zeros(0)
    edge, large = choose_roi_edge(voxels)
    reason = "There is no lesion to measure."
    if len(voxels):
        largest_usual = float(np.percentile(voxels, 95))
        reason = f"75 % of the lesions span up to {large:.1f} fine voxels, 95 % up to {largest_usual:.1f}."
    if override is None:
        size = choose_roi_size(edge, fine, largest)
        if len(set(size)) > 1:
            reason += f" Axes with coarser spacing get fewer samples ({format_spacing(fine)})."
        if size != choose_roi_size(edge, fine, (edge, edge, edge)):
            reason += f" No axis has more samples than the planned volume has voxels ({format_shape(largest)}), or 4."
        return size, reason
    if isinstance(override, int):
        size = requested_roi_size(override, fine, largest)
    else:
        z, y, x = (int(n) for n in override)
        size = (z, y, x)
    if min(size) < 4 or max(size) > 128:
        raise DetSeg3DError("the RoI size is out of range", value=override, expected="4 to 128 samples along each axis")
    planned = format_shape(choose_roi_size(edge, fine, largest))
    return size, f"The user chose this size. {reason} The planner would choose {planned}."
