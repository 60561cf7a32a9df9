"""``detseg3d_train``: train both stages on one fold and validate them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import (
    add_augmentation_flag,
    add_device_flag,
    add_length_flags,
    add_precision_flag,
    add_root_flags,
    add_shifted_scans_flag,
    create_parser,
    fraction,
    mirror_axes,
    non_negative_int,
    positive_float,
    positive_int,
)
from detseg3d.cli.parser import own_word
from detseg3d.cli.running import CommandResult, evaluation_exit_code, require_docstrings, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import ModelFolder, PreparedFolder
from detseg3d.system.run_record import RunTarget

if TYPE_CHECKING:
    from detseg3d.pipeline.train import FoldPaths

__all__ = ["main"]

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_train``."""
    parser = create_parser(
        "detseg3d_train",
        "Train the detector and the segmenter together on one fold of a preprocessed data set. Then predict and\n"
        "evaluate the validation cases of the fold.\n\n"
        "Output: RESULTS/DatasetXXX_Name/fold_FOLD with weights, checkpoint, log, progress.png and validation/.\n"
        "Settings that are not given here are read from plans.json.\n\n"
        "Last, the command predicts copies of validation scans with simulated changes, such as thick slices or noise.\n"
        "detseg3d_consolidate uses them. They take at most as long as the validation (--shifted_scans).\n\n"
        "If the fold is already trained, the command stops. --c continues the training. --overwrite trains again in\n"
        "new_fold_FOLD, which replaces fold_FOLD when its model is complete.\n\n"
        "If a validation case fails, the other cases are evaluated and the exit code is 1.\n\n"
        "With --cluster, several folds are trained at the same time, each by one worker.",
        "detseg3d_train 101 0\ndetseg3d_train 101 0 --steps 20000\n"
        "detseg3d_train 101 0 --max_minutes 20 --seed 1\ndetseg3d_train 101 0 --c\n"
        "detseg3d_train 101 0 --overwrite\n"
        "torchrun --nproc_per_node 4 -m detseg3d.cli.train 101 0      # four GPUs\n"
        "detseg3d_train 101 0 1 2 3 4 --cluster scheduler.json",
    )
    parser.add_dataset("number or name, such as 101 or Dataset101_SynthMS")
    parser.add_argument(
        "folds",
        nargs="+",
        type=own_word,
        metavar="FOLD",
        help="0 to 4, another fold in splits_final.json, or `all`: all cases are training and validation cases; "
        "several folds with --cluster",
    )
    _add_schedule_flags(parser)
    _add_run_flags(parser)
    add_root_flags(parser)
    return parser


def _add_schedule_flags(parser: argparse.ArgumentParser) -> None:
    schedule = parser.add_argument_group("training (instead of the values in the plans)")
    add_length_flags(schedule)
    schedule.add_argument("--batch_size", type=positive_int, metavar="N", help="number of windows or volumes per step")
    schedule.add_argument("--lr", type=positive_float, metavar="RATE", help="highest learning rate of the schedule")
    schedule.add_argument(
        "--roi_size", type=positive_int, metavar="N", help="edge length of the RoI cube in samples, such as 24 or 32"
    )
    schedule.add_argument(
        "--hard_negative_threshold",
        type=fraction,
        metavar="P",
        help="candidates with this score or more that hit no lesion train Stage 2 as negative examples",
    )
    schedule.add_argument(
        "--mask_loss_weight", type=positive_float, metavar="L", help="weight of the segmentation loss"
    )
    add_precision_flag(schedule, None, "default: the value in the plans, usually auto")
    schedule.add_argument("--val_every", type=positive_int, metavar="N", help="number of epochs between validations")
    schedule.add_argument("--whole_volume", action="store_true", help="train on whole volumes only, without windows")
    schedule.add_argument(
        "--mirror_axes",
        type=mirror_axes,
        metavar="AXES",
        help="axes for flips in training and inference: letters such as x or zyx, or none",
    )
    add_augmentation_flag(schedule, None, "default: the value in the plans, usually standard")
    schedule.add_argument(
        "--disable_tta",
        action="store_true",
        default=None,
        help="validate and predict without flipped copies; about twice as fast",
    )


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("this run")
    begin = run.add_mutually_exclusive_group()
    begin.add_argument(
        "--c",
        action="store_true",
        help="continue from the last checkpoint with its settings and its time limit; start if there is no checkpoint",
    )
    begin.add_argument(
        "--overwrite",
        action="store_true",
        help="train a fold again; the files of the earlier training remain until the new model is complete",
    )
    run.add_argument("--val", action="store_true", help="do not train; predict and evaluate the validation cases again")
    run.add_argument(
        "-pretrained_weights",
        "--pretrained_weights",
        type=Path,
        metavar="FILE",
        help="model_*.safetensors with initial weights. Its plans may differ: modules with the same role are "
        "copied, and the log lists the modules. The plans.json of the model must be in the same folder",
    )
    run.add_argument(
        "--network",
        metavar="MODULE:FUNCTION",
        help="function that makes the network from the plans; MODULE must be installed or lie in the current folder",
    )
    run.add_argument(
        "--loss",
        metavar="MODULE:FUNCTION",
        help="function that computes the loss of the masks; with --c and --val, repeat --network and --loss",
    )
    run.add_argument(
        "--seed",
        type=non_negative_int,
        metavar="N",
        help="random seed (default: 0; with --c, the seed of the checkpoint)",
    )
    add_shifted_scans_flag(run)
    add_device_flag(run)
    run.add_argument(
        "--num_workers",
        type=non_negative_int,
        metavar="N",
        help="number of processes that prepare windows (default: 0 on a CPU, else up to 4)",
    )
    run.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="train each fold on a worker of a Dask cluster: tcp://HOST:PORT of its scheduler, its scheduler file, or "
        "local:N for N workers on this machine; install the extra `cluster` first",
    )
    run.add_argument(
        "--tensorboard", action="store_true", help="also write fold_FOLD/tensorboard; install the extra `track` first"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments, _record_target)


