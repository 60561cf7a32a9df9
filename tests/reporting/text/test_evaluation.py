from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from detseg3d.evaluation.case_files import CaseProblem
from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.result import Comparison, EvaluationResult, SystemsResult
from detseg3d.reporting.text.evaluation import format_evaluation
from tests.evaluations import evaluate_maps, result_of


def test_the_tables_show_metrics_and_problems() -> None:
    truth = np.zeros((2, 4, 4), np.int64)
    truth[0, 0, :2], truth[1, 3, 3] = 1, 2
    cases = [
        evaluate_maps("a", truth, np.where(truth == 1, truth, 0), (1, 1, 1)),
        evaluate_maps("b", truth * 0, truth * 0, (1, 1, 1)),
    ]
    problems = [CaseProblem(name, "no prediction") for name in ("x", "y")]
    text = format_evaluation(result_of(cases, problems=tuple(problems)))
    assert re.search(r"\| all +\| +2 \| +2 \| +0\.667 \| +0\.500 \| +1\.000 \|.* 0\.900 \(2\) +\| 0\.800 \(1\)", text)
    assert re.search(r"\| under 15 voxels +\| +2 \| +1 \| +0\.500 \|", text)
    assert "Scans without lesions: 1, with 0.00 false positives per scan" in text
    assert "- no prediction: x, y" in text
    assert "nan" not in text


def test_classes_have_a_row_each_only_if_there_are_several() -> None:
    volume = np.zeros((1, 1, 3), np.int64)
    one = format_evaluation(result_of([evaluate_maps("a", volume, volume, (1, 1, 1))]))
    names = ["core", "rim"]
    case = evaluate_maps("a", volume, volume, (1, 1, 1), class_names=names)
    two = format_evaluation(result_of([case], names))
    assert "| lesion |" not in one
    assert "| rim " in two
    assert "| mean of 0 classes |" in two


def test_means_of_a_class_state_the_number_of_scans() -> None:
    names = ["core", "rim"]
    volume = np.array([1, 0, 2, 0], np.int64).reshape(1, 1, -1)
    both = evaluate_maps(
        "a", volume, volume, (1, 1, 1), class_names=names, truth_classes=[0, 1], prediction_classes=[0, 1]
    )
    one = evaluate_maps("b", volume * (volume == 1), volume * 0, (1, 1, 1), class_names=names)
    text = format_evaluation(result_of([both, one], names))
    rows = {cells[1]: cells[2:-1] for line in text.splitlines() if len(cells := re.split(" *[|] *", line)) > 2}
    assert (rows["core"][-2], rows["rim"][-2]) == ("0.500 (2)", "1.000 (1)")
    assert (rows["mean of 2 classes"][-2], rows["mean of 2 classes"][2]) == ("0.750", "0.833")


def systems(**scans: int) -> dict[str, EvaluationResult]:
    """Return systems that were evaluated on the first scans of two and found all lesions."""
    truth = np.array([1, 0, 2, 0], np.int64).reshape(1, 1, -1)
    cases = [evaluate_maps("easy", truth, truth, (1, 1, 1)), evaluate_maps("hard", truth, truth, (1, 1, 1))]
    return {name: result_of(cases[:count]) for name, count in scans.items()}


def test_systems_with_different_scans_state_their_numbers_of_scans() -> None:
    pair = (Comparison("A", "B", 1, {}),)
    text = format_evaluation(SystemsResult(systems(A=1, B=2), pair))
    assert text.startswith("**Warning.** The systems were evaluated on different scans") and "Without: A hard." in text
    assert re.search(r"\| scans +\| +1 \| +2 \| 1 in both \|\n\| true lesions +\| +2 \| +4 \| – ", text)
    assert "different scans" not in format_evaluation(SystemsResult(systems(A=2, B=2), pair))


def test_intervals_state_the_number_of_patients() -> None:
    result = replace(systems(A=2)["A"], patients=1)
    assert "bootstrap" not in format_evaluation(result)
    assert re.search(r"\| Lesion recall at IoU ≥ 0\.1 +\| +2 \| 1\.000 +\|", format_evaluation(result))
    key = f"recall_{HEADLINE}"
    few = replace(result.estimates[key], low=0.5, high=1.0, patients=1, left_out=3)
    text = format_evaluation(replace(result, estimates={key: few}))
    assert "bootstrap over 1 patient.\nResamples in which a metric has no value" in text
    assert "left out: up to 3.\n**Intervals from fewer than 5 patients (here 1)" in text
    text = format_evaluation(replace(result, estimates={key: replace(few, patients=5, left_out=0)}))
    assert "fewer than" not in text and "left out" not in text


def test_a_class_that_is_in_neither_truth_nor_prediction_has_dashes() -> None:
    volume, names = np.array([1, 0, 0], np.int64).reshape(1, 1, -1), ["core", "rim"]
    cases = [evaluate_maps("a", volume, volume * 0, (1, 1, 1), class_names=names)]
    text = format_evaluation(result_of(cases, names))
    rows = {cells[1]: cells[2:-1] for line in text.splitlines() if len(cells := re.split(" *[|] *", line)) > 2}
    assert rows["rim"] == ["1", "0", "–", "–", "–", "0.00", *["–"] * 5]
    assert rows["core"][2:] == ["0.000", "0.000", "–", "0.00", "0.000", "0.000", "0.000", "0.000 (1)", "0.000 (1)"]
    assert (rows["Lesion recall at IoU ≥ 0.1"], rows["Lesion precision at IoU ≥ 0.1"]) == (["1", "0.000"], ["0", "–"])
