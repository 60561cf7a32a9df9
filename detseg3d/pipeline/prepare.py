"""All that happens between a raw data set and the first training step: verify, measure, plan, split, preprocess."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import normal_name
from detseg3d.core.precision import Precision
from detseg3d.data.cases import source_digest
from detseg3d.data.dataset import RawDataset, as_instance_maps, load_raw_dataset
from detseg3d.data.folders import PreparedFolder, RawFolder
from detseg3d.data.verify import format_problems, verify_dataset
from detseg3d.planning.fingerprint import DatasetFacts, Fingerprint
from detseg3d.planning.fingerprint_file import describe_dataset, load_fingerprint, save_fingerprint
from detseg3d.planning.measuring import measure_dataset
from detseg3d.planning.planner import plan_dataset
from detseg3d.planning.plans import Plans, load_plans, save_plans
from detseg3d.planning.splits import (
    FOLDS,
    Split,
    load_splits,
    make_holdout_split,
    make_splits,
    warn_of_folds_without_lesions,
)
from detseg3d.preprocessing.dataset import preprocess_dataset, replaced_cases
from detseg3d.system.device import choose_precision, resolve_device
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.lock import locked
from detseg3d.system.run import Run

__all__ = [
    "PreparedDataset",
    "PrepareOptions",
    "cases_in_use",
    "lesion_loads",
    "plan_from_fingerprint",
    "prepare_dataset",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare a data set.

    Attributes
    ----------
    verify : bool
        Open every file first and stop if anything is wrong.
    preprocess : bool
        Fill the case store; without it only fingerprint, plans and splits are made.
    run : Run
        Number of worker processes and display of progress.
    training_gb : float
        Memory that training may take.
    inference_gb : float
        Memory that the prediction of a planned volume may take above its input.
    val_split : float or None
        Share of the cases for one seeded split; ``None`` for five folds.
    seed : int or None
        Of the splits; ``None`` for the default.
    roi_size : int, 3 ints or None
        Overrides the planned RoI.
    interpolation_order : int
        Interpolation of images: 1 linear, 3 cubic.
    precision : Precision
        Of the feature maps in training; the memory is planned for it. ``AUTO`` plans for this machine.
    instances : bool
        The labels are instance maps, whatever dataset.json says.
    keep_plans : bool
        Use the plans.json that is there (edited by hand, or of another data set) instead of planning.
    clean : bool
        Remove earlier results of this data set first.
    """

    verify: bool = False
    preprocess: bool = True
    run: Run = Run(processes=2)
    training_gb: float = 8.0
    inference_gb: float = 2.0
    val_split: float | None = None
    seed: int | None = None
    roi_size: int | Sequence[int] | None = None
    interpolation_order: int = 1
    precision: Precision = Precision.AUTO
    instances: bool = False
    keep_plans: bool = False
    clean: bool = False


@dataclass(frozen=True)
class PreparedDataset:
    """What :func:`prepare_dataset` made. ``preprocessed`` names the cases that were preprocessed this time."""

    folder: Path
    plans: Plans
    splits: list[Split]
    preprocessed: list[str]


def prepare_dataset(
    raw_folder: str | Path, preprocessed_root: str | Path, options: PrepareOptions | None = None
) -> PreparedDataset:
    """Plan and preprocess one data set.

    Parameters
    ----------
    raw_folder : path
        ``DatasetXXX_Name``.
    preprocessed_root : path
        Gets a folder of the same name with ``dataset.json``, ``dataset_fingerprint.json``, ``plans.json``,
        ``splits_final.json`` and the case store ``cases``.
    options : PrepareOptions, optional

    Raises
    ------
    DetSeg3DError
        If the verification finds problems (all in one table), a step fails, or another process uses preprocessed cases
        that would be replaced.

    Examples
    --------
    >>> prepared = prepare_dataset("raw/Dataset001_Example", "preprocessed")      # doctest: +SKIP
    >>> prepared.plans.fine_spacing                                               # doctest: +SKIP
    (1.0, 1.0, 1.0)
    """
    options = options or PrepareOptions()
    raw = load_raw_dataset(raw_folder)
    if options.instances:
        raw = as_instance_maps(raw)
    folder = PreparedFolder(Path(preprocessed_root) / raw.name)
    if options.verify:
        _verify(raw, options)
    # Two that prepare one data set do so one after the other: the second finds done what the first has done.
    with locked(folder.preparing_lock, "preparing the data set", "the data set is being prepared", wait=True):
        return _prepare(raw, folder, options)


