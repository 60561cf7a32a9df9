"""The corpus of labels and of scans, judged as somebody's predictions; and the files that go with predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.cli import evaluate
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.system.json_files import write_json
from tests.integration.bad_input.images import UNREADABLE, write_images
from tests.integration.bad_input.labels import GOOD, LABEL, LABELS, BadLabel
from tests.integration.bad_input.running import Run, run

GRID = Geometry(LABEL.shape)
CLASSES = {"labels": {"background": 0, "lesion": 1}}
QUICK = ("-np", "0", "--no_progress", "--bootstrap", "0")


def judge(truth: Path, prediction: Path, *words: object) -> Run:
    return run(evaluate.main, ["-gt", truth, "-pred", prediction, *QUICK, *words])


def problems(file: Path) -> dict[str, str]:
    found = json.loads(file.read_text(encoding="utf-8"))["problems"]
    return {problem["case_id"]: problem["problem"] for problem in found}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """All labels and unreadable scans as predictions of one folder."""
    root = tmp_path_factory.mktemp("bad_predictions")
    (root / "pred").mkdir()
    write_json(CLASSES, root / "dataset.json")
    semantic = [label for label in LABELS if not label.instances]
    for label in semantic:
        label.write(root / "pred" / f"{label.case_id}.nii.gz")
    for case_id in [*(label.case_id for label in semantic), *write_images(root / "pred", UNREADABLE)]:
        write_image(LABEL, GRID, root / "labelsTr" / f"{case_id}.nii.gz")
    return judge(root / "labelsTr", root / "pred", "-o", root / "metrics.json"), root / "metrics.json"


@pytest.mark.parametrize("label", [label for label in LABELS if not label.instances], ids=lambda label: label.name)
def test_a_label_as_a_prediction(judged: tuple[Run, Path], label: BadLabel) -> None:
    done, file = judged
    assert done.code == 1
    expected = label.evaluated or label.outcome
    if expected == GOOD:
        assert label.case_id not in problems(file)
        [case] = [c for c in json.loads(file.read_text(encoding="utf-8"))["cases"] if c["case_id"] == label.case_id]
        if label.name.startswith(("float", "int64", "uint64", "label shifted", "label of a rounded")):
            assert case["overall"]["dice"] == 1
    else:
        assert expected in problems(file)[label.case_id].splitlines()[0]


# Links that lead nowhere and folders are no files.
NO_FILES = ("symlink_loop", "dangling_symlink", "folder_instead_of_a_file")


def test_every_unreadable_scan_is_named(judged: tuple[Run, Path]) -> None:
    _, file = judged
    for image in UNREADABLE:
        expected = "no prediction in" if image.case_id in NO_FILES else image.outcome
        assert problems(file)[image.case_id].startswith(expected)


@pytest.mark.slow
def test_more_than_65535_instances_are_compared(tmp_path: Path) -> None:
    crowded = np.zeros((82, 82, 82), np.int32)
    crowded[::2, ::2, ::2] = np.arange(1, 41**3 + 1).reshape(41, 41, 41)
    write_image(crowded, Geometry(crowded.shape), tmp_path / "labels" / "a.nii.gz")
    crowded[crowded <= 65_000] = 0
    write_image(crowded, Geometry(crowded.shape), tmp_path / "pred" / "a.nii.gz")
    done = judge(tmp_path / "labels", tmp_path / "pred", "--instances", "--no_hd95", "-o", tmp_path / "m.json")
    assert done.code == 0
    counts = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["summary"]["overall"]["detection"]["any"]
    assert (counts["truth"], counts["found"], counts["false_positives"]) == (41**3, 41**3 - 65_000, 0)


def test_instance_numbers_with_holes_are_compared(tmp_path: Path) -> None:
    for label in LABELS:
        if label.instances:
            for folder in ("labels", "pred"):
                (tmp_path / folder).mkdir(exist_ok=True)
                label.write(tmp_path / folder / f"{label.case_id}.nii.gz")
    done = judge(tmp_path / "labels", tmp_path / "pred", "--instances", "-o", tmp_path / "m.json")
    assert done.code == 0
    counts = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["summary"]["overall"]["detection"]["any"]
    assert (counts["truth"], counts["found"]) == (5, 5)


LESION = {"id": 1, "label": 1, "score": 0.5, "box": [0, 0, 0, 1, 1, 1]}
ROIS: list[tuple[str, str, str]] = [
    ("rois JSON that is empty", "", "the file is not valid JSON"),
    ("rois JSON that is truncated", '{"lesions": [', "the file is not valid JSON"),
    ("rois JSON that is a list", "[]", "the RoI file differs from what detseg3d_predict writes"),
    ("rois JSON without lesions", "{}", "the RoI file differs from what detseg3d_predict writes"),
    ("rois JSON with null", '{"lesions": [null]}', "the RoI file differs from what detseg3d_predict writes"),
    ("rois JSON without the lesion", '{"lesions": []}', "lesions of the instance map are not in the RoI file"),
    ("rois JSON with a score of NaN", '{"lesions": [{"id": 1, "label": 1, "score": NaN}]}', "the file is not valid"),
    ("rois JSON with a huge number", f'{{"lesions": [{{"id": {"1" * 400}}}]}}', "the file is not valid JSON"),
    ("rois JSON with a text for a box", json.dumps({"lesions": [{**LESION, "box": "x"}]}), "the RoI file differs"),
    (
        "rois JSON of a lesion that is not there",
        json.dumps({"lesions": [LESION, {**LESION, "id": 2}]}),
        "lesions of the RoI file are not in the instance map",
    ),
    ("rois JSON of a lesion twice", json.dumps({"lesions": [LESION, LESION]}), "the RoI file contains a lesion twice"),
    (
        "rois JSON of another number of voxels",
        json.dumps({"lesions": [{**LESION, "voxels": 9}]}),
        "a lesion has different numbers of voxels in the RoI file and in the instance map",
    ),
    ("rois JSON with an unknown label", json.dumps({"lesions": [{**LESION, "label": 9}]}), "unknown label in the RoI"),
]


@pytest.mark.parametrize(("name", "text", "outcome"), ROIS, ids=[row[0] for row in ROIS])
def test_a_broken_roi_file_is_named_and_the_others_are_judged(
    tmp_path: Path, name: str, text: str, outcome: str
) -> None:
    write_json(CLASSES, tmp_path / "dataset.json")
    one = np.zeros(LABEL.shape, np.uint8)
    one[10, 10, 10] = 1
    for case_id in ("bad", "good"):
        write_image(one, GRID, tmp_path / "labelsTr" / f"{case_id}.nii.gz")
        write_image(one, GRID, tmp_path / "pred" / "instances" / f"{case_id}.nii.gz")
        write_json({"lesions": [LESION]}, tmp_path / "pred" / "rois" / f"{case_id}.json")
    (tmp_path / "pred" / "rois" / "bad.json").write_text(text, encoding="utf-8")
    done = judge(tmp_path / "labelsTr", tmp_path / "pred", "-o", tmp_path / "m.json", "--no_hd95")
    assert done.code == 1
    [(case, problem)] = problems(tmp_path / "m.json").items()
    assert case == "bad" and problem.startswith(outcome) and "bad.json" in problem
    assert [c["case_id"] for c in json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["cases"]] == ["good"]


FORMS: list[tuple[str, Any, str]] = [
    ("dataset.json that is a list", [], "dataset.json does not hold an object"),
    ("labels that are a list", {"labels": [0, 1]}, '"labels" is missing or not an object'),
    (
        "default_spacing that is a number",
        {**CLASSES, "default_spacing": 3},
        '"default_spacing" does not hold three positive numbers',
    ),
    ("patients that are a list", {**CLASSES, "patients": ["a"]}, '"patients" does not map cases to patients'),
]


@pytest.mark.parametrize(("name", "data", "outcome"), FORMS, ids=[row[0] for row in FORMS])
def test_a_broken_description_is_refused(tmp_path: Path, name: str, data: Any, outcome: str) -> None:
    for folder in ("labelsTr", "pred"):
        write_image(LABEL, GRID, tmp_path / folder / "a.nii.gz")
    write_json(data, tmp_path / "dataset.json")
    done = judge(tmp_path / "labelsTr", tmp_path / "pred")
    assert done.code == 1 and done.error.startswith(outcome) and str(tmp_path / "dataset.json") in done.error


BARS = np.zeros(LABEL.shape, np.uint8)
BARS[2:4, 2:4, 2:4], BARS[10:12, 10:12, 10:12], BARS[2:4, 10:12, 2:4] = 1, 2, 3
MASK = (BARS > 0).astype(np.uint8)
TURNED = np.array([0, 2, 3, 1], np.uint8)[BARS]

# What lies in the folder of predictions beside three good cases, and how it ends: the case, or the whole command.
ODD_CASES: list[tuple[str, dict[str, np.ndarray[Any, Any]], str]] = [
    (
        "a mask of 0 and 255 among masks of 0 and 1",
        {"a": 255 * MASK},
        "the prediction of this case is stored with other",
    ),
    ("a mask of 0 and 2 among masks of 0 and 1", {"a": 2 * MASK}, "the prediction of this case is stored with other"),
    (
        "an edited mask beside its instance map",
        {"a": MASK * (BARS < 3), **{f"instances/{name}": BARS for name in "abcd"}},
        "the mask and the instance map of the prediction differ",
    ),
    (
        "a file twice, in both Unicode normal forms",
        {"u\u0308": MASK, "\u00fc": MASK},
        "the prediction has several files",
    ),
]


@pytest.mark.parametrize(("name", "files", "outcome"), ODD_CASES, ids=[row[0] for row in ODD_CASES])
def test_a_case_that_disagrees_is_named_and_the_others_are_judged(
    tmp_path: Path, name: str, files: dict[str, np.ndarray[Any, Any]], outcome: str
) -> None:
    for case_id in "abcd":
        write_image(MASK, GRID, tmp_path / "labelsTr" / f"{case_id}.nii.gz")
        write_image(MASK, GRID, tmp_path / "pred" / f"{case_id}.nii.gz")
    for stem, array in files.items():
        write_image(array.astype(np.uint8), GRID, tmp_path / "pred" / f"{stem}.nii.gz")
    done = judge(tmp_path / "labelsTr", tmp_path / "pred", "-o", tmp_path / "m.json", "--no_hd95")
    assert done.code == 1
    [(case, problem)] = problems(tmp_path / "m.json").items()
    assert case in ("a", "\u00fc", "u\u0308") and problem.startswith(outcome)
    judged = [c["case_id"] for c in json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["cases"]]
    assert judged == [name for name in "abcd" if name != case]


SETS: list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any], str]] = [
    (
        "instance maps without `--instances`",
        BARS,
        TURNED,
        "the files of the truth and the predictions look like instance maps",
    ),
    ("instance maps of the truth alone, likewise", BARS, MASK, "the files of the truth look like instance maps"),
    ("labels of 255 and predictions of 1", 255 * MASK, MASK, "truth and predictions have no label in common"),
]


@pytest.mark.parametrize(("name", "truth", "prediction", "outcome"), SETS, ids=[row[0] for row in SETS])
def test_sides_that_disagree_are_refused(
    tmp_path: Path, name: str, truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], outcome: str
) -> None:
    for case_id in "ab":
        write_image(truth.astype(np.uint8), GRID, tmp_path / "labelsTr" / f"{case_id}.nii.gz")
        write_image(prediction.astype(np.uint8), GRID, tmp_path / "pred" / f"{case_id}.nii.gz")
    done = judge(tmp_path / "labelsTr", tmp_path / "pred")
    assert done.code == 1 and done.error.startswith(outcome)


def test_a_description_that_came_with_predictions_stops_nothing(tmp_path: Path) -> None:
    for folder in ("labelsTr", "pred"):
        write_image(MASK, GRID, tmp_path / folder / "u\u0308.nii.gz")
    (tmp_path / "pred" / "u\u0308.nii.gz").rename(tmp_path / "pred" / "\u00fc.nii.gz")
    write_json({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, tmp_path / "pred" / "dataset.json")
    assert judge(tmp_path / "labelsTr", tmp_path / "pred").code == 0
