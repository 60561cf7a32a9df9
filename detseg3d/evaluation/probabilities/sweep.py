"""The best way to make lesions of probability maps: a sweep of threshold, minimum size and score.

This is the fair baseline for a detector. nnDetection's "nnU-Net Plus" (Baumgartner et al. 2021,
https://arxiv.org/abs/2106.00817) turns nnU-Net's softmax into detections with settings chosen on the validation cases;
its program goes through size, threshold and score one after the other, here all combinations are tried.

A choice made on the cases that it is then judged by is optimistic, the more so the fewer cases there are. So the result
has a cross-fitted figure as well: each group of cases is judged with the setting chosen on all other groups.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like
from detseg3d.data.labels import LabelFormat, read_label_format, read_true_lesions
from detseg3d.evaluation.case import detect
from detseg3d.evaluation.case_files import (
    common_cases,
    describe_problem,
    files_by_case,
    image_case,
    only_class,
)
from detseg3d.evaluation.matching import OverlapTable, overlap_table
from detseg3d.evaluation.metrics import CRITERIA, HEADLINE, DetectionCounts
from detseg3d.evaluation.probabilities.components import SCORES, ComponentRule, find_components, reaches_volume
from detseg3d.evaluation.probabilities.maps import ProbabilityMap, probability_files, read_probability_map
from detseg3d.evaluation.scores.froc import ScoredCase, average_precision, scored_case
from detseg3d.evaluation.table import markdown_table
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["OBJECTIVES", "SweepGrid", "format_sweep", "sweep_probability_maps"]

logger = logging.getLogger(__name__)

OBJECTIVES = tuple(f"{figure}_{criterion}" for figure in ("ap", "f1") for criterion in CRITERIA)
"""What a sweep may maximise: average precision or lesion F1 under one of :data:`~detseg3d.evaluation.metrics.CRITERIA`,
pooled over lesions and classes. F1 counts every component, so the kind of score does not matter to it."""


@dataclass(frozen=True)
class SweepGrid:
    """The settings that are tried: all combinations.

    Attributes
    ----------
    thresholds : tuple of float
    minimum_volumes_mm3 : tuple of float
    scores : tuple of str
        Of :data:`~detseg3d.evaluation.probabilities.components.SCORES`.
    default : ComponentRule
        Of settings that are equally good the one nearest to this is chosen; it is always among those tried.

    Raises
    ------
    DetSeg3DError
        If a value is not possible.
    """

    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    minimum_volumes_mm3: tuple[float, ...] = (0.0, 3.0, 10.0, 30.0, 100.0)
    scores: tuple[str, ...] = SCORES
    default: ComponentRule = field(default_factory=ComponentRule)

    def __post_init__(self) -> None:
        default = self.default
        object.__setattr__(self, "thresholds", tuple(sorted({*self.thresholds, default.threshold})))
        volumes = {*self.minimum_volumes_mm3, default.minimum_volume_mm3}
        object.__setattr__(self, "minimum_volumes_mm3", tuple(sorted(volumes)))
        object.__setattr__(self, "scores", tuple(dict.fromkeys((*self.scores, default.score))))
        self.rules()  # each rule checks its values

    def rules(self) -> list[ComponentRule]:
        """All settings, by threshold, then volume, then score."""
        return [
            ComponentRule(threshold, volume, score)
            for threshold in self.thresholds
            for volume in self.minimum_volumes_mm3
            for score in self.scores
        ]

    def nearest_first(self) -> list[int]:
        """Positions in :meth:`rules`, the one most like the default first."""
        rules, default = self.rules(), self.default

        def distance(index: int) -> tuple[float, float, int]:
            rule = rules[index]
            steps = abs(self.thresholds.index(rule.threshold) - self.thresholds.index(default.threshold))
            volume = abs(rule.minimum_volume_mm3 - default.minimum_volume_mm3)
            return steps, volume, int(rule.score != default.score)

        return sorted(range(len(rules)), key=distance)


@dataclass(frozen=True)
class _Outcome:
    """What one setting gives in one case, under each criterion."""

    counts: Mapping[str, DetectionCounts]
    scored: Mapping[str, ScoredCase]


@dataclass(frozen=True)
class _Item:
    case_id: str
    truth: Path
    probabilities: Path


def sweep_probability_maps(
    truth_folder: str | Path,
    probability_folder: str | Path,
    *,
    label_format: LabelFormat | None = None,
    grid: SweepGrid | None = None,
    objective: str = "ap_iou_0.1",
    groups: Mapping[str, str] | None = None,
    num_groups: int = 5,
    seed: int = 0,
    cases: Sequence[str] | None = None,
    run: Run = Run(),
) -> dict[str, Any]:
    """Try all settings of a grid on the cases that both folders have, and choose the best.

    Each map is read once, and components are made once for each threshold.

    Parameters
    ----------
    truth_folder : path
        ``CASE.nii.gz`` (or another supported ending) per case: semantic labels or instance maps.
    probability_folder : path
        See :func:`~detseg3d.evaluation.probabilities.maps.probability_files`.
    label_format : LabelFormat, optional
        By default from a dataset.json, see :func:`~detseg3d.data.labels.read_label_format`.
    grid : SweepGrid, optional
    objective : str, optional
        One of :data:`OBJECTIVES`. IoU is that of the masks.
    groups : dict of str to str, optional
        Patient of each case: the cases of a patient are never chosen on and judged at once. By default each case is a
        patient.
    num_groups : int, optional
        Groups for the cross-fitted figure; no more than there are patients.
    seed : int, optional
        For the groups.
    cases : sequence of str, optional
        Only these; by default all of ``truth_folder``.
    run : Run, optional

    Returns
    -------
    dict
        Ready for JSON. ``chosen``: the best setting on all cases with its figures (each of :data:`OBJECTIVES`, and
        ``fp_per_scan_iou_0.1``, false positives per scan); ``default``: the same of the default setting;
        ``cross_fitted``: figures where each group was judged with the setting chosen on the others, and the settings
        by group (``None`` with one patient only; scores of different kinds are pooled as they are); ``rows``: all
        settings; further ``objective``, ``cases``, the folders, ``class_labels``, and ``problems``: what could not be
        evaluated, as ``{"case", "problem"}``. Such cases are in no figure.

    Raises
    ------
    DetSeg3DError
        If the objective is unknown, a folder does not exist, or no case can be evaluated.
    """
    if objective not in OBJECTIVES:
        raise DetSeg3DError("unknown objective of a sweep", value=objective, expected=f"one of {', '.join(OBJECTIVES)}")
    if num_groups < 2:
        raise DetSeg3DError("cross-fitting needs at least two groups", value=num_groups, expected="2 or more")
    truth_folder, probability_folder = Path(truth_folder), Path(probability_folder)
    form = label_format or read_label_format(truth_folder, probability_folder)
    grid = grid or SweepGrid()
    problems: list[dict[str, str]] = []
    truths = files_by_case(truth_folder, "truth", image_case, problems)
    maps = named_like(probability_files(probability_folder, problems), truths)
    common = common_cases(truths, maps, (truth_folder, probability_folder), problems, cases)
    items = [_Item(case_id, truths[case_id], maps[case_id]) for case_id in common]
    single = only_class([item.truth for item in items], form, run)
    outcomes: dict[str, list[_Outcome]] = {}
    for result in run_cases(partial(_sweep_case, form, grid, single), items, run, "sweeping"):
        if result.value is not None:
            outcomes[result.item.case_id] = result.value
        else:
            logger.debug("%s: %s", result.item.case_id, result.traceback)
            problems.append(describe_problem(result.item.case_id, result.error))
    if not outcomes:
        raise DetSeg3DError(f"no case could be evaluated; the first problem: {problems[-1]['problem']}")
    chosen = _choose(list(outcomes.values()), grid, objective)
    rules = grid.rules()
    rows = [_row(rule, [case[index] for case in outcomes.values()]) for index, rule in enumerate(rules)]
    return {
        "truth_folder": str(truth_folder),
        "probability_folder": str(probability_folder),
        "class_labels": None if form.classes is None else dict(form.classes),
        "objective": objective,
        "cases": len(outcomes),
        "default": rows[rules.index(grid.default)],
        "chosen": rows[chosen],
        "cross_fitted": _cross_fit(outcomes, grid, objective, _group(list(outcomes), groups or {}, num_groups, seed)),
        "rows": rows,
        "problems": sorted(problems, key=lambda problem: problem["case"]),
    }


def _sweep_case(form: LabelFormat, grid: SweepGrid, single_class: int, item: _Item) -> list[_Outcome]:
    """One case under every rule of the grid, in the order of its rules."""
    truth = read_true_lesions(item.truth, form)
    known = form.classes is not None or form.truth_instances
    map_ = read_probability_map(
        form.source(item.probabilities), truth.geometry, item.truth, truth.values if known else None, single_class
    )
    window = _window(truth.lesions.instances, map_.probability, grid.thresholds[0])
    map_ = ProbabilityMap(
        map_.probability[window], None if map_.classes is None else map_.classes[window], map_.class_values
    )
    instances = truth.lesions.instances[window]
    outcomes: list[_Outcome] = []
    for threshold in grid.thresholds:
        components = find_components(map_, threshold)
        table = overlap_table(instances, components.instances)
        true_values = np.array([truth.values[truth.lesions.classes[i]] for i in table.truth.ids.tolist()], np.int64)
        values = np.array(map_.class_values, np.int64)[components.classes]
        table = table.keep(true_values[table.truth_index] == values[table.prediction_index])
        for volume in grid.minimum_volumes_mm3:
            kept = reaches_volume(components.voxels, truth.geometry.voxel_volume, volume)
            scores = {name: components.scores[name][kept] for name in grid.scores}
            outcomes += _outcomes(item.case_id, table.select(np.ones(len(table.truth), np.bool_), kept), scores)
    return outcomes


def _window(instances: npt.NDArray[Any], probability: npt.NDArray[np.float32], lowest: float) -> tuple[slice, ...]:
    """What holds all lesions and all components, whatever the threshold: most often a small part of the scan."""
    inside = probability >= float(lowest)
    inside |= instances != 0
    window = []
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        window.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return tuple(window)


def _outcomes(case_id: str, table: OverlapTable, scores: Mapping[str, npt.NDArray[np.float64]]) -> list[_Outcome]:
    counts = {}
    for name, minimum_iou in CRITERIA.items():
        found, hit = detect(table, minimum_iou)
        counts[name] = DetectionCounts(len(found), int(found.sum()), len(hit), int(hit.sum()))
    return [
        _Outcome(counts, {name: scored_case(case_id, table, values, iou) for name, iou in CRITERIA.items()})
        for values in scores.values()
    ]


def _figure(outcomes: Sequence[_Outcome], objective: str) -> float:
    figure, criterion = objective.split("_", 1)
    if figure == "ap":
        return average_precision([outcome.scored[criterion] for outcome in outcomes])
    return sum((outcome.counts[criterion] for outcome in outcomes), DetectionCounts()).f1


def _figures(outcomes: Sequence[_Outcome]) -> dict[str, float]:
    false_positives = sum(outcome.counts[HEADLINE].false_positives for outcome in outcomes)
    figures = {objective: _figure(outcomes, objective) for objective in OBJECTIVES}
    return {**figures, f"fp_per_scan_{HEADLINE}": false_positives / len(outcomes)}


def _row(rule: ComponentRule, outcomes: Sequence[_Outcome]) -> dict[str, Any]:
    return {**asdict(rule), **_figures(outcomes)}


def _choose(cases: Sequence[Sequence[_Outcome]], grid: SweepGrid, objective: str) -> int:
    """Position of the best rule; of equals the one nearest to the default."""
    best, chosen = -np.inf, 0
    for index in grid.nearest_first():
        value = _figure([case[index] for case in cases], objective)
        if value > best + 1e-12:
            best, chosen = value, index
    return chosen


def _group(cases: Sequence[str], patients: Mapping[str, str], num_groups: int, seed: int) -> list[list[str]]:
    """Cases in groups of about equal size; those of a patient stay together."""
    names = sorted({patients.get(case_id, case_id) for case_id in cases})
    order = np.random.default_rng(seed).permutation(len(names))
    group_of = {names[int(place)]: number % num_groups for number, place in enumerate(order)}
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    for case_id in sorted(cases):
        groups[group_of[patients.get(case_id, case_id)]].append(case_id)
    return [group for group in groups if group]


def _cross_fit(
    outcomes: Mapping[str, Sequence[_Outcome]], grid: SweepGrid, objective: str, groups: Sequence[Sequence[str]]
) -> dict[str, Any] | None:
    if len(groups) < 2:
        return None
    rules = grid.rules()
    judged: list[_Outcome] = []
    settings = []
    for group in groups:
        others = [case for case_id, case in outcomes.items() if case_id not in group]
        chosen = _choose(others, grid, objective)
        judged += [outcomes[case_id][chosen] for case_id in group]
        settings.append({**asdict(rules[chosen]), "cases": list(group)})
    return {**_figures(judged), "groups": settings}


_COLUMNS = {
    "ap_iou_0.1": "AP at IoU ≥ 0.1",
    "ap_iou_0.5": "AP at IoU ≥ 0.5",
    "f1_iou_0.1": "F1 at IoU ≥ 0.1",
    "f1_any": "F1 at any overlap",
    "f1_iou_0.5": "F1 at IoU ≥ 0.5",
    "fp_per_scan_iou_0.1": "FP per scan at IoU ≥ 0.1",
}


def format_sweep(result: Mapping[str, Any]) -> str:
    """What :func:`sweep_probability_maps` returned, as a Markdown table with the caveat that belongs to it."""
    rows = [
        ("default", result["default"]),
        ("chosen on these cases", result["chosen"]),
        ("cross-fitted", result["cross_fitted"]),
    ]
    lines = []
    for name, row in rows:
        if row is not None:
            setting = ("–", "–", "–")
            if "threshold" in row:
                setting = (f"{row['threshold']:g}", f"{row['minimum_volume_mm3']:g}", row["score"])
            lines.append((name, *setting, *(f"{row[key]:.3f}" for key in _COLUMNS)))
    table = markdown_table(("setting", "threshold", "minimum mm³", "score", *_COLUMNS.values()), lines)
    text = (
        f"Chosen among {len(result['rows'])} settings on {result['cases']} cases for the highest "
        f"{result['objective']}. That is\noptimistic, as the choice was made on the same cases; "
    )
    if result["cross_fitted"] is None:
        text += "with one patient only, nothing honest can be said beside it."
    else:
        text += "cross-fitted, each group of cases is judged\nwith the setting that was chosen on the others."
    return f"### Components of probability maps\n\n{table}\n\n{text}"
