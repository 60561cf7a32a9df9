from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.instance_classes import (
    InstanceClasses,
    class_indices,
    instance_class_record,
    parse_instance_classes,
)

LABELS = {"background": 0, "late": 7, "early": 3}  # by value: early is class 0, late is class 1


def parse(folder: Path, **entries: Any) -> InstanceClasses:
    classes = parse_instance_classes(entries, LABELS, folder / "dataset.json", instances=True)
    assert classes is not None
    return classes


def beside(folder: Path, content: Any) -> Path:
    (folder / "case.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "case.nii.gz"


def test_masks_and_maps_of_one_class_need_no_classes(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    assert parse_instance_classes({}, LABELS, file, instances=False) is None
    assert parse_instance_classes({}, {"background": 0, "lesion": 1}, file, instances=True) is None
    assert class_indices([4, 9], None, tmp_path / "case.nii.gz") == {4: 0, 9: 0}


def test_numbers_beside_a_label_count_from_zero_as_in_nndetection(tmp_path: Path) -> None:
    label = beside(tmp_path, {"instances": {"1": 0, "2": 1, "5": "late"}})
    assert parse(tmp_path).of_case(label) == {1: 0, 2: 1, 5: 1}


def test_numbers_beside_a_label_can_be_label_values(tmp_path: Path) -> None:
    label = beside(tmp_path, {"instances": {"1": 3, "2": 7, "5": "early"}})
    assert parse(tmp_path, instance_classes_from=1).of_case(label) == {1: 0, 2: 1, 5: 0}


def test_numbers_in_dataset_json_are_label_values_unless_they_count_from_zero(tmp_path: Path) -> None:
    label = tmp_path / "case.nii.gz"
    assert parse(tmp_path, instance_classes={"case": {"1": 7, "2": "early"}}).of_case(label) == {1: 1, 2: 0}
    from_zero = parse(tmp_path, instance_classes={"case": {"1": 1, "2": 0}}, instance_classes_from=0)
    assert from_zero.of_case(label) == {1: 1, 2: 0}


def test_a_table_names_case_instance_and_class_in_any_order(tmp_path: Path) -> None:
    table = "class , case,instance,remark\nlate,case,2,x\n3,case,1,\n7,other,1,\n"
    (tmp_path / "classes.csv").write_text(table, encoding="utf-8-sig")
    classes = parse(tmp_path, instance_classes="classes.csv")
    assert classes.of_case(tmp_path / "case.nii.gz") == {1: 0, 2: 1}
    assert classes.of_case(tmp_path / "case_b.nii.gz") == {}
    assert classes.unknown_cases(["case"]) == ["other"]


def test_the_case_id_decides_and_not_the_name_of_the_label(tmp_path: Path) -> None:
    classes = parse(tmp_path, instance_classes={"patient 1": {"1": "late"}})
    assert classes.of_case(tmp_path / "other.nii.gz", "patient 1") == {1: 1}


@pytest.mark.parametrize(
    ("instances", "wrong"),
    [
        ({"1": 2}, "unknown class 2"),
        ({"1": -1}, "unknown class -1"),
        ({"1": "nothing"}, "unknown class 'nothing'"),
        ({"1": True}, "unknown class True"),
        ({"1": 0.5}, "unknown class 0.5"),
        ({"1": None}, "unknown class None"),
        ({"0": 1}, "instance '0'"),
        ({"x": 1}, "instance 'x'"),
        ({"1": 0, "01": 1}, "instance 1 is listed twice"),
        ({"1": 2, "x": 0}, "instance 'x'"),
    ],
)
def test_every_wrong_entry_is_named(instances: Any, wrong: str, tmp_path: Path) -> None:
    label = beside(tmp_path, {"instances": instances})
    with pytest.raises(DetSeg3DError) as caught:
        parse(tmp_path).of_case(label)
    assert wrong in caught.value.value
    assert caught.value.file == tmp_path / "case.json"
    assert caught.value.expected == "0 (early), 1 (late)"


def test_a_lesion_that_a_table_names_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("case,instance,class\ncase,1,late\ncase,1,late\n", encoding="utf-8")
    with pytest.raises(DetSeg3DError) as caught:
        parse(tmp_path, instance_classes="c.csv").of_case(tmp_path / "case.nii.gz")
    assert caught.value.value == "instance 1 is listed twice"


def test_lesions_without_a_class_and_classes_without_a_lesion_are_named(tmp_path: Path) -> None:
    label = beside(tmp_path, {"instances": {"1": 0, "9": 1}})
    with pytest.raises(DetSeg3DError) as caught:
        class_indices([1, 4], parse(tmp_path), label)
    assert caught.value.value == "without a class: 4; with a class, but not in the map: 9"
    assert class_indices([1, 9], parse(tmp_path), label) == {1: 0, 9: 1}


@pytest.mark.parametrize("content", [[], {}, {"instances": [1]}, {"instances": None}])
def test_a_file_without_instances_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        parse(tmp_path).of_case(beside(tmp_path, content))
    assert caught.value.file == tmp_path / "case.json"


def test_a_missing_file_beside_a_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        parse(tmp_path).of_case(tmp_path / "case.nii.gz")
    assert caught.value.file == tmp_path / "case.json"


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("c.csv", "case,instance\ncase,1\n"),
        ("c.csv", "case,instance,class\ncase,1\n"),
        ("c.csv", "case,instance,class\ncase,,late\n"),
        ("c.csv", ""),
        ("c.csv", 'case,instance,class\n"case,1,late\n'),
        ("missing.csv", "case,instance,class\n"),
        ("../c.csv", "case,instance,class\n"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(name: str, table: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "c.csv").write_text(table, encoding="utf-8")
    (tmp_path / "c.csv").write_text(table, encoding="utf-8")
    with pytest.raises(DetSeg3DError):
        parse(folder, instance_classes=name)


@pytest.mark.parametrize(
    "entries", [{"instance_classes": 3}, {"instance_classes": ""}, {"instance_classes": {"case": [1]}},
                {"instance_classes_from": 2}, {"instance_classes_from": True}]
)  # fmt: skip
def test_entries_of_dataset_json_that_are_not_understood_are_refused(entries: Any, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        parse(tmp_path, **entries)
    assert caught.value.file == tmp_path / "dataset.json"


def test_the_written_classes_of_a_prediction_are_read_unchanged(tmp_path: Path) -> None:
    label = beside(tmp_path, instance_class_record({3: 1, 1: 0}))
    assert parse(tmp_path).beside_maps().of_case(label) == {1: 0, 3: 1}
