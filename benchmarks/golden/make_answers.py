"""Ask the original implementations about the golden cases: tests/evaluation/golden/answers.json.

    python benchmarks/golden/make_answers.py

Runs in an environment of its own, see README.md. Answers are stored as they come, wrong ones, too; which are wrong and
what is right instead is said in tests/evaluation/golden/test_golden.py.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import surface_distance
import torch
from by_hand import cc_dice, hd95, lesionwise, nsd
from CCMetrics import CCDiceMetric
from CCMetrics.space_separation import compute_voronoi_regions_fast
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou
from monai.metrics import (
    compute_dice,
    compute_hausdorff_distance,
    compute_panoptic_quality,
    compute_surface_dice,
)
from monai.metrics.froc import compute_fp_tp_probs_nd, compute_froc_curve_data
from panoptica import InputType, NaiveThresholdMatching, Panoptica_Evaluator
from panoptica.metrics import Metric
from picai_eval.eval import evaluate, evaluate_case

FOLDER = Path(__file__).parents[2] / "tests" / "evaluation" / "golden"
PACKAGES = (
    "monai",
    "picai_eval",
    "panoptica",
    "surface-distance",
    "CCMetrics",
    "scikit-learn",
    "scipy",
    "numpy",
    "torch",
)
TOLERANCE_MM = 1.0

SETS = {
    "mixed": ("ordinary", "ordinary_two", "anisotropic", "empty_truth", "empty_both", "empty_prediction"),
    "perfect": ("perfect", "perfect_two"),
    "perfect_and_healthy": ("perfect", "perfect_two", "empty_both", "empty_truth"),
    "many_false_positives": ("many_false_positives",),
    "tied": ("tied_scores", "ordinary"),
    "many_lesions": ("many_lesions",),
}
BOX_SETS = {
    **SETS,
    "several_classes": ("several_classes", "ordinary"),
    "absent_class": ("absent_class", "perfect"),
    "absent_class_predicted": ("absent_class_predicted",),
    "perfect_of_two_classes": ("perfect_of_two_classes",),
}
# Single class; picai_eval takes touching predictions for one.
FOR_PICAI = (
    "ordinary", "ordinary_two", "anisotropic", "empty_truth", "empty_prediction", "no_overlap", "many_lesions",
    "many_false_positives", "perfect", "one_over_several", "several_in_one", "tied_scores", "border", "whole_volume",
    "iou_one_half", "iou_one_tenth", "chain", "single_voxels", "small_volumes", "diagonal",
)  # fmt: skip

Case = dict[str, Any]


def read_cases() -> dict[str, Case]:
    cases = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
    with np.load(FOLDER / "cases.npz", allow_pickle=False) as volumes:
        for name, case in cases.items():
            case["truth"], case["prediction"] = volumes[f"{name}/truth"], volumes[f"{name}/prediction"]
            for key in ("truth_classes", "prediction_classes"):
                case[key] = np.array(case[key], np.int64)
            case["scores"] = np.array(case["scores"], np.float64)
    return dict(cases)


def of_class(case: Case, side: str, index: int) -> np.ndarray:
    """The instance map of one class."""
    volume = case[side].astype(np.int32)
    own = np.flatnonzero(case[f"{side}_classes"] == index) + 1
    return np.where(np.isin(volume, own), volume, 0)


def monai_masks(truth: np.ndarray, prediction: np.ndarray, spacing: list[float]) -> dict[str, float]:
    y, guess = (torch.from_numpy((volume > 0)[None, None].astype(np.float32)) for volume in (truth, prediction))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of empty masks
        return {
            "dice": float(compute_dice(guess, y, ignore_empty=False)),
            "dice_ignoring_empty": float(compute_dice(guess, y)),
            "hd95": float(compute_hausdorff_distance(guess, y, True, percentile=95, spacing=spacing)),
            "nsd": float(compute_surface_dice(guess, y, [TOLERANCE_MM], True, spacing=spacing)),
        }


def monai_panoptic(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    found = compute_panoptic_quality(
        torch.from_numpy(prediction), torch.from_numpy(truth), output_confusion_matrix=True
    ).tolist()
    return dict(zip(("tp", "fp", "fn", "iou_sum"), found, strict=True))


def ask_panoptica(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.UNMATCHED_INSTANCE,
        instance_matcher=NaiveThresholdMatching(matching_metric=Metric.IOU, matching_threshold=0.5),
        instance_metrics=[Metric.DSC, Metric.IOU],
        global_metrics=[Metric.DSC],
    )
    result = next(iter(evaluator.evaluate(prediction.copy(), truth.copy(), verbose=False).values()))
    names = ("tp", "fp", "fn", "rq", "sq", "pq", "sq_dsc", "global_bin_dsc")
    return {name: float(getattr(result, name)) for name in names}


def surface_distance_masks(truth: np.ndarray, prediction: np.ndarray, spacing: list[float]) -> dict[str, float]:
    found = surface_distance.compute_surface_distances(truth > 0, prediction > 0, spacing)
    return {
        "nsd": float(surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)),
        "hd95": float(surface_distance.compute_robust_hausdorff(found, 95)),
    }


def ask_cc_metrics(truth: np.ndarray, prediction: np.ndarray, spacing: list[float]) -> dict[str, Any]:
    """Its Dice, which knows no spacing, and the Dice in its regions, which do."""
    metric = CCDiceMetric()
    metric(*(np.stack([volume == 0, volume > 0])[None].astype(np.int64) for volume in (prediction, truth)))
    answer: dict[str, Any] = {"dice": float(metric.cc_aggregate()[0])}
    regions = compute_voronoi_regions_fast(truth, sampling=spacing)
    answer["dice_mm"] = []
    for number in [number for number in np.unique(regions).tolist() if number]:
        lesion, guess = (truth > 0) & (regions == number), (prediction > 0) & (regions == number)
        answer["dice_mm"].append(2 * float((lesion & guess).sum()) / float(lesion.sum() + guess.sum()))
    return answer


def by_hand(truth: np.ndarray, prediction: np.ndarray, spacing: list[float]) -> dict[str, Any]:
    masks = truth > 0, prediction > 0
    answer: dict[str, Any] = {
        "metastases": lesionwise(*masks, spacing, dilation=1, smallest=2.0),
        "glioma": lesionwise(*masks, spacing, dilation=3, smallest=50.0),
        "cc_dice": cc_dice(truth, masks[1], spacing),
    }
    if masks[0].any() and masks[1].any():
        answer |= {"hd95": hd95(*masks, spacing), "nsd": nsd(*masks, spacing, TOLERANCE_MM)}
    return answer


def detection_map(case: Case) -> np.ndarray:
    return np.concatenate([[0.0], case["scores"]])[case["prediction"]]


def ask_picai_case(case: Case) -> dict[str, Any]:
    """Matches at IoU ≥ .1; predictions that are not matched are false positives."""
    found, *_ = evaluate_case(
        detection_map(case), (case["truth"] > 0).astype(np.int32), allow_unmatched_candidates_with_minimal_overlap=False
    )
    return {
        "overlaps": sorted(overlap for lesion, _, overlap in found if lesion and overlap > 0),
        "missed": sum(1 for lesion, score, _ in found if lesion and score == 0),
        "false_positives": sum(1 for lesion, *_ in found if not lesion),
    }


def ask_picai_set(cases: list[Case]) -> dict[str, Any]:
    metrics = evaluate(
        [detection_map(case) for case in cases],
        [(case["truth"] > 0).astype(np.int32) for case in cases],
        allow_unmatched_candidates_with_minimal_overlap=False,
        num_parallel_calls=1,
    )
    return {
        "ap": float(metrics.AP),
        "precision": metrics.precision.tolist(),
        "recall": metrics.recall.tolist(),
        "fp_per_scan": metrics.lesion_FPR.tolist(),
        "froc_recall": metrics.lesion_TPR.tolist(),
    }


def ask_monai_froc(cases: list[Case]) -> dict[str, list[float]]:
    """Hits by the voxel in the middle of each prediction's bounding box."""
    false, true, targets = [], [], 0
    for case in cases:
        number = len(case["scores"])
        points = [np.argwhere(case["prediction"] == index + 1) for index in range(number)]
        middles = [(point.min(axis=0) + point.max(axis=0) + 1) // 2 for point in points]
        coordinates = np.array(middles, np.int64).reshape(-1, 3)
        fp, tp, count = compute_fp_tp_probs_nd(case["scores"], coordinates, case["truth"].astype(np.int64))
        false.append(np.asarray(fp, np.float32))
        true.append(np.asarray(tp, np.float32))
        targets += count
    scans, recall = compute_froc_curve_data(np.concatenate(false), np.concatenate(true), targets, len(cases))
    return {"fp_per_scan": scans.tolist(), "recall": recall.tolist()}


def boxes_of(volume: np.ndarray, ids: list[int]) -> np.ndarray:
    points = [np.argwhere(volume == number) for number in ids]
    corners = [np.concatenate([point.min(axis=0), point.max(axis=0) + 1]) for point in points]
    return np.array(corners, np.float64).reshape(-1, 6)


def ask_monai_coco(cases: list[Case], max_detections: int) -> dict[str, float]:
    classes = max(case["classes"] for case in cases)
    metric = COCOMetric(
        [f"class {index}" for index in range(classes)],
        iou_list=(0.1, 0.5),
        iou_range=(0.1, 0.5, 0.05),
        max_detection=(max_detections,),
        verbose=False,
    )
    ids = {side: [np.unique(case[side][case[side] > 0]).tolist() for case in cases] for side in ("truth", "prediction")}
    corners = {side: [boxes_of(case[side], own) for case, own in zip(cases, ids[side], strict=True)] for side in ids}
    labels = {
        side: [case[f"{side}_classes"][np.array(own, int) - 1] for case, own in zip(cases, ids[side], strict=True)]
        for side in ids
    }
    matched = matching_batch(
        box_iou,
        metric.iou_thresholds,
        corners["prediction"],
        labels["prediction"],
        [case["scores"] for case in cases],
        corners["truth"],
        labels["truth"],
        max_detections=max_detections,
    )
    answer, _ = metric(matched)
    return {key: value for key, value in answer.items() if "AP_IoU_0.10_M" in key or "AP_IoU_0.50" in key}


def plain(value: Any) -> Any:
    """For JSON, which has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else str(value)
    return value


def as_text(answers: dict[str, Any]) -> str:
    """JSON with a line per case, so that a change shows where it is."""
    parts = []
    for key, value in answers.items():
        if isinstance(value, dict) and key != "versions":
            rows = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            parts.append(f"{json.dumps(key)}: {{\n  {rows}\n }}")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}"


def main() -> None:
    """Ask all, write the file."""
    cases = read_cases()
    answers: dict[str, Any] = {
        "versions": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        "tolerance_mm": TOLERANCE_MM,
        "cases": {},
        "sets": {},
        "box_sets": {},
    }
    for name, case in cases.items():
        spacing = case["spacing"]
        answer: dict[str, Any] = {"classes": []}
        for index in range(case["classes"]):
            truth, prediction = of_class(case, "truth", index), of_class(case, "prediction", index)
            entry = {
                "monai": monai_masks(truth, prediction, spacing),
                "monai_panoptic": monai_panoptic(truth, prediction),
                "panoptica": ask_panoptica(truth, prediction),
                "by_hand": by_hand(truth, prediction, spacing),
            }
            if truth.any() and prediction.any():
                entry["surface_distance"] = surface_distance_masks(truth, prediction, spacing)
            entry["cc_metrics"] = ask_cc_metrics(truth, prediction, spacing)
            answer["classes"].append(entry)
        if name in FOR_PICAI:
            answer["picai_eval"] = ask_picai_case(case)
        answers["cases"][name] = answer
        print(name, flush=True)
    for name, members in SETS.items():
        chosen = [cases[member] for member in members]
        answers["sets"][name] = {
            "cases": members,
            "picai_eval": ask_picai_set(chosen),
            "monai_froc": ask_monai_froc(chosen),
        }
    for name, members in BOX_SETS.items():
        chosen = [cases[member] for member in members]
        answers["box_sets"][name] = {
            "cases": members,
            "monai_coco": ask_monai_coco(chosen, 1000),
            "monai_coco_of_100": ask_monai_coco(chosen, 100),
        }
    text = as_text(plain(answers))
    (FOLDER / "answers.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
