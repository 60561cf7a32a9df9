"""Preprocess the training cases of a data set into a case store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.data.cases import read_case, source_digest
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.planning.plans import Plans, preprocessing_hash
from detseg3d.preprocessing.case import DegenerateChannel, preprocess_case
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["preprocess_dataset", "replaced_cases"]


logger = logging.getLogger(__name__)


def preprocess_dataset(
    raw: RawDataset, plans: Plans, store_folder: str | Path, run: Run = Run(processes=2)
) -> list[str]:
    """Preprocess all training cases into a case store.

    Complete cases in the store are kept if they were made from the same files with plans of the same hash. A run that
    was killed therefore continues where it stopped. Cases that are no longer in the data set are removed.

    Parameters
    ----------
    raw : RawDataset
    plans : Plans
    store_folder : path
    run : Run, optional

    Returns
    -------
    list of str
        The cases that this call preprocessed.

    Raises
    ------
    DetSeg3DError
        If cases failed. The error names all of them with their reasons. The other cases are preprocessed.
    """
    store = CaseStore(store_folder)
    for case_id in set(store.case_ids()) - {case.case_id for case in raw.cases}:
        logger.info("case %s is no longer in the data set and was removed from the store", case_id)
        store.remove(case_id)
    wanted = preprocessing_hash(plans)
    todo = [case for case in raw.cases if not _is_done(case, store, wanted)]
    if len(todo) < len(raw.cases):
        logger.info("%d of %d cases are preprocessed already", len(raw.cases) - len(todo), len(raw.cases))
    function = partial(_preprocess_and_store, raw=raw, plans=plans, folder=Path(store_folder))
    results = run_cases(function, todo, run, "preprocessing")
    failures = describe_failures(results, lambda case: str(case.case_id))
    if failures:
        count = sum(result.error is not None for result in results)
        raise DetSeg3DError(
            f"{count} of {len(todo)} case(s) could not be preprocessed:\n{failures}",
            remedy="correct or remove these cases and run the same command again. Finished cases are kept",
        )
    outcomes = [(result.item, result.value) for result in results if result.value is not None]
    rescued = sum(outcome.rescued for _, outcome in outcomes)
    if rescued:
        logger.info("%d lesion(s) would have vanished in resampling. Each keeps one voxel", rescued)
    degenerate = [
        f"    {case.images[channel.channel].name} (channel {plans.channel_names[channel.channel]}): {channel.reason}"
        for case, outcome in outcomes
        for channel in outcome.degenerate
    ]
    if degenerate:
        logger.warning("these images carry no information after normalisation:\n%s", "\n".join(degenerate))
    return [case.case_id for case in todo]


def replaced_cases(raw: RawDataset, plans: Plans, store_folder: str | Path) -> list[str]:
    """Return the cases of the store that :func:`preprocess_dataset` would replace or remove, sorted."""
    store = CaseStore(store_folder)
    kept = {case.case_id for case in raw.cases if _is_done(case, store, preprocessing_hash(plans))}
    return sorted(set(store.case_ids()) - kept)


def _is_done(case: RawCase, store: CaseStore, wanted: str) -> bool:
    """Return whether the stored case was made from the current files with these plans.

    A corrected label changes the digest of the files, so the case is preprocessed again.
    """
    if not store.is_complete(case.case_id, wanted):
        return False
    try:
        store.shape_and_lesions(case.case_id)
    except DetSeg3DError:  # The record was edited or is damaged.
        return False
    return store.properties(case.case_id).get("source") == source_digest(case)


@dataclass(frozen=True)
class _Outcome:
    """Facts about a preprocessed case that are logged."""

    rescued: int  # lesions
    degenerate: tuple[DegenerateChannel, ...] = ()


def _preprocess_and_store(case: RawCase, raw: RawDataset, plans: Plans, folder: Path) -> _Outcome:
    """Preprocess one case and write it to the store."""
    store = CaseStore(folder)
    if _is_done(case, store, preprocessing_hash(plans)):  # Another run has finished it meanwhile.
        return _Outcome(sum(lesion["rescued"] for lesion in store.properties(case.case_id)["lesions"]))
    images, geometry, instances, classes = read_case(case, raw)
    result = preprocess_case(images, geometry.spacing, plans, instances, classes)
    assert result.instances is not None
    store.write(
        case.case_id,
        result.image,
        result.instances,
        {
            "preprocessing_hash": preprocessing_hash(plans),
            "source": source_digest(case),
            "shape": list(result.transform.fine_shape),
            "spacing": list(result.transform.fine_spacing),
            "transform": result.transform.to_dict(),
            "lesions": result.lesions,
            "intensity": _intensity(result.image),
        },
    )
    return _Outcome(sum(lesion["rescued"] for lesion in result.lesions), result.degenerate)


def _intensity(image: npt.NDArray[np.float32]) -> list[dict[str, float]]:
    """Return minimum, mean and maximum of each normalised channel. Odd values show that normalisation failed."""
    return [{"min": float(c.min()), "mean": float(c.mean(dtype=float)), "max": float(c.max())} for c in image]
