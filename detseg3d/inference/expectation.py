"""The recall to expect on a scan that is unlike the training scans, from shifted validation scans.

The validation of a model predicts shifted copies of its validation scans (:mod:`detseg3d.synthetic.shifts`). The
comparison with the training scans notices most shifts: coarser slices raise the spacing, noise raises the noise. A new
scan that differs in the same measures as the copies of one shift should lose about as many lesions as these copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detseg3d.core.enums import StringEnum
from detseg3d.evaluation.cross_validation import ShiftMetrics, ShiftSummary
from detseg3d.planning.appearance.comparison import Difference
from detseg3d.system.json_records import JsonRecord

__all__ = ["Expectation", "ExpectationBasis", "expect_recall"]

# A shift is similar to a scan if they share at least half of all measures in which either is unlike the training.
_MIN_AGREEMENT = 0.5
# Shifts that agree almost as well as the best one count, too.
_EQUAL_AGREEMENT = 0.1
# A scan differs more than the copies of a shift if one of its differences is larger by this factor.
_MORE = 1.1


class ExpectationBasis(StringEnum):
    """Shifted validation scans from which the recall to expect is taken."""

    SIMILAR_SHIFTS = "similar shifts"
    ALL_SHIFTS = "all shifts"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Expectation(JsonRecord):
    """The recall to expect on a scan that is unlike the training scans.

    A true lesion counts as found if its mask is matched with an IoU of 0.1 or more.

    Attributes
    ----------
    basis : ExpectationBasis
    home_recall : float or None
        Recall on unchanged validation scans.
    recall_low, recall_high : float or None
        Lowest and highest recall among the shifts. Equal if there is one shift.
    shifts : tuple of str
        Names of the shifts, the most similar one first.
    found, lesions : int
        True lesions that were found, and all true lesions, in the validation scans with these shifts.
    differs_more : bool
        Whether the scan differs from the training scans more than the validation scans with these shifts. The recall
        may then be lower.
    """

    JSON_PROPERTIES = ("range",)

    basis: ExpectationBasis
    home_recall: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    shifts: tuple[str, ...] = ()
    found: int = 0
    lesions: int = 0
    differs_more: bool = False

    @property
    def range(self) -> str:
        """The recall in short, for example ``0.41``, ``0.31 to 0.78`` or ``unknown``."""
        if self.recall_low is None or self.recall_high is None:
            return str(self.basis)
        low, high = f"{self.recall_low:.2f}", f"{self.recall_high:.2f}"
        return low if low == high else f"{low} to {high}"

    def describe(self) -> str:
        """Return the expectation in one sentence or two, without a full stop at the end."""
        if self.home_recall is None:
            return (
                "recall to expect: unknown, because no shifted validation scans were judged at these thresholds "
                "(detseg3d_consolidate judges them)"
            )
        text = f"recall to expect: {self.range} instead of {self.home_recall:.2f}"
        names = " or ".join(name.replace("_", " ") for name in self.shifts)
        if self.basis is ExpectationBasis.ALL_SHIFTS:
            return f"{text}, as in validation scans with other simulated changes, none of them similar to this scan"
        text += f", as in validation scans with a similar simulated change ({names}; "
        text += f"{self.found} of {self.lesions} lesions found)"
        return f"{text}. This scan differs more than they do, so the recall may be lower" if self.differs_more else text


def expect_recall(differences: Sequence[Difference], shifts: ShiftSummary | None) -> Expectation:
    """Return the recall to expect on a scan.

    Parameters
    ----------
    differences : sequence of Difference
        Kinds of measures in which the scan is unlike the training scans, at least one.
    shifts : ShiftSummary or None
        Metrics of the shifted validation scans at the thresholds that are used; ``None`` if there are none.

    Returns
    -------
    Expectation
        From the shifts that are similar to the scan; if there is none, the range over all shifts.
    """
    judged = [] if shifts is None else [shift for shift in shifts.by_shift if shift.shifted.lesions]
    if shifts is None or not judged:
        return Expectation(ExpectationBasis.UNKNOWN)
    agreement = {shift.name: _agreement(differences, shift) for shift in judged}
    best = max(agreement.values())
    similar = [shift for shift in judged if agreement[shift.name] >= max(_MIN_AGREEMENT, best - _EQUAL_AGREEMENT)]
    used = sorted(similar or judged, key=lambda shift: -agreement[shift.name])
    recalls = [shift.shifted.recall_iou_0_1 for shift in used]
    return Expectation(
        ExpectationBasis.SIMILAR_SHIFTS if similar else ExpectationBasis.ALL_SHIFTS,
        shifts.chosen.home.recall_iou_0_1,
        min(recalls),
        max(recalls),
        tuple(shift.name for shift in used),
        sum(shift.shifted.found_iou_0_1 for shift in used),
        sum(shift.shifted.lesions for shift in used),
        bool(similar) and all(_differs_more(differences, shift) for shift in similar),
    )


def _agreement(differences: Sequence[Difference], shift: ShiftMetrics) -> float:
    """Return the share of the measures, among those in which the scan or the shift differs, in which both differ.

    A measure in which only some copies of the shift differ counts in part (weighted Jaccard index).
    """
    shares = {(entry.kind, entry.is_higher): entry.share for entry in shift.differences}
    own = {(difference.kind, difference.is_higher) for difference in differences}
    common = sum(share for key, share in shares.items() if key in own)
    either = len(own) + sum(share for key, share in shares.items() if key not in own)
    return common / either if either else 0.0


def _differs_more(differences: Sequence[Difference], shift: ShiftMetrics) -> bool:
    """Return whether the scan exceeds the largest difference of the copies in a measure that both share."""
    largest = {(entry.kind, entry.is_higher): entry.largest for entry in shift.differences}
    return any(
        difference.size > _MORE * largest[difference.kind, difference.is_higher]
        for difference in differences
        if (difference.kind, difference.is_higher) in largest
    )
