"""Candidates of a model for scans under all conditions, kept on disk; and the choice of thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shift.conditions import CLEAN, Condition
from benchmarks.shift.judging import ScanResult
from benchmarks.shift.scans import LabelledScan
from detseg3d.core.arrays import FloatArray
from detseg3d.core.enums import StringEnum
from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.scores.froc import add_scored
from detseg3d.inference.candidates import Candidates, load_candidates, save_candidates
from detseg3d.inference.operating_point import weights_digest
from detseg3d.inference.predictor import Predictor
from detseg3d.system.json_files import read_json, write_json

__all__ = ["Choice", "StoredCandidates", "choose_thresholds"]

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
        """Record which model and scans the candidates in the folder belong to.

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
            similarity = self.predictor.compare(scan.images, scan.geometry, scan.case_id)
            save_candidates(
                self.predictor.find_candidates(scan.images, scan.geometry, similarity, outline_all=True), file
            )
        # Read in any case, because stored probabilities are rounded.
        return load_candidates(file)


def choose_thresholds(
    results: Mapping[Condition, Sequence[ScanResult]], case_ids: Sequence[str], choice: Choice
) -> dict[str, float]:
    """Return a score threshold for each case, chosen on all other cases.

    The thresholds 0.05, 0.1, …, 0.95 are compared by the scores of the lesions that a low threshold gives. Merging the
    candidates again with each threshold would change few of these lesions.

    Parameters
    ----------
    results : mapping of Condition to sequence of ScanResult
        With scores.
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
            "there are no other scans to choose a threshold on", value=len(case_ids), expected="2 or more"
        )
    used = [results[CLEAN]] if choice is Choice.HOME else list(results.values())
    chosen = {}
    for case_id in case_ids:
        others = [[result for result in scans if result.case_id != case_id] for scans in used]
        f1 = np.mean([_f1(scans) for scans in others], axis=0)
        # Among equally good thresholds, the middle threshold is the safest.
        best = np.flatnonzero(f1 >= f1.max() - 1e-9)
        chosen[case_id] = _THRESHOLDS[int(best[len(best) // 2])]
    return chosen


def _f1(scans: Sequence[ScanResult]) -> FloatArray:
    """Return the F1 at each threshold, pooled over the lesions of all scans."""
    scored = add_scored([result.scores.scored_case(result.case_id) for result in scans if result.scores is not None])
    right, wrong = scored.true_positive_scores, scored.false_positive_scores
    values = []
    for threshold in _THRESHOLDS:
        hits, misses = np.count_nonzero(right >= threshold), np.count_nonzero(wrong >= threshold)
        total = len(scored.truth_scores) + hits + misses
        values.append(2 * hits / total if total else 1.0)
    return np.array(values)
