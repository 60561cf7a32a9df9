from __future__ import annotations

import re

import numpy as np

from detseg3d.evaluation.lesions import evaluate_case, summarize
from detseg3d.evaluation.table import format_evaluation, markdown_table


def test_bars_in_cells_do_not_break_the_table() -> None:
    assert markdown_table(("a",), [("x|y",)]).splitlines()[-1] == "| x\\|y |"


def test_the_tables_show_figures_and_problems() -> None:
    truth = np.zeros((2, 4, 4), np.int64)
    truth[0, 0, :2], truth[1, 3, 3] = 1, 2
    cases = [
        evaluate_case("a", truth, np.where(truth == 1, truth, 0), (1, 1, 1)),
        evaluate_case("b", truth * 0, truth * 0, (1, 1, 1)),
    ]
    problems = [{"case": name, "problem": "no prediction"} for name in ("x", "y")]
    text = format_evaluation({"summary": summarize(cases), "problems": problems})
    assert "| all |     2 |       2 | 0.900 |" in text
    assert re.search(r"\| under 15 voxels +\| +2 \| +1 \| +0\.500 \|", text)
    assert "Scans without lesions: 1, with 0.00 false positives per scan" in text
    assert "- no prediction: x, y" in text
    assert "nan" not in text


def test_classes_have_a_row_each_only_if_there_are_several() -> None:
    volume = np.zeros((1, 1, 3), np.int64)
    one = format_evaluation({"summary": summarize([evaluate_case("a", volume, volume, (1, 1, 1))]), "problems": []})
    names = ["core", "rim"]
    case = evaluate_case("a", volume, volume, (1, 1, 1), class_names=names)
    two = format_evaluation({"summary": summarize([case], names), "problems": []})
    assert "| lesion |" not in one
    assert "| rim  |" in two
