"""Source of the thresholds of a cross-validation. The source decides if the metrics are valid for new scans."""

from __future__ import annotations

from enum import Enum

__all__ = ["ThresholdOrigin"]


class ThresholdOrigin(str, Enum):
    """Source of the thresholds at which the predictions of a cross-validation were made."""

    OTHER_FOLDS = "other folds"
    PLAN = "plan"
    SAME_SCANS = "same scans"

    @property
    def is_honest(self) -> bool:
        """True if no scan is evaluated at thresholds that were chosen on this scan."""
        return self is not ThresholdOrigin.SAME_SCANS

    @property
    def remark(self) -> str:
        """Explanation for the reader of the metrics.

        Examples
        --------
        >>> ThresholdOrigin.OTHER_FOLDS.remark
        'Cross-fitted: each fold is evaluated at the thresholds that were chosen on the other folds.'
        """
        if self is ThresholdOrigin.OTHER_FOLDS:
            return "Cross-fitted: each fold is evaluated at the thresholds that were chosen on the other folds."
        if self is ThresholdOrigin.PLAN:
            return (
                "The thresholds of the plan were kept, because no other thresholds gained more than noise. Nothing was "
                "chosen on these scans."
            )
        return (
            "No cross-fitted metrics (–): the thresholds were chosen and evaluated on the same scans. Only several "
            "folds can avoid this. Expect lower metrics on new scans."
        )
