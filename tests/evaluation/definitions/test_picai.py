from __future__ import annotations

import numpy as np
import pytest

from detseg3d.evaluation.definitions.picai import PicaiCase, picai_case, picai_scores
from detseg3d.evaluation.matching import InstanceTable, OverlapTable, overlap_table


def test_a_second_prediction_in_a_lesion_is_ignored() -> None:
    truth, prediction = np.zeros((2, 1, 1, 12), np.int32)
    truth[0, 0, 0:6], prediction[0, 0, 0:3], prediction[0, 0, 4:6], prediction[0, 0, 9] = 1, 1, 2, 3
    case = picai_case(overlap_table(truth, prediction), np.array([0.4, 0.9, 0.2]))
    assert case == PicaiCase(1, (0.4,), (0.2,), 0.9)


def test_without_scores_every_prediction_has_the_score_one() -> None:
    truth, prediction = np.zeros((2, 1, 1, 12), np.int32)
    prediction[0, 0, 3] = 1
    assert picai_case(overlap_table(truth, prediction), None) == PicaiCase(0, (), (1.0,), 1.0)


def test_average_precision_is_a_sum_of_steps_without_an_envelope() -> None:
    scores = picai_scores([PicaiCase(2, (0.9, 0.3), (0.8, 0.7), 0.9)])
    assert scores.average_precision == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 4)
    assert scores.auroc is None and scores.ranking is None


def test_auroc_counts_ties_half() -> None:
    cases = [PicaiCase(1, (), (), highest) for highest in (0.5, 0.8)] + [PicaiCase(highest=0.5), PicaiCase(highest=0.9)]
    assert picai_scores(cases).auroc == pytest.approx((0.5 + 0 + 1 + 0) / 4)


def test_without_a_true_lesion_the_average_precision_is_undefined() -> None:
    assert picai_scores([PicaiCase()]).average_precision is None
    assert picai_scores([PicaiCase(lesions=2)]).average_precision == 0.0


def test_two_matches_are_preferred_to_one_of_higher_iou() -> None:
    """Prediction 0 fits lesion 0 very well, but prediction 1 has a match only if prediction 0 takes lesion 1."""
    lesions = InstanceTable(np.arange(1, 3), np.full(2, 20), np.zeros((2, 3)))
    pairs = np.array([0, 1, 0]), np.array([0, 0, 1])
    table = OverlapTable(lesions, lesions, *pairs, np.array([19, 6, 6]))
    assert picai_case(table, np.array([0.9, 0.5])).true_positives == (0.9, 0.5)
