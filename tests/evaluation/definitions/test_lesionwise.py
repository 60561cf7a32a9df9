from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation, generate_binary_structure, label

from detseg3d.evaluation.definitions.lesionwise import (
    BRATS2024_METS,
    GLIOMA,
    METASTASES,
    LesionwiseCounts,
    LesionwiseRule,
    lesionwise_scores,
)
from detseg3d.evaluation.definitions.surface_elements import area_surface_metrics
from detseg3d.evaluation.definitions.surfaces import surface_metrics

SPACING = (1.0, 1.0, 1.0)
EVERYTHING = LesionwiseRule(dilation=1, ignored_mm3=0.0)
sparse = arrays(np.int64, (4, 6, 7), elements=st.sampled_from([0] * 9 + [1]))


def line(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64).reshape(1, 1, -1)


def naive(truth: npt.NDArray[Any], prediction: npt.NDArray[Any], rule: LesionwiseRule) -> tuple[int, int, float]:
    """Apply the published procedure lesion by lesion, on the whole volume."""
    full, wide = np.ones((3, 3, 3)), generate_binary_structure(3, 2)
    grown = binary_dilation(truth, wide, iterations=rule.dilation) if rule.dilation else truth > 0
    zones, count = label(grown, full)
    widened = prediction > 0
    if rule.dilate_prediction and rule.dilation:
        widened = binary_dilation(prediction, wide, iterations=rule.dilation)
    parts = np.where(prediction > 0, label(widened, full)[0], 0)
    for part in np.unique(parts[parts > 0]):
        if (parts == part).sum() <= rule.ignored_predicted_voxels:
            parts[parts == part] = 0
    number_of_parts = len(np.unique(parts[parts > 0]))
    touched: set[int] = set()
    scores = []
    for zone in range(1, count + 1):
        lesion = (zones == zone) & (truth > 0)
        own = set(np.unique(parts[zones == zone]).tolist()) - {0}
        touched |= own
        predicted = np.isin(parts, list(own))
        if lesion.sum() > rule.ignored_mm3:
            scores.append(2 * (lesion & predicted).sum() / (lesion.sum() + predicted.sum()))
    return len(scores), number_of_parts - len(touched), float(sum(scores))


@given(sparse, sparse, st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0]), st.booleans(), st.integers(0, 2))
@settings(deadline=None)
def test_the_result_equals_the_procedure_lesion_by_lesion(
    truth: npt.NDArray[np.int64],
    prediction: npt.NDArray[np.int64],
    dilation: int,
    smallest: float,
    dilate_prediction: bool,
    voxels: int,
) -> None:
    rule = LesionwiseRule(dilation, smallest, dilate_prediction=dilate_prediction, ignored_predicted_voxels=voxels)
    counts = lesionwise_scores(truth, prediction, SPACING, rule)
    expected = naive(truth, prediction, rule)
    assert (counts.truth, counts.false_positives, counts.dice_sum) == pytest.approx(expected)


def test_lesions_that_touch_when_dilated_are_one() -> None:
    truth, prediction = line(1, 1, 0, 0, 1, 1, 0, 0, 0), line(1, 1, 0, 0, 0, 0, 0, 0, 0)
    counts = lesionwise_scores(truth, prediction, SPACING, EVERYTHING)
    assert (counts.truth, counts.dice) == (1, pytest.approx(2 * 2 / (4 + 2)))


def test_a_part_near_the_lesion_belongs_to_it_and_a_distant_part_is_false() -> None:
    near = lesionwise_scores(line(1, 1, 0, 0, 0, 0), line(0, 0, 1, 0, 0, 0), SPACING, EVERYTHING)
    beyond = lesionwise_scores(line(1, 1, 0, 0, 0, 0), line(0, 0, 0, 0, 1, 0), SPACING, EVERYTHING)
    assert (near.missed, near.false_positives, near.dice) == (0, 0, 0.0)
    assert (beyond.missed, beyond.false_positives, beyond.dice) == (1, 1, 0.0)


