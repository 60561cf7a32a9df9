"""``detseg3d_example``: write the built-in example data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from detseg3d.cli.arguments import (
    add_processes_flag,
    create_parser,
    non_negative_int,
    positive_float,
    positive_int,
    run_of,
)
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show

__all__ = ["main"]

_DESCRIPTION = """\
Write the built-in example data set: simulated scans with lesions from 1 to about 40 voxels across.
The scans also contain vessels, cysts, clots and dots that resemble lesions. Nothing is downloaded.
The data set has the layout of nnU-Net: OUT/Dataset999_Example with imagesTr and labelsTr for training, and
imagesTs and labelsTs for testing."""

_EXAMPLE = """\
detseg3d_example data/raw
detseg3d_example data/raw --num_cases 10 --shape 32 96 96 --spacing 3 1 1"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_example``."""
    parser = create_parser("detseg3d_example", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("output", metavar="OUT", help="folder of raw data sets; it is created if it does not exist")
    parser.add_argument("--num_cases", type=positive_int, default=24, metavar="N", help="number of training cases")
    parser.add_argument("--num_test", type=non_negative_int, default=8, metavar="N", help="number of test cases")
    parser.add_argument(
        "--shape",
        type=positive_int,
        nargs=3,
        default=[96, 96, 96],
        metavar=("Z", "Y", "X"),
        help="size of the scans in voxels",
    )
    parser.add_argument(
        "--spacing",
        type=positive_float,
        nargs=3,
        default=[1.0, 1.0, 1.0],
        metavar=("Z", "Y", "X"),
        help="voxel spacing in mm",
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="equal seeds give equal data sets")
    parser.add_argument("--dataset_id", type=positive_int, default=999, metavar="ID", help="number of the data set")
    add_processes_flag(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.synthetic.dataset import PhantomOptions, write_example_dataset

    folder = write_example_dataset(
        options.output,
        num_cases=options.num_cases,
        num_test=options.num_test,
        dataset_id=options.dataset_id,
        phantom=PhantomOptions(tuple(options.shape), tuple(options.spacing), options.seed),
        run=run_of(options),
    )
    show(f"The example data set is in {folder}")
    show(f"  training cases: {options.num_cases} in imagesTr and labelsTr")
    show(f"  test cases:     {options.num_test} in imagesTs and labelsTs")
    show("Next, plan and preprocess the data set:")
    show(
        f"  detseg3d_plan_and_preprocess -d {options.dataset_id} --raw {options.output}"
        " --preprocessed FOLDER --val_split 0.2"
    )
    return CommandResult({"folder": str(folder), "training_cases": options.num_cases, "test_cases": options.num_test})


if __name__ == "__main__":
    raise SystemExit(main())
