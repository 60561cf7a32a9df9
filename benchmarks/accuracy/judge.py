"""Figures of a trained network on its validation cases, beyond those that the training itself prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detseg3d.data.case_store import CaseStore
from detseg3d.evaluation.matching import overlap_table
from detseg3d.evaluation.metrics import Criterion
from detseg3d.evaluation.scores.calibration import expected_calibration_error
from detseg3d.evaluation.scores.froc import ScoredCase, average_precision, froc_curve, recall_at_rates, scored_case
from detseg3d.evaluation.summary import summarize
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.merging.merge import Merged
from detseg3d.models.weights import load_weights
from detseg3d.planning.plans import Plans
from detseg3d.training.validation import inferred_cases, stage1_hits

__all__ = ["judge", "load_model"]

# Low enough for the curves to be seen whole; the plan's own threshold gives the figures at one point.
_LOWEST_SCORE = 0.05
_RATES = (1.0, 4.0, 16.0)


def load_model(model: DetSeg3D, folder: Path, device: torch.device) -> DetSeg3D:
    """The network with the weights of a finished training, ready for inference."""
    load_weights(model, folder / "model_final.safetensors")
    return model.to(device).eval()


def judge(
    model: DetSeg3D, plans: Plans, store: CaseStore, case_ids: Sequence[str], device: torch.device
) -> dict[str, float | None]:
    """One row of the table.

    Whole volumes, no test-time augmentation. A lesion is found at any overlap. ``f1``, ``recall``, ``precision``,
    ``dice``, ``pq`` and ``fp`` (false positives a scan) are those at the plan's threshold; ``best_f1`` is the highest
    over all thresholds, and ``ap`` and the recalls at fixed rates do not depend on one. ``small`` is the recall of
    lesions under 15 voxels.
    A figure of what does not occur in these cases is None.
    """
    hits = lesions = 0
    cases, scored, scores, correct = [], [], [], []
    low = plans.evolve(inference={"score_threshold": _LOWEST_SCORE})
    for case in inferred_cases(model, store, case_ids, device):
        cases.append(case.evaluate(plans))
        case_hits, case_lesions = stage1_hits(case.found, case.instances, case.class_of_id)
        hits, lesions = hits + case_hits, lesions + case_lesions
        low_case = _scored(case.case_id, case.instances, case.merge(low))
        scored.append(low_case)
        scores += [*low_case.true_positive_scores, *low_case.false_positive_scores]
        correct += [True] * len(low_case.true_positive_scores) + [False] * len(low_case.false_positive_scores)
    group = summarize(cases).overall
    pooled = group.detection[Criterion.ANY]
    rates = recall_at_rates(froc_curve(scored), _RATES)
    small = group.recall_by_size.voxels[0].detection[Criterion.ANY]
    return {
        "f1": pooled.f1,
        "best_f1": _best_f1(scored),
        "ap": average_precision(scored),
        "recall": pooled.recall,
        "precision": pooled.precision,
        "fp": pooled.false_positives / len(cases),
        "small": small.recall,
        "dice": float(np.mean([case.dice for case in cases])),
        "pq": group.panoptic.pq,
        "stage1": hits / lesions if lesions else 1.0,
        "bound": plans.recall_bound.bound,
        "ece": expected_calibration_error(np.array(scores), np.array(correct)) if scores else None,
        **{f"recall@{rate:g}": point.recall for rate, point in zip(_RATES, rates, strict=True)},
    }


def _scored(case_id: str, instances: Any, merged: Merged) -> ScoredCase:
    table = overlap_table(instances, merged.instances.astype(np.int64))
    score_of = {lesion.id: lesion.score for lesion in merged.lesions}
    return scored_case(case_id, table, [score_of[int(number)] for number in table.prediction.ids], None)


def _best_f1(cases: Sequence[ScoredCase]) -> float:
    """Highest F1 at any overlap over all thresholds."""
    truths = np.concatenate([case.truth_scores for case in cases])
    right = np.concatenate([case.true_positive_scores for case in cases])
    wrong = np.concatenate([case.false_positive_scores for case in cases])
    best = 0.0
    for threshold in np.unique(np.concatenate([right, wrong])):
        hits, misses = (right >= threshold).sum(), (wrong >= threshold).sum()
        recall = (truths >= threshold).mean()
        precision = hits / (hits + misses)
        if recall + precision > 0:
            best = max(best, 2 * recall * precision / (recall + precision))
    return float(best)
