"""Prepare a raw data set for the training: verify, measure, plan, split and preprocess it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg3d.core.augmentation import Augmentation
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
    FoldCases,
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
    """Settings of the preparation of a data set.

    Attributes
    ----------
    verify : bool
        Check every file first, and stop if there is a problem.
    preprocess : bool
        Preprocess the cases. Otherwise only fingerprint, plans and splits are made.
    run : Run
        Number of worker processes and display of progress.
    training_gb : float
        Memory for the training, in GB.
    inference_gb : float
        Memory for the prediction of a planned volume, not counting its input, in GB.
    val_split : float or None
        Fraction of the cases that is held out in a single split. ``None``: five folds.
    seed : int or None
        Seed of the splits. ``None``: the default, and existing splits are kept.
    roi_size : int, 3 ints or None
        Size of the RoI in samples instead of the planned one.
    interpolation_order : int
        Interpolation of the images: 1 linear, 3 cubic.
    augmentation : Augmentation
        How much the training changes the windows.
    precision : Precision
        Precision of the training, for which the memory is planned. ``AUTO``: that of this machine.
    instances : bool
        The labels are instance maps, even if dataset.json does not say so.
    keep_plans : bool
        Use the existing plans.json, for example one edited by hand, instead of planning.
    clean : bool
        Remove the results of an earlier preparation first.
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
    augmentation: Augmentation = Augmentation.STANDARD
    precision: Precision = Precision.AUTO
    instances: bool = False
    keep_plans: bool = False
    clean: bool = False


