"""Several processes at once on the same folders: no file is torn, and no work is lost."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from detseg3d.cli import plan_and_preprocess, predict, train
from detseg3d.io.files import write_json
from detseg3d.planning.plans import Plans
from tests.disks import contents, litter
from tests.integration.reliability.commands import finish, lasting, start
from tests.scans import prepare, write_dataset

pytestmark = pytest.mark.slow


def test_two_preprocess_the_same_data_set(tmp_path: Path, tiny_plans: Plans) -> None:
    write_dataset(tmp_path / "raw", tiny_plans, count=6)
    words = ["-d", "1", "--raw", tmp_path / "raw", "-np", "0"]
    finish(*(start("plan_and_preprocess", *words, "--preprocessed", tmp_path / "together") for _ in range(2)))
    assert plan_and_preprocess.main([*map(str, words), "--preprocessed", str(tmp_path / "alone")]) == 0
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert litter(tmp_path) == []


def test_parts_and_a_whole_predict_into_one_folder(tmp_path: Path, tiny_plans: Plans, tiny_model: Path) -> None:
    images = write_dataset(tmp_path, tiny_plans, count=6) / "imagesTr"
    words = ["-i", images, "-m", tiny_model, "-f", "0", "-device", "cpu"]
    parts = [["--num_parts", "2", "--part_id", "0"], ["--num_parts", "2", "--part_id", "1"], []]
    finish(*(start("predict", *words, "-o", tmp_path / "together", *part) for part in parts))
    assert predict.main([*map(str, words), "-o", str(tmp_path / "alone")]) == 0
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    with (tmp_path / "together" / "lesions.csv").open(newline="", encoding="utf-8") as handle:
        assert {row["case"] for row in csv.DictReader(handle)} == {f"case{number}" for number in range(5)}
    assert litter(tmp_path) == []


def test_five_folds_are_trained_at_once(tmp_path: Path, tiny_plans: Plans) -> None:
    write_dataset(tmp_path / "raw", tiny_plans, count=5)
    folder = prepare(tmp_path / "raw" / "Dataset001_Tiny", tmp_path / "preprocessed", tiny_plans)
    cases = [f"case{number}" for number in range(5)]
    splits = [{"train": [case for case in cases if case != held_out], "val": [held_out]} for held_out in cases]
    write_json(splits, folder / "splits_final.json")
    roots = ["--raw", tmp_path / "raw", "--preprocessed", tmp_path / "preprocessed", "--results"]
    quick = ["--epochs", "1", "-device", "cpu", "--roi_size", "16", "--disable_tta"]
    finish(*(start("train", "1", fold, *roots, tmp_path / "together", *quick) for fold in range(5)))
    for fold in range(5):
        words = map(str, ["1", fold, *roots, tmp_path / "alone", *quick, "--no_progress"])
        assert train.main(list(words)) == 0
    together, alone = (lasting(tmp_path / name) for name in ("together", "alone"))
    assert together.keys() == alone.keys()
    assert [name for name in alone if together[name] != alone[name]] == []
    assert litter(tmp_path) == []
