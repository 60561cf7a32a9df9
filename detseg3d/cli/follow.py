"""``detseg3d_follow``: compare the lesions of scans of the same patients over time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import create_parser, non_negative_float, non_negative_int
from detseg3d.cli.parser import own_word
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.run_record import RunTarget

__all__ = ["main"]

_DESCRIPTION = """\
Compare the lesions of two or more scans of the same patients. The scans of a patient are registered rigidly,
their lesions are matched, and each lesion gets a state: new, enlarged, stable, shrunk, disappeared, merged,
split, or outside the other scan. If the dates of the scans are known, the volume doubling time is stated.

Input: one folder of detseg3d_predict for each time point, in the order of time. The cases of a patient have
the same name in all folders, or --pairs gives a table of names. Instance maps can be given instead of folders.
Output: changes.csv, tracks.csv, comparisons.csv, follow_up/CASE.json, a page CASE.html and pictures/ of both
scans side by side, and the motion between the scans in transforms/. With --dicom_sr, dicom/ has a segmentation and
a report of each later scan.

If a patient fails, an error is shown, the other patients are followed, and the exit code is 1."""

_EXAMPLE = """\
detseg3d_follow -i results_2023 results_2024 --images scans_2023 scans_2024 -o follow_up
detseg3d_follow -i before.nii.gz after.nii.gz --registration none -o follow_up --dates 2023-02-28 2024-05-31
detseg3d_follow -i results_2023 results_2024 --images scans_2023 scans_2024 -o follow_up --criterion diameter
detseg3d_follow -i results_2023 results_2024 --images dicom_2023 dicom_2024 -o follow_up --dicom_sr"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_follow``."""
    parser = create_parser("detseg3d_follow", _DESCRIPTION, _EXAMPLE)
    parser.add_argument(
        "-i",
        "--input",
        nargs="+",
        required=True,
        type=Path,
        metavar="PATH",
        help="results of each time point, the earliest first: folders of detseg3d_predict, or instance maps",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="folder of the output")
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="scans of each time point, in the order of -i: folders of scans, DICOM folders or files; required for "
        "--registration rigid",
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="CSV",
        help="table with a line of column names, then one line per patient with the case name at each time point; an "
        "additional first column `patient` names the patient",
    )
    parser.add_argument(
        "--dates",
        nargs="+",
        metavar="DATE|CSV",
        help="dates of the scans, YYYY-MM-DD: for one patient, one for each time point; for several patients, a table "
        "with a line of column names, then a line per patient with its name and one date for each time point "
        "(default: the dates in the DICOM headers of --images; without dates, no growth per time)",
    )
    parser.add_argument(
        "--channel", type=non_negative_int, default=0, metavar="N", help="channel of the scans to register and show"
    )
    parser.add_argument("--no_pictures", action="store_true", help="write tables and transforms only")
    parser.add_argument(
        "--dicom_sr",
        action="store_true",
        help="also write a DICOM segmentation and a structured report of each later scan, in which each lesion keeps "
        "the Tracking UID of its earlier lesion; needs results of detseg3d_predict and DICOM folders after --images",
    )
    parser.add_argument(
        "--dicom_seg",
        type=own_word,
        choices=("labelmap", "binary"),
        help="type of the segmentation of --dicom_sr (default: labelmap)",
    )
    _add_registration_flags(parser)
    _add_threshold_flags(parser)
    return parser


def _add_registration_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("registration and matching")
    group.add_argument(
        "--registration",
        type=own_word,
        choices=("rigid", "none", "file"),
        default="rigid",
        help="rigid: compute the motion between the scans; none: the scans are aligned; file: read --transforms",
    )
    group.add_argument(
        "--transforms",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="rigid transforms in text files of ITK (.tfm), from each scan to the next: a folder with CASE_1_to_2.tfm "
        "and so on, or, for one patient, the files",
    )
    group.add_argument(
        "--tolerance",
        type=non_negative_float,
        metavar="MM",
        help="distance up to which places in both scans may be the same (default: uncertainty of the registration plus "
        "half a voxel)",
    )


