"""``detseg3d_predict``: predict masks, boxes and scores of the lesions in scans."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import (
    add_cluster_flag,
    add_series_flag,
    add_spacing_flag,
    create_parser,
    fraction,
    non_negative_int,
    positive_int,
)
from detseg3d.cli.cluster import network_resources, opened_run
from detseg3d.cli.export_dicom import add_dicom_flags, dicom_options
from detseg3d.cli.model_flags import add_model_flags, check_one_model, load_options, model_path, model_source
from detseg3d.cli.parser import own_word
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.backend import Backend
from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.run_record import RunTarget

if TYPE_CHECKING:
    from detseg3d.inference.load_options import LoadOptions
    from detseg3d.inference.model_source import ModelSource
    from detseg3d.models.detseg import DetSeg3D
    from detseg3d.planning.plans import Plans

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_predict``."""
    parser = create_parser(
        "detseg3d_predict",
        "Find and outline the lesions of every scan of a folder with the folds of a trained model.\n\n"
        "Output for each case: CASE (semantic mask), instances/CASE (one number per lesion) and rois/CASE.json\n"
        "(boxes, scores and sizes of the lesions, and the rejected candidates). Output for the folder: lesions.csv\n"
        "and cases.csv. Masks have the geometry and the format of the input. For DICOM, dicom/CASE.seg.dcm and\n"
        "dicom/CASE.sr.dcm are written as well.\n\n"
        "A scan that differs from the training scans is predicted, and a warning names the difference. If a case\n"
        "fails, the other cases are predicted and the exit code is 1.\n\n"
        "If the input is one scan, -o may be a file (.nii.gz .nii .mha .mhd .nrrd .npy). The command then writes only\n"
        "the semantic mask, in the format of the file name.",
        "detseg3d_predict -i scans -o masks -d 101 -f 0 1 2 3 4\n"
        "detseg3d_predict -i scan.nii.gz -o masks -m results/Dataset101_SynthMS -f 0 --disable_tta\n"
        "detseg3d_predict -i scan.nii.gz -o mask.nii.gz -d 101",
    )
    parser.add_argument("-i", "--input", required=True, metavar="PATH", help="scan, folder of scans, or DICOM folder")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help="folder of the results; or, if the input is one scan, the file of its mask, such as mask.nii.gz",
    )
    _add_own_model_flags(add_model_flags(parser))
    _add_prediction_flags(parser)
    return parser


def _add_own_model_flags(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "-chk",
        "--checkpoint",
        type=own_word,
        choices=("final", "best"),
        default="final",
        help="weights from the end of the training, or the weights with the best validation result",
    )
    model.add_argument(
        "--network",
        metavar="MODULE:FUNCTION",
        help="function that makes the network; required if the model was trained with --network. Its code is run",
    )


def _add_prediction_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prediction")
    group.add_argument(
        "--candidate_threshold",
        type=fraction,
        metavar="P",
        help="lowest Stage 1 score of a candidate, instead of the value in the plans",
    )
    group.add_argument(
        "--score_threshold",
        type=fraction,
        metavar="P",
        help="lowest score of a lesion; after detseg3d_consolidate, scores are calibrated, and this value replaces the "
        "scan threshold as well",
    )
    group.add_argument(
        "--plan_thresholds",
        action="store_true",
        help="use the thresholds in the plans and uncalibrated scores, and ignore the result of detseg3d_consolidate",
    )
    group.add_argument(
        "--save_probabilities", action="store_true", help="also write the class probabilities to probabilities/CASE.npz"
    )
    group.add_argument(
        "--save_candidates",
        action="store_true",
        help="also write the masks of all candidates, including rejected ones, to candidates/CASE.npz",
    )
    group.add_argument(
        "--also",
        metavar="FORMATS",
        help="also write files for other programs: some of slicer,itksnap,prompts, separated by commas",
    )
    group.add_argument(
        "--bids_out",
        type=Path,
        metavar="FOLDER",
        help="also write the results as a derivative of BIDS into this folder; the names of the scans must be names of "
        "BIDS",
    )
    add_spacing_flag(group, "default_spacing of the plans, else 1 1 1")
    add_series_flag(group)
    group.add_argument(
        "--suv",
        nargs="+",
        default=[],
        metavar="CHANNEL",
        help="PET channels to convert from DICOM to SUV (body weight), in addition to those in the plans",
    )
    add_dicom_flags(group, "labelmap if the scan is DICOM")
    add_cluster_flag(group)
    group.add_argument("--continue_prediction", action="store_true", help="skip cases with complete results")
    group.add_argument(
        "-num_parts",
        "--num_parts",
        type=positive_int,
        default=1,
        metavar="N",
        help="number of processes that share the cases",
    )
    group.add_argument(
        "-part_id",
        "--part_id",
        type=non_negative_int,
        default=0,
        metavar="K",
        help="number of this process, from 0 to N-1",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments, _record_target)


def _record_target(options: argparse.Namespace) -> RunTarget | None:
    """Return the folder of the predictions; ``None`` if a single mask is written."""
    if options.model is None and options.dataset is None:
        return None
    files = model_source(options, _load_options(options)).files()
    # The processes of --num_parts write to the same folder.
    name = "run" if options.num_parts == 1 else f"run_part_{options.part_id}"
    inputs = {"images": [Path(options.input)], "model": files}
    return RunTarget(Path(options.output), None, inputs, name)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.dataset import check_input

    check_one_model(options)
    if options.part_id >= options.num_parts:
        raise DetSeg3DError(
            "--part_id is out of range", value=options.part_id, expected=f"0 to {options.num_parts - 1}"
        )
    if options.also is not None:
        from detseg3d.exports.viewers.export import parse_formats

        parse_formats(options.also)
    # The input is checked first, because importing torch and loading the model take long.
    check_input(options.input)
    path = model_path(options)
    from detseg3d.inference.model_file import opened_model

    source = model_source(options, _load_options(options)).with_backend()
    if source.load.backend is not Backend.TORCH:
        _check_flags_of_exported(options, source.load)
    build_model = _network_builder(options)
    source = replace(source, load=replace(source.load, build_model=build_model))
    with opened_model(path, build_model) as folder:
        return _predict(options, folder, source)


