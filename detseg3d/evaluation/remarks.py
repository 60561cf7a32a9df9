"""What a reader must know of the figures of an evaluation, in the words that metrics.md and report.html share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["HD95_PENALTY", "different_scans"]

HD95_PENALTY = (
    "A scan with an empty truth or an empty prediction, but not both, has the diagonal of its volume as HD95; 0 if\n"
    "both are empty."
)

_MOST_NAMES = 5


def different_scans(systems: Mapping[str, Mapping[str, Any]]) -> str:
    """That systems were not evaluated on the same scans, and what each lacks; empty if they were.

    A system that gives no prediction for a hard scan is not charged with it, and looks better than one that does.

    Parameters
    ----------
    systems : dict of str to dict
        ``systems`` of :func:`~detseg3d.evaluation.evaluate.evaluate_systems`.

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


def _names(scans: set[str]) -> str:
    shown = sorted(scans)
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return ", ".join(shown[:_MOST_NAMES]) + more
