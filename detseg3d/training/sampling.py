"""Which window each training step sees. Every draw depends on the seed and the step alone.

So a batch is the same whichever process prepares it, and a resumed training sees what an uninterrupted one would.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore, StoredCase, class_of_id
from detseg3d.planning.rules.grids import SPARE_VOLUME
from detseg3d.system.signals import follow_parent
from detseg3d.training.augmentation import augment_intensity, draw_affine, read_window
from detseg3d.training.ranks import Ranks

__all__ = ["CaseTable", "Example", "WindowSampler", "batches"]

logger = logging.getLogger(__name__)

ALONE = Ranks()
# Windows that are placed anywhere, not on a lesion: the network must also see what holds none.
_RANDOM_WINDOW_SHARE = 0.25
# Windows that are placed to learn how many lesions one shows on average.
_PLACEMENTS = 500


@dataclass(frozen=True)
class Example:
    """One window: image ``(C, Z, Y, X)`` float32, instances ``(Z, Y, X)`` int32, class of each label of its case."""

    image: npt.NDArray[np.float32]
    instances: npt.NDArray[np.int32]
    class_of_id: npt.NDArray[np.int64]
    case_id: str


class CaseTable:
    """What sampling needs to know of the training cases, read once from the store.

    Attributes
    ----------
    case_ids : tuple of str
    digests : list of (str or None)
        Of each case as it was when the table was made.
    shapes : list of (Z, Y, X)
    classes : list of ndarray
        Per case, the class of each label.
    lesion_case : ndarray of int64, shape ``(L,)``
        Index of the case of every lesion of the set.
    lesion_box : ndarray of float32, shape ``(L, 6)``
    lesion_weight : ndarray of float64, shape ``(L,)``
        Probability to be the one a window is placed on: half of the windows are drawn uniformly over the lesions,
        half uniformly over the cases that have some, so that neither one full scan nor the few-lesion scans rule the
        training.
    """

    def __init__(self, store: CaseStore, case_ids: Sequence[str]) -> None:
        self.case_ids = tuple(case_ids)
        self.digests: list[str | None] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.classes: list[npt.NDArray[np.int64]] = []
        owners: list[int] = []
        boxes: list[list[float]] = []
        for index, case_id in enumerate(self.case_ids):
            shape, lesions = store.shape_and_lesions(case_id)
            self.digests.append(store.properties(case_id).get("digest"))
            self.shapes.append(shape)
            self.classes.append(class_of_id(lesions))
            owners += [index] * len(lesions)
            boxes += [lesion["box"] for lesion in lesions]
        self.lesion_case = np.asarray(owners, np.int64)
        self.lesion_box = np.asarray(boxes, np.float32).reshape(-1, 6)
        per_case = np.bincount(self.lesion_case, minlength=len(self.case_ids))
        cases_with = max(int((per_case > 0).sum()), 1)
        count = max(len(owners), 1)
        self.lesion_weight = 0.5 / count + 0.5 / (cases_with * np.maximum(per_case[self.lesion_case], 1))

    def typical_shape(self) -> tuple[int, int, int]:
        """Median shape of the cases."""
        z, y, x = (int(n) for n in np.median(np.asarray(self.shapes), axis=0))
        return z, y, x


class WindowSampler:
    """Draws the windows of one phase.

    Parameters
    ----------
    store : CaseStore
    table : CaseTable
    spacing : sequence of 3 floats
        Fine spacing, mm.
    window : sequence of 3 ints, or None for whole volumes
    seed : int
    augment : bool
    strength : float, optional
        How often windows are rotated, scaled and changed in intensity, as a factor of the usual.
    mirror_axes : sequence of int, optional
        Axes along which windows are flipped.
    largest : sequence of 3 ints, optional
        The volume that the plan's memory was reckoned for: of a scan that is much larger, whole volumes show so much.
    """

    def __init__(
        self,
        store: CaseStore,
        table: CaseTable,
        spacing: Sequence[float],
        window: Sequence[int] | None,
        seed: int,
        augment: bool = True,
        strength: float = 1.0,
        mirror_axes: Sequence[int] = (0, 1, 2),
        largest: Sequence[int] | None = None,
    ) -> None:
        self.store, self.table = store, table
        self.spacing = tuple(spacing)
        self.window = None if window is None else tuple(window)
        self.seed = seed
        self.augment = augment
        self.strength = strength
        self.mirror_axes = tuple(mirror_axes)
        self.largest = None if largest is None else tuple(largest)

    def example(self, position: int) -> Example:
        """The ``position``-th window of the training, counted over batches; the same for the same seed, always."""
        random = np.random.default_rng([self.seed, 1, position])
        if self.window is None:
            index, center, window = self._whole_volume(position, random)
        else:
            index, center = self._place(random)
            window = self.window
        case = self._open(index)
        affine = draw_affine(
            center, self.spacing, int(np.prod(window)), random, self.augment, self.strength, self.mirror_axes
        )
        image, instances = read_window(case.image, case.instances, affine, window)
        if self.augment:
            image = augment_intensity(image, random, self.strength)
        return Example(image, instances, self.table.classes[index], self.table.case_ids[index])

    def _open(self, index: int) -> StoredCase:
        """Open a case of the table, if it is still the one that the training began with."""
        case = self.store.open(self.table.case_ids[index])
        if case.digest != self.table.digests[index]:
            raise DetSeg3DError(
                f"case {case.case_id!r} was preprocessed again while the training was running",
                file=self.store.folder,
                value=case.digest[:12],
                expected=(self.table.digests[index] or "none")[:12] + ", as when the training began",
                remedy="train this fold again, and do not preprocess a data set while a training uses it",
            )
        return case

    def typical_lesions(self) -> float:
        """Lesions that a window of this phase shows on average, at least 1.

        Whose box has its middle in the window, over 500 placements that depend on no seed; for whole volumes, the
        lesions of a case.
        """
        if self.window is None:
            return max(1.0, len(self.table.lesion_case) / len(self.table.case_ids))
        half = np.asarray(self.window) / 2
        middles = (self.table.lesion_box[:, :3] + self.table.lesion_box[:, 3:]) / 2
        total = 0
        for placement in range(_PLACEMENTS):
            index, center = self._place(np.random.default_rng([4, placement]))
            near = np.all(np.abs(middles - center) < half, axis=1)
            total += int((near & (self.table.lesion_case == index)).sum())
        return max(1.0, total / _PLACEMENTS)

    def _whole_volume(
        self, position: int, random: np.random.Generator
    ) -> tuple[int, npt.NDArray[np.float64], tuple[int, ...]]:
        """Cases in a new random order each round: every case is seen once before any is seen twice.

        A scan with over a tenth more voxels than planned is cut to that size, around one of its lesions or anywhere.
        """
        count = len(self.table.case_ids)
        order = np.random.default_rng([self.seed, 2, position // count]).permutation(count)
        index = int(order[position % count])
        shape = self.table.shapes[index]
        if self.largest is None or math.prod(shape) <= SPARE_VOLUME * math.prod(self.largest):
            return index, np.asarray(shape) / 2, shape
        window = tuple(min(n, most) for n, most in zip(shape, self.largest, strict=True))
        lesions = np.flatnonzero(self.table.lesion_case == index)
        if len(lesions) == 0 or random.random() < _RANDOM_WINDOW_SHARE:
            middle = random.uniform(0, np.asarray(shape))
        else:
            middle = self._near(int(random.choice(lesions)), window, random)
        return index, _inside(middle, window, shape), window

    def _place(self, random: np.random.Generator) -> tuple[int, npt.NDArray[np.float64]]:
        """Case and middle of a window: on a lesion, not always in its centre, or anywhere."""
        table = self.table
        assert self.window is not None
        if len(table.lesion_case) == 0 or random.random() < _RANDOM_WINDOW_SHARE:
            index = int(random.integers(len(table.case_ids)))
            middle = random.uniform(0, np.asarray(table.shapes[index]))
        else:
            lesion = int(random.choice(len(table.lesion_case), p=table.lesion_weight / table.lesion_weight.sum()))
            index = int(table.lesion_case[lesion])
            middle = self._near(lesion, self.window, random)
        return index, _inside(middle, self.window, table.shapes[index])

    def _near(self, lesion: int, window: Sequence[int], random: np.random.Generator) -> npt.NDArray[np.float64]:
        box = self.table.lesion_box[lesion]
        middle: npt.NDArray[np.float64] = (box[:3] + box[3:]) / 2 + random.uniform(-0.35, 0.35, 3) * window
        return middle


def _inside(middle: npt.ArrayLike, window: Sequence[int], shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """The nearest middle of a window that lies in the volume: one that hangs over its edge shows less.

    Along a short axis it is centred. Whole-voxel positions let windows that are not rotated be copied instead of
    interpolated.
    """
    size, length = np.asarray(window, np.float64), np.asarray(shape, np.float64)
    half = np.minimum(size, length) / 2
    middle = np.where(size >= length, length / 2, np.clip(middle, half, length - half))
    return np.floor(middle - size / 2) + size / 2


class _WorkerLoader(SlimDataLoaderBase):  # type: ignore[misc]
    """Worker ``k`` of ``n`` prepares the steps ``first + k, first + k + n, …``: batchgenerators deals them in turn."""

    def __init__(self, sampler: WindowSampler, batch_size: int, first_step: int, workers: int, ranks: Ranks) -> None:
        super().__init__(None, batch_size, workers)
        self.sampler = sampler
        self.workers = workers
        self.ranks = ranks
        self.next_step = first_step
        self.started = False

    def generate_train_batch(self) -> dict[str, Any]:
        if not self.started:
            follow_parent()
            # One thread: the cores belong to the training, and OpenMP's threads do not survive a fork.
            torch.set_num_threads(1)
            self.next_step += self.thread_id
            self.started = True
        step = self.next_step
        self.next_step += self.workers
        try:
            return {"step": step, "examples": _examples(self.sampler, self.batch_size, step, self.ranks)}
        except DetSeg3DError as error:  # batchgenerators would print it and end the training with an error of its own
            return {"step": step, "error": error}


@contextmanager
def batches(
    sampler: WindowSampler, batch_size: int, first_step: int, num_workers: int, ranks: Ranks = ALONE
) -> Iterator[Iterator[tuple[int, list[Example]]]]:
    """Endless iterator over ``(step, examples)`` from ``first_step`` on; workers end with the context.

    Parameters
    ----------
    sampler : WindowSampler
    batch_size : int
    first_step : int
    num_workers : int
        Worker processes that prepare batches ahead; 0 prepares each when it is asked for.
    ranks : Ranks, optional
        The processes that train together: each gets batches of its own.
    """
    if num_workers > 0:
        refused = _refused_by_system(num_workers)
        if refused is not None:
            logger.warning(
                "no worker processes prepare windows: the system refuses what they need to share, most often since "
                "/dev/shm is full, small or read-only (%s); windows are prepared in this process, which is slower",
                refused.strerror or refused,
            )
            num_workers = 0
    if num_workers == 0:
        yield ((step, _examples(sampler, batch_size, step, ranks)) for step in _count(first_step))
        return
    loader = _WorkerLoader(sampler, batch_size, first_step, num_workers, ranks)
    augmenter = MultiThreadedAugmenter(loader, None, num_workers, num_cached_per_queue=2, wait_time=0.005)
    try:
        yield _received(augmenter)
    finally:
        augmenter._finish()


def _refused_by_system(num_workers: int) -> OSError | None:
    """What the system says against the semaphores of so many workers; ``None`` if it gives them.

    They are tried out and given back at once. The augmenter would fail halfway, and once more when it is destroyed.
    """
    try:
        _shared = [multiprocessing.Event(), multiprocessing.Event()]
        _queues: list[object] = [multiprocessing.Queue(2) for _ in range(num_workers)]
    except OSError as error:
        return error
    return None


def _received(augmenter: MultiThreadedAugmenter) -> Iterator[tuple[int, list[Example]]]:
    """The batches of the workers; their errors are raised here."""
    while True:
        try:
            batch = next(augmenter)
        except RuntimeError as error:
            raise DetSeg3DError(
                f"a process that prepares windows has ended: {error}",
                remedy="the memory may not suffice: try --num_workers 0; go on from the last checkpoint with --c",
            ) from error
        except OSError as error:
            raise DetSeg3DError(
                f"processes that prepare windows cannot be started: {error.strerror or error}",
                file=error.filename,
                remedy="use --num_workers 0; or give the system more room in /dev/shm, or more open files (ulimit -n)",
            ) from error
        if "error" in batch:
            raise batch["error"]
        yield batch["step"], batch["examples"]


def _count(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def _examples(sampler: WindowSampler, batch_size: int, step: int, ranks: Ranks) -> list[Example]:
    first = (step * ranks.size + ranks.rank) * batch_size
    return [sampler.example(first + i) for i in range(batch_size)]
