"""``detseg3d_visualize``: draw the lesions of a case: found, missed and false positive."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import add_spacing_flag, create_parser, positive_int
from detseg3d.cli.running import CommandResult, run_command

__all__ = ["main"]

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Draw a case: three slices through the whole scan, and one slice for each lesion. The lesion slices show
found lesions, missed lesions and false positives, errors first, up to --max_lesions. A lesion is
shown on the slice with its largest area, with the outlines of truth and prediction, the predicted
box and its score.

Without --label, the picture shows all predicted lesions. For a mask of detseg3d_predict, lesions,
boxes and scores are read from `instances` and `rois` in the same folder. For any other mask, the
lesions are its connected components."""

EXAMPLE = """\
detseg3d_visualize --image imagesTs/case_0000.nii.gz --pred predictions/case.nii.gz \\
    --label labelsTs/case.nii.gz --output case.png"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_visualize``."""
    parser = create_parser("detseg3d_visualize", DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "--image", required=True, metavar="FILE", help="one channel of the scan: a file or a DICOM folder"
    )
    parser.add_argument("--pred", required=True, metavar="FILE", help="predicted mask or instance map")
    parser.add_argument(
        "--label", metavar="FILE", help="label: a mask, or an instance map if its dataset.json declares instance maps"
    )
    parser.add_argument("--rois", metavar="JSON", help="boxes and scores (default: rois/CASE.json beside --pred)")
    parser.add_argument("--output", required=True, metavar="FILE", help="picture to write: .png, .pdf or .svg")
    parser.add_argument(
        "--series",
        metavar="SERIES",
        help="series to read from a DICOM folder: SeriesInstanceUID, number or description",
    )
    parser.add_argument("--instances", action="store_true", help="prediction and label are instance maps")
    parser.add_argument(
        "--max_lesions", type=positive_int, default=12, metavar="N", help="maximum number of lesions to draw"
    )
    add_spacing_flag(parser, "from the dataset.json of --label, else 1 1 1")
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
