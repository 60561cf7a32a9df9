"""``detseg3d_install_model``: a model that somebody handed on, checked and put among the results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detseg3d.cli.arguments import add_root_flags, create_parser
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_install_model``."""
    parser = create_parser(
        "detseg3d_install_model",
        "Unpack a model that detseg3d_export_model wrote and put it among the results, where detseg3d_predict finds\n"
        "it. The file may come from anybody: a model is data, never code, and everything in the file is checked\n"
        "before it is taken for a model. It is there as a whole, or not at all.",
        "detseg3d_install_model lesions.zip --results data/results\n"
        "detseg3d_install_model lesions.zip --name Dataset901_Theirs\n"
        "detseg3d_predict -i scans -o masks -d 901",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the .zip file")
    parser.add_argument("--name", metavar="DatasetXXX_Name", help="install it under this name instead of its own")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="take the place of a model of this name; unless that was installed, too, it is kept beside it",
    )
    add_root_flags(parser, "results")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    from detseg3d.data.roots import results_root
    from detseg3d.pipeline.exchange import install_model

    done = install_model(options.file, results_root(options.results), options.name, options.overwrite)
    if done.kept is not None:
        show(f"the model that was there is kept as {done.kept}")
    show(f"installed {done.folder}, fold(s) {' '.join(done.folds)}")
    show(f"use it with: detseg3d_predict -i scans -o masks -m {done.folder}")
    kept = None if done.kept is None else str(done.kept)
    return CommandResult({"folder": str(done.folder), "folds": list(done.folds), "replaced_model": kept})


if __name__ == "__main__":
    raise SystemExit(main())
