from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detseg3d.consolidation.stages import PERFECT_STAGE_1
from detseg3d.evaluation.metrics import Criterion
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.pipeline.consolidate import ConsolidationResult, consolidate
from detseg3d.pipeline.consolidation_report import report_consolidation
from detseg3d.planning.plans import Plans
from detseg3d.reporting.text.consolidation import format_consolidation
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.run import Run
from tests.consolidation.factory import NAME, Blob, Box, filled, write_fold, write_raw
from tests.evaluations import evaluate_pair

A: Box = (4, 4, 4, 7, 7, 7)
B: Box = (16, 4, 4, 19, 7, 7)
C: Box = (4, 18, 4, 7, 21, 7)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Two folds of two cases; case ``d`` has a label and was not validated."""
    folder = tmp_path_factory.mktemp("crossval")
    label = (filled(A, B) > 0).astype(np.uint8)
    write_raw(folder, dict.fromkeys("abcde", label))
    found, wrong = [Blob(A, 0.9, 0.9), Blob(B, 0.8, 0.8)], Blob(C, 0.5, 0.5)
    write_fold(folder, "0", {"a": [*found, wrong], "b": [found[0], wrong]}, tiny_plans)
    write_fold(folder, "1", {"c": [*found, wrong], "e": [*found, wrong]}, tiny_plans)
    return folder


@pytest.fixture(scope="module")
def pooled(root: Path) -> ConsolidationResult:
    return consolidate(root / "raw" / NAME, root / "results" / NAME, (0, 1), run=Run(show_progress=False))


@pytest.fixture(scope="module")
def result(root: Path, pooled: ConsolidationResult) -> EvaluationResult:
    return report_consolidation(pooled, root / "raw" / NAME, run=Run(show_progress=False))


# -- Figures -----------------------------------------------------------------------------------------------------------


def test_the_pooled_predictions_are_evaluated(
    root: Path, pooled: ConsolidationResult, result: EvaluationResult
) -> None:
    assert [case.case_id for case in result.cases] == ["a", "b", "c", "e"] and result.problems == ()
    lesions = result.summary.overall.detection[Criterion.ANY]
    assert (lesions.truth, lesions.found, lesions.predictions) == (8, 7, 7)
    # As anybody would evaluate the folder, to the digit.
    again = evaluate_pair(
        root / "raw" / NAME / "labelsTr", pooled.predictions, cases=["a", "b", "c", "e"], run=Run(show_progress=False)
    )
    assert again.summary == result.summary


def test_evaluation_and_search_give_equal_metrics(pooled: ConsolidationResult, result: EvaluationResult) -> None:
    """Compare the metrics of the cross-fitted masks: each fold has the thresholds that were chosen on the other."""
    metrics, group = pooled.summary.choice.metrics.cross_fitted, result.summary.overall
    assert metrics is not None
    any_overlap, matched = group.detection[Criterion.ANY], group.detection[Criterion.IOU_01]
    assert (any_overlap.f1, any_overlap.recall) == pytest.approx((metrics.f1_any, metrics.recall_any))
    assert any_overlap.precision == pytest.approx(metrics.precision_any)
    assert any_overlap.false_positives_per_scan == pytest.approx(metrics.fp_per_scan_any)
    assert (matched.f1, matched.recall) == pytest.approx((metrics.f1_iou_0_1, metrics.recall_iou_0_1))
    assert matched.precision == pytest.approx(metrics.precision_iou_0_1)
    assert matched.false_positives_per_scan == pytest.approx(metrics.fp_per_scan_iou_0_1)
    assert group.dice.mean == pytest.approx(metrics.dice)


def test_figures_and_report_lie_beside_the_predictions(pooled: ConsolidationResult, result: EvaluationResult) -> None:
    assert read_json(pooled.predictions / "metrics.json")["summary"] == result.summary.to_json()
    assert "cross-validation" in (pooled.predictions / "report.html").read_text(encoding="utf-8")


def test_a_pooled_case_without_masks_is_missing(pooled: ConsolidationResult, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cross_validation"
    shutil.copytree(pooled.predictions, folder)
    for name in ("b.mha", "instances/b.mha", "rois/b.json"):
        (folder / name).unlink()
    result = report_consolidation(
        replace(pooled, predictions=folder), root / "raw" / NAME, run=Run(show_progress=False)
    )
    assert {problem.case_id for problem in result.problems} == {"b"}
    assert [entry.case_id for entry in result.cases] == ["a", "c", "e"]


def test_labels_are_evaluated_as_the_plans_read_them(tmp_path: Path, tiny_plans: Plans) -> None:
    """By ``--instances`` they are instance maps; the raw dataset.json does not say so."""
    write_raw(tmp_path, {"a": filled(A, B) * 300})
    write_fold(tmp_path, "0", {"a": [Blob(A, 0.9, 0.9), Blob(B, 0.8, 0.8)]}, tiny_plans.evolve(instances=True))
    raw = tmp_path / "raw" / NAME
    pooled = consolidate(raw, tmp_path / "results" / NAME, [0], run=Run(show_progress=False))
    result = report_consolidation(pooled, raw, run=Run(show_progress=False))
    assert result.problems == ()
    assert result.summary.overall.detection[Criterion.ANY].found == 2


def test_files_that_the_description_lists_are_evaluated_and_shown(tmp_path: Path, tiny_plans: Plans) -> None:
    """nnU-Net's entry ``dataset``: scans and labels may lie anywhere."""
    raw = write_raw(tmp_path, {"a": (filled(A) > 0).astype(np.uint8)})
    (raw / "labelsTr").rename(raw / "masks")
    (raw / "imagesTr").rename(raw / "scans")
    listed = {"a": {"images": ["scans/a_0000.mha"], "label": "masks/a.mha"}}
    write_json(read_json(raw / "dataset.json") | {"dataset": listed}, raw / "dataset.json")
    write_fold(tmp_path, "0", {"a": [Blob(A, 0.9, 0.9)]}, tiny_plans)
    pooled = consolidate(raw, tmp_path / "results" / NAME, [0], run=Run(show_progress=False))
    result = report_consolidation(pooled, raw, run=Run(show_progress=False))
    assert result.problems == () and result.summary.overall.detection[Criterion.ANY].found == 1
    assert 'id="viewer-box"' in (pooled.predictions / "report.html").read_text(encoding="utf-8")


