"""``detseg3d_export_dicom``: write results as DICOM segmentations, reports and contours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.exports import export_result
from detseg3d.cli.parser import own_word
from detseg3d.cli.running import CommandResult, run_command

if TYPE_CHECKING:
    from detseg3d.exports.dicom.options import DicomOptions

__all__ = ["add_dicom_flags", "dicom_options", "main"]

_DESCRIPTION = """\
Write the results of detseg3d_predict as DICOM objects that refer to the DICOM series of the scans:
CASE.seg.dcm (segmentation, one segment per lesion), CASE.sr.dcm (structured report, TID 1500) and, with
--rtstruct, CASE.rtstruct.dcm. detseg3d_predict writes them itself if its scans are DICOM.

Patient, study and frame of reference are those of the source. The number of a segment is the number of the
lesion in instances/CASE. Without lesions, only the report is written.

If a case fails, the other cases are written and the exit code is 1."""

_EXAMPLE = """\
detseg3d_export_dicom -i predictions --source dicom_folder -o dicom_results
detseg3d_export_dicom -i predictions --source dicom_folder -o dicom_results --dicom_seg binary --rtstruct"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_export_dicom``."""
    parser = create_parser("detseg3d_export_dicom", _DESCRIPTION, _EXAMPLE)
    parser.add_argument(
        "-i", "--input", required=True, type=Path, metavar="FOLDER", help="folder of results of detseg3d_predict"
    )
    parser.add_argument(
        "--source",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder with the DICOM series of the scans; a subfolder CASE is used for the case of this name",
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FOLDER", help="folder of the DICOM objects"
    )
    add_dicom_flags(parser, "labelmap")
    parser.add_argument(
        "--codes",
        type=Path,
        metavar="FILE",
        help="dataset.json with the codes of the classes, instead of the codes in the results",
    )
    return parser


def add_dicom_flags(parser: argparse._ActionsContainer, default: str) -> None:
    """Add the flags that choose DICOM objects; ``default`` describes the default of ``--dicom_seg``."""
    parser.add_argument(
        "--dicom_seg",
        type=own_word,
        choices=("none", "labelmap", "binary"),
        help="DICOM segmentation: labelmap stores one number per voxel (standard since 2023), binary one mask per "
        f"lesion (also for older readers) (default: {default})",
    )
    report = parser.add_mutually_exclusive_group()
    report.add_argument(
        "--dicom_sr",
        action="store_true",
        help="write a DICOM structured report with the measures of each lesion (default, with a segmentation)",
    )
    report.add_argument("--no_dicom_sr", action="store_true", help="write no structured report")
    parser.add_argument("--rtstruct", action="store_true", help="also write the contours as a DICOM RT structure set")


def dicom_options(options: argparse.Namespace) -> DicomOptions | None:
    """Return the DICOM objects that the flags choose; ``None`` if they choose none.

    Raises
    ------
    DetSeg3DError
        If a report is requested without a segmentation.
    """
    from detseg3d.exports.dicom.options import DicomOptions, SegmentationKind

    kind = None if options.dicom_seg == "none" else SegmentationKind(options.dicom_seg or "labelmap")
    report = options.dicom_sr or (kind is not None and not options.no_dicom_sr)
    if kind is None and not report and not options.rtstruct:
        return None
    return DicomOptions(kind, report, options.rtstruct)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.core.errors import DetSeg3DError

    chosen = dicom_options(options)
    if chosen is None:
        raise DetSeg3DError(
            "nothing is to be written", value="--dicom_seg none", remedy="choose --dicom_seg labelmap or --rtstruct"
        )
    from detseg3d.pipeline.export_dicom import export_dicom, read_codes

    codes = None if options.codes is None else read_codes(options.codes)
    exported = export_dicom(
        options.input, options.source, options.output, chosen, codes, show_progress=not options.no_progress
    )
    return export_result(options.output, exported.files, exported.failures)


if __name__ == "__main__":
    raise SystemExit(main())
