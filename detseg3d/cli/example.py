"""``detseg3d_example``: write the built-in example data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from detseg3d.cli.arguments import (
    add_processes_flag,
    create_parser,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    run_of,
)
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError

__all__ = ["main"]

_DESCRIPTION = """\
Write the built-in example data set: simulated scans with lesions from 1 to about 40 voxels across.
The scans also contain vessels, cysts, clots and dots that resemble lesions. Nothing is downloaded.
The data set has the layout of nnU-Net: OUT/Dataset999_Example with imagesTr and labelsTr for training, and
imagesTs and labelsTs for testing.

With --follow_up, write patients with two scans each instead: OUT/FollowUp_Example. The patients move between
the scans, and their lesions grow, shrink, appear, disappear, merge and split. The folder truth states how."""

_EXAMPLE = """\
detseg3d_example data/raw
detseg3d_example data/raw --num_cases 10 --shape 32 96 96 --spacing 3 1 1
detseg3d_example data --follow_up --num_cases 2 --motion 20 30"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_example``."""
    parser = create_parser("detseg3d_example", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("output", metavar="OUT", help="folder of raw data sets; it is created if it does not exist")
    parser.add_argument(
        "--num_cases",
        type=positive_int,
        metavar="N",
        help="number of training cases (default: 24), or of patients (default: 4)",
    )
    parser.add_argument("--num_test", type=non_negative_int, default=8, metavar="N", help="number of test cases")
    parser.add_argument(
        "--shape",
        type=positive_int,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="size of the scans in voxels (default: 96 96 96, or 96 112 112 with --follow_up)",
    )
    parser.add_argument(
        "--spacing",
        type=positive_float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="voxel spacing in mm (default: 1 1 1, or 1.5 1.5 1.5 with --follow_up)",
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="equal seeds give equal data sets")
    parser.add_argument("--dataset_id", type=positive_int, default=999, metavar="ID", help="number of the data set")
    add_processes_flag(parser)
    _add_follow_up_flags(parser)
    return parser


def _add_follow_up_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("two scans of each patient")
    group.add_argument("--follow_up", action="store_true", help="write patients with two scans each")
    group.add_argument(
        "--dicom",
        action="store_true",
        help="also write each scan as a DICOM series, dicom/CASE/; the scans of a patient are dated half a year apart",
    )
    group.add_argument(
        "--motion",
        type=non_negative_float,
        nargs=2,
        default=[10.0, 15.0],
        metavar=("DEGREES", "MM"),
        help="largest rotation and largest shift of the patient between the scans",
    )
    group.add_argument(
        "--coverage",
        type=fraction,
        default=1.0,
        metavar="SHARE",
        help="share of the field of view that the second scan has, 0.5 to 1; the rest is cut off at the feet",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    if options.follow_up:
        return _write_follow_up(options)
    if options.dicom:
        raise DetSeg3DError("--dicom needs --follow_up", remedy="add --follow_up, or leave out --dicom")
    from detseg3d.synthetic.dataset import PhantomOptions, write_example_dataset

    num_cases = options.num_cases or 24
    shape, spacing = tuple(options.shape or (96, 96, 96)), tuple(options.spacing or (1.0, 1.0, 1.0))
    folder = write_example_dataset(
        options.output,
        num_cases=num_cases,
        num_test=options.num_test,
        dataset_id=options.dataset_id,
        phantom=PhantomOptions(shape, spacing, options.seed),
        run=run_of(options),
    )
    show(f"The example data set is in {folder}")
    show(f"  training cases: {num_cases} in imagesTr and labelsTr")
    show(f"  test cases:     {options.num_test} in imagesTs and labelsTs")
    show("Next, plan and preprocess the data set:")
    show(
        f"  detseg3d_plan_and_preprocess -d {options.dataset_id} --raw {options.output}"
        " --preprocessed FOLDER --val_split 0.2"
    )
    return CommandResult({"folder": str(folder), "training_cases": num_cases, "test_cases": options.num_test})


def _write_follow_up(options: argparse.Namespace) -> CommandResult:
    from detseg3d.synthetic.follow_up import FollowUpOptions
    from detseg3d.synthetic.follow_up_files import write_follow_up_example

    num_pairs = options.num_cases or 4
    degrees, shift = options.motion
    pair = FollowUpOptions(seed=options.seed, max_degrees=degrees, max_mm=shift, coverage=options.coverage)
    if options.shape:
        pair = replace(pair, shape=tuple(options.shape))
    if options.spacing:
        pair = replace(pair, spacing=tuple(options.spacing))
    folder = write_follow_up_example(options.output, num_pairs, pair, run_of(options), dicom=options.dicom)
    show(f"The simulated patients are in {folder}")
    show("Next, follow their lesions:")
    show(
        f"  detseg3d_follow -i {folder}/baseline {folder}/follow_up"
        f" --images {folder}/baseline/images {folder}/follow_up/images -o follow_up"
    )
    return CommandResult({"folder": str(folder), "patients": num_pairs})


if __name__ == "__main__":
    raise SystemExit(main())
