"""What a reader must know of the figures of an evaluation, in the words that metrics.md and report.html share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "FEW_PATIENTS",
    "HD95_PENALTY",
    "different_scans",
    "few_scans_for_froc",
    "interval_note",
    "left_out",
    "measured",
    "too_few",
]

HD95_PENALTY = (
    "A scan with an empty truth or an empty prediction, but not both, has the diagonal of its volume as HD95; 0 if\n"
    "both are empty."
)

FEW_PATIENTS = 5
"""From as many patients on, intervals held the true value in over 90 % of studies: ``benchmarks/coverage.py``."""

_MOST_NAMES = 5


def different_scans(systems: Mapping[str, Mapping[str, Any]]) -> str:
    """That systems were not evaluated on the same scans, and what each lacks; empty if they were.

    A system that gives no prediction for a hard scan is not charged with it, and looks better than one that does.

    Parameters
    ----------
    systems : dict of str to dict
        ``systems`` of :func:`~detseg3d.evaluation.folders.evaluate_systems`.

    Examples
    --------
    >>> systems = {"A": {"cases": [{"case_id": "x"}]}, "B": {"cases": [{"case_id": "x"}, {"case_id": "y"}]}}
    >>> different_scans(systems).splitlines()[-1]
    'Without: A y.'
    """
    scans = {name: {case["case_id"] for case in part.get("cases") or ()} for name, part in systems.items()}
    every = set().union(*scans.values())
    lacking = [f"{name} {_names(every - own)}" for name, own in scans.items() if own != every]
    if not lacking:
        return ""
    return (
        "The systems were evaluated on different scans: their own figures cannot be compared, since a system is not\n"
        "charged with a scan that it lacks. Only the differences are of the scans that both have.\n"
        f"Without: {'; '.join(lacking)}."
    )


def interval_note(patients: Mapping[str, int | None]) -> str:
    """What the intervals are, and how many patients they rest on.

    Parameters
    ----------
    patients : dict of str to int or None
        Of each system; ``None`` where it is not known.

    Examples
    --------
    >>> interval_note({"": 12}), interval_note({"A": 12, "B": 7})[-28:]
    ('Intervals: 95 %, bootstrap over 12 patients.', 'over 12 (A), 7 (B) patients.')
    """
    known = {name: number for name, number in patients.items() if number is not None}
    text = ", ".join(f"{number} ({name})" for name, number in known.items())
    if len(set(known.values())) == 1:
        text = str(next(iter(known.values())))
    over = f"{text} patient{'' if text == '1' else 's'}" if known else "patients"
    return f"Intervals: 95 %, bootstrap over {over}."


def few_scans_for_froc(scans: int, rates: Sequence[float]) -> str:
    """That the lowest rates of a FROC curve cannot be told apart; empty if they can.

    Parameters
    ----------
    scans : int
    rates : sequence of float
        False positives per scan.

    Examples
    --------
    >>> few_scans_for_froc(3, (0.125, 0.25, 0.5, 1.0))
    'In 3 scans together, 1/8 and 1/4 false positives per scan are less than one: both allow no false positive.'
    >>> few_scans_for_froc(8, (0.125, 0.25, 0.5, 1.0))
    ''
    """
    below = [f"1/{round(1 / rate)}" for rate in rates if 0 < rate * scans < 1 - 1e-9]
    if not below:
        return ""
    together = f"In {scans} scan{'' if scans == 1 else 's'} together, "
    if len(below) == 1:
        return f"{together}{below[0]} false positives per scan is less than one: it allows no false positive."
    listed = f"{', '.join(below[:-1])} and {below[-1]}"
    they = "both" if len(below) == 2 else "all of these"
    return f"{together}{listed} false positives per scan are less than one: {they} allow no false positive."


def left_out(intervals: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """How many resamples have nothing that a figure counts; empty if there are none.

    Parameters
    ----------
    intervals : sequence of dict
        Of each system what :func:`~detseg3d.evaluation.intervals.headline_intervals` returned.
    """
    most = max((entry.get("left_out") or 0 for figures in intervals for entry in figures.values()), default=0)
    if not most:
        return ""
    return f"Resamples without anything that a figure counts, such as lesions, are left out: up to {most}."


def too_few(intervals: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """That intervals rest on too few patients; empty if they do not.

    Parameters
    ----------
    intervals : sequence of dict
        Of each system what :func:`~detseg3d.evaluation.intervals.headline_intervals` returned.

    Examples
    --------
    >>> recall, dice = {"low": 0.5, "patients": 3}, {"low": 0.5, "patients": 20}
    >>> too_few([{"recall_iou_0.1": recall, "dice": dice}])
    'Intervals that rest on fewer than 5 patients (here 3) are a rough guide.'
    >>> too_few([{"dice": dice}])
    ''
    """
    known = [entry["patients"] for figures in intervals for entry in figures.values() if entry.get("low") is not None]
    fewest = min(known, default=FEW_PATIENTS)
    if fewest >= FEW_PATIENTS:
        return ""
    return f"Intervals that rest on fewer than {FEW_PATIENTS} patients (here {fewest}) are a rough guide."


def measured(group: Mapping[str, Any], needs: str) -> bool:
    """Whether a figure is one that was measured, not what its definition gives where there is nothing to measure.

    Parameters
    ----------
    group : dict
        Of all classes or of one, as :func:`~detseg3d.evaluation.summary.summarize` gives it.
    needs : str
        What must exist, ``truth``, ``predictions`` or ``either`` of them; nothing if it is empty.
    """
    counts = (group.get("lesions") or {}).get("any") or {}
    wanted = ("truth", "predictions") if needs == "either" else (needs,)
    return not needs or any(counts.get(name) != 0 for name in wanted)


def _names(scans: set[str]) -> str:
    shown = sorted(scans)
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return ", ".join(shown[:_MOST_NAMES]) + more
