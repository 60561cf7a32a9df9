"""Train one fold and validate it: from the preprocessed data set to an evaluated model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detseg3d.consolidation.true_boxes import segment_true_boxes, write_true_boxes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.data.case_store import CaseStore
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.folders import FoldFolder, ModelFolder, PreparedFolder
from detseg3d.evaluation.folders import evaluate_folders
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.prediction_files import clear_cases
from detseg3d.inference.predictor import Predictor
from detseg3d.models.detseg import DetSeg3D
from detseg3d.pipeline.fold_folder import choose_folder, replace_fold
from detseg3d.pipeline.predict import OutputOptions, predict_cases
from detseg3d.pipeline.prepare import cases_in_use
from detseg3d.pipeline.shifted_validation import clear_shifted_scans, predict_shifted_scans
from detseg3d.planning.appearance.training import TrainingAppearance, save_training_appearance
from detseg3d.planning.fingerprint_file import load_appearances
from detseg3d.planning.label_format import label_format_of
from detseg3d.planning.overrides import TrainingOverrides, apply_overrides
from detseg3d.planning.plans import Plans, load_plans, preprocessing_hash
from detseg3d.planning.splits import FoldCases, load_fold
from detseg3d.system.device import compute_in
from detseg3d.system.files import copy_file, remove_files
from detseg3d.system.json_files import write_json
from detseg3d.system.lock import locked
from detseg3d.system.memory import release_freed_memory, require_memory
from detseg3d.system.run import Run
from detseg3d.training.options import MAX_SHIFTED_SCANS, TrainingData, TrainingOptions
from detseg3d.training.trainer import Trainer

__all__ = ["FoldPaths", "run_fold", "validate_fold"]

logger = logging.getLogger(__name__)

_MIN_BYTES = 1e8


@dataclass(frozen=True)
class FoldPaths:
    """Folders of a data set: raw, preprocessed, and the trained model."""

    raw: Path
    preprocessed: PreparedFolder
    model: ModelFolder


def run_fold(
    paths: FoldPaths,
    name: str,
    options: TrainingOptions,
    overrides: TrainingOverrides | None = None,
    validation_only: bool = False,
) -> EvaluationResult | None:
    """Train a fold, then predict and evaluate its validation cases.

    An earlier training of the fold is kept, see :func:`~detseg3d.pipeline.fold_folder.choose_folder`.

    Parameters
    ----------
    paths : FoldPaths
    name : str
        Number of a split, or ``all``.
    options : TrainingOptions
    overrides : TrainingOverrides, optional
        Values that replace those of the plans.
    validation_only : bool
        Validate a fold that is trained already.

    Returns
    -------
    EvaluationResult or None
        The evaluation, which is also written to ``validation/summary.json``. ``None`` without validation cases.

    Raises
    ------
    DetSeg3DError
        If the data set is not preprocessed with these plans, if the fold contains a training and ``options`` do not
        tell what to do with it, or if another process uses the fold or replaces the cases.
    """
    overrides = overrides or TrainingOverrides()
    cases = load_fold(paths.preprocessed, name)
    # With less memory, the compiled code of PyTorch may end the process instead of raising an error.
    require_memory(_MIN_BYTES, "training", remedy="free memory, or raise the limit of the process (ulimit -v)")
    purpose = f"{'validating' if validation_only else 'training'} fold {name}"
    with cases_in_use(paths.preprocessed, purpose), _fold_in_use(paths, name, purpose, options):
        fold = paths.model.fold(name)
        if validation_only:
            _warn_of_settings(overrides, fold, options)
            if not options.distributed.is_main:
                return None
            _describe_if_missing(paths, cases.train, fold)
            compute_in(options.device, _precision_of_validation(overrides, fold))
            return validate_fold(paths, name, cases.validation, options)
        folder = choose_folder(paths.model, name, options)
        _train(paths, folder, cases, options, overrides)
        if not options.distributed.is_main:
            return None
        if folder != fold:
            replace_fold(folder.path, fold.path)
        return validate_fold(paths, name, cases.validation, options)


def _train(
    paths: FoldPaths,
    folder: FoldFolder,
    cases: FoldCases,
    options: TrainingOptions,
    overrides: TrainingOverrides,
) -> None:
    """Train on the cases and write the model to ``folder``."""
    # A resumed training keeps its plans. Only values given now replace them.
    is_resumed = options.resume and folder.checkpoint.exists()
    recorded = load_plans(folder.plans if is_resumed else paths.preprocessed.plans)
    plans = apply_overrides(recorded, overrides)
    _check_custom_code(plans, recorded, options)
    store = CaseStore(paths.preprocessed.cases, preprocessing_hash(plans))
    _check_store(store, plans, [*cases.train, *cases.validation])
    if options.distributed.is_main:
        _copy_descriptions(paths)
        if cases.train:
            _describe_training_scans(paths, plans, cases.train, folder)
    Trainer(plans, TrainingData(store, cases.train, cases.validation), folder, options).run()
    release_freed_memory()  # the prediction of the validation cases needs it


@contextmanager
def _fold_in_use(paths: FoldPaths, name: str, purpose: str, options: TrainingOptions) -> Iterator[None]:
    """Lock the fold against other processes. Of the processes that train together, one holds the lock."""
    if not options.distributed.is_main:
        yield
        return
    # The lock lies beside the folder of the fold, which a new training may replace.
    with locked(paths.model.fold_lock(name), purpose, f"another process trains or validates fold {name}"):
        yield


def _check_custom_code(plans: Plans, recorded: Plans, options: TrainingOptions) -> None:
    """Raise an error if the training to be resumed used a network or a loss that this command does not name."""
    if options.build_model is not DetSeg3D and plans.training.network is None and plans.training.mask_loss is None:
        return  # a function that was passed in Python has no name to be recorded
    for flag, name, before in (
        ("--network", plans.training.network, recorded.training.network),
        ("--loss", plans.training.mask_loss, recorded.training.mask_loss),
    ):
        is_missing = name is not None and options.build_model is DetSeg3D
        if is_missing or (before is not None and name != before):
            raise DetSeg3DError(
                "the plans record custom code, which is not named in this command",
                value=before or name,
                remedy=f"if you trust that code, name it with {flag} {before or name}",
            )


def _precision_of_validation(overrides: TrainingOverrides, fold: FoldFolder) -> Precision:
    """Return the requested precision, by default the one that the training requested."""
    if overrides.precision is not None or not fold.plans.is_file():
        return overrides.precision or Precision.AUTO
    return load_plans(fold.plans).training.precision


def _warn_of_settings(overrides: TrainingOverrides, fold: FoldFolder, options: TrainingOptions) -> None:
    """Warn if settings of a training are given for a validation."""
    given = [name for name in overrides.given() if name not in ("precision", "network", "mask_loss")]
    given += ["max_minutes"] * (options.max_minutes is not None) + ["overwrite"] * options.overwrite
    if given:
        logger.warning("without training, these settings have no effect: %s; %s is used", ", ".join(given), fold.plans)


def _copy_descriptions(paths: FoldPaths) -> None:
    """Copy the files that describe the data set to the folder of the model."""
    source, target = paths.preprocessed, paths.model
    files = {
        source.dataset_json: target.dataset_json,
        source.fingerprint: target.fingerprint,
        source.plans: target.plans,
    }
    for file, copy in files.items():
        if file.exists():
            copy_file(file, copy)  # replaces a link instead of following it


def _describe_training_scans(paths: FoldPaths, plans: Plans, cases: Sequence[str], fold: FoldFolder) -> None:
    """Write the appearance of the training scans, by which predictions recognise scans that differ from them."""
    scans = load_appearances(paths.preprocessed.fingerprint, cases)
    reference = TrainingAppearance.of(scans, plans.channel_names, plans.normalization)
    save_training_appearance(reference, fold.appearance)


def _describe_if_missing(paths: FoldPaths, cases: Sequence[str], fold: FoldFolder) -> None:
    """Write the appearance of the training scans of a trained fold if it is missing."""
    if cases and fold.plans.is_file() and not fold.appearance.exists():
        _describe_training_scans(paths, load_plans(fold.plans), cases, fold)


def _check_store(store: CaseStore, plans: Plans, cases: Sequence[str]) -> None:
    """Raise an error if a case is not preprocessed with the plans."""
    wanted = preprocessing_hash(plans)
    missing = [case for case in cases if not store.is_complete(case, wanted)]
    if missing:
        raise DetSeg3DError(
            f"{len(missing)} case(s) are not preprocessed with these plans",
            file=store.folder,
            value=missing[:5],
            remedy="run detseg3d_plan_and_preprocess for this data set",
        )


def validate_fold(
    paths: FoldPaths, name: str, cases: Sequence[str], options: TrainingOptions
) -> EvaluationResult | None:
    """Predict the validation cases of a fold from their raw images, and compare them with their labels.

    Parameters
    ----------
    paths : FoldPaths
    name : str
        Name of the fold.
    cases : sequence of str
    options : TrainingOptions
        Device, network, progress bar and number of shifted scans are used.

    Returns
    -------
    EvaluationResult or None
        ``None`` without validation cases.

    Raises
    ------
    DetSeg3DError
        If a case cannot be predicted. The others are predicted and evaluated before.
    """
    raw = load_raw_dataset(paths.raw)
    names = set(cases)
    chosen = [case for case in raw.cases if case.case_id in names]
    if not chosen:
        return None
    validation = paths.model.fold(name).validation
    folder = validation.path
    # The thresholds of the plans are used, because an operating point was chosen on these cases.
    load = LoadOptions(device=str(options.device), use_operating_point=False, build_model=options.build_model)
    predictor = Predictor.from_model_folder(paths.model.path, [name], load)
    # Results of an earlier validation must not remain if a case fails now or the validation is interrupted.
    remove_files(validation.summary, validation.true_boxes)
    clear_shifted_scans(validation)
    clear_cases(folder, [case.case_id for case in chosen])
    output = OutputOptions(ending=raw.file_ending, save_candidates=True, show_progress=options.show_progress)
    failures = predict_cases(predictor, chosen, folder, output=output)
    label_format = label_format_of(predictor.plans, raw)
    given = EvaluationInput(paths.raw, folder, label_format, [case.case_id for case in chosen], raw.label_files)
    result = evaluate_folders(given, run=Run(show_progress=options.show_progress))
    write_json(result.to_json(), validation.summary)
    store = CaseStore(paths.preprocessed.cases)
    write_true_boxes(
        segment_true_boxes(predictor, store, [case.case_id for case in chosen if case.case_id not in failures]),
        validation.true_boxes,
    )
    # Last, so that a user who interrupts this step keeps the complete validation.
    predicted = [case for case in chosen if case.case_id not in failures]
    fold = paths.model.fold(name)
    if not fold.trains_all_cases:
        default = min(MAX_SHIFTED_SCANS, len(predicted))
        count = default if options.shifted_scans is None else options.shifted_scans
        predict_shifted_scans(predictor, raw, predicted, fold, count, options.show_progress)
    if failures:
        raise DetSeg3DError(f"{len(failures)} validation case(s) failed: " + ", ".join(sorted(failures)), file=folder)
    return result