# -- Words -------------------------------------------------------------------------------------------------------------


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with ``first``."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_choice_stands_beside_the_plan(pooled: ConsolidationResult) -> None:
    text = format_consolidation(pooled.summary)
    assert "### Operating point: highest lesion F1 (IoU ≥ 0.1)" in text
    # F1, recall, precision, FP per scan: 7 of 8 lesions, with 4 false positives in 4 scans or without.
    plain, chosen = (
        cells(text, "with the thresholds of the plan"),
        cells(text, "chosen and evaluated on the same scans"),
    )
    assert plain[:4] == ["0.737", "0.875", "0.636", "1"]
    assert chosen[:4] == ["0.933", "0.875", "1", "0"]
    assert (plain[-3:-1], chosen[-3:-1]) == (["7", "11"], ["7", "7"])  # lesions found, predictions
    assert cells(text, "cross-fitted: each fold with the thresholds chosen on the other folds")[:4] == [
        "0.933",
        "0.875",
        "1",
        "0",
    ]
    assert cells(text, "smallest lesion (mm³)") == ["–", "–"]
    assert cells(text, "lowest mask probability of a voxel") == ["0.5", "0.5"]


def test_the_headline_is_cross_fitted_and_comes_first(pooled: ConsolidationResult, result: EvaluationResult) -> None:
    text = (pooled.predictions / "metrics.md").read_text(encoding="utf-8")
    first, then = text.split("###", 1)
    assert ThresholdOrigin.OTHER_FOLDS.remark in first
    assert cells(first, "F1 (IoU ≥ 0.1)")[0].startswith("0.933 [") and "### Operating point" in then
    record = read_json(pooled.predictions / "metrics.json")["cross_validation"]
    assert record["predicted_at_thresholds_of"] == "other folds"
    assert record["headline"]["f1_iou_0.1"] == result.estimates["f1_iou_0.1"].to_json()
    estimate = result.estimates["f1_iou_0.1"]
    interval = [estimate.low, estimate.high]
    assert record["metrics"]["cross_fitted_f1_interval"] == pytest.approx(interval)
    assert record["metrics"] == pooled.summary.choice.metrics.to_json()
    page = (pooled.predictions / "report.html").read_text(encoding="utf-8")
    assert page.index("Cross-fitted: ") < page.index("chosen and evaluated on the same scans")


