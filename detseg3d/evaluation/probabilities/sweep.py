"""Search for the best threshold, minimum volume and kind of score of the lesions of probability maps.

A segmentation program with the best settings is a fair baseline for a detector. The method nnU-Net Plus of nnDetection
(Baumgartner et al. 2021, https://arxiv.org/abs/2106.00817) turns the softmax of nnU-Net into detections with settings
that are chosen on the validation cases. The method searches size, threshold and score one after the other. This module
tries all combinations.

The metrics of the chosen settings are too good on the cases of the choice. Therefore the result also has cross-fitted
metrics: each group of cases is evaluated with the settings that were chosen on the other groups.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyIntArray, FloatArray
from detseg3d.core.enums import StringEnum
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like
from detseg3d.data.labels import LabelFormat, read_label_format, read_true_lesions
from detseg3d.evaluation.case import detection_counts
from detseg3d.evaluation.case_files import (
    CaseProblem,
    common_cases,
    files_by_case,
    image_case,
    infer_single_class,
)
from detseg3d.evaluation.matching import OverlapTable, overlap_table
from detseg3d.evaluation.metrics import HEADLINE, Criterion, DetectionCounts
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.probabilities.components import SCORES, ComponentRule, find_components, reaches_volume
from detseg3d.evaluation.probabilities.maps import ProbabilityMap, probability_files, read_probability_map
from detseg3d.evaluation.scores.froc import ScoredCase, average_precision, scored_case
from detseg3d.system.json_records import JsonRecord
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["SweepGrid", "SweepMetrics", "SweepObjective", "SweepResult", "sweep_probability_maps"]

logger = logging.getLogger(__name__)


class SweepObjective(StringEnum):
    """Metric that a sweep maximizes, pooled over lesions and classes. The IoU is computed from masks.

    F1 counts every component, so the kind of score does not change it.
    """

    AP_IOU_01 = "ap_iou_0.1"
    AP_ANY = "ap_any"
    AP_IOU_05 = "ap_iou_0.5"
    F1_IOU_01 = "f1_iou_0.1"
    F1_ANY = "f1_any"
    F1_IOU_05 = "f1_iou_0.5"

    @property
    def is_average_precision(self) -> bool:
        """True for average precision, False for F1."""
        return self.value.startswith("ap_")

    @property
    def criterion(self) -> Criterion:
        """Criterion of a found lesion."""
        return Criterion(self.value.partition("_")[2])


@dataclass(frozen=True)
class SweepGrid:
    """Settings that are tried: all combinations of the values.

    Attributes
    ----------
    thresholds : tuple of float
        Thresholds of the probability.
    minimum_volumes_mm3 : tuple of float
        Minimum volumes of a component.
    scores : tuple of str
        Some of :data:`~detseg3d.evaluation.probabilities.components.SCORES`.
    default : ComponentRule
        Default setting; it is always tried. Between equally good settings, the setting nearest to the default is
        chosen.
    objective : SweepObjective
        Metric that the choice maximizes.

    Raises
    ------
    DetSeg3DError
        If a value is not valid.
    """

    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    minimum_volumes_mm3: tuple[float, ...] = (0.0, 3.0, 10.0, 30.0, 100.0)
    scores: tuple[str, ...] = SCORES
    default: ComponentRule = field(default_factory=ComponentRule)
    objective: SweepObjective = SweepObjective.AP_IOU_01

    def __post_init__(self) -> None:
        default = self.default
        object.__setattr__(self, "thresholds", tuple(sorted({*self.thresholds, default.threshold})))
        volumes = {*self.minimum_volumes_mm3, default.minimum_volume_mm3}
        object.__setattr__(self, "minimum_volumes_mm3", tuple(sorted(volumes)))
        object.__setattr__(self, "scores", tuple(dict.fromkeys((*self.scores, default.score))))
        self.rules()  # each rule checks its values

    def rules(self) -> list[ComponentRule]:
        """Return all settings, ordered by threshold, then volume, then score."""
        return [
            ComponentRule(threshold, volume, score)
            for threshold in self.thresholds
            for volume in self.minimum_volumes_mm3
            for score in self.scores
        ]

    def nearest_first(self) -> list[int]:
        """Return the positions in :meth:`rules`, the setting nearest to the default first."""
        rules, default = self.rules(), self.default

        def distance(index: int) -> tuple[float, float, int]:
            rule = rules[index]
            steps = abs(self.thresholds.index(rule.threshold) - self.thresholds.index(default.threshold))
            volume = abs(rule.minimum_volume_mm3 - default.minimum_volume_mm3)
            return steps, volume, int(rule.score != default.score)

        return sorted(range(len(rules)), key=distance)


@dataclass(frozen=True)
class SweepMetrics(JsonRecord):
    """Metrics of one setting.

    Attributes
    ----------
    objectives : dict of SweepObjective to float
        Value of each possible objective.
    fp_per_scan : float
        False positives per scan at IoU ≥ 0.1.
    """

    objectives: Mapping[SweepObjective, float]
    fp_per_scan: float


@dataclass(frozen=True)
class SweepRow(JsonRecord):
    """One setting with its metrics."""

    rule: ComponentRule
    metrics: SweepMetrics


@dataclass(frozen=True)
class SweepGroup(JsonRecord):
    """A group of cases, and the setting that was chosen on all other cases."""

    rule: ComponentRule
    cases: tuple[str, ...]


@dataclass(frozen=True)
class CrossFitted(JsonRecord):
    """Metrics of all cases, each evaluated with the setting that was chosen on the other groups.

    Scores of different kinds are pooled without conversion.
    """

    metrics: SweepMetrics
    groups: tuple[SweepGroup, ...]


@dataclass(frozen=True)
class SweepResult(JsonRecord):
    """Result of a sweep.

    Attributes
    ----------
    truth_folder, probability_folder : str
        Folders of the labels and of the probability maps.
    class_labels : dict of str to int, or None
        Value of each class in label files; ``None`` if no dataset.json names the classes.
    objective : SweepObjective
        Metric that the choice maximizes.
    cases : int
        Number of cases.
    default, chosen : SweepRow
        The default setting, and the best setting on all cases.
    cross_fitted : CrossFitted or None
        Cross-fitted metrics; ``None`` if there is only one patient.
    rows : tuple of SweepRow
        All settings.
    problems : tuple of CaseProblem
        Cases that could not be evaluated. The metrics leave these cases out.
    """

    truth_folder: str
    probability_folder: str
    class_labels: Mapping[str, int] | None
    objective: SweepObjective
    cases: int
    default: SweepRow
    chosen: SweepRow
    cross_fitted: CrossFitted | None
    rows: tuple[SweepRow, ...]
    problems: tuple[CaseProblem, ...] = ()


@dataclass(frozen=True)
class _Outcome:
    """Counts and scores of one case with one setting, under each criterion."""

    counts: Mapping[Criterion, DetectionCounts]
    scored: Mapping[Criterion, ScoredCase]


@dataclass(frozen=True)
class _CaseFiles:
    case_id: str
    truth: Path
    probabilities: Path


@dataclass(frozen=True)
class _Settings:
    """Settings of a sweep. ``single_class`` is the label value of the class, if maps have only one class."""

    label_format: LabelFormat
    grid: SweepGrid
    single_class: int


def sweep_probability_maps(
    given: EvaluationInput,
    grid: SweepGrid = SweepGrid(),
    groups: Mapping[str, str] | None = None,
    num_groups: int = 5,
    seed: int = 0,
    run: Run = Run(),
) -> SweepResult:
    """Try all settings of a grid on the cases that both folders have, and choose the best setting.

    Each map is read once, and components are computed once for each threshold.

    Parameters
    ----------
    given : EvaluationInput
        ``prediction_folder`` has the probability maps, see
        :func:`~detseg3d.evaluation.probabilities.maps.probability_files`. ``truth_files`` is not used.
    grid : SweepGrid, optional
        Settings to try.
    groups : dict of str to str, optional
        Patient of each case. The cases of a patient are in one group of the cross-fitting. By default each case is a
        patient.
    num_groups : int, optional
        Number of groups of the cross-fitting. The number of patients limits the number of groups.
    seed : int, optional
        Seed of the division into groups.
    run : Run, optional
        Number of worker processes and display of progress bars.

    Raises
    ------
    DetSeg3DError
        If ``num_groups`` is below 2, a folder does not exist, or no case can be evaluated.
    """
    if num_groups < 2:
        raise DetSeg3DError("cross-fitting needs at least two groups", value=num_groups, expected="2 or more")
    truth_folder, probability_folder = given.folders
    label_format = given.label_format or read_label_format(truth_folder, probability_folder)
    problems: list[CaseProblem] = []
    truths = files_by_case(truth_folder, "truth", image_case, problems)
    maps = named_like(probability_files(probability_folder, problems), truths)
    common = common_cases(truths, maps, (truth_folder, probability_folder), problems, given.cases)
    files = [_CaseFiles(case_id, truths[case_id], maps[case_id]) for case_id in common]
    single_class = infer_single_class([entry.truth for entry in files], label_format, run)
    settings = _Settings(label_format, grid, single_class)
    outcomes: dict[str, list[_Outcome]] = {}
    for result in run_cases(partial(_sweep_case, settings), files, run, "sweeping"):
        if result.value is not None:
            outcomes[result.item.case_id] = result.value
        else:
            logger.debug("%s: %s", result.item.case_id, result.traceback)
            problems.append(CaseProblem.of(result.item.case_id, result.error))
    if not outcomes:
        raise DetSeg3DError(f"no case could be evaluated; the first problem: {problems[-1].problem}")
    rules = grid.rules()
    rows = tuple(
        SweepRow(rule, _metrics([case[index] for case in outcomes.values()])) for index, rule in enumerate(rules)
    )
    return SweepResult(
        truth_folder=str(truth_folder),
        probability_folder=str(probability_folder),
        class_labels=None if label_format.classes is None else dict(label_format.classes),
        objective=grid.objective,
        cases=len(outcomes),
        default=rows[rules.index(grid.default)],
        chosen=rows[_choose(list(outcomes.values()), grid)],
        cross_fitted=_cross_fit(outcomes, grid, _group(list(outcomes), groups or {}, num_groups, seed)),
        rows=rows,
        problems=tuple(sorted(problems, key=lambda problem: problem.case_id)),
    )


def _sweep_case(settings: _Settings, files: _CaseFiles) -> list[_Outcome]:
    """Evaluate one case with every setting of the grid, in the order of its rules."""
    label_format, grid = settings.label_format, settings.grid
    truth = read_true_lesions(files.truth, label_format)
    is_known = label_format.classes is not None or label_format.truth_instances
    source = label_format.source(files.probabilities)
    values = truth.values if is_known else None
    map_ = read_probability_map(source, truth.geometry, files.truth, values, settings.single_class)
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
        component_values = np.array(map_.class_values, np.int64)[components.classes]
        table = table.keep(true_values[table.truth_index] == component_values[table.prediction_index])
        for volume in grid.minimum_volumes_mm3:
            kept = reaches_volume(components.voxels, truth.geometry.voxel_volume, volume)
            scores = [components.scores[name][kept] for name in grid.scores]
            outcomes += _outcomes(files.case_id, table.select(np.ones(len(table.truth), np.bool_), kept), scores)
    return outcomes


def _window(instances: AnyIntArray, probability: npt.NDArray[np.float32], lowest: float) -> tuple[slice, ...]:
    """Return the box around all lesions and all components at any threshold, often a small part of the scan."""
    inside = probability >= float(lowest)
    inside |= instances != 0
    window = []
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        window.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return tuple(window)


def _outcomes(case_id: str, table: OverlapTable, scores: Sequence[FloatArray]) -> list[_Outcome]:
    """Return the outcome for each kind of score."""
    counts = {criterion: detection_counts(table, criterion.minimum_iou) for criterion in Criterion}
    return [
        _Outcome(
            counts, {criterion: scored_case(case_id, table, values, criterion.minimum_iou) for criterion in Criterion}
        )
        for values in scores
    ]


def _value(outcomes: Sequence[_Outcome], objective: SweepObjective) -> float:
    criterion = objective.criterion
    if objective.is_average_precision:
        return average_precision([outcome.scored[criterion] for outcome in outcomes])
    return sum((outcome.counts[criterion] for outcome in outcomes), DetectionCounts()).f1


def _metrics(outcomes: Sequence[_Outcome]) -> SweepMetrics:
    false_positives = sum(outcome.counts[HEADLINE].false_positives for outcome in outcomes)
    return SweepMetrics(
        {objective: _value(outcomes, objective) for objective in SweepObjective}, false_positives / len(outcomes)
    )


def _choose(cases: Sequence[Sequence[_Outcome]], grid: SweepGrid) -> int:
    """Return the position of the best rule; between equally good rules, the rule nearest to the default."""
    best, chosen = -np.inf, 0
    for index in grid.nearest_first():
        value = _value([case[index] for case in cases], grid.objective)
        if value > best + 1e-12:
            best, chosen = value, index
    return chosen


def _group(cases: Sequence[str], patients: Mapping[str, str], num_groups: int, seed: int) -> list[list[str]]:
    """Divide cases into groups of about equal size. The cases of a patient stay together."""
    names = sorted({patients.get(case_id, case_id) for case_id in cases})
    order = np.random.default_rng(seed).permutation(len(names))
    group_of = {names[int(place)]: number % num_groups for number, place in enumerate(order)}
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    for case_id in sorted(cases):
        groups[group_of[patients.get(case_id, case_id)]].append(case_id)
    return [group for group in groups if group]


def _cross_fit(
    outcomes: Mapping[str, Sequence[_Outcome]], grid: SweepGrid, groups: Sequence[Sequence[str]]
) -> CrossFitted | None:
    """Evaluate each group with the setting that is best on all other groups."""
    if len(groups) < 2:
        return None
    rules = grid.rules()
    evaluated: list[_Outcome] = []
    fitted = []
    for group in groups:
        chosen = _choose([case for case_id, case in outcomes.items() if case_id not in group], grid)
        evaluated += [outcomes[case_id][chosen] for case_id in group]
        fitted.append(SweepGroup(rules[chosen], tuple(group)))
    return CrossFitted(_metrics(evaluated), tuple(fitted))
