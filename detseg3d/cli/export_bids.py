"""``detseg3d_export_bids``: write results as a derivative of BIDS."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.exports import export_result
from detseg3d.cli.running import CommandResult, run_command

__all__ = ["main"]

_DESCRIPTION = """\
Write the results of detseg3d_predict as a derivative of BIDS: for each case a mask of all lesions, an instance map, and
a table of the lesions. The names of the cases must be names of BIDS, such as sub-01_ses-2 or sub-01_acq-highres_FLAIR.

If a case fails, the other cases are written and the exit code is 1."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_export_bids``."""
    parser = create_parser(
        "detseg3d_export_bids", _DESCRIPTION, "detseg3d_export_bids -i predictions -o study/derivatives/detseg3d"
    )
    parser.add_argument(
        "-i", "--input", required=True, type=Path, metavar="FOLDER", help="folder of results of detseg3d_predict"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="folder of the derivative")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.pipeline.export_bids import export_bids

    exported = export_bids(options.input, options.output)
    return export_result(options.output, exported.files, exported.failures)


if __name__ == "__main__":
    raise SystemExit(main())
