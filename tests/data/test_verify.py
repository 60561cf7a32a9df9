from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import write_image
from detseg3d.data.verify import Problem, format_problems, verify_dataset
from detseg3d.system.run import Run

GRID = Geometry((4, 5, 6), (2.0, 1.0, 1.0), (10.0, 20.0, 30.0))
LABEL = np.zeros(GRID.shape, np.uint8)
LABEL[1, 2, 3] = 1


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=GRID.shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data set of three valid cases with two channels."""
    folder = tmp_path / "Dataset001_Test"
    for number, case in enumerate(("a", "b", "c")):
        for channel in range(2):
            write_image(scan(10 * number + channel), GRID, folder / f"imagesTr/{case}_{channel:04d}.nii.gz")
        write_image(LABEL, GRID, folder / f"labelsTr/{case}.nii.gz")
    describe(folder)
    return folder


def describe(folder: Path, **changes: Any) -> None:
    data = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".nii.gz",
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(data), encoding="utf-8")


def problems(folder: Path) -> list[Problem]:
    return verify_dataset(load_raw_dataset(folder), run=Run(0, show_progress=False))


def only(folder: Path) -> Problem:
    (problem,) = problems(folder)
    return problem


def test_a_good_data_set_has_no_problems(folder: Path) -> None:
    assert problems(folder) == []
    assert format_problems([]) == "no problems"


def test_worker_processes_find_the_same_problems(folder: Path) -> None:
    (folder / "imagesTr/b_0001.nii.gz").unlink()
    dataset = load_raw_dataset(folder)
    assert verify_dataset(dataset, run=Run(1, show_progress=False)) == verify_dataset(
        dataset, Run(0, show_progress=False)
    )


def test_a_missing_channel_is_listed(folder: Path) -> None:
    (folder / "imagesTr/b_0001.nii.gz").unlink()
    assert only(folder) == Problem("b", folder / "imagesTr/b_0001.nii.gz", "channel 1 is missing")


def test_a_missing_label_is_listed(folder: Path) -> None:
    (folder / "labelsTr/b.nii.gz").unlink()
    assert (only(folder).case_id, only(folder).description) == ("b", "the case has no label")


@pytest.mark.parametrize("file", ["imagesTr/b_0001.nii.gz", "labelsTr/b.nii.gz"])
@pytest.mark.parametrize(
    ("geometry", "what"),
    [
        (Geometry((4, 5, 7), GRID.spacing, GRID.origin), "size (z, y, x) 4 5 6 against 4 5 7"),
        (Geometry(GRID.shape, (2.0, 1.0, 1.01), GRID.origin), "spacing (z, y, x) 2 1 1 against 2 1 1.01"),
        (Geometry(GRID.shape, GRID.spacing, (10.0, 20.0, 31.0)), "origin (x, y, z) 10 20 30 against 10 20 31"),
        (
            Geometry(GRID.shape, GRID.spacing, GRID.origin, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)),
            "origin (x, y, z) 10 20 30 against 5 16 30 mm (the axes z y x are stored towards S P L against S A R)",
        ),
    ],
)
def test_a_file_on_another_grid_is_listed(folder: Path, file: str, geometry: Geometry, what: str) -> None:
    array = scan(99) if "images" in file else LABEL
    write_image(np.resize(array, geometry.shape), geometry, folder / file)
    assert only(folder).file == folder / file
    assert only(folder).description.startswith(what)


@pytest.mark.parametrize("file", ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "labelsTr/b.nii.gz"])
def test_a_file_that_states_two_positions_is_listed_as_a_warning(folder: Path, file: str) -> None:
    image = nibabel.load(folder / file)
    elsewhere = image.affine + np.array([[0, 0, 0, 5.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    image.set_qform(elsewhere, code=1)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), folder / "x.nii.gz")
    (folder / "x.nii.gz").replace(folder / file)
    problem = only(folder)
    assert (problem.case_id, problem.file, problem.stops) == ("b", folder / file, False)
    assert "sform" in problem.description and "qform" in problem.description


def test_problems_stop_by_default(folder: Path) -> None:
    (folder / "labelsTr/b.nii.gz").unlink()
    assert only(folder).stops


def test_differences_by_rounding_are_not_a_problem(folder: Path) -> None:
    moved = Geometry(GRID.shape, (2.0 + 1e-6, 1.0, 1.0), (10.0 + 1e-5, 20.0, 30.0 - 1e-8))
    write_image(LABEL, moved, folder / "labelsTr/b.nii.gz")
    assert problems(folder) == []


@pytest.mark.parametrize(("value", "count"), [(np.nan, 1), (np.inf, 2), (-np.inf, 3)])
def test_nan_and_infinity_in_an_image_are_listed(folder: Path, value: float, count: int) -> None:
    image = scan(99)
    image[0, 0, :count] = value
    write_image(image, GRID, folder / "imagesTr/b_0000.nii.gz")
    assert only(folder).description == f"{count} voxel{'s' * (count > 1)} NaN or infinite"


def test_an_unreadable_image_and_an_unreadable_label_are_listed(folder: Path) -> None:
    (folder / "imagesTr/b_0000.nii.gz").write_bytes(b"nonsense")
    (folder / "labelsTr/c.nii.gz").write_bytes((folder / "labelsTr/c.nii.gz").read_bytes()[:60])
    found = problems(folder)
    assert [problem.case_id for problem in found] == ["b", "c"]
    assert all("cannot be read" in problem.description for problem in found)


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5, 6)])
def test_an_image_that_is_not_3d_is_listed(folder: Path, shape: tuple[int, ...]) -> None:
    image = SimpleITK.GetImageFromArray(np.ones(shape, np.float32), isVector=False)
    SimpleITK.WriteImage(image, str(folder / "imagesTr/b_0001.nii.gz"))
    assert only(folder).description.startswith("the image is not a 3D volume")
    assert f"{len(shape)}D" in only(folder).description


def test_an_unknown_label_value_is_counted(folder: Path) -> None:
    label = LABEL.copy()
    label[0, 0, :3] = 7
    write_image(label, GRID, folder / "labelsTr/b.nii.gz")
    assert only(folder).description == "the label has values that dataset.json does not name: 7 (3 voxels)"


def test_labels_that_are_not_whole_numbers_are_listed(folder: Path) -> None:
    write_image(LABEL * np.float32(0.5), GRID, folder / "labelsTr/b.nii.gz")
    write_image(LABEL * np.float32(0.9999), GRID, folder / "labelsTr/c.nii.gz")  # rounded away
    assert only(folder).case_id == "b"
    assert only(folder).description == "1 voxel(s) of the label are not whole numbers: [0.5]"


def test_instance_maps_may_hold_any_number_except_negative_numbers(folder: Path) -> None:
    describe(folder, instances=True)
    write_image(LABEL.astype(np.int32) * 70000, GRID, folder / "labelsTr/a.nii.gz")
    assert problems(folder) == []
    write_image(LABEL.astype(np.int32) * -2, GRID, folder / "labelsTr/a.nii.gz")
    assert only(folder).description == "the label file holds negative values: -2"


def test_the_same_image_in_two_cases_is_listed(folder: Path) -> None:
    write_image(scan(0), GRID, folder / "imagesTr/c_0000.nii.gz")
    assert (only(folder).case_id, only(folder).file) == ("c", folder / "imagesTr/c_0000.nii.gz")
    assert only(folder).description.startswith("the same image as a_0000.nii.gz of case a")


def test_the_same_image_twice_within_a_case_or_an_empty_channel_is_not_a_duplicate(folder: Path) -> None:
    write_image(scan(0), GRID, folder / "imagesTr/a_0001.nii.gz")
    for case in "bc":
        write_image(np.zeros(GRID.shape, np.float32), GRID, folder / f"imagesTr/{case}_0001.nii.gz")
    assert [problem for problem in problems(folder) if problem.stops] == []


def test_files_that_belong_to_no_case_are_listed(folder: Path) -> None:
    write_image(scan(50), GRID, folder / "imagesTr/a_0002.nii.gz")
    write_image(LABEL, GRID, folder / "labelsTr/d.nii.gz")
    found = {problem.file.name: problem.description for problem in problems(folder) if problem.file}
    assert found == {
        "a_0002.nii.gz": "belongs to no case: expected CASE_0000.nii.gz to CASE_0001.nii.gz",
        "d.nii.gz": "a label without an image",
    }


def test_all_problems_come_in_one_table(folder: Path) -> None:
    (folder / "imagesTr/a_0001.nii.gz").unlink()
    write_image(LABEL * 3, GRID, folder / "labelsTr/a.nii.gz")
    (folder / "labelsTr/c.nii.gz").unlink()
    assert format_problems(problems(folder)).splitlines() == [
        "3 problems in 2 cases",
        "case  file           problem",
        "a     a_0001.nii.gz  channel 1 is missing",
        "a     a.nii.gz       the label has values that dataset.json does not name: 3 (1 voxel)",
        "c                    the case has no label",
    ]


@pytest.mark.parametrize("length", [1e-7, 1e7])
def test_spacings_that_planning_refuses_are_listed(folder: Path, length: float) -> None:
    grid = Geometry(GRID.shape, (2.0, length, 1.0))
    for channel in range(2):
        write_image(scan(20 + channel), grid, folder / f"imagesTr/c_{channel:04d}.nii.gz")
    write_image(LABEL, grid, folder / "labelsTr/c.nii.gz")
    problems = verify_dataset(load_raw_dataset(folder), run=Run(show_progress=False))
    assert [(problem.case_id, problem.file and problem.file.name, problem.stops) for problem in problems] == [
        ("c", "c_0000.nii.gz", True),
        ("c", "c_0001.nii.gz", True),
    ]
    assert "below a nanometre or above a kilometre" in problems[0].description


@pytest.mark.parametrize("length", [1e-6, 1e6])
def test_a_nanometre_and_a_kilometre_are_accepted_as_spacings(folder: Path, length: float) -> None:
    grid = Geometry(GRID.shape, (length,) * 3)
    for channel in range(2):
        write_image(scan(20 + channel), grid, folder / f"imagesTr/c_{channel:04d}.nii.gz")
    write_image(LABEL, grid, folder / "labelsTr/c.nii.gz")
    assert verify_dataset(load_raw_dataset(folder), run=Run(show_progress=False)) == []


# -- What can be used, but says little ---------------------------------------------------------------------------------


def write_scan(folder: Path, name: str, array: np.ndarray) -> None:
    write_image(array.astype(np.float32), GRID, folder / f"imagesTr/{name}.nii.gz")


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_channel_is_listed_as_a_warning(folder: Path, value: float) -> None:
    write_scan(folder, "b_0001", np.full(GRID.shape, value))
    problem = only(folder)
    assert (problem.case_id, problem.file, problem.stops) == ("b", folder / "imagesTr/b_0001.nii.gz", False)
    assert "constant" in problem.description


def test_small_units_are_listed_only_for_a_channel_that_is_not_normalised(folder: Path) -> None:
    write_scan(folder, "b_0001", 1e-9 * scan(5))
    assert problems(folder) == []
    describe(folder, channel_names={"0": "T1", "1": "noNorm"})
    problem = only(folder)
    assert (problem.case_id, problem.stops) == ("b", False)


def test_values_that_cannot_be_stored_prevent_the_use_of_the_case(folder: Path) -> None:
    describe(folder, channel_names={"0": "T1", "1": "noNorm"})
    write_scan(folder, "c_0001", 1e6 * scan(5))
    problem = only(folder)
    assert (problem.case_id, problem.file, problem.stops) == ("c", folder / "imagesTr/c_0001.nii.gz", True)


def test_an_image_that_is_its_label_is_listed(folder: Path) -> None:
    write_scan(folder, "a_0000", 300.0 * LABEL)
    found = {(problem.file, problem.stops) for problem in problems(folder) if "label" in problem.description}
    assert found == {(folder / "imagesTr/a_0000.nii.gz", False)}


def test_a_class_in_fewer_cases_than_folds_is_listed(folder: Path) -> None:
    describe(folder, labels={"background": 0, "lesion": 1, "rare": 2})
    write_image(LABEL * 2, GRID, folder / "labelsTr/c.nii.gz")
    found = [problem for problem in problems(folder) if problem.file is None]
    assert [(problem.case_id, problem.stops) for problem in found] == [("-", False)] * 2
    assert "lesion is in 2 cases of 3" in found[0].description and "rare is in 1 case of 3" in found[1].description


def test_an_unusable_label_does_not_count_for_the_classes(folder: Path) -> None:
    (folder / "labelsTr/c.nii.gz").unlink()
    assert only(folder).case_id == "c"
