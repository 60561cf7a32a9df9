from __future__ import annotations

import base64
import csv
import json
import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from detseg3d.core.codes import ClassCodes, Code
from detseg3d.core.geometry import Geometry
from detseg3d.core.version import __version__
from detseg3d.data.images import read_image
from detseg3d.inference.candidates import Candidates
from detseg3d.inference.prediction_files import clear_cases, is_exported, write_case, write_tables
from detseg3d.inference.result import Prediction, describe_case
from detseg3d.measures.measure import measure_lesions
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.merge import Lesion, Merged
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.plans import Plans
from detseg3d.system.files import write_text
from detseg3d.system.json_files import read_json

TURN = (0.0, -1.0, 0.0, 0.6, 0.0, -0.8, 0.8, 0.0, 0.6)  # orthonormal, not axis-aligned
AXES = "ARS"  # by hand: z runs most to the front (-.8), y to the right (-1), x to the head (.8)
GEOMETRY = Geometry((8, 9, 10), spacing=(3.0, 0.5, 0.75), origin=(-20.0, 15.5, 7.25), direction=TURN)


@pytest.fixture(scope="module")
def plans(tiny_plans: Plans) -> Plans:
    return tiny_plans.evolve(class_names=("cyst", "tumour"), class_labels=(4, 2))


def outlined(detections: Detections, geometry: Geometry, left_out: int | None = None) -> Candidates:
    """Return candidates with an RoI for each box, except for the box ``left_out``."""
    rois = [
        RoiPrediction(box, index, torch.zeros(1, 1, 1), 0.5)
        for index, box in enumerate(detections.boxes)
        if index != left_out
    ]
    return Candidates(detections, rois, geometry.shape, geometry.spacing)


@pytest.fixture
def prediction(plans: Plans) -> Prediction:
    """Three candidates; the last two became lesions 1 (a tumour) and 2 (a cyst)."""
    instances = np.zeros(GEOMETRY.shape, np.uint16)
    instances[1:3, 2:6, 3:4], instances[6, 7, 8] = 1, 2
    found = Detections(
        np.array([[0, 0, 0, 2, 2, 2], [5.75, 7, 8, 7, 8, 9], [1, 2, 3, 3, 6, 4.5]], np.float32),
        np.array([0.25, 0.5, 0.9], np.float32),
        np.array([0, 0, 1]),
    )
    lesions = [
        Lesion(1, 1, 0.85, 0.9, 0.8, (1.0, 2.0, 3.0, 3.0, 6.0, 4.0), 8, 2),
        Lesion(2, 0, 0.6, 0.5, 0.72, (6.0, 7.0, 8.0, 7.0, 8.0, 9.0), 1, 1),
    ]
    semantic = np.array([0, 2, 4], np.uint8)[instances]
    merged = Merged(semantic, instances, lesions, np.array([0.1, 0.6, 0.85]), np.array([0.04, 0.72, 0.8]))
    return describe_case(merged, outlined(found, GEOMETRY), GEOMETRY, plans)


def in_world(z: float, y: float, x: float) -> list[float]:
    """Return the position of voxel edges in the world by SimpleITK, which counts voxel centres."""
    image = SimpleITK.Image(10, 9, 8, SimpleITK.sitkUInt8)
    image.SetSpacing((0.75, 0.5, 3.0))
    image.SetOrigin(GEOMETRY.origin)
    image.SetDirection(TURN)
    return list(image.TransformContinuousIndexToPhysicalPoint((x - 0.5, y - 0.5, z - 0.5)))


def test_a_lesion_has_its_class_label_and_scores(prediction: Prediction) -> None:
    first, second = prediction.lesions
    assert (first.id, first.class_name, first.label) == (1, "tumour", 2)
    assert (second.id, second.class_name, second.label) == (2, "cyst", 4)
    assert (first.score, first.detection_score, first.roi_score) == (0.85, 0.9, 0.8)


