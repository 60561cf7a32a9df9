"""What the cross-validation decided, for the report: operating point, calibration, and where lesions are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.thresholds import THRESHOLD_FIELDS
from detseg3d.reporting.html.charts import Line, legend, line_chart, share_axis
from detseg3d.reporting.html.markup import DASH, Html, dig, fragment, number, tag
from detseg3d.reporting.html.tables import scrolling

__all__ = ["calibration_section", "figures_by_origin", "operating_point_section", "stage_section"]

_FIGURES = (
    ("f1_iou_0_1", "F1", 3),
    ("recall_iou_0_1", "recall", 3),
    ("precision_iou_0_1", "precision", 3),
    ("fp_per_scan_iou_0_1", "false positives per scan", 2),
    ("dice", "Dice", 3),
    ("found_iou_0_1", "lesions found", 0),
    ("predictions", "predictions", 0),
    ("f1_any", "F1, any overlap", 3),
)


def figures_by_origin(consolidation: Mapping[str, Any]) -> Html:
    """What a reader must know first: on which scans the thresholds were chosen, and what that changes."""
    point = consolidation["operating_point"]
    origin = ThresholdOrigin(point["predicted_at_thresholds_of"])
    return fragment(
        tag("p", origin.remark, class_=None if origin.is_honest else "warn"),
        _figure_table(point),
    )


def operating_point_section(consolidation: Mapping[str, Any]) -> Html:
    """The thresholds that were chosen, and what they are worth on scans that had no say in the choice."""
    point = consolidation["operating_point"]
    folds = len(consolidation.get("folds") or ())
    scans, tried = number(consolidation.get("cases"), 0), number(point.get("settings_tried"), 0)
    text = (
        f"Chosen for: {point.get('objective', DASH)}. {tried} settings were tried on the validation cases of "
        f"{folds} fold{'' if folds == 1 else 's'} ({scans} scans). Other thresholds than the plan's are chosen only if "
        "they gain more than noise: in 95 % of resampled patients, also on scans that had no say in the choice."
    )
    remarks = [tag("p", remark, class_="warn") for remark in _remarks(consolidation)]
    return fragment(tag("p", text), remarks, _figure_table(point), _threshold_table(point))


def _remarks(consolidation: Mapping[str, Any]) -> list[str]:
    """What nobody may overlook; nothing most of the time."""
    point = consolidation["operating_point"]
    thresholds = point["thresholds"]
    remarks = []
    if point.get("target_reached") is False:
        remarks.append("The target was not reached by any threshold; the nearest was chosen.")
    smallest = thresholds.get("minimum_volume_mm3")
    if smallest:
        text = f"Predicted lesions under {number(smallest, 1)} mm³ are left out"
        if point.get("f1_without_minimum") is not None:
            f1 = dig(point, "figures", "chosen_on_the_same_scans", "f1_iou_0_1")
            text += f" (F1 {number(f1, 3)}, without this rule {number(point['f1_without_minimum'], 3)})"
        if point.get("true_lesions_below_minimum") is not None:
            small, all_ = (number(point.get(key), 0) for key in ("true_lesions_below_minimum", "true_lesions"))
            text += f". {small} of {all_} true lesions are as small"
        remarks.append(text + ".")
    if thresholds.get("scan_threshold"):
        scans = point.get("scans") or {}
        clean, without, missed, with_lesions = (
            number(scans.get(key), 0) for key in ("clean", "without_lesions", "missed", "with_lesions")
        )
        remarks.append(
            f"A scan without a lesion of score {number(thresholds['scan_threshold'], 3)} or more is reported without "
            f"any: {clean} of {without} scans without lesions, and {missed} of {with_lesions} with."
        )
    failures = consolidation.get("failures") or {}
    if failures:
        remarks.append(f"These cases failed: {', '.join(sorted(failures))}.")
    return remarks


def _figure_table(point: Mapping[str, Any]) -> Html:
    """Cross-fitted figures first; those that were chosen on the same scans last."""
    header = [tag("th", "thresholds (IoU ≥ 0.1)", scope="col")]
    header += [tag("th", title, scope="col", class_="number") for _, title, _ in _FIGURES]
    body = []
    for key, name in (
        ("cross_fitted", "cross-fitted: each fold by the choice of the others"),
        ("plan", "of the plan"),
        ("chosen_on_the_same_scans", "chosen and judged on the same scans"),
    ):
        figures = dig(point, "figures", key)
        cells = [tag("td", number(dig(figures, name), digits), class_="number") for name, _, digits in _FIGURES]
        body.append(tag("tr", tag("th", name, scope="row"), cells))
    return scrolling(
        tag("table", tag("thead", tag("tr", header)), tag("tbody", body)), "figures at the operating point"
    )


def _threshold_table(point: Mapping[str, Any]) -> Html:
    header = ("threshold", "plan", "chosen")
    columns = [tag("th", text, scope="col", class_="number" if n else None) for n, text in enumerate(header)]
    rows = []
    for field in THRESHOLD_FIELDS:
        before, after = dig(point, "thresholds_of_the_plan", field.name), dig(point, "thresholds", field.name)
        changed = before is not None and before != after
        cells = (
            tag("td", number(before, 3), class_="number"),
            tag("td", number(after, 3), class_="number strong" if changed else "number"),
        )
        rows.append(tag("tr", tag("th", field.label_with_unit, scope="row"), cells))
    return scrolling(tag("table", tag("thead", tag("tr", columns)), tag("tbody", rows)), "thresholds")


# -- Calibration -------------------------------------------------------------------------------------------------------


def calibration_section(calibration: Mapping[str, Any], folds: int) -> Html:
    """A reliability diagram: the observed share of lesions against the score, before and after calibration."""
    judged = (
        "Each fold was calibrated by what the other folds showed" if folds > 1 else "Shown on what it was fitted on"
    )
    lines, names = [], []
    for style, (key, name) in enumerate((("before", "raw score"), ("after", "calibrated score"))):
        rows = [row for row in dig(calibration, key, "bins") or () if row.get("count")]
        lines.append(_reliability(name, rows, style))
        names.append((style, f"{name}, calibration error {number(dig(calibration, key, 'ece'), 3)}"))
    chart = line_chart(
        lines,
        share_axis("score"),
        share_axis("share that are lesions"),
        "Reliability: observed share of lesions against the score, before and after calibration",
        diagonal=True,
    )
    return fragment(
        tag(
            "p",
            "Of the predictions with a score of 0.8, four in five should be lesions: a calibrated score lies on the "
            f"diagonal. {judged}. Calibration error: mean distance from the diagonal, weighted by the number of "
            "predictions.",
        ),
        tag("div", tag("figure", legend(names), chart), _bin_table(calibration), class_="charts beside"),
    )


def _reliability(name: str, rows: Sequence[Mapping[str, Any]], style: int) -> Line:
    points = tuple((float(row["mean_score"]), float(row["observed"])) for row in rows)
    marks = tuple(
        (
            score,
            share,
            f"{name}: {row['count']} predictions with a mean score of {number(score)}; {number(share)} are lesions",
        )
        for (score, share), row in zip(points, rows, strict=True)
    )
    return Line(name, points, style, marks)


def _bin_table(calibration: Mapping[str, Any]) -> Html:
    before, after = (dig(calibration, key, "bins") or [] for key in ("before", "after"))
    header = [tag("th", "score", scope="col")]
    for name in ("raw", "calibrated"):
        header += [
            tag("th", f"{name}: predictions", scope="col", class_="number"),
            tag("th", "of these lesions", scope="col", class_="number"),
        ]
    rows = []
    for left, right in zip(before, after, strict=True):
        cells = [
            cell
            for row in (left, right)
            for cell in (
                tag("td", number(row["count"], 0), class_="number"),
                tag("td", number(row["observed"]), class_="number"),
            )
        ]
        label = f"{number(left['from'], 1)} to {number(left['to'], 1)}"
        rows.append(tag("tr", tag("th", label, scope="row"), cells))
    return scrolling(tag("table", tag("thead", tag("tr", header)), tag("tbody", rows)), "reliability by score")


# -- Stages ------------------------------------------------------------------------------------------------------------


def stage_section(attribution: Mapping[str, Any]) -> Html:
    """Which lesions each stage still had, in all and by size, and Dice of Stage 2 in the true boxes."""
    bins = [row for row in attribution["by_size"] if row["lesions"]]
    header = [tag("th", "after", scope="col"), tag("th", "all", scope="col", class_="number")]
    header += [tag("th", row["bin"], scope="col", class_="number") for row in bins]
    rows = []
    for stage in attribution["stages"]:
        name = stage["stage"]
        cells = [_share_cell(stage["recall"], strong=True)]
        cells += [_share_cell(dig(row, "stages", name)) for row in bins]
        rows.append(tag("tr", tag("th", name, scope="row"), cells))
    counts = [tag("td", number(sum(row["lesions"] for row in bins), 0), class_="number")]
    counts += [tag("td", number(row["lesions"], 0), class_="number") for row in bins]
    rows.append(tag("tr", tag("th", "true lesions", scope="row"), counts, class_="rule"))
    outlines = attribution.get("stage2_true_boxes") or {}
    dice = {row["bin"]: row["dice"] for row in outlines.get("by_size") or ()}
    cells = [_share_cell(outlines.get("mean"), strong=True), *(_share_cell(dice.get(row["bin"])) for row in bins)]
    rows.append(tag("tr", tag("th", "Dice of Stage 2, given the true boxes", scope="row"), cells))
    table = tag("table", tag("thead", tag("tr", header)), tag("tbody", rows), class_="stages")
    return fragment(
        tag(
            "p",
            "Recall after each stage, from top to bottom. A lesion that is lost in one row does not come back in the "
            "next, but the mask of a neighbour may reach it at last. The first row is what a perfect Stage 1 would "
            "find of these lesions; the last row tells how well lesions are outlined once they are found.",
        ),
        scrolling(table, "recall after each stage by lesion size"),
    )


def _share_cell(value: float | None, strong: bool = False) -> Html:
    """A share with a bar behind it that has its length."""
    style = None if value is None else f"--share:{min(max(value, 0.0), 1.0):.3f}"
    return tag("td", number(value), class_="number share strong" if strong else "number share", style=style)
