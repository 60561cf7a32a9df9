"""The figures of an evaluation as Markdown tables, for the terminal and for notes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

__all__ = ["format_evaluation", "markdown_table"]

_HEADLINE = (
    "",
    "cases",
    "lesions",
    "Dice",
    "Dice (cases with lesions)",
    "recall",
    "precision",
    "F1",
    "F1 at IoU ≥ 0.1",
    "F1 at IoU ≥ 0.5",
    "PQ",
    "FP per scan",
)
_BY_SIZE = ("size", "lesions", "found", "recall", "recall at IoU ≥ 0.1", "recall at IoU ≥ 0.5", "Dice")


def format_evaluation(result: dict[str, Any]) -> str:
    """What :func:`~detseg3d.evaluation.evaluate.evaluate_folders` returned, for people to read.

    Parameters
    ----------
    result : dict

    Returns
    -------
    str
        Markdown.
    """
    summary = result["summary"]
    groups = {"all": summary, **(summary["classes"] if len(summary["classes"]) > 1 else {})}
    parts = [
        "### Lesions and voxels\n\n" + markdown_table(_HEADLINE, [_headline(*entry) for entry in groups.items()]),
        "Dice is the mean over cases, the lesion figures are pooled over cases. Recall, precision and F1 count a\n"
        "lesion as found at any overlap; the two IoU columns match lesions one to one.",
        _empty_cases(summary),
        _by_size(summary["recall_by_size"]),
    ]
    if result["problems"]:
        parts.append(_problems(result["problems"]))
    return "\n\n".join(part for part in parts if part)


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
    cases: dict[str, list[str]] = {}
    for problem in problems:
        cases.setdefault(" ".join(problem["problem"].split()), []).append(problem["case"])
    lines = [f"- {reason}: {', '.join(names)}" for reason, names in cases.items()]
    wrapped = [textwrap.fill(line, 118, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    return f"### Not evaluated: {len(problems)}\n\n" + "\n".join(wrapped)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _headline(name: str, group: dict[str, Any]) -> tuple[str, ...]:
    lesions = group["lesions"]
    any_overlap = lesions["any"]
    per_scan = group["false_positives"]["per_scan"]
    return (
        name,
        str(group["false_positives"]["scans"]),
        str(any_overlap["truth"]),
        _share(group["dice"]["mean"]),
        _share(group["dice"]["mean_with_lesions"]),
        *(_share(any_overlap[figure]) for figure in ("recall", "precision", "f1")),
        _share(lesions["iou_0.1"]["f1"]),
        _share(lesions["iou_0.5"]["f1"]),
        _share(group["panoptic"]["pq"]),
        "–" if per_scan is None else f"{per_scan:.2f}",
    )


def _empty_cases(summary: dict[str, Any]) -> str:
    free = summary["false_positives"]["lesion_free"]
    if not free["scans"]:
        return ""
    return (
        f"Scans without lesions: {free['scans']}, with {free['per_scan']:.2f} false positives per scan; "
        f"{free['scans_without_false_positives']} of them\nhave none (their Dice is 1 by definition)."
    )


def _by_size(tables: dict[str, list[dict[str, Any]]]) -> str:
    rows: list[tuple[str, ...]] = []
    for kind in ("voxels", "mm3", "quantile"):
        for row in tables[kind]:
            if row["lesions"]:
                prefix = "quantile: " if kind == "quantile" else ""
                figures = (row[key] for key in ("recall", "recall_iou_0.1", "recall_iou_0.5", "dice"))
                rows.append((prefix + row["bin"], str(row["lesions"]), str(row["found"]), *map(_share, figures)))
    return "### Recall by size of the true lesion\n\n" + markdown_table(_BY_SIZE, rows) if rows else ""
