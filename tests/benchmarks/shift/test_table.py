from __future__ import annotations

import numpy as np
import pytest

from benchmarks.shift.judging import FoundLesion, ScanResult, Scores
from benchmarks.shift.sizes import SizeRule
from benchmarks.shift.table import make_row, make_table
from detseg3d.evaluation.metrics import DetectionCounts
from detseg3d.evaluation.scores.froc import ScoredCase

RULE = SizeRule(large_mm3=301, small_mm3=15)
VOLUMES = {"a": {1: 5.0, 2: 400.0, 3: 100.0}, "b": {1: 301.0}}


def scan(case_id: str, found: dict[int, bool], predictions: int, dice: float, scores: Scores | None) -> ScanResult:
    hits = sum(found.values())
    lesions = tuple(FoundLesion(number, hit) for number, hit in found.items())
    return ScanResult(case_id, DetectionCounts(len(found), hits, predictions, hits), dice, lesions, scores, scores)


RESULTS = [
    scan("a", {1: False, 2: True, 3: True}, 5, 0.8, Scores((None, 0.9, 0.6), (0.9, 0.6), (0.7,))),
    scan("b", {1: True}, 1, 0.4, Scores((0.8,), (0.8,), ())),
]


def test_a_row_pools_the_lesions_of_all_scans() -> None:
    row = make_row("clean", RESULTS, VOLUMES, RULE)
    # Three of four lesions found by three of six predictions; F1 = 2 * 3 / (4 + 6).
    assert (row.scans, row.lesions, row.recall, row.precision) == (2, 4, 0.75, 0.5)
    assert row.f1 == pytest.approx(0.6) and row.fp == 1.5 and row.dice == pytest.approx(0.6)
    assert (row.large, row.large_found, row.large_lesions, row.small) == (1.0, 2, 2, 0.0)
    assert row.recall_at_4 == 0.75
    # Recall .25 and .5 at precision 1, recall .75 at precision .75.
    assert row.ap == pytest.approx(0.25 + 0.25 + 0.25 * 0.75)


def test_masks_without_scores_have_no_curves() -> None:
    row = make_row("clean", [scan("b", {1: True}, 1, 0.4, None)], VOLUMES, RULE)
    assert (row.ap, row.recall_at_4, row.ece, row.small) == (None, None, None, None) and row.f1 == 1


def test_rows_are_relative_to_the_clean_scans_with_mean_and_worst() -> None:
    clean = make_row("clean", RESULTS, VOLUMES, RULE)
    half = make_row("blur_mild", [scan("a", {1: False, 2: False, 3: True}, 1, 0.2, None)], VOLUMES, RULE)
    none = make_row("blur_strong", [scan("a", {1: False, 2: False, 3: False}, 0, 0.0, None)], VOLUMES, RULE)
    table = make_table("title", [clean, half, none], RULE)
    assert table.rows[1].f1_of_clean == pytest.approx(0.5 / 0.6) and table.rows[2].f1_of_clean == 0
    assert table.mean(lambda row: row.f1_of_clean) == pytest.approx(0.5 / 0.6 / 2)
    assert table.worst(lambda row: row.large) == 0
    assert table.worst(lambda row: row.fp, lower_is_better=True) == 0
    text = table.markdown()
    assert "| blur_mild | 0.500 | 0.833 |" in text and "| 0.000 (0/1) |" in text


def test_a_table_without_hits_in_the_clean_scans_has_no_relative_values() -> None:
    empty = make_row("clean", [scan("b", {1: False}, 0, 0.0, None)], VOLUMES, RULE)
    assert make_table("title", [empty, empty], RULE).rows[1].f1_of_clean is None


def test_large_means_301_voxels_of_the_data_set() -> None:
    rule = SizeRule.of([10.0] * 95 + [3000.0] * 5, [2.0, 2.0, 8.0])
    assert (rule.large_mm3, rule.small_mm3) == (602.0, 30.0)


def test_large_means_the_largest_tenth_if_lesions_of_301_voxels_are_rare() -> None:
    volumes = list(np.arange(1.0, 101.0))
    rule = SizeRule.of(volumes, [1.0])
    assert sum(volume >= rule.large_mm3 for volume in volumes) == 10


def test_scores_of_lesions_that_are_never_found_survive_json() -> None:
    case = ScoredCase("a", np.array([-np.inf, 0.5]), np.array([0.5]), np.array([]))
    again = Scores.from_json(Scores.of(case).to_json()).scored_case("a")
    assert again.truth_scores.tolist() == [-np.inf, 0.5] and again.false_positive_scores.tolist() == []
