from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.data.labels import LabelFormat, lesions_from_semantic
from detseg3d.evaluation.matching import overlap_table
from detseg3d.evaluation.metrics import Criterion
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.probabilities.components import ComponentRule, lesions_from_probabilities
from detseg3d.evaluation.probabilities.maps import read_probability_map
from detseg3d.evaluation.probabilities.sweep import (
    SweepGrid,
    SweepMetrics,
    SweepObjective,
    SweepResult,
    sweep_probability_maps,
)
from detseg3d.evaluation.scores.froc import average_precision, scored_case
from detseg3d.reporting.text.sweep import format_sweep
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from tests.evaluations import evaluate_maps

SHAPE = (6, 10, 12)
GEOMETRY = Geometry(SHAPE, (2.0, 1.0, 0.5))  # a voxel is 1 mm³
GRID = SweepGrid((0.3, 0.5, 0.7), (0.0, 2.0, 5.0), ("max", "mean", "p95"))
Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]


def scan(seed: int) -> Arrays:
    """Return random cubes, and a probability map with noise and with high values in most of the cubes."""
    random = np.random.default_rng(seed)
    truth = np.zeros(SHAPE, np.uint8)
    lesion = np.full(SHAPE, 0.05)
    for _ in range(3):
        z, y, x = (int(random.integers(0, size - 3)) for size in SHAPE)
        edge = int(random.integers(1, 4))
        cube = np.s_[z : z + edge, y : y + edge, x : x + edge]
        truth[cube] = 1
        lesion[cube] = random.uniform(0.25, 0.95, truth[cube].shape)
    noise = random.uniform(0, 1, SHAPE) < 0.02
    lesion[noise] = random.uniform(0.2, 0.8, int(noise.sum()))
    return truth, np.stack([1 - lesion, lesion]).astype(np.float16)