def test_a_lesion_has_its_voxels_volume_and_diameter(prediction: Prediction) -> None:
    lesion = prediction.lesions[0]
    assert lesion.voxels == 8
    assert lesion.volume_mm3 == pytest.approx(8 * 3.0 * 0.5 * 0.75)
    assert math.pi / 6 * lesion.diameter_mm**3 == pytest.approx(lesion.volume_mm3)


def test_a_lesion_has_its_box_and_centre_in_voxel_edges(prediction: Prediction) -> None:
    assert prediction.lesions[0].box == (1, 2, 3, 3, 6, 4)
    assert prediction.lesions[0].center == (2, 4, 3.5)


def test_a_lesion_has_its_box_and_centre_in_world_coordinates(prediction: Prediction) -> None:
    lesion = prediction.lesions[0]
    np.testing.assert_allclose(lesion.center_world, in_world(2, 4, 3.5))
    np.testing.assert_allclose(lesion.box_world, [in_world(1, 2, 3), in_world(3, 6, 4)])


def test_every_candidate_is_listed_with_its_lesion(prediction: Prediction) -> None:
    assert [candidate.lesion for candidate in prediction.candidates] == [None, 2, 1]
    assert [candidate.score for candidate in prediction.candidates] == [0.1, 0.6, 0.85]
    assert [candidate.class_name for candidate in prediction.candidates] == ["cyst", "cyst", "tumour"]
    assert prediction.candidates[1].box == (5.75, 7, 8, 7, 8, 9)


def test_all_candidates_that_went_into_a_lesion_name_it(plans: Plans) -> None:
    instances = np.ones((1, 1, 4), np.uint16)
    found = Detections(np.zeros((3, 6), np.float32), np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64))
    lesions = [Lesion(1, 0, 0.8, 0.8, 0.8, (0.0, 0.0, 0.0, 1.0, 1.0, 4.0), 4, candidate=1, joined=(2,))]
    merged = Merged(instances.astype(np.uint8), instances, lesions, np.zeros(3), np.zeros(3))
    prediction = describe_case(merged, outlined(found, Geometry((1, 1, 4))), Geometry((1, 1, 4)), plans)
    assert [candidate.lesion for candidate in prediction.candidates] == [None, 1, 1]


def read_record(folder: Path, case_id: str = "a") -> Any:
    return json.loads((folder / "rois" / f"{case_id}.json").read_text(encoding="utf-8"))


def test_the_record_holds_the_whole_description(prediction: Prediction, plans: Plans, tmp_path: Path) -> None:
    write_case(prediction, "a", tmp_path, ".mha")
    assert read_record(tmp_path) == {
        "case_id": "a",
        "model": {"name": "", "digest": "", "version": __version__},
        "shape": [8, 9, 10],
        "spacing": [3.0, 0.5, 0.75],
        "axes": AXES,
        "thresholds": plans.inference.values(),
        "candidate_limit": None,
        "limit_reached": False,
        "similarity": None,
        "expected_recall": None,
        "lesions": [lesion.to_json() for lesion in prediction.lesions],
        "candidates": [candidate.to_json() for candidate in prediction.candidates],
    }


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii", ".nii.gz", ".npy"])
def test_the_masks_are_images(prediction: Prediction, tmp_path: Path, ending: str) -> None:
    write_case(prediction, "a", tmp_path, ending)
    semantic, geometry = read_image(tmp_path / f"a{ending}")
    instances, _ = read_image(tmp_path / "instances" / f"a{ending}")
    np.testing.assert_array_equal(geometry.stored_order.to_stored(semantic), prediction.semantic)
    np.testing.assert_array_equal(geometry.stored_order.to_stored(instances), prediction.instances)
    assert (semantic.dtype, instances.dtype) == (np.uint8, np.uint16)


