from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detseg3d.cli import train
from detseg3d.planning.appearance.training import TrainingAppearance, load_training_appearance
from detseg3d.planning.fingerprint_file import load_appearances
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.system.json_files import write_json
from tests.scans import prepare, write_dataset

pytestmark = pytest.mark.usefixtures("quick_training")

FOLDERS = ("raw", "preprocessed", "results")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Return a folder with ``raw`` and ``preprocessed`` data of two training and two validation cases."""
    root = tmp_path_factory.mktemp("train")
    plans = tiny_plans.evolve(
        training={"min_rois_per_window": 4, "max_windows_per_case": 2}, inference={"mirror_axes": ()}
    )
    prepare(write_dataset(root / "raw", plans), root / "preprocessed", plans)
    return root


def run(root: Path, *words: str, results: Path | None = None, fold: str = "0") -> int:
    folders = [f"--{name}={root / name}" for name in FOLDERS[:2]] + [f"--results={results or root / 'results'}"]
    return train.main(["1", fold, *folders, "--num_workers", "0", "-device", "cpu", "--no_progress", *words])


@pytest.fixture(scope="module")
def trained(prepared: Path) -> Path:
    """Return the folder ``fold_0`` after a training of one epoch."""
    settings = ["--epochs=1", "--batch_size=1", "--lr=0.003", "--hard_negative_threshold=0.25", "--mask_loss_weight=2"]
    assert run(prepared, *settings, "--val_every=7", "--roi_size=24") == 0
    return prepared / "results" / "Dataset001_Tiny" / "fold_0"


def test_flags_replace_values_of_the_plan(trained: Path, tiny_plans: Plans) -> None:
    plans = load_plans(trained / "plans.json")
    training = plans.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (1, 1, 0.003)
    assert (training.hard_negative_threshold, training.mask_loss_weight, training.val_every) == (0.25, 2.0, 7)
    assert plans.roi.size == (24, 24, 24)
    assert training.curriculum == tiny_plans.training.curriculum


def test_the_plan_is_not_changed(trained: Path, prepared: Path, tiny_plans: Plans) -> None:
    for folder in (prepared / "preprocessed" / "Dataset001_Tiny", trained.parent):
        assert load_plans(folder / "plans.json").training.epochs == tiny_plans.training.epochs


def test_the_results_folder_describes_the_data_set(trained: Path) -> None:
    names = {path.name for path in trained.parent.iterdir()}
    assert names == {"fold_0", "dataset.json", "dataset_fingerprint.json", "plans.json"}


def test_the_fold_is_complete(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "appearance.json",
        "checkpoint_latest.pt",
        "model_best.safetensors",
        "model_final.safetensors",
        "plans.json",
        "progress.png",
        "run.json",
        "run.log",
        "training_log.jsonl",
        "validation",
    ]


def test_the_validation_cases_are_predicted_and_evaluated(trained: Path) -> None:
    names = {str(path.relative_to(trained / "validation")) for path in (trained / "validation").rglob("*.*")}
    cases = {f"{folder}{case}" for case in ("case0.mha", "case3.mha") for folder in ("", "instances/")}
    for case in ("case0", "case3"):
        cases |= {f"rois/{case}.json", f"candidates/{case}.npz"}
    for case, shift in (("case0", "thick_slices_z"), ("case3", "gaussian_noise")):
        cases |= {f"shifted_scans/{shift}/{folder}/{case}.npz" for folder in ("candidates", "truth")}
    assert names == cases | {
        "true_boxes.json",
        "cases.csv",
        "lesions.csv",
        "shifted_scans.json",
        "summary.json",
    }
    summary = json.loads((trained / "validation" / "summary.json").read_text(encoding="utf-8"))
    assert [case["case_id"] for case in summary["cases"]] == ["case0", "case3"]


def test_a_flag_of_nnunet_without_a_meaning_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["101", "0", "--npz"])
    assert stop.value.code == 2
    assert "detseg3d_train always stores the data of the cross-validation" in capsys.readouterr().err


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the results that a test may change."""
    shutil.copytree(trained.parent, tmp_path / "results" / "Dataset001_Tiny")
    return tmp_path / "results"