def _prepare(raw: RawDataset, folder: PreparedFolder, options: PrepareOptions) -> PreparedDataset:
    cases = folder.cases
    with ExitStack() as stack:
        if options.clean:
            if cases.is_dir():
                stack.enter_context(_cases_replaced(folder))
            _clean(folder)
        write_json({**read_json(RawFolder(raw.folder).dataset_json), "instances": raw.instances}, folder.dataset_json)
        fingerprint = _fingerprint(raw, folder.fingerprint, options)
        plans = _plan(raw, fingerprint, folder.plans, options)
        if options.preprocess and replaced_cases(raw, plans, cases):
            stack.enter_context(_cases_replaced(folder))  # before plans.json says what the cases are not yet
        if not options.keep_plans:
            save_plans(plans, folder.plans)
        splits = _split(raw, fingerprint, folder.splits, options)
        done: list[str] = []
        if options.preprocess:
            done = preprocess_dataset(raw, plans, cases, options.run)
    return PreparedDataset(folder.path, plans, splits, done)


def plan_from_fingerprint(
    file: str | Path, preprocessed_root: str | Path, options: PrepareOptions | None = None
) -> PreparedDataset:
    """Plan a data set from its fingerprint alone: no image is read, and no case is preprocessed.

    Parameters
    ----------
    file : path
        A ``dataset_fingerprint.json``.
    preprocessed_root : path
        Gets ``plans.json`` and ``splits_final.json`` in a folder of the data set's name, and ``dataset.json`` and
        ``dataset_fingerprint.json`` if they are not there.
    options : PrepareOptions, optional
        Those of planning and of the splits are used.

    Raises
    ------
    DetSeg3DError
        If the fingerprint cannot be used (see :func:`detseg3d.planning.fingerprint_file.load_fingerprint`), the folder
        holds another fingerprint, or no plan fits.
    """
    options = options or PrepareOptions()
    fingerprint = load_fingerprint(file)
    raw = describe_dataset(fingerprint)
    folder = PreparedFolder(Path(preprocessed_root) / raw.name)
    with locked(folder.preparing_lock, "preparing the data set", "the data set is being prepared", wait=True):
        stored = folder.fingerprint
        if not stored.exists():
            save_fingerprint(fingerprint, stored)
        elif _stored_fingerprint(stored) != fingerprint:
            raise DetSeg3DError(
                "the folder of the data set holds another fingerprint",
                file=stored,
                value=str(file),
                remedy="plan from that one, or choose another folder with --preprocessed",
            )
        plans = _plan(raw, fingerprint, folder.plans, options)
        if not folder.dataset_json.exists():
            write_json(_description(raw), folder.dataset_json)
        save_plans(plans, folder.plans)
        splits = _split(raw, fingerprint, folder.splits, options)
    return PreparedDataset(folder.path, plans, splits, [])


def _description(raw: RawDataset) -> dict[str, Any]:
    """A dataset.json with what is known from a fingerprint."""
    return {
        "channel_names": {str(index): name for index, name in enumerate(raw.channel_names)},
        "labels": raw.labels,
        "numTraining": len(raw.cases),
        "file_ending": raw.file_ending,
        "instances": raw.instances,
        **({} if raw.default_spacing is None else {"default_spacing": list(raw.default_spacing)}),
        **({"suv": list(raw.suv_channels)} if raw.suv_channels else {}),
        "patients": raw.patients,
    }


