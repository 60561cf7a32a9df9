from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.evaluation.definitions.panoptica import PanopticaCase, panoptica_case


def line(*values: int) -> npt.NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_an_iou_of_exactly_one_half_matches() -> None:
    case = panoptica_case(line(1, 1, 1, 0), line(1, 1, 1, 1) * line(1, 1, 0, 0) + line(0, 0, 0, 1), (1.0, 1.0, 1.0))
    assert case.iou == (pytest.approx(2 / 3),)
    half = panoptica_case(line(1, 1, 0, 0), line(1, 0, 0, 0), (1.0, 1.0, 1.0))
    assert half.iou == (0.5,) and half.pq == 0.5


def test_the_highest_iou_takes_its_pair_first() -> None:
    truth, prediction = line(1, 1, 1, 1, 0, 1, 1), line(1, 1, 1, 1, 1, 1, 0)
    case = panoptica_case(truth, prediction, (1.0, 1.0, 1.0))
    assert (case.truth, case.predictions, len(case.iou)) == (2, 1, 1)
    assert case.rq == pytest.approx(2 / 3)


def test_distances_are_in_millimetres() -> None:
    case = panoptica_case(line(1, 1, 1, 0), line(0, 1, 1, 0), (1.0, 1.0, 2.0))
    assert case.sq_masd_mm == pytest.approx((2 / 3 + 0) / 2)


def test_without_a_match_the_qualities_are_zero_and_without_anything_undefined() -> None:
    missed = panoptica_case(line(1, 0, 0), line(0, 0, 1), (1.0, 1.0, 1.0))
    assert (missed.pq, missed.sq, missed.sq_dice, missed.pq_dice, missed.sq_masd_mm) == (0.0, 0.0, 0.0, 0.0, None)
    nothing = PanopticaCase()
    assert (nothing.pq, nothing.rq, nothing.sq) == (None, None, None)
