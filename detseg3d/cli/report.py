"""``detseg3d_report``: write a page per patient with key images and the table of lesions, ready to print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import create_parser, non_negative_int
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError

__all__ = ["main"]

_DESCRIPTION = """\
Write one HTML page per patient from the results of detseg3d_predict: key images of the lesions, the table of
all lesions, the follow-up if there is one, the model and its thresholds, and warnings about the scan. The page
needs no network. A browser prints the page to one or two A4 sheets, or to PDF.

If a case fails, an error is shown, the other cases are reported, and the exit code is 1."""

_EXAMPLE = """\
detseg3d_report -i predictions --images scans -o reports
detseg3d_report -i predictions --case smith --images scans/smith_0000.nii.gz -o smith.html
detseg3d_report -i results_2024 --images scans_2024 --follow_up follow_up -o reports"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_report``."""
    parser = create_parser("detseg3d_report", _DESCRIPTION, _EXAMPLE)
    parser.add_argument(
        "-i", "--input", required=True, type=Path, metavar="FOLDER", help="folder of results of detseg3d_predict"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help="folder for the pages CASE.html, or, for one case, a file that ends with .html",
    )
    parser.add_argument("--case", nargs="+", metavar="CASE", help="cases to report (default: all cases)")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help="scans for the pictures: the input of detseg3d_predict, or one file or DICOM folder; without the scans, "
        "the pages have no pictures",
    )
    parser.add_argument(
        "--channel", type=non_negative_int, default=0, metavar="N", help="channel of the scans for the pictures"
    )
    parser.add_argument(
        "--series",
        metavar="SERIES",
        help="series to read from a DICOM folder: SeriesInstanceUID, number or description (default: the series that "
        "was predicted)",
    )
    parser.add_argument("--follow_up", type=Path, metavar="FOLDER", help="output of detseg3d_follow")
    parser.add_argument(
        "--patient", metavar="NAME", help="name of the patient in --follow_up (default: the name of the case)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from datetime import datetime

    from detseg3d.pipeline.patient_report import ReportSources, report_cases

    for flag, value, needed, given in (
        ("--patient", options.patient, "--follow_up", options.follow_up),
        ("--series", options.series, "--images", options.images),
    ):
        if value is not None and given is None:
            raise DetSeg3DError(f"{flag} needs {needed}", value=f"{flag} {value}", remedy=f"give {needed}")
    sources = ReportSources(
        options.input,
        options.images,
        options.channel,
        options.series,
        options.follow_up,
        options.patient,
        datetime.now().astimezone().date().isoformat(),
    )
    outcome = report_cases(sources, options.output, options.case, show_progress=not options.no_progress)
    total = len(outcome.files) + len(outcome.failures)
    show(f"{len(outcome.files)} of {total} report(s) written to {options.output}")
    data = {
        "output": str(options.output),
        "files": {case: str(path) for case, path in outcome.files.items()},
        "failed": [{"case": case, "error": message} for case, message in outcome.failures.items()],
    }
    return CommandResult(data, EXIT_FAILURE if outcome.failures else EXIT_SUCCESS)


if __name__ == "__main__":
    raise SystemExit(main())
