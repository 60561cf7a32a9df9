from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.data.labels import (
    LabelFormat,
    Lesions,
    common_label_format,
    lesion_classes,
    read_label,
    read_label_format,
    read_true_lesions,
    true_lesions,
)
from detseg3d.system.json_files import write_json


@pytest.mark.parametrize(
    "content",
    [
        {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]},
        {"labels": {"background": 0, "lesion": 1, "ignore": 2}},
        {"labels": "unknown"},
        [],
    ],
)
def test_an_unusable_dataset_json_of_predictions_is_not_an_error(
    tmp_path: Path, content: object, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(content, tmp_path / "predictions" / "dataset.json")
    assert read_label_format(tmp_path / "labels", tmp_path / "predictions") == LabelFormat()
    assert str(tmp_path / "predictions" / "dataset.json") in caplog.text


def test_a_dataset_json_of_the_labels_must_be_usable(tmp_path: Path) -> None:
    write_json({"labels": {"background": 0, "lesion": 1, "ignore": 2}}, tmp_path / "dataset.json")
    with pytest.raises(DetSeg3DError, match="ignore"):
        read_label_format(tmp_path / "labels", tmp_path / "predictions")


def test_a_class_with_two_values_in_a_comparison_is_refused(tmp_path: Path) -> None:
    for folder, labels in (("a", {"core": 1, "rim": 2}), ("b", {"rim": 1, "core": 2}), ("c", {"tumour": 1, "edge": 2})):
        write_json({"labels": {"background": 0, **labels}}, tmp_path / folder / "dataset.json")
    assert common_label_format(tmp_path / "labels", [tmp_path / "d", tmp_path / "a", tmp_path / "c"]).classes == {
        "core": 1,
        "rim": 2,
    }
    with pytest.raises(DetSeg3DError) as caught:
        common_label_format(tmp_path / "labels", [tmp_path / "a", tmp_path / "b"])
    assert (caught.value.file, caught.value.value) == (tmp_path / "b" / "dataset.json", 1)


def write_label(path: Path, *values: int) -> Path:
    array = np.zeros((2, 3, 5), np.uint8)
    array[0, 0, : len(values)] = values
    write_image(array, Geometry(array.shape, (2.0, 1.0, 1.0)), path)
    return path


def test_true_lesions_are_components_of_each_class(tmp_path: Path) -> None:
    form = LabelFormat({"rim": 2, "core": 1})
    truth = read_true_lesions(write_label(tmp_path / "a.nii.gz", 1, 2, 0, 2), form)
    assert (truth.names, truth.values, truth.geometry.spacing) == (("rim", "core"), (2, 1), (2.0, 1.0, 1.0))
    assert sorted(truth.lesions.classes.values()) == [0, 0, 1]


def test_without_classes_each_value_is_a_class(tmp_path: Path) -> None:
    truth = read_true_lesions(write_label(tmp_path / "a.nii.gz", 4, 0, 2), LabelFormat())
    assert (truth.names, truth.values) == (("label 2", "label 4"), (2, 4))
    assert read_true_lesions(write_label(tmp_path / "b.nii.gz"), LabelFormat()).values == ()


def test_an_instance_map_keeps_touching_lesions_apart(tmp_path: Path) -> None:
    truth = read_true_lesions(write_label(tmp_path / "a.nii.gz", 7, 9), LabelFormat(truth_instances=True))
    assert (truth.names, dict(truth.lesions.classes)) == (("lesion",), {7: 0, 9: 0})


def test_a_label_value_that_dataset_json_does_not_name_is_refused(tmp_path: Path) -> None:
    file = write_label(tmp_path / "a.nii.gz", 3, 0, 3, 1)
    with pytest.raises(DetSeg3DError) as caught:
        read_true_lesions(file, LabelFormat({"lesion": 1}))
    assert (caught.value.file, caught.value.value) == (file, "3 (2 voxels)")


def test_negative_values_are_refused_in_masks_and_instance_maps(tmp_path: Path) -> None:
    write_image(np.full((1, 1, 2), -4, np.int16), Geometry((1, 1, 2)), tmp_path / "a.nii.gz")
    for label_format in (LabelFormat(), LabelFormat({"lesion": 1}), LabelFormat(truth_instances=True)):
        with pytest.raises(DetSeg3DError) as caught:
            read_true_lesions(tmp_path / "a.nii.gz", label_format)
        assert (caught.value.file, caught.value.value) == (tmp_path / "a.nii.gz", -4)


@pytest.mark.parametrize("instances", [False, True])
def test_the_classes_of_a_label_are_the_classes_of_its_lesions(tmp_path: Path, instances: bool) -> None:
    label_format = LabelFormat({"rim": 2, "core": 1}, truth_instances=instances)
    file = write_label(tmp_path / "a.nii.gz", 1, 2, 0, 2)
    label, _ = read_label(file, label_format)
    lesions = true_lesions(label, file, label_format)
    assert lesion_classes(label, file, label_format) == set(lesions.classes.values())


def test_renumbered_lesions_keep_voxels_and_classes() -> None:
    lesions = Lesions(np.array([[[7, 0, 9, 7]]]), {7: 1, 9: 0})
    instances, classes = lesions.renumbered()
    assert (instances.tolist(), classes.tolist()) == ([[[1, 0, 2, 1]]], [1, 0])


def test_lesions_with_consecutive_numbers_are_not_copied() -> None:
    lesions = Lesions(np.array([[[1, 0, 2]]], np.int32), {1: 0, 2: 1})
    instances, classes = lesions.renumbered()
    assert instances is lesions.instances
    assert classes.tolist() == [0, 1]
