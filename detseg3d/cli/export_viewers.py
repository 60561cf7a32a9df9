"""``detseg3d_export_viewers``: write files for 3D Slicer, ITK-SNAP and interactive segmentation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_export_viewers``."""
    parser = create_parser(
        "detseg3d_export_viewers",
        "Write files for other programs from the results of detseg3d_predict, without predicting again. The files are\n"
        "written into subfolders of the folder of results, as by detseg3d_predict --also. If a case fails, the other\n"
        "cases are exported and the exit code is 1.",
        "detseg3d_export_viewers -i predictions --also slicer,itksnap",
    )
    parser.add_argument(
        "-i", "--input", required=True, type=Path, metavar="FOLDER", help="folder of results of detseg3d_predict"
    )
    parser.add_argument(
        "--also",
        required=True,
        metavar="FORMATS",
        help="some of slicer,itksnap,prompts, separated by commas",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.exports.lesion_table import list_predicted_cases
    from detseg3d.exports.viewers.export import export_for_viewers, parse_formats

    formats = parse_formats(options.also)
    cases, failed = list_predicted_cases(options.input), {}
    for case_id in cases:
        try:
            export_for_viewers(options.input, case_id, formats)
        except DetSeg3DError as error:
            failed[case_id] = str(error)
            show(f"{case_id} failed: {error}", error=True)
    show(f"{len(cases) - len(failed)} of {len(cases)} case(s) exported to subfolders of {options.input}")
    data = {
        "output": str(options.input),
        "cases": [case for case in cases if case not in failed],
        "failed": [{"case": case, "error": message} for case, message in failed.items()],
    }
    return CommandResult(data, EXIT_FAILURE if failed else EXIT_SUCCESS)


if __name__ == "__main__":
    raise SystemExit(main())
