from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.evaluation.definitions.brats_mets import Mets2026Case, SizeCounts, mets2026_case

MM = (1.0, 1.0, 1.0)


def cube(*corners: tuple[int, int], shape: tuple[int, int, int] = (6, 6, 60)) -> npt.NDArray[np.uint8]:
    """Return a mask with cubes along x: (start, edge)."""
    volume = np.zeros(shape, np.uint8)
    for start, edge in corners:
        volume[:edge, :edge, start : start + edge] = 1
    return volume


def test_a_lesion_of_exactly_27_mm3_is_large() -> None:
    lesion = cube((5, 3))
    assert mets2026_case(lesion, lesion, MM, 1.0).large == SizeCounts(1, 0, 0)
    assert mets2026_case(lesion, lesion, MM, 0.999).small == SizeCounts(1, 0, 0)
    stored = float(np.float32(0.3)) ** 3  # 1000 voxels of 0.3 mm are 27 mm³, but for the rounding of the header
    many = cube((5, 10), shape=(10, 10, 20))
    assert mets2026_case(many, many, (0.3, 0.3, 0.3), stored).large == SizeCounts(1, 0, 0)


def test_a_match_of_low_dice_is_missed_but_not_a_false_positive() -> None:
    truth, prediction = cube((5, 4)), cube((8, 4))  # 16 of 64 voxels in common: Dice 0.25
    assert mets2026_case(truth, prediction, MM, 1.0).large == SizeCounts(1, 0, 0)
    barely = prediction.copy()
    barely[0, 0, 12:50] = 1  # Dice 32 / 166 = 0.19
    case = mets2026_case(truth, barely, MM, 1.0)
    assert (case.large, case.matched) == (SizeCounts(0, 1, 0), SizeCounts(1, 0, 0))
    assert case.dice == pytest.approx(32 / 166)


def test_missed_lesions_and_false_positives_get_zero_and_373_mm() -> None:
    truth, prediction = cube((5, 4), (20, 4)), cube((5, 4), (40, 2))
    case = mets2026_case(truth, prediction, MM, 1.0)
    assert case.large == SizeCounts(1, 1, 1)
    assert (case.dice, case.nsd) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert case.hd95_mm == pytest.approx(2 * 373 / 3)
    assert case.large is not None and case.large.f1 == pytest.approx(0.5)


def test_without_a_large_lesion_there_is_no_segmentation_metric() -> None:
    case = mets2026_case(cube((5, 2)), cube((30, 4)), MM, 1.0)
    assert (case.dice, case.nsd, case.hd95_mm, case.large) == (None, None, None, None)
    assert case.small == SizeCounts(0, 1, 1)
    assert mets2026_case(cube(), cube(), MM, 1.0) == Mets2026Case()


def test_the_tolerance_is_the_smallest_spacing() -> None:
    truth = cube((5, 4))
    case = mets2026_case(truth, np.roll(truth, 1, 2), (3.0, 2.0, 0.4), 2.4)
    assert case.nsd == 1.0
    assert mets2026_case(truth, np.roll(truth, 1, 0), (3.0, 2.0, 0.4), 2.4).nsd < 1.0


def test_counts_without_anything_found_are_zero() -> None:
    counts = SizeCounts(0, 2, 3)
    assert (counts.precision, counts.recall, counts.f1) == (0.0, 0.0, 0.0)
    assert SizeCounts(2, 2, 4).precision == pytest.approx(1 / 3) and SizeCounts(2, 2, 4).recall == 0.5
