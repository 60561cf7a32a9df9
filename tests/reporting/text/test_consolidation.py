from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from detseg3d.evaluation.cross_validation import ConsolidationSummary
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.reporting.text.consolidation import describe_consolidation, format_consolidation
from detseg3d.reporting.text.markdown import DASH
from tests.reporting.html.factory import consolidation, shift_summary


def changed(thresholds: dict[str, float] | None = None, **choice: Any) -> ConsolidationSummary:
    summary = consolidation()
    new = replace(summary.choice, thresholds=summary.choice.thresholds.evolve(**(thresholds or {})), **choice)
    return replace(summary, choice=new)


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the table row that begins with ``first``."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_usually_there_is_no_remark() -> None:
    assert describe_consolidation(consolidation()) == []


@pytest.mark.parametrize(
    ("summary", "remark"),
    [
        (
            changed(target_reached=False),
            "The target was not reached by any threshold; the nearest threshold was chosen.",
        ),
        (
            changed({"minimum_volume_mm3": 4.0}),
            "Predicted lesions under 4 mm³ are left out of every prediction. The F1 is 0.7 with this rule and 0.69 "
            "without it. 3 of 80 true lesions are smaller.",
        ),
        (
            changed({"scan_threshold": 0.75}),
            "A scan is reported without lesions if its best lesion has a score below 0.75. This applies to "
            "3 of 4 scans without true lesions, and to 1 of 36 scans with true lesions.",
        ),
        (replace(consolidation(), failures={"b": "x", "a": "y"}), "These cases failed: a, b."),
    ],
)
def test_each_remark_is_a_plain_sentence_in_the_summary(summary: ConsolidationSummary, remark: str) -> None:
    assert describe_consolidation(summary) == [remark]
    assert f"- **{remark}**" in format_consolidation(summary)


def test_thresholds_are_shown_beside_the_thresholds_of_the_plan() -> None:
    text = format_consolidation(consolidation())
    assert cells(text, "lowest score of a lesion (calibrated)") == ["0.3", "0.45"]
    assert cells(text, "smallest lesion (mm³)") == [DASH, DASH]


def test_metrics_on_new_scans_come_first() -> None:
    rows = [line for line in format_consolidation(consolidation()).splitlines() if line.startswith("| c")]
    assert rows[0].startswith("| cross-fitted") and rows[1].startswith("| chosen and evaluated on the same scans")


def test_stages_have_a_column_for_each_range_of_sizes_with_lesions() -> None:
    text = format_consolidation(consolidation())
    assert cells(text, "Stage 1, stored candidates") == ["0.9", "0.9"]
    assert cells(text, "Dice of Stage 2 in the true boxes") == ["0.75", "0.75"]
    assert cells(text, "lesions") == ["10", "10"] and "15 voxels or more" not in text


def test_a_choice_on_the_same_scans_is_a_remark() -> None:
    text = format_consolidation(consolidation(folds=1))
    assert (
        ThresholdOrigin.SAME_SCANS.remark in text
        and cells(text, "cross-fitted: each fold with the thresholds chosen on the other folds") == [DASH] * 8
    )
    assert "other folds" not in text.split("Calibration error")[1]


def test_both_goals_state_their_metrics_at_home_and_on_shifted_scans() -> None:
    text = format_consolidation(replace(consolidation(), shifts=shift_summary()))
    rows = [line for line in text.splitlines() if line.startswith(("| home", "| robust"))]
    assert [[cell.strip() for cell in row.split("|")[1:4]] for row in rows] == [
        ["home, in use", "unchanged", "0.800 [0.600, 0.900]"],
        ["home, in use", "shifted", "0.400"],
        ["robust", "unchanged", "0.790 [0.600, 0.900]"],
        ["robust", "shifted", "0.550"],
    ]
    assert "unchanged scans by -0.010 and the F1 of shifted scans by +0.150" in text and "--operate robust" in text
    assert "0.031 on unchanged and 0.117 on shifted scans" in text


def test_each_simulated_change_has_a_row() -> None:
    text = format_consolidation(replace(consolidation(), shifts=shift_summary()))
    assert cells(text, "thick slices z") == ["4", "50", "0.800", "0.234", "0.700", "0.345"]


def test_equal_thresholds_of_both_goals_are_said() -> None:
    shifts = shift_summary()
    same = replace(shifts.goals[1], thresholds=shifts.goals[0].thresholds)
    text = format_consolidation(replace(consolidation(), shifts=replace(shifts, goals=(shifts.goals[0], same))))
    assert "Both goals have the same thresholds" in text and "--operate robust" not in text


def test_without_shifted_scans_there_is_no_section_about_them() -> None:
    assert "Scans unlike the training scans" not in format_consolidation(consolidation())
