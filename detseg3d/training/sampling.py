"""Choose and read the window that each training step sees.

Every random draw depends only on the seed and on the number of the window. A batch is therefore the same whichever
process prepares it, and a resumed training sees the windows of an uninterrupted training.
"""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore, StoredCase, class_of_id
from detseg3d.planning.plans import Plans
from detseg3d.planning.rules.grids import SPARE_VOLUME
from detseg3d.planning.sections import CtNormalization
from detseg3d.system.signals import ignore_signals_in_worker
from detseg3d.training.augmentation.affine import draw_affine, read_window
from detseg3d.training.augmentation.regions import Source, air_of
from detseg3d.training.augmentation.table import AugmentationTable, table_of
from detseg3d.training.augmentation.window import augment_image
from detseg3d.training.distributed import DistributedContext

__all__ = ["CaseTable", "Example", "SamplingOptions", "WindowSampler", "batches"]

logger = logging.getLogger(__name__)

_SINGLE_PROCESS = DistributedContext()
# Fraction of windows at a random position instead of near a lesion: the network must also see normal tissue.
_RANDOM_WINDOW_FRACTION = 0.25
# Windows placed to estimate the average number of lesions in a window.
_PLACEMENTS = 500
# A window is centred at most this fraction of its size away from the centre of its lesion.
_MAX_OFFSET = 0.35


@dataclass(frozen=True)
class Example:
    """One window of a training case.

    Attributes
    ----------
    image : ndarray of float32, shape ``(C, Z, Y, X)``
    instances : ndarray of int32, shape ``(Z, Y, X)``
        Instance map. A lesion keeps the number that it has in its case.
    class_of_id : ndarray of int64
        Class index of each number of the instance map. Entry 0 (background) is not used.
    case_id : str
    """

    image: npt.NDArray[np.float32]
    instances: npt.NDArray[np.int32]
    class_of_id: npt.NDArray[np.int64]
    case_id: str


