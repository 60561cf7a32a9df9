"""One fold from the preprocessed data set to a validated model: the settings, the training, the validation."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg3d.consolidation.true_boxes import segment_true_boxes, write_true_boxes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.data.case_store import CaseStore
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.folders import FoldFolder, ModelFolder, PreparedFolder
from detseg3d.evaluation.folders import evaluate_folders
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.inference.load import LoadOptions
from detseg3d.inference.prediction_files import clear_cases
from detseg3d.inference.predictor import Predictor
from detseg3d.models.detseg import DetSeg3D
from detseg3d.pipeline.predict import OutputOptions, predict_cases
from detseg3d.pipeline.prepare import cases_in_use
from detseg3d.planning.appearance.training import TrainingAppearance, save_training_appearance
from detseg3d.planning.fingerprint_file import load_appearances
from detseg3d.planning.label_format import label_format_of
from detseg3d.planning.plans import Plans, load_plans, preprocessing_hash
from detseg3d.planning.rules.length import choose_val_every
from detseg3d.planning.rules.rois import requested_roi_size
from detseg3d.planning.rules.segmenter import stage2_plan
from detseg3d.planning.splits import load_splits
from detseg3d.system.device import compute_in
from detseg3d.system.files import copy_file, remove_files, replace_folder, temporary_beside
from detseg3d.system.json_files import write_json
from detseg3d.system.lock import locked
from detseg3d.system.memory import release_freed_memory, require_memory
from detseg3d.system.run import Run
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.schedule import whole_volume_curriculum
from detseg3d.training.trainer import Trainer

__all__ = ["FoldPaths", "apply_overrides", "choose_folder", "load_fold", "run_fold", "validate_fold"]

logger = logging.getLogger(__name__)

_LEAST_BYTES = 1e8


@dataclass(frozen=True)
class FoldPaths:
    """Folders of a data set: raw, preprocessed, and the trained model."""

    raw: Path
    preprocessed: PreparedFolder
    model: ModelFolder


def load_fold(preprocessed: PreparedFolder, name: str) -> tuple[list[str], list[str]]:
    """Training and validation cases of a fold.

    Parameters
    ----------
    preprocessed : PreparedFolder
        Holds the splits.
    name : str
        Number of a split of that file, or ``all``: every case trains, and the same cases validate.

    Raises
    ------
    DetSeg3DError
        If there is no such fold (no fold is ever made up), or the file is none of splits.
    """
    splits = load_splits(preprocessed.splits)
    if name == "all":
        cases = sorted({case for split in splits for part in ("train", "val") for case in split[part]})
        return cases, cases
    if name not in map(str, range(len(splits))):  # nor 00: it would be another folder of the same fold
        raise DetSeg3DError(
            "this fold does not exist",
            file=preprocessed.splits,
            value=name,
            expected=", ".join(map(str, range(len(splits)))) + " or all",
            remedy="choose one of these, or add the fold to the file",
        )
    split = splits[int(name)]
    return list(split["train"]), list(split["val"])


def apply_overrides(plans: Plans, overrides: Mapping[str, Any], whole_volume: bool = False) -> Plans:
    """Plans with the flags of the training command in place of their own values.

    Parameters
    ----------
    plans : Plans
    overrides : mapping
        Fields of :class:`~detseg3d.planning.sections.TrainingPlan`, ``epochs``, ``roi_size`` and ``disable_tta``;
        ``None`` leaves the plan's value. ``epochs`` sets ``steps``; with another length validations are as frequent as
        the planner would make them. ``mirror_axes`` holds for the copies at inference, too, if there are any.
    whole_volume : bool
        Train on whole volumes from the start.
    """
    others = ("roi_size", "disable_tta", "epochs")
    training = {name: value for name, value in overrides.items() if value is not None and name not in others}
    if overrides.get("epochs") is not None:
        training["steps"] = overrides["epochs"] * plans.training.steps_per_epoch
    if "steps" in training:
        epochs = math.ceil(training["steps"] / plans.training.steps_per_epoch)
        training = {"val_every": choose_val_every(epochs), **training}
    if whole_volume:
        training["curriculum"] = [phase.model_dump() for phase in whole_volume_curriculum()]
    changes: dict[str, Any] = {"training": training}
    if overrides.get("mirror_axes") is not None:
        # A plan without mirrored copies stays one.
        changes["inference"] = {"mirror_axes": overrides["mirror_axes"] if plans.inference.mirror_axes else ()}
    if overrides.get("roi_size") is not None:
        # By the planner's own rules: fewer samples along coarse axes, and a U-Net that fits.
        size = requested_roi_size(overrides["roi_size"], plans.fine_spacing, plans.planned_shape)
        shape = stage2_plan(size, plans.fine_spacing).model_dump(include={"channels", "strides", "kernels"})
        changes |= {"roi": {"size": size}, "stage2": shape}
    if overrides.get("disable_tta"):
        changes["inference"] = {"mirror_axes": ()}
    return plans.evolve(**changes)


def run_fold(
    paths: FoldPaths,
    name: str,
    options: TrainingOptions,
    overrides: Mapping[str, Any],
    whole_volume: bool = False,
    validation_only: bool = False,
) -> EvaluationResult | None:
    """Train a fold and predict and evaluate its validation cases with the inference code.

    A fold that holds a training is kept. With ``options.overwrite`` a new training is written to a folder beside it,
    :meth:`~detseg3d.data.folders.ModelFolder.replacement`, and takes its place once the new model is complete.

    Returns
    -------
    EvaluationResult or None
        The evaluation, also written to ``validation/summary.json``; ``None`` without validation cases.

    Raises
    ------
    DetSeg3DError
        If the data set is not preprocessed, or not with these plans, if the fold holds a training and ``options`` do
        not say what to do with it, or if another process replaces the cases, or trains or validates this fold.
    """
    train_cases, val_cases = load_fold(paths.preprocessed, name)
    # With less, PyTorch's compiled code may end the process instead of raising an error.
    require_memory(_LEAST_BYTES, "training", remedy="free memory, or raise the limit of the process (ulimit -v)")
    doing = f"{'validating' if validation_only else 'training'} fold {name}"
    with cases_in_use(paths.preprocessed, doing), _fold_in_use(paths, name, doing, options):
        if validation_only:
            _warn_of_settings(overrides, whole_volume, paths.model.fold(name), options)
            if not options.distributed.is_main:
                return None
            _describe_if_missing(paths, train_cases, paths.model.fold(name))
            compute_in(options.device, _precision_of_validation(overrides, paths.model.fold(name)))
            return validate_fold(paths, name, val_cases, options)
        folder = choose_folder(paths, name, options)
        # A training that is resumed keeps the settings it was started with, but for those given anew.
        resumed = options.resume and folder.checkpoint.exists()
        source = folder.plans if resumed else paths.preprocessed.plans
        plans = apply_overrides(load_plans(source), overrides, whole_volume)
        _check_custom_code(plans, load_plans(source), options)
        store = CaseStore(paths.preprocessed.cases, preprocessing_hash(plans))
        _check_store(store, plans, [*train_cases, *val_cases])
        if options.distributed.is_main:
            _copy_descriptions(paths)
            if train_cases:
                _describe_training_scans(paths, plans, train_cases, folder)
        Trainer(plans, TrainingData(store, train_cases, val_cases), folder, options).run()
        release_freed_memory()  # the prediction comes on top
        if not options.distributed.is_main:
            return None
        if folder != paths.model.fold(name):
            _take_place(folder.path, paths.model.fold(name).path)
        return validate_fold(paths, name, val_cases, options)


@contextmanager
def _fold_in_use(paths: FoldPaths, name: str, purpose: str, options: TrainingOptions) -> Iterator[None]:
    """Keep other processes from training or validating the same fold; of processes that train together, one does."""
    if not options.distributed.is_main:
        yield
        return
    # Beside the fold's folder, which a new training may replace.
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


def _precision_of_validation(overrides: Mapping[str, Any], fold: FoldFolder) -> Precision:
    """What is asked for, else what the training of the fold was asked to compute in."""
    asked: Precision | None = overrides.get("precision")
    if asked is not None or not fold.plans.is_file():
        return asked or Precision.AUTO
    return load_plans(fold.plans).training.precision


def _warn_of_settings(
    overrides: Mapping[str, Any], whole_volume: bool, fold: FoldFolder, options: TrainingOptions
) -> None:
    others = {"whole_volume": whole_volume, "max_minutes": options.max_minutes, "overwrite": options.overwrite}
    settings = {
        name: value
        for name, value in {**overrides, **others}.items()
        if name not in ("precision", "network", "mask_loss")
    }
    given = [name for name, value in settings.items() if value is not None and value is not False]
    if given:
        logger.warning("nothing is trained, so without effect: %s; %s decides", ", ".join(given), fold.plans)


def choose_folder(paths: FoldPaths, name: str, options: TrainingOptions) -> FoldFolder:
    """The folder that a training of a fold writes to; an earlier training never loses its files to a new one.

    Parameters
    ----------
    paths : FoldPaths
    name : str
        Name of the fold.
    options : TrainingOptions
        ``resume`` and ``overwrite`` are looked at.

    Returns
    -------
    FoldFolder
        The fold's own folder, or with ``overwrite`` the folder beside it.

    Raises
    ------
    DetSeg3DError
        If the fold holds a training, finished or not, and it is neither to be resumed nor to be overwritten.
    """
    fold, replacement = paths.model.fold(name), paths.model.replacement(name)
    replacing = replacement.path.is_dir()
    trained = any(file.exists() for file in (fold.checkpoint, fold.best_weights, fold.final_weights))
    if options.resume:
        if not replacing and trained and not fold.checkpoint.exists():
            raise DetSeg3DError(
                "this fold has weights but not the checkpoint that a training could go on from",
                file=fold.path,
                remedy="train it anew with --overwrite, which keeps the weights until the new model is complete",
            )
        return replacement if replacing else fold
    if not replacing and not trained:
        return fold
    if options.overwrite:
        logger.info(
            "training in %s; %s stays as it is until the new model is complete", replacement.path.name, fold.path.name
        )
        return replacement
    if replacing:
        raise DetSeg3DError(
            "this fold is being trained anew, and the new training is not complete",
            file=replacement.path,
            remedy="go on with --c, begin again with --overwrite, or remove this folder to keep the fold as it is",
        )
    if fold.final_weights.exists():
        raise DetSeg3DError(
            "this fold is trained already",
            file=fold.path,
            remedy="train it anew with --overwrite, which keeps the model until the new one is complete; "
            "--val predicts and evaluates its validation cases again",
        )
    raise DetSeg3DError(
        "this fold holds a training that is not complete",
        file=fold.path,
        remedy="go on with --c, or begin again with --overwrite",
    )


def _take_place(new: Path, fold: Path) -> None:
    """Put the folder of a complete training in the place of the fold's; what lay there is removed after that."""
    earlier = temporary_beside(fold)
    try:
        if fold.exists():
            replace_folder(fold, new, earlier)
        else:
            new.rename(fold)
    except OSError as error:
        raise DetSeg3DError(
            f"the new model is complete, but cannot take its place: {error.strerror or error}",
            file=new,
            remedy=f"check the permissions of the folder above, then go on with --c; {fold.name} is as it was",
        ) from error
    shutil.rmtree(earlier, ignore_errors=True)
    logger.info("the new model has taken its place in %s", fold.name)


