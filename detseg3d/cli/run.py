"""``detseg3d_run``: train and evaluate a model on a folder of images and a folder of labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import (
    add_augmentation_flag,
    add_length_flags,
    add_operate_flag,
    add_precision_flag,
    add_processes_flag,
    add_shifted_scans_flag,
    add_spacing_flag,
    add_training_machine_flags,
    create_parser,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
    run_of,
)
from detseg3d.cli.running import CommandResult, evaluation_exit_code, require_docstrings, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.precision import Precision
from detseg3d.system.run_record import RunTarget

__all__ = ["main"]

DESCRIPTION = """\
Train and evaluate a model on a folder of images and a folder of labels. The command converts,
verifies, plans and preprocesses the cases, and trains on 80 % of them. It predicts, evaluates and
draws the other 20 %.

Images are named CASE.nii.gz, or CASE_0000.nii.gz, CASE_0001.nii.gz, ... if there are several
channels. The label of a case is named CASE.nii.gz; 0 is background, and each other value is a
class of lesions.

Output in OUTPUT_DIR: report.html, metrics.json, pictures/, results/ (the model for
detseg3d_predict -m; predictions of the test cases are in fold_0/validation), preprocessed/ (with
plans.json) and raw/.

With --operate, the thresholds and the calibration of the model are chosen on the test cases at the
end. The evaluation of the test cases stays that of the thresholds in the plans.

For cross-validation, use detseg3d_convert, detseg3d_plan_and_preprocess and detseg3d_train."""

EXAMPLE = """\
detseg3d_run --image_dir scans --label_dir masks --output_dir experiment
detseg3d_run --image_dir scans --label_dir masks --output_dir experiment --max_minutes 30 --seed 1
detseg3d_run --image_dir scans --label_dir masks --output_dir experiment --c"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_run``."""
    parser = create_parser("detseg3d_run", DESCRIPTION, EXAMPLE)
    parser.add_argument("--image_dir", required=True, metavar="FOLDER", help="folder of images")
    parser.add_argument("--label_dir", required=True, metavar="FOLDER", help="folder of labels")
    parser.add_argument("--output_dir", required=True, metavar="FOLDER", help="folder of all results")
    parser.add_argument("--c", action="store_true", help="continue an interrupted experiment")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--val_split", type=fraction, default=0.2, metavar="FRACTION", help="fraction of the cases that are test cases"
    )
    data.add_argument(
        "--channel_names",
        nargs="+",
        metavar="NAME",
        help="one name per channel; use exactly CT for images in Hounsfield units",
    )
    data.add_argument("--labels", nargs="+", metavar="NAME", help="lesion classes as NAME=VALUE")
    add_spacing_flag(data)
    data.add_argument(
        "--instances", action="store_true", help="labels are instance maps, in which each value is one lesion"
    )
    training = parser.add_argument_group("training (instead of the values in the plans)")
    add_length_flags(training)
    training.add_argument("--batch_size", type=positive_int, metavar="N", help="number of windows or volumes per step")
    training.add_argument("--lr", type=positive_float, metavar="RATE", help="highest learning rate of the schedule")
    training.add_argument(
        "--roi_size", type=positive_int, metavar="N", help="edge length of the RoI cube in samples, such as 32"
    )
    add_augmentation_flag(training, None, "default: the value in the plans, usually standard")
    training.add_argument(
        "--training_gb", type=positive_float, default=8.0, metavar="GB", help="memory limit of the training"
    )
    training.add_argument(
        "--inference_gb",
        type=positive_float,
        default=2.0,
        metavar="GB",
        help="memory limit for the prediction of a whole volume, not counting the input",
    )
    add_precision_flag(training, None, "used for planning and computing (default: auto; with --c, the earlier value)")
    thresholds = parser.add_argument_group("operating point")
    add_operate_flag(thresholds, "the thresholds in the plans stay")
    add_shifted_scans_flag(thresholds)
    machine = parser.add_argument_group("machine")
    add_training_machine_flags(machine, "split and training")
    machine.add_argument(
        "--pictures", type=non_negative_int, default=12, metavar="N", help="maximum number of cases to draw"
    )
    add_processes_flag(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments, _record_target)


def _record_target(options: argparse.Namespace) -> RunTarget | None:
    """Return the output folder."""
    inputs = {"images": [Path(options.image_dir)], "labels": [Path(options.label_dir)]}
    return RunTarget(Path(options.output_dir), options.seed or 0, inputs)


def _run(options: argparse.Namespace) -> CommandResult:
    require_docstrings()
    from detseg3d.cli.convert import parse_labels
    from detseg3d.core.operating_goal import OperatingGoal
    from detseg3d.pipeline.run import ExperimentOptions, run_experiment
    from detseg3d.planning.overrides import TrainingOverrides
    from detseg3d.reporting.text.evaluation import format_evaluation
    from detseg3d.system.device import resolve_device
    from detseg3d.training.options import TrainingOptions

    experiment = run_experiment(
        options.image_dir,
        options.label_dir,
        options.output_dir,
        ExperimentOptions(
            val_split=options.val_split,
            channel_names=options.channel_names,
            labels=parse_labels(options.labels),
            spacing=None if options.spacing is None else tuple(options.spacing),
            instances=options.instances,
            training_gb=options.training_gb,
            inference_gb=options.inference_gb,
            roi_size=options.roi_size,
            training=TrainingOptions(
                device=resolve_device(options.device),
                seed=options.seed,
                num_workers=options.num_workers,
                max_minutes=options.max_minutes,
                resume=options.c,
                shifted_scans=options.shifted_scans,
                show_progress=not options.no_progress,
            ),
            precision=options.precision or Precision.AUTO,
            overrides=TrainingOverrides(
                steps=options.steps,
                epochs=options.epochs,
                batch_size=options.batch_size,
                learning_rate=options.lr,
                augmentation=options.augmentation,
                precision=options.precision,
            ),
            run=run_of(options),
            pictures=options.pictures,
            goal=None if options.operate is None else OperatingGoal(options.operate),
        ),
    )
    show(format_evaluation(experiment.evaluation))
    show(f"metrics:     {experiment.metrics}")
    show(f"predictions: {experiment.predictions}")
    if experiment.pictures:
        show(f"pictures:    {experiment.pictures[0].parent}")
    show(f"To predict other scans: detseg3d_predict -i SCANS -o OUT -m {experiment.model} -f 0")
    data = {
        "model": str(experiment.model),
        "metrics": str(experiment.metrics),
        "predictions": str(experiment.predictions),
        "pictures": [str(picture) for picture in experiment.pictures],
        "evaluation": experiment.evaluation,
    }
    return CommandResult(data, evaluation_exit_code(experiment.evaluation))


if __name__ == "__main__":
    raise SystemExit(main())