def _record_target(options: argparse.Namespace) -> RunTarget | None:
    """Return the folder of the fold, or of its validation with ``--val``. Only the main process writes a record."""
    from detseg3d.data.roots import preprocessed_root, resolve_dataset, results_root
    from detseg3d.training.distributed import is_main_process

    if not is_main_process():
        return None
    prepared = PreparedFolder(resolve_dataset(preprocessed_root(options.preprocessed), options.dataset))
    model = ModelFolder(results_root(options.results) / prepared.path.name)
    inputs: dict[str, list[Path]] = {"data": [prepared.dataset_json, prepared.fingerprint, prepared.splits]}
    if options.cluster is not None:  # the process of each fold writes a record as well
        return RunTarget(model.path, options.seed or 0, inputs, "run_folds")
    [name] = options.folds
    # A training with --overwrite is in a separate folder until it has finished.
    unfinished = model.replacement(name)
    fold = unfinished if unfinished.path.is_dir() else model.fold(name)
    if options.val:
        inputs["model"] = [fold.plans, fold.final_weights]
        return RunTarget(fold.validation.path, None, inputs)
    if options.pretrained_weights is not None:
        inputs["pretrained_weights"] = [options.pretrained_weights]
    return RunTarget(fold.path, options.seed or 0, inputs)


def _run(options: argparse.Namespace) -> CommandResult:
    require_docstrings()
    from detseg3d.data.roots import preprocessed_root, raw_root, resolve_dataset, results_root

    if len(options.folds) > 1 and options.cluster is None:
        raise DetSeg3DError(
            "several folds need a cluster",
            value=" ".join(options.folds),
            remedy="train one fold after the other, or give --cluster",
        )
    preprocessed = resolve_dataset(preprocessed_root(options.preprocessed), options.dataset)
    raw = resolve_dataset(raw_root(options.raw), preprocessed.name)

    from detseg3d.pipeline.train import FoldPaths

    paths = FoldPaths(
        raw=raw,
        preprocessed=PreparedFolder(preprocessed),
        model=ModelFolder(results_root(options.results) / preprocessed.name),
    )
    if options.cluster is not None:
        from detseg3d.cli.train_folds import train_folds

        return train_folds(build_parser(), options, paths)
    return _train(options, paths, options.folds[0])


def _train(options: argparse.Namespace, paths: FoldPaths, fold: str) -> CommandResult:
    """Train or validate one fold in this process."""
    from detseg3d.models.custom import CustomCode
    from detseg3d.models.detseg import DetSeg3D
    from detseg3d.pipeline.train import run_fold
    from detseg3d.planning.overrides import TrainingOverrides
    from detseg3d.reporting.text.evaluation import format_evaluation
    from detseg3d.system.device import default_workers, resolve_device
    from detseg3d.training.distributed import join_processes, leave_processes
    from detseg3d.training.options import TrainingOptions

    custom = CustomCode(options.network, options.loss)
    custom.check()
    processes, device = join_processes(resolve_device(options.device))
    training = TrainingOptions(
        device=device,
        seed=options.seed,
        num_workers=default_workers(device) if options.num_workers is None else options.num_workers,
        max_minutes=options.max_minutes,
        resume=options.c,
        overwrite=options.overwrite,
        shifted_scans=options.shifted_scans,
        pretrained_weights=options.pretrained_weights,
        show_progress=not options.no_progress and processes.is_main,
        tensorboard=options.tensorboard,
        distributed=processes,
        build_model=DetSeg3D if custom == CustomCode() else custom.build,
    )
    overrides = TrainingOverrides(
        steps=options.steps,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.lr,
        roi_size=options.roi_size,
        hard_negative_threshold=options.hard_negative_threshold,
        mask_loss_weight=options.mask_loss_weight,
        val_every=options.val_every,
        mirror_axes=options.mirror_axes,
        augmentation=options.augmentation,
        disable_tta=options.disable_tta,
        precision=options.precision,
        network=options.network,
        mask_loss=options.loss,
        whole_volume=options.whole_volume,
    )
    result = run_fold(paths, fold, training, overrides, options.val)
    leave_processes(processes)
    if result is not None:
        show(format_evaluation(result))
    if processes.is_main:
        show(f"wrote {paths.model.fold(fold).path}")
    data = {
        "folder": str(paths.model.fold(fold).path),
        "evaluation": None if result is None else result.to_json(),
    }
    return CommandResult(data, evaluation_exit_code(result))


if __name__ == "__main__":
    raise SystemExit(main())
