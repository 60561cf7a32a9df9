"""The search for the operating point: stored candidates merged again under many settings, the networks at rest.

One parameter is varied at a time, the score threshold first and last; every setting that was tried is kept with its
counts by case, so that a choice can also be judged on cases that had no say in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.evaluation.labels import LabelFormat, Lesions, lesions_from_instances, lesions_from_semantic, read_label
from detseg3d.evaluation.lesions import evaluate_case
from detseg3d.execution.local import run_cases
from detseg3d.inference.candidates import Candidates, load_candidates
from detseg3d.models.merge import Merged
from detseg3d.planning.plans import Plans

__all__ = [
    "CaseCounts",
    "Objective",
    "Setting",
    "StoredCase",
    "Sweep",
    "pooled",
    "read_truth",
    "search",
    "with_setting",
]

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_RAW_SCORES = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))
_DISTANCES = (0.25, 0.375, 0.75, 1.0)
_OVERLAPS = (0.1, 0.2, 0.5)
_MASKS = (0.3, 0.4, 0.6, 0.7)
_DETECTIONS = (0.15, 0.2, 0.3)
_SIZES_VOXELS = (2, 3, 5, 8, 12)

# A parameter leaves the plan's value only for a gain that is more than noise, and small lesions go only for a real one.
_PAYS = 0.002
_PAYS_SIZE = 0.005


@dataclass(frozen=True)
class StoredCase:
    """One case of the cross-validation: who predicted it, its candidates and its label."""

    case_id: str
    fold: str
    candidates: Path
    label: Path


@dataclass(frozen=True)
class Setting:
    """What is chosen. ``score_threshold`` is on the scale of the calibrated score."""

    score_threshold: float
    det_threshold: float
    suppression_distance: float
    suppression_iou: float
    mask_threshold: float
    minimum_volume_mm3: float

    @classmethod
    def of(cls, plans: Plans) -> Setting:
        """Those of the plans."""
        return cls(**{name: getattr(plans.inference, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class CaseCounts:
    """Lesions of one case under one setting, at any overlap, and its voxel Dice."""

    truth: int
    found: int
    predictions: int
    true_positives: int
    dice: float


@dataclass(frozen=True)
class Objective:
    """What the operating point is chosen for: the highest F1, unless a recall or a number of false positives is given.

    Attributes
    ----------
    target_recall : float, optional
        The highest precision at this recall or more.
    target_fp : float, optional
        The highest recall at this number of false positives per scan or fewer.
    """

    target_recall: float | None = None
    target_fp: float | None = None

    def __str__(self) -> str:
        if self.target_recall is not None:
            return f"highest precision at a lesion recall of {self.target_recall:g} or more"
        if self.target_fp is not None:
            return f"highest lesion recall at {self.target_fp:g} false positives per scan or fewer"
        return "highest lesion F1"

    def value(self, figures: Mapping[str, float]) -> float:
        """How good the pooled ``figures`` are: comparable numbers; below 0 where the target is missed."""
        if self.target_recall is not None:
            recall = figures["recall"]
            return figures["precision"] if recall >= self.target_recall else recall - 1 - self.target_recall
        if self.target_fp is not None:
            rate = figures["fp_per_scan"]
            return figures["recall"] if rate <= self.target_fp else self.target_fp - rate
        return figures["f1"]


def pooled(counts: Sequence[CaseCounts]) -> dict[str, float]:
    """F1, recall and precision over the lesions of all cases, false positives per scan, mean Dice.

    Examples
    --------
    >>> pooled([CaseCounts(4, 3, 4, 3, 0.75)])["f1"]
    0.75
    """
    truth, found = sum(c.truth for c in counts), sum(c.found for c in counts)
    predictions, hits = sum(c.predictions for c in counts), sum(c.true_positives for c in counts)
    recall = found / truth if truth else float(not predictions)
    precision = hits / predictions if predictions else float(not truth)
    return {
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "recall": recall,
        "precision": precision,
        "fp_per_scan": (predictions - hits) / len(counts) if counts else 0.0,
        "dice": float(np.mean([c.dice for c in counts])) if counts else 0.0,
    }


@dataclass(frozen=True)
class Sweep:
    """All settings that were tried, ``counts[setting][case]``, and the choice."""

    cases: tuple[StoredCase, ...]
    counts: Mapping[Setting, tuple[CaseCounts, ...]]
    default: Setting
    chosen: Setting
    objective: Objective

    def figures(self, setting: Setting) -> dict[str, float]:
        """Pooled over all cases."""
        return pooled(self.counts[setting])

    def without_own_fold(self) -> dict[str, float]:
        """Pooled figures where each fold's setting is the best of the *other* folds: what the choice is worth."""
        folds = sorted({case.fold for case in self.cases})
        if len(folds) < 2:
            return self.figures(self.chosen)
        kept: list[CaseCounts] = []
        for fold in folds:
            own = [case.fold == fold for case in self.cases]
            best = max(
                self.counts,
                key=lambda setting: self.objective.value(
                    pooled([c for c, mine in zip(self.counts[setting], own, strict=True) if not mine])
                ),
            )
            kept += [c for c, mine in zip(self.counts[best], own, strict=True) if mine]
        return pooled(kept)

    def rows(self) -> list[dict[str, Any]]:
        """One row per setting, for JSON."""
        return [{"setting": asdict(setting), **self.figures(setting)} for setting in self.counts]