def test_a_choice_of_a_single_fold_has_no_headline(tmp_path: Path, tiny_plans: Plans) -> None:
    raw = write_raw(tmp_path, dict.fromkeys("abcd", (filled(A) > 0).astype(np.uint8)))
    write_fold(tmp_path, "0", {case: [Blob(A, 0.9, 0.9), Blob(C, 0.5, 0.5)] for case in "abcd"}, tiny_plans)
    pooled = consolidate(raw, tmp_path / "results" / NAME, [0], run=Run(show_progress=False))
    report_consolidation(pooled, raw, run=Run(show_progress=False))
    record = read_json(pooled.predictions / "metrics.json")["cross_validation"]
    assert record["predicted_at_thresholds_of"] == "same scans"
    assert (record["headline"], record["metrics"]["cross_fitted"]) == (None, None)
    assert record["metrics"]["chosen_on_the_same_scans"]["f1_iou_0_1"] == 1.0
    first = (pooled.predictions / "metrics.md").read_text(encoding="utf-8").split("###")[0]
    assert cells(first, "F1 (IoU ≥ 0.1)") == ["–"] and "Warning" in first
    assert cells(first, "cross-fitted: each fold with the thresholds chosen on the other folds") == ["–"] * 8


def test_figures_of_a_plan_that_is_kept_are_a_headline(tmp_path: Path, tiny_plans: Plans) -> None:
    raw = write_raw(tmp_path, dict.fromkeys("abcd", (filled(A) > 0).astype(np.uint8)))
    write_fold(tmp_path, "0", {case: [Blob(A, 0.9, 0.9)] for case in "abcd"}, tiny_plans)
    pooled = consolidate(raw, tmp_path / "results" / NAME, [0], run=Run(show_progress=False))
    report_consolidation(pooled, raw, run=Run(show_progress=False))
    record = read_json(pooled.predictions / "metrics.json")["cross_validation"]
    assert record["predicted_at_thresholds_of"] == "plan" and pooled.point.plan_kept
    first = (pooled.predictions / "metrics.md").read_text(encoding="utf-8").split("###")[0]
    assert "no other thresholds gained more than noise" in first and cells(first, "F1 (IoU ≥ 0.1)")[0].startswith(
        "1.000"
    )


def test_the_stages_stand_by_size(pooled: ConsolidationResult) -> None:
    text = format_consolidation(pooled.summary)
    assert cells(text, "stage") == ["recall", "15 to under 50 voxels"]
    assert cells(text, "Stage 1, stored candidates") == ["0.875", "0.875"]
    assert cells(text, "in the final mask") == ["0.875", "0.875"]
    assert cells(text, "Dice of Stage 2 in the true boxes") == ["0.5", "0.5"]
    assert cells(text, PERFECT_STAGE_1) == ["1", "1"]
    assert cells(text, "lesions") == ["8", "8"]


def test_several_folds_calibrate_each_other_and_need_no_remark(pooled: ConsolidationResult) -> None:
    text = format_consolidation(pooled.summary)
    assert "**" not in text
    assert "The scores of each fold were calibrated with the other folds." in text
