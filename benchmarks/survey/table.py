"""Write the survey as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from benchmarks.survey.model import Rule
from benchmarks.survey.rules import PlannedKind, Violation, nnunet_spacing
from detseg3d.planning.recall_bound import case_lesions

__all__ = ["Row", "explain_rules", "make_row", "write_table"]

Row = tuple[str, ...]

HEADER: Row = (
    "Kind",
    "scans",
    "lesions, most in a scan",
    "median spacing, mm",
    "planned volume",
    "nnU-Net's spacing",
    "detection spacing",
    "cells of the heads",
    "p5 lesion, cells",
    "bound",
    "RoI",
    "GB to train, to predict",
    "candidates",
    "rules broken",
)


def make_row(planned: PlannedKind, violations: Iterable[Violation]) -> Row:
    """Return the row of one kind, in the order of the columns."""
    plans, cases = planned.plans, planned.fingerprint.scans
    counts = [len(case.lesions) for case in cases]
    fine = np.array(plans.fine_spacing)
    cells = np.array(plans.cell_sizes()) * fine
    extents = planned.fingerprint.lesion_extents
    smallest = f"{np.percentile((extents / cells[0]).max(axis=1), 5):.1f}" if len(extents) else "–"
    broken = [
        f"({violation.rule.name.lower()})" if planned.kind.is_exempt(violation.rule) else violation.rule.name.lower()
        for violation in violations
    ]
    return (
        planned.kind.name,
        str(len(cases)),
        f"{sum(counts)}, {max(counts)}",
        _times(np.median([case.spacing for case in cases], axis=0)),
        "×".join(map(str, plans.planned_shape)),
        _times(nnunet_spacing(planned.fingerprint)),
        _times(plans.detection_spacing),
        ", ".join(_times(cell) for cell in cells),
        smallest,
        f"{plans.recall_bound.bound:.3f}" if len(extents) else "–",
        "×".join(map(str, plans.roi.size)),
        f"{plans.predicted_training_gb:.1f}, {plans.predicted_inference_gb:.1f}",
        str(max(plans.inference.candidate_limit(case_lesions(case).volume) for case in cases)),
        ", ".join(dict.fromkeys(broken)) or "–",
    )


def write_table(rows: Sequence[tuple[str, Row]]) -> str:
    """Return tables in Markdown, one for each group of ``(group, row)``, in their order."""
    parts = []
    for group, entries in groupby(rows, key=lambda entry: entry[0]):
        lines = [f"### {group[0].upper()}{group[1:]}", "", _line(HEADER), _line(["---"] * len(HEADER))]
        lines += [_line(row) for _, row in entries]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def explain_rules() -> str:
    """Return the rules as a list in Markdown."""
    return "\n".join(f"- **{rule.name.lower()}**: {rule.value}" for rule in Rule) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _times(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    return "×".join(f"{value:.3g}" for value in values)
