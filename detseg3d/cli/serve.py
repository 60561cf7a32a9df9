"""``detseg3d_serve``: answer requests over HTTP with one loaded model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import create_parser, non_negative_int, positive_float, positive_int
from detseg3d.cli.model_flags import add_model_flags, add_time_limit_flag, served_model
from detseg3d.cli.running import CommandResult, require_extra, run_command
from detseg3d.cli.terminal import show

if TYPE_CHECKING:
    from detseg3d.serving.settings import Access, ServiceLimits

__all__ = ["main"]

_DESCRIPTION = """\
Load a model once and predict the scans that clients send over HTTP: NIfTI and other images, DICOM files, or a zip
archive of DICOM files. The results are lesions as JSON, the instance map, a DICOM segmentation, a DICOM structured
report, and a page to print. The address of the service shows a page on which scans can be dropped.

The service listens on this machine only. For any other address it needs a token. Scans are predicted one after
another. If a scan fails, blocks or ends the process of the model, only this scan is lost. The command runs until a
signal (Ctrl-C, SIGTERM) ends it."""

_EXAMPLE = """\
detseg3d_serve -d 101
detseg3d_serve -m model.safetensors --port 8765 --folder jobs
detseg3d_serve -d 101 --host 0.0.0.0 --allow_host lesions.hospital.example --token_file token.txt"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_serve``."""
    parser = create_parser("detseg3d_serve", _DESCRIPTION, _EXAMPLE)
    add_model_flags(parser)
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address on which the service listens")
    address.add_argument("--port", type=non_negative_int, default=8765, metavar="N", help="port; 0 for any free port")
    address.add_argument(
        "--token_file",
        type=Path,
        metavar="FILE",
        help="file with the token that clients must send; required if other machines can reach the service",
    )
    address.add_argument(
        "--allow_host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further names of the service in requests, for example its name behind a reverse proxy",
    )
    jobs = parser.add_argument_group("jobs")
    jobs.add_argument(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="folder of the jobs; a service that is started again continues the jobs in it (default: a temporary "
        "folder, deleted at the end)",
    )
    jobs.add_argument(
        "--keep_minutes",
        type=positive_float,
        default=60.0,
        metavar="M",
        help="time after which a finished job and its results are deleted",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max_queue", type=positive_int, default=16, metavar="N", help="number of scans that may wait")
    add_time_limit_flag(limits)
    limits.add_argument(
        "--max_upload_seconds", type=positive_float, default=600.0, metavar="S", help="time for one upload in seconds"
    )
    limits.add_argument(
        "--max_upload_gb", type=positive_float, default=2.0, metavar="GB", help="size of one upload in GB"
    )
    limits.add_argument(
        "--max_unpacked_gb",
        type=positive_float,
        default=4.0,
        metavar="GB",
        help="size of a scan in GB: the unpacked files of an archive, and the voxels in float32",
    )
    limits.add_argument(
        "--max_files", type=positive_int, default=10_000, metavar="N", help="number of files of one scan"
    )
    limits.add_argument(
        "--max_kept",
        type=positive_int,
        default=1000,
        metavar="N",
        help="number of finished jobs that are kept; the oldest are deleted first",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    require_extra("serve", "fastapi", "uvicorn", "python_multipart")
    access = _access(options)
    model = served_model(options)
    from detseg3d.serving.server import run_service

    def announce(bound: Access) -> None:
        show(f"the service answers at {bound.url}; its interface is described at {bound.url}/docs")
        show("for research use only; not a medical device")

    run_service(model, access, _limits(options), options.folder, announce)
    return CommandResult({"address": access.url})


def _access(options: argparse.Namespace) -> Access:
    from detseg3d.serving.settings import Access, read_token

    token = None if options.token_file is None else read_token(options.token_file)
    return Access(options.host, options.port, token, tuple(options.allow_host))


def _limits(options: argparse.Namespace) -> ServiceLimits:
    from detseg3d.serving.settings import ServiceLimits

    return ServiceLimits(
        max_upload_bytes=int(options.max_upload_gb * 1e9),
        max_unpacked_bytes=int(options.max_unpacked_gb * 1e9),
        max_files=options.max_files,
        max_upload_seconds=options.max_upload_seconds,
        max_job_seconds=options.max_job_seconds,
        max_queue=options.max_queue,
        max_kept=options.max_kept,
        keep_seconds=60.0 * options.keep_minutes,
    )


if __name__ == "__main__":
    raise SystemExit(main())
