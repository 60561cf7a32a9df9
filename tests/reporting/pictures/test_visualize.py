from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.images import write_image
from detseg3d.reporting.pictures import overlay, visualize
from detseg3d.reporting.pictures.case_view import CaseView, LesionMap
from detseg3d.reporting.pictures.findings import Finding, Outcome, collect_findings
from detseg3d.reporting.pictures.overlay import draw_case
from detseg3d.reporting.pictures.visualize import visualize_files
from detseg3d.system.json_files import write_json

SHAPE = (4, 12, 12)


def save(array: npt.NDArray[Any], path: Path, spacing: tuple[float, float, float] = (2.0, 1.0, 1.0)) -> Path:
    write_image(array, Geometry(array.shape, spacing), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 2:4, 2:6] = 1
    return {
        "image": save(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), tmp_path / "c_0000.nii.gz"),
        "prediction": save(mask, tmp_path / "pred" / "c.nii.gz"),
        "label": save(mask, tmp_path / "labels" / "c.nii.gz"),
        "output": tmp_path / "c.png",
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[CaseView]:
    """Collect the cases that are drawn."""
    cases: list[CaseView] = []

    def record(case: CaseView, maximum: int) -> Any:
        cases.append(case)
        return draw_case(case, maximum)

    monkeypatch.setattr(visualize, "draw_case", record)
    return cases


def sides(case: CaseView) -> tuple[LesionMap, LesionMap]:
    assert case.truth is not None and case.prediction is not None
    return case.truth, case.prediction


def add_layout(files: dict[str, Path]) -> None:
    instances = np.zeros(SHAPE, np.uint16)
    instances[1, 2:4, 2:4], instances[1, 2:4, 4:6] = 1, 2
    folder = files["prediction"].parent
    save(instances, folder / "instances" / "c.nii.gz")
    lesions = [{"id": number, "label": 1, "score": 0.5, "box": [1, 2, 2, 2, 4, 4]} for number in (1, 2)]
    write_json({"lesions": lesions}, folder / "rois" / "c.json")


def test_a_plain_mask_is_drawn(files: dict[str, Path], drawn: list[CaseView]) -> None:
    visualize_files(**files)
    assert files["output"].read_bytes().startswith(b"\x89PNG")
    truth, prediction = sides(drawn[0])
    assert drawn[0].spacing == (2.0, 1.0, 1.0) and drawn[0].title == "c"
    assert (truth.instances.max(), prediction.instances.max(), prediction.scores) == (1, 1, {})


@pytest.mark.parametrize("given", ["c.nii.gz", "instances/c.nii.gz"])
def test_instances_and_scores_beside_the_mask_are_used(
    files: dict[str, Path], drawn: list[CaseView], given: str
) -> None:
    add_layout(files)
    visualize_files(**{**files, "prediction": files["prediction"].parent / given})
    _, prediction = sides(drawn[0])
    assert prediction.instances.max() == 2 and prediction.scores == {1: 0.5, 2: 0.5}


def test_the_roi_file_can_be_given(files: dict[str, Path], drawn: list[CaseView], tmp_path: Path) -> None:
    add_layout(files)
    write_json({"lesions": []}, tmp_path / "other.json")
    visualize_files(**files, rois=tmp_path / "other.json")
    assert sides(drawn[0])[1].scores == {}


def test_a_roi_file_without_instance_map_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    write_json({"lesions": []}, tmp_path / "other.json")
    with pytest.raises(DetSeg3DError) as error:
        visualize_files(**files, rois=tmp_path / "other.json")
    assert error.value.file == files["prediction"] and "--instances" in error.value.remedy


def test_labels_are_instance_maps_if_dataset_json_declares_them(
    files: dict[str, Path], drawn: list[CaseView], tmp_path: Path
) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[1, 2:4, 2:4], label[1, 2:4, 4:6] = 5, 6
    save(label, files["label"])
    write_json({"labels": {"background": 0, "lesion": 1}, "instances": True}, tmp_path / "dataset.json")
    visualize_files(**files)
    assert set(np.unique(sides(drawn[0])[0].instances)) == {0, 5, 6}