class CaseTable:
    """Shapes and lesions of the training cases, read once from the store.

    Parameters
    ----------
    store : CaseStore
    case_ids : sequence of str

    Attributes
    ----------
    case_ids : tuple of str
    digests : list of (str or None)
        Digest of each case at the time the table was made.
    shapes : list of (Z, Y, X)
        In fine voxels.
    classes : list of ndarray
        For each case, the class index of each lesion number.
    lesion_case : ndarray of int64, shape ``(L,)``
        Index of the case of each lesion.
    lesion_box : ndarray of float32, shape ``(L, 6)``
        ``(z0, y0, x0, z1, y1, x1)`` in fine voxels.
    lesion_weight : ndarray of float64, shape ``(L,)``
        Probability that a window is placed on the lesion. Half of the windows are drawn uniformly over the lesions,
        half uniformly over the cases with lesions. Neither a case with many lesions nor the cases with few lesions
        dominate the training.
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
        """Return the median shape of the cases, ``(z, y, x)`` in fine voxels."""
        z, y, x = (int(n) for n in np.median(np.asarray(self.shapes), axis=0))
        return z, y, x


@dataclass(frozen=True)
class SamplingOptions:
    """Settings of the windows of one phase.

    Attributes
    ----------
    spacing : tuple of 3 floats
        Fine spacing in mm, ``(z, y, x)``.
    window : tuple of 3 ints or None
        Shape of the windows in fine voxels, ``(z, y, x)``. ``None``: whole volumes.
    seed : int
    augmentation : AugmentationTable
        How often windows are changed, and how much. By default they are only flipped.
    mirror_axes : tuple of int
        Axes along which windows are flipped, 0 is z.
    planned_shape : tuple of 3 ints or None
        Largest volume for which the plan has reserved memory, in fine voxels. A whole volume with over a tenth more
        voxels is cropped to this shape. ``None``: no limit.
    """

    spacing: tuple[float, float, float]
    window: tuple[int, int, int] | None
    seed: int = 0
    augmentation: AugmentationTable = field(default_factory=AugmentationTable)
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    planned_shape: tuple[int, int, int] | None = None

    @classmethod
    def from_plans(cls, plans: Plans, phase: int, seed: int) -> SamplingOptions:
        """Return the settings of a phase of the curriculum.

        Parameters
        ----------
        plans : Plans
        phase : int
            Index of the phase in the curriculum.
        seed : int
        """
        phases = len(plans.training.curriculum)
        table = table_of(plans.training.augmentation).of_phase(phase, phases)
        if all(isinstance(channel, CtNormalization) for channel in plans.normalization):
            table = table.without_inversion()
        return cls(
            spacing=plans.fine_spacing,
            window=plans.training.curriculum[phase].window,
            seed=seed,
            augmentation=table,
            mirror_axes=plans.training.mirror_axes,
            planned_shape=plans.planned_shape,
        )


class WindowSampler:
    """Draw the windows of one phase.

    Parameters
    ----------
    store : CaseStore
    table : CaseTable
        Of cases of the store.
    options : SamplingOptions
    """

    def __init__(self, store: CaseStore, table: CaseTable, options: SamplingOptions) -> None:
        self.store, self.table, self.options = store, table, options
        self._air: dict[int, npt.NDArray[np.float32]] = {}

    def example(self, position: int) -> Example:
        """Return a window of the training.

        Parameters
        ----------
        position : int
            Number of the window, counted over all batches. The same seed and position give the same window.

        Raises
        ------
        DetSeg3DError
            If the case cannot be read, or was preprocessed again since the training began.
        """
        options = self.options
        random = np.random.default_rng([options.seed, 1, position])
        if options.window is None:
            index, center, window = self._choose_volume(position, random)
        else:
            index, center = self.choose_window(random)
            window = options.window
        case = self._open(index)
        affine = draw_affine(
            center, options.spacing, math.prod(window), options.augmentation, random, options.mirror_axes
        )
        image, instances = read_window(case.image, case.instances, affine, window)
        source = Source(self.table.shapes[index], options.spacing, affine, self._air_of(index, case))
        image = augment_image(image, instances, source, options.augmentation, random)
        return Example(image, instances, self.table.classes[index], self.table.case_ids[index])

    def choose_window(self, random: np.random.Generator) -> tuple[int, npt.NDArray[np.float64]]:
        """Choose the case and the centre of a window: near a lesion, or anywhere in a volume.

        Parameters
        ----------
        random : Generator

        Returns
        -------
        index : int
            Index of the case in the table.
        center : ndarray of float64, shape ``(3,)``
            Centre of the window in voxel edges, ``(z, y, x)``. The window lies inside the volume along each axis that
            is long enough.
        """
        table, window = self.table, self.options.window
        assert window is not None, "whole volumes have no position"
        if len(table.lesion_case) == 0 or random.random() < _RANDOM_WINDOW_FRACTION:
            index = int(random.integers(len(table.case_ids)))
            center = random.uniform(0, np.asarray(table.shapes[index]))
        else:
            lesion = int(random.choice(len(table.lesion_case), p=table.lesion_weight / table.lesion_weight.sum()))
            index = int(table.lesion_case[lesion])
            center = self._near_lesion(lesion, window, random)
        return index, _move_inside(center, window, table.shapes[index])

    def mean_lesions(self) -> float:
        """Return the average number of lesions in a window of this phase, at least 1.

        For windows, lesions are counted whose box centre lies in the window, over 500 placements that do not depend on
        the seed. For whole volumes, the average number of lesions of a case is returned.
        """
        table, window = self.table, self.options.window
        if window is None:
            return max(1.0, len(table.lesion_case) / len(table.case_ids))
        half = np.asarray(window) / 2
        lesion_centers = (table.lesion_box[:, :3] + table.lesion_box[:, 3:]) / 2
        total = 0
        for placement in range(_PLACEMENTS):
            index, center = self.choose_window(np.random.default_rng([4, placement]))
            near = np.all(np.abs(lesion_centers - center) < half, axis=1)
            total += int((near & (table.lesion_case == index)).sum())
        return max(1.0, total / _PLACEMENTS)

    def _open(self, index: int) -> StoredCase:
        """Open a case of the table. It must not have changed since the training began."""
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

    def _air_of(self, index: int, case: StoredCase) -> npt.NDArray[np.float32]:
        """Return the intensity of air of each channel of a case of the table. Each case is read once."""
        if index not in self._air:
            self._air[index] = air_of(case.image)
        return self._air[index]

    def _choose_volume(
        self, position: int, random: np.random.Generator
    ) -> tuple[int, npt.NDArray[np.float64], tuple[int, ...]]:
        """Choose a whole volume; return the index of its case, the centre and the shape of the window."""
        # Each round visits all cases once, in a new random order.
        count = len(self.table.case_ids)
        order = np.random.default_rng([self.options.seed, 2, position // count]).permutation(count)
        index = int(order[position % count])
        shape, largest = self.table.shapes[index], self.options.planned_shape
        if largest is None or math.prod(shape) <= SPARE_VOLUME * math.prod(largest):
            return index, np.asarray(shape) / 2, shape
        # The volume does not fit the planned memory: crop it around one of its lesions, or at a random position.
        window = tuple(min(n, limit) for n, limit in zip(shape, largest, strict=True))
        lesions = np.flatnonzero(self.table.lesion_case == index)
        if len(lesions) == 0 or random.random() < _RANDOM_WINDOW_FRACTION:
            center = random.uniform(0, np.asarray(shape))
        else:
            center = self._near_lesion(int(random.choice(lesions)), window, random)
        return index, _move_inside(center, window, shape), window

    def _near_lesion(self, lesion: int, window: Sequence[int], random: np.random.Generator) -> npt.NDArray[np.float64]:
        """Draw the centre of a window that shows the centre of a lesion."""
        box = self.table.lesion_box[lesion]
        offset = random.uniform(-_MAX_OFFSET, _MAX_OFFSET, 3) * window
        center: npt.NDArray[np.float64] = (box[:3] + box[3:]) / 2 + offset
        return center


def _move_inside(center: npt.ArrayLike, window: Sequence[int], shape: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the nearest centre for which the window lies inside the volume; short axes are centred.

    The corner of the window is a whole voxel. Windows that are not rotated can then be copied without interpolation.
    """
    size, length = np.asarray(window, np.float64), np.asarray(shape, np.float64)
    half = np.minimum(size, length) / 2
    center = np.where(size >= length, length / 2, np.clip(center, half, length - half))
    return np.floor(center - size / 2) + size / 2


