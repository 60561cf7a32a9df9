from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.evaluation.boxes.matching import scored_case_from_boxes
from detseg3d.evaluation.matching import overlap_table
from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.scores.froc import (
    ScoredCase,
    average_precision,
    froc_curve,
    precision_recall_curve,
    recall_at_rates,
    scored_case,
)
from detseg3d.evaluation.summary import summarize
from tests.evaluation.golden.answers import double, records, single
from tests.evaluation.golden.cases import answers, evaluated, golden_cases


def box_records(names: list[str], minimum_iou: float | None, index: int = 0) -> list[ScoredCase]:
    """Return the records of cases, matched by the bounding boxes of one class."""
    result = []
    for name in names:
        case = golden_cases()[name]
        truth, prediction = case.of_class(index)
        (_, true_boxes), (ids, boxes) = boxes_from_instances(truth), boxes_from_instances(prediction)
        scores = np.array(case.scores)[np.asarray(ids) - 1]
        result.append(
            scored_case_from_boxes(
                name, true_boxes, [0] * len(true_boxes), boxes, scores, [0] * len(boxes), minimum_iou
            )
        )
    return result


@pytest.mark.parametrize("name", answers()["sets"])
def test_precision_and_recall_equal_picai_eval(name: str) -> None:
    answer = answers()["sets"][name]
    theirs = answer["picai_eval"]
    cases = records(answer["cases"], 0.1)
    recall, precision, _ = precision_recall_curve(cases)
    # Its curve ascends in score, ends in a point (0, 1) and, if lesions are missed, begins with a point of score 0.
    missed = any(np.isneginf(case.truth_scores).any() for case in cases)
    begin = 1 if missed else 0
    assert recall[::-1].tolist() == double(theirs["recall"][begin:-1])
    assert precision[::-1].tolist() == double(theirs["precision"][begin:-1])
    # Its average precision is the area under the steps themselves, ours that under their upper envelope.
    assert np.sum(np.diff(recall, prepend=0) * precision) == double(theirs["ap"])
    assert average_precision(cases) >= theirs["ap"] - 1e-9


@pytest.mark.parametrize("name", answers()["sets"])
def test_the_froc_curve_equals_picai_eval_and_ends_at_the_lowest_score(name: str) -> None:
    answer = answers()["sets"][name]
    theirs = answer["picai_eval"]
    cases = records(answer["cases"], 0.1)
    curve = froc_curve(cases)
    # It overwrites its last point: the one of score 0 if lesions are missed, else that of the lowest prediction.
    kept = len(curve.recall) if any(np.isneginf(case.truth_scores).any() for case in cases) else -1
    assert curve.recall[:kept].tolist() == single(theirs["froc_recall"][:-1])
    assert curve.false_positives_per_scan[:kept].tolist() == single(theirs["fp_per_scan"][:-1])
    if kept == -1 and name == "perfect":
        assert (curve.recall[-1], theirs["froc_recall"][-1]) == (1.0, 1 - 1 / 16)


@pytest.mark.parametrize("name", answers()["sets"])
def test_the_froc_curve_equals_monai_and_ends_at_the_lowest_score(name: str) -> None:
    answer = answers()["sets"][name]
    theirs = answer["monai_froc"]
    cases = hits_by_middle_voxel(answer["cases"])
    curve = froc_curve(cases)
    # It drops the lowest score of all: 0, its mark of a missed lesion, or else that of a prediction.
    kept = len(curve.recall) if any(np.isneginf(case.truth_scores).any() for case in cases) else -1
    assert [0.0, *curve.recall[:kept]] == double(theirs["recall"][::-1])
    assert [0.0, *curve.false_positives_per_scan[:kept]] == double(theirs["fp_per_scan"][::-1])
    if name == "perfect":
        assert (curve.recall[-1], max(theirs["recall"])) == (1.0, 1 - 1 / 16)