def test_validation_can_be_repeated_without_training(
    prepared: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = results / "Dataset001_Tiny" / "fold_0"
    before = (fold / "validation" / "summary.json").read_text(encoding="utf-8")
    log = (fold / "training_log.jsonl").read_bytes()
    shutil.rmtree(fold / "validation")
    assert run(prepared, "--val", results=results) == 0
    after = (fold / "validation" / "summary.json").read_text(encoding="utf-8")
    assert json.loads(after)["summary"] == json.loads(before)["summary"]
    assert (fold / "training_log.jsonl").read_bytes() == log
    assert f"wrote {fold}" in capsys.readouterr().out


def test_a_validation_alone_names_the_flags_without_effect(
    prepared: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = results / "Dataset001_Tiny" / "fold_0" / "plans.json"
    assert run(prepared, "--val", "--lr=0.1", "--mirror_axes=none", "--max_minutes=1", results=results) == 0
    expected = f"these settings have no effect: learning_rate, mirror_axes, max_minutes; {plans} is used"
    assert expected in capsys.readouterr().err


def test_validation_needs_a_model(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(prepared, "--val", results=tmp_path) == 1
    assert f"file:     {tmp_path / 'Dataset001_Tiny'}" in capsys.readouterr().err


def test_a_finished_training_is_not_repeated(prepared: Path, results: Path) -> None:
    fold = results / "Dataset001_Tiny" / "fold_0"
    before = (fold / "model_final.safetensors").read_bytes()
    words = ["--epochs=1", "--batch_size=1", "--lr=0.003", "--roi_size=24"]
    assert run(prepared, "--c", *words, results=results) == 0
    assert (fold / "model_final.safetensors").read_bytes() == before


@pytest.mark.parametrize("words", [[], ["--epochs=1"], ["--whole_volume", "--max_minutes=0.01"]])
def test_a_finished_fold_is_refused_and_kept(
    prepared: Path, results: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    fold = results / "Dataset001_Tiny" / "fold_0"
    before = {path: path.read_bytes() for path in fold.rglob("*") if path.is_file()}
    assert run(prepared, *words, results=results) == 1
    error = capsys.readouterr().err
    assert "--overwrite" in error and str(fold) in error
    assert {path: path.read_bytes() for path in fold.rglob("*") if path.is_file()} == before


def test_a_fold_is_trained_again_with_overwrite(prepared: Path, results: Path) -> None:
    model = results / "Dataset001_Tiny"
    before = (model / "fold_0" / "model_final.safetensors").read_bytes()
    assert run(prepared, "--overwrite", "--epochs=1", "--whole_volume", "--seed=5", results=results) == 0
    assert (model / "fold_0" / "model_final.safetensors").read_bytes() != before
    assert load_plans(model / "fold_0" / "plans.json").training.curriculum[0].window is None
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    assert sorted(path.name for path in model.iterdir() if path.is_dir()) == ["fold_0"]


def test_continuing_and_overwriting_exclude_each_other(prepared: Path) -> None:
    with pytest.raises(SystemExit):
        run(prepared, "--c", "--overwrite")


def test_continuing_needs_no_seed(prepared: Path, tmp_path: Path) -> None:
    words = ["--epochs=1", "--whole_volume", "--max_minutes=0.01"]
    assert run(prepared, *words, "--seed=4", results=tmp_path) == 0
    assert run(prepared, *words, "--c", results=tmp_path) == 0


def test_continuing_with_another_seed_is_refused(
    prepared: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(prepared, "--c", "--seed=4", "--roi_size=24", results=results) == 1
    assert "resume with --seed 0" in capsys.readouterr().err


def test_missing_pretrained_weights_are_named(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(prepared, "--pretrained_weights", str(tmp_path / "gone.safetensors"), results=tmp_path) == 1
    assert "gone.safetensors" in capsys.readouterr().err


def test_the_fold_all_trains_on_every_case(prepared: Path, tmp_path: Path) -> None:
    assert run(prepared, "--epochs=1", "--whole_volume", "--tensorboard", fold="all", results=tmp_path) == 0
    fold = tmp_path / "Dataset001_Tiny" / "fold_all"
    assert list((fold / "tensorboard").glob("events.*"))
    summary = json.loads((fold / "validation" / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["cases"]) == 4
    assert [phase.window for phase in load_plans(fold / "plans.json").training.curriculum] == [None]


def test_a_fold_without_validation_cases_only_trains(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prepared / "preprocessed", tmp_path / "preprocessed")
    (tmp_path / "raw").symlink_to(prepared / "raw")
    splits = [{"train": ["case1"], "val": []}]
    write_json(splits, tmp_path / "preprocessed" / "Dataset001_Tiny" / "splits_final.json")
    assert run(tmp_path, "--epochs=1") == 0
    fold = tmp_path / "results" / "Dataset001_Tiny" / "fold_0"
    assert (fold / "model_final.safetensors").exists() and not (fold / "validation").exists()


def test_a_training_with_only_healthy_cases_works(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "preprocessed", tmp_path / "preprocessed")
    (tmp_path / "raw").symlink_to(prepared / "raw")
    splits = [{"train": ["case3"], "val": ["case3"]}]
    write_json(splits, tmp_path / "preprocessed" / "Dataset001_Tiny" / "splits_final.json")
    assert run(tmp_path, "--epochs=1") == 0
    validation = tmp_path / "results" / "Dataset001_Tiny" / "fold_0" / "validation"
    assert (
        json.loads((validation / "summary.json").read_text(encoding="utf-8"))["summary"]["overall"]["detection"]["any"][
            "truth"
        ]
        == 0
    )


def test_a_missing_fold_is_refused(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(prepared, fold="5") == 1
    error = capsys.readouterr().err
    assert "detseg3d_train: error: this fold does not exist" in error and "expected: 0 or all" in error


def test_a_missing_data_set_is_refused(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        train.main(["77", "0", "--raw", str(prepared / "raw"), "--preprocessed", str(prepared / "preprocessed")]) == 1
    )
    assert "there is no data set '77'; found: Dataset001_Tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "must be at least 1"),
        (["--lr", "-1"], "must be greater than 0"),
        (["--hard_negative_threshold", "2"], "must lie between 0 and 1"),
        (["--max_minutes", "0"], "must be greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[Any]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["1", "0", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_two_processes_train_one_model(prepared: Path, tmp_path: Path) -> None:
    """Two processes on the CPU replace two GPUs: both train, and only one writes."""
    folders = [f"--{name}={prepared / name}" for name in FOLDERS[:2]] + [f"--results={tmp_path}"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "detseg3d.cli.train", "1", "0", *folders, "--num_workers=0", "-device=cpu"]
    command += ["--whole_volume", "--steps=8", "--disable_tta", "--shifted_scans=0"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote ") == 1
    fold = tmp_path / "Dataset001_Tiny" / "fold_0"
    records = [json.loads(line) for line in (fold / "training_log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["epoch"] for record in records if record["kind"] == "epoch"] == [1, 2]
    assert (fold / "model_final.safetensors").is_file()
    assert (fold / "validation" / "summary.json").is_file()


def test_a_resumed_training_keeps_its_settings(trained: Path, prepared: Path, tmp_path: Path) -> None:
    """``--c`` needs no other flag, because the checkpoint stores the settings of the training."""
    shutil.copytree(trained.parent, tmp_path / trained.parent.name)
    assert run(prepared, "--c", results=tmp_path) == 0
    training = load_plans(tmp_path / trained.parent.name / "fold_0" / "plans.json").training
    assert (training.epochs, training.learning_rate, training.val_every) == (1, 0.003, 7)


def test_the_fold_describes_its_training_scans_and_no_others(trained: Path, prepared: Path) -> None:
    reference = load_training_appearance(trained / "appearance.json")
    fingerprint = prepared / "preprocessed" / "Dataset001_Tiny" / "dataset_fingerprint.json"
    scans = load_appearances(fingerprint, ["case1", "case2"])  # the others are held out
    plans = load_plans(trained / "plans.json")
    assert reference == TrainingAppearance.of(scans, plans.channel_names, plans.normalization)
    assert "case" not in (trained / "appearance.json").read_text(encoding="utf-8").replace('"cases"', "")


def test_a_repeated_validation_writes_a_missing_description_of_the_training_scans(
    prepared: Path, results: Path
) -> None:
    file = results / "Dataset001_Tiny" / "fold_0" / "appearance.json"
    before = file.read_bytes()
    file.unlink()
    assert run(prepared, "--val", results=results) == 0
    assert file.read_bytes() == before


def test_validation_scans_are_compared_with_the_training_scans(trained: Path) -> None:
    record = json.loads((trained / "validation" / "rois" / "case0.json").read_text(encoding="utf-8"))
    assert record["similarity"]["training_cases"] == 2
    assert record["similarity"]["unlike_training"] is False
