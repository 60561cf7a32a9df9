"""``detseg3d_evaluate``: compare a folder of predictions with the truth."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace

from detseg3d.cli.common import (
    EXIT_FAILURE,
    EXIT_SUCCESS,
    add_processes_flag,
    create_parser,
    positive_float,
    run_command,
)

__all__ = ["build_parser", "main"]

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Compare a folder of predicted masks with a folder of labels, whoever made the predictions. Prints
a table and writes every figure, case and lesion as JSON.

Lesions of a mask are its connected components (26 neighbours), class by class. If the folder of
predictions has a subfolder `instances`, as detseg3d_predict writes it, lesions come from there,
and their classes and scores from `rois`. Classes come from the dataset.json in or above the
folder of labels or in that of the predictions; without one, each value but 0 is a class.

A lesion is found if a prediction overlaps it in at least one voxel; a prediction that overlaps no
lesion is a false positive. Figures at IoU >= 0.1 and >= 0.5 match lesions and predictions one to
one. A case without lesions in truth and prediction has Dice 1 and is counted apart.

Cases that only one side has, or whose geometry differs, are named and left out; the exit code is
then 1, and the figures of all others are written nevertheless."""

EXAMPLE = """\
detseg3d_evaluate -gt data/raw/Dataset999_Example/labelsTs -pred predictions -o metrics.json
detseg3d_evaluate -gt labels -pred masks_of_another_program"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_evaluate``."""
    parser = create_parser("detseg3d_evaluate", DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "-gt", "--ground_truth", required=True, metavar="FOLDER", help="labels: CASE.nii.gz, .nii, .mha, .nrrd or .npy"
    )
    parser.add_argument(
        "-pred", "--predictions", required=True, metavar="FOLDER", help="predictions, named like the labels"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write all figures as JSON")
    parser.add_argument(
        "--instances",
        action="store_true",
        help="the files of both folders are instance maps: each value but 0 is one lesion",
    )
    parser.add_argument(
        "--npy_spacing",
        type=positive_float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="millimetres per voxel of .npy files; without it, what dataset.json says, else 1 1 1",
    )
    add_processes_flag(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> int:
    from detseg3d.evaluation.evaluate import evaluate_folders, read_label_format
    from detseg3d.evaluation.table import format_evaluation
    from detseg3d.io.files import write_json

    form = read_label_format(options.ground_truth, options.predictions)
    if options.instances:
        single = form.classes if form.classes is not None and len(form.classes) == 1 else None
        form = replace(form, classes=single, truth_instances=True, prediction_instances=True)
    if options.npy_spacing is not None:
        form = replace(form, npy_spacing=tuple(options.npy_spacing))
    result = evaluate_folders(
        options.ground_truth,
        options.predictions,
        label_format=form,
        num_processes=options.num_processes,
        progress=not options.no_progress,
    )
    print(format_evaluation(result))
    if options.output is not None:
        write_json(result, options.output)
        logger.info("all figures are in %s", options.output)
    if result["problems"]:
        logger.error("%d case(s) could not be evaluated; see the table", len(result["problems"]))
        return EXIT_FAILURE
    return EXIT_SUCCESS
