from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.preprocessing import dataset as preprocessor
from detseg3d.preprocessing.case import CaseTransform, preprocess_case
from detseg3d.preprocessing.dataset import preprocess_dataset
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases
from tests.preprocessing.factory import make_plans, make_scan, write_dataset, write_volume


def test_dataset_is_stored_with_its_lesions(tmp_path: Path) -> None:
    raw = load_raw_dataset(write_dataset(tmp_path))
    assert preprocess_dataset(raw, make_plans(), tmp_path / "cases", Run(0, show_progress=False)) == [
        c.case_id for c in raw.cases
    ]
    store = CaseStore(tmp_path / "cases")
    assert store.case_ids() == ["case0", "case1", "case2", "case3"]
    assert [len(store.properties(case)["lesions"]) for case in store.case_ids()] == [3, 0, 5, 2]
    stored = store.open("case2")
    assert stored.instances is not None
    assert int(stored.instances[:].max()) == 5
    assert CaseTransform.from_dict(stored.properties["transform"]).fine_shape == stored.image.shape[1:]


@pytest.mark.parametrize(
    ("value", "normalization", "reason"),
    [(7.0, {"scheme": "zscore"}, "constant"), (1e-9, {"scheme": "none"}, "standard deviation")],
    ids=["constant", "small units, not normalised"],
)
def test_an_image_without_content_after_normalisation_is_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    value: float,
    normalization: dict[str, str],
    reason: str,
) -> None:
    folder = write_dataset(tmp_path)
    image = make_scan(2)[0]
    spoilt = np.full_like(image, value) if reason == "constant" else image * np.float32(value)
    write_volume(spoilt, folder / "imagesTr" / "case2_0000.nii.gz")
    plans = make_plans(normalization=[normalization])
    with caplog.at_level(logging.WARNING):
        preprocess_dataset(load_raw_dataset(folder), plans, tmp_path / "cases", Run(0, show_progress=False))
    [line] = [line for line in caplog.text.splitlines() if "case2_0000.nii.gz" in line]
    assert "channel FLAIR" in line and reason in line
    assert "case1_0000" not in caplog.text


def test_units_offset_and_outliers_leave_the_preprocessed_image(tmp_path: Path) -> None:
    image, label = make_scan(2)
    instances, classes = instances_from_semantic(label, (1,))

    def preprocessed(changed: np.ndarray) -> np.ndarray:
        return preprocess_case(changed[None], (1, 1, 1), make_plans(), instances, classes).image[0]

    plain = preprocessed(image)
    for changed in (image * np.float32(1e-9), image * np.float32(1e6), image + 4096):
        assert np.allclose(preprocessed(changed), plain, atol=2e-3)
    spoilt = image.copy()
    spoilt[8, 8, 8:10] = 1e6
    body = np.abs(preprocessed(spoilt) - plain)
    assert np.sort(body, axis=None)[:-2].max() < 0.1


def test_second_run_has_nothing_to_do_and_a_deleted_case_is_made_again(tmp_path: Path) -> None:
    raw, plans = load_raw_dataset(write_dataset(tmp_path)), make_plans()
    preprocess_dataset(raw, plans, tmp_path / "cases", Run(0, show_progress=False))
    assert preprocess_dataset(raw, plans, tmp_path / "cases", Run(0, show_progress=False)) == []
    (tmp_path / "cases" / "case1.json").unlink()  # as a kill between arrays and record leaves it
    assert preprocess_dataset(raw, plans, tmp_path / "cases", Run(0, show_progress=False)) == ["case1"]


def test_changed_plans_are_noticed_but_not_changed_training(tmp_path: Path) -> None:
    raw, plans = load_raw_dataset(write_dataset(tmp_path)), make_plans()
    preprocess_dataset(raw, plans, tmp_path / "cases", Run(0, show_progress=False))
    other = plans.evolve(training={"steps": 3})
    assert preprocess_dataset(raw, other, tmp_path / "cases", Run(0, show_progress=False)) == []
    finer = make_plans(fine_spacing=(0.5,) * 3, detection_spacing=(0.5,) * 3)
    assert len(preprocess_dataset(raw, finer, tmp_path / "cases", Run(0, show_progress=False))) == 4


def test_corrected_label_is_noticed(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    raw, plans = load_raw_dataset(folder), make_plans()
    preprocess_dataset(raw, plans, tmp_path / "cases", Run(0, show_progress=False))
    write_volume(make_scan(1, lesions=2)[1], folder / "labelsTr" / "case1.nii.gz")
    assert preprocess_dataset(raw, plans, tmp_path / "cases", Run(0, show_progress=False)) == ["case1"]
    assert len(CaseStore(tmp_path / "cases").properties("case1")["lesions"]) == 2


def test_case_that_left_the_data_set_leaves_the_store(tmp_path: Path) -> None:
    raw, plans = load_raw_dataset(write_dataset(tmp_path)), make_plans()
    preprocess_dataset(raw, plans, tmp_path / "cases", Run(0, show_progress=False))
    preprocess_dataset(replace(raw, cases=raw.cases[1:]), plans, tmp_path / "cases", Run(0, show_progress=False))
    assert CaseStore(tmp_path / "cases").case_ids() == ["case1", "case2", "case3"]


def test_bad_case_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    (folder / "imagesTr" / "case1_0000.nii.gz").write_bytes(b"garbage")
    (folder / "labelsTr" / "case2.nii.gz").unlink()
    raw = load_raw_dataset(folder)
    with pytest.raises(DetSeg3DError, match=r"2 of 4 case\(s\) could not be preprocessed") as caught:
        preprocess_dataset(raw, make_plans(), tmp_path / "cases", Run(0, show_progress=False))
    assert "case1" in str(caught.value)
    assert "the training case has no label" in str(caught.value)
    assert CaseStore(tmp_path / "cases").case_ids() == ["case0", "case3"]


def test_a_case_that_another_run_has_finished_meanwhile_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = load_raw_dataset(write_dataset(tmp_path / "raw"))
    plans = make_plans()
    preprocess_dataset(raw, plans, tmp_path / "elsewhere", Run(0, show_progress=False))

    def other_run(*arguments: object, **_: object) -> list[object]:
        """Before this run reaches its first case, the other run finishes all cases but the last."""
        shutil.copytree(tmp_path / "elsewhere", tmp_path / "store")
        CaseStore(tmp_path / "store").remove("case3")
        return run_cases(*arguments)  # type: ignore[arg-type]

    read = []
    original = preprocessor.read_case
    monkeypatch.setattr(preprocessor, "run_cases", other_run)
    monkeypatch.setattr(preprocessor, "read_case", lambda case, raw: read.append(case.case_id) or original(case, raw))
    preprocess_dataset(raw, plans, tmp_path / "store", Run(0, show_progress=False))
    assert read == ["case3"]
    assert CaseStore(tmp_path / "store").case_ids() == ["case0", "case1", "case2", "case3"]
