"""Compare the metrics with the original implementations, or with a calculation by hand if an original has no answer.

``answers.json`` contains the answers of MONAI, picai_eval, panoptica, CC-Metrics and surface-distance for the cases of
``cases.npz``, with the versions. It also contains the results of slow programs that follow the published definitions
literally. benchmarks/golden/README.md describes how to write it again. MONAI computes in float32, so five digits are
compared; for all others nine digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg3d.evaluation.definitions.cc_dice import cc_dice_by_lesion
from detseg3d.evaluation.definitions.lesionwise import GLIOMA, METASTASES, lesionwise_scores
from detseg3d.evaluation.definitions.surfaces import surface_metrics
from detseg3d.evaluation.intervals import weighted_metrics
from detseg3d.evaluation.matching import match_one_to_one, overlap_table
from detseg3d.evaluation.metrics import Criterion, DetectionCounts
from detseg3d.evaluation.scores.froc import (
    cpm,
    froc_curve,
)
from detseg3d.evaluation.summary import summarize
from tests.evaluation.golden.answers import double, records, single
from tests.evaluation.golden.cases import answers, evaluated, golden_cases

CLASSES = [(name, index) for name, answer in answers()["cases"].items() for index in range(len(answer["classes"]))]
BOTH = [(n, i) for n, i in CLASSES if all(volume.any() for volume in golden_cases()[n].of_class(i))]
NEITHER = [(n, i) for n, i in CLASSES if not any(volume.any() for volume in golden_cases()[n].of_class(i))]
PICAI = [name for name, answer in answers()["cases"].items() if "picai_eval" in answer]

each_class = pytest.mark.parametrize(("name", "index"), CLASSES)
where_both_have_lesions = pytest.mark.parametrize(("name", "index"), BOTH)

DISTANCES = ("hd95_mm", "assd_mm", "hd95_area_mm")
ZERO_IS_BEST = (
    *(f"fp_per_scan_{name}" for name in Criterion),
    *DISTANCES,
    *(f"{name}_with_lesions" for name in DISTANCES),
)


def answer_to(name: str, index: int) -> dict[str, Any]:
    found: dict[str, Any] = answers()["cases"][name]["classes"][index]
    return found


def test_each_golden_case_has_the_property_of_its_name() -> None:
    cases = golden_cases()
    assert len(cases) >= 24
    assert len(np.unique(cases["many_lesions"].truth)) > 256
    assert evaluated("many_false_positives").overall.detection["any"].false_positives > 8
    assert len(BOTH) > 20
    assert len(NEITHER) >= 3
    assert any(np.ptp(case.spacing) > 1 for case in cases.values())
    assert len(set(cases["tied_scores"].scores)) < len(cases["tied_scores"].scores)


# Voxels and surfaces


@each_class
def test_dice_equals_monai(name: str, index: int) -> None:
    ours = list(evaluated(name).classes.values())[index].dice
    assert ours == single(answer_to(name, index)["monai"]["dice"])


@where_both_have_lesions
def test_surface_metrics_equal_monai_and_a_calculation_by_hand(name: str, index: int) -> None:
    answer = answer_to(name, index)
    ours = surface_metrics(
        *golden_cases()[name].of_class(index), golden_cases()[name].spacing, answers()["tolerance_mm"]
    )
    assert ours.nsd == double(answer["by_hand"]["nsd"])
    assert ours.hd95_mm == double(answer["by_hand"]["hd95"])
    assert ours.nsd == single(answer["monai"]["nsd"])
    assert ours.hd95_mm == single(answer["monai"]["hd95"])


def test_empty_sides_have_metrics_where_monai_has_none() -> None:
    for name, index in NEITHER:
        theirs = answer_to(name, index)["monai"]
        assert (theirs["dice_ignoring_empty"], theirs["hd95"], theirs["nsd"]) == ("nan", "nan", "nan")
        ours = evaluated(name).outlines.classes[f"class {index}"]
        assert (ours.nsd, ours.hd95_mm, ours.cc_dice, ours.lesionwise.dice) == (1.0, 0.0, 1.0, 1.0)
    for name in ("empty_truth", "empty_prediction"):
        assert answer_to(name, 0)["monai"]["hd95"] == "nan"
        ours = evaluated(name).outlines.overall
        # The diagonal of 32³ voxels of 1 mm.
        assert (ours.nsd, ours.cc_dice) == (0.0, 0.0)
        assert ours.hd95_mm == pytest.approx(32 * 3**0.5)
        assert (ours.lesionwise.dice, ours.lesionwise.hd95_mm) == (0.0, 374.0)


def test_metrics_by_area_equal_surface_distance_and_metrics_by_voxel_are_close() -> None:
    for name in ("ball", "ball_thick"):
        ours, theirs = evaluated(name).outlines.overall, answer_to(name, 0)["surface_distance"]
        assert (ours.nsd_area, ours.hd95_area_mm) == (double(theirs["nsd"]), double(theirs["hd95"]))
        # Voxels of the surface that count alike, instead of surface elements on the corners between voxels.
        assert ours.hd95_mm == pytest.approx(theirs["hd95"], abs=0.5)
        assert ours.nsd == pytest.approx(theirs["nsd"], abs=0.12)


# Panoptic quality and matching

# A pair with an IoU of exactly one half matches for panoptica and does not by the definition of Kirillov et al.
EXACTLY_HALF = {"anisotropic", "border", "iou_one_half", "whole_volume"}


@each_class
def test_panoptic_counts_equal_monai(name: str, index: int) -> None:
    ours, theirs = list(evaluated(name).classes.values())[index].panoptic, answer_to(name, index)["monai_panoptic"]
    assert ours.matches == theirs["tp"]
    assert ours.predictions - ours.matches == theirs["fp"]
    assert ours.truth - ours.matches == theirs["fn"]
    assert ours.iou_sum == single(theirs["iou_sum"])


@each_class
def test_panoptic_quality_equals_panoptica(name: str, index: int) -> None:
    theirs = answer_to(name, index)["panoptica"]
    ours = list(evaluated(name).classes.values())[index].panoptic
    table = overlap_table(*golden_cases()[name].of_class(index))
    assert (name in EXACTLY_HALF) == bool(np.any(table.iou == 0.5))
    if name in EXACTLY_HALF:
        matched = table.iou >= 0.5
        assert theirs["tp"] == ours.matches + np.count_nonzero(table.iou == 0.5)
        assert theirs["sq"] == double(table.iou[matched].mean())
    elif ours.truth + ours.predictions == 0:
        assert (theirs["pq"], theirs["sq"], theirs["rq"], theirs["sq_dsc"]) == ("nan",) * 4
        assert (ours.pq, ours.sq, ours.rq) == (1.0, 1.0, 1.0)
    else:
        assert (ours.pq, ours.sq, ours.rq) == double((theirs["pq"], theirs["sq"], theirs["rq"]))


@pytest.mark.parametrize(("name", "index"), [entry for entry in CLASSES if entry[0] not in EXACTLY_HALF])
def test_the_dice_of_matched_lesions_equals_panoptica(name: str, index: int) -> None:
    ours = [
        lesion.dice
        for lesion in evaluated(name).lesions
        if lesion.kind == "truth" and lesion.class_name == f"class {index}" and lesion.iou > 0.5
    ]
    theirs = answer_to(name, index)["panoptica"]
    assert len(ours) == theirs["tp"]
    if ours:
        assert np.mean(ours) == double(theirs["sq_dsc"])


@pytest.mark.parametrize("name", sorted(set(PICAI) - {"chain"}))
def test_one_to_one_matches_equal_picai_eval(name: str) -> None:
    theirs, case = answers()["cases"][name]["picai_eval"], golden_cases()[name]
    matches = match_one_to_one(overlap_table(case.truth, case.prediction), 0.1)
    assert sorted(matches.iou.tolist()) == pytest.approx(theirs["overlaps"], abs=1e-8)  # it adds 1e-8 to both sides
    counts = evaluated(name).overall.detection["iou_0.1"]
    assert (counts.missed, counts.false_positives) == (theirs["missed"], theirs["false_positives"])


def test_picai_eval_can_lose_a_match_that_detseg3d_finds() -> None:
    # It adds 1 to each IoU and maximises the sum: 2 · 1.73 is more than the 3.32 of three matches. Ours, by hand: true
    # lesions of 112, 102 and 11 voxels, predictions of 102, 112 and 11 voxels that share 11, 21 and 11 with them.
    case = golden_cases()["chain"]
    matches = match_one_to_one(overlap_table(case.truth, case.prediction), 0.1)
    assert matches.iou.tolist() == pytest.approx([21 / (112 + 112 - 21), 11 / (102 + 11 - 11), 11 / (11 + 102 - 11)])
    assert evaluated("chain").overall.detection["iou_0.1"] == DetectionCounts(3, 3, 3, 3)
    assert len(answers()["cases"]["chain"]["picai_eval"]["overlaps"]) == 2


def test_more_than_255_lesions_are_counted() -> None:
    # 343 lesions of 2³ voxels: 7 without a prediction, every third of the 343 shifted by one voxel (IoU 4/12).
    shifted = sum(1 for index in range(343) if index % 3 == 0 and index % 49 != 5)
    case = evaluated("many_lesions")
    assert case.overall.detection["any"] == DetectionCounts(343, 336, 336, 336)
    assert case.overall.detection["iou_0.1"] == DetectionCounts(343, 336, 336, 336)
    assert case.overall.detection["iou_0.5"] == DetectionCounts(343, 336 - shifted, 336, 336 - shifted)
    assert case.outlines.overall.cc_dice == pytest.approx((336 - shifted + shifted * 0.5) / 343)


def test_touching_lesions_of_instance_maps_stay_separate() -> None:
    # 216 voxels each; the first prediction takes one layer of 36 from the second lesion.
    case = evaluated("touching")
    assert case.overall.panoptic.iou_sum == pytest.approx(216 / 252 + 180 / 216)
    assert case.overall.detection["iou_0.5"] == DetectionCounts(2, 2, 2, 2)
    assert case.dice == 1.0


@pytest.mark.parametrize(
    ("name", "any_overlap", "one_to_one"),
    [
        ("one_over_several", DetectionCounts(3, 3, 1, 1), DetectionCounts(3, 1, 1, 1)),
        ("several_in_one", DetectionCounts(1, 1, 3, 3), DetectionCounts(1, 1, 3, 1)),
        ("iou_one_tenth", DetectionCounts(1, 1, 1, 1), DetectionCounts(1, 1, 1, 1)),
        ("single_voxels", DetectionCounts(2, 1, 2, 1), DetectionCounts(2, 1, 2, 1)),
        ("no_overlap", DetectionCounts(2, 0, 1, 0), DetectionCounts(2, 0, 1, 0)),
        ("empty_truth", DetectionCounts(0, 0, 2, 0), DetectionCounts(0, 0, 2, 0)),
        ("empty_prediction", DetectionCounts(2, 0, 0, 0), DetectionCounts(2, 0, 0, 0)),
        ("many_false_positives", DetectionCounts(1, 1, 21, 1), DetectionCounts(1, 1, 21, 1)),
    ],
)
def test_counts_by_hand(name: str, any_overlap: DetectionCounts, one_to_one: DetectionCounts) -> None:
    detection = evaluated(name).overall.detection
    assert (detection["any"], detection["iou_0.1"]) == (any_overlap, one_to_one)


# Lesion by lesion


@pytest.mark.parametrize(("rule", "variant"), [(METASTASES, "metastases"), (GLIOMA, "glioma")])
@each_class
def test_lesionwise_scores_equal_the_brats_definition(name: str, index: int, rule: Any, variant: str) -> None:
    theirs = answer_to(name, index)["by_hand"][variant]
    ours = lesionwise_scores(*golden_cases()[name].of_class(index), golden_cases()[name].spacing, rule)
    assert (ours.truth, ours.missed, ours.false_positives) == tuple(
        theirs[key] for key in ("truth", "missed", "false_positives")
    )
    assert ours.dice == double(theirs["dice"])
    assert ours.hd95_mm == double(theirs["hd95"])


def test_lesionwise_scores_by_hand() -> None:
    # Boxes of 4·4·x voxels, x = 2–6, 7–10, 13–16, 23–27; predicted 2–5, 13–16 (without a row), 28–31.
    near = golden_cases()["near"]
    joined_once = lesionwise_scores(near.truth, near.prediction, near.spacing, METASTASES)
    # The first two are one lesion of 112 voxels; the prediction near the last one is a voxel too far for one dilation.
    assert (joined_once.truth, joined_once.missed, joined_once.false_positives) == (3, 1, 1)
    assert joined_once.dice == pytest.approx((2 * 48 / (112 + 48) + 2 * 36 / (48 + 36)) / 4)
    joined_thrice = lesionwise_scores(near.truth, near.prediction, near.spacing, GLIOMA)
    assert (joined_thrice.truth, joined_thrice.missed, joined_thrice.false_positives) == (2, 0, 0)
    assert joined_thrice.dice == pytest.approx(2 * 84 / (160 + 84) / 2)


def test_lesions_at_the_size_limit_are_ignored() -> None:
    # 2, 3, 50 and 54 mm³ against limits of 2 and 50, all found with one layer missing.
    case = golden_cases()["small_volumes"]
    metastases, glioma = (lesionwise_scores(case.truth, case.prediction, case.spacing, r) for r in (METASTASES, GLIOMA))
    assert (metastases.truth, metastases.false_positives, glioma.truth, glioma.false_positives) == (3, 0, 1, 0)
    assert metastases.dice_sum == pytest.approx(2 * 2 / 5 + 2 * 40 / 90 + 2 * 45 / 99)
    assert glioma.dice_sum == pytest.approx(2 * 45 / 99)


def test_parts_that_touch_by_a_corner_are_one_component() -> None:
    # 54 true voxels; a prediction of 36 + 27 voxels shares 27 with them; two cubes of 8 are one false positive.
    case = golden_cases()["diagonal"]
    counts = lesionwise_scores(case.truth, case.prediction, case.spacing, METASTASES)
    assert (counts.truth, counts.missed, counts.false_positives) == (1, 0, 1)
    assert counts.dice == pytest.approx(2 * 27 / (54 + 63) / 2)


@each_class
def test_cc_dice_equals_the_dice_of_whole_voronoi_regions(name: str, index: int) -> None:
    theirs = answer_to(name, index)["by_hand"]["cc_dice"]["lesions"]
    ours = cc_dice_by_lesion(*golden_cases()[name].of_class(index), golden_cases()[name].spacing)
    assert ours.tolist() == double(theirs)


# CC-Metrics knows components, not instances, and gives a voxel between two lesions to one of them, where ours gives it
# to both by half.
FOR_CC_METRICS = [
    (name, index)
    for name, index in BOTH
    if name not in ("touching", "fragments") and not answer_to(name, index)["by_hand"]["cc_dice"]["ties"]
]


@pytest.mark.parametrize(("name", "index"), FOR_CC_METRICS)
def test_cc_dice_equals_cc_metrics(name: str, index: int) -> None:
    case, theirs = golden_cases()[name], answer_to(name, index)["cc_metrics"]
    ours = cc_dice_by_lesion(*case.of_class(index), case.spacing)
    assert sorted(ours) == double(sorted(theirs["dice_mm"]))
    if set(case.spacing) == {1.0}:  # its mean knows no spacing
        assert ours.mean() == double(theirs["dice"])


def test_cc_dice_of_equally_near_lesions_by_hand() -> None:
    # Two cubes of 27 voxels; a rod from one to the other has 2 voxels in each and 7 between, of which one is halfway;
    # of 12 stray voxels 4 are nearer to each and 4 halfway.
    assert evaluated("equally_near").outlines.overall.cc_dice == pytest.approx(2 * 2 / (27 + 2 + 3.5 + 6))


# All together


@pytest.mark.parametrize("names", [["perfect"], ["perfect", "perfect_two", "perfect_of_two_classes"]])
def test_a_perfect_detector_has_the_best_value_of_every_metric(names: list[str]) -> None:
    cases = [evaluated(name) for name in names]
    metrics = weighted_metrics(cases, np.ones((1, len(cases))))
    assert len(metrics) >= 22
    for name, metric in metrics.items():
        assert metric.values[0] == pytest.approx(0.0 if name in ZERO_IS_BEST else 1.0, abs=1e-12), name
    scores = summarize(cases).scores
    assert scores is not None
    for entry in scores.values():
        assert (entry.average_precision, entry.cpm, entry.mean_average_precision) == (1.0, 1.0, 1.0)
        assert {point.recall for point in entry.froc} == {1.0}


def test_healthy_scans_do_not_make_a_perfect_detector_less_perfect() -> None:
    cases = [evaluated(name) for name in ("perfect", "empty_both")]
    metrics = weighted_metrics(cases, np.ones((1, 2)))
    for name, metric in metrics.items():
        assert metric.values[0] == pytest.approx(0.0 if name in ZERO_IS_BEST else 1.0, abs=1e-12), name
    assert cpm(froc_curve(records(["perfect", "empty_both"], 0.1))) == 1.0


@pytest.mark.parametrize("name", golden_cases())
def test_every_metric_is_a_number(name: str) -> None:
    overall, lesionwise = evaluated(name).overall, evaluated(name).outlines.overall.lesionwise
    needs = {
        "precision": overall.detection["any"].predictions,
        "sq": overall.panoptic.matches,
        "lesionwise": lesionwise.truth,
        **dict.fromkeys(("recall", "f1", "pq", "rq", "ap", "cpm"), overall.detection["any"].truth),
    }
    for key, metric in weighted_metrics([evaluated(name)], np.ones((1, 1))).items():
        known = overall.has_lesions if key.endswith("_with_lesions") else needs.get(key.split("_")[0], 1) > 0
        assert np.isfinite(metric.values[0]) == known, key


def test_without_distances_the_other_metrics_are_the_same() -> None:
    whole, part = evaluated("ordinary"), evaluated("ordinary", distances=False)
    assert part.outlines.overall.hd95_mm is None
    assert (part.outlines.overall.nsd, part.outlines.overall.lesionwise.dice) == (
        whole.outlines.overall.nsd,
        whole.outlines.overall.lesionwise.dice,
    )