class _WorkerLoader(SlimDataLoaderBase):  # type: ignore[misc]
    """Loader of one worker process.

    batchgenerators takes batches from the workers in turn: worker ``k`` of ``n`` prepares the steps ``first + k``,
    ``first + k + n``, ….
    """

    def __init__(
        self, sampler: WindowSampler, batch_size: int, first_step: int, workers: int, processes: DistributedContext
    ) -> None:
        super().__init__(None, batch_size, workers)
        self.sampler = sampler
        self.workers = workers
        self.processes = processes
        self.next_step = first_step
        self.started = False

    def generate_train_batch(self) -> dict[str, Any]:
        if not self.started:
            ignore_signals_in_worker()
            # One thread: the training needs the cores, and the threads of OpenMP do not survive a fork.
            torch.set_num_threads(1)
            self.next_step += self.thread_id
            self.started = True
        step = self.next_step
        self.next_step += self.workers
        try:
            return {"step": step, "examples": _examples(self.sampler, self.batch_size, step, self.processes)}
        except DetSeg3DError as error:  # batchgenerators would print the error and raise a different one
            return {"step": step, "error": error}


@contextmanager
def batches(
    sampler: WindowSampler,
    batch_size: int,
    first_step: int,
    num_workers: int,
    processes: DistributedContext = _SINGLE_PROCESS,
) -> Iterator[Iterator[tuple[int, list[Example]]]]:
    """Yield an endless iterator over the batches of a training. The worker processes end with the context.

    Parameters
    ----------
    sampler : WindowSampler
    batch_size : int
    first_step : int
        Step of the first batch.
    num_workers : int
        Worker processes that prepare batches in advance. With 0, this process prepares each batch when it is needed.
    processes : DistributedContext, optional
        Processes that train together. Each of them gets different windows.

    Yields
    ------
    iterator of (int, list of Example)
        Number of the step, and its windows.

    Raises
    ------
    DetSeg3DError
        If a case cannot be read, or a worker process ends or cannot be started.
    """
    if num_workers > 0:
        error = _try_shared_memory(num_workers)
        if error is not None:
            logger.warning(
                "worker processes cannot be used, because the system refuses them shared memory (%s); usually /dev/shm "
                "is full, too small or read-only. The windows are prepared in the main process, which is slower",
                error.strerror or error,
            )
            num_workers = 0
    if num_workers == 0:
        yield ((step, _examples(sampler, batch_size, step, processes)) for step in itertools.count(first_step))
        return
    loader = _WorkerLoader(sampler, batch_size, first_step, num_workers, processes)
    augmenter = MultiThreadedAugmenter(loader, None, num_workers, num_cached_per_queue=2, wait_time=0.005)
    try:
        yield _batches_of_workers(augmenter)
    finally:
        augmenter._finish()


def _try_shared_memory(num_workers: int) -> OSError | None:
    """Create and release the semaphores that the workers need; return the error of the system, if any.

    Without this test, the augmenter would fail half-way, and a second time when it is destroyed.
    """
    try:
        _shared = [multiprocessing.Event(), multiprocessing.Event()]
        _queues: list[object] = [multiprocessing.Queue(2) for _ in range(num_workers)]
    except OSError as error:
        return error
    return None


def _batches_of_workers(augmenter: MultiThreadedAugmenter) -> Iterator[tuple[int, list[Example]]]:
    """Yield the batches of the workers and raise their errors."""
    while True:
        try:
            batch = next(augmenter)
        except RuntimeError as error:
            raise DetSeg3DError(
                f"a process that prepares windows has ended: {error}",
                remedy="the machine may be out of memory: try --num_workers 0, and continue from the last checkpoint "
                "with --c",
            ) from error
        except OSError as error:
            raise DetSeg3DError(
                f"the processes that prepare windows cannot be started: {error.strerror or error}",
                file=error.filename,
                remedy="use --num_workers 0, or provide more space in /dev/shm or more open files (ulimit -n)",
            ) from error
        if "error" in batch:
            raise batch["error"]
        yield batch["step"], batch["examples"]


def _examples(sampler: WindowSampler, batch_size: int, step: int, processes: DistributedContext) -> list[Example]:
    """Read the windows that this process sees in a step."""
    first = (step * processes.size + processes.rank) * batch_size
    return [sampler.example(first + i) for i in range(batch_size)]