def _copy_descriptions(paths: FoldPaths) -> None:
    """What a results folder needs to be understood on its own."""
    source, target = paths.preprocessed, paths.model
    files = {
        source.dataset_json: target.dataset_json,
        source.fingerprint: target.fingerprint,
        source.plans: target.plans,
    }
    for file, copy in files.items():
        if file.exists():
            copy_file(file, copy)  # never through a link that lies there


def _describe_training_scans(paths: FoldPaths, plans: Plans, cases: list[str], fold: FoldFolder) -> None:
    """Write what the training scans of a fold look like, so that predictions can tell a scan that is unlike them."""
    scans = load_appearances(paths.preprocessed.fingerprint, cases)
    reference = TrainingAppearance.of(scans, plans.channel_names, plans.normalization)
    save_training_appearance(reference, fold.appearance)


def _describe_if_missing(paths: FoldPaths, cases: list[str], fold: FoldFolder) -> None:
    """Write what the training scans of a trained fold look like, unless its folder says so already."""
    if cases and fold.plans.is_file() and not fold.appearance.exists():
        _describe_training_scans(paths, load_plans(fold.plans), cases, fold)


def _check_store(store: CaseStore, plans: Plans, cases: list[str]) -> None:
    wanted = preprocessing_hash(plans)
    missing = [case for case in cases if not store.is_complete(case, wanted)]
    if missing:
        raise DetSeg3DError(
            f"{len(missing)} case(s) are not preprocessed with these plans",
            file=store.folder,
            value=missing[:5],
            remedy="run detseg3d_plan_and_preprocess for this data set",
        )


def validate_fold(paths: FoldPaths, name: str, cases: list[str], options: TrainingOptions) -> EvaluationResult | None:
    """Predict the validation cases of a fold from their raw images and compare them with their labels."""
    raw = load_raw_dataset(paths.raw)
    chosen = [case for case in raw.cases if case.case_id in set(cases)]
    if not chosen:
        return None
    validation = paths.model.fold(name).validation
    folder = validation.path
    # The plan's thresholds: an operating point was chosen on just these cases.
    load = LoadOptions(device=str(options.device), use_operating_point=False, build_model=options.build_model)
    predictor = Predictor.from_model_folder(paths.model.path, [name], load)
    # A case that fails now must not be judged by what an earlier validation wrote of it.
    # And a validation that stops halfway must not pass for the earlier one.
    remove_files(validation.summary, validation.true_boxes)
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
    if failures:
        raise DetSeg3DError(f"{len(failures)} validation case(s) failed: " + ", ".join(sorted(failures)), file=folder)
    return result
