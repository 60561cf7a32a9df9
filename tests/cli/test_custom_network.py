"""Test a network and a loss that are named on the command line, with the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import export_model, install_model, predict, train
from detseg3d.planning.plans import Plans, load_plans
from tests.scans import prepare, write_dataset

pytestmark = pytest.mark.usefixtures("quick_training")

NETWORK = "tests.models.test_custom:Wider"
LOSS = "tests.models.test_custom:constant_loss"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Return a data set and its ``fold_0``, trained for two steps with the custom network and loss."""
    root = tmp_path_factory.mktemp("custom")
    plans = tiny_plans.evolve(
        training={"min_rois_per_window": 4, "max_windows_per_case": 1}, inference={"mirror_axes": ()}
    )
    prepare(write_dataset(root / "raw", plans), root / "preprocessed", plans)
    assert run_train(root, "--steps=2", f"--network={NETWORK}", f"--loss={LOSS}") == 0
    return root


def run_train(root: Path, *words: str) -> int:
    folders = [f"--{name}={root / name}" for name in ("raw", "preprocessed", "results")]
    return train.main(["1", "0", *folders, "--num_workers", "0", "-device", "cpu", "--no_progress", *words])


def run_predict(root: Path, output: Path, *words: str, model: str = "results/Dataset001_Tiny") -> int:
    scans = root / "raw" / "Dataset001_Tiny" / "imagesTr"
    folders = ["-i", str(scans), "-o", str(output), "-m", str(root / model), "-device", "cpu", "--no_progress"]
    return predict.main([*folders, *words])


def test_the_plans_of_the_fold_record_the_names(root: Path) -> None:
    training = load_plans(root / "results" / "Dataset001_Tiny" / "fold_0" / "plans.json").training
    assert (training.network, training.mask_loss) == (NETWORK, LOSS)


def test_the_prediction_needs_the_name(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_predict(root, tmp_path / "out") != 0
    assert f"--network {NETWORK}" in capsys.readouterr().err
    assert run_predict(root, tmp_path / "out", f"--network={NETWORK}") == 0
    assert (tmp_path / "out" / "cases.csv").is_file()


def test_another_network_does_not_fit_the_weights(root: Path, tmp_path: Path) -> None:
    assert run_predict(root, tmp_path / "out", "--network=detseg3d.models.detseg:DetSeg3D") != 0


def test_a_continued_training_needs_the_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train(root, "--c") != 0
    assert f"--network {NETWORK}" in capsys.readouterr().err
    assert run_train(root, "--c", f"--network={NETWORK}", f"--loss={LOSS}") == 0


def test_an_exported_model_also_needs_the_name(root: Path, tmp_path: Path) -> None:
    file, theirs = tmp_path / "model.safetensors", tmp_path / "theirs"
    assert export_model.main(["1", "-o", str(file), "-f", "0", f"--results={root / 'results'}"]) == 0
    assert install_model.main([str(file), f"--results={theirs}"]) == 0
    installed = str(theirs / "Dataset001_Tiny")
    assert run_predict(root, tmp_path / "out", model=installed) != 0
    assert run_predict(root, tmp_path / "out", f"--network={NETWORK}", model=installed) == 0


def test_a_name_that_cannot_be_imported_is_an_error_before_the_training(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(root, "--overwrite", "--network=no_such_module_anywhere:build") != 0
    assert "no_such_module_anywhere" in capsys.readouterr().err
