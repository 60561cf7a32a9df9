"""Flags that name a trained model and the way in which it predicts, and the model that they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import add_device_flag, add_precision_flag, add_root_flags, positive_float
from detseg3d.cli.parser import CommandParser, own_word
from detseg3d.core.backend import Backend
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision

if TYPE_CHECKING:
    from detseg3d.inference.load_options import LoadOptions
    from detseg3d.inference.model_source import ModelSource
    from detseg3d.serving.model import ServedModel

__all__ = [
    "add_model_flags",
    "add_time_limit_flag",
    "check_one_model",
    "load_options",
    "model_path",
    "model_source",
    "served_model",
]


def add_model_flags(parser: CommandParser) -> argparse._ArgumentGroup:
    """Add the data set, ``-m`` and the other flags of the model; return their group, for flags of one command."""
    parser.add_dataset("number or name of the training data set", required=False)
    model = parser.add_argument_group("model")
    model.add_argument(
        "-m",
        "--model",
        type=Path,
        metavar="PATH",
        help="folder of the model, or a file that detseg3d_export_model wrote, instead of DATASET",
    )
    model.add_argument(
        "-f",
        "--folds",
        nargs="+",
        metavar="F",
        help="folds to average (default: all trained folds; fold `all` only if it is the only one)",
    )
    add_device_flag(model)
    model.add_argument(
        "--backend",
        type=own_word,
        choices=[str(backend) for backend in Backend],
        help="library that runs the networks; openvino and onnxruntime need a model of detseg3d_export_model "
        '--format, a CPU, and pip install "detseg3d[deploy]"; the other steps of a prediction use PyTorch in any case '
        "(default: the backend for which the model was exported, else torch)",
    )
    add_precision_flag(model, Precision.AUTO, "it may differ from the training (default: auto)")
    model.add_argument(
        "--disable_tta",
        action="store_true",
        help="do not average over flipped copies of the scan, even if the plan names such copies; the average takes "
        "two to three times as long",
    )
    model.add_argument(
        "--memory_gb",
        type=positive_float,
        metavar="GB",
        help="memory limit for one scan; a larger scan is predicted in slabs, or refused if slabs need more as well "
        "(default: the free memory)",
    )
    add_root_flags(parser, "results")
    return model


def add_time_limit_flag(group: argparse._ActionsContainer) -> None:
    """Add ``--max_job_seconds``, the time limit of a command that predicts scans in a worker process."""
    group.add_argument(
        "--max_job_seconds",
        type=positive_float,
        default=1800.0,
        metavar="S",
        help="time limit for one scan in seconds; a scan that takes longer fails",
    )


def check_one_model(options: argparse.Namespace) -> None:
    """Raise an error if the flags name no model or two models."""
    if (options.model is None) == (options.dataset is None):
        raise DetSeg3DError("the command needs exactly one model", remedy="give either -d DATASET or -m MODEL")


def model_path(options: argparse.Namespace) -> Path:
    """Return the model that ``-m`` or the data set names.

    Raises
    ------
    DetSeg3DError
        If the flags name no model or two models, or the model does not exist.
    """
    from detseg3d.data.trained_models import no_trained_model, resolve_model

    check_one_model(options)
    from detseg3d.inference.model_folder import folder_backends

    path: Path = options.model or resolve_model(options.results, options.dataset)
    if path.suffix == ".safetensors" and not path.exists():
        raise DetSeg3DError("the model file does not exist", file=path, remedy="check the path after -m")
    if not path.is_file() and not folder_backends(path):
        raise no_trained_model(path)
    return path


def load_options(options: argparse.Namespace) -> LoadOptions:
    """Return the options for loading the model."""
    from detseg3d.inference.load_options import LoadOptions

    return LoadOptions(
        device=options.device,
        use_mirroring=not options.disable_tta,
        memory_gb=options.memory_gb,
        backend=None if options.backend is None else Backend(options.backend),
        precision=options.precision,
    )


def model_source(options: argparse.Namespace, load: LoadOptions | None = None) -> ModelSource:
    """Return the model that the flags name.

    Parameters
    ----------
    options : Namespace
        With the flags of :func:`add_model_flags`.
    load : LoadOptions, optional
        Options for loading the model; by default those of the flags.

    Raises
    ------
    DetSeg3DError
        For the reasons of :func:`model_path`.
    """
    from detseg3d.inference.model_source import ModelSource

    folds = None if options.folds is None else tuple(options.folds)
    return ModelSource(model_path(options).absolute(), folds, load or load_options(options))


def served_model(options: argparse.Namespace) -> ServedModel:
    """Return the model that the flags name, for a worker process of the service.

    Raises
    ------
    DetSeg3DError
        For the reasons of :func:`model_path`.
    """
    from detseg3d.serving.model import ServedModel

    return ServedModel(model_source(options))