def hits_by_middle_voxel(names: list[str]) -> list[ScoredCase]:
    """Return records in which a prediction hits the lesion that contains the middle of its bounding box."""
    result = []
    for name in names:
        case = golden_cases()[name]
        found: dict[int, float] = defaultdict(lambda: -np.inf)
        false = []
        for number, score in enumerate(case.scores, start=1):
            points = np.argwhere(case.prediction == number)
            lesion = int(case.truth[tuple((points.min(axis=0) + points.max(axis=0) + 1) // 2)])
            if lesion:
                found[lesion] = max(found[lesion], score)
            else:
                false.append(score)
        scores = np.array([found[number] for number in range(1, len(case.truth_classes) + 1)])
        result.append(ScoredCase(name, scores, scores[np.isfinite(scores)], np.array(false)))
    return result


@pytest.mark.parametrize("name", ["perfect", "many_lesions", "many_false_positives"])
def test_hits_by_the_box_centre_give_the_froc_curve_of_monai(name: str) -> None:
    answer = answers()["sets"][name]
    curve = froc_curve(box_records(answer["cases"], None))
    theirs = answer["monai_froc"]
    rates, recalls = ([0.0, *values.tolist()] for values in (curve.false_positives_per_scan, curve.recall))
    ours = {(round(rate, 6), round(recall, 6)) for rate, recall in zip(rates, recalls, strict=True)}
    assert {(round(r, 6), round(s, 6)) for r, s in zip(theirs["fp_per_scan"], theirs["recall"], strict=True)} <= ours


def coco_average_precision(cases: list[ScoredCase]) -> float:
    """Return the average precision of the curve at 101 recalls, as COCO does."""
    recall, precision, _ = precision_recall_curve(cases)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall.astype(np.float32), np.linspace(0, 1, 101))].mean())


@pytest.mark.parametrize("threshold", [0.1, 0.5])
@pytest.mark.parametrize("name", sorted(set(answers()["box_sets"]) - {"tied"}))
def test_the_box_precision_of_every_class_equals_monai(name: str, threshold: float) -> None:
    answer = answers()["box_sets"][name]
    names = answer["cases"]
    ours = []
    for index in range(max(len(golden_cases()[case].class_names) for case in names)):
        cases = box_records(names, threshold, index)
        theirs = answer["monai_coco"][f"class {index}_AP_IoU_{threshold:.2f}_MaxDet_1000"]
        if not any(len(case.truth_scores) for case in cases):
            assert theirs == -1.0
            continue
        ours.append(coco_average_precision(cases))
        assert ours[-1] == single(theirs)
        # All points instead of 101 differ by no more than the width of one step.
        assert average_precision(cases) == pytest.approx(ours[-1], abs=1 / 100)


def test_mean_average_precision_leaves_out_absent_classes_where_monai_averages_minus_one() -> None:
    theirs = answers()["box_sets"]
    perfect = summarize([evaluated("perfect_of_two_classes")])
    assert theirs["perfect_of_two_classes"]["monai_coco"]["AP_IoU_0.10_MaxDet_1000"] == 0.0
    assert theirs["absent_class"]["monai_coco"]["AP_IoU_0.50_MaxDet_1000"] < 0
    assert perfect.scores is not None
    assert {scores.mean_average_precision for scores in perfect.scores.values()} == {1.0}
    for name in ("absent_class", "absent_class_predicted"):
        summary = summarize([evaluated(name)])
        assert summary.scores is not None
        scores = summary.scores[HEADLINE]
        of_class = [scores.classes[f"class {index}"].average_precision for index in range(2)]
        assert scores.mean_average_precision == pytest.approx(np.mean(of_class))


def test_equal_scores_form_one_point_while_monai_orders_them_by_case() -> None:
    names = answers()["box_sets"]["tied"]["cases"]
    there, back = (box_records(order, 0.1) for order in (names, names[::-1]))
    assert average_precision(there) == average_precision(back)
    distinct = {score for case in there for score in [*case.true_positive_scores, *case.false_positive_scores]}
    assert len(precision_recall_curve(there)[2]) == len(distinct)


def test_more_than_a_hundred_detections_are_counted() -> None:
    answer = answers()["box_sets"]["many_lesions"]
    assert answer["monai_coco_of_100"]["AP_IoU_0.10_MaxDet_100"] == pytest.approx(30 / 101, abs=1e-6)
    assert average_precision(box_records(["many_lesions"], 0.1)) == pytest.approx(336 / 343)


@pytest.mark.parametrize("ours_first", [True, False])
def test_more_than_eight_false_positives_per_scan(ours_first: bool) -> None:
    # 20 false positives; the true one has the highest or the lowest score.
    case = golden_cases()["many_false_positives"]
    scores = case.scores if ours_first else case.scores[::-1]
    table = overlap_table(case.truth, case.prediction)
    record = scored_case("case", table, scores, 0.1)
    curve = froc_curve([record])
    assert curve.false_positives_per_scan[-1] == 20
    assert curve.recall[-1] == 1.0
    assert [row.recall for row in recall_at_rates(curve, (1 / 8, 8, 19, 20))] == (
        [1.0] * 4 if ours_first else [0.0, 0.0, 0.0, 1.0]
    )
    assert average_precision([record]) == pytest.approx(1.0 if ours_first else 1 / 21)
