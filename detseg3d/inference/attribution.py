"""Where lesions are lost: which of them each stage still had, by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.evaluation.labels import LabelFormat, Lesions
from detseg3d.evaluation.lesions import evaluate_case
from detseg3d.evaluation.summary import VOXEL_EDGES
from detseg3d.execution.local import run_cases
from detseg3d.inference.candidates import Candidates, load_candidates
from detseg3d.inference.sweep import StoredCase, read_truth
from detseg3d.models.merge import candidate_roi_scores, combine_scores
from detseg3d.models.roi_sampling import match_proposals
from detseg3d.models.targets import volume_targets
from detseg3d.planning.plans import Plans

__all__ = ["STAGES", "attribute", "trace_lesions"]

STAGES = (
    "Stage 1, stored candidates",
    "Stage 1 at the operating point",
    "after the RoI score",
    "in the final mask",
)


@dataclass(frozen=True)
class TracedLesion:
    """One true lesion: its size, and whether it was still there after each of :data:`STAGES`."""

    case_id: str
    voxels: int
    kept: tuple[bool, ...]


def trace_lesions(case_id: str, truth: Lesions, candidates: Candidates, plans: Plans) -> list[TracedLesion]:
    """Follow the lesions of a case through the stages.

    A candidate is *meant for* the lesion of its class whose centre is nearest, if its own centre lies in that lesion's
    box grown by a voxel (:func:`~detseg3d.models.roi_sampling.match_proposals`); in the final mask a lesion is there at
    any overlap.

    Parameters
    ----------
    case_id : str
    truth : Lesions
    candidates : Candidates
        As stored, at the low threshold.
    plans : Plans
        With the operating point in its inference section.
    """
    ids = np.array(sorted(truth.classes), np.int64)
    if len(ids) == 0:
        return []
    numbers = np.searchsorted(ids, truth.instances).astype(np.int64) + 1
    numbers[truth.instances == 0] = 0
    classes = np.concatenate([[0], [truth.classes[int(number)] for number in ids]]).astype(np.int64)
    targets = volume_targets(numbers, classes)
    admitted = candidates.admitted(plans.inference)
    roi_scores = candidate_roi_scores(len(admitted), admitted.predictions)
    scores = combine_scores(admitted.found.scores, roi_scores, plans.inference.calibration)
    accepted = admitted.found[scores >= plans.inference.score_threshold]

    def hit(found: Any) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(1, len(ids) + 1), match_proposals(found.boxes, found.classes, targets))

    merged = admitted.merge(plans)
    metrics = evaluate_case(
        case_id,
        numbers,
        merged.instances,
        candidates.spacing,
        truth_classes=classes[1:],
        prediction_classes={lesion.id: lesion.class_index for lesion in merged.lesions},
    )
    records = [record for record in metrics.lesions if record.kind == "truth"]
    final = np.array([record.matched["any"] for record in records])
    table = np.stack([hit(candidates.found), hit(admitted.found), hit(accepted), final], axis=1)
    return [
        TracedLesion(case_id, record.voxels, tuple(bool(value) for value in row))
        for record, row in zip(records, table, strict=True)
    ]


def attribute(
    cases: Sequence[StoredCase],
    plans: Plans,
    form: LabelFormat,
    true_boxes: Sequence[Mapping[str, Any]],
    num_processes: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Recall after each stage over all cases, in all and by size, and Dice of Stage 2 given the true boxes.

    Parameters
    ----------
    cases : sequence of StoredCase
    plans : Plans
        With the operating point in its inference section.
    form : LabelFormat
    true_boxes : sequence of dict
        ``voxels`` and ``dice`` of each lesion, from :func:`~detseg3d.training.validation.outline_true_boxes`.
    num_processes : int
    progress : bool

    Returns
    -------
    dict
        Ready for JSON: ``stages`` (``stage``, ``recall``, ``found``, ``lesions``), ``by_size`` (``bin``, ``lesions``,
        ``stages``), ``stage2_true_boxes`` (``mean``, ``by_size``).
    """
    traced: list[TracedLesion] = []
    for result in run_cases(partial(_trace, plans, form), cases, num_processes, "stages", progress):
        if result.value is None:
            assert result.error is not None
            raise result.error
        traced += result.value
    bound = plans.recall_bound
    stages: list[dict[str, Any]] = [
        {
            "stage": "bound of the plan's grid",
            "recall": bound.bound,
            "found": round(bound.bound * bound.lesions),
            "lesions": bound.lesions,
        }
    ]
    for index, stage in enumerate(STAGES):
        found = sum(lesion.kept[index] for lesion in traced)
        stages.append({"stage": stage, "recall": _share(found, len(traced)), "found": found, "lesions": len(traced)})
    rows, outlines = [], []
    for name, low, high in _bins():
        members = [lesion for lesion in traced if low <= lesion.voxels < high]
        recall = {
            stage: _share(sum(lesion.kept[index] for lesion in members), len(members))
            for index, stage in enumerate(STAGES)
        }
        rows.append({"bin": name, "lesions": len(members), "stages": recall})
        dice = [float(row["dice"]) for row in true_boxes if low <= row["voxels"] < high]
        outlines.append({"bin": name, "lesions": len(dice), "dice": float(np.mean(dice)) if dice else None})
    all_dice = [float(row["dice"]) for row in true_boxes]
    return {
        "stages": stages,
        "by_size": rows,
        "stage2_true_boxes": {"mean": float(np.mean(all_dice)) if all_dice else None, "by_size": outlines},
    }


def _trace(plans: Plans, form: LabelFormat, case: StoredCase) -> list[TracedLesion]:
    return trace_lesions(case.case_id, read_truth(case.label, form, plans), load_candidates(case.candidates), plans)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _bins() -> list[tuple[str, float, float]]:
    edges = [0.0, *VOXEL_EDGES, float("inf")]
    names = [
        f"under {VOXEL_EDGES[0]} voxels",
        *(f"{low} to under {high} voxels" for low, high in pairwise(VOXEL_EDGES)),
        f"{VOXEL_EDGES[-1]} voxels or more",
    ]
    return [(name, low, high) for name, (low, high) in zip(names, pairwise(edges), strict=True)]
