"""Summary of the shifted validation scans: how much a model loses on scans that are unlike its training scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detseg3d.consolidation.cases import CandidateCase
from detseg3d.consolidation.gain import PatientResamples
from detseg3d.consolidation.goals import GoalChoice, JudgedCases
from detseg3d.consolidation.objective import pool_counts
from detseg3d.consolidation.search import SearchResult
from detseg3d.consolidation.shifted_scans import STRENGTH, ShiftedScan
from detseg3d.evaluation.cross_validation import DifferenceShare, GoalMetrics, ShiftMetrics, ShiftSummary
from detseg3d.synthetic.shifts.catalogue import SHIFTS

__all__ = ["summarize_shifts"]


def summarize_shifts(
    result: SearchResult, scans: Mapping[CandidateCase, ShiftedScan], calibration_errors: tuple[float, float]
) -> ShiftSummary | None:
    """Return the metrics of the shifted scans at the chosen thresholds.

    Parameters
    ----------
    result : SearchResult
    scans : mapping of CandidateCase to ShiftedScan
    calibration_errors : tuple of 2 floats
        Of unchanged and of shifted scans, see :func:`~detseg3d.consolidation.calibration.calibration_errors`.

    Returns
    -------
    ShiftSummary or None
        ``None`` if there are no shifted scans.
    """
    unchanged, shifted = result.unchanged, result.shifted
    if unchanged is None or shifted is None:
        return None
    choice = next(choice for choice in result.goals if choice.goal is result.goal)
    before = {case.case_id: count for case, count in zip(unchanged.cases, unchanged.of(choice), strict=True)}
    after = shifted.of(choice)
    by_shift = []
    used = {case.shift for case in shifted.cases}
    for shift in SHIFTS:
        if shift.name not in used:
            continue
        chosen = [index for index, case in enumerate(shifted.cases) if case.shift == shift.name]
        by_shift.append(
            ShiftMetrics(
                name=shift.name,
                description=shift.description,
                scans=len(chosen),
                unchanged=pool_counts([before[shifted.cases[index].case_id] for index in chosen]),
                shifted=pool_counts([after[index] for index in chosen]),
                differences=_shares([scans[shifted.cases[index]] for index in chosen]),
            )
        )
    return ShiftSummary(
        goal=result.goal,
        strength=str(STRENGTH),
        scans=len(shifted.cases),
        patients=len({case.group for case in shifted.cases}),
        goals=tuple(_goal_metrics(goal, unchanged, shifted) for goal in result.goals),
        by_shift=tuple(by_shift),
        home_calibration_error=calibration_errors[0],
        shifted_calibration_error=calibration_errors[1],
    )


def _goal_metrics(choice: GoalChoice, unchanged: JudgedCases, shifted: JudgedCases) -> GoalMetrics:
    intervals = [
        PatientResamples([case.group for case in judged.cases]).f1_interval(judged.of(choice))
        for judged in (unchanged, shifted)
    ]
    return GoalMetrics(
        choice.goal,
        choice.chosen,
        pool_counts(unchanged.of(choice)),
        pool_counts(shifted.of(choice)),
        intervals[0],
        intervals[1],
    )


def _shares(scans: Sequence[ShiftedScan]) -> tuple[DifferenceShare, ...]:
    """Return how often the scans differ from the training scans in each kind of measure."""
    sizes: dict[tuple[str, bool], list[float]] = {}
    kinds = {}
    for scan in scans:
        for difference in scan.differences:
            key = (difference.kind.value, difference.is_higher)
            kinds[key] = difference.kind
            sizes.setdefault(key, []).append(difference.size)
    return tuple(
        DifferenceShare(kinds[key], key[1], len(values) / len(scans), max(values)) for key, values in sizes.items()
    )
