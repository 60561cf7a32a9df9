"""Test the records of runs that the commands write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from detseg3d.cli import evaluate, predict, train
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.planning.plans import Plans
from tests.command_forks import start_fork
from tests.scans import make_scan, prepare, write_dataset


def read(folder: Path, name: str = "run") -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return record


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images ``a.mha`` and ``b.mha``, and their labels in the folder ``labels``."""
    root = tmp_path_factory.mktemp("scans")
    for index, name in enumerate("ab"):
        image, label = make_scan(300 + index)
        write_image(image, Geometry(image.shape), root / "images" / f"{name}.mha")
        write_image(label, Geometry(image.shape), root / "labels" / f"{name}.mha")
    return root


def run_predict(model: Path, scans: Path, output: Path) -> int:
    words = ["-i", str(scans), "-o", str(output), "-m", str(model), "-f", "0", "-device", "cpu"]
    return predict.main([*words, "--no_progress", "--disable_tta"])


def test_a_prediction_and_its_evaluation_are_recorded(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    assert run_predict(tiny_model, scans / "images", tmp_path / "out") == 0
    record = read(tmp_path / "out")
    assert record["command"][:3] == ["detseg3d_predict", "-i", str(scans / "images")]
    assert record["exit_state"] == "succeeded" and set(record["digests"]) == {"images", "model"}
    assert "torch" in record["versions"] and record["cpu_seconds"] > 0
    assert "a: " in (tmp_path / "out" / "run.log").read_text(encoding="utf-8")
    words = ["-gt", str(scans / "labels"), "-pred", str(tmp_path / "out"), "--bootstrap", "10"]
    assert evaluate.main([*words, "-o", str(tmp_path / "evaluation")]) == 0
    assert read(tmp_path / "evaluation")["command"][0] == "detseg3d_evaluate"
    assert evaluate.main([*words, "-o", str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out") == record
    assert read(tmp_path / "out", "evaluation_run")["exit_state"] == "succeeded"


def test_a_prediction_in_which_a_case_fails_is_recorded_as_failed(
    tiny_model: Path, scans: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.mha").write_bytes((scans / "images" / "a.mha").read_bytes())
    (images / "broken.mha").write_bytes(b"broken")
    assert run_predict(tiny_model, images, tmp_path / "out") == 1
    record = read(tmp_path / "out")
    assert (record["exit_state"], record["exit_code"]) == ("failed", 1)
    assert "broken" in (tmp_path / "out" / "run.log").read_text(encoding="utf-8")


def test_other_images_have_another_digest(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    for name in "ab":
        run_predict(tiny_model, scans / "images" / f"{name}.mha", tmp_path / name)
    first, second = (read(tmp_path / name)["digests"] for name in "ab")
    assert first["model"] == second["model"] and first["images"] != second["images"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Return the parent of the folders ``raw`` and ``preprocessed`` of a small data set, for a long training."""
    root = tmp_path_factory.mktemp("train")
    plans = tiny_plans.evolve(training={"min_rois_per_window": 4, "steps_per_epoch": 2}, inference={"mirror_axes": ()})
    prepare(write_dataset(root / "raw", plans), root / "preprocessed", plans)
    return root


def training_words(root: Path, *words: str) -> list[str]:
    folders = [f"--{name}={root / name}" for name in ("raw", "preprocessed", "results")]
    return ["1", "0", *folders, "--num_workers", "0", "-device", "cpu", "--no_progress", *words]


def test_an_interrupted_training_is_recorded_and_the_resumed_training_keeps_the_record(
    prepared: Path, quick_training: None
) -> None:
    fold = prepared / "results" / "Dataset001_Tiny" / "fold_0"
    process = start_fork("train", *training_words(prepared, "--steps=6", "--seed=3"))
    for _ in range(6000):
        if (fold / "checkpoint_latest.pt").exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the training ended before the signal")
    record = read(fold)
    assert (record["exit_state"], record["exit_code"], record["seed"]) == ("interrupted", 143, 3)
    assert set(record["digests"]) == {"data"}
    assert train.main(training_words(prepared, "--c")) == 0
    resumed = read(fold)
    assert resumed["exit_state"] == "succeeded"
    assert [earlier["exit_state"] for earlier in resumed["previous"]] == ["interrupted"]
    assert train.main(training_words(prepared, "--val")) == 0
    assert read(fold) == resumed and read(fold / "validation")["exit_state"] == "succeeded"
