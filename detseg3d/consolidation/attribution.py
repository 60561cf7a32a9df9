"""Where lesions are lost: which of them each stage still had, by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.consolidation.cases import PreparedCase
from detseg3d.consolidation.outcomes import CaseOutcomes, CaseTruth, for_every_case
from detseg3d.core.boxes import box_centers, box_sizes
from detseg3d.core.size_classes import size_classes
from detseg3d.evaluation.cross_validation import Attribution, SizeAttribution, StageRecall
from detseg3d.inference.candidates import Candidates, load_candidates
from detseg3d.models.objectives.roi_sampling import match_proposals
from detseg3d.models.objectives.targets import VolumeTargets, volume_targets
from detseg3d.planning.plans import Plans
from detseg3d.planning.recall_bound import CaseLesions, found_by_targets, levels_of_plans
from detseg3d.system.run import Run

__all__ = ["PERFECT", "STAGES", "TracedLesion", "attribute", "trace_lesions"]

PERFECT = "a perfect Stage 1 (bound of the plan)"
STAGES = (
    "Stage 1, stored candidates",
    "Stage 1 at the operating point",
    "after the RoI score",
    "in the final mask",
)


@dataclass(frozen=True)
class TracedLesion:
    """One true lesion: its size, and whether it was still there after each of :data:`STAGES`.

    ``reachable`` says whether a perfect Stage 1 finds it, with the plan's cells, suppression and limit of candidates.
    """

    case_id: str
    voxels: int
    kept: tuple[bool, ...]
    reachable: bool = True


def trace_lesions(case_id: str, truth: CaseTruth, candidates: Candidates, plans: Plans) -> list[TracedLesion]:
    """Follow the lesions of a case through the stages.

    A candidate is *meant for* the lesion of its class whose centre is nearest, if its own centre lies in that lesion's
    box grown by a voxel (:func:`~detseg3d.models.objectives.roi_sampling.match_proposals`). The candidates of each
    stage are some
    of those of the stage before, so a lesion that is lost stays lost; but in the final mask a lesion is there at any
    overlap, also if the mask of a neighbour reaches it.

    Parameters
    ----------
    case_id : str
    truth : CaseTruth
    candidates : Candidates
        As stored, at the low threshold.
    plans : Plans
        With the operating point in its inference section.

    Returns
    -------
    list of TracedLesion
        In the order of the true lesions' numbers.
    """
    if len(truth) == 0:
        return []
    targets = volume_targets(truth.instances(), np.array([0, *truth.classes], np.int64))
    reachable = found_by_targets(_true_lesions(truth, targets), levels_of_plans(plans), plans.inference)
    outcomes = CaseOutcomes(candidates, truth, plans)
    admitted = outcomes.passing(plans.inference)
    accepted = admitted[outcomes.scores[admitted] >= plans.inference.score_threshold]
    final = {number for lesion in outcomes.lesions(plans.inference) for number in lesion.hits}

    def hit(indices: npt.NDArray[np.int64]) -> set[int]:
        found = candidates.found[indices]
        return set(match_proposals(found.boxes, found.classes, targets).tolist())

    stages = (hit(np.arange(len(candidates))), hit(admitted), hit(accepted), final)
    return [
        TracedLesion(case_id, voxels, tuple(number in stage for stage in stages), bool(reachable[number - 1]))
        for number, voxels in enumerate(truth.voxels, start=1)
    ]


def _true_lesions(truth: CaseTruth, targets: VolumeTargets) -> CaseLesions:
    """The true lesions of a case in the whole scan, as the planner knows those of the training in the crop."""
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


def attribute(
    cases: Sequence[PreparedCase],
    plans: Plans,
    true_boxes: Sequence[Mapping[str, Any]],
    run: Run = Run(),
) -> Attribution:
    """Recall after each stage over all cases, in all and by size, and Dice of Stage 2 given the true boxes.

    The first row is the recall of a perfect Stage 1 on the same lesions.

    Parameters
    ----------
    cases : sequence of PreparedCase
    plans : Plans
        With the operating point in its inference section.
    true_boxes : sequence of dict
        ``voxels`` and ``dice`` of each lesion, from :func:`~detseg3d.training.validation.outline_true_boxes`.
    run : Run

    Returns
    -------
    Attribution
    """
    by_case = for_every_case(partial(_trace, plans), cases, lambda case: case.stored.case_id, "stages", run)
    traced = [lesion for lesions in by_case for lesion in lesions]
    stages = []
    for index, stage in enumerate((PERFECT, *STAGES)):
        found = sum(_still_there(lesion)[index] for lesion in traced)
        stages.append(StageRecall(stage, _share(found, len(traced)), found, len(traced)))
    by_size = []
    for name, low, high in size_classes():
        members = [_still_there(lesion) for lesion in traced if low <= lesion.voxels < high]
        recalls = tuple(_share(sum(kept[index] for kept in members), len(members)) for index in range(len(stages)))
        dice = [float(row["dice"]) for row in true_boxes if low <= row["voxels"] < high]
        mean = float(np.mean(dice)) if dice else None
        by_size.append(SizeAttribution(name, len(members), recalls, len(dice), mean))
    all_dice = [float(row["dice"]) for row in true_boxes]
    return Attribution(tuple(stages), tuple(by_size), float(np.mean(all_dice)) if all_dice else None)


def _still_there(lesion: TracedLesion) -> tuple[bool, ...]:
    """Whether a perfect Stage 1 finds it, then whether it was there after each stage."""
    return lesion.reachable, *lesion.kept


def _trace(plans: Plans, case: PreparedCase) -> list[TracedLesion]:
    return trace_lesions(case.stored.case_id, case.truth, load_candidates(case.stored.candidates), plans)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
