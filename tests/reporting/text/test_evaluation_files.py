from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.evaluation.folders import evaluate_systems
from detseg3d.evaluation.options import EvaluationOptions
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.reporting.text.evaluation_files import write_evaluation
from detseg3d.system.run import Run
from tests.evaluations import evaluate_pair

QUICK = EvaluationOptions(samples=20)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Write a truth with two lesions of 2 mm³, a system that finds one of them, and a system that finds both."""
    names = ("truth", "half", "whole")
    for name, values in zip(names, ([1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1]), strict=True):
        volume = np.zeros((2, 3, 6), np.uint8)
        volume[0, 0] = values
        write_image(volume, Geometry(volume.shape, (2.0, 1.0, 0.5)), tmp_path / name / "case, one.nii.gz")
    truth, half, whole = (tmp_path / name for name in names)
    return truth, half, whole


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_cases_and_lesions_are_rows(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = evaluate_pair(folders[0], folders[1], options=QUICK, run=Run(show_progress=False))
    written = write_evaluation(result, tmp_path / "out")
    assert [path.name for path in written] == ["metrics.json", "metrics.csv", "lesions.csv", "metrics.md"]
    (case,) = read(tmp_path / "out" / "metrics.csv")
    assert case["case"] == "case, one"
    assert (case["truth"], case["found_any"], case["recall_iou_0.1"], case["precision_any"]) == ("2", "1", "0.5", "1.0")
    assert float(case["dice"]) == pytest.approx(2 * 1 / (4 + 1))
    assert (float(case["truth_mm3"]), float(case["prediction_mm3"])) == (4.0, 1.0)
    assert float(case["cc_dice"]) == pytest.approx((2 / 3 + 0) / 2)
    lesions = read(tmp_path / "out" / "lesions.csv")
    assert [(row["kind"], row["matched_any"], row["partner"], row["score"]) for row in lesions] == [
        ("truth", "1", "1", ""),
        ("truth", "0", "", ""),
        ("prediction", "1", "1", ""),
    ]
    assert [row["center_x"] for row in lesions] == ["1.0", "5.0", "0.5"]
    # In the slice, two lesions of two voxels of 1 x 0.5 mm, and a single voxel. The long axis of two voxels runs
    # between the centres of faces at opposite corners, 1 and 0.5 mm apart.
    axes = [(float(row["long_axis_mm"]), float(row["short_axis_mm"])) for row in lesions]
    two_voxels = (math.hypot(1, 0.5), 2 / math.sqrt(5))
    assert axes == [pytest.approx(lengths) for lengths in (two_voxels, two_voxels, (1, 0.5))]
    assert all(float(row["surface_mm2"]) > 0 and 0 < float(row["sphericity"]) <= 1 for row in lesions)


def test_all_metrics_are_in_the_json_file(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = evaluate_pair(folders[0], folders[1], options=QUICK, run=Run(show_progress=False))
    write_evaluation(result, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    read_back = EvaluationResult.from_json(data)
    assert read_back == replace(result, cases=read_back.cases)
    assert read_back.lesions == result.lesions


def test_several_systems_have_a_column_that_names_them(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    truth, half, whole = folders
    result = evaluate_systems(truth, {"half": half, "whole": whole}, options=QUICK, run=Run(show_progress=False))
    write_evaluation(result, tmp_path / "out")
    rows = read(tmp_path / "out" / "metrics.csv")
    assert [(row["system"], row["found_iou_0.1"]) for row in rows] == [("half", "1"), ("whole", "2")]
    assert {row["system"] for row in read(tmp_path / "out" / "lesions.csv")} == {"half", "whole"}


def test_systems_are_compared_with_an_interval(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    truth, half, whole = folders
    result = evaluate_systems(truth, {"half": half, "whole": whole}, options=QUICK, run=Run(show_progress=False))
    (comparison,) = result.comparisons
    assert (comparison.first, comparison.second, comparison.cases) == ("half", "whole", 1)
    # With one case all resamples are equal, so the interval says nothing about other patients.
    entry = comparison.differences["recall_iou_0.1"]
    assert (entry.first, entry.second, entry.difference, entry.patients) == (0.5, 1.0, 0.5, 1)
    assert (entry.low, entry.high) == pytest.approx((0.5 * 0.025 - 0.975, 0.5 * 0.025 + 0.975))
    write_evaluation(result, tmp_path)
    text = (tmp_path / "metrics.md").read_text(encoding="utf-8")
    assert "whole − half" in text and f"+0.500 [{entry.low:+.3f}, {entry.high:+.3f}]" in text


def test_an_evaluation_without_cases_with_lesions_is_written(tmp_path: Path) -> None:
    empty: Any = np.zeros((2, 2, 2), np.uint8)
    for name in ("truth", "pred"):
        write_image(empty, Geometry((2, 2, 2), (1.0, 1.0, 1.0)), tmp_path / name / "a.nii.gz")
    write_evaluation(
        evaluate_pair(tmp_path / "truth", tmp_path / "pred", options=QUICK, run=Run(show_progress=False)),
        tmp_path / "out",
    )
    assert [row["dice"] for row in read(tmp_path / "out" / "metrics.csv")] == ["1.0"]
    assert read(tmp_path / "out" / "lesions.csv") == []
