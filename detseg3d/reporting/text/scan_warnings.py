"""Warnings about a scan that a reader of its result must see."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["scan_warnings"]


def scan_warnings(reasons: Sequence[str], expected_recall: str, limit_reached: bool) -> tuple[str, ...]:
    """Return the warnings about a scan as sentences.

    Parameters
    ----------
    reasons : sequence of str
        Differences from the training scans, for a scan that is unlike these scans; otherwise empty.
    expected_recall : str
        Description of the recall to expect, without a full stop at the end; empty if it is not known.
    limit_reached : bool
        True if there were more candidates than the plan allows.

    Examples
    --------
    >>> scan_warnings(("thick slices",), "recall to expect: 0.41 instead of 0.80", False)
    ('This scan is unlike the training scans: thick slices. Recall to expect: 0.41 instead of 0.80.',)
    """
    warnings = []
    if reasons:
        text = f"This scan is unlike the training scans: {'; '.join(reasons)}."
        if expected_recall:
            text += f" {expected_recall[0].upper()}{expected_recall[1:]}."
        warnings.append(text)
    if limit_reached:
        warnings.append(
            "The scan has more candidates than the model may read. Weaker candidates were left out, so lesions may be "
            "missing."
        )
    return tuple(warnings)
