"""The figures of an evaluation as Markdown tables, for the terminal and for notes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.remarks import (
    HD95_PENALTY,
    different_scans,
    few_scans_for_froc,
    interval_note,
    left_out,
    measured,
    too_few,
)
from detseg3d.evaluation.scores.froc import FROC_RATES

__all__ = ["FIGURES", "format_evaluation", "markdown_table"]

FIGURES = {
    "f1_iou_0.1": "lesion F1 at IoU ≥ 0.1",
    "recall_iou_0.1": "lesion recall at IoU ≥ 0.1",
    "precision_iou_0.1": "lesion precision at IoU ≥ 0.1",
    "fp_per_scan_iou_0.1": "false positives per scan at IoU ≥ 0.1",
    "f1_any": "lesion F1 at any overlap",
    "recall_any": "lesion recall at any overlap",
    "precision_any": "lesion precision at any overlap",
    "fp_per_scan_any": "false positives per scan at any overlap",
    "f1_iou_0.5": "lesion F1 at IoU ≥ 0.5",
    "pq": "panoptic quality",
    "ap_iou_0.1": "average precision at IoU ≥ 0.1",
    "ap_iou_0.5": "average precision at IoU ≥ 0.5",
    "cpm_iou_0.1": "mean recall at 1/8 to 8 FP per scan (CPM) at IoU ≥ 0.1",
    "cpm_any": "CPM at any overlap",
    "dice": "Dice",
    "dice_with_lesions": "Dice (cases with lesions)",
    "nsd": "surface Dice (NSD)",
    "nsd_with_lesions": "surface Dice (cases with lesions)",
    "hd95_mm": "HD95 (mm)",
    "hd95_mm_with_lesions": "HD95 (mm, cases with lesions)",
    "assd_mm": "average surface distance (ASSD, mm)",
    "nsd_area": "surface Dice, weighted by area",
    "hd95_area_mm": "HD95, weighted by area (mm)",
    "lesionwise_dice": "lesion-wise Dice (BraTS)",
    "cc_dice": "CC-Dice",
}
"""The figures that are shown with intervals, in this order, and what they are called."""

_NEEDS = {
    **dict.fromkeys(("recall_iou_0.1", "recall_any", "ap_iou_0.1", "ap_iou_0.5", "cpm_iou_0.1", "cpm_any"), "truth"),
    **dict.fromkeys(("precision_iou_0.1", "precision_any"), "predictions"),
    **dict.fromkeys(("f1_iou_0.1", "f1_any", "f1_iou_0.5", "pq", "dice"), "either"),
}
"""What a figure is of; without it the definitions give 0 or 1, which a reader would take for a measurement."""

_HEADLINE = (
    "",
    "cases",
    "lesions",
    "F1 at IoU ≥ 0.1",
    "recall",
    "precision",
    "FP per scan",
    "F1 at any overlap",
    "F1 at IoU ≥ 0.5",
    "PQ",
    "Dice (of scans)",
    "Dice, scans with lesions (of scans)",
)
_BY_SIZE = (
    "size",
    "lesions",
    "found at IoU ≥ 0.1",
    "recall at IoU ≥ 0.1",
    "recall at any overlap",
    "recall at IoU ≥ 0.5",
    "Dice",
)


def format_evaluation(result: Mapping[str, Any]) -> str:
    """What an evaluation found, for people to read.

    Parameters
    ----------
    result : dict
        From :func:`~detseg3d.evaluation.folders.evaluate_folders` or
        :func:`~detseg3d.evaluation.folders.evaluate_systems`.

    Returns
    -------
    str
        Markdown.
    """
    if "systems" not in result:
        parts = [*_one_system(result), _intervals({"value": result}, [])]
        return "\n\n".join(part for part in [*parts, _problems(result["problems"])] if part)
    differ = different_scans(result["systems"])
    parts = [differ and f"**Warning.** {differ}", _intervals(result["systems"], result["comparisons"])]
    for name, part in result["systems"].items():
        parts += [f"## {name}", *_one_system(part), _problems(part["problems"])]
    return "\n\n".join(part for part in parts if part)


def _one_system(result: Mapping[str, Any]) -> list[str]:
    summary = result["summary"]
    classes = summary["classes"] if len(summary["classes"]) > 1 else {}
    rows = [_headline(*entry) for entry in {"all": summary, **classes}.items()]
    if classes:
        rows.append(_class_mean(summary["class_mean"]))
    return [
        "### Lesions and voxels\n\n" + markdown_table(_HEADLINE, rows),
        "Recall, precision and false positives are at IoU ≥ 0.1, too: lesions and predictions are matched one to one.\n"
        "At any overlap, a larger mask finds more lesions, however badly it outlines them. Lesion figures are pooled\n"
        "over cases; Dice is the mean over the scans whose number stands in brackets."
        + (
            " In the row of a class these are\nthe scans that have it in the truth or in the prediction."
            if classes
            else ""
        ),
        _empty_cases(summary),
        _by_size(summary["recall_by_size"]),
        _froc(summary.get("scores") if measured(summary, "truth") else None, summary["cases"]),
        _preset(summary.get("preset")),
    ]


def _preset(preset: Mapping[str, Any] | None) -> str:
    """The figures of a challenge under its own rules, a column for each class."""
    if preset is None or not preset["classes"]:
        return ""
    columns = list(preset["classes"].values())
    rows = [
        (first["title"], f"`{first['key']}`", *(_share(column[place]["value"]) for column in columns))
        for place, first in enumerate(columns[0])
    ]
    table = markdown_table(("figure", "its name there", *preset["classes"]), rows)
    return f"### Preset {preset['name']}\n\n{table}"


def _intervals(systems: Mapping[str, Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Every headline figure of each system, and the differences of each pair, with their intervals."""
    names = [name for name in FIGURES if any(name in part.get("intervals", {}) for part in systems.values())]
    if not names:
        return ""
    header = [
        "figure",
        *([] if len(systems) > 1 else ["scans"]),
        *systems,
        *(f"{pair['second']} − {pair['first']}" for pair in comparisons),
    ]
    rows = _sizes(systems, comparisons) if len(systems) > 1 else []
    for name in names:
        row = [FIGURES[name]]
        row += [] if len(systems) > 1 else [_scans(part["intervals"].get(name)) for part in systems.values()]
        row += [
            _with_interval(part["intervals"].get(name), "value")
            if measured(part["summary"], _NEEDS.get(name, ""))
            else "–"
            for part in systems.values()
        ]
        row += [_with_interval(pair["figures"].get(name), "difference", "+") for pair in comparisons]
        rows.append(row)
    text = "### Figures with 95 % intervals\n\n" + markdown_table(header, rows)
    notes = []
    if any(entry["low"] is not None for part in systems.values() for entry in part["intervals"].values()):
        patients = {name: part.get("patients") for name, part in systems.items()}
        intervals = [part["intervals"] for part in systems.values()]
        few = too_few(intervals)
        notes = [part for part in (interval_note(patients), left_out(intervals), few and f"**{few}**") if part]
    if comparisons:
        notes.append("Differences are paired: both systems on the same cases,\nresampled alike.")
    if "hd95_mm" in names:
        notes.append(HD95_PENALTY)
    return "\n\n".join(part for part in (text, "\n".join(notes)) if part)


