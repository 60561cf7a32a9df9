from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import pretrain, train
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.synthetic.dataset import RANDOM_DATASET
from detseg3d.system.json_files import read_json
from tests.scans import prepare, write_dataset

pytestmark = pytest.mark.usefixtures("quick_training")

QUICK = ["--steps", "4", "--precision", "fp32", "-np", "0", "--num_workers", "0", "-device", "cpu"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command has run once."""
    folder = tmp_path_factory.mktemp("pretraining") / "out"
    assert pretrain.main(["-o", str(folder), "--num_cases", "6", "--longest_edge", "28", *QUICK]) == 0
    return folder


def test_the_model_is_evaluated_on_scans_that_it_has_not_seen(output: Path) -> None:
    [split] = read_json(output / "preprocessed" / RANDOM_DATASET / "splits_final.json")
    assert len(split["train"]) + len(split["val"]) == 6 and split["val"]
    summary = read_json(output / "results" / RANDOM_DATASET / "fold_0" / "validation" / "summary.json")
    assert [case["case_id"] for case in summary["cases"]] == split["val"]


def test_the_augmentation_is_strong(output: Path) -> None:
    plans = load_plans(output / "results" / RANDOM_DATASET / "fold_0" / "plans.json")
    assert plans.training.augmentation == "strong"


def test_the_next_command_is_named(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain.main(["-o", str(output), "--c", *QUICK]) == 0
    weights = output / "results" / RANDOM_DATASET / "fold_0" / "model_final.safetensors"
    assert f"--pretrained_weights {weights}" in capsys.readouterr().out


def test_an_earlier_pretraining_is_kept(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = output / "results" / RANDOM_DATASET / "fold_0" / "model_final.safetensors"
    before = weights.read_bytes()
    assert pretrain.main(["-o", str(output), *QUICK]) == 1
    assert str(output) in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_the_weights_start_a_training_of_other_data(
    output: Path, tiny_plans: Plans, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, results = tmp_path / "raw", tmp_path / "results"
    # The pretrained network and the network of these plans have different stages.
    channels = load_plans(output / "results" / RANDOM_DATASET / "fold_0" / "plans.json").stage1.channels[1:3]
    plans = tiny_plans.evolve(stage1={"channels": channels})
    prepare(write_dataset(raw, plans), tmp_path / "preprocessed", plans)
    weights = output / "results" / RANDOM_DATASET / "fold_0" / "model_final.safetensors"
    roots = ["--raw", str(raw), "--preprocessed", str(tmp_path / "preprocessed"), "--results", str(results)]
    assert train.main(["1", "0", *roots, *QUICK[:4], *QUICK[6:], "--pretrained_weights", str(weights)]) == 0
    assert "backbone, stride 4×4×4: 9 of 9 tensors from stride 4×4×4" in capsys.readouterr().err
