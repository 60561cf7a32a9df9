"""The table: metrics of each condition, relative to the clean scans, with their mean and their worst value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.shift.judging import ScanResult
from benchmarks.shift.sizes import SizeRule
from detseg3d.evaluation.metrics import DetectionCounts
from detseg3d.evaluation.scores.calibration import expected_calibration_error
from detseg3d.evaluation.scores.froc import average_precision, froc_curve, recall_at_rates
from detseg3d.system.json_records import JsonRecord

__all__ = ["Row", "Table", "make_table"]

_RATE = 4.0


@dataclass(frozen=True)
class Row(JsonRecord):
    """Metrics of one condition, pooled over the lesions of all scans.

    Attributes
    ----------
    condition : str
    scans, lesions : int
    f1, recall, precision : float
        One-to-one matches with an IoU of 0.1 or more.
    dice : float
        Mean over the scans.
    fp : float
        False positives per scan.
    large, small : float or None
        Recall of large and of small lesions; ``None`` without such lesions.
    large_found, large_lesions : int
    ap, recall_at_4, ece : float or None
        Average precision, recall at 4 false positives per scan, and expected calibration error (any overlap) of all
        lesions with a score of 0.05 or more; ``None`` for masks without scores.
    f1_of_clean, ap_of_clean, dice_of_clean : float or None
        The metric divided by its value in the clean scans.
    """

    condition: str
    scans: int
    lesions: int
    f1: float
    recall: float
    precision: float
    dice: float
    fp: float
    large: float | None
    large_found: int
    large_lesions: int
    small: float | None
    ap: float | None
    recall_at_4: float | None
    ece: float | None
    f1_of_clean: float | None = None
    ap_of_clean: float | None = None
    dice_of_clean: float | None = None


def make_row(
    condition: str, results: Sequence[ScanResult], volumes: Mapping[str, Mapping[int, float]], rule: SizeRule
) -> Row:
    """Return the metrics of a condition.

    Parameters
    ----------
    condition : str
    results : sequence of ScanResult
    volumes : mapping of str to mapping of int to float
        Volume in mm³ of each lesion of each clean scan.
    rule : SizeRule
    """
    counts = sum((result.counts for result in results), DetectionCounts())
    sized = [(volumes[result.case_id][lesion.number], lesion.found) for result in results for lesion in result.lesions]
    large = [found for volume, found in sized if volume >= rule.large_mm3 * (1 - 1e-6)]
    small = [found for volume, found in sized if volume < rule.small_mm3 * (1 - 1e-6)]
    scored = [result.scores.scored_case(result.case_id) for result in results if result.scores is not None]
    touched = [result.scores_any for result in results if result.scores_any is not None]
    right = [score for scores in touched for score in scores.true_positive]
    wrong = [score for scores in touched for score in scores.false_positive]
    ece = expected_calibration_error(np.array(right + wrong), np.arange(len(right) + len(wrong)) < len(right))
    return Row(
        condition=condition,
        scans=len(results),
        lesions=counts.truth,
        f1=counts.f1,
        recall=counts.recall,
        precision=counts.precision,
        dice=float(np.mean([result.dice for result in results])),
        fp=counts.false_positives / len(results),
        large=float(np.mean(large)) if large else None,
        large_found=sum(large),
        large_lesions=len(large),
        small=float(np.mean(small)) if small else None,
        ap=average_precision(scored) if scored else None,
        recall_at_4=recall_at_rates(froc_curve(scored), (_RATE,))[0].recall if scored else None,
        ece=ece if right or wrong else None,
    )


# How to read each column of the last rows, and whether lower values are better.
_COLUMNS: tuple[tuple[Callable[[Row], float | None], bool], ...] = (
    (lambda row: row.f1, False),
    (lambda row: row.f1_of_clean, False),
    (lambda row: row.recall, False),
    (lambda row: row.precision, False),
    (lambda row: row.fp, True),
    (lambda row: row.ap, False),
    (lambda row: row.recall_at_4, False),
    (lambda row: row.dice, False),
    (lambda row: row.dice_of_clean, False),
    (lambda row: row.large, False),
    (lambda row: row.small, False),
    (lambda row: row.ece, True),
)


@dataclass(frozen=True)
class Table(JsonRecord):
    """The table of one model at one operating point.

    Attributes
    ----------
    title : str
    sizes : SizeRule
    rows : tuple of Row
        The clean scans first.
    """

    title: str
    sizes: SizeRule
    rows: tuple[Row, ...]

    @property
    def changed(self) -> tuple[Row, ...]:
        """All rows but the clean scans."""
        return tuple(row for row in self.rows if row.condition != "clean")

    def mean(self, read: Callable[[Row], float | None]) -> float | None:
        """Return the mean of a metric over the changed rows."""
        values = self._values(read)
        return float(np.mean(values)) if values else None

    def worst(self, read: Callable[[Row], float | None], lower_is_better: bool = False) -> float | None:
        """Return the worst value of a metric over the changed rows."""
        return (max if lower_is_better else min)(self._values(read), default=None)

    def _values(self, read: Callable[[Row], float | None]) -> list[float]:
        return [value for row in self.changed if (value := read(row)) is not None]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [
            f"**{self.title}**",
            "",
            f"Large: {self.sizes.large_mm3:.4g} mm³ or more, small: under {self.sizes.small_mm3:.4g} mm³ in the clean "
            "scan. F1, AP and recall: IoU ≥ 0.1, one to one.",
            "",
            "| condition | F1 | of clean | recall | precision | FP/scan | AP | recall at 4 FP | Dice | of clean "
            "| large | small | ECE |",
            "|---|" + "---:|" * 12,
        ]
        for row in self.rows:
            large = "–" if row.large is None else f"{row.large:.3f} ({row.large_found}/{row.large_lesions})"
            cells = [
                _number(row.f1), _number(row.f1_of_clean), _number(row.recall), _number(row.precision),
                f"{row.fp:.1f}", _number(row.ap), _number(row.recall_at_4), _number(row.dice),
                _number(row.dice_of_clean), large, _number(row.small), _number(row.ece),
            ]  # fmt: skip
            lines.append(f"| {row.condition} | " + " | ".join(cells) + " |")
        means = " | ".join(_number(self.mean(read)) for read, _ in _COLUMNS)
        worst = " | ".join(_number(self.worst(read, lower_is_better)) for read, lower_is_better in _COLUMNS)
        lines += [f"| **mean of the changed** | {means} |", f"| **worst of the changed** | {worst} |"]
        return "\n".join(lines) + "\n"


def make_table(title: str, rows: Sequence[Row], sizes: SizeRule) -> Table:
    """Return the table; the clean scans must be the first row."""
    clean = rows[0]
    return Table(title, sizes, tuple(_relative(row, clean) for row in rows))


def _relative(row: Row, clean: Row) -> Row:
    return replace(
        row,
        f1_of_clean=_ratio(row.f1, clean.f1),
        ap_of_clean=_ratio(row.ap, clean.ap),
        dice_of_clean=_ratio(row.dice, clean.dice),
    )


def _ratio(value: float | None, clean: float | None) -> float | None:
    return value / clean if value is not None and clean else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
