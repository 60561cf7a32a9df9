from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.data.labels import LabelFormat
from detseg3d.evaluation.case_files import (
    CaseProblem,
    common_cases,
    files_by_case,
    image_case,
    infer_single_class,
)
from detseg3d.system.run import Run

PLACES = (Path("labels"), Path("boxes"))


def test_files_are_found_by_case_and_hidden_or_foreign_files_are_skipped(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.mha", ".c.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "d.nii.gz").mkdir()
    found = files_by_case(tmp_path, "truth", image_case, [])
    assert {case: path.name for case, path in found.items()} == {"a": "a.nii.gz", "b": "b.mha"}


def test_two_files_of_a_case_are_a_problem(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.mha"):
        (tmp_path / name).touch()
    problems: list[CaseProblem] = []
    assert files_by_case(tmp_path, "truth", image_case, problems) == {}
    assert problems == [CaseProblem("a", "the truth has several files: a.mha, a.nii.gz")]


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="the folder of the truth does not exist"):
        files_by_case(tmp_path / "nowhere", "truth", image_case, [])


def test_a_case_of_only_one_side_is_named_once() -> None:
    problems = [CaseProblem("d", "broken")]
    assert common_cases(["a", "b", "d"], ["b", "c"], PLACES, problems, hint="!") == ["b"]
    assert problems[1:] == [
        CaseProblem("a", "no prediction in boxes"),
        CaseProblem("c", "a prediction, but no label in labels!"),
    ]


def test_only_requested_cases_can_be_missing() -> None:
    problems: list[CaseProblem] = []
    assert common_cases(["a", "b"], ["b", "c"], PLACES, problems, ["b", "ghost"]) == ["b"]
    assert problems == [CaseProblem("ghost", "no label in labels")]


def test_sides_without_a_common_case_are_refused() -> None:
    with pytest.raises(DetSeg3DError, match="no case in common"):
        common_cases(["a"], ["a_0000"], PLACES, [])


def test_an_unforeseen_error_is_described_with_its_kind() -> None:
    assert CaseProblem.of("a", KeyError("x")) == CaseProblem("a", "KeyError: 'x'")
    assert CaseProblem.of("a", DetSeg3DError("bad", value=3)).problem == "bad\n  found:    3"


def label(path: Path, *values: int) -> Path:
    array = np.zeros((2, 3, 5), np.uint8)
    array[0, 0, : len(values)] = values
    write_image(array, Geometry(array.shape, (2.0, 1.0, 1.0)), path)
    return path


@pytest.mark.parametrize(
    ("values", "form", "expected"),
    [
        ((255, 0), LabelFormat(), 255),
        ((2, 3), LabelFormat(), 1),
        ((0, 0), LabelFormat(), 1),
        ((255, 0), LabelFormat({"lesion": 3}), 1),
        ((255, 0), LabelFormat(truth_instances=True), 1),
    ],
)
def test_the_single_class_is_inferred_from_all_labels(
    tmp_path: Path, values: tuple[int, ...], form: LabelFormat, expected: int
) -> None:
    for value in values:
        write_image(np.full((1, 1, 2), value, np.uint8), Geometry((1, 1, 2)), tmp_path / f"{value}.nii.gz")
    files = [tmp_path / f"{value}.nii.gz" for value in values]
    assert infer_single_class([*files, tmp_path / "missing.nii.gz"], form, run=Run(show_progress=False)) == expected
