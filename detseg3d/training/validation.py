"""Validate a network on whole preprocessed volumes with the inference code, by lesions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.data.case_store import CaseStore, class_of_id
from detseg3d.evaluation.case import as_lesions, evaluate_case
from detseg3d.evaluation.metrics import HEADLINE, CaseMetrics, Criterion, DetectionCounts
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.merge import Merged, merge_rois
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.objectives.roi_sampling import match_proposals
from detseg3d.models.objectives.targets import volume_targets
from detseg3d.planning.plans import Plans

__all__ = ["ValidationResult", "inferred_cases", "stage1_hits", "validate"]


@dataclass(frozen=True)
class ValidationResult:
    """Metrics of one validation.

    If the cases have no lesion, recall, F1 and Dice are undefined: a network that finds nothing would be perfect.

    Attributes
    ----------
    matched : DetectionCounts
        Lesions of all cases, matched one to one with an IoU of 0.1 or more. The best model has the highest F1 of these
        counts. Masks that are too large do not improve it.
    touched : DetectionCounts
        Lesions of all cases at any overlap.
    dice : float or None
        Mean over the cases. ``None`` if no case has a lesion.
    stage1_recall : float or None
        Fraction of the true lesions for which Stage 1 has a candidate. ``None`` without lesions.
    """

    matched: DetectionCounts
    touched: DetectionCounts
    dice: float | None
    stage1_recall: float | None

    def metrics(self) -> dict[str, float | None]:
        """Return the metrics by name for the training log. The names end with the criterion of a found lesion.

        ``None`` stands for an undefined metric.
        """
        matched, lesions = self.matched, self.matched.truth > 0
        return {
            "f1_iou_0.1": matched.f1 if lesions else None,
            "recall_iou_0.1": matched.recall if lesions else None,
            "precision_iou_0.1": matched.precision if lesions or matched.predictions else None,
            "f1_any": self.touched.f1 if lesions else None,
            "dice": self.dice,
            "stage1_recall": self.stage1_recall,
        }

    def describe(self) -> str:
        """Return the metrics in words. "–" stands for an undefined metric."""
        texts = ("–" if value is None else format(value, ".3f") for value in self.metrics().values())
        f1, recall, precision, f1_any, dice, stage1_recall = texts
        return (
            f"lesion F1 {f1} at IoU >= 0.1 (recall {recall}, precision {precision}; F1 {f1_any} at any overlap), "
            f"Dice {dice}, Stage 1 recall {stage1_recall}"
        )


def cases_to_validate(store: CaseStore, case_ids: Sequence[str], max_cases: int) -> list[str]:
    """Select up to ``max_cases`` cases, with and without lesions in their proportion.

    Both kinds are needed: only cases with lesions distinguish networks by their recall, and only cases without lesions
    show false positives in normal scans. If both kinds exist, at least one case of each is selected if possible.

    Parameters
    ----------
    store : CaseStore
    case_ids : sequence of str
    max_cases : int

    Returns
    -------
    list of str
        Cases with lesions first, otherwise in the order of ``case_ids``.
    """
    with_lesions = [case_id for case_id in case_ids if store.shape_and_lesions(case_id)[1]]
    known = set(with_lesions)
    lesion_free = [case_id for case_id in case_ids if case_id not in known]
    max_cases = min(max_cases, len(case_ids))
    free = round(max_cases * len(lesion_free) / len(case_ids)) if case_ids else 0
    if lesion_free and with_lesions:
        free = min(max(free, 1), max_cases - 1)
    return [*with_lesions[: max_cases - free], *lesion_free[:free]]


def stage1_hits(
    found: Detections, instances: npt.NDArray[np.integer[Any]], class_of_id: npt.NDArray[np.int64]
) -> tuple[int, int]:
    """Return the number of lesions to which a candidate belongs, and the number of all lesions.

    Stage 2 cannot recover a lesion that Stage 1 misses.
    """
    targets = volume_targets(instances, class_of_id)
    matched = match_proposals(found.boxes, found.classes, targets)
    return len(set(matched[matched > 0].tolist())), len(targets.ids)


@dataclass(frozen=True)
class InferredCase:
    """A preprocessed case and the output of a network for it.

    Attributes
    ----------
    case_id : str
    instances : ndarray of int64, shape ``(Z, Y, X)``
        True lesions.
    class_of_id : ndarray of int64
        Class index of each number of ``instances``.
    found : Detections
    predictions : list of RoiPrediction
        Masks and scores of the RoIs of all candidates, on the fine grid.
    """

    case_id: str
    instances: npt.NDArray[np.int64]
    class_of_id: npt.NDArray[np.int64]
    found: Detections
    predictions: list[RoiPrediction]

    def merge(self, plans: Plans) -> Merged:
        """Return the masks with the thresholds of ``plans``."""
        return merge_rois(self.found, self.predictions, self.instances.shape, plans)

    def evaluate(self, plans: Plans) -> CaseMetrics:
        """Compare the masks with the truth, with the thresholds of ``plans``."""
        merged = self.merge(plans)
        return evaluate_case(
            self.case_id,
            as_lesions(self.instances, self.class_of_id[1:]),
            as_lesions(merged.instances.astype(np.int64), [lesion.class_index for lesion in merged.lesions]),
            plans.fine_spacing,
        )


def inferred_cases(
    model: DetSeg3D, store: CaseStore, case_ids: Sequence[str], device: torch.device
) -> Iterator[InferredCase]:
    """Run both stages on whole preprocessed cases, without test-time augmentation.

    Parameters
    ----------
    model : DetSeg3D
        In evaluation mode, on ``device``.
    store : CaseStore
    case_ids : sequence of str
    device : torch.device

    Raises
    ------
    DetSeg3DError
        If a case is missing in the store or damaged.
    """
    for case_id in case_ids:
        values, labels = store.read(case_id)
        image = torch.from_numpy(values.astype(np.float32)).to(device)
        assert labels is not None, "training cases have labels"
        instances = labels.astype(np.int64)
        output = model.infer(image)
        classes = class_of_id(store.shape_and_lesions(case_id)[1])
        yield InferredCase(case_id, instances, classes, output.candidates, output.rois.predictions)


def validate(
    model: DetSeg3D, plans: Plans, store: CaseStore, case_ids: Sequence[str], device: torch.device
) -> ValidationResult:
    """Validate a network on preprocessed cases, without test-time augmentation.

    Parameters
    ----------
    model : DetSeg3D
        Is in evaluation mode during the validation, and in its earlier mode afterwards.
    plans : Plans
    store : CaseStore
    case_ids : sequence of str
    device : torch.device
    """
    was_training = model.training
    model.eval()
    hits = lesions = 0
    cases = []
    for case in inferred_cases(model, store, case_ids, device):
        cases.append(case.evaluate(plans))
        case_hits, case_lesions = stage1_hits(case.found, case.instances, case.class_of_id)
        hits, lesions = hits + case_hits, lesions + case_lesions
    model.train(was_training)
    matched, touched = (
        sum((case.overall.detection[name] for case in cases), DetectionCounts()) for name in (HEADLINE, Criterion.ANY)
    )
    if lesions == 0:
        return ValidationResult(matched, touched, None, None)
    dice = float(np.mean([case.dice for case in cases]))
    return ValidationResult(matched, touched, dice, hits / lesions)
