"""On which scans the thresholds of some predictions were chosen: this decides what their figures are worth."""

from __future__ import annotations

from enum import Enum

__all__ = ["ThresholdOrigin"]


class ThresholdOrigin(str, Enum):
    """Where the thresholds of a cross-validation's predictions come from."""

    OTHER_FOLDS = "other folds"
    PLAN = "plan"
    SAME_SCANS = "same scans"

    @property
    def is_honest(self) -> bool:
        """Whether no scan had a say in the thresholds that it is judged at."""
        return self is not ThresholdOrigin.SAME_SCANS

    @property
    def remark(self) -> str:
        """What a reader must know of figures with such thresholds, in a sentence or two.

        Examples
        --------
        >>> ThresholdOrigin.OTHER_FOLDS.remark
        'Cross-fitted: the scans of each fold are judged at the thresholds that the other folds chose.'
        """
        if self is ThresholdOrigin.OTHER_FOLDS:
            return "Cross-fitted: the scans of each fold are judged at the thresholds that the other folds chose."
        if self is ThresholdOrigin.PLAN:
            return "The plan's thresholds: no others gained more than noise, so nothing was chosen on these scans."
        return (
            "No cross-fitted figure (–): the thresholds were chosen on the same scans that they are judged on, which "
            "only several folds can avoid. Expect lower figures on new scans."
        )
