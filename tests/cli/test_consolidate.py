from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli import consolidate
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.operating_point import load_operating_point
from detseg3d.inference.predictor import Predictor
from detseg3d.pipeline import consolidate as consolidate_module
from detseg3d.pipeline.predict import OutputOptions, predict_cases
from detseg3d.planning.plans import Plans
from detseg3d.system.json_files import read_json, write_json
from tests.consolidation.factory import NAME, Blob, Box, filled, write_fold, write_raw
from tests.scans import make_scan, write_dataset

A: Box = (4, 4, 4, 7, 7, 7)
B: Box = (16, 4, 4, 19, 7, 7)
C: Box = (4, 18, 4, 7, 21, 7)


@pytest.fixture
def root(tmp_path: Path, tiny_plans: Plans) -> Path:
    label = (filled(A, B) > 0).astype(np.uint8)
    write_raw(tmp_path, dict.fromkeys("ab", label))
    found, wrong = [Blob(A, 0.9, 0.9), Blob(B, 0.8, 0.8)], Blob(C, 0.5, 0.5)
    write_fold(tmp_path, "0", {"a": [*found, wrong]}, tiny_plans)
    write_fold(tmp_path, "1", {"b": [found[0], wrong]}, tiny_plans)
    return tmp_path


def run(root: Path, *words: str, folds: tuple[str, ...] = ("0", "1")) -> int:
    folders = [f"--raw={root / 'raw'}", f"--results={root / 'results'}", "-np", "0", "--no_progress"]
    return consolidate.main(["1", "-f", *folds, *folders, *words])


def test_it_prints_the_metrics_and_writes_all_files(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root) == 0
    model = root / "results" / NAME
    out = capsys.readouterr().out
    for text in ("### Lesions and voxels", "### Operating point: highest lesion F1", "### Where lesions are lost"):
        assert text in out
    assert f"wrote {model / 'operating_point.json'} and {model / 'cross_validation'}" in out
    written = {str(path.relative_to(model)) for path in model.rglob("*.*") if "fold_" not in str(path)}
    cases = {f"{folder}{case}" for case in "ab" for folder in ("rois/", "instances/", "")}
    assert {f"cross_validation/{name}.{'json' if 'rois' in name else 'mha'}" for name in cases} <= written
    reports = {f"cross_validation/{name}" for name in ("consolidation.json", "metrics.json", "report.html", "run.json")}
    assert reports | {"operating_point.json"} <= written


@pytest.mark.parametrize(
    ("words", "objective"),
    [
        (["--target_recall", "0.9"], "highest precision at a lesion recall of 0.9 or more (IoU ≥ 0.1)"),
        (["--target_fp", "0.25"], "highest lesion recall at 0.25 false positives per scan or fewer (IoU ≥ 0.1)"),
    ],
)
def test_a_target_can_be_given(root: Path, words: list[str], objective: str) -> None:
    assert run(root, *words) == 0
    point = load_operating_point(root / "results" / NAME)
    assert point is not None and point.objective == objective


def test_all_existing_folds_are_the_default(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [f"--raw={root / 'raw'}", f"--results={root / 'results'}"]
    assert consolidate.main(["1", *folders, "-np", "0", "--no_progress"]) == 0
    assert read_json(root / "results" / NAME / "cross_validation" / "consolidation.json")["folds"] == ["0", "1"]


def test_a_fold_without_candidates_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, folds=("0", "3")) == 1
    error = capsys.readouterr().err
    assert "detseg3d_consolidate: error: fold 3 has no stored candidates" in error
    assert f"detseg3d_train {NAME} 3 --val" in error and "with -f" in error


def test_two_folds_that_share_a_case_are_an_error(
    root: Path, tiny_plans: Plans, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fold(root, "2", {"b": [Blob(A, 0.9, 0.9)]}, tiny_plans)
    assert run(root, folds=("0", "1", "2")) == 1
    assert "two folds have validated this case" in capsys.readouterr().err


def test_the_fold_all_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, folds=("all",)) == 1
    assert "the fold all was trained on every case" in capsys.readouterr().err


