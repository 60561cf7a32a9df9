"""``detseg3d_plan_and_preprocess``: measure data sets, plan the networks and preprocess the cases."""

from __future__ import annotations

import argparse
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg3d.cli.arguments import (
    add_augmentation_flag,
    add_precision_flag,
    add_processes_or_cluster_flags,
    add_root_flags,
    create_parser,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
)
from detseg3d.cli.cluster import opened_run
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.augmentation import Augmentation
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.system.run import Run

if TYPE_CHECKING:
    from detseg3d.pipeline.prepare import PreparedDataset, PrepareOptions

__all__ = ["build_parser", "main"]

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Measure data sets, plan the networks and their training, make the folds, and preprocess the cases.

Input: RAW/DatasetXXX_Name. Output in PREPROCESSED/DatasetXXX_Name: dataset_fingerprint.json (the
measurements), plans.json (all decisions with their reasons; you may edit it), splits_final.json
(the folds) and cases/ (the preprocessed cases).

If the command is interrupted, start it again: it continues with the remaining cases.
--from_fingerprint plans for other settings in seconds, without reading images."""

EXAMPLE = """\
detseg3d_plan_and_preprocess -d 101 --verify
detseg3d_plan_and_preprocess -d SynthMS 102 -np 4 --training_gb 12 --val_split 0.2
detseg3d_plan_and_preprocess --from_fingerprint dataset_fingerprint.json --training_gb 24"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_plan_and_preprocess``."""
    parser = create_parser("detseg3d_plan_and_preprocess", DESCRIPTION, EXAMPLE)
    parser.add_dataset("data sets, each by number, name or folder name", several=True, instead="from_fingerprint")
    parser.add_argument(
        "--from_fingerprint",
        metavar="FILE",
        help="plan from this dataset_fingerprint.json instead of a data set; no image is read or preprocessed",
    )
    parser.add_argument(
        "--verify",
        "--verify_dataset_integrity",
        action="store_true",
        help="check every file first, and print all problems in one table",
    )
    parser.add_argument("--no_pp", action="store_true", help="plan, but do not preprocess")
    add_processes_or_cluster_flags(parser)
    parser.add_argument("--clean", action="store_true", help="first remove earlier results of these data sets")
    add_root_flags(parser, "raw", "preprocessed")
    plan = parser.add_argument_group("planning")
    plan.add_argument(
        "--training_gb",
        type=positive_float,
        default=8.0,
        metavar="GB",
        help="memory limit of the training (GPU memory if there is a GPU)",
    )
    add_precision_flag(plan, Precision.AUTO, "used for memory planning and for training (default: auto)")
    add_augmentation_flag(plan, Augmentation.STANDARD, "default: standard")
    plan.add_argument(
        "--inference_gb",
        type=positive_float,
        default=2.0,
        metavar="GB",
        help="memory limit for the prediction of a whole volume, not counting the input; more allows a finer grid",
    )
    plan.add_argument(
        "--roi_size",
        type=positive_int,
        metavar="N",
        help="number of samples of an RoI along the finest axis, instead of the planned number",
    )
    plan.add_argument("--order", type=int, choices=(1, 3), default=1, help="interpolation of images: 1 linear, 3 cubic")
    plan.add_argument(
        "--instances", action="store_true", help="labels are instance maps, in which each value is one lesion"
    )
    plan.add_argument(
        "--keep_plans", action="store_true", help="use the existing plans.json, for example after editing it"
    )
    split = parser.add_argument_group("folds (existing folds are kept unless one of these flags is given)")
    split.add_argument(
        "--val_split",
        type=fraction,
        metavar="FRACTION",
        help="one random split with this validation fraction, such as 0.2, instead of five folds",
    )
    split.add_argument("--seed", type=non_negative_int, metavar="N", help="random seed of the folds")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.roots import preprocessed_root, raw_root, resolve_dataset
    from detseg3d.pipeline.prepare import plan_from_fingerprint

    _check_combination(options)
    preprocessed = preprocessed_root(options.preprocessed)
    if options.from_fingerprint:
        prepared = plan_from_fingerprint(options.from_fingerprint, preprocessed, _prepare_options(options, Run()))
        show(format_summary(prepared))
        return CommandResult({"data_sets": [_summary(prepared)], "failed": []})
    raw = raw_root(options.raw)
    folders = list(dict.fromkeys(resolve_dataset(raw, identifier) for identifier in options.dataset))
    with opened_run(options, folders, [preprocessed]) as run:
        return _prepare_all(folders, preprocessed, _prepare_options(options, run))


