from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli.convert import main, parse_labels
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import load_raw_dataset
from tests.data.bids.builders import add_image, add_mask


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


@pytest.fixture
def bids(tmp_path: Path) -> list[str]:
    root = tmp_path / "bids"
    for subject in (1, 2):
        for acquisition in ("a", "b"):
            add_image(root, f"sub-{subject}_acq-{acquisition}_FLAIR")
        add_image(root, f"sub-{subject}_T1w")
        add_mask(root / "derivatives/lesions", f"sub-{subject}_desc-lesion_mask")
        add_mask(root / "derivatives/lesions", f"sub-{subject}_desc-brain_mask")
    return ["--bids", str(root), "--output_dir", str(tmp_path / "raw"), "-np", "0"]


def test_bids_flags_reach_the_data_set(tmp_path: Path, bids: list[str]) -> None:
    flags = "--suffix FLAIR T1w,acq= --bids_filter acq=b --bids_labels lesions --label_filter desc=lesion"
    assert main([*bids, *flags.split()]) == 0
    folder = tmp_path / "raw/Dataset001_Converted"
    dataset = load_raw_dataset(folder)
    assert dataset.channel_names == ("FLAIR", "T1w") and dataset.patients == {"sub-1": "sub-1", "sub-2": "sub-2"}
    copied = (folder / "imagesTr/sub-1_0000.nii.gz").read_bytes()
    assert copied == (tmp_path / "bids/sub-1/anat/sub-1_acq-b_FLAIR.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("", "--suffix"),
        ("--suffix FLAIR", "sub-1_acq-a_FLAIR.nii.gz, sub-1_acq-b_FLAIR.nii.gz"),
        ("--suffix FLAIR --bids_filter acq=a --bids_labels lesions", "desc=brain"),
        ("--suffix T1w --bids_labels lesion", "lesions"),
        ("--suffix T1w --bids_filter acq-a", "acq-a"),
        ("--suffix T2w", "4 FLAIR"),
        ("--suffix T1w --image_dir x", "--image_dir"),
        ("--suffix T1w --series 3", "--series"),
    ],
)
def test_a_wrong_choice_of_bids_is_refused_by_name(
    tmp_path: Path, bids: list[str], flags: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*bids, *flags.split()]) == 1
    assert named in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("flags", ["--suffix FLAIR", "--each_run", "--bids_labels x"])
def test_bids_flags_need_bids(
    folders: list[str], tmp_path: Path, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*folders, "--output_dir", str(tmp_path / "raw"), *flags.split()]) == 1
    assert flags.split()[0] in capsys.readouterr().err


def test_folders_or_bids_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output_dir", str(tmp_path / "raw")]) == 1
    assert "--image_dir" in capsys.readouterr().err
