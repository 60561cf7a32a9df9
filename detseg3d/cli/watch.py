"""``detseg3d_watch``: predict each scan that appears in a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import add_series_flag, create_parser, non_negative_float, positive_float
from detseg3d.cli.model_flags import add_model_flags, add_time_limit_flag, served_model
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show

__all__ = ["main"]

_DESCRIPTION = """\
Watch a folder and predict each scan that appears in it, once. A scan is one image file, one file per channel
(CASE_0000, CASE_0001, ...), a subfolder with the DICOM files of a series, or a series of DICOM files in the folder
itself. It is predicted when its files did not change for some time. The results are those of detseg3d_predict; for
DICOM, DICOM objects are written as well.

watch.csv in the folder of the results lists all scans and the reasons of failures. A scan that fails does not stop
the others. The command may be ended and started again: it continues with the scans that it has not predicted. A
signal (Ctrl-C, SIGTERM) ends it after the present scan; a second Ctrl-C ends it immediately."""

_EXAMPLE = """\
detseg3d_watch incoming results -d 101
detseg3d_watch incoming results -m model.safetensors --quiet_seconds 60
detseg3d_watch incoming results -d 101 --once --quiet_seconds 0"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_watch``."""
    parser = create_parser("detseg3d_watch", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("input", type=Path, metavar="IN", help="folder to watch")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder of the results, outside the folder to watch")
    add_model_flags(parser)
    group = parser.add_argument_group("watching")
    group.add_argument(
        "--quiet_seconds",
        type=non_negative_float,
        default=30.0,
        metavar="S",
        help="a scan is complete if its files did not change for this time",
    )
    group.add_argument(
        "--poll_seconds", type=positive_float, default=5.0, metavar="S", help="time between two looks at the folder"
    )
    add_time_limit_flag(group)
    add_series_flag(group)
    group.add_argument(
        "--once", action="store_true", help="end when every scan in the folder is predicted or has failed"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.serving.watch import ScanState, WatchOptions, watch_folder
    from detseg3d.serving.worker import ModelWorker
    from detseg3d.system.signals import postponed

    model = served_model(options)
    watching = WatchOptions(
        quiet_seconds=options.quiet_seconds,
        poll_seconds=options.poll_seconds,
        max_seconds=options.max_job_seconds,
        series=tuple(options.series),
        once=options.once,
    )
    with ModelWorker(model) as worker, postponed() as signals:
        show(f"watching {options.input}; a signal ends the command after the present scan")
        state = watch_folder(options.input, options.output, worker, watching, lambda: signals.number is not None)
    failed = [scan for scan in state.scans if scan.state is ScanState.FAILED]
    show(f"{len(state.scans) - len(failed)} of {len(state.scans)} scan(s) written to {options.output}")
    data = {"output": str(options.output), "scans": [scan.to_json() for scan in state.scans]}
    return CommandResult(data, EXIT_FAILURE if failed else EXIT_SUCCESS)


if __name__ == "__main__":
    raise SystemExit(main())
