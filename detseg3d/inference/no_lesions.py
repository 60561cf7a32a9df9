"""Explain a prediction without any lesion: the threshold that no scan reached, and the best score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detseg3d.planning.sections import InferencePlan

__all__ = ["CaseOutcome", "explain_no_lesions"]


@dataclass(frozen=True)
class CaseOutcome:
    """The highest scores in the prediction of one scan.

    Attributes
    ----------
    lesions : int
        Number of lesions.
    highest_detection : float
        Highest probability of Stage 1 in this scan, even if it is below the detection threshold.
    highest_score : float or None
        No candidate has a higher score; ``None`` without candidates.
    """

    lesions: int
    highest_detection: float
    highest_score: float | None


def explain_no_lesions(outcomes: Mapping[str, CaseOutcome], inference: InferencePlan) -> str | None:
    """Describe the threshold that no scan reached, if no scan has a lesion.

    Parameters
    ----------
    outcomes : mapping of str to CaseOutcome
        Outcome of each case.
    inference : InferencePlan
        Thresholds of the prediction.

    Returns
    -------
    str or None
        ``None`` if a scan has a lesion, or if there is no scan.

    Examples
    --------
    >>> from detseg3d.planning.sections import InferencePlan
    >>> outcomes = {"a": CaseOutcome(0, 0.5, 0.21), "b": CaseOutcome(0, 0.3, 0.12)}
    >>> print(explain_no_lesions(outcomes, InferencePlan(score_threshold=0.4)).split(":")[0])
    no lesion in any of 2 scan(s)
    """
    if not outcomes or any(outcome.lesions for outcome in outcomes.values()):
        return None
    scored = {case: outcome.highest_score for case, outcome in outcomes.items() if outcome.highest_score is not None}
    if not scored:
        case, best = max(((case, o.highest_detection) for case, o in outcomes.items()), key=lambda pair: pair[1])
        finding = (
            f"the detector's highest probability is {best:.3g} (in {case}), under the detection threshold "
            f"{inference.candidate_threshold:.3g}"
        )
        remedy = "--candidate_threshold"
    else:
        case, best = max(scored.items(), key=lambda pair: pair[1])
        if best < inference.score_threshold:
            finding = (
                f"no candidate has a score above {best:.3g} (in {case}), under the score threshold "
                f"{inference.score_threshold:.3g}"
            )
            remedy = "--score_threshold"
        elif best < inference.scan_threshold:
            finding = (
                f"the highest score of a candidate is {best:.3g} (in {case}), under the scan threshold "
                f"{inference.scan_threshold:.3g} that the best lesion of a scan must reach"
            )
            remedy = "--score_threshold (with it, the scan threshold has no effect)"
        else:
            finding = (
                f"candidates reach the score threshold {inference.score_threshold:.3g} (the best: {best:.3g}, in "
                f"{case}), but none of them has a mask above the mask threshold {inference.mask_threshold:.3g} of "
                f"{inference.minimum_volume_mm3:g} mm³ or more"
            )
            remedy = "mask_threshold and minimum_volume_mm3 in the plans.json of the folds"
    return (
        f"no lesion in any of {len(outcomes)} scan(s): {finding}; if lesions were expected, check that the scans "
        f"are like those of the training (channels, units, spacing), or change {remedy}"
    )
