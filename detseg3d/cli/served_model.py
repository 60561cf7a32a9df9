"""Flags for the model of a command that waits for scans, and the check that its extra is installed."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import add_precision_flag, add_root_flags, positive_float
from detseg3d.cli.parser import CommandParser, own_word
from detseg3d.core.backend import Backend
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision

if TYPE_CHECKING:
    from detseg3d.serving.model import ModelSource

__all__ = ["add_model_flags", "model_source", "require_extra"]


def add_model_flags(parser: CommandParser) -> None:
    """Add the data set, ``-m`` and the other flags of the model."""
    parser.add_dataset("number or name of the training data set", required=False)
    model = parser.add_argument_group("model")
    model.add_argument(
        "-m",
        "--model",
        type=Path,
        metavar="PATH",
        help="folder of the model, or a file that detseg3d_export_model wrote, instead of DATASET",
    )
    model.add_argument("-f", "--folds", nargs="+", metavar="F", help="folds to average (default: all trained folds)")
    model.add_argument(
        "-device", "--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (default: cuda if available)"
    )
    model.add_argument(
        "--backend",
        type=own_word,
        choices=[str(backend) for backend in Backend],
        help="library that runs the networks; openvino and onnxruntime need a model of detseg3d_export_model --format "
        "(default: the backend for which the model was exported, else torch)",
    )
    model.add_argument(
        "--disable_tta", action="store_true", help="do not average over flipped copies; about twice as fast"
    )
    model.add_argument(
        "--memory_gb",
        type=positive_float,
        metavar="GB",
        help="memory limit for one scan; a larger scan is predicted in slabs, or refused if these need more as well "
        "(default: the free memory)",
    )
    add_precision_flag(model, Precision.AUTO, "(default: auto)")
    add_root_flags(parser, "results")


def model_source(options: argparse.Namespace) -> ModelSource:
    """Return the model that the flags name.

    Raises
    ------
    DetSeg3DError
        If the flags name no model or two models, or the model does not exist.
    """
    from detseg3d.data.roots import resolve_dataset, results_root
    from detseg3d.serving.model import ModelSource

    if (options.model is None) == (options.dataset is None):
        raise DetSeg3DError("the command needs exactly one model", remedy="give either -d DATASET or -m MODEL")
    path = options.model or resolve_dataset(results_root(options.results), options.dataset)
    if not path.exists():
        raise DetSeg3DError("the model does not exist", file=path, remedy="check the path after -m")
    folds = None if options.folds is None else tuple(options.folds)
    return ModelSource(
        path.absolute(),
        folds,
        options.device,
        options.precision,
        not options.disable_tta,
        options.memory_gb,
        None if options.backend is None else Backend(options.backend),
    )


def require_extra(extra: str, *modules: str) -> None:
    """Raise an error if a package of an extra is not installed.

    Parameters
    ----------
    extra : str
        Name of the extra in setup.py.
    *modules : str
        Names of the modules that the command imports.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DetSeg3DError(
            "this command needs packages that are not installed",
            value=missing,
            expected=f"the packages of the extra {extra}",
            remedy=f'pip install "detseg3d[{extra}]"',
        )