def test_small_lesions_are_ignored() -> None:
    truth, prediction = line(1, 1, 0, 0, 0, 1, 1, 1), line(1, 1, 0, 0, 0, 1, 1, 1)
    assert lesionwise_scores(truth, prediction, SPACING, METASTASES).truth == 1
    counts = lesionwise_scores(truth, prediction, SPACING, GLIOMA)
    assert (counts.truth, counts.false_positives, counts.dice) == (0, 0, 1.0)


def test_the_size_limit_is_a_volume() -> None:
    truth = line(1, 1, 0, 0, 0)
    assert lesionwise_scores(truth, truth, (1.0, 1.0, 1.0)).truth == 0
    assert lesionwise_scores(truth, truth, (1.0, 1.0, 1.1)).truth == 1


def test_a_lesion_of_exactly_the_limit_is_ignored_despite_rounding() -> None:
    truth = line(*[1] * 20)  # 20 times 0.1 mm³ is 2.0000000000000004 in floating point
    assert lesionwise_scores(truth, truth, (0.1, 0.1, 10.0)).truth == 0


def test_missed_lesions_and_false_positives_get_the_penalty() -> None:
    # One lesion found one voxel off at one end, one missed, one false alarm.
    truth, prediction = np.zeros((2, 1, 1, 40))
    truth[0, 0, 0:20], truth[0, 0, 25:28] = 1, 1
    prediction[0, 0, 0:20], prediction[0, 0, 35] = 1, 1
    counts = lesionwise_scores(truth, prediction, SPACING, EVERYTHING)
    assert counts.hd95_sum == 0 + 374 + 374
    assert counts.hd95_mm == pytest.approx(2 * 374 / 3)
    assert lesionwise_scores(truth, prediction, SPACING, EVERYTHING, hd95=False).hd95_mm is None


def test_the_distance_includes_all_parts_of_the_lesion() -> None:
    truth, prediction = line(1, 1, 1, 0, 0, 0, 0), line(1, 1, 1, 1, 1, 0, 0)
    # Of five predicted voxels the distances are 0 0 0 1 2: the 95th percentile lies at 1.8.
    assert lesionwise_scores(truth, prediction, SPACING).hd95_mm == pytest.approx(1.8)


def test_counts_add_up() -> None:
    total = LesionwiseCounts(2, 1, 1, 0.9, 400.0) + LesionwiseCounts(1, 0, 0, 0.9, 2.0)
    assert total == LesionwiseCounts(3, 1, 1, 1.8, 402.0)
    assert (total.dice, total.hd95_mm) == (pytest.approx(0.45), pytest.approx(100.5))
    assert (total + LesionwiseCounts(hd95_sum=None)).hd95_mm is None
    assert LesionwiseCounts().dice == 1.0 and LesionwiseCounts().hd95_mm == 0.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        lesionwise_scores(line(1), line(1, 0), SPACING)


def test_the_rule_of_2024_joins_predicted_parts_drops_the_smallest_and_weighs_by_area() -> None:
    truth, prediction = np.zeros((2, 12, 12, 40), np.uint8)
    truth[2:8, 2:8, 2:8], prediction[2:8, 2:8, 3:9] = 1, 1
    prediction[2:4, 2, 11] = 1  # two voxels away from the part in the lesion: one with it after dilation
    prediction[10, 10, 30] = 1  # of one voxel
    old = lesionwise_scores(truth, prediction, SPACING)
    new = lesionwise_scores(truth, prediction, SPACING, BRATS2024_METS)
    assert (old.false_positives, new.false_positives) == (2, 0)
    assert new.dice == pytest.approx(2 * 180 / (216 + 218))


def test_the_distance_of_2024_is_weighted_by_area() -> None:
    truth, prediction = np.zeros((2, 12, 12, 40), np.uint8)
    truth[2:8, 2:8, 2:8], prediction[2:8, 2:8, 2:8] = 1, 1
    prediction[4, 4, 8:16] = 1  # a spike: 4.9 % of the surface voxels, 9 % of the area
    plain, by_area = (
        measure(truth, prediction, SPACING).hd95_mm for measure in (surface_metrics, area_surface_metrics)
    )
    assert plain < by_area
    assert lesionwise_scores(truth, prediction, SPACING, BRATS2024_METS).hd95_mm == by_area
    assert lesionwise_scores(truth, prediction, SPACING).hd95_mm == plain