def _add_threshold_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("enlarged and shrunk")
    group.add_argument(
        "--criterion",
        type=own_word,
        choices=("volume", "diameter"),
        default="volume",
        help="volume: at least 25 %% more or less; diameter: RECIST 1.1, long axis at least 20 %% and 5 mm more, or 30 "
        "%% less",
    )
    group.add_argument(
        "--growth", type=non_negative_float, metavar="PERCENT", help="smallest increase of an enlarged lesion"
    )
    group.add_argument(
        "--shrinkage", type=non_negative_float, metavar="PERCENT", help="smallest decrease of a shrunk lesion"
    )
    group.add_argument(
        "--min_growth_mm",
        type=non_negative_float,
        metavar="MM",
        help="smallest increase of the long axis of an enlarged lesion, for --criterion diameter",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments, _record_target)


def _record_target(options: argparse.Namespace) -> RunTarget | None:
    return RunTarget(options.output, None, {"results": options.input, "images": options.images or []})


def _run(options: argparse.Namespace) -> CommandResult:
    from dataclasses import replace

    from detseg3d.exports.dicom.options import DicomOptions, SegmentationKind
    from detseg3d.follow.compare import FollowOptions
    from detseg3d.follow.registration import RegistrationMethod
    from detseg3d.follow.thresholds import ChangeThresholds, SizeCriterion
    from detseg3d.pipeline.follow import FollowInputs, follow_folders
    from detseg3d.pipeline.follow_dates import GivenDates, read_dates

    method = RegistrationMethod(options.registration)
    if options.transforms and method is not RegistrationMethod.FILE:
        raise DetSeg3DError("--transforms needs --registration file", value=f"--registration {options.registration}")
    if options.dicom_seg and not options.dicom_sr:
        raise DetSeg3DError("--dicom_seg needs --dicom_sr", value=f"--dicom_seg {options.dicom_seg}")
    criterion = SizeCriterion(options.criterion)
    thresholds = ChangeThresholds.recist() if criterion is SizeCriterion.DIAMETER else ChangeThresholds.volumetric()
    if options.min_growth_mm is not None and criterion is SizeCriterion.VOLUME:
        raise DetSeg3DError("--min_growth_mm needs --criterion diameter", value="--criterion volume")
    given = {
        "growth_percent": options.growth,
        "shrinkage_percent": options.shrinkage,
        "min_growth_mm": options.min_growth_mm,
    }
    thresholds = replace(thresholds, **{name: value for name, value in given.items() if value is not None})
    inputs = FollowInputs(
        tuple(options.input),
        tuple(options.images or ()),
        options.pairs,
        options.channel,
        tuple(options.transforms or ()),
        read_dates(options.dates, len(options.input)) if options.dates else GivenDates(),
    )
    outcome = follow_folders(
        inputs,
        options.output,
        FollowOptions(method, (), thresholds, options.tolerance),
        pictures=not options.no_pictures,
        dicom=DicomOptions(SegmentationKind(options.dicom_seg or "labelmap")) if options.dicom_sr else None,
        show_progress=not options.no_progress,
    )
    names = {result.case_id for result in outcome.results} | {failure.case_id for failure in outcome.failures}
    show(f"{len(outcome.results)} of {len(names)} patient(s) followed; results in {options.output}")
    if outcome.failures:
        show(f"failed: {', '.join(failure.case_id for failure in outcome.failures)}", error=True)
    data = {
        "output": str(options.output),
        "patients": [result.case_id for result in outcome.results],
        "failed": [{"case": failure.case_id, "error": failure.problem} for failure in outcome.failures],
    }
    return CommandResult(data, EXIT_FAILURE if outcome.failures else EXIT_SUCCESS)


if __name__ == "__main__":
    raise SystemExit(main())
