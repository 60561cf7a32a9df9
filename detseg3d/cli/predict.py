"""``detseg3d_predict``: masks, boxes and scores for a folder of scans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import (
    add_precision_flag,
    add_root_flags,
    create_parser,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
)
from detseg3d.cli.parser import CommandParser, own_word
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_predict``."""
    parser = create_parser(
        "detseg3d_predict",
        "Find and outline the lesions of every scan of a folder with the folds of a trained model. For each case:\n"
        "CASE (semantic mask), instances/CASE (one number per lesion), rois/CASE.json (boxes, scores, sizes; also the\n"
        "candidates that were not accepted); lesions.csv and cases.csv for the folder. Masks have the geometry and\n"
        "format of the input. A scan that is unlike the training scans is predicted, and a warning names the reason.\n"
        "A case that fails is reported, the others go on, and the exit code is 1.\n"
        "For one scan, -o may be a file (.nii.gz .nii .mha .mhd .nrrd .npy): the semantic mask is written to it, in\n"
        "the format of its ending, and nothing else.",
        "detseg3d_predict -i scans -o masks -d 101 -f 0 1 2 3 4\n"
        "detseg3d_predict -i scan.nii.gz -o masks -m results/Dataset101_SynthMS -f 0 --disable_tta\n"
        "detseg3d_predict -i scan.nii.gz -o mask.nii.gz -d 101",
    )
    parser.add_argument("-i", "--input", required=True, metavar="PATH", help="file, folder of files, or DICOM folder")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help="folder for the results; or, for one scan, the file of its mask alone, such as mask.nii.gz",
    )
    _add_model_flags(parser)
    _add_prediction_flags(parser)
    add_root_flags(parser, "results")
    return parser


def _add_model_flags(parser: CommandParser) -> None:
    parser.add_dataset("number or name of the data set that the model was trained on", required=False)
    model = parser.add_argument_group("model")
    model.add_argument("-m", "--model", type=Path, metavar="FOLDER", help="folder of the model, instead of DATASET")
    model.add_argument(
        "-f",
        "--folds",
        nargs="+",
        metavar="F",
        help="folds to average; default: all that are trained, without fold all if there are others",
    )
    model.add_argument(
        "-chk",
        "--checkpoint",
        type=own_word,
        choices=("final", "best"),
        default="final",
        help="weights of the end of the training, or the best that were validated on its way",
    )
    model.add_argument(
        "-device", "--device", metavar="NAME", help="cpu, cuda, cuda:1, mps; default: cuda if there is one"
    )


