"""Lesions as connected components, for data in which a lesion is, by definition, a connected region."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.core.components import main_components

__all__ = ["LesionDraft", "connected_lesions"]


class LesionDraft(NamedTuple):
    """A lesion before the thresholds on score and size.

    Attributes
    ----------
    candidate : int
        Index of the candidate that gives the lesion its class and score.
    score : float
    joined : tuple of int
        Indices of the other candidates whose masks lie mainly in this lesion.
    """

    candidate: int
    score: float
    joined: tuple[int, ...] = ()


def connected_lesions(
    owner: npt.NDArray[np.unsignedinteger[Any]], classes: IntArray, scores: FloatArray
) -> tuple[npt.NDArray[Any], list[LesionDraft]]:
    """Make a lesion of each 26-connected component of a class in which a candidate mainly lies.

    A lesion gets the score of the best candidate that has most of its mask in the lesion. A candidate counts in one
    component only: its RoI shows the surroundings, so its mask may outline a fragment of a neighbour. A fragment that
    touches a lesion is part of that lesion. A detached part, in which no candidate mainly lies, is background.

    Parameters
    ----------
    owner : ndarray of unsigned int, shape ``(Z, Y, X)``
        The candidate that owns each voxel, counted from 1; 0 outside all masks.
    classes : ndarray of int64, shape ``(N,)``
        Class index of each candidate.
    scores : ndarray of float64, shape ``(N,)``
        Final score of each candidate.

    Returns
    -------
    lesions : ndarray of int, shape ``(Z, Y, X)``
        Number of the lesion, from 1; 0 is background.
    drafts : list of LesionDraft
        Lesion ``i + 1`` is ``drafts[i]``.

    Examples
    --------
    Candidates 1 and 2 touch. Candidate 1 also owns a detached voxel at the end.

    >>> owner = np.array([[[1, 1, 2, 2, 0, 3, 0, 1]]], np.uint16)
    >>> lesions, drafts = connected_lesions(owner, np.array([0, 0, 0]), np.array([0.9, 0.5, 0.7]))
    >>> lesions[0, 0].tolist()
    [1, 1, 1, 1, 0, 2, 0, 0]
    >>> [(draft.candidate, draft.score, draft.joined) for draft in drafts]
    [(0, 0.9, (1,)), (2, 0.7, ())]
    """
    components, main = main_components(owner, classes)
    number = np.zeros(int(components.max(initial=0)) + 1, np.uint32)
    drafts = []
    for component in np.unique(main[main > 0]).tolist():
        members = np.flatnonzero(main == component) - 1
        best = int(members[np.argmax(scores[members])])
        joined = tuple(int(member) for member in members if member != best)
        drafts.append(LesionDraft(best, float(scores[best]), joined))
        number[component] = len(drafts)
    return number[components], drafts