@pytest.mark.parametrize("layout", [False, True])
def test_a_lesion_of_another_class_is_not_found(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, layout: bool
) -> None:
    findings: list[Finding] = []

    def record(*arguments: Any) -> list[Finding]:
        findings.extend(collect_findings(*arguments))
        return findings

    monkeypatch.setattr(overlay, "collect_findings", record)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 2:4, 2:6] = 2
    save(mask, files["label" if layout else "prediction"])
    if layout:
        add_layout(files)
    write_json({"labels": {"background": 0, "a": 1, "b": 2}}, files["output"].parent / "dataset.json")
    visualize_files(**files)
    missed, false = Outcome.MISSED, Outcome.FALSE_POSITIVE
    expected = [(missed, "b"), (false, "a"), (false, "a")] if layout else [(missed, "a"), (false, "b")]
    assert [(finding.outcome, finding.class_name) for finding in findings] == expected


def test_all_predicted_lesions_are_shown_if_there_is_no_label(files: dict[str, Path], drawn: list[CaseView]) -> None:
    del files["label"]
    visualize_files(**files)
    assert drawn[0].truth is None


@pytest.mark.parametrize("which", ["prediction", "label"])
def test_files_of_another_grid_are_refused(files: dict[str, Path], which: str) -> None:
    save(np.zeros(SHAPE, np.uint8), files[which], (2.0, 1.0, 3.0))
    with pytest.raises(DetSeg3DError) as error:
        visualize_files(**files)
    assert error.value.file == files[which]


def test_an_unknown_picture_format_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(DetSeg3DError) as error:
        visualize_files(**{**files, "output": Path("picture.docx")})
    assert error.value.file == Path("picture.docx") and error.value.expected == ".png or .pdf or .svg"


DIRECTIONS = {
    "SPL": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    "SAR": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    "RIP": (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "LSA": (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
}


def save_in_order(canonical: npt.NDArray[Any], path: Path, axes: str) -> StoredOrder:
    """Write a volume with a voxel size of 1 mm around the origin; ``axes`` is the order of its axes in the file."""
    unplaced = Geometry(canonical.shape, origin=tuple(-(size - 1) / 2 for size in canonical.shape[::-1]))
    order = StoredOrder.from_axes(axes, np.zeros(3))
    shape = order.to_stored(canonical).shape
    stored = Geometry(shape, direction=DIRECTIONS[axes])
    middle = stored.voxel_edges_to_world([[size / 2 for size in shape]])[0]
    stored = Geometry(shape, origin=tuple(-middle), direction=DIRECTIONS[axes])
    assert unplaced.difference(stored.canonical()) == []
    write_image(canonical, stored.canonical(), path)
    return StoredOrder.of_direction(DIRECTIONS[axes], shape)


@pytest.mark.parametrize("axes", [("SPL", "RIP", "SAR"), ("RIP", "LSA", "SPL"), ("SAR", "SAR", "LSA")])
def test_files_with_different_axis_orders_are_drawn_in_one_order(
    tmp_path: Path, drawn: list[CaseView], axes: tuple[str, str, str]
) -> None:
    instances = np.zeros((5, 9, 12), np.uint16)
    instances[1:3, 2:4, 2:6], instances[3, 6, 9] = 1, 2
    image = np.random.default_rng(0).normal(size=instances.shape).astype(np.float32)
    folder = tmp_path / "pred"
    save_in_order(image, tmp_path / "c_0000.nii.gz", axes[0])
    order = save_in_order(instances, folder / "instances/c.nii.gz", axes[1])
    save_in_order((instances > 0).astype(np.uint8), folder / "c.nii.gz", axes[1])
    save_in_order((instances > 0).astype(np.uint8), tmp_path / "labels/c.nii.gz", axes[2])
    boxes = {1: (1, 2, 2, 3, 4, 6), 2: (3, 6, 9, 4, 7, 10)}
    lesions = [
        {"id": number, "label": 1, "score": 0.5, "box": list(order.box_to_stored(box))} for number, box in boxes.items()
    ]
    write_json({"lesions": lesions}, folder / "rois/c.json")
    visualize_files(
        tmp_path / "c_0000.nii.gz", folder / "c.nii.gz", tmp_path / "c.png", label=tmp_path / "labels/c.nii.gz"
    )
    truth, prediction = sides(drawn[0])
    own = StoredOrder.from_axes(axes[0], drawn[0].image.shape)
    np.testing.assert_array_equal(own.to_canonical(drawn[0].image), image)  # in the order of the image file
    np.testing.assert_array_equal(prediction.instances > 0, truth.instances > 0)
    assert list(prediction.boxes) == [1, 2]
    for number, box in prediction.boxes.items():
        z0, y0, x0, z1, y1, x1 = (int(edge) for edge in box)
        assert (prediction.instances[z0:z1, y0:y1, x0:x1] == number).all()
        assert (prediction.instances == number).sum() == (z1 - z0) * (y1 - y0) * (x1 - x0)
