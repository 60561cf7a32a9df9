from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.survey.fingerprints import describe, draw_fingerprint
from benchmarks.survey.kinds_stress import STRESS_KINDS
from benchmarks.survey.model import Kind
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION, DatasetFacts, Fingerprint
from detseg3d.planning.fingerprint_file import describe_dataset, load_fingerprint, save_fingerprint
from detseg3d.planning.planner import plan_dataset

FOUR_CASES = next(kind for kind in STRESS_KINDS if kind.name == "four_cases")


def complete_fingerprint(kind: Kind = FOUR_CASES) -> Fingerprint:
    fingerprint = draw_fingerprint(kind)
    facts = DatasetFacts.of(replace(describe(kind), default_spacing=(3.0, 1.0, 1.0)))
    second = fingerprint.cases["case_0001"].model_copy(update={"patient": "p"})
    return fingerprint.model_copy(update={"cases": {**fingerprint.cases, "case_0001": second}, "dataset": facts})


def refusal(content: Any, file: Path) -> DetSeg3DError:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(DetSeg3DError) as caught:
        load_fingerprint(file)
    assert str(caught.value.file) == str(file)
    return caught.value


def test_a_saved_fingerprint_is_loaded_unchanged(tmp_path: Path) -> None:
    fingerprint = complete_fingerprint()
    save_fingerprint(fingerprint, tmp_path / "fingerprint.json")
    assert load_fingerprint(tmp_path / "fingerprint.json") == fingerprint


def test_a_fingerprint_describes_its_data_set(tmp_path: Path) -> None:
    dataset = describe_dataset(complete_fingerprint())
    assert dataset.class_names == ("lesion",) and dataset.channel_names == ("MR",)
    assert dataset.default_spacing == (3.0, 1.0, 1.0) and dataset.file_ending == ".nii.gz"
    assert [case.case_id for case in dataset.cases] == [f"case_{number:04d}" for number in range(4)]
    assert dataset.patient_of("case_0001") == "p" and dataset.patient_of("case_0002") == "case_0002"


def test_a_saved_fingerprint_gives_the_same_plans_as_the_data_set(tmp_path: Path) -> None:
    fingerprint = complete_fingerprint()
    save_fingerprint(fingerprint, tmp_path / "fingerprint.json")
    loaded = load_fingerprint(tmp_path / "fingerprint.json")
    expected = plan_dataset(fingerprint, replace(describe(FOUR_CASES), default_spacing=(3.0, 1.0, 1.0)))
    assert plan_dataset(loaded, describe_dataset(loaded)) == expected


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("cases", "case_0001", "spacing"), [1, 1], "cases.case_0001.spacing"),
        (("cases", "case_0001", "spacing", 0), -1, "cases.case_0001.spacing.0"),
        (("cases", "case_0001", "shape"), "big", "cases.case_0001.shape"),
        (("cases", "case_0001", "crop_box"), [0, 0, 0, 999, 999, 999], "cases.case_0001: crop_box"),
        (("cases", "case_0001", "intensity"), [], "cases.case_0001.intensity"),
        (("cases", "case_0001", "lesions", 0, "class_index"), 7, "cases.case_0001.lesions"),
        (("cases", "case_0001", "lesions", 0, "extents_mm"), None, "cases.case_0001.lesions.0.extents_mm"),
        (("cases", "case_0001"), 3, "cases.case_0001"),
        (("cases",), {}, "cases"),
        (("cases",), {"../a": 1}, "cases"),
        (("dataset", "labels"), {"background": 0, "a": 1, "b": 1}, "dataset"),
        (("dataset", "channel_names"), [], "dataset.channel_names"),
        (("dataset",), None, "dataset"),
        (("summary", "lesions"), 100, "summary"),
        (("summary", "intensity"), [], "summary.intensity"),
        (("dataset_name",), "", "dataset_name"),
        (("version",), FINGERPRINT_VERSION - 1, "version"),
        (("version",), FINGERPRINT_VERSION + 1, "version"),
        (("cases", "case_0001", "lesions", 0, "volume_mm3"), 12.5, "digest"),
        (("digest",), "0", "digest"),
    ],
)
def test_a_field_that_is_wrong_is_named(path: tuple[str | int, ...], value: Any, field: str, tmp_path: Path) -> None:
    save_fingerprint(complete_fingerprint(), tmp_path / "fingerprint.json")
    content = json.loads((tmp_path / "fingerprint.json").read_text(encoding="utf-8"))
    entry = content
    for name in path[:-1]:
        entry = entry[name]
    entry[path[-1]] = value
    assert field in refusal(content, tmp_path / "edited.json").problem


@pytest.mark.parametrize("field", ["cases", "version", "dataset", "summary", "dataset_name", "digest"])
def test_a_field_that_is_missing_is_named(field: str, tmp_path: Path) -> None:
    save_fingerprint(complete_fingerprint(), tmp_path / "fingerprint.json")
    content = json.loads((tmp_path / "fingerprint.json").read_text(encoding="utf-8"))
    del content[field]
    error = refusal(content, tmp_path / "edited.json")
    assert field in error.problem or field in (error.expected or "")


@pytest.mark.parametrize("content", ["", "[]", "{", "3", '{"version": 3', '{"a": 1, "a": 2}'])
def test_a_file_that_is_not_a_fingerprint_is_refused(content: str, tmp_path: Path) -> None:
    refusal(content, tmp_path / "fingerprint.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        load_fingerprint(tmp_path / "missing.json")
    assert caught.value.file == tmp_path / "missing.json"
