"""``detseg3d_pretrain``: train a model to start from, on simulated scans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import (
    add_augmentation_flag,
    add_length_flags,
    add_precision_flag,
    add_processes_flag,
    add_training_machine_flags,
    create_parser,
    positive_float,
    positive_int,
    run_of,
)
from detseg3d.cli.running import CommandResult, evaluation_exit_code, require_docstrings, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.precision import Precision
from detseg3d.system.run_record import RunTarget

__all__ = ["main"]

_DESCRIPTION = """\
Train a model to start from. The command simulates scans with random anatomy, intensities, lesions,
slice thickness and noise, and trains both stages on them. No data is needed or downloaded.

Another training starts from the weights with
detseg3d_train DATASET FOLD --pretrained_weights FILE. Its plans may differ: parts of the network
with the same function are copied. With --plans, the networks are equal and all weights are copied.

Output in OUTPUT_DIR: results/ (the model), preprocessed/ and raw/ (the simulated scans; both can
be removed when the training has finished). The evaluation shows how well the model finds the
lesions of simulated scans that it has not seen."""

_EXAMPLE = """\
detseg3d_pretrain --output_dir pretraining --max_minutes 60
detseg3d_pretrain --output_dir pretraining --num_cases 2000 --steps 100000 --seed 1
detseg3d_pretrain --output_dir pretraining --plans preprocessed/Dataset101_SynthMS/plans.json
detseg3d_pretrain --output_dir pretraining --c"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_pretrain``."""
    parser = create_parser("detseg3d_pretrain", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("-o", "--output_dir", required=True, metavar="FOLDER", help="folder of all results")
    parser.add_argument("--c", action="store_true", help="continue an interrupted pretraining")
    scans = parser.add_argument_group("simulated scans")
    scans.add_argument("--num_cases", type=positive_int, default=240, metavar="N", help="number of scans")
    scans.add_argument(
        "--longest_edge", type=positive_int, default=112, metavar="N", help="longest edge of a scan in voxels"
    )
    parser.add_argument(
        "--plans",
        type=Path,
        metavar="FILE",
        help="plans.json of the data set that the weights are for; the network and its grid are then exactly those of "
        "these plans (default: planned for the simulated scans)",
    )
    training = parser.add_argument_group("training (instead of the values in the plans)")
    add_length_flags(training)
    training.add_argument("--batch_size", type=positive_int, metavar="N", help="number of windows or volumes per step")
    training.add_argument("--lr", type=positive_float, metavar="RATE", help="highest learning rate of the schedule")
    training.add_argument(
        "--training_gb", type=positive_float, default=8.0, metavar="GB", help="memory limit of the training"
    )
    add_augmentation_flag(training, None, "default: strong; with --c, the earlier value")
    add_precision_flag(training, None, "used for planning and computing (default: auto; with --c, the earlier value)")
    add_training_machine_flags(parser.add_argument_group("machine"), "scans and training")
    add_processes_flag(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments, _record_target)


def _record_target(options: argparse.Namespace) -> RunTarget | None:
    """Return the output folder."""
    return RunTarget(
        Path(options.output_dir), options.seed or 0, {} if options.plans is None else {"plans": [options.plans]}
    )


def _run(options: argparse.Namespace) -> CommandResult:
    require_docstrings()
    from detseg3d.pipeline.pretrain import PretrainingOptions, pretrain
    from detseg3d.planning.overrides import TrainingOverrides
    from detseg3d.planning.plans import load_plans
    from detseg3d.reporting.text.evaluation import format_evaluation
    from detseg3d.synthetic.dataset import RandomScanOptions
    from detseg3d.system.device import resolve_device
    from detseg3d.training.options import TrainingOptions

    result = pretrain(
        options.output_dir,
        PretrainingOptions(
            scans=RandomScanOptions(
                num_cases=options.num_cases, longest_edge=options.longest_edge, seed=options.seed or 0
            ),
            plans=None if options.plans is None else load_plans(options.plans),
            training_gb=options.training_gb,
            precision=options.precision or Precision.AUTO,
            training=TrainingOptions(
                device=resolve_device(options.device),
                seed=options.seed,
                num_workers=options.num_workers,
                max_minutes=options.max_minutes,
                resume=options.c,
                show_progress=not options.no_progress,
            ),
            overrides=TrainingOverrides(
                steps=options.steps,
                epochs=options.epochs,
                batch_size=options.batch_size,
                learning_rate=options.lr,
                precision=options.precision,
                augmentation=options.augmentation,
            ),
            run=run_of(options),
        ),
    )
    show(format_evaluation(result.evaluation))
    show(f"weights: {result.weights}")
    show(f"To start another training from them: detseg3d_train DATASET FOLD --pretrained_weights {result.weights}")
    data = {"model": str(result.model), "weights": str(result.weights), "evaluation": result.evaluation}
    return CommandResult(data, evaluation_exit_code(result.evaluation))


if __name__ == "__main__":
    raise SystemExit(main())
