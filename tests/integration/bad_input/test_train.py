"""What a training reads, broken: splits, plans, the store. Each ends before a step is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detseg3d.cli import train
from detseg3d.planning.plans import PLANS_VERSION, Plans
from detseg3d.system.json_files import write_json
from tests.integration.bad_input.running import Run, run
from tests.scans import prepare, write_dataset

pytestmark = pytest.mark.usefixtures("quick_training")

NAME = "Dataset001_Tiny"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    root = tmp_path_factory.mktemp("bad_training")
    prepare(write_dataset(root / "raw", tiny_plans), root / "preprocessed", tiny_plans)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copytree(prepared / "preprocessed", tmp_path / "preprocessed")
    (tmp_path / "raw").symlink_to(prepared / "raw")
    return tmp_path


def start(root: Path, *words: str) -> Run:
    folders = [f"--{name}={root / name}" for name in ("raw", "preprocessed", "results")]
    common = ["--num_workers=0", "-device=cpu", "--no_progress", "--epochs=1", "--batch_size=1"]
    return run(train.main, ["1", "0", *folders, *common, *words])


def folds(*splits: Any) -> str:
    return json.dumps(splits)


SPLITS: list[tuple[str, str, str]] = [
    ("splits that are no JSON", "[{", "the file is not valid JSON"),
    ("splits that are an object", "{}", "the splits cannot be understood"),
    ("no splits", "[]", "the splits cannot be understood"),
    ("splits with a text for cases", folds({"train": "case1", "val": []}), "the splits cannot be understood"),
    ("splits with numbers for cases", folds({"train": [1], "val": []}), "the splits cannot be understood"),
    ("nothing to train on", folds({"train": [], "val": ["case0"]}), "fold 0 has no training cases"),
    ("a case twice", folds({"train": ["case1", "case1"], "val": []}), 'fold 0 names cases twice in "train"'),
    (
        "training and validation overlap",
        folds({"train": ["case1", "case2"], "val": ["case2", "case3"]}),
        "fold 0 has 1 case(s) both in training and in validation",
    ),
    ("an unknown case", folds({"train": ["ghost"], "val": []}), "1 case(s) are not preprocessed with these plans"),
    (
        "a case that leaves the folder",
        folds({"train": ["../x"], "val": []}),
        "1 case(s) are not preprocessed with these plans",
    ),
]


@pytest.mark.parametrize(("name", "text", "outcome"), SPLITS, ids=[row[0] for row in SPLITS])
def test_broken_splits_are_refused(root: Path, name: str, text: str, outcome: str) -> None:
    (root / "preprocessed" / NAME / "splits_final.json").write_text(text, encoding="utf-8")
    done = start(root)
    assert done.code == 1 and done.error.startswith(outcome), done.error
    assert str(root / "preprocessed" / NAME) in done.error
    assert not list(root.rglob("model_final.safetensors"))


def set_plan(*keys: str | int, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


PLANS: list[tuple[str, Callable[[Any], None], str]] = [
    ("plans with an unknown key", set_plan("colour", value=1), "colour: Extra inputs are not permitted"),
    ("plans with an unknown training key", set_plan("training", "epoch", value=1), "training.epoch: Extra inputs"),
    ("plans of another version", set_plan("version", value=9), f"version: Input should be {PLANS_VERSION}"),
    ("plans with 0 channels", set_plan("channel_names", value=[]), "channel_names: Tuple should have at least 1"),
    ("plans with a spacing of 0", set_plan("fine_spacing", 0, value=0), "fine_spacing.0: Input should be greater"),
    ("plans with NaN", set_plan("fine_spacing", 0, value=float("nan")), "NaN is not allowed in JSON"),
    ("plans with a negative rate", set_plan("training", "learning_rate", value=-1), "training.learning_rate: Input"),
    ("plans with a text for a number", set_plan("roi", "margin", value="wide"), "roi.margin: Input should be a valid"),
    ("plans with null for a section", set_plan("stage1", value=None), "stage1: Input should be"),
    ("plans with shares that exceed 1", set_plan("training", "curriculum", 0, "fraction", value=1), "must sum to 1"),
    ("plans of other normalisation", set_plan("crop_to_body", value=False), "are not preprocessed with these plans"),
]


@pytest.mark.parametrize(("name", "change", "outcome"), PLANS, ids=[row[0] for row in PLANS])
def test_broken_plans_are_refused(root: Path, name: str, change: Callable[[Any], None], outcome: str) -> None:
    file = root / "preprocessed" / NAME / "plans.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    done = start(root)
    assert done.code == 1 and outcome in done.error, done.error
    assert str(file.parent) in done.error


def edit_record(**changes: Any) -> Callable[[Path], None]:
    def change(cases: Path) -> None:
        file = cases / "case1.json"
        write_json({**json.loads(file.read_text(encoding="utf-8")), **changes}, file)

    return change


def cut_array(cases: Path) -> None:
    file = cases / "case1_image.b2nd"
    file.write_bytes(file.read_bytes()[:500])


NOT_THERE = "1 case(s) are not preprocessed with these plans"
STORES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("record that is gone", lambda cases: (cases / "case1.json").unlink(), NOT_THERE),
    ("record that is no JSON", lambda cases: (cases / "case1.json").write_bytes(b"{"), NOT_THERE),
    ("record of lesions without boxes", edit_record(lesions=[{"id": 1}]), "the record of the case is damaged"),
    ("record of a shape of text", edit_record(shape="x"), "the record of the case is damaged"),
    ("array that is gone", lambda cases: (cases / "case1_instances.b2nd").unlink(), NOT_THERE),
    ("array that is truncated", cut_array, "the preprocessed array cannot be read"),
]


@pytest.mark.parametrize(("name", "change", "outcome"), STORES, ids=[row[0] for row in STORES])
def test_a_broken_store_is_refused(root: Path, name: str, change: Callable[[Path], Any], outcome: str) -> None:
    change(root / "preprocessed" / NAME / "cases")
    done = start(root)
    assert done.code == 1 and done.error.startswith(outcome), done.error
    assert "case1" in done.error


def test_a_validation_scan_that_broke_is_named_and_the_others_are_judged(root: Path, prepared: Path) -> None:
    (root / "raw").unlink()
    shutil.copytree(prepared / "raw", root / "raw")
    scan = root / "raw" / NAME / "imagesTr" / "case0_0000.mha"
    scan.write_bytes(scan.read_bytes()[:400])
    done = start(root)
    assert done.code == 1 and done.error.startswith("1 validation case(s) failed: case0")
    summary = root / "results" / NAME / "fold_0" / "validation" / "summary.json"
    assert [case["case_id"] for case in json.loads(summary.read_text(encoding="utf-8"))["cases"]] == ["case3"]


def test_a_validation_label_that_broke_is_named_and_the_others_are_judged(root: Path, prepared: Path) -> None:
    (root / "raw").unlink()
    shutil.copytree(prepared / "raw", root / "raw")
    label = root / "raw" / NAME / "labelsTr" / "case0.mha"
    label.write_bytes(label.read_bytes()[:400])
    done = start(root)
    assert done.code == 1 and "1 validation case(s) could not be evaluated, see above: case0" in done.err, done.err
    summary = root / "results" / NAME / "fold_0" / "validation" / "summary.json"
    assert [case["case_id"] for case in json.loads(summary.read_text(encoding="utf-8"))["cases"]] == ["case3"]
