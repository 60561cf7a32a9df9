"""``detseg3d_consolidate``: pool the folds, choose the operating point and write the cross-validation report."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import (
    add_operate_flag,
    add_processes_or_cluster_flags,
    add_root_flags,
    create_parser,
    fraction,
    positive_float,
)
from detseg3d.cli.cluster import opened_run
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.data.folders import ModelFolder
from detseg3d.system.run_record import RunTarget

__all__ = ["main"]

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Pool the validation predictions of the trained folds, calibrate the lesion scores and choose the
thresholds. detseg3d_predict then uses these thresholds (operating_point.json beside the folds). The
command also counts the lesions that each stage loses, and writes the cross-validation report. The
networks do not run again.

Without a target, the thresholds maximise the lesion F1 (IoU of 0.1 or more, pooled over all
lesions). They replace the thresholds in the plans only if they improve F1 in 95 % of resampled
patients, measured on folds that were not used for the choice.

Thresholds are chosen for scans of other scanners, too (--operate robust). They maximise the mean of
the F1 on unchanged and on shifted validation scans: copies with thick slices, noise, fainter lesions
and other simulated changes, which detseg3d_train has predicted. The F1 on unchanged scans may fall by
at most 0.01. --operate home uses the unchanged scans only. The report compares both.

Quote the cross-fitted metrics: the scans of each fold are evaluated at the thresholds that the other
folds chose. A single fold has no cross-fitted metrics.

Output in RESULTS/DatasetXXX_Name/cross_validation: the cross-fitted masks and boxes, their
evaluation (metrics.json, metrics.csv, metrics.md, and lesions.csv with every true and predicted
lesion), consolidation.json and report.html. The files of an earlier run are replaced.

If a case failed in the validation of its fold, or its masks cannot be written, the other cases are
evaluated and the exit code is 1. If labels or candidates cannot be read, the command names them and
writes nothing, because the choice depends on every case."""

EXAMPLE = """\
detseg3d_consolidate 101
detseg3d_consolidate 101 -f 0 1 2 --target_fp 2
detseg3d_consolidate 101 --operate home
detseg3d_predict -i scans -o masks -d 101      # uses the new thresholds"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_consolidate``."""
    parser = create_parser("detseg3d_consolidate", DESCRIPTION, EXAMPLE)
    parser.add_dataset("number or name, such as 101 or Dataset101_SynthMS")
    parser.add_argument(
        "-f", "--folds", nargs="+", metavar="F", help="folds to pool (default: all trained folds with a number)"
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--target_recall", type=fraction, metavar="R", help="choose the highest precision at this lesion recall or more"
    )
    target.add_argument(
        "--target_fp",
        type=positive_float,
        metavar="N",
        help="choose the highest recall at N false positives per scan or fewer",
    )
    add_operate_flag(parser, "robust; home with a target, or if detseg3d_train has predicted no shifted scans")
    add_processes_or_cluster_flags(parser)
    add_root_flags(parser, "raw", "results")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments, _record_target)


def _record_target(options: argparse.Namespace) -> RunTarget | None:
    """Return the folder of the pooled predictions."""
    from detseg3d.data.trained_models import resolve_model

    model = ModelFolder(resolve_model(options.results, options.dataset))
    folds = [model.fold(name) for name in options.folds] if options.folds else model.folds()
    inputs = {
        "model": [file for fold in folds for file in (fold.plans, fold.final_weights)],
        "candidates": [fold.validation.candidates_folder for fold in folds],
    }
    return RunTarget(model.cross_validation.path, None, inputs)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.consolidation.objective import Objective
    from detseg3d.data.roots import raw_root, resolve_dataset
    from detseg3d.data.trained_models import resolve_model
    from detseg3d.pipeline.consolidate import consolidate
    from detseg3d.pipeline.consolidation_report import report_consolidation
    from detseg3d.reporting.text.consolidation import format_cross_validation

    model: Path = resolve_model(options.results, options.dataset)
    raw = resolve_dataset(raw_root(options.raw), model.name)
    objective = Objective(options.target_recall, options.target_fp)
    goal = None if options.operate is None else OperatingGoal(options.operate)
    with opened_run(options, [raw], [model]) as run:
        consolidated = consolidate(raw, model, options.folds, objective, run, goal)
        evaluation = report_consolidation(consolidated, raw, run)
    show(format_cross_validation(consolidated.summary, evaluation))
    show(f"wrote {ModelFolder(model).operating_point} and {consolidated.predictions}")
    failed = {*consolidated.failures, *(problem.case_id for problem in evaluation.problems)}
    if failed:
        logger.error("%d case(s) failed: %s", len(failed), ", ".join(sorted(failed)))
    data = {
        "operating_point": str(ModelFolder(model).operating_point),
        "folder": str(consolidated.predictions),
        "consolidation": consolidated.summary.to_json(),
        "evaluation": evaluation.to_json(),
        "failed": sorted(failed),
    }
    return CommandResult(data, EXIT_FAILURE if failed else EXIT_SUCCESS)


if __name__ == "__main__":
    raise SystemExit(main())
