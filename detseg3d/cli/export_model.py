"""``detseg3d_export_model``: write a trained model as one file that other people can use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import add_root_flags, create_parser
from detseg3d.cli.parser import own_word
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.backend import NetworkFormat

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_export_model``."""
    parser = create_parser(
        "detseg3d_export_model",
        "Write a trained model as one safetensors file. The file holds the weights and plans of the folds and, if\n"
        "they exist, the operating point, dataset.json, the fingerprint of the data set and the metrics of the\n"
        "cross-validation. It contains no images, and no names or metrics of single cases. If the model is not\n"
        "complete, the command stops and writes nothing. detseg3d_predict -m reads the file. detseg3d_install_model\n"
        "unpacks the file into the folder of the results.\n\n"
        "With --format openvino or onnx, the file holds complete networks for OpenVINO or ONNX Runtime on CPUs.\n"
        "They are compared with PyTorch on random input, and nothing is written if they differ. Custom networks\n"
        "(--network) and plans with context attention cannot be exported to these formats. Prediction still needs\n"
        "PyTorch for the steps before, between and after the networks.\n\n"
        "With --format openvino --int8 FOLDER, the networks compute in 8-bit integers, which is faster on processors\n"
        "without bfloat16. The ranges of their maps are measured on the scans of FOLDER: about ten scans with\n"
        "lesions, like those that will be predicted. The masks are compared with those in float32, and nothing is\n"
        "written if they differ too much. This needs the extra int8.",
        "detseg3d_export_model 101 -f 0 1 2 3 4 -o lesions.safetensors\n"
        "detseg3d_export_model 101 -f 0 1 2 3 4 -o lesions.openvino.safetensors --format openvino\n"
        "detseg3d_export_model 101 -f 0 -o lesions.int8.safetensors --format openvino --int8 scans\n"
        "detseg3d_predict -i scans -o masks -m lesions.safetensors",
    )
    parser.add_dataset("number or name, such as 101 or Dataset101_SynthMS")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="the .safetensors file to write"
    )
    parser.add_argument("-f", "--folds", nargs="+", metavar="F", help="folds to export; default: as detseg3d_predict")
    parser.add_argument(
        "--format",
        type=own_word,
        choices=[str(kind) for kind in NetworkFormat],
        default=str(NetworkFormat.DETSEG3D),
        help="networks for PyTorch (detseg3d), OpenVINO (openvino) or ONNX Runtime (onnx)",
    )
    parser.add_argument(
        "--int8",
        type=Path,
        metavar="FOLDER",
        help="with --format openvino: compute in 8-bit integers, prepared with the scans of this folder",
    )
    add_root_flags(parser, "results")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.trained_models import resolve_model
    from detseg3d.pipeline.exchange import export_model

    folder = resolve_model(options.results, options.dataset)
    exported = export_model(
        folder, options.output, options.folds, NetworkFormat(options.format), options.int8, not options.no_progress
    )
    name = exported.description.name
    show(f"weights:   {' '.join(exported.folds)}, for {exported.description.networks}")
    show(f"documents: {' '.join(exported.documents)}")
    dice_of_fold = dict(zip(exported.folds, exported.mask_agreement, strict=True)) if exported.mask_agreement else {}
    for fold, dice in dice_of_fold.items():
        show(f"{fold}: int8; the masks of the scans agree with those in float32, Dice {dice:.3f}")
    show(f"wrote {options.output}: {name}, {options.output.stat().st_size} bytes")
    result = {"file": str(options.output), "model": name, "sha256": exported.description.sha256}
    return CommandResult({**result, **({"int8_dice": dice_of_fold} if dice_of_fold else {})})


if __name__ == "__main__":
    raise SystemExit(main())
