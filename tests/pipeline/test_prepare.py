from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.pipeline.prepare import PrepareOptions, lesion_loads, prepare_dataset
from detseg3d.planning.plans import load_plans
from detseg3d.system.run import Run
from tests.planning.factory import cubes, make_dataset, make_fingerprint
from tests.preprocessing.factory import make_scan, write_dataset, write_volume

QUIET = PrepareOptions(run=Run(0, show_progress=False))
PLAN_ONLY = replace(QUIET, preprocess=False)


def test_everything_the_training_needs_is_written(tmp_path: Path) -> None:
    prepared = prepare_dataset(write_dataset(tmp_path / "raw"), tmp_path / "pp", QUIET)
    assert prepared.folder == tmp_path / "pp" / "Dataset001_Test"
    assert {entry.name for entry in prepared.folder.iterdir()} == {
        "dataset.json",
        "dataset_fingerprint.json",
        "plans.json",
        "splits_final.json",
        "cases",
    }
    assert load_plans(prepared.folder / "plans.json") == prepared.plans
    assert len(prepared.preprocessed) == 4
    assert len(prepared.splits) == 4


def test_second_run_measures_and_preprocesses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset(tmp_path / "raw")
    first = prepare_dataset(folder, tmp_path / "pp", QUIET)
    monkeypatch.setattr("detseg3d.pipeline.prepare.measure_dataset", lambda *_: pytest.fail("measured again"))
    second = prepare_dataset(folder, tmp_path / "pp", QUIET)
    assert second.preprocessed == []
    assert second.plans == first.plans