def read_truth(label: Path, form: LabelFormat, plans: Plans) -> Lesions:
    """The true lesions of a case, with their classes."""
    array, _ = read_label(label, form)
    if plans.instances:
        return lesions_from_instances(array)
    return lesions_from_semantic(array, plans.class_labels, label)


def with_setting(plans: Plans, setting: Setting) -> Plans:
    """The plans with these thresholds."""
    return plans.model_copy(update={"inference": plans.inference.model_copy(update=asdict(setting))})


def search(
    cases: Sequence[StoredCase],
    plans: Plans,
    form: LabelFormat,
    objective: Objective,
    num_processes: int = 0,
    progress: bool = True,
) -> Sweep:
    """Choose the setting that serves the objective best on all cases together.

    Parameters
    ----------
    cases : sequence of StoredCase
    plans : Plans
        With the calibration in its inference section; its thresholds are where the search begins.
    form : LabelFormat
    objective : Objective
    num_processes : int
    progress : bool
    """
    counts: dict[Setting, tuple[CaseCounts, ...]] = {}
    calibration = plans.inference.calibration
    default = Setting.of(plans)

    def evaluate(settings: Sequence[Setting], what: str) -> None:
        new = [setting for setting in dict.fromkeys(settings) if setting not in counts]
        results = run_cases(partial(_try_settings, plans, form, new), cases, num_processes, what, progress)
        for result in results:
            if result.value is None:
                assert result.error is not None
                raise result.error
        for index, setting in enumerate(new):
            counts[setting] = tuple(result.value[index] for result in results if result.value is not None)

    def value(setting: Setting) -> float:
        return objective.value(pooled(counts[setting]))

    def better(settings: Sequence[Setting], current: Setting, pays: float) -> Setting:
        best = max(settings, key=value)
        return best if value(best) > value(current) + pays else current

    scores = [_calibrated(raw, calibration) for raw in _RAW_SCORES]
    tried = [default, *(replace(default, score_threshold=score) for score in scores)]
    evaluate(tried, "score threshold")
    current = better(tried, default, 0.0)
    rounds: tuple[tuple[str, Callable[[Setting], list[Setting]], float], ...] = (
        ("suppression", _suppressions, _PAYS),
        ("mask threshold", lambda s: [replace(s, mask_threshold=mask) for mask in _MASKS], _PAYS),
        (
            "detection threshold",
            lambda s: [replace(s, det_threshold=t) for t in _DETECTIONS if t > s.det_threshold],
            _PAYS,
        ),
    )
    for what, variants, pays in rounds:
        tried = variants(current)
        evaluate(tried, what)
        if what == "mask threshold":
            current = _best_outline([current, *tried], counts, value)
        else:
            current = better(tried, current, pays)
    fine = [replace(current, score_threshold=score) for score in _between(current.score_threshold, scores)]
    evaluate(fine, "score threshold")
    current = better(fine, current, 0.0)
    voxel = min(_voxel_volume(case) for case in cases)
    sizes = [replace(current, minimum_volume_mm3=round(n * voxel, 6)) for n in _SIZES_VOXELS]
    evaluate(sizes, "smallest lesion")
    current = better(sizes, current, _PAYS_SIZE)
    return Sweep(tuple(cases), counts, default, current, objective)


