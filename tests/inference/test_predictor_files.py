from __future__ import annotations

import csv
import json
import logging
import logging.handlers
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_image, write_image
from detseg3d.exports.dicom.options import DicomOptions
from detseg3d.inference.candidates import Candidates, load_candidates
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.pipeline.predict import OutputOptions, predict_cases
from tests.data.formats.dicom.builders import MR, SeriesBuilder, enhanced, save, uid
from tests.exports.dicom.results import read_with_pydicom, true_lesions
from tests.inference.conftest import load
from tests.scans import make_scan

# A rotation about two axes, with digits that no decimal header would keep by chance.
TURN = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)


ORIGIN = (-91.123456789, 126.1, 1 / 3)


def write_scan(path: Path, image: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    """Write ``(Z, Y, X)`` with ``spacing`` (z, y, x), turned and shifted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, image)
        return
    volume = SimpleITK.GetImageFromArray(image)
    volume.SetSpacing(spacing[::-1])
    volume.SetOrigin(ORIGIN)
    volume.SetDirection(TURN)
    SimpleITK.WriteImage(volume, str(path))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def predict(predictor: Predictor, scans: Path, output: Path, **settings: Any) -> dict[str, str]:
    inputs = settings.pop("options", None)
    options = OutputOptions(show_progress=False, **settings)
    return predict_cases(predictor, predictor.list_inputs(scans), output, inputs, options)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii", ".nii.gz"])
def test_results_have_the_geometry_of_the_input(predictor: Predictor, tmp_path: Path, ending: str) -> None:
    source = tmp_path / "in" / f"a{ending}"
    write_scan(source, make_scan(101)[0], spacing=(1.1, 0.9, 1.05))
    assert predict(predictor, tmp_path / "in", tmp_path / "out") == {}
    given = SimpleITK.ReadImage(str(source))
    for name in (f"a{ending}", f"instances/a{ending}"):
        written = SimpleITK.ReadImage(str(tmp_path / "out" / name))
        assert written.GetSize() == given.GetSize()
        assert written.GetSpacing() == given.GetSpacing()
        assert written.GetOrigin() == given.GetOrigin()
        assert written.GetDirection() == given.GetDirection()


def test_results_of_arrays_are_arrays(predictor: Predictor, result: Prediction, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / "a.npy", make_scan(101)[0])
    assert predict(predictor, tmp_path / "in", tmp_path / "out") == {}
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy"), result.semantic)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "instances" / "a.npy"), result.instances)


def test_arrays_may_be_given_a_spacing(predictor: Predictor, tmp_path: Path) -> None:
    image = make_scan(101)[0][::2]
    write_scan(tmp_path / "in" / "a.npy", image)
    predict(predictor, tmp_path / "in", tmp_path / "out", options=InputOptions((2.0, 1.0, 1.0)))
    expected = predictor.predict_array(image, (2.0, 1.0, 1.0))
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "instances" / "a.npy"), expected.instances)


def test_arrays_have_the_spacing_of_the_plans(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "plans", predictor.plans.evolve(default_spacing=(2.0, 1.0, 1.0)))
    write_scan(tmp_path / "in" / "a.npy", make_scan(101)[0][::2])
    for name, given in (("plans", None), ("given", (1.5, 1.0, 1.0))):
        assert predict(predictor, tmp_path / "in", tmp_path / name, options=InputOptions(given)) == {}
        record = json.loads((tmp_path / name / "rois" / "a.json").read_text(encoding="utf-8"))
        assert record["spacing"] == list(given or (2.0, 1.0, 1.0))


def test_files_and_arrays_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / "a.mha", make_scan(101)[0], (1.25, 1.0, 0.75))
    predict(predictor, tmp_path / "in", tmp_path / "out", save_probabilities=True)
    image, geometry = read_image(tmp_path / "in" / "a.mha")
    expected = predictor.predict_array(image, geometry.spacing, keep_probabilities=True)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "instances" / "a.mha")[0], expected.instances)
    stored = np.load(tmp_path / "out" / "probabilities" / "a.npz")["probabilities"]
    assert stored.shape[1:] == geometry.as_stored().shape != geometry.shape
    np.testing.assert_array_equal(geometry.stored_order.to_canonical(stored), expected.probabilities)


@pytest.fixture(scope="module")
def written(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``in`` with two scans, one of them healthy, and their results in ``out``."""
    folder = tmp_path_factory.mktemp("written")
    write_scan(folder / "in" / "healthy.mha", make_scan(7, lesions=0)[0])
    write_scan(folder / "in" / "sick.mha", make_scan(101)[0], spacing=(1.1, 0.9, 1.05))
    assert predict(predictor, folder / "in", folder / "out") == {}
    return folder


def test_boxes_in_the_world_fit_the_written_mask(written: Path) -> None:
    """By SimpleITK, the voxels of each lesion fill the written box in world coordinates."""
    image = SimpleITK.ReadImage(str(written / "out" / "instances" / "sick.mha"))
    instances = SimpleITK.GetArrayFromImage(image)
    record = json.loads((written / "out" / "rois" / "sick.json").read_text(encoding="utf-8"))
    assert record["lesions"] and len(record["lesions"]) == instances.max()
    for lesion in record["lesions"]:
        voxels = np.argwhere(instances == lesion["id"])
        low, high = voxels.min(axis=0) - 0.5, voxels.max(axis=0) + 0.5
        world = [list(image.TransformContinuousIndexToPhysicalPoint(c[::-1].tolist())) for c in (low, high)]
        np.testing.assert_allclose(lesion["box_world"], world, atol=1e-6)
        middle = image.TransformContinuousIndexToPhysicalPoint(((low + high) / 2)[::-1].tolist())
        np.testing.assert_allclose(lesion["center_world"], middle, atol=1e-6)
        assert lesion["volume_mm3"] == pytest.approx(len(voxels) * 1.1 * 0.9 * 1.05)


def test_a_record_has_the_fields_that_are_promised(written: Path) -> None:
    record = json.loads((written / "out" / "rois" / "sick.json").read_text(encoding="utf-8"))
    limit = {"candidate_limit", "limit_reached", "thresholds"}
    comparison = {"similarity", "expected_recall"}
    grid = {"spacing", "shape", "axes"}
    assert set(record) == {"case_id", "model", "lesions", "candidates"} | grid | comparison | limit
    place = {"box", "box_world", "center", "center_world"}
    axes = {"long_axis_mm", "long_axis_ends", "short_axis_mm", "short_axis_ends", "slice_axis", "slice_index"}
    maximum = {"maximum_diameter_mm", "maximum_diameter_ends"}
    measures = {"centroid", "centroid_world", "surface_mm2", "sphericity", "intensities", "border_distance_mm"}
    common = {"class", "label", "score", "detection_score", "roi_score"} | place
    assert set(record["lesions"][0]) == common | axes | maximum | measures | {
        *("id", "voxels", "volume_mm3", "diameter_mm", "codes")
    }
    assert set(record["candidates"][0]) == common | {"lesion"}


def test_a_healthy_scan_has_all_its_files(written: Path) -> None:
    record = json.loads((written / "out" / "rois" / "healthy.json").read_text(encoding="utf-8"))
    assert record["lesions"] == []
    assert not read_image(written / "out" / "healthy.mha")[0].any()
    assert not read_image(written / "out" / "instances" / "healthy.mha")[0].any()


def test_the_table_lists_the_lesions_of_the_folder(written: Path) -> None:
    lines = (written / "out" / "lesions.csv").read_text(encoding="utf-8").splitlines()
    record = json.loads((written / "out" / "rois" / "sick.json").read_text(encoding="utf-8"))
    assert len(lines) == 1 + len(record["lesions"])
    assert all(line.startswith("sick,") for line in lines[1:])


def test_the_files_are_the_same_the_second_time(predictor: Predictor, written: Path, tmp_path: Path) -> None:
    predict(predictor, written / "in", tmp_path)
    assert contents(tmp_path) == contents(written / "out")


def test_a_case_that_fails_is_reported_and_the_others_are_written(
    predictor: Predictor, written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(written / "in", tmp_path / "in")
    (tmp_path / "in" / "broken.mha").write_bytes(b"ObjectType = Image\nnothing more")
    failures = predict(predictor, tmp_path / "in", tmp_path / "out")
    assert list(failures) == ["broken"] and "broken.mha" in failures["broken"]
    assert contents(tmp_path / "out") == contents(written / "out")
    assert "broken failed: " in caplog.text


@pytest.mark.parametrize(("place", "output"), [("scans", "scans"), ("out/instances", "out")])
def test_a_scan_is_never_replaced_by_its_result(
    predictor: Predictor, written: Path, tmp_path: Path, place: str, output: str
) -> None:
    source = shutil.copytree(written / "in", tmp_path / place)
    before = contents(source)
    failures = predict(predictor, source, tmp_path / output, save_candidates=True)
    assert set(failures) == {"healthy", "sick"}
    assert "would replace the scan" in failures["sick"] and "another output folder" in failures["sick"]
    assert {name: contents(source).get(name) for name in before} == before
    assert [path.name for path in tmp_path.rglob("*.npz")] == []


def test_a_scan_that_would_be_replaced_does_not_stop_the_others(
    predictor: Predictor, written: Path, tmp_path: Path
) -> None:
    shutil.copytree(written / "in", tmp_path / "in")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "in" / "sick.mha", tmp_path / "out" / "sick.mha")
    assert list(predict(predictor, tmp_path / "in", tmp_path / "out")) == ["sick"]
    assert (tmp_path / "out" / "healthy.mha").exists()


@pytest.mark.parametrize("error", [MemoryError("400 GB"), RuntimeError("why"), IndexError("list"), KeyError("spacing")])
def test_an_unexpected_error_does_not_stop_the_other_cases(
    predictor: Predictor, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = predictor.find_candidates

    def fail_once(images: Any, geometry: Any, *arguments: Any, **options: Any) -> Candidates:
        if 1.1 not in geometry.spacing:
            raise error
        return original(images, geometry, *arguments, **options)

    monkeypatch.setattr(predictor, "find_candidates", fail_once)
    failures = predict(predictor, written / "in", tmp_path)
    assert list(failures) == ["healthy"]
    assert str(error) in failures["healthy"]
    assert (tmp_path / "sick.mha").exists()


@pytest.fixture
def counted(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that counts the predicted scans."""
    original, calls = predictor.find_candidates, []

    def count(*arguments: Any, **options: Any) -> Candidates:
        calls.append(None)
        return original(*arguments, **options)

    monkeypatch.setattr(predictor, "find_candidates", count)
    return lambda: len(calls)


def test_a_continued_run_skips_complete_cases(
    predictor: Predictor, written: Path, tmp_path: Path, counted: Callable[[], int]
) -> None:
    shutil.copytree(written / "out", tmp_path / "out")
    (tmp_path / "out" / "rois" / "sick.json").unlink()  # written last: without it the case is not whole
    predict(predictor, written / "in", tmp_path / "out", continue_prediction=True)
    assert counted() == 1
    assert contents(tmp_path / "out") == contents(written / "out")


def test_all_is_predicted_again_by_default(
    predictor: Predictor, written: Path, tmp_path: Path, counted: Callable[[], int]
) -> None:
    shutil.copytree(written / "out", tmp_path / "out")
    predict(predictor, written / "in", tmp_path / "out")
    assert counted() == 2


def test_a_continued_run_writes_missing_probabilities(
    predictor: Predictor, written: Path, tmp_path: Path, counted: Callable[[], int]
) -> None:
    shutil.copytree(written / "out", tmp_path / "out")
    predict(predictor, written / "in", tmp_path / "out", continue_prediction=True, save_probabilities=True)
    assert counted() == 2
    assert {path.name for path in (tmp_path / "out" / "probabilities").iterdir()} == {"healthy.npz", "sick.npz"}


def test_a_continued_run_writes_missing_candidates(
    predictor: Predictor, written: Path, tmp_path: Path, counted: Callable[[], int]
) -> None:
    shutil.copytree(written / "out", tmp_path / "out")
    predict(predictor, written / "in", tmp_path / "out", continue_prediction=True, save_candidates=True)
    assert counted() == 2
    assert {path.name for path in (tmp_path / "out" / "candidates").iterdir()} == {"healthy.npz", "sick.npz"}


def test_candidates_of_an_earlier_prediction_do_not_stay(predictor: Predictor, written: Path, tmp_path: Path) -> None:
    predict(predictor, written / "in", tmp_path / "out", save_candidates=True)
    predict(predictor, written / "in", tmp_path / "out")
    assert list((tmp_path / "out" / "candidates").iterdir()) == []


def test_a_case_is_freed_from_memory_before_the_next_case_is_read(
    predictor: Predictor, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, earlier, alive = predictor.find_candidates, [], []

    def watch(images: np.ndarray, *arguments: Any, **options: Any) -> Candidates:
        alive.extend(reference() for reference in earlier if reference() is not None)
        found = original(images, *arguments, **options)
        earlier.extend([weakref.ref(images), weakref.ref(found)])
        return found

    monkeypatch.setattr(predictor, "find_candidates", watch)
    predict(predictor, written / "in", tmp_path / "out")
    assert len(earlier) == 4 and alive == []


def test_a_single_file_is_a_case(predictor: Predictor, written: Path) -> None:
    [case] = predictor.list_inputs(written / "in" / "sick.mha")
    assert (case.case_id, case.images) == ("sick", (ImageSource(written / "in" / "sick.mha"),))


def test_a_single_file_is_predicted_without_the_files_beside_it(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("scan.mha", "other_0000.mha", "other_0001.mha"):
        write_scan(tmp_path / name, make_scan(0)[0])
    [case] = predictor.list_inputs(tmp_path / "scan.mha")
    assert case.images == (ImageSource(tmp_path / "scan.mha"),)


def test_a_file_that_is_not_an_image_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(DetSeg3DError, match=r"notes\.txt"):
        predictor.list_inputs(tmp_path / "notes.txt")


def test_a_missing_input_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)does not exist.*nowhere"):
        predictor.list_inputs(tmp_path / "nowhere")


def test_one_file_is_not_enough_for_a_model_of_two_channels(
    predictor: Predictor, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalization = [{"scheme": "zscore"}] * 2
    monkeypatch.setattr(
        predictor, "plans", predictor.plans.evolve(channel_names=("T1", "T2"), normalization=normalization)
    )
    with pytest.raises(DetSeg3DError, match=r"(?s)needs 2 channels.*folder that holds CASE_0000, CASE_0001"):
        predictor.list_inputs(written / "in" / "sick.mha")


def write_dicom(folder: Path, image: Any, name: str = "T1", **settings: Any) -> None:
    values = np.rint(image * 1000).astype(np.int16)
    extra = {"RescaleSlope": 0.001, "RescaleIntercept": 0}
    SeriesBuilder(values, (1.0, 1.0, 1.0), sop_class=MR, name=name, extra=extra, **settings).write(folder)


def test_a_dicom_folder_gives_the_masks_of_its_array_and_keeps_its_identifiers(
    predictor: Predictor, tmp_path: Path
) -> None:
    image = make_scan(101)[0]
    write_dicom(tmp_path / "in" / "T1", image)
    assert predict(predictor, tmp_path / "in", tmp_path / "out") == {}
    expected = predictor.predict_array(np.rint(image * 1000).astype(np.int16) * 0.001, (1.0, 1.0, 1.0))
    written = SimpleITK.ReadImage(str(tmp_path / "out" / "T1.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), expected.semantic)
    assert written.GetOrigin() == pytest.approx((-10.0, 20.0, -7.5))
    record = json.loads((tmp_path / "out" / "rois" / "T1.json").read_text(encoding="utf-8"))
    (identity,) = record["dicom"]
    assert identity["study_instance_uid"] == uid("study")
    assert identity["series_instance_uid"] == uid("study T1")
    assert identity["frame_of_reference_uid"] == uid("study frame")
    assert identity["sop_instance_uids"] == [uid(f"T1 {index}") for index in range(len(image))]


def test_dicom_objects_of_the_lesions_are_written_beside_the_masks(predictor: Predictor, tmp_path: Path) -> None:
    write_dicom(tmp_path / "in" / "T1", make_scan(101)[0])
    cases, folder = predictor.list_inputs(tmp_path / "in"), tmp_path / "out"
    output = OutputOptions(dicom=DicomOptions(), show_progress=False)
    assert predict_cases(predictor, cases, folder, output=output) == {}
    instances = folder / "instances" / "T1.nii.gz"
    lesions = true_lesions(instances)  # the tiny network may find none, and then only the report is written
    names = ["T1.seg.dcm", "T1.sr.dcm"] if lesions else ["T1.sr.dcm"]
    assert sorted(path.name for path in (folder / "dicom").iterdir()) == names
    if lesions:
        assert read_with_pydicom(folder / "dicom" / "T1.seg.dcm", instances) == lesions
    # A later prediction without DICOM objects leaves none of this prediction.
    assert predict_cases(predictor, cases, folder, output=OutputOptions(show_progress=False)) == {}
    assert list((folder / "dicom").iterdir()) == []


def test_a_scan_in_another_format_fails_if_dicom_objects_are_required(predictor: Predictor, written: Path) -> None:
    cases = predictor.list_inputs(written / "in" / "sick.mha")
    output = OutputOptions(dicom=DicomOptions(), dicom_is_required=True, show_progress=False)
    failures = predict_cases(predictor, cases, written / "required", output=output)
    assert list(failures) == [case.case_id for case in cases]


def test_a_multi_frame_file_is_a_scan(predictor: Predictor, tmp_path: Path) -> None:
    image = np.rint(make_scan(101)[0] * 1000).astype(np.int16)
    save(enhanced(image, [(0, 0, index) for index in range(len(image))], thickness=1.0), tmp_path / "scan.dcm")
    assert predict(predictor, tmp_path / "scan.dcm", tmp_path / "out") == {}
    assert (tmp_path / "out" / "scan.nii.gz").is_file()


def test_a_series_of_a_study_is_chosen(predictor: Predictor, tmp_path: Path) -> None:
    image = make_scan(101)[0]
    write_dicom(tmp_path / "study" / "SE1", image, "T1")
    write_dicom(tmp_path / "study" / "SE2", image[:, ::-1], "FLAIR", number=2)
    options = InputOptions(series=("FLAIR",))
    cases = predictor.list_inputs(tmp_path / "study", options.series)
    assert [case.case_id for case in cases] == ["study"]
    assert predict_cases(predictor, cases, tmp_path / "out", options, OutputOptions(show_progress=False)) == {}
    record = json.loads((tmp_path / "out" / "rois" / "study.json").read_text(encoding="utf-8"))
    assert record["dicom"][0]["series_description"] == "FLAIR"
    assert len(predictor.list_inputs(tmp_path / "study")) == 2, "without a choice, each folder is a case"


def test_a_slice_per_folder_is_one_case(predictor: Predictor, tmp_path: Path) -> None:
    write_dicom(tmp_path / "flat", make_scan(101)[0])
    for number, file in enumerate(sorted((tmp_path / "flat").iterdir())):
        (tmp_path / "nested" / f"IM{number}").mkdir(parents=True)
        file.replace(tmp_path / "nested" / f"IM{number}" / "image.dcm")
    assert [case.case_id for case in predictor.list_inputs(tmp_path / "nested")] == ["nested"]


def test_each_copy_of_a_series_is_a_separate_case(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        write_dicom(tmp_path / "in" / name, make_scan(101)[0])
    assert [case.case_id for case in predictor.list_inputs(tmp_path / "in")] == ["p1", "p2"]


def test_series_and_suv_channels_that_do_not_fit_the_model_are_errors(predictor: Predictor) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        InputOptions(series=("1", "2", "3")).check(predictor.plans)
    assert caught.value.value == ["1", "2", "3"]
    with pytest.raises(DetSeg3DError) as caught:
        InputOptions(suv_channels=("PET",)).check(predictor.plans)
    assert caught.value.value == ["PET"]


# -- Scans that are unlike those of the training -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The predictions of a usual scan, a scan with thick slices and a healthy scan of noise, and the warnings."""
    root = tmp_path_factory.mktemp("compared")
    image = make_scan(101)[0]
    usual = Geometry(image.shape)
    write_image(image, usual, root / "in" / "usual.nii.gz")
    write_image(image[::6].copy(), Geometry(image[::6].shape, (6.0, 1.0, 1.0)), root / "in" / "thick.nii.gz")
    noise = np.random.default_rng(0).uniform(0, 1, image.shape).astype(np.float32)
    write_image(noise, usual, root / "in" / "noise.nii.gz")
    handler = logging.handlers.BufferingHandler(1000)
    logger = logging.getLogger("detseg3d")
    logger.addHandler(handler)
    assert predict(predictor, root / "in", root / "out") == {}
    logger.removeHandler(handler)
    return root / "out", [record.getMessage() for record in handler.buffer if record.levelno >= logging.WARNING]


def read_similarity(folder: Path, case_id: str) -> dict[str, Any]:
    return dict(json.loads((folder / "rois" / f"{case_id}.json").read_text(encoding="utf-8"))["similarity"])


def test_the_record_shows_if_the_scan_is_unlike_the_training(compared: tuple[Path, list[str]]) -> None:
    usual, thick = (read_similarity(compared[0], case_id) for case_id in ("usual", "thick"))
    assert (usual["unlike_training"], usual["reasons"], usual["training_cases"]) == (False, [], 6)
    assert thick["unlike_training"] is True
    (spacing,) = [m for m in thick["measures"] if (m["kind"], m["axis"]) == ("spacing", "z")]
    assert (spacing["value"], spacing["unit"], spacing["unlike_training"]) == (6.0, "mm", True)
    assert spacing["training"] == {"minimum": 1.0, "median": 1.0, "maximum": 1.0}
    assert spacing["expected"][0] <= 1 <= spacing["expected"][1] < 6


def test_each_scan_that_is_unlike_the_training_gives_one_line_of_warning(compared: tuple[Path, list[str]]) -> None:
    unlike = [line for line in compared[1] if "unlike the training" in line]
    assert [line.split()[0] for line in unlike] == ["noise", "thick"]
    assert all("\n" not in line for line in unlike)
    assert "the spacing along z is 6 mm; 1 mm in the training" in unlike[1]


def test_the_recall_to_expect_is_stated_for_scans_that_are_unlike_the_training(
    compared: tuple[Path, list[str]],
) -> None:
    """The model was never consolidated, so the recall is unknown."""
    folder, warnings = compared
    records = {
        name: json.loads((folder / "rois" / f"{name}.json").read_text(encoding="utf-8")) for name in ("usual", "thick")
    }
    assert records["usual"]["expected_recall"] is None
    assert (records["thick"]["expected_recall"]["basis"], records["thick"]["expected_recall"]["range"]) == (
        "unknown",
    ) * 2
    assert all("recall to expect: unknown" in line for line in warnings if "unlike the training" in line)
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as handle:
        rows = {row["case"]: row["expected_recall"] for row in csv.DictReader(handle)}
    assert rows == {"noise": "unknown", "thick": "unknown", "usual": ""}


def test_the_table_of_cases_has_every_case_with_its_reasons(compared: tuple[Path, list[str]]) -> None:
    folder = compared[0]
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as handle:
        rows = {row["case"]: row for row in csv.DictReader(handle)}
    assert {name: row["unlike_training"] for name, row in rows.items()} == {
        "noise": "yes",
        "thick": "yes",
        "usual": "no",
    }
    assert rows["thick"]["reasons"] == "; ".join(read_similarity(folder, "thick")["reasons"])
    assert rows["usual"]["reasons"] == ""
    lesions = json.loads((folder / "rois" / "usual.json").read_text(encoding="utf-8"))["lesions"]
    assert int(rows["usual"]["lesions"]) == len(lesions) > 0
    assert float(rows["usual"]["best_score"]) == max(lesion["score"] for lesion in lesions)
    assert float(rows["usual"]["volume_mm3"]) == pytest.approx(
        sum(lesion["volume_mm3"] for lesion in lesions), rel=1e-3
    )
    assert (rows["noise"]["lesions"], rows["noise"]["best_score"], rows["noise"]["volume_mm3"]) == ("0", "", "0")


def test_each_lesion_row_shows_if_its_scan_is_unlike_the_training(compared: tuple[Path, list[str]]) -> None:
    with (compared[0] / "lesions.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["unlike_training"] for row in rows if row["case"] == "usual"} == {"no"}
    assert {row["unlike_training"] for row in rows if row["case"] == "thick"} <= {"yes"}


# -- Scans that reach the limit of candidates --------------------------------------------------------------------------


def with_limit(tiny_model: Path, limit: int) -> Predictor:
    predictor = load(tiny_model)
    settings = {"candidate_threshold": 0.0, "min_candidates": limit, "max_candidates": 10 * limit}
    predictor.plans = predictor.plans.evolve(inference=settings)
    return predictor


@pytest.mark.parametrize("save_candidates", [False, True])
def test_a_scan_that_reaches_the_limit_of_candidates_gets_a_warning(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, save_candidates: bool
) -> None:
    image = make_scan(101)[0]
    write_image(image, Geometry(image.shape), tmp_path / "in" / "full.nii.gz")
    predictor = with_limit(tiny_model, 3)
    cases = predictor.list_inputs(tmp_path / "in")
    output = OutputOptions(save_candidates=save_candidates, show_progress=False)
    assert predict_cases(predictor, cases, tmp_path / "out", output=output) == {}
    (warning,) = [record.getMessage() for record in caplog.records if "limit of" in record.getMessage()]
    assert warning.startswith("full reaches the limit of 3 candidates") and "inference.min_candidates" in warning
    record = json.loads((tmp_path / "out" / "rois" / "full.json").read_text(encoding="utf-8"))
    assert (record["candidate_limit"], record["limit_reached"], len(record["candidates"])) == (3, True, 3)
    with (tmp_path / "out" / "cases.csv").open(newline="", encoding="utf-8") as handle:
        assert [row["limit_reached"] for row in csv.DictReader(handle)] == ["yes"]
    if save_candidates:  # there is room for those that a stricter suppression removes
        assert 3 < len(load_candidates(PredictionFolder(tmp_path / "out").candidates("full"))) <= 6


def test_a_scan_below_the_limit_gets_no_warning(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = make_scan(101)[0]
    result = with_limit(tiny_model, 100_000 // 10).predict_array(image, (1.0, 1.0, 1.0))
    assert result.candidate_limit == 10_000 and not result.limit_reached
    assert not [record for record in caplog.records if "limit of" in record.getMessage()]
