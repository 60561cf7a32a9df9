"""Choose the candidates that can influence the lesions of a scan. Stage 2 need not outline the other candidates.

The score of Stage 1 limits the combined score of a candidate, because the score of Stage 2 is at most 1. So many weak
candidates can never be lesions, and can at most extend a lesion that lies beside them. Stage 2 therefore runs in
rounds: first on the candidates that can be lesions, then on the weaker neighbours of the lesions that were found, until
no lesion has another weak neighbour. The lesions are the same as if every candidate were outlined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from detseg3d.core.arrays import IntArray
from detseg3d.core.neighbours import neighbour_matrix, split_groups
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.merging.scores import CandidateScores, highest_possible_scores, lowest_score
from detseg3d.planning.sections import InferencePlan

__all__ = ["Influence"]


@dataclass(frozen=True)
class Influence:
    """The candidates of a volume, and the pairs of them that may influence each other.

    Attributes
    ----------
    candidates : Detections
    inference : InferencePlan
        Thresholds, and the rule that combines the scores of both stages.
    near : csr_array of bool, shape ``(N, N)``
        Pairs of candidates whose RoIs overlap or touch; symmetric.
    """

    candidates: Detections
    inference: InferencePlan
    near: csr_array

    @classmethod
    def of(
        cls,
        candidates: Detections,
        rois: npt.NDArray[np.floating],
        owners: IntArray,
        reach: Sequence[float],
        inference: InferencePlan,
    ) -> Influence:
        """Find the pairs of candidates that may influence each other.

        Parameters
        ----------
        candidates : Detections
        rois : ndarray, shape ``(M, 6)``
            RoIs of the candidates, in voxel edges of the fine grid.
        owners : ndarray of int64, shape ``(M,)``
            Candidate of each RoI.
        reach : sequence of 3 floats
            Size of a voxel of the output grid, in voxels of the fine grid. RoIs that are nearer may touch there.
        inference : InferencePlan
        """
        margin = np.asarray(reach, np.float64)
        enlarged = np.concatenate([rois[:, :3] - margin, rois[:, 3:] + margin], axis=1)
        return cls(candidates, inference, neighbour_matrix(enlarged, owners, len(candidates)))

    def first(self) -> IntArray:
        """Return the candidates that reach the score threshold if Stage 2 gives them the highest score; ascending."""
        highest = highest_possible_scores(self.candidates.scores, self.inference)
        return np.flatnonzero(highest >= self.inference.score_threshold)

    def following(self, is_outlined: npt.NDArray[np.bool_], predictions: Sequence[RoiPrediction]) -> IntArray:
        """Return the candidates that may extend a lesion of the candidates that are outlined already.

        Parameters
        ----------
        is_outlined : ndarray of bool, shape ``(N,)``
        predictions : sequence of RoiPrediction
            RoIs of the outlined candidates.

        Returns
        -------
        ndarray of int64
            Indices, ascending. Empty if the other candidates have no influence.
        """
        lowest = lowest_score(self.inference)
        final = CandidateScores.of(self.candidates, predictions, self.inference).final
        taking_part = np.flatnonzero(is_outlined & (final >= lowest))
        groups = split_groups(taking_part, self.near)
        extended = [group for group in groups if (final[group] >= self.inference.score_threshold).any()]
        if not extended:
            return np.zeros(0, np.int64)
        beside = np.zeros(len(self.candidates), np.bool_)
        beside[self.near[np.concatenate(extended)].indices] = True
        highest = highest_possible_scores(self.candidates.scores, self.inference)
        return np.flatnonzero(beside & ~is_outlined & (highest >= lowest))
