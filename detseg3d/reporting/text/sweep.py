"""Write the result of a sweep over the settings of probability maps as a Markdown table."""

from __future__ import annotations

from detseg3d.evaluation.probabilities.components import ComponentRule
from detseg3d.evaluation.probabilities.sweep import SweepMetrics, SweepObjective, SweepResult
from detseg3d.reporting.text.markdown import DASH, format_value, markdown_table

__all__ = ["format_sweep"]

_SHOWN = (
    SweepObjective.AP_IOU_01,
    SweepObjective.AP_IOU_05,
    SweepObjective.F1_IOU_01,
    SweepObjective.F1_ANY,
    SweepObjective.F1_IOU_05,
)


def format_sweep(result: SweepResult) -> str:
    """Return the result of a sweep as a Markdown table, and a note that the choice is optimistic."""
    rows = [
        _row("default", result.default.rule, result.default.metrics),
        _row("chosen on these cases", result.chosen.rule, result.chosen.metrics),
    ]
    if result.cross_fitted is not None:
        rows.append(_row("cross-fitted", None, result.cross_fitted.metrics))
    names = [f"{'AP' if entry.is_average_precision else 'F1'} at {entry.criterion.label}" for entry in _SHOWN]
    table = markdown_table(("setting", "threshold", "minimum mm³", "score", *names, "FP per scan at IoU ≥ 0.1"), rows)
    text = (
        f"Chosen among {len(result.rows)} settings on {result.cases} cases for the highest {result.objective}. This "
        "is\noptimistic, because the choice was made on the same cases. "
    )
    if result.cross_fitted is None:
        text += "A single patient does not allow an unbiased estimate."
    else:
        text += "Cross-fitted: each group of cases is evaluated\nwith the setting that was chosen on the other groups."
    return f"### Components of probability maps\n\n{table}\n\n{text}"


def _row(name: str, rule: ComponentRule | None, metrics: SweepMetrics) -> tuple[str, ...]:
    setting = (DASH, DASH, DASH)
    if rule is not None:
        setting = (f"{rule.threshold:g}", f"{rule.minimum_volume_mm3:g}", rule.score)
    values = (format_value(metrics.objectives[objective]) for objective in _SHOWN)
    return (name, *setting, *values, format_value(metrics.fp_per_scan))