def _prepare_options(options: argparse.Namespace, run: Run) -> PrepareOptions:
    from detseg3d.pipeline.prepare import PrepareOptions

    return PrepareOptions(
        verify=options.verify,
        preprocess=not options.no_pp,
        run=run,
        training_gb=options.training_gb,
        inference_gb=options.inference_gb,
        val_split=options.val_split,
        seed=options.seed,
        roi_size=options.roi_size,
        interpolation_order=options.order,
        augmentation=options.augmentation,
        precision=options.precision,
        instances=options.instances,
        keep_plans=options.keep_plans,
        clean=options.clean,
    )


def _prepare_all(folders: Sequence[Path], preprocessed: Path, prepare_options: PrepareOptions) -> CommandResult:
    """Prepare the data sets one after the other."""
    from detseg3d.pipeline.prepare import prepare_dataset

    results, failed = [], []
    for folder in folders:
        try:
            prepared = prepare_dataset(folder, preprocessed, prepare_options)
            show(format_summary(prepared))
            results.append(_summary(prepared))
        except DetSeg3DError as error:
            if len(folders) == 1:
                raise
            # An error in one data set must not stop the others.
            show(f"{folder.name}: error: {error}", error=True)
            failed.append(folder.name)
    if failed:
        show(f"{len(failed)} of {len(folders)} data sets failed: {', '.join(failed)}", error=True)
    return CommandResult({"data_sets": results, "failed": failed}, EXIT_FAILURE if failed else EXIT_SUCCESS)


def _summary(prepared: PreparedDataset) -> dict[str, Any]:
    """Return the decisions of the plan for programs."""
    return {
        "name": prepared.plans.dataset_name,
        "folder": str(prepared.folder),
        "decisions": [decision.model_dump(mode="json") for decision in prepared.plans.decisions],
        "folds": [{"training": len(fold.train), "validation": len(fold.validation)} for fold in prepared.splits],
        "preprocessed": len(prepared.preprocessed),
    }


def _check_combination(options: argparse.Namespace) -> None:
    """Check that --from_fingerprint is not combined with flags that need images.

    Raises
    ------
    DetSeg3DError
        If a flag that needs images is given, too.
    """
    if options.from_fingerprint is None:
        return
    given = {
        "--raw": options.raw,
        "--verify": options.verify,
        "--cluster": options.cluster,
        "--clean": options.clean,
        "--instances": options.instances,
        "--keep_plans": options.keep_plans,
    }
    refused = [flag for flag, value in given.items() if value]
    if refused:
        raise DetSeg3DError(
            f"--from_fingerprint cannot be combined with {', '.join(refused)}",
            value=options.from_fingerprint,
            expected="only flags that need no images",
            remedy=f"leave out either --from_fingerprint or {', '.join(refused)}",
        )


def format_summary(prepared: PreparedDataset) -> str:
    """Return the decisions of the plans as text."""
    plans = prepared.plans
    lines = ["", plans.dataset_name, "=" * len(plans.dataset_name)]
    for decision in plans.decisions:
        lines.append(f"{decision.name}: {decision.value}")
        lines += textwrap.wrap(decision.reason, 100, initial_indent="    ", subsequent_indent="    ")
    folds = prepared.splits
    sizes = ", ".join(f"{len(fold.train)}+{len(fold.validation)}" for fold in folds)
    lines.append(f"splits: {len(folds)} (training + validation cases: {sizes})")
    if prepared.preprocessed:
        lines.append(f"preprocessed: {len(prepared.preprocessed)} case(s)")
    lines.append(f"written to {prepared.folder}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
