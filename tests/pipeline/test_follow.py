from __future__ import annotations

import csv
import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.core.arrays import Box
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.rigid import IDENTITY, RigidTransform
from detseg3d.data.images import read_geometry, write_image
from detseg3d.follow.compare import FollowOptions
from detseg3d.follow.registration import RegistrationMethod
from detseg3d.follow.result import FollowUp
from detseg3d.follow.transform_files import read_transform, write_transform
from detseg3d.pipeline.follow import FollowInputs, FollowOutcome, follow_folders
from detseg3d.pipeline.follow_dates import GivenDates
from detseg3d.system.json_files import read_json, write_json
from tests.data.formats.dicom.builders import SeriesBuilder
from tests.follow.maps import SHAPE, instance_map

ALIGNED = FollowOptions(RegistrationMethod.NONE)
CUBE: Box = (6, 6, 6, 12, 12, 12)
LARGE: Box = (6, 6, 6, 12, 12, 18)


def write_results(folder: Path, cases: dict[str, dict[int, Box]], record: dict[str, Any] | None = None) -> Path:
    """Write instance maps and, if given, the same record for each case."""
    for case, boxes in cases.items():
        map_ = instance_map(boxes)
        write_image(map_.array.astype(np.uint16), map_.geometry, folder / "instances" / f"{case}.nii.gz")
        if record is not None:
            write_json(record, folder / "rois" / f"{case}.json")
    return folder


def record(
    name: str = "lesion", label: int = 1, score: float = 0.8, candidates: list[Any] | None = None
) -> dict[str, Any]:
    lesion = {"id": 1, "class": name, "label": label, "score": score, "box": list(CUBE), "voxels": 216}
    return {"shape": list(SHAPE), "axes": "SPL", "lesions": [lesion], "candidates": candidates or []}


def follow(tmp_path: Path, *folders: Path, options: FollowOptions = ALIGNED, **more: Any) -> FollowOutcome:
    return follow_folders(FollowInputs(folders, **more), tmp_path / "out", options, pictures=False)


def states(result: FollowUp) -> list[str]:
    return [change.state.value for change in result.comparisons[0].changes]


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return write_results(tmp_path / "before", {"a": {1: CUBE}, "b": {1: CUBE}})


@pytest.fixture
def after(tmp_path: Path) -> Path:
    return write_results(tmp_path / "after", {"a": {1: LARGE}, "b": {}})


def test_all_files_of_a_patient_are_written(tmp_path: Path, before: Path, after: Path) -> None:
    outcome = follow_folders(FollowInputs((before, after)), tmp_path / "out", ALIGNED)
    assert [states(result) for result in outcome.results] == [["enlarged"], ["disappeared"]]
    out = tmp_path / "out"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "changes.csv",
        "comparisons.csv",
        "tracks.csv",
        *(
            name.format(case)
            for case in "ab"
            for name in ("follow_up/{}.json", "{}.html", "pictures/{}_1_to_2.png", "transforms/{}_1_to_2.tfm")
        ),
    }
    assert FollowUp.from_json(read_json(out / "follow_up" / "a.json")).comparisons == outcome.results[0].comparisons
    with open(out / "changes.csv", encoding="utf-8") as handle:
        assert [(row["case"], row["state"]) for row in csv.DictReader(handle)] == [
            ("a", "enlarged"),
            ("b", "disappeared"),
        ]


def test_a_case_that_one_time_point_lacks_is_named_and_the_others_are_followed(tmp_path: Path, before: Path) -> None:
    after = write_results(tmp_path / "after", {"a": {1: CUBE}, "c": {}})
    outcome = follow(tmp_path, before, after)
    assert [result.case_id for result in outcome.results] == ["a"]
    assert [failure.case_id for failure in outcome.failures] == ["b", "c"]
    assert str(after) in outcome.failures[0].problem
    assert str(before) in outcome.failures[1].problem


def test_a_damaged_map_loses_its_patient_only(tmp_path: Path, before: Path, after: Path) -> None:
    (after / "instances" / "a.nii.gz").write_bytes(b"damaged")
    outcome = follow(tmp_path, before, after)
    assert [result.case_id for result in outcome.results] == ["b"]
    assert [failure.case_id for failure in outcome.failures] == ["a"]


def test_two_instance_maps_are_one_patient(tmp_path: Path, before: Path, after: Path) -> None:
    maps = [folder / "instances" / "a.nii.gz" for folder in (before, after)]
    (result,) = follow(tmp_path, *maps).results
    assert (result.case_id, states(result)) == ("a", ["enlarged"])


