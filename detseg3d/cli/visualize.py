"""``detseg3d_visualize``: a picture of what was found and what was missed."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import create_parser, positive_float, positive_int
from detseg3d.cli.running import CommandResult, run_command

__all__ = ["build_parser", "main"]

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Draw a case: three slices through the whole scan and, for each lesion found, each one missed and
each false positive (up to --max_lesions, errors first), the slice on which it is largest, with the
outlines of truth and prediction, the predicted box and its score.

Without --label, everything that was predicted is shown. Of a mask written by detseg3d_predict,
lesions, boxes and scores are read from `instances` and `rois` beside it; the lesions of any other
mask are its connected components."""

EXAMPLE = """\
detseg3d_visualize --image imagesTs/case_0000.nii.gz --pred predictions/case.nii.gz \\
    --label labelsTs/case.nii.gz --output case.png"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_visualize``."""
    parser = create_parser("detseg3d_visualize", DESCRIPTION, EXAMPLE)
    parser.add_argument("--image", required=True, metavar="FILE", help="the scan, one channel; or a DICOM folder")
    parser.add_argument("--pred", required=True, metavar="FILE", help="predicted mask or instance map")
    parser.add_argument("--label", metavar="FILE", help="the truth: mask, or instance map if its dataset.json says so")
    parser.add_argument(
        "--rois", metavar="JSON", help="boxes and scores; not needed if they are in rois/ beside --pred"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="picture to write: .png, .pdf or .svg")
    parser.add_argument(
        "--series",
        metavar="SERIES",
        help="of a DICOM folder: SeriesInstanceUID, number or description",
    )
    parser.add_argument("--instances", action="store_true", help="prediction and label are instance maps")
    parser.add_argument("--max_lesions", type=positive_int, default=12, metavar="N", help="most lesions shown")
    parser.add_argument(
        "--spacing",
        type=positive_float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="millimetres per voxel of .npy files; without it, what the dataset.json of --label says, else 1 1 1",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.image_source import ImageSource
    from detseg3d.reporting.pictures.visualize import visualize_files

    spacing = None if options.spacing is None else tuple(options.spacing)
    visualize_files(
        ImageSource(Path(options.image), spacing, options.series),
        options.pred,
        options.output,
        label=options.label,
        rois=options.rois,
        instances=options.instances,
        maximum=options.max_lesions,
    )
    logger.info("wrote the picture %s", options.output)
    return CommandResult({"file": str(options.output)})


if __name__ == "__main__":
    raise SystemExit(main())
