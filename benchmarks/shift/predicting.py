"""Candidates of a model for scans under all conditions, kept on disk; and the choice of thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shift.conditions import CLEAN, Condition
from benchmarks.shift.scans import LabelledScan
from detseg3d.consolidation.outcomes import CaseOutcomes, CaseTruth
from detseg3d.core.enums import StringEnum
from detseg3d.core.errors import DetSeg3DError
from detseg3d.inference.candidates import Candidates, load_candidates, save_candidates
from detseg3d.inference.operating_point import weights_digest
from detseg3d.inference.predictor import Predictor
from detseg3d.planning.plans import Plans
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.json_records import JsonRecord

__all__ = ["Choice", "StoredCandidates", "ThresholdCounts", "choose_thresholds", "count_at_thresholds"]

_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


class Choice(StringEnum):
    """Conditions on which a score threshold is chosen, on the other scans than the one that it is used for."""

    HOME = "home"
    """The highest F1 on the clean scans."""
    ROBUST = "robust"
    """The highest mean of the F1 under all conditions."""


@dataclass(frozen=True)
class StoredCandidates:
    """Candidates of one model, made when they are first needed.

    Attributes
    ----------
    folder : Path
    predictor : Predictor
    """

    folder: Path
    predictor: Predictor

    def claim(self, weights: Path, description: Mapping[str, object]) -> None:
        """Record whose candidates the folder holds.

        Raises
        ------
        DetSeg3DError
            If the folder holds candidates of another model or of other scans.
        """
        file = self.folder / "candidates.json"
        stated = {"weights": weights_digest(weights), "shifts": 1, **description}
        if file.exists() and read_json(file) != stated:
            raise DetSeg3DError(
                "the folder holds candidates of another model or of other scans",
                file=file,
                expected=stated,
                remedy="choose another folder with -o, or delete this one",
            )
        write_json(stated, file)

    def of(self, condition: Condition, scan: LabelledScan) -> Candidates:
        """Return the candidates of a scan."""
        file = self.folder / condition.folder / f"{scan.case_id}.npz"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_candidates(self.predictor.find_candidates(scan.images, scan.geometry), file)
        # Read in any case, because stored probabilities are rounded.
        return load_candidates(file)


@dataclass(frozen=True)
class Count(JsonRecord):
    """Lesions of a scan at one threshold."""

    truth: int
    predictions: int
    outlined: int


@dataclass(frozen=True)
class ThresholdCounts(JsonRecord):
    """Lesions of a scan at each of the thresholds that are tried, 0.05 to 0.95."""

    counts: tuple[Count, ...]


def count_at_thresholds(scan: LabelledScan, candidates: Candidates, plans: Plans) -> ThresholdCounts:
    """Count lesions matched one to one with an IoU of 0.1 or more, at each threshold."""
    outcomes = CaseOutcomes(candidates, CaseTruth.of(scan.lesions, scan.geometry.spacing), plans)
    counts = []
    for threshold in _THRESHOLDS:
        at = outcomes.count(plans.inference.model_copy(update={"score_threshold": threshold, "scan_threshold": 0.0}))
        counts.append(Count(at.truth, at.predictions, at.outlined))
    return ThresholdCounts(tuple(counts))


def choose_thresholds(
    counts: Mapping[Condition, Mapping[str, ThresholdCounts]], case_ids: Sequence[str], choice: Choice
) -> dict[str, float]:
    """Return a score threshold for each case, chosen on all other cases.

    Parameters
    ----------
    counts : mapping of Condition to mapping of str to ThresholdCounts
        By condition and case.
    case_ids : sequence of str
        At least two.
    choice : Choice

    Raises
    ------
    DetSeg3DError
        If there is only one case.
    """
    if len(case_ids) < 2:
        raise DetSeg3DError(
            "a threshold cannot be chosen on other scans", value=len(case_ids), expected="2 scans or more"
        )
    used = [CLEAN] if choice is Choice.HOME else list(counts)
    chosen = {}
    for case_id in case_ids:
        others = [other for other in case_ids if other != case_id]
        f1 = np.mean([_f1([counts[condition][other] for other in others]) for condition in used], axis=0)
        # Among equal thresholds the middle, because its neighbours are as good.
        best = np.flatnonzero(f1 >= f1.max() - 1e-9)
        chosen[case_id] = _THRESHOLDS[int(best[len(best) // 2])]
    return chosen


def _f1(scans: Sequence[ThresholdCounts]) -> list[float]:
    """Return the pooled F1 at each threshold."""
    result = []
    for counts in zip(*(scan.counts for scan in scans), strict=True):
        total = sum(count.truth + count.predictions for count in counts)
        result.append(2 * sum(count.outlined for count in counts) / total if total else 1.0)
    return result