def test_a_table_pairs_cases_of_other_names(tmp_path: Path, before: Path) -> None:
    after = write_results(tmp_path / "after", {"x": {1: LARGE}})
    table = tmp_path / "pairs.csv"
    table.write_text("patient,first,second\nsmith,b,x\n", encoding="utf-8")
    (result,) = follow(tmp_path, before, after, table=table).results
    assert (result.case_id, states(result)) == ("smith", ["enlarged"])


@pytest.mark.parametrize(
    "text", ["patient,first,second\nsmith,b\n", "first,second\n", "patient,a,b\n../x,a,b\n", "a,b\na,a\na,b\n"]
)
def test_a_wrong_table_is_refused(tmp_path: Path, before: Path, after: Path, text: str) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        follow(tmp_path, before, after, table=table)
    assert error.value.file == table


def test_scores_and_rejected_candidates_give_the_confidence(tmp_path: Path) -> None:
    rejected = {"box": list(CUBE), "score": 0.5, "lesion": None}
    accepted = {"box": list(CUBE), "score": 0.9, "lesion": 1}
    before = write_results(tmp_path / "before", {"a": {1: CUBE}}, record(score=0.8))
    empty = {**record(candidates=[rejected, accepted]), "lesions": []}
    after = write_results(tmp_path / "after", {"a": {}}, empty)
    (result,) = follow(tmp_path, before, after).results
    assert result.comparisons[0].changes[0].confidence == pytest.approx(0.8 * (1 - 0.5))


@pytest.mark.parametrize(("name", "label"), [("lesion", 2), ("cyst", 1), ("cyst", 2)])
def test_other_classes_are_refused(tmp_path: Path, name: str, label: int) -> None:
    before = write_results(tmp_path / "before", {"a": {1: CUBE}}, record())
    after = write_results(tmp_path / "after", {"a": {1: CUBE}}, record(name, label))
    (failure,) = follow(tmp_path, before, after).failures
    assert "other classes" in failure.problem


def test_an_edited_instance_map_is_refused(tmp_path: Path) -> None:
    before = write_results(tmp_path / "before", {"a": {1: CUBE, 2: (0, 0, 0, 2, 2, 2)}}, record())
    after = write_results(tmp_path / "after", {"a": {1: CUBE}}, record())
    (failure,) = follow(tmp_path, before, after).failures
    assert str(before / "instances" / "a.nii.gz") in failure.problem


def test_a_registration_without_scans_is_refused(tmp_path: Path, before: Path, after: Path) -> None:
    failures = follow(tmp_path, before, after, options=FollowOptions()).failures
    assert [failure.case_id for failure in failures] == ["a", "b"]
    assert "--images" in failures[0].problem


def test_a_scan_of_another_place_is_refused(tmp_path: Path, before: Path, after: Path) -> None:
    images = tmp_path / "images"
    for case in "ab":
        write_image(
            np.zeros(SHAPE, np.int16), Geometry(SHAPE, origin=(500.0, 0.0, 0.0)), images / f"{case}_0000.nii.gz"
        )
    (failure,) = follow(tmp_path, before, after, images=(images, images)).failures[:1]
    assert "lesion 1" in failure.problem


@pytest.mark.parametrize(
    ("name", "patient", "problem"),
    [("second", "2", "different patients"), ("first", "1", "one DICOM series"), ("second", "1", "")],
)
def test_dicom_scans_of_other_patients_are_refused(tmp_path: Path, name: str, patient: str, problem: str) -> None:
    maps, images = [], []
    for index, (series, identity) in enumerate((("first", "1"), (name, patient))):
        builder = SeriesBuilder(np.ones((8, 16, 16), np.int16), name=series, extra={"PatientID": identity})
        images.append(tmp_path / f"scans{index}" / "a")
        builder.write(images[-1])
        geometry = read_geometry(images[-1])
        maps.append(tmp_path / f"map{index}" / "a.nii.gz")
        write_image(np.zeros(geometry.shape, np.uint8), geometry, maps[-1])
    outcome = follow(tmp_path, *maps, images=tuple(images))
    assert [problem in failure.problem for failure in outcome.failures] == ([True] if problem else [])
    assert len(outcome.results) == (not problem)


def write_dated_scans(tmp_path: Path, *dates: str) -> dict[str, Any]:
    """Write a DICOM series and an empty instance map per date; return the arguments of :func:`follow`."""
    maps, images = [], []
    for index, date in enumerate(dates):
        builder = SeriesBuilder(np.ones((8, 16, 16), np.int16), name=f"s{index}", extra={"AcquisitionDate": date})
        images.append(tmp_path / f"scans{index}" / "a")
        builder.write(images[-1])
        geometry = read_geometry(images[-1])
        maps.append(tmp_path / f"map{index}" / "a.nii.gz")
        write_image(np.zeros(geometry.shape, np.uint8), geometry, maps[-1])
    return {"folders": maps, "images": tuple(images)}