def cases_in_use(folder: PreparedFolder, purpose: str) -> AbstractContextManager[None]:
    """While the context lasts, no other process replaces the preprocessed cases of a data set.

    Parameters
    ----------
    folder : PreparedFolder
    purpose : str
        What this process does, as a participle: ``"training fold 0"``.

    Raises
    ------
    DetSeg3DError
        If another process is replacing them just now; on entering the context.
    """
    problem = "the preprocessed cases of this data set are being replaced"
    return locked(folder.cases_lock, purpose, problem, shared=True)


def _cases_replaced(folder: PreparedFolder) -> AbstractContextManager[None]:
    """While the context lasts, no other process uses the preprocessed cases."""
    problem = "preprocessed cases would be replaced that another process uses"
    return locked(folder.cases_lock, "replacing preprocessed cases", problem)


def _verify(raw: RawDataset, options: PrepareOptions) -> None:
    problems = verify_dataset(raw, options.run, FOLDS if options.val_split is None else 2)
    if any(problem.stops for problem in problems):
        raise DetSeg3DError(
            f"{raw.name} has {len(problems)} problem(s):\n{format_problems(problems)}",
            remedy="mend or remove these cases; without --verify only what stops the preprocessing is reported",
        )
    if problems:
        logger.warning("%s can be used, but look at these files:\n%s", raw.name, format_problems(problems))
    else:
        logger.info("%s: all %d cases are in order", raw.name, len(raw.cases))


def _clean(folder: PreparedFolder) -> None:
    """Remove what earlier runs made, and nothing else that may lie there."""
    for file in (folder.dataset_json, folder.fingerprint, folder.plans, folder.splits):
        file.unlink(missing_ok=True)
    if folder.cases.is_dir():
        shutil.rmtree(folder.cases)


def _fingerprint(raw: RawDataset, file: Path, options: PrepareOptions) -> Fingerprint:
    """The fingerprint, measured anew unless the stored one is of exactly these files and labels."""
    facts = DatasetFacts.of(raw)
    stored = _stored_fingerprint(file)
    if stored is not None and _is_up_to_date(stored, facts, raw):
        logger.info("%s: the fingerprint is up to date", raw.name)
        cases = {name: case.model_copy(update={"patient": raw.patient_of(name)}) for name, case in stored.cases.items()}
        fingerprint = stored.model_copy(update={"cases": cases})
        if fingerprint != stored:  # patients are not measured
            save_fingerprint(fingerprint, file)
        return fingerprint
    fingerprint = measure_dataset(raw, options.run)
    save_fingerprint(fingerprint, file)
    return fingerprint


def _is_up_to_date(stored: Fingerprint, facts: DatasetFacts, raw: RawDataset) -> bool:
    sources = {case.case_id: source_digest(case, raw.instance_classes) for case in raw.cases}
    return stored.dataset == facts and sources == {name: case.source for name, case in stored.cases.items()}


def _stored_fingerprint(file: Path) -> Fingerprint | None:
    """What was measured before; ``None`` if nothing was, or if the file is damaged, edited or of another version."""
    if not file.exists():
        return None
    try:
        return load_fingerprint(file)
    except DetSeg3DError as error:
        logger.warning("%s cannot be used, the data set is measured again: %s", file, error.problem)
    return None


def _plan(raw: RawDataset, fingerprint: Fingerprint, file: Path, options: PrepareOptions) -> Plans:
    if options.keep_plans:
        plans = load_plans(file)
        kept = (plans.channel_names, plans.class_labels, plans.instances)
        wanted = (raw.channel_names, raw.class_labels, raw.instances)
        if kept != wanted:
            raise DetSeg3DError(
                "the plans kept are of other channels, classes or kind of labels (instances) than the data set",
                file=file,
                value=kept,
                expected=str(wanted),
                remedy="plan anew: leave --keep_plans out",
            )
        return plans
    precision = choose_precision(resolve_device(None), options.precision)
    plans = plan_dataset(
        fingerprint,
        raw,
        options.training_gb,
        options.roi_size,
        options.interpolation_order,
        options.inference_gb,
        precision,
    )
    plans = plans.evolve(training={"precision": options.precision})
    for decision in plans.decisions:
        if decision.name == "warning":
            logger.warning("%s: %s", raw.name, decision.reason)
    return plans


