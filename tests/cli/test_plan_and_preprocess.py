from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detseg3d.cli.plan_and_preprocess import build_parser, main
from detseg3d.data.case_store import CaseStore
from detseg3d.planning.plans import load_plans
from tests.preprocessing.factory import write_dataset


def run(tmp_path: Path, *arguments: str) -> int:
    roots = ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "pp"), "-np", "0", "--no_progress"]
    return main([*arguments, *roots])


def test_it_plans_and_preprocesses_and_states_the_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "raw")
    assert run(tmp_path, "-d", "1", "--verify", "--training_gb", "4", "--roi_size", "48") == 0
    output = capsys.readouterr().out
    assert "fine spacing: 1×1×1 mm" in output
    assert "RoI size: 48×48×48" in output
    assert "recall bound" in output
    assert "preprocessed: 4 case(s)" in output
    folder = tmp_path / "pp" / "Dataset001_Test"
    assert load_plans(folder / "plans.json").training_budget_gb == 4
    assert len(CaseStore(folder / "cases").case_ids()) == 4


def test_memory_for_prediction_is_in_the_plans(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw")
    assert run(tmp_path, "-d", "1", "--no_pp", "--inference_gb", "5.5") == 0
    assert load_plans(tmp_path / "pp" / "Dataset001_Test" / "plans.json").inference_budget_gb == 5.5


def test_a_worker_process_gives_the_same(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", lesions=(2, 1))
    assert run(tmp_path, "-d", "1") == 0
    assert main(f"-d 1 --raw {tmp_path}/raw --preprocessed {tmp_path}/other -np 1".split()) == 0
    here, there = (tmp_path / root / "Dataset001_Test" for root in ("pp", "other"))
    for name in ("plans.json", "dataset_fingerprint.json", "cases/case0.json", "cases/case1.json"):
        assert (here / name).read_text(encoding="utf-8") == (there / name).read_text(encoding="utf-8")


def test_plan_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "raw")
    assert run(tmp_path, "-d", "Test", "--no_pp", "--val_split", "0.25", "--seed", "3") == 0
    assert "splits: 1 (training + validation cases: 3+1)" in capsys.readouterr().out
    assert not (tmp_path / "pp" / "Dataset001_Test" / "cases").exists()


def test_one_bad_data_set_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write_dataset(tmp_path / "raw", name="Dataset001_Bad")
    write_dataset(tmp_path / "raw", name="Dataset002_Good")
    (bad / "imagesTr" / "case1_0000.nii.gz").write_bytes(b"garbage")
    assert run(tmp_path, "-d", "1", "2") == 1
    captured = capsys.readouterr()
    assert "1 of 2 data sets failed: Dataset001_Bad" in captured.err
    assert "case1" in captured.err
    assert "preprocessed: 4 case(s)" in captured.out


def test_problems_are_one_table_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_dataset(tmp_path / "raw")
    (folder / "imagesTr" / "case1_0000.nii.gz").write_bytes(b"garbage")
    (folder / "labelsTr" / "case2.nii.gz").unlink()
    assert run(tmp_path, "-d", "1", "--verify") == 1
    error = capsys.readouterr().err
    assert "case1" in error
    assert "case2" in error
    assert "Traceback" not in error


def test_the_error_of_an_unknown_data_set_lists_the_existing_data_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "raw")
    assert run(tmp_path, "-d", "7") == 1
    assert "Dataset001_Test" in capsys.readouterr().err


def test_help_is_quick_and_does_not_import_torch() -> None:
    code = "import sys; from detseg3d.cli.plan_and_preprocess import build_parser; build_parser().format_help(); "
    code += "sys.exit('torch' in sys.modules or 'SimpleITK' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_help_shows_an_example() -> None:
    assert "detseg3d_plan_and_preprocess -d 101 --verify" in build_parser().format_help()


def test_names_of_channels_and_classes_do_not_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_dataset(tmp_path / "raw")
    file = folder / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["channel_names"] = {"0": "T1\x1b[2J\x07"}
    content["labels"] = {"background": 0, "lesion\u202e": 1}
    file.write_text(json.dumps(content), encoding="utf-8")
    roots = ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "pp")]
    assert main(["-d", "1", *roots, "-np", "0", "--no_pp"]) == 0
    shown = capsys.readouterr()
    for stream in (shown.out, shown.err):
        assert not {"\x1b", "\x07", "\u202e"} & set(stream)


def test_plans_from_a_fingerprint_need_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_dataset(tmp_path / "raw")
    assert run(tmp_path, "-d", "1", "--no_pp") == 0
    first = tmp_path / "pp" / "Dataset001_Test"
    shutil.rmtree(raw)
    given = ["--from_fingerprint", str(first / "dataset_fingerprint.json"), "--no_progress"]
    assert main([*given, "--preprocessed", str(tmp_path / "same")]) == 0
    second = tmp_path / "same" / "Dataset001_Test"
    for name in ("plans.json", "splits_final.json", "dataset_fingerprint.json"):
        assert (first / name).read_text(encoding="utf-8") == (second / name).read_text(encoding="utf-8")
    assert main([*given, "--preprocessed", str(tmp_path / "pp"), "--training_gb", "3", "--roi_size", "48"]) == 0
    plans = load_plans(first / "plans.json")
    assert (plans.training_budget_gb, plans.roi.size) == (3, (48, 48, 48))
    assert "RoI size: 48×48×48" in capsys.readouterr().out


def test_plans_from_a_fingerprint_do_not_mix_two_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "raw")
    write_dataset(tmp_path / "other", lesions=(1, 1))
    assert run(tmp_path, "-d", "1", "--no_pp") == 0
    folder = tmp_path / "pp" / "Dataset001_Test"
    plans = (folder / "plans.json").read_bytes()
    roots = ["--preprocessed", str(tmp_path / "pp2"), "-np", "0", "--no_progress"]
    assert main(["1", "--no_pp", "--raw", str(tmp_path / "other"), *roots]) == 0
    other = tmp_path / "pp2" / "Dataset001_Test" / "dataset_fingerprint.json"
    assert main(["--from_fingerprint", str(other), "--preprocessed", str(tmp_path / "pp")]) == 1
    assert "another fingerprint" in capsys.readouterr().err
    assert (folder / "plans.json").read_bytes() == plans


@pytest.mark.parametrize("flag", ["--verify", "--clean", "--instances", "--keep_plans", "--raw=x"])
def test_a_flag_that_needs_images_does_not_go_with_a_fingerprint(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--from_fingerprint", "f.json", flag, "--preprocessed", str(tmp_path)]) == 1
    assert flag.split("=")[0] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_does_not_go_with_a_fingerprint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-d", "1", "--from_fingerprint", "f.json"])
    assert "replaces the data set" in capsys.readouterr().err


def test_the_images_train_after_plans_were_made_from_their_fingerprint(tmp_path: Path) -> None:
    write_dataset(tmp_path / "raw", lesions=(2, 1))
    assert run(tmp_path, "-d", "1", "--no_pp") == 0
    folder = tmp_path / "pp" / "Dataset001_Test"
    fingerprint = folder / "dataset_fingerprint.json"
    given = ["--from_fingerprint", str(fingerprint), "--preprocessed", str(tmp_path / "pp"), "--roi_size", "48"]
    assert main(given) == 0
    assert run(tmp_path, "-d", "1", "--keep_plans") == 0
    assert load_plans(folder / "plans.json").roi.size == (48, 48, 48)
    assert len(CaseStore(folder / "cases").case_ids()) == 2