def save(folder: Path, name: str, arrays: Arrays, geometry: Geometry = GEOMETRY) -> None:
    write_image(arrays[0], geometry, folder / "labels" / f"{name}.nii.gz")
    (folder / "maps").mkdir(exist_ok=True)
    np.savez_compressed(folder / "maps" / f"{name}.npz", probabilities=arrays[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json({"labels": {"background": 0, "lesion": 1}}, tmp_path / "dataset.json")
    for number in range(6):
        save(tmp_path, f"case{number}", scan(number))
    return tmp_path


def sweep(
    folder: Path, label_format: LabelFormat | None = None, cases: list[str] | None = None, **options: Any
) -> SweepResult:
    given = EvaluationInput(folder / "labels", folder / "maps", label_format, cases)
    return sweep_probability_maps(given, **{"grid": GRID, "run": Run(show_progress=False), **options})


AP, F1_ANY = SweepObjective.AP_IOU_01, SweepObjective.F1_ANY


def values_of(metrics: SweepMetrics) -> dict[str, float]:
    return {**metrics.objectives, "fp_per_scan": metrics.fp_per_scan}


def one_by_one(folder: Path, rule: ComponentRule, numbers: list[int]) -> dict[str, float]:
    """Return the metrics of one setting, computed from its lesions like those of any other prediction."""
    metrics, records = [], []
    for number in numbers:
        truth = lesions_from_semantic(scan(number)[0], [1], Path("truth"))
        map_ = read_probability_map(folder / "maps" / f"case{number}.npz", GEOMETRY, "truth", [1])
        lesions = lesions_from_probabilities(map_, GEOMETRY.spacing, rule)
        assert lesions.scores is not None
        metrics.append(evaluate_maps(str(number), truth.instances, lesions.instances, GEOMETRY.spacing).overall)
        scores = [lesions.scores[i] for i in sorted(lesions.scores)]
        records.append(scored_case(str(number), overlap_table(truth.instances, lesions.instances), scores, 0.1))
    total = sum(metrics[1:], start=metrics[0])
    return {
        AP: average_precision(records),
        **{f"f1_{name}": counts.f1 for name, counts in total.detection.items()},
        "fp_per_scan": total.detection["iou_0.1"].false_positives / len(numbers),
    }


@pytest.mark.parametrize("processes", [0, 1])
def test_each_row_equals_an_evaluation_of_its_setting(folder: Path, processes: int) -> None:
    result = sweep(folder, run=Run(processes))
    assert [row.rule for row in result.rows] == GRID.rules()
    assert len({row.metrics.objectives[AP] for row in result.rows}) > 9  # otherwise the comparison shows little
    for row in result.rows:
        expected = one_by_one(folder, row.rule, list(range(6)))
        assert {key: values_of(row.metrics)[key] for key in expected} == pytest.approx(expected)
    assert SweepResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


@pytest.mark.parametrize("objective", SweepObjective)
def test_the_best_row_is_chosen(folder: Path, objective: SweepObjective) -> None:
    result = sweep(folder, grid=replace(GRID, objective=objective))
    chosen = result.chosen.metrics.objectives[objective]
    assert chosen == max(row.metrics.objectives[objective] for row in result.rows)
    assert chosen > result.default.metrics.objectives[objective]
    assert result.default in result.rows


@pytest.mark.parametrize("objective", SweepObjective)
def test_an_objective_is_a_metric_under_a_criterion(objective: SweepObjective) -> None:
    metric = "ap" if objective.is_average_precision else "f1"
    assert objective == f"{metric}_{objective.criterion}" and objective.criterion in Criterion


def test_cross_fitting_chooses_without_the_cases_that_it_evaluates(folder: Path) -> None:
    fitted = sweep(folder, num_groups=3).cross_fitted
    assert fitted is not None
    records = []
    assert sorted(case for group in fitted.groups for case in group.cases) == [f"case{n}" for n in range(6)]
    for group in fitted.groups:
        inside = [int(name[-1]) for name in group.cases]
        others = [number for number in range(6) if number not in inside]
        value_of = {rule: one_by_one(folder, rule, others)[AP] for rule in GRID.rules()}
        assert value_of[group.rule] == pytest.approx(max(value_of.values()))
        for number in inside:
            map_ = read_probability_map(folder / "maps" / f"case{number}.npz", GEOMETRY, "truth", [1])
            lesions = lesions_from_probabilities(map_, GEOMETRY.spacing, group.rule)
            truth = lesions_from_semantic(scan(number)[0], [1], Path("truth")).instances
            table = overlap_table(truth, lesions.instances)
            records.append(scored_case(str(number), table, list((lesions.scores or {}).values()), 0.1))
    assert fitted.metrics.objectives[AP] == pytest.approx(average_precision(records))


def test_the_cases_of_a_patient_are_in_one_group(folder: Path) -> None:
    patients = {f"case{number}": "twice" if number in (1, 4) else f"p{number}" for number in range(6)}
    fitted = sweep(folder, groups=patients).cross_fitted
    assert fitted is not None and len(fitted.groups) == 5
    assert ("case1", "case4") in [group.cases for group in fitted.groups]


def test_one_patient_gives_no_cross_fitted_metric(folder: Path) -> None:
    result = sweep(folder, cases=["case0"])
    assert result.cross_fitted is None
    assert "single patient" in format_sweep(result)


def test_the_row_nearest_to_the_default_is_chosen_from_equal_rows(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[1:3, 1:3, 1:3] = 1
    sure = np.stack([1 - truth, truth]).astype(np.float16)
    save(tmp_path, "a", (truth, sure))
    save(tmp_path, "b", (truth, sure))
    grid = SweepGrid((0.3, 0.6), (0.0, 1.0), ("mean", "max"), ComponentRule(0.6, 1.0, "mean"))
    result = sweep(tmp_path, grid=grid)
    assert result.chosen.rule == grid.default
    assert {row.metrics.objectives[SweepObjective.AP_IOU_05] for row in result.rows} == {1.0}


def test_the_best_row_nearest_to_a_worse_default_is_chosen(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[1:3, 1:3, 1:3] = 1
    map_ = np.stack([1 - 0.65 * truth, 0.65 * truth]).astype(np.float16)
    save(tmp_path, "a", (truth, map_))
    grid = SweepGrid((0.2, 0.4, 0.6, 0.8), (0.0,), ("max",), ComponentRule(0.8))
    assert sweep(tmp_path, grid=grid).chosen.rule.threshold == 0.6


def test_without_dataset_json_a_map_is_of_the_only_class_of_the_labels(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[1:3, 1:3, 1:3] = 1
    save(tmp_path, "a", (255 * truth, np.stack([1 - truth, truth]).astype(np.float16)))
    assert sweep(tmp_path).chosen.metrics.objectives[F1_ANY] == 1.0


def test_the_minimum_volume_on_a_sheared_grid_is_measured_by_its_cells(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[1, 1, 1:3] = 1
    affine = (1.0, 0, 0, 0, 0, 1.0, 1.25, 0, 0, 0, 3.0, 0, 0, 0, 0, 1)  # cells of 3 mm³, steps of 3.25, 1 and 1 mm
    geometry = Geometry(SHAPE, (3.25, 1.0, 1.0), affine=affine)
    save(tmp_path, "a", (truth, np.stack([1 - truth, truth]).astype(np.float16)), geometry)
    rows = sweep(tmp_path, grid=SweepGrid((0.5,), (5.9, 6.1), ("max",))).rows
    assert {row.rule.minimum_volume_mm3: row.metrics.objectives[F1_ANY] for row in rows} == {
        0.0: 1.0,
        5.9: 1.0,
        6.1: 0.0,
    }


def test_the_default_is_always_among_the_settings() -> None:
    grid = SweepGrid((0.3,), (5.0,), ("mean",), ComponentRule(0.45, 1.0, "max"))
    assert grid.default in grid.rules()
    assert len(grid.rules()) == 2 * 2 * 2


def test_classes_are_matched_by_their_label_value(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[0, 0:2, 0:2], truth[0, 5:7, 5:7] = 1, 2
    swapped = np.zeros((3, *SHAPE), np.float16)
    swapped[1][truth == 1], swapped[2][truth == 1] = 0.9, 0.1  # class 1 is right
    swapped[1][truth == 2], swapped[2][truth == 2] = 0.8, 0.2  # class 2 is taken for class 1
    swapped[0] = 1 - swapped[1:].sum(axis=0)
    save(tmp_path, "a", (truth, swapped))
    for form in (LabelFormat({"rim": 2, "core": 1}), LabelFormat()):
        row = sweep(tmp_path, label_format=form).default
        assert row.metrics.objectives[F1_ANY] == 0.5
        assert row.metrics.objectives[SweepObjective.AP_ANY] == 0.5


def test_a_lesion_far_from_everything_in_the_map_is_missed(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[1, 1, 1] = 1
    map_ = np.stack([1 - truth, truth]).astype(np.float16)
    truth[5, 9, 11] = 1
    save(tmp_path, "a", (truth, map_))
    rows = [row for row in sweep(tmp_path).rows if row.rule.minimum_volume_mm3 == 0]
    assert {row.metrics.objectives[SweepObjective.AP_ANY] for row in rows} == {0.5}


def test_lesion_free_cases_count_as_scans(folder: Path) -> None:
    before = sweep(folder).default.metrics
    empty = np.zeros(SHAPE, np.uint8), np.stack([np.ones(SHAPE), np.zeros(SHAPE)]).astype(np.float16)
    save(folder, "empty", empty)
    after = sweep(folder).default.metrics
    assert after.fp_per_scan == pytest.approx(before.fp_per_scan * 6 / 7)
    assert after.objectives == before.objectives


def test_a_map_with_an_error_is_named_and_the_others_are_evaluated(folder: Path) -> None:
    (folder / "maps" / "case0.npz").write_bytes(b"nothing")
    (folder / "maps" / "case1.npz").unlink()
    np.savez(folder / "maps" / "extra.npz", probabilities=scan(0)[1])
    result = sweep(folder)
    problems = {problem.case_id: problem.problem for problem in result.problems}
    assert list(problems) == ["case0", "case1", "extra"]
    assert "cannot be read" in problems["case0"]
    assert result.cases == 4


def test_if_nothing_can_be_evaluated_the_reason_is_given(folder: Path) -> None:
    for file in (folder / "maps").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(DetSeg3DError, match=r"no case could be evaluated; the first problem: .*cannot be read"):
        sweep(folder)


def test_a_single_group_for_the_cross_fitting_is_refused(folder: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        sweep(folder, num_groups=1)
    assert caught.value.value == 1


def test_a_grid_with_an_impossible_value_is_refused() -> None:
    with pytest.raises(DetSeg3DError, match="threshold"):
        SweepGrid(thresholds=(0.5, 1.5))


def test_the_table_has_the_three_metrics_and_the_caution(folder: Path) -> None:
    result = sweep(folder)
    text = format_sweep(result)
    assert result.cross_fitted is not None
    for metrics in (result.default.metrics, result.chosen.metrics, result.cross_fitted.metrics):
        assert f"{metrics.objectives[AP]:.3f}" in text
    assert "optimistic" in text
