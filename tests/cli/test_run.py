from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import run
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.synthetic.dataset import PhantomOptions, write_example_dataset
from detseg3d.system.json_files import read_json

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_dataset(
        tmp_path_factory.mktemp("raw"), num_cases=5, num_test=0, phantom=PhantomOptions((32, 32, 32), seed=1)
    )


@pytest.fixture(scope="module")
def arguments(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command line of an experiment that has already run once."""
    output = tmp_path_factory.mktemp("run") / "out"
    words = ["--image_dir", str(data / "imagesTr"), "--label_dir", str(data / "labelsTr"), "--output_dir", str(output)]
    words += [
        "--steps",
        "20",
        "--max_minutes",
        "0.02",
        "-np",
        "0",
        "--num_workers",
        "0",
        "-device",
        "cpu",
        "--seed",
        "1",
    ]
    assert run.main(words) == 0
    return words


@pytest.fixture
def output(arguments: list[str]) -> Path:
    return Path(arguments[5])


def test_held_out_cases_are_evaluated(output: Path) -> None:
    [split] = read_json(output / "preprocessed" / "Dataset001_Run" / "splits_final.json")
    evaluated = [case["case_id"] for case in read_json(output / "metrics.json")["cases"]]
    assert evaluated == split["val"]
    assert len(split["train"]) == 4
    assert not set(split["train"]) & set(split["val"])


def test_held_out_cases_are_drawn(output: Path) -> None:
    drawn = [path.stem for path in (output / "pictures").iterdir()]
    assert drawn == [case["case_id"] for case in read_json(output / "metrics.json")["cases"]]


def test_there_is_a_report_with_a_viewer(output: Path) -> None:
    page = (output / "report.html").read_text(encoding="utf-8")
    for case in read_json(output / "metrics.json")["cases"]:
        assert case["case_id"] in page
    assert 'id="viewer-box"' in page


def test_the_model_can_be_loaded(output: Path) -> None:
    predictor = Predictor.from_model_folder(output / "results" / "Dataset001_Run", [0], LoadOptions(device="cpu"))
    assert predictor.plans.training.steps == 20


def test_a_second_experiment_does_not_replace_the_first(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(arguments) == 1
    assert "the output folder contains an experiment already" in capsys.readouterr().err


def test_an_experiment_is_continued(arguments: list[str], output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = output / "results" / "Dataset001_Run" / "fold_0" / "model_final.safetensors"
    before = weights.read_bytes()
    assert run.main([*arguments, "--c"]) == 0
    assert weights.read_bytes() == before, "a finished training has nothing left to do"
    assert f"-m {output / 'results' / 'Dataset001_Run'} -f 0" in capsys.readouterr().out


def test_a_continued_experiment_keeps_its_seed_and_split(arguments: list[str], output: Path) -> None:
    splits = output / "preprocessed" / "Dataset001_Run" / "splits_final.json"
    before = splits.read_bytes()
    assert arguments[-2:] == ["--seed", "1"]
    assert run.main([*arguments[:-2], "--val_split", "0.5", "--c"]) == 0
    assert splits.read_bytes() == before


@pytest.mark.parametrize("share", ["0", "1"])
def test_some_cases_must_be_held_out_and_some_not(
    data: Path, tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image_dir", str(data / "imagesTr"), "--label_dir", str(data / "labelsTr"), "--output_dir"]
    assert run.main([*words, str(tmp_path / "out"), "--val_split", share]) == 1
    assert "a fraction of the cases must be held out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--image_dir", str(tmp_path / "none"), "--label_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert run.main(words) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
