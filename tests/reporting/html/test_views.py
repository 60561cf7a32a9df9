from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image_source import ImageSource
from detseg3d.reporting.html.views import find_views
from detseg3d.system.files import write_json


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two cases; the second has no scan."""
    touch(*(tmp_path / "images" / f"a_{channel}.nii.gz" for channel in ("0000", "0001")))
    touch(*(tmp_path / folder / f"{case}.nii.gz" for folder in ("truth", "pred") for case in ("a", "b")))
    return tmp_path


def test_the_first_channel_is_shown_and_cases_without_a_scan_are_not(root: Path) -> None:
    (view,) = find_views(root / "images", root / "truth", {"pred": root / "pred"})
    assert view.case_id == "a"
    assert (view.image.path, view.truth_path) == (root / "images" / "a_0000.nii.gz", root / "truth" / "a.nii.gz")
    assert (view.prediction_instances_path, view.rois, view.system) == (root / "pred" / "a.nii.gz", [], None)


def test_scans_and_labels_may_be_named_one_by_one(root: Path) -> None:
    scans = {"a": ImageSource(root / "truth" / "a.nii.gz"), "b": ImageSource(root / "gone.nii.gz")}
    labels = {"a": root / "images" / "a_0001.nii.gz", "b": root / "truth" / "b.nii.gz"}
    (view,) = find_views(scans, labels, {"pred": root / "pred"})
    assert (view.case_id, view.image, view.truth_path) == ("a", scans["a"], labels["a"])


def test_our_own_layout_brings_instances_and_boxes(root: Path) -> None:
    touch(root / "pred" / "instances" / "a.nii.gz")
    write_json({"lesions": [{"id": 1, "label": 1, "score": 0.5}]}, root / "pred" / "rois" / "a.json")
    (view,) = find_views(root / "images", root / "truth", {"pred": root / "pred"})
    assert view.prediction_instances_path == root / "pred" / "instances" / "a.nii.gz"
    assert [lesion["score"] for lesion in view.rois] == [0.5]


def test_each_of_several_systems_has_its_view(root: Path) -> None:
    touch(root / "other" / "a.nii.gz")
    images = ImageSource(root / "images", spacing=(3, 1, 1))
    views = find_views(images, root / "truth", {"pred": root / "pred", "x": root / "other"})
    assert [(view.system, view.image.spacing) for view in views] == [("pred", (3, 1, 1)), ("x", (3, 1, 1))]


def test_scans_without_channel_numbers_are_found(root: Path) -> None:
    touch(root / "plain" / "b.nii.gz")
    assert [view.case_id for view in find_views(root / "plain", root / "truth", {"pred": root / "pred"})] == ["b"]


def test_digits_at_the_end_of_plain_names_are_no_channel(root: Path) -> None:
    touch(*(root / folder / "scan_0012.nii.gz" for folder in ("plain", "truth", "pred")))
    views = find_views(root / "plain", root / "truth", {"pred": root / "pred"})
    assert [view.case_id for view in views] == ["scan_0012"]


def test_scans_of_other_cases_leave_the_report_without_viewer(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(root / "others" / "z_0000.nii.gz")
    assert find_views(root / "others", root / "truth", {"pred": root / "pred"}) == []
    assert "has no viewer" in caplog.text


def test_a_folder_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(DetSeg3DError, match="folder of the scan does not exist"):
        find_views(root / "nowhere", root / "truth", {"pred": root / "pred"})


def test_damaged_boxes_do_not_cost_the_view(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(root / "pred" / "rois" / "a.json")
    (view,) = find_views(root / "images", root / "truth", {"pred": root / "pred"})
    assert view.rois == [] and "not valid JSON" in caplog.text