def test_changed_files_are_measured_again(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    write_volume(make_scan(1, lesions=4)[1], folder / "labelsTr" / "case1.nii.gz")
    prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    fingerprint = json.loads(
        (tmp_path / "pp" / "Dataset001_Test" / "dataset_fingerprint.json").read_text(encoding="utf-8")
    )
    assert fingerprint["summary"]["lesions"] == 14


def test_without_preprocessing_there_is_no_store(tmp_path: Path) -> None:
    prepared = prepare_dataset(write_dataset(tmp_path / "raw"), tmp_path / "pp", PLAN_ONLY)
    assert not (prepared.folder / "cases").exists()


def test_verify_reports_all_bad_cases_at_once(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    write_volume(np.full((16, 18, 20), 7, np.uint8), folder / "labelsTr" / "case0.nii.gz")
    write_volume(make_scan(2)[0][:10], folder / "imagesTr" / "case2_0000.nii.gz")
    with pytest.raises(DetSeg3DError, match=r"Dataset001_Test has \d+ problem\(s\)") as caught:
        prepare_dataset(folder, tmp_path / "pp", replace(QUIET, verify=True))
    assert "case0" in str(caught.value)
    assert "case2" in str(caught.value)
    assert not (tmp_path / "pp").exists()


def test_val_split_makes_one_split(tmp_path: Path) -> None:
    prepared = prepare_dataset(write_dataset(tmp_path / "raw"), tmp_path / "pp", replace(PLAN_ONLY, val_split=0.25))
    assert [(len(split.train), len(split.validation)) for split in prepared.splits] == [(3, 1)]


def test_further_entries_of_own_splits_are_kept_and_not_read(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepared = prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    own = [{"train": ["case0", "case1"], "val": ["case2", "case3"], "note": 5, "test": None}]
    (prepared.folder / "splits_final.json").write_text(json.dumps(own), encoding="utf-8")
    assert [split.train for split in prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY).splits] == [("case0", "case1")]


def test_own_splits_are_kept_until_others_are_asked_for(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepared = prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    own = [{"train": ["case0", "case1"], "val": ["case2", "case3"]}]
    (prepared.folder / "splits_final.json").write_text(json.dumps(own), encoding="utf-8")
    assert [fold.to_json() for fold in prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY).splits] == own
    assert len(prepare_dataset(folder, tmp_path / "pp", replace(PLAN_ONLY, seed=1)).splits) == 4


def test_splits_with_cases_that_are_gone_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepared = prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    (prepared.folder / "splits_final.json").write_text(
        '[{"train": ["case0", "old"], "val": ["case2"]}]', encoding="utf-8"
    )
    with caplog.at_level(logging.WARNING):
        assert len(prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY).splits) == 4
    assert "names missing cases: ['old']" in caplog.text
    kept = json.loads((prepared.folder / "splits_final.old.json").read_text(encoding="utf-8"))
    assert kept == [{"train": ["case0", "old"], "val": ["case2"]}]


def test_damaged_splits_are_an_error_not_replaced(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepared = prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    (prepared.folder / "splits_final.json").write_text('[{"training": []}]', encoding="utf-8")
    with pytest.raises(DetSeg3DError, match="splits cannot be understood"):
        prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)


@pytest.mark.parametrize("damage", ["edited", "truncated", "another kind", "no digest"])
def test_a_fingerprint_that_was_changed_is_measured_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_dataset(tmp_path / "raw")
    file = prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY).folder / "dataset_fingerprint.json"
    whole = file.read_text(encoding="utf-8")
    data = json.loads(whole)
    data["cases"]["case0"]["lesions"] = []
    if damage == "no digest":
        del data["digest"]
    file.write_text({"truncated": whole[:-20], "another kind": "[]"}.get(damage, json.dumps(data)), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    assert "the data set is measured again" in caplog.text
    assert file.read_text(encoding="utf-8") == whole


def test_patients_of_dataset_json_stay_together(tmp_path: Path) -> None:
    patients = {"case0": "p", "case1": "p", "case2": "q", "case3": "q"}
    prepared = prepare_dataset(write_dataset(tmp_path / "raw", patients=patients), tmp_path / "pp", PLAN_ONLY)
    assert sorted(split.validation for split in prepared.splits) == [("case0", "case1"), ("case2", "case3")]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"train": ["case0", "case2"], "val": ["case1", "case3"]}, True),
        ({"train": ["case0", "case1"], "val": ["case2", "case3"]}, False),
        ({"train": ["case0", "case1"], "val": ["case0", "case1"]}, False),  # a single patient: there is no other way
    ],
)
def test_kept_splits_that_share_a_patient_are_warned_of(
    tmp_path: Path, own: dict[str, list[str]], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As when "patients" was added after the folds were made."""
    file = prepare_dataset(write_dataset(tmp_path / "raw"), tmp_path / "pp", PLAN_ONLY).folder / "splits_final.json"
    file.write_text(json.dumps([own]), encoding="utf-8")
    folder = write_dataset(tmp_path / "raw", patients={"case0": "p", "case1": "p"})
    with caplog.at_level(logging.WARNING):
        assert [fold.to_json() for fold in prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY).splits] == [own]
    message = f"{file} is kept, but fold 0 has 1 patient(s) both in training and in validation"
    assert (message in caplog.text) == told
    assert ("['p']. Make new folds with --seed N" in caplog.text) == told


def test_edited_plans_are_kept_on_request(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepared = prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    file = prepared.folder / "plans.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    data["fine_spacing"] = data["detection_spacing"] = [2, 2, 2]
    file.write_text(json.dumps(data), encoding="utf-8")
    assert prepare_dataset(folder, tmp_path / "pp", replace(QUIET, keep_plans=True)).plans.fine_spacing == (2, 2, 2)
    assert prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY).plans.fine_spacing == (1, 1, 1)


def test_kept_plans_of_other_classes_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    write_dataset(tmp_path / "raw", labels={"background": 0, "lesion": 1, "mimic": 2})
    with pytest.raises(DetSeg3DError) as caught:
        prepare_dataset(folder, tmp_path / "pp", replace(PLAN_ONLY, keep_plans=True))
    assert caught.value.value == (("FLAIR",), (1,), False)
    assert caught.value.expected == str((("FLAIR",), (1, 2), False))


def test_kept_plans_of_another_kind_of_labels_are_refused(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    with pytest.raises(DetSeg3DError, match=r"(?s)kind of labels \(instances\).*False\).*expected.*True"):
        prepare_dataset(folder, tmp_path / "pp", replace(PLAN_ONLY, keep_plans=True, instances=True))


def test_clean_starts_anew_but_spares_other_files(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    prepared = prepare_dataset(folder, tmp_path / "pp", QUIET)
    (prepared.folder / "notes.txt").write_text("mine", encoding="utf-8")
    again = prepare_dataset(folder, tmp_path / "pp", replace(QUIET, clean=True))
    assert len(again.preprocessed) == 4
    assert (prepared.folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_instance_maps_by_option(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    label = np.zeros((16, 18, 20), np.uint16)
    label[5, 5, 5], label[5, 5, 6] = 300, 7  # touching: one component, two lesions
    write_volume(label, folder / "labelsTr" / "case1.nii.gz")
    prepared = prepare_dataset(folder, tmp_path / "pp", replace(QUIET, instances=True))
    assert prepared.plans.instances
    record = json.loads((prepared.folder / "cases" / "case1.json").read_text(encoding="utf-8"))
    assert len(record["lesions"]) == 2
    assert json.loads((prepared.folder / "dataset.json").read_text(encoding="utf-8"))["instances"] is True


def test_a_set_without_any_lesion_is_prepared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepared = prepare_dataset(write_dataset(tmp_path / "raw", lesions=(0, 0)), tmp_path / "pp", QUIET)
    assert prepared.plans.recall_bound.lesions == 0
    assert "None of the 2 cases has a lesion" in caplog.text


def test_loads_rank_by_number_then_volume() -> None:
    dataset = make_dataset(["none", "two", "large", "small"])
    lesions = [[], cubes([1, 1]), cubes([5]), cubes([1])]
    fingerprint = make_fingerprint(dataset, [(50, 50, 90)] * 4, [(1, 1, 1)] * 4, lesions)
    assert lesion_loads(fingerprint) == {"none": 0, "small": 1, "large": 2, "two": 3}


def test_splits_in_another_normal_form_are_kept_under_the_names_of_the_data_set(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "raw")
    for part, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / part / f"case0{end}").rename(folder / part / f"\u00fc{end}")
    prepared = prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY)
    own = [{"train": ["case1", "u\u0308"], "val": ["case2", "case3"]}]
    (prepared.folder / "splits_final.json").write_text(json.dumps(own), encoding="utf-8")
    wanted = [{"train": ["case1", "\u00fc"], "val": ["case2", "case3"]}]
    assert [fold.to_json() for fold in prepare_dataset(folder, tmp_path / "pp", PLAN_ONLY).splits] == wanted
    assert json.loads((prepared.folder / "splits_final.json").read_text(encoding="utf-8")) == wanted