def _add_prediction_flags(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("prediction")
    how.add_argument("--candidate_threshold", type=fraction, metavar="P", help="lowest Stage 1 score of a candidate")
    how.add_argument(
        "--score_threshold",
        type=fraction,
        metavar="P",
        help="leave out lesions below (calibrated after detseg3d_consolidate, whose scan threshold it sets aside)",
    )
    how.add_argument(
        "--plan_thresholds",
        action="store_true",
        help="the plan's thresholds and raw scores, even if detseg3d_consolidate has chosen better ones",
    )
    add_precision_flag(how, Precision.AUTO, "it may be another than in training (default: auto)")
    how.add_argument("--disable_tta", action="store_true", help="no averaging over flips: about twice as fast")
    how.add_argument("--save_probabilities", action="store_true", help="also write the classes' probabilities/CASE.npz")
    how.add_argument(
        "--save_candidates",
        action="store_true",
        help="also write candidates/CASE.npz: the mask of every candidate, accepted or not",
    )
    how.add_argument(
        "--memory_gb",
        type=positive_float,
        metavar="GB",
        help="memory that a scan may take; a larger one is refused. Default: what is free when its turn comes",
    )
    how.add_argument(
        "--spacing",
        nargs=3,
        type=positive_float,
        metavar=("Z", "Y", "X"),
        help="millimetres per voxel of .npy files; without it, what the plans say (default_spacing), else 1 1 1",
    )
    how.add_argument(
        "--series",
        nargs="+",
        default=[],
        metavar="SERIES",
        help="of DICOM folders: SeriesInstanceUID, number or description of the series to read; one for all channels, "
        "or one per channel from one folder",
    )
    how.add_argument(
        "--suv",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="channels whose PET DICOM is converted to SUV by body weight, besides those that the plans name",
    )
    existing = how.add_mutually_exclusive_group()
    existing.add_argument("--continue_prediction", action="store_true", help="skip cases whose result is complete")
    existing.add_argument("--overwrite", action="store_true", help="predict all cases again (this is the default)")
    how.add_argument(
        "-num_parts",
        "--num_parts",
        type=positive_int,
        default=1,
        metavar="N",
        help="share the cases among N processes",
    )
    how.add_argument(
        "-part_id", "--part_id", type=non_negative_int, default=0, metavar="K", help="which part this process does"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.dataset import check_input, list_inputs
    from detseg3d.data.roots import resolve_dataset, results_root
    from detseg3d.inference.input_options import InputOptions
    from detseg3d.inference.model_folder import model_plans

    if (options.model is None) == (options.dataset is None):
        raise DetSeg3DError("which model?", remedy="give either -d DATASET or -m MODEL_FOLDER")
    if options.part_id >= options.num_parts:
        raise DetSeg3DError("--part_id counts from 0", value=options.part_id, expected=f"0 to {options.num_parts - 1}")
    # Input and output are looked at before torch is imported and the model is loaded, which takes longest.
    check_input(options.input)
    folder = options.model or resolve_dataset(results_root(options.results), options.dataset)
    plans = model_plans(folder, options.folds, options.checkpoint)
    spacing = None if options.spacing is None else tuple(options.spacing)
    input_options = InputOptions(spacing, tuple(options.series), tuple(options.suv))
    input_options.check(plans)
    cases = list_inputs(options.input, plans.num_channels, input_options.series)
    single = _single_file(options, len(cases))
    cases = cases[options.part_id :: options.num_parts]

    from detseg3d.inference.predictor import Predictor
    from detseg3d.system.device import compute_in, resolve_device

    compute_in(resolve_device(options.device), options.precision)
    predictor = Predictor.from_model_folder(
        folder,
        options.folds,
        checkpoint=options.checkpoint,
        device=options.device,
        use_mirroring=not options.disable_tta,
        candidate_threshold=options.candidate_threshold,
        score_threshold=options.score_threshold,
        use_operating_point=not options.plan_thresholds,
        memory_gb=options.memory_gb,
    )
    written = [case.case_id for case in cases]
    if single:
        for case in cases:
            predictor.predict_file(case, options.output, input_options)
            show(f"mask written to {options.output}; for instances, boxes and scores give a folder after -o")
        return CommandResult({"output": str(options.output), "cases": written, "failed": []})
    failures = predictor.predict_files(
        cases,
        options.output,
        options=input_options,
        continue_prediction=options.continue_prediction,
        save_probabilities=options.save_probabilities,
        save_candidates=options.save_candidates,
        show_progress=not options.no_progress,
    )
    show(f"{len(cases) - len(failures)} of {len(cases)} case(s) written to {options.output}")
    if failures:
        show(f"failed: {', '.join(sorted(failures))}", error=True)
    failed = [{"case": case, "error": str(failures[case])} for case in sorted(failures)]
    data = {
        "output": str(options.output),
        "cases": [case for case in written if case not in failures],
        "failed": failed,
    }
    return CommandResult(data, EXIT_FAILURE if failures else EXIT_SUCCESS)


def _single_file(options: argparse.Namespace, case_count: int) -> bool:
    """Whether the output is one mask file, and not a folder.

    Raises
    ------
    DetSeg3DError
        If a file cannot hold what is asked for.
    """
    from detseg3d.data.formats.endings import unread_format
    from detseg3d.data.images import SUPPORTED_ENDINGS, file_ending

    output: Path = options.output
    if output.is_dir():
        return False
    if file_ending(output) is None:
        if unread_format(output) is not None:
            raise DetSeg3DError(
                "masks are not written in this format",
                file=output,
                expected=f"one of {' '.join(SUPPORTED_ENDINGS)}, or a folder",
                remedy="give the mask another ending after -o",
            )
        return False
    if case_count != 1:
        raise DetSeg3DError(
            "one file cannot hold the masks of several cases",
            file=output,
            value=f"{case_count} cases in {options.input}",
            remedy="give a folder after -o, or one scan after -i",
        )
    given = [
        flag for flag in ("save_probabilities", "save_candidates", "continue_prediction") if getattr(options, flag)
    ]
    if given:
        raise DetSeg3DError(
            f"--{given[0]} needs a folder, and the output is one file", file=output, remedy="give a folder after -o"
        )
    return True


if __name__ == "__main__":
    raise SystemExit(main())