def test_probabilities_are_written_if_there_are_any(prediction: Prediction, tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((2, 8, 9, 10)).astype(np.float16)
    fields = {
        name: getattr(prediction, name) for name in ("semantic", "instances", "lesions", "candidates", "geometry")
    }
    write_case(Prediction(**fields, probabilities=maps), "a", tmp_path, ".nii.gz")
    write_case(prediction, "b", tmp_path, ".nii.gz")
    assert [path.name for path in (tmp_path / "probabilities").iterdir()] == ["a.npz"]
    np.testing.assert_array_equal(np.load(tmp_path / "probabilities" / "a.npz")["probabilities"], maps)


def test_probabilities_of_an_earlier_prediction_do_not_stay(prediction: Prediction, tmp_path: Path) -> None:
    earlier = tmp_path / "probabilities" / "a.npz"
    earlier.parent.mkdir()
    earlier.write_bytes(b"of another mask")
    write_case(prediction, "a", tmp_path, ".nii.gz")
    assert not earlier.exists()


@pytest.mark.parametrize("missing", ["a.nii.gz", "instances/a.nii.gz", "rois/a.json"])
def test_a_result_is_complete_with_all_its_files(prediction: Prediction, tmp_path: Path, missing: str) -> None:
    write_case(prediction, "a", tmp_path, ".nii.gz")
    assert is_exported(tmp_path, "a", ".nii.gz")
    (tmp_path / missing).unlink()
    assert not is_exported(tmp_path, "a", ".nii.gz")


def test_a_result_of_another_format_does_not_count(prediction: Prediction, tmp_path: Path) -> None:
    write_case(prediction, "a", tmp_path, ".nii.gz")
    assert not is_exported(tmp_path, "a", ".mha")


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "lesions.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_the_table_has_a_row_for_each_lesion(prediction: Prediction, tmp_path: Path) -> None:
    write_case(prediction, "b", tmp_path, ".mha")
    write_case(prediction, "a, left", tmp_path, ".mha")
    write_tables(tmp_path)
    rows = read_table(tmp_path)
    assert [(row["case"], row["id"], row["class"], row["voxels"]) for row in rows] == [
        ("a, left", "1", "tumour", "8"),
        ("a, left", "2", "cyst", "1"),
        ("b", "1", "tumour", "8"),
        ("b", "2", "cyst", "1"),
    ]


def test_the_table_keeps_the_order_of_nearly_equal_scores(prediction: Prediction, tmp_path: Path) -> None:
    scores = [0.99996, float(np.nextafter(0.99996, 0))]
    lesions = [replace(lesion, score=score) for lesion, score in zip(prediction.lesions, scores, strict=True)]
    write_case(replace(prediction, lesions=tuple(lesions)), "a", tmp_path, ".mha")
    write_tables(tmp_path)
    assert [float(row["score"]) for row in read_table(tmp_path)] == scores


def test_a_row_has_the_box_and_the_centre_of_the_lesion(prediction: Prediction, tmp_path: Path) -> None:
    write_case(prediction, "a", tmp_path, ".mha")
    write_tables(tmp_path)
    row, lesion = read_table(tmp_path)[0], prediction.lesions[0]
    assert [float(row[name]) for name in ("z0", "y0", "x0", "z1", "y1", "x1")] == list(lesion.box)
    world = [float(row[f"center_{axis}_mm"]) for axis in "xyz"]
    assert world == pytest.approx(lesion.center_world, rel=1e-3)
    assert float(row["volume_mm3"]) == pytest.approx(lesion.volume_mm3, rel=1e-3)
    assert float(row["score"]) == pytest.approx(lesion.score)


def test_an_unfinished_record_is_not_read(prediction: Prediction, tmp_path: Path) -> None:
    write_case(prediction, "a", tmp_path, ".mha")
    (tmp_path / "rois" / ".1234.partial.b.json").write_text("{", encoding="utf-8")
    write_tables(tmp_path)
    assert len(read_table(tmp_path)) == 2


def test_a_case_that_another_process_finishes_meanwhile_is_in_the_table(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(prediction, "a", tmp_path, ".mha")
    later = iter(["b", "c"])

    def write_slowly(text: str, path: Path) -> None:
        """While this process writes the table, other processes finish a case and write their tables."""
        for case_id in later:
            write_case(prediction, case_id, tmp_path, ".mha")
            break
        write_text(text, path)

    monkeypatch.setattr("detseg3d.inference.prediction_files.write_text", write_slowly)
    write_tables(tmp_path)
    assert {row["case"] for row in read_table(tmp_path)} == {"a", "b", "c"}


def test_a_case_that_another_process_predicts_again_is_not_an_error(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case_id in ("a", "b"):
        write_case(prediction, case_id, tmp_path, ".mha")

    def vanish(path: Path) -> object:
        if path.stem == "a":
            path.unlink(missing_ok=True)
        return read_json(path)

    monkeypatch.setattr("detseg3d.inference.prediction_files.read_json", vanish)
    write_tables(tmp_path)
    assert {row["case"] for row in read_table(tmp_path)} == {"b"}


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nii.gz", ".npy"])
def test_a_prediction_that_fails_halfway_keeps_the_earlier_prediction(
    prediction: Prediction, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(prediction, "a", tmp_path, ending)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("detseg3d.inference.prediction_files.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        write_case(replace(prediction, semantic=prediction.semantic + 1), "a", tmp_path, ending)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert is_exported(tmp_path, "a", ending)


def test_a_folder_without_lesions_has_a_table_with_a_head(tmp_path: Path) -> None:
    tmp_path.joinpath("rois").mkdir()
    write_tables(tmp_path)
    assert (tmp_path / "lesions.csv").read_text(encoding="utf-8").splitlines() == [
        "case,id,class,score,volume_mm3,diameter_mm,voxels,long_axis_mm,short_axis_mm,maximum_diameter_mm,surface_mm2,"
        "sphericity,border_distance_mm,slice_axis,slice_index,z0,y0,x0,z1,y1,x1,center_x_mm,center_y_mm,center_z_mm,"
        "long_axis_x0_mm,long_axis_y0_mm,long_axis_z0_mm,long_axis_x1_mm,long_axis_y1_mm,long_axis_z1_mm,"
        "short_axis_x0_mm,short_axis_y0_mm,short_axis_z0_mm,short_axis_x1_mm,short_axis_y1_mm,short_axis_z1_mm,"
        "maximum_diameter_x0_mm,maximum_diameter_y0_mm,maximum_diameter_z0_mm,maximum_diameter_x1_mm,"
        "maximum_diameter_y1_mm,maximum_diameter_z1_mm,unlike_training"
    ]


def test_all_files_of_a_case_can_be_removed(prediction: Prediction, tmp_path: Path) -> None:
    for case_id, ending in (("a", ".mha"), ("a", ".nii.gz"), ("b.c", ".mha")):
        write_case(prediction, case_id, tmp_path, ending)
    (tmp_path / "a.txt").write_text("notes", encoding="utf-8")
    clear_cases(tmp_path, {"a", "b"})
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert left == {"a.txt", "b.c.mha", "instances/b.c.mha", "rois/b.c.json"}


def test_removing_the_results_of_a_case_without_results_is_not_an_error(tmp_path: Path) -> None:
    clear_cases(tmp_path / "nowhere", {"a"})
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"lesions": [{}]}', '{"lesions": 3}', '{"lesions": [{"box": null}]}'])
def test_a_damaged_record_does_not_prevent_the_table(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rois").mkdir()
    (tmp_path / "rois" / "foreign.json").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        write_tables(tmp_path)
    assert "foreign.json is not a record of a prediction" in caplog.text
    assert len((tmp_path / "lesions.csv").read_text(encoding="utf-8").splitlines()) == 1


# -- In a notebook -----------------------------------------------------------------------------------------------------


def test_a_notebook_shows_a_picture_and_a_row_for_each_lesion(prediction: Prediction) -> None:
    page = prediction._repr_html_()
    [picture] = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert page.count("<tr>") == 1 + len(prediction.lesions)
    assert "<script" not in page and "http" not in page


def test_names_of_classes_are_escaped(prediction: Prediction) -> None:
    named = replace(prediction, lesions=(replace(prediction.lesions[0], class_name="<b>cyst</b>"),))
    assert "<b>cyst" not in named._repr_html_() and "&lt;b&gt;cyst" in named._repr_html_()


def test_a_prediction_without_lesions_shows_the_scan(prediction: Prediction) -> None:
    nothing = np.zeros_like(prediction.instances)
    image = np.random.default_rng(0).random(nothing.shape)
    empty = replace(prediction, lesions=(), instances=nothing, image=image)
    assert "<img" in empty._repr_html_() and "<table" not in empty._repr_html_()
    assert "<img" not in replace(empty, image=None)._repr_html_()


def test_the_text_forms_of_a_prediction_have_one_line(prediction: Prediction) -> None:
    for value in (prediction, prediction.lesions[0], prediction.candidates[0]):
        assert repr(value).startswith(type(value).__name__) and "\n" not in repr(value) and len(repr(value)) < 120


def test_a_prediction_is_json(prediction: Prediction) -> None:
    record = json.loads(json.dumps(prediction.to_json(), allow_nan=False))
    assert record["lesions"][0]["class"] == prediction.lesions[0].class_name
    assert len(record["candidates"]) == len(prediction.candidates)


def test_a_lesion_has_the_measures_of_its_mask(prediction: Prediction) -> None:
    [expected] = measure_lesions(prediction.instances, [1], prediction.geometry)
    assert prediction.lesions[0].measures == expected
    record = prediction.lesions[0].to_json()
    assert record["long_axis_mm"] == expected.long_axis_mm and record["sphericity"] == expected.sphericity
    assert record["intensities"] == [] and record["border_distance_mm"] is None


def test_a_candidate_without_an_outline_has_the_highest_score_that_it_could_have(plans: Plans) -> None:
    geometry = Geometry((1, 1, 4))
    found = Detections(np.zeros((2, 6), np.float32), np.array([0.9, 0.0625], np.float32), np.zeros(2, np.int64))
    merged = Merged(np.zeros((1, 1, 4), np.uint8), np.zeros((1, 1, 4), np.uint16), [], np.zeros(2), np.zeros(2))
    candidates = describe_case(merged, outlined(found, geometry, left_out=1), geometry, plans).candidates
    assert [(candidate.score, candidate.roi_score) for candidate in candidates] == [(0, 0), (0.25, None)]
    assert candidates[1].to_json()["roi_score"] is None


def test_a_lesion_has_the_codes_of_its_class(plans: Plans) -> None:
    codes = ClassCodes(Code("4147007", "SCT", "Mass"))
    coded = plans.model_copy(update={"codes": {"tumour": codes}})
    instances = np.array([[[1, 2]]], np.uint16)
    found = Detections(np.zeros((2, 6), np.float32), np.array([0.9, 0.8], np.float32), np.array([1, 0]))
    lesions = [
        Lesion(number, 2 - number, 0.8, 0.8, 0.8, (0.0, 0.0, number - 1.0, 1.0, 1.0, float(number)), 1, number - 1)
        for number in (1, 2)
    ]
    merged = Merged(instances.astype(np.uint8), instances, lesions, np.zeros(2), np.zeros(2))
    first, second = describe_case(merged, outlined(found, Geometry((1, 1, 2))), Geometry((1, 1, 2)), coded).lesions
    assert (first.class_name, first.codes, second.codes) == ("tumour", codes, None)
