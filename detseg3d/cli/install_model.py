"""``detseg3d_install_model``: check a model file and unpack it into the folder of the results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import add_root_flags, create_parser
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_install_model``."""
    parser = create_parser(
        "detseg3d_install_model",
        "Unpack a model file of detseg3d_export_model into the folder of the results. detseg3d_predict -d then finds\n"
        "the model. A model file may come from an unknown source: it contains data and no code, and the command\n"
        "checks all of the data first. If a check fails, nothing is installed.",
        "detseg3d_install_model lesions.safetensors --results data/results\n"
        "detseg3d_install_model lesions.safetensors --name Dataset901_Theirs\n"
        "detseg3d_predict -i scans -o masks -d 901",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the .safetensors file")
    parser.add_argument(
        "--name", metavar="DatasetXXX_Name", help="name of the installed model (default: the name in the file)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing model of this name; a model that was trained or changed here is kept as "
        "replaced_NAME",
    )
    add_root_flags(parser, "results")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.roots import results_root
    from detseg3d.pipeline.exchange import install_model

    installed = install_model(options.file, results_root(options.results), options.name, options.overwrite)
    if installed.kept is not None:
        show(f"the earlier model is kept as {installed.kept}")
    show(f"installed {installed.folder}, fold(s) {' '.join(installed.folds)}")
    show(f"use it with: detseg3d_predict -i scans -o masks -m {installed.folder}")
    kept = None if installed.kept is None else str(installed.kept)
    return CommandResult({"folder": str(installed.folder), "folds": list(installed.folds), "replaced_model": kept})


if __name__ == "__main__":
    raise SystemExit(main())
