"""``detseg3d_convert``: make a data set from a folder of images and a folder of labels, or from BIDS."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import (
    add_processes_flag,
    add_spacing_flag,
    create_parser,
    fraction,
    non_negative_int,
    run_of,
)
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError

if TYPE_CHECKING:
    from detseg3d.data.bids.scans import BidsChoice

__all__ = ["main"]

_DATASET = re.compile(r"Dataset\d{3,}_.+")

_DESCRIPTION = """\
Make a data set from a folder of images and a folder of labels, or from a BIDS data set.

Images are named CASE.nii.gz, or CASE_0000.nii.gz, CASE_0001.nii.gz, … if there are several channels. The label of a
case is named CASE.nii.gz. Formats: .nii .nii.gz .mha .mhd .nrrd .npy, or one subfolder of DICOM files per image.
Labels may also be DICOM segmentations: CASE.seg.dcm, CASE.dcm, or one file in the subfolder CASE.

With --bids, each session of each subject is a case, and each --suffix is a channel. Sessions of one subject never lie
on both sides of a split. Scans without a mask go to imagesTs.

The command copies the files, and converts files only if their formats differ. It never changes the originals. The
result has the layout of nnU-Net: OUTPUT_DIR/DatasetXXX_Name/{dataset.json, imagesTr, labelsTr, imagesTs, labelsTs}."""

_EXAMPLE = """\
detseg3d_convert --image_dir scans --label_dir masks --output_dir raw --dataset_name Dataset001_Liver
detseg3d_convert --image_dir scans --label_dir masks --output_dir raw --test_split 0.2 --labels metastasis=1 cyst=2
detseg3d_convert --bids ds004199 --suffix FLAIR T1w --bids_labels . --label_filter suffix=roi --output_dir raw
detseg3d_convert --bids study --suffix FLAIR T1w,ce=gadolinium --bids_filter acq=highres --bids_labels lesions \\
    --output_dir raw"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_convert``."""
    parser = create_parser("detseg3d_convert", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("--image_dir", metavar="FOLDER", help="folder of images")
    parser.add_argument("--label_dir", metavar="FOLDER", help="folder of labels")
    parser.add_argument(
        "--output_dir",
        required=True,
        metavar="FOLDER",
        help="folder that will contain the data set, or the folder DatasetXXX_Name itself",
    )
    parser.add_argument(
        "--dataset_name",
        metavar="NAME",
        help="DatasetXXX_Name (default: the name in --output_dir, else Dataset001_Converted)",
    )
    parser.add_argument(
        "--test_split",
        type=fraction,
        default=0.0,
        metavar="FRACTION",
        help="fraction of the cases that become test cases",
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="random seed for the choice of the test cases")
    parser.add_argument(
        "--channel_names",
        nargs="+",
        metavar="NAME",
        help="one name per channel; use exactly CT for images in Hounsfield units",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME",
        help="lesion classes as NAME=VALUE, or only the names in the order of their values",
    )
    add_spacing_flag(parser)
    parser.add_argument(
        "--series",
        metavar="SERIES",
        help="series to read from DICOM folders: SeriesInstanceUID, number or description",
    )
    parser.add_argument(
        "--suv",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="PET channels (names from --channel_names) to convert from DICOM to SUV (body weight)",
    )
    parser.add_argument(
        "--instances", action="store_true", help="labels are instance maps, in which each value is one lesion"
    )
    parser.add_argument(
        "--segments",
        type=Path,
        metavar="JSON",
        help='class of each segment of DICOM segmentations: {"LABEL OR NUMBER": "CLASS"}, with null to leave a segment '
        "out (default: the label of a segment is its class)",
    )
    parser.add_argument(
        "--fractional_threshold",
        type=fraction,
        metavar="P",
        help="lowest fraction of a lesion in DICOM segmentations of the type FRACTIONAL, which are refused otherwise",
    )
    _add_bids_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that this command wrote earlier")
    add_processes_flag(parser)
    return parser


def _add_bids_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("BIDS")
    group.add_argument(
        "--bids", type=Path, metavar="ROOT", help="folder of a BIDS data set, instead of --image_dir and --label_dir"
    )
    group.add_argument(
        "--suffix",
        nargs="+",
        metavar="SUFFIX",
        help="suffix of each channel, such as FLAIR; SUFFIX,ENTITY=VALUE if several images have the suffix",
    )
    group.add_argument(
        "--bids_filter",
        nargs="+",
        default=[],
        metavar="ENTITY=VALUE",
        help="values that entities of the images must have, such as acq=highres ses=1; ENTITY= for images without it",
    )
    group.add_argument(
        "--bids_labels",
        metavar="FOLDER",
        help="folder of the masks: the name of a folder in ROOT/derivatives, or a path; `.` if they lie beside the "
        "images (default: no masks, all scans go to imagesTs)",
    )
    group.add_argument(
        "--label_filter",
        nargs="+",
        default=[],
        metavar="ENTITY=VALUE",
        help="values that entities of the masks must have, such as label=lesion desc=manual suffix=mask",
    )
    group.add_argument("--each_run", action="store_true", help="make a separate case of each run")
    group.add_argument(
        "--skip_incomplete", action="store_true", help="leave out sessions that lack some of the suffixes"
    )


def parse_labels(words: Sequence[str] | None) -> dict[str, int] | list[str] | None:
    """Parse the classes of the command line: ``NAME=VALUE`` for every class, or only the names.

    Raises
    ------
    DetSeg3DError
        If only some names have a value, a value is not a whole number, or a name is given twice.

    Examples
    --------
    >>> parse_labels(["metastasis=1", "cyst=2"])
    {'metastasis': 1, 'cyst': 2}
    """
    if words is None:
        return None
    pairs = [word.rpartition("=") for word in words]
    names = [name if equals else value for name, equals, value in pairs]
    with_value = [bool(equals) for _, equals, _ in pairs]
    numbers = all(value.isdecimal() and name for name, equals, value in pairs if equals)
    if len(set(names)) != len(names) or not numbers or any(with_value) != all(with_value):
        raise DetSeg3DError(
            "the label names cannot be understood",
            value=list(words),
            expected="NAME=VALUE for each class, or only names",
        )
    return {name: int(value) for name, _, value in pairs} if all(with_value) else names


def _segment_classes(file: Path | None) -> dict[str, str | None] | None:
    """Read the table of the classes of segments; ``None`` without a table.

    Raises
    ------
    DetSeg3DError
        If the file does not map texts to texts or null.
    """
    from detseg3d.system.json_files import read_json

    if file is None:
        return None
    table = read_json(file)
    if not isinstance(table, dict) or not all(value is None or isinstance(value, str) for value in table.values()):
        raise DetSeg3DError(
            "the file does not map segments to classes",
            file=file,
            value=table,
            expected='{"LABEL OR NUMBER": "CLASS"}, with null to leave a segment out',
        )
    return table


def _target(output: Path, name: str | None) -> tuple[Path, str]:
    """Return the folder that will contain the data set, and the name of the data set."""
    if name is not None:
        return output, name
    if _DATASET.fullmatch(output.name):
        return output.parent, output.name
    return output, "Dataset001_Converted"


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.image_source import SegmentRules
    from detseg3d.pipeline.convert import ConvertOptions, convert_folders
    from detseg3d.pipeline.convert_bids import convert_bids

    _check_source(options)
    output, name = _target(Path(options.output_dir), options.dataset_name)
    settings = ConvertOptions(
        dataset_name=name,
        test_split=options.test_split,
        seed=options.seed,
        channel_names=options.channel_names,
        labels=parse_labels(options.labels),
        spacing=None if options.spacing is None else tuple(options.spacing),
        series=options.series,
        suv=options.suv,
        instances=options.instances,
        overwrite=options.overwrite,
        segments=SegmentRules(_segment_classes(options.segments), options.fractional_threshold),
    )
    if options.bids is None:
        folder = convert_folders(options.image_dir, options.label_dir, output, settings, run_of(options))
    else:
        folder = convert_bids(options.bids, output, _bids_choice(options), settings, run_of(options))
    show(str(folder))
    return CommandResult({"folder": str(folder)})


def _check_source(options: argparse.Namespace) -> None:
    """Check that the flags name either folders or a BIDS data set.

    Raises
    ------
    DetSeg3DError
        If flags are missing or contradict each other.
    """
    folders = ("image_dir", "label_dir")
    bids = ("suffix", "bids_filter", "bids_labels", "label_filter", "each_run", "skip_incomplete")
    needed, others = (folders, bids) if options.bids is None else (("suffix",), (*folders, "series", "spacing"))
    missing = [f"--{flag}" for flag in needed if getattr(options, flag) is None]
    given = [f"--{flag}" for flag in others if getattr(options, flag)]
    if missing:
        raise DetSeg3DError(
            f"the command needs {' and '.join(missing)}" + (" with --bids" if options.bids else ""),
            remedy="add --suffix, such as --suffix FLAIR"
            if options.bids
            else "give --image_dir and --label_dir, or --bids and --suffix",
        )
    if given:
        raise DetSeg3DError(
            f"{given[0]} {'contradicts' if options.bids else 'needs'} --bids",
            value=given,
            remedy="leave these flags out" + ("" if options.bids else ", or give --bids ROOT"),
        )


def _bids_choice(options: argparse.Namespace) -> BidsChoice:
    """Return the scans and masks of BIDS that the flags choose."""
    from detseg3d.data.bids.filters import parse_channels, parse_filter
    from detseg3d.data.bids.scans import BidsChoice
    from detseg3d.pipeline.convert_bids import resolve_labels

    return BidsChoice(
        channels=parse_channels(options.suffix),
        filter=parse_filter(options.bids_filter),
        labels=resolve_labels(options.bids, options.bids_labels),
        label_filter=parse_filter(options.label_filter),
        each_run=options.each_run,
        skip_incomplete=options.skip_incomplete,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