def _sizes(systems: Mapping[str, Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What the figures of each system are of; a single system has it in the table of its classes."""
    summaries = [part["summary"] for part in systems.values()]
    scans = [str(summary["cases"]) for summary in summaries]
    lesions = [str(summary["lesions"]["any"]["truth"]) for summary in summaries]
    return [
        ["scans", *scans, *(f"{pair['cases']} in both" for pair in comparisons)],
        ["true lesions", *lesions, *("–" for _ in comparisons)],
    ]


def _scans(entry: Mapping[str, Any] | None) -> str:
    """How many scans a figure is of."""
    return "–" if entry is None else str(entry["scans"])


def _with_interval(entry: Mapping[str, Any] | None, key: str, sign: str = "") -> str:
    if entry is None or entry[key] is None:
        return "–"
    text = f"{entry[key]:{sign}.3f}"
    return text if entry["low"] is None else f"{text} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"


def _froc(scores: Mapping[str, Any] | None, scans: int) -> str:
    """Recall at the usual numbers of false positives per scan, with the score that gives it."""
    if scores is None:
        return ""
    rates = [f"{row['fp_per_scan']:g}" for row in scores["any"]["froc"]]
    rows = []
    for criterion, name in (("iou_0.1", "IoU ≥ 0.1"), ("any", "any overlap"), ("iou_0.5", "IoU ≥ 0.5")):
        part = scores[criterion]
        recall = [_share(row["recall"]) for row in part["froc"]]
        rows.append((f"recall, {name}", *recall, _share(part["cpm"]), _share(part["average_precision"])))
        rows.append((f"score from, {name}", *(_share(row["threshold"]) for row in part["froc"]), "–", "–"))
    table = markdown_table(("", *rates, "CPM", "AP"), rows)
    few = few_scans_for_froc(scans, FROC_RATES)
    return f"### FROC: recall by false positives per scan\n\n{table}" + (f"\n\n{few}" if few else "")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also aligned to be read as it stands.

    Examples
    --------
    >>> print(markdown_table(("size", "recall"), [("small", "0.5"), ("x", "1")]))
    | size  | recall |
    | ----- | -----: |
    | small |    0.5 |
    | x     |      1 |
    """
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in escaped)) for column in range(len(header))]
    numeric = [
        bool(rows) and column > 0 and all(_is_number(row[column]) for row in rows) for column in range(len(header))
    ]
    lines = []
    for row in escaped:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text == "–" or text.replace(".", "", 1).isdigit()