def _suppressions(setting: Setting) -> list[Setting]:
    return [
        *(replace(setting, suppression_distance=distance) for distance in _DISTANCES),
        *(replace(setting, suppression_iou=iou) for iou in _OVERLAPS),
    ]


def _best_outline(
    settings: Sequence[Setting],
    counts: Mapping[Setting, tuple[CaseCounts, ...]],
    value: Callable[[Setting], float],
) -> Setting:
    """The mask threshold of the highest Dice among those that serve the objective as well, within what is noise.

    Lesion F1 at any overlap alone would take ever larger masks, which touch more.
    """
    top = max(value(setting) for setting in settings)
    good = [setting for setting in settings if value(setting) >= top - _PAYS_SIZE]
    current, dice = settings[0], [pooled(counts[setting])["dice"] for setting in good]
    best = good[int(np.argmax(dice))]
    return current if current in good and max(dice) <= pooled(counts[current])["dice"] + _PAYS else best


def _calibrated(raw: float, calibration: Sequence[tuple[float, float]]) -> float:
    if not calibration:
        return raw
    points, values = zip(*calibration, strict=True)
    return float(np.interp(raw, points, values))


def _between(score: float, grid: Sequence[float]) -> list[float]:
    """Three values in each of the two gaps of the grid beside ``score``."""
    ordered = sorted({*grid, score})
    place = ordered.index(score)
    near = [ordered[place - 1]] * (place > 0) + [score] + [ordered[place + 1]] * (place + 1 < len(ordered))
    return [float(value) for low, high in pairwise(near) for value in np.linspace(low, high, 5)[1:-1]]


def _voxel_volume(case: StoredCase) -> float:
    with np.load(case.candidates, allow_pickle=False) as data:
        return float(np.prod(data["spacing"]))


def _try_settings(plans: Plans, form: LabelFormat, settings: Sequence[Setting], case: StoredCase) -> list[CaseCounts]:
    truth = read_truth(case.label, form, plans)
    candidates = load_candidates(case.candidates)
    merged: dict[Setting, Merged] = {}
    result = []
    for setting in settings:
        # Lesions too small are left out of the finished map, so these settings share one.
        whole = replace(setting, minimum_volume_mm3=0.0)
        if whole not in merged:
            chosen = with_setting(plans, whole)
            merged[whole] = candidates.admitted(chosen.inference).merge(chosen)
        result.append(_count(truth, merged[whole], candidates, setting))
    return result


def _count(truth: Lesions, merged: Merged, candidates: Candidates, setting: Setting) -> CaseCounts:
    smallest = setting.minimum_volume_mm3 / float(np.prod(candidates.spacing))
    instances = merged.instances
    dropped = [lesion.id for lesion in merged.lesions if lesion.voxels < smallest]
    if dropped:
        instances = np.where(np.isin(instances, dropped), 0, instances)
    metrics = evaluate_case(
        "",
        truth.instances,
        instances,
        candidates.spacing,
        truth_classes=truth.classes,
        prediction_classes={lesion.id: lesion.class_index for lesion in merged.lesions},
        class_names=None,
    )
    found = metrics.overall.detection["any"]
    return CaseCounts(found.truth, found.found, found.predictions, found.true_positives, metrics.dice)