@dataclass(frozen=True)
class PreparedDataset:
    """Prepared data set.

    Attributes
    ----------
    folder : Path
    plans : Plans
    splits : list of FoldCases
    preprocessed : list of str
        Cases that were preprocessed in this run. Cases that were up to date are not listed.
    """

    folder: Path
    plans: Plans
    splits: list[FoldCases]
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
        A folder of the same name is created in it, with ``dataset.json``, ``dataset_fingerprint.json``, ``plans.json``,
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
    # A second process that prepares the same data set waits, and then uses the results of the first.
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
        fingerprint = _fingerprint(raw, folder, options)
        plans = _plan(raw, fingerprint, folder.plans, options)
        if options.preprocess and replaced_cases(raw, plans, cases):
            stack.enter_context(
                _cases_replaced(folder)
            )  # before plans.json changes, because the cases do not fit the new plans yet
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
    """Plan a data set from its fingerprint alone. No image is read, and no case is preprocessed.

    Parameters
    ----------
    file : path
        A ``dataset_fingerprint.json``.
    preprocessed_root : path
        ``plans.json`` and ``splits_final.json`` are written to a subfolder with the name of the data set, and
        ``dataset.json`` and ``dataset_fingerprint.json`` if they do not exist.
    options : PrepareOptions, optional
        Only the settings of the planning and of the splits are used.

    Raises
    ------
    DetSeg3DError
        If the fingerprint cannot be used (:func:`detseg3d.planning.fingerprint_file.load_fingerprint`), the folder
        contains another fingerprint, or no plan fits.
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
                "the folder of the data set contains another fingerprint",
                file=stored,
                value=str(file),
                remedy="plan from the fingerprint in the folder, or choose another folder with --preprocessed",
            )
        plans = _plan(raw, fingerprint, folder.plans, options)
        if not folder.dataset_json.exists():
            write_json(_description(raw), folder.dataset_json)
        save_plans(plans, folder.plans)
        splits = _split(raw, fingerprint, folder.splits, options)
    return PreparedDataset(folder.path, plans, splits, [])


def _description(raw: RawDataset) -> dict[str, Any]:
    """Return the content of dataset.json that follows from a fingerprint."""
    return {
        "channel_names": {str(index): name for index, name in enumerate(raw.channel_names)},
        "labels": raw.labels,
        "numTraining": len(raw.cases),
        "file_ending": raw.file_ending,
        "instances": raw.instances,
        **({} if raw.default_spacing is None else {"default_spacing": list(raw.default_spacing)}),
        **({"suv": list(raw.suv_channels)} if raw.suv_channels else {}),
        **({"codes": {name: codes.to_json() for name, codes in raw.codes.items()}} if raw.codes else {}),
        "patients": raw.patients,
    }


def cases_in_use(folder: PreparedFolder, purpose: str) -> AbstractContextManager[None]:
    """Return a context during which no other process replaces the preprocessed cases of a data set.

    Parameters
    ----------
    folder : PreparedFolder
    purpose : str
        Activity of this process for the messages of others: ``"training fold 0"``.

    Raises
    ------
    DetSeg3DError
        On entering the context, if another process is replacing the cases.
    """
    problem = "the preprocessed cases of this data set are being replaced"
    return locked(folder.cases_lock, purpose, problem, shared=True)


def _cases_replaced(folder: PreparedFolder) -> AbstractContextManager[None]:
    """Return a context during which no other process uses the preprocessed cases."""
    problem = "another process uses the preprocessed cases, so they cannot be replaced"
    return locked(folder.cases_lock, "replacing preprocessed cases", problem)


def _verify(raw: RawDataset, options: PrepareOptions) -> None:
    """Check every file, and raise an error with a table of all problems."""
    problems = verify_dataset(raw, options.run, FOLDS if options.val_split is None else 2)
    if any(problem.stops for problem in problems):
        raise DetSeg3DError(
            f"{raw.name} has {len(problems)} problem(s):\n{format_problems(problems)}",
            remedy="correct or remove these cases. Without --verify, only problems that stop preprocessing are listed",
        )
    if problems:
        logger.warning("%s can be used, but check these files:\n%s", raw.name, format_problems(problems))
    else:
        logger.info("%s: no problems in %d cases", raw.name, len(raw.cases))


def _clean(folder: PreparedFolder) -> None:
    """Remove the results of earlier preparations, and no other files."""
    for file in (folder.dataset_json, folder.fingerprint, folder.plans, folder.splits):
        file.unlink(missing_ok=True)
    for subfolder in (folder.measurements, folder.cases):
        if subfolder.is_dir():
            shutil.rmtree(subfolder)


def _fingerprint(raw: RawDataset, folder: PreparedFolder, options: PrepareOptions) -> Fingerprint:
    """Return the fingerprint. It is measured unless the stored one belongs to exactly these files and labels."""
    file = folder.fingerprint
    facts = DatasetFacts.of(raw)
    stored = _stored_fingerprint(file)
    if stored is not None and _is_up_to_date(stored, facts, raw):
        logger.info("%s: the fingerprint is up to date", raw.name)
        cases = {name: case.model_copy(update={"patient": raw.patient_of(name)}) for name, case in stored.cases.items()}
        fingerprint = stored.model_copy(update={"cases": cases})
        if fingerprint != stored:  # the patients in dataset.json have changed
            save_fingerprint(fingerprint, file)
        return fingerprint
    fingerprint = measure_dataset(raw, options.run, folder.measurements)
    save_fingerprint(fingerprint, file)
    if folder.measurements.is_dir():
        shutil.rmtree(folder.measurements)
    return fingerprint


def _is_up_to_date(stored: Fingerprint, facts: DatasetFacts, raw: RawDataset) -> bool:
    """Return whether a stored fingerprint belongs to exactly these files and labels."""
    sources = {case.case_id: source_digest(case, raw.instance_classes) for case in raw.cases}
    return stored.dataset == facts and sources == {name: case.source for name, case in stored.cases.items()}


def _stored_fingerprint(file: Path) -> Fingerprint | None:
    """Return the stored fingerprint; ``None`` if it is missing, damaged, edited or of another version."""
    if not file.exists():
        return None
    try:
        return load_fingerprint(file)
    except DetSeg3DError as error:
        logger.warning("%s cannot be used, so the data set is measured again: %s", file, error.problem)
    return None


def _plan(raw: RawDataset, fingerprint: Fingerprint, file: Path, options: PrepareOptions) -> Plans:
    """Return the plans: the existing ones with ``keep_plans``, else new ones."""
    if options.keep_plans:
        plans = load_plans(file)
        kept = (plans.channel_names, plans.class_labels, plans.instances)
        wanted = (raw.channel_names, raw.class_labels, raw.instances)
        if kept != wanted:
            raise DetSeg3DError(
                "the kept plans have other channels, classes or kind of labels (instances) than the data set",
                file=file,
                value=kept,
                expected=str(wanted),
                remedy="plan again: leave out --keep_plans",
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
    plans = plans.evolve(training={"precision": options.precision, "augmentation": options.augmentation})
    for decision in plans.decisions:
        if decision.name == "warning":
            logger.warning("%s: %s", raw.name, decision.reason)
    return plans


def lesion_loads(fingerprint: Fingerprint) -> dict[str, float]:
    """Return the rank of each case by the number and then by the volume of its lesions.

    The folds are balanced by these ranks. All cases without lesions have rank 0.
    """
    measured = {
        name: (len(case.lesions), sum(lesion.volume_mm3 for lesion in case.lesions))
        for name, case in fingerprint.cases.items()
    }
    ranks = {load: float(rank) for rank, load in enumerate(sorted(set(measured.values()) | {(0, 0)}))}
    return {name: ranks[load] for name, load in measured.items()}


def _split(raw: RawDataset, fingerprint: Fingerprint, file: Path, options: PrepareOptions) -> list[FoldCases]:
    """Return the splits. Existing ones are kept unless ``options`` request others or cases are missing."""
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
    _write_splits(splits, file)
    return splits


def _write_splits(splits: Sequence[FoldCases], file: Path) -> None:
    write_json([fold.to_json() for fold in splits], file)


def _warn_of_shared_patients(splits: list[FoldCases], raw: RawDataset, file: Path) -> None:
    """Warn of folds that have a patient both in training and in validation.

    The entry "patients" of dataset.json may have been added after the splits. This is only a warning, because the user
    may have made the splits. If the same cases train and validate, it is intended.
    """
    for number, fold in enumerate(splits):
        train, validation = ({raw.patient_of(case) for case in cases} for cases in (fold.train, fold.validation))
        shared = sorted(train & validation)
        if shared and set(fold.train) != set(fold.validation):
            logger.warning(
                "%s is kept, but fold %d has %d patient(s) both in training and in validation, so its metrics are too "
                "good: %s. Make new folds with --seed N, or edit the file",
                file,
                number,
                len(shared),
                shared[:5],
            )


def _kept_splits(file: Path, cases: set[str]) -> list[FoldCases] | None:
    """Return the existing splits; ``None`` if they name missing cases."""
    splits = load_splits(file)
    own = {normal_name(case): case for case in cases}
    renamed = [
        FoldCases(
            *(tuple(own.get(normal_name(case), case) for case in cases) for cases in (fold.train, fold.validation))
        )
        for fold in splits
    ]
    if renamed != splits:  # another system has written the same names in another Unicode normal form
        splits = renamed
        _write_splits(splits, file)
    named = {case for fold in splits for case in (*fold.train, *fold.validation)}
    if named - cases:
        # The user may have made the splits, with a typo in a name, so they are not deleted.
        kept = PreparedFolder(file.parent).replaced_splits
        _write_splits(splits, kept)
        logger.warning(
            "new splits are made, because %s names missing cases: %s. The old splits are kept as %s",
            file,
            sorted(named - cases)[:5],
            kept.name,
        )
        return None
    if cases - named:
        logger.warning(
            "%s is kept, but it does not contain %d case(s): %s", file, len(cases - named), sorted(cases - named)[:5]
        )
    else:
        logger.info("%s is kept", file)
    return splits