def test_a_missing_model_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert consolidate.main(["77", f"--raw={root / 'raw'}", f"--results={root / 'results'}"]) == 1
    assert f"file:     {root / 'results'}" in capsys.readouterr().err


def test_a_mask_that_cannot_be_written_makes_the_exit_code_1(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = consolidate_module.write_case

    def fail(prediction: object, case_id: str, folder: Path, ending: str) -> None:
        if case_id == "b":
            raise OSError("the disk is full")
        original(prediction, case_id, folder, ending)  # type: ignore[arg-type]

    monkeypatch.setattr(consolidate_module, "write_case", fail)
    assert run(root) == 1
    printed = capsys.readouterr()
    assert "b failed: OSError: the disk is full" in printed.err and "1 case(s) failed: b" in printed.err
    assert "These cases failed: b." in printed.out
    folder = root / "results" / NAME / "cross_validation"
    assert (folder / "a.mha").is_file() and (folder / "metrics.json").is_file()
    assert load_operating_point(root / "results" / NAME) is not None


def test_a_case_whose_validation_failed_makes_the_exit_code_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"cases": [{"case_id": "b"}], "problems": [{"case_id": "a", "problem": "no prediction in validation"}]}
    write_json(summary, root / "results" / NAME / "fold_1" / "validation" / "summary.json")
    assert run(root, folds=("1",)) == 1
    assert "a failed: validation of fold 1: no prediction in validation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target_recall", "1.2"], "must lie between 0 and 1"),
        (["--target_fp", "0"], "must be greater than 0"),
        (["--target_recall", "0.5", "--target_fp", "1"], "not allowed with argument"),
    ],
)
def test_values_out_of_range_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        consolidate.main(["1", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_predictions_use_the_chosen_thresholds(
    tiny_model: Path, tmp_path: Path, tiny_plans: Plans, capsys: pytest.CaptureFixture[str]
) -> None:
    """Store candidates with real networks, consolidate, and predict the same masks again."""
    raw = write_dataset(tmp_path / "raw", tiny_plans)
    model = tmp_path / "results" / tiny_model.name
    for fold, cases in (("0", ["case0", "case1"]), ("1", ["case2", "case3"])):
        folder = model / f"fold_{fold}"
        shutil.copytree(tiny_model / f"fold_{fold}", folder)
        predictor = Predictor.from_model_folder(model, [fold], LoadOptions(device="cpu", use_mirroring=False))
        chosen = [case for case in predictor.list_inputs(raw / "imagesTr") if case.case_id in cases]
        output = OutputOptions(save_candidates=True, show_progress=False)
        assert not predict_cases(predictor, chosen, folder / "validation", output=output)
        summary = {"cases": [{"case_id": case} for case in cases], "problems": []}
        write_json(summary, folder / "validation" / "summary.json")
    assert run(tmp_path) == 0
    report = json.loads((model / "cross_validation" / "consolidation.json").read_text(encoding="utf-8"))
    point = report["choice"]
    assert point["metrics"]["plan"]["f1_iou_0_1"] > 0.8
    assert point["predicted_at_thresholds_of"] == "plan", "so few scans tell nothing, and all are predicted alike"
    for fold, case in (("0", "case1"), ("1", "case2"), ("1", "case3")):
        predictor = Predictor.from_model_folder(model, [fold], LoadOptions(device="cpu", use_mirroring=False))
        assert predictor.plans.inference.score_threshold == point["thresholds"]["score_threshold"]
        image, _ = make_scan(int(case[-1]), lesions=0 if case == "case3" else 4)
        lesions = predictor.predict_array(image, (1.0, 1.0, 1.0)).lesions
        record = json.loads((model / "cross_validation" / "rois" / f"{case}.json").read_text(encoding="utf-8"))
        # Stored probabilities are rounded to a 255th, so a voxel may differ.
        assert [lesion.score for lesion in lesions] == pytest.approx([entry["score"] for entry in record["lesions"]])
        for lesion, entry in zip(lesions, record["lesions"], strict=True):
            assert abs(lesion.voxels - entry["voxels"]) <= 2
