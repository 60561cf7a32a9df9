"""The cross-validation report: figures of the pooled predictions, and the consolidation in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detseg3d.evaluation.evaluate import evaluate_folders
from detseg3d.evaluation.table import markdown_table
from detseg3d.inference.consolidate import Consolidated
from detseg3d.io.files import write_json

__all__ = ["format_consolidation", "report_consolidation"]


def report_consolidation(
    done: Consolidated, raw: str | Path, num_processes: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Evaluate the pooled predictions and write ``metrics.json`` beside them.

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
    # Folds that were not pooled have no say: their cases are not missing.
    cases = sorted(path.stem for path in (done.predictions / "rois").glob("*.json"))
    result = evaluate_folders(
        Path(raw) / "labelsTr", done.predictions, cases=cases, num_processes=num_processes, progress=progress
    )
    write_json(result, done.predictions / "metrics.json")
    return result


def format_consolidation(report: Mapping[str, Any]) -> str:
    """Operating point, calibration and stages as Markdown.

    Parameters
    ----------
    report : dict
        ``report`` of :class:`~detseg3d.inference.consolidate.Consolidated`.
    """
    point, calibration = report["operating_point"], report["calibration"]
    figures = ("f1", "recall", "precision", "fp_per_scan", "dice")
    rows = [
        ("the plan's thresholds", *(_number(point["default"][name]) for name in figures)),
        ("chosen", *(_number(point[name]) for name in figures)),
        ("each fold by the choice of the others", *(_number(point["chosen_on_other_folds"][name]) for name in figures)),
    ]
    return "\n\n".join(
        [
            f"### Operating point: {point['objective']}",
            markdown_table(("thresholds", "F1", "recall", "precision", "FP per scan", "Dice"), rows),
            _thresholds(point),
            f"Calibration error of the score (10 bins): {calibration['before']['ece']:.3f} before, "
            f"{calibration['after']['ece']:.3f} after\n(each fold's scores calibrated by the other folds).",
            "### Where lesions are lost",
            _stages(report["attribution"]),
        ]
    )


def _thresholds(point: Mapping[str, Any]) -> str:
    names = {
        "score_threshold": "lowest score of a lesion (calibrated)",
        "det_threshold": "lowest Stage 1 score of a candidate",
        "suppression_distance": "suppression: distance in sizes",
        "suppression_iou": "suppression: IoU",
        "mask_threshold": "mask",
        "minimum_volume_mm3": "smallest lesion (mm³)",
    }
    rows = [(text, _number(point["default"][name]), _number(point[name])) for name, text in names.items()]
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