def _problems(problems: Sequence[dict[str, str]]) -> str:
    """A list by reason: the same reason is most often that of many cases."""
    if not problems:
        return ""
    cases: dict[str, list[str]] = {}
    for problem in problems:
        cases.setdefault(" ".join(problem["problem"].split()), []).append(problem["case"])
    lines = [f"- {reason}: {', '.join(names)}" for reason, names in cases.items()]
    wrapped = [textwrap.fill(line, 118, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    return f"### Not evaluated: {len(problems)}\n\n" + "\n".join(wrapped)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _headline(name: str, group: dict[str, Any]) -> tuple[str, ...]:
    lesions, dice = group["lesions"], group["dice"]
    matched = lesions[HEADLINE]
    per_scan = group["false_positives"][HEADLINE]["per_scan"]
    figures = {
        "f1_iou_0.1": matched["f1"],
        "recall_iou_0.1": matched["recall"],
        "precision_iou_0.1": matched["precision"],
        "f1_any": lesions["any"]["f1"],
        "f1_iou_0.5": lesions["iou_0.5"]["f1"],
        "pq": group["panoptic"]["pq"],
        "dice": dice["mean"],
    }
    known = {key: value if measured(group, _NEEDS[key]) else None for key, value in figures.items()}
    mean_dice = known.pop("dice")
    f1, recall, precision, *others = map(_share, known.values())
    return (
        name,
        str(group["false_positives"]["scans"]),
        str(matched["truth"]),
        *(f1, recall, precision),
        "–" if per_scan is None else f"{per_scan:.2f}",
        *others,
        _of_scans(mean_dice, dice["cases"]),
        _of_scans(dice["mean_with_lesions"], dice["cases_with_lesions"]),
    )


def _class_mean(means: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of the means over the classes that the truth has."""
    f1, any_overlap, half = (_share(means[f"f1_{name}"]) for name in ("iou_0.1", "any", "iou_0.5"))
    count = means["classes"]
    name = f"mean of {count} class{'' if count == 1 else 'es'}"
    dice = _share(means["dice"]), _share(means["dice_with_lesions"])
    return name, "–", "–", f1, "–", "–", "–", any_overlap, half, _share(means["pq"]), *dice


def _of_scans(value: float | None, scans: int) -> str:
    return "–" if value is None else f"{value:.3f} ({scans})"


def _empty_cases(summary: dict[str, Any]) -> str:
    free = summary["false_positives"]["lesion_free"]
    if not free["scans"]:
        return ""
    return (
        f"Scans without lesions: {free['scans']}, with {free[HEADLINE]['per_scan']:.2f} false positives per scan; "
        f"{free['scans_without_false_positives']} of them\nhave none (their Dice is 1 by definition)."
    )


def _by_size(tables: dict[str, list[dict[str, Any]]]) -> str:
    rows: list[tuple[str, ...]] = []
    for kind in ("voxels", "mm3", "quantile"):
        for row in tables[kind]:
            if row["lesions"]:
                prefix = "quantile: " if kind == "quantile" else ""
                figures = (row[key] for key in ("recall_iou_0.1", "recall_any", "recall_iou_0.5", "dice"))
                found = str(row[f"found_{HEADLINE}"])
                rows.append((prefix + row["bin"], str(row["lesions"]), found, *map(_share, figures)))
    return "### Recall by size of the true lesion\n\n" + markdown_table(_BY_SIZE, rows) if rows else ""
