"""Several processes at once on the same folders: no file is torn, and no work is lost."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli import plan_and_preprocess, predict, train
from detseg3d.data.case_store import CaseStore
from detseg3d.planning.plans import Plans, load_plans, save_plans
from detseg3d.system.json_files import write_json
from tests.command_forks import CommandFork, start_fork
from tests.disks import contents, litter
from tests.integration.reliability.commands import finish, lasting
from tests.scans import prepare, write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_training")]


def test_two_preprocess_the_same_data_set(tmp_path: Path, tiny_plans: Plans) -> None:
    write_dataset(tmp_path / "raw", tiny_plans, count=6)
    words = ["-d", "1", "--raw", tmp_path / "raw", "-np", "0"]
    finish(*(start_fork("plan_and_preprocess", *words, "--preprocessed", tmp_path / "together") for _ in range(2)))
    assert plan_and_preprocess.main([*map(str, words), "--preprocessed", str(tmp_path / "alone")]) == 0
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert litter(tmp_path) == []


@pytest.fixture
def trained(tmp_path: Path, tiny_plans: Plans) -> tuple[Path, list[str]]:
    """The preprocessed folder of a data set, and the words of a command that trains its fold 0 for long."""
    write_dataset(tmp_path / "raw", tiny_plans, count=3)
    folder = prepare(tmp_path / "raw" / "Dataset001_Tiny", tmp_path / "preprocessed", tiny_plans)
    write_json([{"train": ["case0", "case1"], "val": ["case2"]}], folder / "splits_final.json")
    roots = ["--raw", tmp_path / "raw", "--preprocessed", tmp_path / "preprocessed", "--results", tmp_path / "results"]
    return folder, ["train", "1", "0", *map(str, roots), "-device", "cpu", "--steps", "4000", "--disable_tta"]


def wait_for(file: Path, process: CommandFork) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the process does not come so far"
        time.sleep(0.01)


def end(process: CommandFork) -> str:
    process.terminate()
    return process.communicate(timeout=120)[1]


def test_a_fold_is_trained_by_one_process_and_its_cases_stay(
    tmp_path: Path, trained: tuple[Path, list[str]], tiny_plans: Plans, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = trained
    first = start_fork(*words)
    try:
        wait_for(tmp_path / "results" / "Dataset001_Tiny" / "fold_0" / "checkpoint_latest.pt", first)
        assert train.main([*map(str, words[1:]), "--no_progress"]) == 1
        message = capsys.readouterr().err
        assert f"process {first.pid} on" in message and "training fold 0 since" in message
        # Other plans would replace the cases.
        kept = contents(folder / "cases")
        plans = load_plans(folder / "plans.json")
        save_plans(plans.evolve(fine_spacing=(1.5, 1.5, 1.5), detection_spacing=(3, 3, 3)), folder / "plans.json")
        prepared = ["-d", "1", *map(str, words[3:7]), "-np", "0", "--keep_plans", "--no_progress"]
        assert plan_and_preprocess.main(prepared) == 1
        assert f"process {first.pid} on" in capsys.readouterr().err
        assert contents(folder / "cases") == kept
        # The same plans replace nothing, so they are no obstacle.
        save_plans(plans, folder / "plans.json")
        assert plan_and_preprocess.main(prepared) == 0
        assert first.poll() is None
    finally:
        end(first)
    assert first.returncode == 143
    assert not list(tmp_path.rglob(".*.lock"))


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path: Path, trained: tuple[Path, list[str]]) -> None:
    _, words = trained
    first = start_fork(*words, "--num_workers", "1")
    wait_for(tmp_path / "results" / "Dataset001_Tiny" / "fold_0" / "checkpoint_latest.pt", first)
    first.kill()
    first.communicate()
    words[words.index("4000")] = "40"
    finish(start_fork(*words, "--c"))
    assert not list(tmp_path.rglob(".*.lock"))


def test_a_training_whose_cases_are_replaced_without_asking_ends_with_an_error(
    tmp_path: Path, trained: tuple[Path, list[str]], tiny_plans: Plans
) -> None:
    folder, words = trained
    process = start_fork(*words)
    wait_for(tmp_path / "results" / "Dataset001_Tiny" / "fold_0" / "checkpoint_latest.pt", process)
    store = CaseStore(folder / "cases")
    for case_id in store.case_ids():
        image, instances = store.read(case_id)
        store.write(case_id, image.astype(np.float32) + 1, instances, store.properties(case_id))
    _, message = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "case" in message and "cases" in message and "Traceback" not in message
    assert not (tmp_path / "results" / "Dataset001_Tiny" / "fold_0" / "model_final.safetensors").exists()


def results_of(folder: Path) -> dict[str, bytes]:
    """Return the content of each file except the records of the runs, which state times."""
    return {name: content for name, content in contents(folder).items() if not Path(name).name.startswith("run")}


def test_parts_and_a_whole_predict_into_one_folder(tmp_path: Path, tiny_plans: Plans, tiny_model: Path) -> None:
    images = write_dataset(tmp_path, tiny_plans, count=6) / "imagesTr"
    words = ["-i", images, "-m", tiny_model, "-f", "0", "-device", "cpu"]
    parts = [["--num_parts", "2", "--part_id", "0"], ["--num_parts", "2", "--part_id", "1"], []]
    finish(*(start_fork("predict", *words, "-o", tmp_path / "together", *part) for part in parts))
    assert predict.main([*map(str, words), "-o", str(tmp_path / "alone")]) == 0
    together, alone = (results_of(tmp_path / name) for name in ("together", "alone"))
    assert together == alone
    with (tmp_path / "together" / "lesions.csv").open(newline="", encoding="utf-8") as handle:
        assert {row["case"] for row in csv.DictReader(handle)} == {f"case{number}" for number in range(5)}
    assert litter(tmp_path) == []


def test_two_folds_are_trained_at_once(tmp_path: Path, tiny_plans: Plans) -> None:
    write_dataset(tmp_path / "raw", tiny_plans, count=3)
    folder = prepare(tmp_path / "raw" / "Dataset001_Tiny", tmp_path / "preprocessed", tiny_plans)
    cases = [f"case{number}" for number in range(3)]
    splits = [{"train": [case for case in cases if case != held_out], "val": [held_out]} for held_out in cases]
    write_json(splits, folder / "splits_final.json")
    roots = ["--raw", tmp_path / "raw", "--preprocessed", tmp_path / "preprocessed", "--results"]
    quick = ["--epochs", "1", "-device", "cpu", "--roi_size", "16", "--disable_tta"]
    finish(*(start_fork("train", "1", fold, *roots, tmp_path / "together", *quick) for fold in range(2)))
    assert train.main(list(map(str, ["1", 0, *roots, tmp_path / "alone", *quick, "--no_progress"]))) == 0
    together, alone = (lasting(tmp_path / name) for name in ("together", "alone"))
    assert {name for name in together if "fold_1" not in name} == set(alone)
    assert [name for name in alone if together[name] != alone[name]] == []
    assert litter(tmp_path) == []
