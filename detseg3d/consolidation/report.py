"""The cross-validation report: figures of the pooled predictions, and the consolidation in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detseg3d.consolidation.consolidate import Consolidated
from detseg3d.evaluation.evaluate import evaluate_folders
from detseg3d.evaluation.output import write_evaluation
from detseg3d.evaluation.table import markdown_table
from detseg3d.io.raw_dataset import load_raw_dataset
from detseg3d.reporting.html.files import find_views
from detseg3d.reporting.html.report import write_report

__all__ = ["format_consolidation", "report_consolidation"]


def report_consolidation(
    done: Consolidated, raw: str | Path, num_processes: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Evaluate the pooled predictions and write the figures and ``report.html`` beside them.

    Parameters
    ----------
    done : Consolidated
    raw : path
        The raw data set.
    num_processes : int
    progress : bool

    Returns
    -------
    dict
        What :func:`~detseg3d.evaluation.evaluate.evaluate_folders` returned.
    """
    raw = Path(raw)
    dataset = load_raw_dataset(raw)
    # Cases of folds that were not pooled are not missing; a pooled case without masks is.
    cases = done.cases or sorted(path.stem for path in (done.predictions / "rois").glob("[!.]*.json"))
    result = evaluate_folders(
        raw,
        done.predictions,
        label_format=done.label_format,
        cases=cases,
        truth_files=dataset.label_files,
        num_processes=num_processes,
        progress=progress,
    )
    write_evaluation(result, done.predictions)
    views = find_views(
        {case.case_id: case.images[0] for case in dataset.cases},
        dataset.label_files,
        {"predictions": done.predictions},
        done.label_format.npy_spacing,
    )
    write_report(
        done.predictions / "report.html",
        result,
        consolidation=done.report,
        cases_view=views,
        title=f"{done.report['dataset']}: cross-validation",
    )
    return result


def format_consolidation(report: Mapping[str, Any]) -> str:
    """Operating point, calibration and stages as Markdown.

    Parameters
    ----------
    report : dict
        ``report`` of :class:`~detseg3d.consolidation.consolidate.Consolidated`.
    """
    point, calibration = report["operating_point"], report["calibration"]
    figures = ("f1", "recall", "precision", "fp_per_scan", "dice", "found", "predictions")
    rows = [
        ("the plan's thresholds", *(_number(point["default"].get(name)) for name in figures)),
        ("chosen", *(_number(point.get(name)) for name in figures)),
    ]
    several = len(report["folds"]) > 1
    if several:
        others = point["chosen_on_other_folds"]
        rows.append(("each fold by the choice of the others", *(_number(others.get(name)) for name in figures)))
    error = f"{calibration['before']['ece']:.3f} before, {calibration['after']['ece']:.3f} after"
    judged = "each fold's scores calibrated by the other folds" if several else "on the scores it was fitted on"
    parts = [
        f"### Operating point: {point['objective']}",
        _remarks(report),
        markdown_table(
            ("thresholds", "F1", "recall", "precision", "FP per scan", "Dice", "lesions found", "predictions"), rows
        ),
        _thresholds(point),
        f"Calibration error of the score (10 bins): {error}\n({judged}).",
        "### Where lesions are lost",
        _stages(report["attribution"]),
        "Up to the RoI score a lesion counts if a candidate is meant for it, in the final mask if it is touched, also\n"
        "by the mask of a neighbour.",
    ]
    return "\n\n".join(part for part in parts if part)


def _remarks(report: Mapping[str, Any]) -> str:
    """What must not be overlooked; nothing most of the time."""
    point = report["operating_point"]
    remarks = []
    if not point.get("target_reached", True):
        remarks.append("**The target was not reached** by any threshold; the nearest was chosen.")
    if point["minimum_volume_mm3"]:
        remarks.append(
            f"**Lesions under {point['minimum_volume_mm3']:g} mm³ are left out of every prediction**, since it pays: "
            f"F1 {_number(point['f1'])}, without it {_number(point['f1_without_minimum'])}. "
            f"{point['true_lesions_below_minimum']} of {point['true_lesions']} true lesions are as small."
        )
    if point.get("scan_threshold"):
        scans = point["scans"]
        remarks.append(
            f"**A scan without a lesion of score {_number(point['scan_threshold'])} or more is reported without any**: "
            f"{scans['clean']} of {scans['without_lesions']} scans without lesions, and {scans['missed']} of "
            f"{scans['with_lesions']} with."
        )
    if len(report["folds"]) < 2:
        remarks.append("One fold chose and judged: the figures of the choice are flattering.")
    if report.get("failures"):
        remarks.append(f"**Failed**, see above: {', '.join(sorted(report['failures']))}.")
    return "\n".join(remarks)


def _thresholds(point: Mapping[str, Any]) -> str:
    names = {
        "score_threshold": "lowest score of a lesion (calibrated)",
        "growth_threshold": "lowest score of what extends a lesion (calibrated)",
        "det_threshold": "lowest Stage 1 score of a candidate",
        "suppression_distance": "suppression: distance in sizes",
        "suppression_iou": "suppression: IoU",
        "mask_threshold": "mask",
        "minimum_volume_mm3": "smallest lesion (mm³)",
        "scan_threshold": "lowest score of a scan's best lesion (calibrated)",
    }
    rows = [(text, _number(point["default"].get(name)), _number(point.get(name))) for name, text in names.items()]
    return markdown_table(("threshold", "plan", "chosen"), rows)


def _stages(attribution: Mapping[str, Any]) -> str:
    bins = [row for row in attribution["by_size"] if row["lesions"]]
    header = ("stage", "recall", *(row["bin"] for row in bins))
    rows = [
        (stage["stage"], _number(stage["recall"]), *(_number(row["stages"].get(stage["stage"])) for row in bins))
        for stage in attribution["stages"]
    ]
    outlines = attribution["stage2_true_boxes"]
    dice = {row["bin"]: row["dice"] for row in outlines["by_size"]}
    rows.append(
        ("Dice of Stage 2 in true boxes", _number(outlines["mean"]), *(_number(dice.get(row["bin"])) for row in bins))
    )
    rows.append(("lesions", str(sum(row["lesions"] for row in bins)), *(str(row["lesions"]) for row in bins)))
    return markdown_table(header, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"
