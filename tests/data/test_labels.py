from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.labels import LabelFormat, common_label_format, read_label_format
from detseg3d.system.files import write_json


@pytest.mark.parametrize(
    "content",
    [
        {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]},
        {"labels": {"background": 0, "lesion": 1, "ignore": 2}},
        {"labels": "unknown"},
        [],
    ],
)
def test_a_dataset_json_that_came_with_predictions_stops_nothing(
    tmp_path: Path, content: object, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(content, tmp_path / "predictions" / "dataset.json")
    assert read_label_format(tmp_path / "labels", tmp_path / "predictions") == LabelFormat()
    assert str(tmp_path / "predictions" / "dataset.json") in caplog.text


def test_a_dataset_json_of_the_labels_must_be_usable(tmp_path: Path) -> None:
    write_json({"labels": {"background": 0, "lesion": 1, "ignore": 2}}, tmp_path / "dataset.json")
    with pytest.raises(DetSeg3DError, match="ignore"):
        read_label_format(tmp_path / "labels", tmp_path / "predictions")


def test_in_a_comparison_one_class_must_not_have_two_values(tmp_path: Path) -> None:
    for folder, labels in (("a", {"core": 1, "rim": 2}), ("b", {"rim": 1, "core": 2}), ("c", {"tumour": 1, "edge": 2})):
        write_json({"labels": {"background": 0, **labels}}, tmp_path / folder / "dataset.json")
    assert common_label_format(tmp_path / "labels", [tmp_path / "d", tmp_path / "a", tmp_path / "c"]).classes == {
        "core": 1,
        "rim": 2,
    }
    with pytest.raises(DetSeg3DError) as caught:
        common_label_format(tmp_path / "labels", [tmp_path / "a", tmp_path / "b"])
    assert (caught.value.file, caught.value.value) == (tmp_path / "b" / "dataset.json", 1)
