"""States of a lesion that is seen in two scans of one patient."""

from __future__ import annotations

from enum import Enum

__all__ = ["LesionState"]


class LesionState(Enum):
    """Change of a lesion, or of a group of lesions, from an earlier to a later scan.

    Attributes
    ----------
    NEW
        Only the later scan shows the lesion, and the earlier scan covers its place.
    ENLARGED, STABLE, SHRUNK
        Both scans show the lesion. Thresholds decide between the three states.
    DISAPPEARED
        Only the earlier scan shows the lesion, and the later scan covers its place.
    MERGED
        Several lesions of the earlier scan are one lesion in the later scan.
    SPLIT
        One lesion of the earlier scan is several lesions in the later scan.
    REGROUPED
        Several lesions of the earlier scan are several other lesions in the later scan.
    OUT_OF_VIEW
        Only one scan shows the lesion, and the other scan does not cover its whole place.
    """

    NEW = "new"
    ENLARGED = "enlarged"
    STABLE = "stable"
    SHRUNK = "shrunk"
    DISAPPEARED = "disappeared"
    MERGED = "merged"
    SPLIT = "split"
    REGROUPED = "merged and split"
    OUT_OF_VIEW = "outside the other scan"
