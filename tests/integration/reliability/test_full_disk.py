"""Commands on a disk that is full or read-only: the cases are named, earlier results stay, and room is all it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detseg3d.cli import plan_and_preprocess, predict, train
from detseg3d.planning.plans import Plans
from detseg3d.training.state import LossValues
from detseg3d.training.trainer import Trainer
from tests.disks import contents, fill, filled, litter, read_only
from tests.scans import prepare, write_dataset

pytestmark = pytest.mark.usefixtures("quick_training")


def run_predict(raw: Path, model: Path, output: Path, *words: str) -> int:
    source = ["-i", str(raw / "imagesTr"), "-o", str(output), "-m", str(model), "-f", "0", "-device", "cpu"]
    return predict.main([*source, "--no_progress", "--disable_tta", *words])


def test_predicting_onto_a_full_disk_keeps_what_is_there(
    small_disk: Path, tmp_path: Path, tiny_plans: Plans, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_dataset(tmp_path, tiny_plans, count=2)
    output = small_disk / "predictions"
    assert run_predict(raw, tiny_model, output) == 0
    before = contents(output)
    capsys.readouterr()
    with filled(small_disk):
        assert run_predict(raw, tiny_model, output) == 1
        errors = capsys.readouterr().err
        for case_id in ("case0", "case1"):
            assert f"{case_id} failed: the file cannot be written" in errors
        assert contents(output) == before
        assert litter(small_disk) == []
    assert run_predict(raw, tiny_model, output) == 0
    assert contents(output) == before


def test_predicting_onto_a_read_only_disk_keeps_what_is_there(
    small_disk: Path, tmp_path: Path, tiny_plans: Plans, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = write_dataset(tmp_path, tiny_plans, count=1)
    output = small_disk / "predictions"
    assert run_predict(raw, tiny_model, output) == 0
    before = contents(output)
    capsys.readouterr()
    with read_only(small_disk):
        assert run_predict(raw, tiny_model, output) == 1
        errors = capsys.readouterr().err
        assert "no file can be written to this folder: Read-only file system" in errors
        assert "case0" not in errors  # it was not predicted in vain
    assert contents(output) == before


@pytest.mark.parametrize("processes", ["0", "1"])
def test_preprocessing_onto_a_full_disk_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, tiny_plans: Plans, processes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "raw", tiny_plans, count=3)
    words = ["-d", "1", "--raw", str(tmp_path / "raw"), "--no_progress", "--preprocessed"]
    assert plan_and_preprocess.main([*words, str(tmp_path / "elsewhere"), "-np", "0"]) == 0
    assert plan_and_preprocess.main([*words, str(small_disk / "here"), "-np", "0", "--no_pp"]) == 0
    (small_disk / "here" / "Dataset001_Tiny" / "cases").mkdir()
    words = [*words, str(small_disk / "here"), "--keep_plans", "-np", processes]
    with filled(small_disk):
        # Room for the descriptions, none for a case.
        (small_disk / "filler").write_bytes(b"")
        fill(small_disk / "filler")
        with (small_disk / "filler").open("r+b") as handle:
            handle.truncate((small_disk / "filler").stat().st_size - 32768)
        assert plan_and_preprocess.main(words) == 1
        errors = capsys.readouterr().err
        assert "case(s) could not be preprocessed" in errors and "case0_image.b2nd" in errors
        assert litter(small_disk) == []
    assert plan_and_preprocess.main(words) == 0
    assert contents(small_disk / "here") == contents(tmp_path / "elsewhere")


def test_a_training_that_runs_out_of_disk_goes_on_when_there_is_room(
    small_disk: Path,
    tmp_path: Path,
    tiny_plans: Plans,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plans = tiny_plans.evolve(training={"steps": 12})
    prepare(write_dataset(tmp_path / "raw", plans), tmp_path / "preprocessed", plans)
    roots = ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "preprocessed"), "--results"]
    words = ["1", "0", "-device", "cpu", "--no_progress", *roots]
    original = Trainer.step

    def fill_in_the_second_epoch(*arguments: Any) -> LossValues:
        if (small_disk / "results/Dataset001_Tiny/fold_0/checkpoint_latest.pt").exists():
            fill(small_disk / "filler")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", fill_in_the_second_epoch)
        assert train.main([*words, str(small_disk / "results")]) == 1
    assert "checkpoint_latest.pt" in capsys.readouterr().err
    assert litter(small_disk) == []
    (small_disk / "filler").unlink()
    assert train.main([*words, str(small_disk / "results"), "--c"]) == 0
    assert train.main([*words, str(tmp_path / "elsewhere")]) == 0
    weights = "Dataset001_Tiny/fold_0/model_final.safetensors"
    assert (small_disk / "results" / weights).read_bytes() == (tmp_path / "elsewhere" / weights).read_bytes()
