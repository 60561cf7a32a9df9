"""Predicted lesions of a case for any thresholds, without the masks of the whole volume.

Each group of candidates is merged once for each set of members and each mask threshold. The overlaps of its lesions are
stored. A higher growth threshold changes few groups, so the next thresholds take little time. A higher score threshold
or a larger smallest volume takes no time.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from detseg3d.core.arrays import IntArray
from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.neighbours import split_groups
from detseg3d.data.labels import Lesions
from detseg3d.evaluation.definitions.voxels import dice_from_counts
from detseg3d.evaluation.matching import InstanceTable, OverlapTable, match_one_to_one
from detseg3d.inference.candidates import Candidates, MergedGroup
from detseg3d.models.merging.scores import lowest_score
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.planning.thresholds import THRESHOLD_FIELDS, ThresholdStage
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["CaseCounts", "CaseOutcomes", "CaseTruth", "GroupKey", "LesionOutcome", "map_cases"]

GroupKey = tuple[float, tuple[int, ...]]
Item = TypeVar("Item")
Value = TypeVar("Value")

_OUTLINED_IOU = 0.1
_CANDIDATE_THRESHOLDS = tuple(field for field in THRESHOLD_FIELDS if field.stage is ThresholdStage.CANDIDATES)


@dataclass(frozen=True)
class CaseTruth:
    """True lesions of a case, numbered 1, 2, …, compressed because they are often sent to worker processes.

    Attributes
    ----------
    shape : tuple of 3 ints
        Of the label, ``(z, y, x)``.
    spacing : tuple of 3 floats
        mm, ``(z, y, x)``.
    classes, voxels : tuple of int
        Class index and number of voxels of each lesion.
    corner : tuple of 6 ints
        The part of the volume that holds all lesions, ``z0 y0 x0 z1 y1 x1``.
    packed : bytes
        The numbers in there, uint32, compressed.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    classes: tuple[int, ...]
    voxels: tuple[int, ...]
    corner: tuple[int, ...]
    packed: bytes

    @classmethod
    def of(cls, truth: Lesions, spacing: tuple[float, float, float]) -> CaseTruth:
        """Number the lesions in the order of their values and compress them."""
        depth, height, width = truth.instances.shape
        ids, boxes = boxes_from_instances(truth.instances)
        if len(ids) == 0:
            return cls((depth, height, width), spacing, (), (), (0,) * 6, b"")
        corner = tuple(int(n) for n in (*boxes[:, :3].min(axis=0), *boxes[:, 3:].max(axis=0)))
        part = truth.instances[box_slices(corner)]
        numbers = np.zeros(part.shape, np.uint32)
        numbers[part > 0] = np.searchsorted(ids, part[part > 0]) + 1
        voxels = np.bincount(numbers.ravel(), minlength=len(ids) + 1)[1:]
        classes = tuple(truth.classes[int(number)] for number in ids)
        packed = zlib.compress(numbers.tobytes(), 1)
        return cls((depth, height, width), spacing, classes, tuple(int(n) for n in voxels), corner, packed)

    def __len__(self) -> int:
        return len(self.classes)

    def instances(self) -> npt.NDArray[np.int32]:
        """Return the instance map on the grid of the label, shape ``(Z, Y, X)``."""
        volume = np.zeros(self.shape, np.int32)
        if self.classes:
            window = box_slices(self.corner)
            volume[window] = np.frombuffer(zlib.decompress(self.packed), np.uint32).reshape(volume[window].shape)
        return volume


class LesionOutcome(NamedTuple):
    """A predicted lesion and the true lesions of its class that it overlaps.

    Attributes
    ----------
    candidate : int
        Index of its candidate.
    score : float
    voxels : int
    hits : tuple of int
        Numbers of the overlapped true lesions.
    shared : tuple of int
        Voxels shared with each of them.
    """

    candidate: int
    score: float
    voxels: int
    hits: tuple[int, ...]
    shared: tuple[int, ...]


@dataclass(frozen=True)
class CaseCounts:
    """Counts of one case with one set of thresholds.

    Attributes
    ----------
    truth, predictions : int
        True and predicted lesions.
    found : int
        True lesions that a prediction of their class overlaps.
    true_positives : int
        Predictions that overlap a true lesion of their class.
    outlined : int
        Pairs of a true and a predicted lesion, matched one to one with an IoU of 0.1 or more.
    dice : float
        Voxel Dice.
    """

    truth: int
    found: int
    predictions: int
    true_positives: int
    outlined: int
    dice: float


