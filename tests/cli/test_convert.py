from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli.convert import main, parse_labels
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import load_raw_dataset


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for name in ("scans", "masks"):
        (tmp_path / name).mkdir()
    for case in "abcd":
        np.save(tmp_path / f"scans/{case}.npy", np.random.default_rng(ord(case)).normal(size=(3, 4, 5)))
        np.save(tmp_path / f"masks/{case}.npy", np.arange(60).reshape(3, 4, 5) % 3)
    return ["--image_dir", str(tmp_path / "scans"), "--label_dir", str(tmp_path / "masks"), "-np", "0"]


def test_all_flags_reach_the_data_set(tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--dataset_name Dataset042_X --test_split 0.25 --seed 3 --channel_names CT --labels b=2 a=1 --spacing 3 2 1"
    assert main([*folders, "--output_dir", str(tmp_path / "raw"), *flags.split()]) == 0
    folder = tmp_path / "raw/Dataset042_X"
    assert capsys.readouterr().out.strip() == str(folder)
    dataset = load_raw_dataset(folder)
    assert dataset.channel_names == ("CT",)
    assert dataset.labels == {"background": 0, "a": 1, "b": 2}
    assert dataset.default_spacing == (3.0, 2.0, 1.0)
    assert len(dataset.cases) == 3
    assert len(list((folder / "imagesTs").iterdir())) == 1


def test_the_output_folder_may_have_the_name_of_the_data_set(tmp_path: Path, folders: list[str]) -> None:
    assert main([*folders, "--output_dir", str(tmp_path / "raw/Dataset120_Mine")]) == 0
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Dataset120_Mine"]
    assert (tmp_path / "raw/Dataset120_Mine/dataset.json").is_file()


def test_instances_flag(tmp_path: Path, folders: list[str]) -> None:
    assert main([*folders, "--output_dir", str(tmp_path), "--instances"]) == 0
    assert load_raw_dataset(tmp_path / "Dataset001_Converted").instances


def test_an_error_is_a_message_and_exit_code_1(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "masks/a.npy").unlink()
    assert main([*folders, "--output_dir", str(tmp_path / "raw")]) == 1
    assert "a.npy  has no label" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--seed", "-1"), ("--test_split", "1.5"), ("--test_split", "nan")])
def test_numbers_out_of_range_are_refused_by_the_parser(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit):
        main([*folders, "--output_dir", str(tmp_path / "raw"), "--test_split", "0.2", flag, value])
    assert f"argument {flag}: {value} must" in capsys.readouterr().err


def test_label_names_of_the_command_line() -> None:
    assert parse_labels(None) is None
    assert parse_labels(["a", "b c"]) == ["a", "b c"]
    assert parse_labels(["a=1", "b=c=2"]) == {"a": 1, "b=c": 2}


@pytest.mark.parametrize("words", [["a=1", "b"], ["a=x"], ["=1"], ["a", "a"], ["a=1", "a=2"]])
def test_invalid_label_names_are_refused(words: list[str]) -> None:
    with pytest.raises(DetSeg3DError, match="cannot be understood"):
        parse_labels(words)