def lesion_loads(fingerprint: Fingerprint) -> dict[str, float]:
    """Rank of each case by its number of lesions, then by their volume: what the folds are balanced by.

    Cases without a lesion all rank 0.
    """
    measured = {
        name: (len(case.lesions), sum(lesion.volume_mm3 for lesion in case.lesions))
        for name, case in fingerprint.cases.items()
    }
    order = sorted(set(measured.values()) | {(0, 0)})
    return {name: float(order.index(load)) for name, load in measured.items()}


def _split(raw: RawDataset, fingerprint: Fingerprint, file: Path, options: PrepareOptions) -> list[Split]:
    """Splits that are there may be the user's own: kept, unless options ask for others or cases are gone."""
    cases = [case.case_id for case in raw.cases]
    loads = lesion_loads(fingerprint)
    if file.exists() and options.val_split is None and options.seed is None:
        splits = _kept_splits(file, set(cases))
        if splits is not None:
            _warn_of_shared_patients(splits, raw, file)
            warn_of_folds_without_lesions(splits, loads)
            return splits
    patients = {case: raw.patient_of(case) for case in cases}
    seed = {} if options.seed is None else {"seed": options.seed}
    if options.val_split is None:
        classes = {
            name: frozenset(lesion.class_index for lesion in case.lesions) for name, case in fingerprint.cases.items()
        }
        splits = make_splits(cases, patients, loads, classes=classes, **seed)
    else:
        splits = make_holdout_split(cases, patients, loads, options.val_split, **seed)
    warn_of_folds_without_lesions(splits, loads)
    write_json(splits, file)
    return splits


def _warn_of_shared_patients(splits: list[Split], raw: RawDataset, file: Path) -> None:
    """Say aloud which folds have a patient on both sides: "patients" may have been added after the folds were made.

    Only a warning, for the folds may be the user's own; where the same cases train and validate it is no oversight.
    """
    for number, split in enumerate(splits):
        train, val = ({raw.patient_of(case) for case in split[part]} for part in ("train", "val"))
        shared = sorted(train & val)
        if shared and set(split["train"]) != set(split["val"]):
            logger.warning(
                "%s is kept, but fold %d has %d patient(s) both in training and in validation, which flatters its "
                "figures: %s; --seed N makes new folds, or edit the file",
                file,
                number,
                len(shared),
                shared[:5],
            )


def _kept_splits(file: Path, cases: set[str]) -> list[Split] | None:
    splits = load_splits(file)
    own = {normal_name(case): case for case in cases}
    renamed = [
        {**split, **{part: [own.get(normal_name(case), case) for case in split[part]] for part in ("train", "val")}}
        for split in splits
    ]
    if renamed != splits:  # written on another system: the same names in another normal form
        splits = renamed
        write_json(splits, file)
    named = {case for split in splits for case in (*split["train"], *split["val"])}
    if named - cases:
        # They may be the user's own, with a typo.
        kept = PreparedFolder(file.parent).replaced_splits
        write_json(splits, kept)
        logger.warning(
            "new splits are made: %s names cases that are gone: %s; the old ones are kept as %s",
            file,
            sorted(named - cases)[:5],
            kept.name,
        )
        return None
    if cases - named:
        logger.warning("%s is kept; it leaves out %d case(s): %s", file, len(cases - named), sorted(cases - named)[:5])
    else:
        logger.info("%s is kept", file)
    return splits
