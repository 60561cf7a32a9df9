"""Stages at which true lesions are lost, by the size of the lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from detseg3d.consolidation.cases import PreparedCase
from detseg3d.consolidation.outcomes import CaseOutcomes, CaseTruth, map_cases
from detseg3d.consolidation.true_boxes import TrueBoxLesion
from detseg3d.core.boxes import box_centers, box_sizes
from detseg3d.core.size_classes import size_classes
from detseg3d.evaluation.cross_validation import Attribution, SizeAttribution, StageRecall
from detseg3d.inference.candidates import Candidates, load_candidates
from detseg3d.models.objectives.roi_sampling import match_proposals
from detseg3d.models.objectives.targets import VolumeTargets, volume_targets
from detseg3d.planning.plans import Plans
from detseg3d.planning.recall_bound import CaseLesions, found_by_targets, levels_of_plans
from detseg3d.system.run import Run

__all__ = ["PERFECT_STAGE_1", "STAGES", "TracedLesion", "attribute_losses", "trace_lesions"]

PERFECT_STAGE_1 = "perfect Stage 1 (bound of the plan)"
STAGES = (
    "Stage 1, stored candidates",
    "Stage 1 at the operating point",
    "after the RoI score",
    "in the final mask",
)


@dataclass(frozen=True)
class TracedLesion:
    """A true lesion, and the stages that it reached.

    Attributes
    ----------
    case_id : str
    voxels : int
        Size in the label.
    kept : tuple of bool
        For each of :data:`STAGES`, whether the lesion was still found after it.
    reachable : bool
        Whether a perfect Stage 1 finds the lesion, with the cells, the suppression and the limit of candidates of the
        plan.
    """

    case_id: str
    voxels: int
    kept: tuple[bool, ...]
    reachable: bool = True


def trace_lesions(case_id: str, truth: CaseTruth, candidates: Candidates, plans: Plans) -> list[TracedLesion]:
    """Follow the true lesions of a case through the stages.

    A candidate belongs to the lesion of its class whose centre is nearest, if the centre of the candidate lies in the
    box of this lesion grown by one voxel (:func:`~detseg3d.models.objectives.roi_sampling.match_proposals`). Each stage
    keeps some candidates of the stage before, so a lost lesion stays lost. In the final mask a lesion is found if any
    mask overlaps it, also the mask of a neighbouring lesion.

    Parameters
    ----------
    case_id : str
    truth : CaseTruth
    candidates : Candidates
        As stored, at the low threshold.
    plans : Plans
        With the chosen thresholds in its inference section.

    Returns
    -------
    list of TracedLesion
        In the order of the numbers of the true lesions.
    """
    if len(truth) == 0:
        return []
    targets = volume_targets(truth.instances(), np.array([0, *truth.classes], np.int64))
    reachable = found_by_targets(_lesions_in_mm(truth, targets), levels_of_plans(plans), plans.inference)
    outcomes = CaseOutcomes(candidates, truth, plans)
    admitted = outcomes.passing(plans.inference)
    accepted = admitted[outcomes.scores[admitted] >= plans.inference.score_threshold]
    in_mask = {number for lesion in outcomes.lesions(plans.inference) for number in lesion.hits}

    def found_by(indices: npt.NDArray[np.int64]) -> set[int]:
        detections = candidates.detections[indices]
        return set(match_proposals(detections.boxes, detections.classes, targets).tolist())

    stages = (found_by(np.arange(len(candidates))), found_by(admitted), found_by(accepted), in_mask)
    return [
        TracedLesion(case_id, voxels, tuple(number in stage for stage in stages), bool(reachable[number - 1]))
        for number, voxels in enumerate(truth.voxels, start=1)
    ]


def _lesions_in_mm(truth: CaseTruth, targets: VolumeTargets) -> CaseLesions:
    """Return the true lesions in millimetres, as the planner knows the lesions of the training cases."""
    unit = np.asarray(truth.spacing, np.float64)
    z, y, x = (np.asarray(truth.shape) * unit).tolist()
    boxes = targets.boxes.astype(np.float64)
    return CaseLesions(
        (z, y, x),
        box_centers(boxes) * unit,
        box_sizes(boxes) * unit,
        targets.classes,
        np.asarray(truth.voxels, np.int64),
    )


def attribute_losses(
    cases: Sequence[PreparedCase], plans: Plans, true_boxes: Sequence[TrueBoxLesion], run: Run = Run()
) -> Attribution:
    """Return the recall after each stage, and the Dice of Stage 2 in the true boxes, over all lesions and by size.

    The first stage is a perfect Stage 1.

    Parameters
    ----------
    cases : sequence of PreparedCase
    plans : Plans
        With the chosen thresholds in its inference section.
    true_boxes : sequence of TrueBoxLesion
    run : Run

    Returns
    -------
    Attribution
    """
    by_case = map_cases(partial(_trace_case, plans), cases, lambda case: case.stored.case_id, "stages", run)
    lesions = [lesion for traced in by_case for lesion in traced]
    by_size = []
    for name, low, high in size_classes():
        members = [lesion for lesion in lesions if low <= lesion.voxels < high]
        outlined = [lesion for lesion in true_boxes if low <= lesion.voxels < high]
        recalls = tuple(stage.recall for stage in _recall(members))
        by_size.append(SizeAttribution(name, len(members), recalls, len(outlined), _mean_dice(outlined)))
    return Attribution(_recall(lesions), tuple(by_size), _mean_dice(true_boxes))


def _trace_case(plans: Plans, case: PreparedCase) -> list[TracedLesion]:
    return trace_lesions(case.stored.case_id, case.truth, load_candidates(case.stored.candidates), plans)


def _recall(lesions: Sequence[TracedLesion]) -> tuple[StageRecall, ...]:
    """Return the recall of a perfect Stage 1, then the recall after each stage."""
    count, rows = len(lesions), []
    for index, stage in enumerate((PERFECT_STAGE_1, *STAGES)):
        found = sum((lesion.reachable, *lesion.kept)[index] for lesion in lesions)
        rows.append(StageRecall(stage, found / count if count else None, found, count))
    return tuple(rows)


def _mean_dice(lesions: Sequence[TrueBoxLesion]) -> float | None:
    return float(np.mean([lesion.dice for lesion in lesions])) if lesions else None
