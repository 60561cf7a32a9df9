from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image_source import ImageSource
from detseg3d.reporting.html.case_files import PredictedBox, find_case_files
from detseg3d.system.json_files import write_json


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two cases, of which the second has no scan."""
    touch(*(tmp_path / "images" / f"a_{channel}.nii.gz" for channel in ("0000", "0001")))
    touch(*(tmp_path / folder / f"{case}.nii.gz" for folder in ("truth", "pred") for case in ("a", "b")))
    return tmp_path


def test_the_first_channel_is_shown_and_cases_without_a_scan_are_not(root: Path) -> None:
    (case,) = find_case_files(root / "images", root / "truth", {"pred": root / "pred"})
    assert case.case_id == "a"
    assert (case.image.path, case.truth) == (root / "images" / "a_0000.nii.gz", root / "truth" / "a.nii.gz")
    assert (case.prediction, case.boxes, case.system) == (root / "pred" / "a.nii.gz", (), None)


def test_scans_and_labels_may_be_given_for_each_case(root: Path) -> None:
    scans = {"a": ImageSource(root / "truth" / "a.nii.gz"), "b": ImageSource(root / "gone.nii.gz")}
    labels = {"a": root / "images" / "a_0001.nii.gz", "b": root / "truth" / "b.nii.gz"}
    (case,) = find_case_files(scans, labels, {"pred": root / "pred"})
    assert (case.case_id, case.image, case.truth) == ("a", scans["a"], labels["a"])


def test_the_layout_of_predict_has_instances_and_boxes(root: Path) -> None:
    touch(root / "pred" / "instances" / "a.nii.gz")
    lesions = [{"id": 1, "label": 1, "score": 0.5, "box": [0, 1, 2, 3, 4, 5]}, {"id": 2, "label": 1, "score": 0.4}]
    write_json({"lesions": lesions}, root / "pred" / "rois" / "a.json")
    (case,) = find_case_files(root / "images", root / "truth", {"pred": root / "pred"})
    assert case.prediction == root / "pred" / "instances" / "a.nii.gz"
    assert case.boxes == (PredictedBox((0, 1, 2, 3, 4, 5), 0.5),)


def test_each_of_several_systems_has_its_files(root: Path) -> None:
    touch(root / "other" / "a.nii.gz")
    images = ImageSource(root / "images", spacing=(3, 1, 1))
    cases = find_case_files(images, root / "truth", {"pred": root / "pred", "x": root / "other"})
    assert [(case.system, case.image.spacing) for case in cases] == [("pred", (3, 1, 1)), ("x", (3, 1, 1))]


def test_scans_without_channel_numbers_are_found(root: Path) -> None:
    touch(root / "plain" / "b.nii.gz")
    assert [case.case_id for case in find_case_files(root / "plain", root / "truth", {"pred": root / "pred"})] == ["b"]


def test_digits_at_the_end_of_a_plain_name_are_not_a_channel(root: Path) -> None:
    touch(*(root / folder / "scan_0012.nii.gz" for folder in ("plain", "truth", "pred")))
    cases = find_case_files(root / "plain", root / "truth", {"pred": root / "pred"})
    assert [case.case_id for case in cases] == ["scan_0012"]


def test_scans_of_other_cases_leave_the_report_without_viewer(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(root / "others" / "z_0000.nii.gz")
    assert find_case_files(root / "others", root / "truth", {"pred": root / "pred"}) == []
    assert "the report has no viewer" in caplog.text


def test_a_missing_folder_is_named(root: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        find_case_files(root / "nowhere", root / "truth", {"pred": root / "pred"})
    assert error.value.file == root / "nowhere"


def test_a_case_with_damaged_boxes_is_shown(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(root / "pred" / "rois" / "a.json")
    (case,) = find_case_files(root / "images", root / "truth", {"pred": root / "pred"})
    assert case.boxes == () and "not valid JSON" in caplog.text