def _load_options(options: argparse.Namespace) -> LoadOptions:
    """Return the options for loading the model, without the network of ``--network``."""
    return replace(
        load_options(options),
        checkpoint=options.checkpoint,
        candidate_threshold=options.candidate_threshold,
        score_threshold=options.score_threshold,
        use_operating_point=not options.plan_thresholds,
    )


def _check_flags_of_exported(options: argparse.Namespace, load: LoadOptions) -> None:
    """Raise an error if a flag asks for what exported networks do not have."""
    given = {"--network": options.network is not None, "--checkpoint best": options.checkpoint == "best"}
    for flag, is_given in given.items():
        if is_given:
            raise DetSeg3DError(
                f"{flag} does not work with exported networks",
                value=f"--backend {load.backend}",
                remedy="leave the flag out, or predict with the trained model and --backend torch",
            )


def _network_builder(options: argparse.Namespace) -> Callable[[Plans], DetSeg3D]:
    """Return the function that makes the networks of the model."""
    from detseg3d.models.custom import CustomCode
    from detseg3d.models.detseg import DetSeg3D

    custom = CustomCode(options.network)
    custom.check()
    return DetSeg3D if options.network is None else custom.build


def _predict(options: argparse.Namespace, folder: Path, source: ModelSource) -> CommandResult:
    """Predict with the model in ``folder``, which is the path of ``source`` or was unpacked from this file."""
    from detseg3d.data.dataset import list_inputs
    from detseg3d.inference.input_options import InputOptions
    from detseg3d.inference.model_folder import model_plans

    dicom = dicom_options(options)
    plans = model_plans(folder, options.folds, source.load.stored_weights)
    spacing = None if options.spacing is None else tuple(options.spacing)
    input_options = InputOptions(spacing, tuple(options.series), tuple(options.suv))
    input_options.check(plans)
    cases = list_inputs(options.input, plans.num_channels, input_options.series)
    single = _single_file(options, len(cases))
    cases = cases[options.part_id :: options.num_parts]

    from detseg3d.exports.viewers.export import parse_formats
    from detseg3d.pipeline.predict import OutputOptions, predict_cases, predict_file

    written = [case.case_id for case in cases]
    if single:
        predictor = source.open_unpacked(folder)
        for case in cases:
            predict_file(predictor, case, options.output, input_options)
            show(f"wrote the mask {options.output}; a folder after -o also receives instances, boxes and scores")
        return CommandResult({"output": str(options.output), "cases": written, "failed": []})
    output = OutputOptions(
        continue_prediction=options.continue_prediction,
        save_probabilities=options.save_probabilities,
        save_candidates=options.save_candidates,
        viewer_formats=() if options.also is None else parse_formats(options.also),
        show_progress=not options.no_progress,
        dicom=dicom,
        dicom_is_required=_requested_dicom(options) != [],
        bids_folder=options.bids_out,
    )
    if options.cluster is None:
        failures = predict_cases(source.open_unpacked(folder), cases, options.output, input_options, output)
    else:
        from detseg3d.pipeline.predict_on_cluster import predict_cases_on_cluster

        resources = network_resources(options.device, options.memory_gb)
        with opened_run(options, [options.input, source.path], [options.output], resources) as run:
            failures = predict_cases_on_cluster(source, cases, options.output, run, input_options, output)
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


def _requested_dicom(options: argparse.Namespace) -> list[str]:
    """Return the flags that request DICOM objects; without flags, they are written only for scans in DICOM."""
    requested = {"dicom_seg": options.dicom_seg not in (None, "none"), "dicom_sr": options.dicom_sr}
    return [flag for flag, is_given in {**requested, "rtstruct": options.rtstruct}.items() if is_given]


def _single_file(options: argparse.Namespace, case_count: int) -> bool:
    """Return True if the output is one mask file and False if it is a folder.

    Raises
    ------
    DetSeg3DError
        If one file cannot contain the requested results.
    """
    from detseg3d.data.formats.endings import unread_format
    from detseg3d.data.images import SUPPORTED_ENDINGS, file_ending

    output: Path = options.output
    if output.is_dir():
        return False
    if file_ending(output) is None:
        if unread_format(output) is not None:
            raise DetSeg3DError(
                "masks cannot be written in this format",
                file=output,
                expected=f"one of {' '.join(SUPPORTED_ENDINGS)}, or a folder",
                remedy="change the ending of the file after -o",
            )
        return False
    if case_count != 1:
        raise DetSeg3DError(
            "one file cannot contain the masks of several cases",
            file=output,
            value=f"{case_count} cases in {options.input}",
            remedy="give a folder after -o, or one scan after -i",
        )
    given = [
        flag
        for flag in ("save_probabilities", "save_candidates", "continue_prediction", "also", "bids_out", "cluster")
        if getattr(options, flag)
    ]
    given += _requested_dicom(options)
    if given:
        raise DetSeg3DError(
            f"--{given[0]} needs a folder, and the output is one file", file=output, remedy="give a folder after -o"
        )
    return True


if __name__ == "__main__":
    raise SystemExit(main())