def dates_of(outcome: FollowOutcome) -> list[str | None]:
    (result,) = outcome.results
    return [None if point.date is None else point.date.isoformat() for point in result.time_points]


def test_dates_are_those_of_the_dicom_headers(tmp_path: Path) -> None:
    scans = write_dated_scans(tmp_path, "20240131", "20240301")
    outcome = follow(tmp_path, *scans["folders"], images=scans["images"])
    assert dates_of(outcome) == ["2024-01-31", "2024-03-01"]
    assert outcome.results[0].comparisons[0].interval_days == 30


def test_without_scans_dates_are_those_of_the_results(tmp_path: Path) -> None:
    folders = []
    for name, dicom in (("before", [None, {"date": "2024-01-31"}]), ("after", [{"date": ""}])):
        folders.append(write_results(tmp_path / name, {"a": {1: CUBE}}, {**record(), "dicom": dicom}))
    assert dates_of(follow(tmp_path, *folders)) == ["2024-01-31", None]


def test_a_damaged_date_of_the_results_is_named(tmp_path: Path) -> None:
    before, after = (
        write_results(tmp_path / name, {"a": {1: CUBE}}, {**record(), "dicom": [{"date": "31.1.2024"}]})
        for name in ("before", "after")
    )
    (failure,) = follow(tmp_path, before, after).failures
    assert str(before / "rois" / "a.json") in failure.problem


def test_a_given_date_replaces_that_of_the_headers_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = write_dated_scans(tmp_path, "20240131", "20240301")
    given = GivenDates(by_patient={"a": (None, dt.date(2024, 3, 2))})
    assert dates_of(follow(tmp_path, *scans["folders"], images=scans["images"], dates=given)) == [
        "2024-01-31",
        "2024-03-02",
    ]
    assert "2024-03-01" in caplog.text


def test_scans_in_the_wrong_order_of_time_fail(tmp_path: Path) -> None:
    scans = write_dated_scans(tmp_path, "20240301", "20240131")
    (failure,) = follow(tmp_path, *scans["folders"], images=scans["images"]).failures
    assert "2024-03-01" in failure.problem


def test_dates_of_an_unknown_patient_stop_the_follow_up(tmp_path: Path, before: Path, after: Path) -> None:
    given = GivenDates(by_patient={"z": (None, dt.date(2024, 3, 2))})
    with pytest.raises(DetSeg3DError) as error:
        follow(tmp_path, before, after, dates=given)
    assert error.value.value == ["z"]


def test_motions_are_read_from_files(tmp_path: Path, before: Path) -> None:
    after = write_results(tmp_path / "after", {"a": {1: (6, 6, 12, 12, 12, 18)}, "b": {1: CUBE}})
    folder = tmp_path / "motions"
    write_transform(RigidTransform(IDENTITY.rotation, (6.0, 0.0, 0.0)), folder / "a_1_to_2.tfm")
    outcome = follow(tmp_path, before, after, options=FollowOptions(RegistrationMethod.FILE), transforms=(folder,))
    assert states(outcome.results[0]) == ["stable"]
    assert [failure.case_id for failure in outcome.failures] == ["b"]  # it has no file
    written = read_transform(tmp_path / "out" / "transforms" / "a_1_to_2.tfm")
    assert written.translation == (6.0, 0.0, 0.0)


def test_the_input_is_never_the_output(tmp_path: Path, before: Path, after: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        follow_folders(FollowInputs((before, after)), before, ALIGNED)
    assert error.value.file == before


def test_folders_without_common_cases_are_refused(tmp_path: Path, before: Path) -> None:
    other = write_results(tmp_path / "other", {"z": {}})
    with pytest.raises(DetSeg3DError) as error:
        follow(tmp_path, before, other)
    assert error.value.value == [["a", "b"], ["z"]]


@pytest.mark.parametrize("images", [(Path("x"),), (Path("x"),) * 3])
def test_each_time_point_needs_its_images(images: tuple[Path, ...]) -> None:
    with pytest.raises(DetSeg3DError) as error:
        FollowInputs((Path("a"), Path("b")), images)
    assert error.value.value is not None


def test_a_missing_folder_is_named(tmp_path: Path, before: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        follow(tmp_path, before, tmp_path / "none")
    assert error.value.file == tmp_path / "none"