class CaseOutcomes:
    """Predicted lesions of a case for any thresholds, and the true lesions that they overlap.

    The lesions are exactly those of :meth:`~detseg3d.inference.candidates.Candidates.merge` for the candidates that the
    same thresholds admit. They are counted as in :func:`~detseg3d.evaluation.case.evaluate_case` at any overlap.

    Parameters
    ----------
    candidates : Candidates
        As stored.
    truth : CaseTruth
    plans : Plans
        The calibration and the rules for scores and joining are used. The thresholds are not.
    known : mapping, optional
        Outcomes (:attr:`new`) of an earlier object for the same case and calibration. They are not computed again.

    Attributes
    ----------
    new : dict
        Newly computed outcomes of groups of candidates.
    """

    def __init__(
        self,
        candidates: Candidates,
        truth: CaseTruth,
        plans: Plans,
        known: Mapping[GroupKey, tuple[LesionOutcome, ...]] | None = None,
    ) -> None:
        self.candidates = candidates
        self.truth = truth
        self.new: dict[GroupKey, tuple[LesionOutcome, ...]] = {}
        self._plans = plans
        self._known = known or {}
        self._passing: dict[tuple[float, ...], IntArray] = {}

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """Final score of each stored candidate."""
        return self.candidates.final_scores(self._plans.inference)

    @cached_property
    def _touching(self) -> csr_array:
        return self.candidates.touching()

    @cached_property
    def _instances(self) -> npt.NDArray[np.int32]:
        return self.truth.instances()

    def passing(self, inference: InferencePlan) -> IntArray:
        """Return the indices of the stored candidates that pass threshold and suppression, best first."""
        key = tuple(field.value(inference) for field in _CANDIDATE_THRESHOLDS)
        if key not in self._passing:
            self._passing[key] = self.candidates.passing(inference)
        return self._passing[key]

    def lesions(self, inference: InferencePlan) -> list[LesionOutcome]:
        """Return the lesions of the final mask with these thresholds."""
        passing = self.passing(inference)
        taking_part = passing[self.scores[passing] >= lowest_score(inference)]
        is_lesion = self.scores >= inference.score_threshold
        smallest = inference.minimum_volume_mm3 / math.prod(self.candidates.spacing)
        groups = [members for members in split_groups(taking_part, self._touching) if is_lesion[members].any()]
        merged = [lesion for members in groups for lesion in self._of_group(members, inference.mask_threshold)]
        certain = [lesion for lesion in merged if lesion.score >= inference.score_threshold]
        lesions = [lesion for lesion in certain if lesion.voxels >= smallest - 1e-6]
        return lesions if any(lesion.score >= inference.scan_threshold for lesion in lesions) else []

    def count(self, inference: InferencePlan) -> CaseCounts:
        """Count the lesions with these thresholds."""
        lesions = self.lesions(inference)
        return CaseCounts(
            truth=len(self.truth),
            found=len({number for lesion in lesions for number in lesion.hits}),
            predictions=len(lesions),
            true_positives=sum(bool(lesion.hits) for lesion in lesions),
            outlined=self._outlined(lesions),
            dice=dice_from_counts(
                sum(sum(lesion.shared) for lesion in lesions),
                sum(self.truth.voxels),
                sum(lesion.voxels for lesion in lesions),
            ),
        )

    def _outlined(self, lesions: Sequence[LesionOutcome]) -> int:
        """Return the number of one-to-one pairs of predicted and true lesions at the lower IoU of the evaluation."""
        sizes = [np.array(self.truth.voxels, np.int64), np.array([lesion.voxels for lesion in lesions], np.int64)]
        truth, prediction = (InstanceTable(np.arange(len(n)), n, np.zeros((len(n), 3))) for n in sizes)
        pairs = [
            (number - 1, index, shared)
            for index, lesion in enumerate(lesions)
            for number, shared in zip(lesion.hits, lesion.shared, strict=True)
        ]
        table = OverlapTable(truth, prediction, *np.array(pairs, np.int64).reshape(-1, 3).T)
        return len(match_one_to_one(table, _OUTLINED_IOU))

    def _of_group(self, members: IntArray, mask_threshold: float) -> tuple[LesionOutcome, ...]:
        """Return the lesions of a group of candidates, before any threshold on score or size."""
        key = (mask_threshold, tuple(members.tolist()))
        if key in self._known:
            return self._known[key]
        if key not in self.new:
            rule = self._plans.inference.model_copy(update={"mask_threshold": mask_threshold})
            plans = self._plans.model_copy(update={"inference": rule})
            self.new[key] = self._overlaps(self.candidates.merge_group(members, plans))
        return self.new[key]

    def _overlaps(self, group: MergedGroup | None) -> tuple[LesionOutcome, ...]:
        """Return the lesions of a merged group with the true lesions that they overlap."""
        if group is None:
            return ()
        instances = group.merged.instances
        inside = instances > 0
        # Each pair of a predicted and a true lesion (0: background) in a voxel becomes one number, so that one call
        # counts the shared voxels of all pairs.
        base = len(self.truth) + 1
        pairs = instances[inside].astype(np.int64) * base + self._instances[group.window][inside]
        names, counts = np.unique(pairs, return_counts=True)
        hits: dict[int, dict[int, int]] = {lesion.id: {} for lesion in group.merged.lesions}
        class_of = {lesion.id: lesion.class_index for lesion in group.merged.lesions}
        for name, count in zip(names.tolist(), counts.tolist(), strict=True):
            predicted, true = divmod(name, base)
            if true and self.truth.classes[true - 1] == class_of[predicted]:
                hits[predicted][true] = count
        return tuple(
            LesionOutcome(
                lesion.candidate,
                lesion.score,
                lesion.voxels,
                tuple(hits[lesion.id]),
                tuple(hits[lesion.id].values()),
            )
            for lesion in group.merged.lesions
        )


def map_cases(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    name: Callable[[Item], str],
    description: str,
    run: Run = Run(),
) -> list[Value]:
    """Return ``function(item)`` for each item, in their order. No case may fail.

    Parameters
    ----------
    function : callable
        Runs in a worker process if ``run`` has some.
    items : sequence
    name : callable
        Returns the name of the case of an item, for error messages.
    description : str
        Text of the progress bar.
    run : Run

    Raises
    ------
    DetSeg3DError
        Names every case that failed.
    """
    results = run_cases(function, items, run, description)
    failed = [result for result in results if result.error is not None]
    if len(failed) == 1 and isinstance(failed[0].error, DetSeg3DError):
        raise failed[0].error
    if failed:
        raise DetSeg3DError(f"{len(failed)} case(s) cannot be used:\n{describe_failures(failed, name)}")
    return [result.value for result in results if result.value is not None]
