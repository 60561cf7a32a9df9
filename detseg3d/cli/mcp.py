"""``detseg3d_mcp``: offer prediction and evaluation as tools for language models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.model_flags import add_model_flags, add_time_limit_flag, served_model
from detseg3d.cli.running import CommandResult, require_extra, run_command
from detseg3d.core.errors import DetSeg3DError

if TYPE_CHECKING:
    from detseg3d.serving.model import ModelOpener

__all__ = ["main"]

_DESCRIPTION = """\
Offer tools to a language model by the Model Context Protocol (MCP), through the standard input and output: list the
models, predict a scan, describe the lesions of a result, and evaluate a folder. The program of the user (the MCP
client) starts this command.

The tools read only below the folders after --read and write only below the folder after --write. What the tools
return goes to the language model of the user, which may run on another machine. Without -d and -m, all trained models
of the folder of results are offered."""

_EXAMPLE = """\
detseg3d_mcp -d 101 --read scans --write results_mcp
detseg3d_mcp --results results --read scans labels --write results_mcp"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_mcp``."""
    parser = create_parser("detseg3d_mcp", _DESCRIPTION, _EXAMPLE)
    add_model_flags(parser)
    group = parser.add_argument_group("folders of the tools")
    group.add_argument(
        "--read", nargs="+", required=True, type=Path, metavar="FOLDER", help="folders that the tools may read"
    )
    group.add_argument(
        "--write", required=True, type=Path, metavar="FOLDER", help="folder in which the tools may write and read"
    )
    add_time_limit_flag(group)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    require_extra("serve", "mcp")
    models = _models(options)
    missing = [folder for folder in options.read if not folder.is_dir()]
    if missing:
        raise DetSeg3DError("a folder after --read does not exist", file=missing[0], remedy="check the path")
    from detseg3d.serving.mcp_tools import AllowedFolders, Tools, create_server
    from detseg3d.system.files import check_writable

    check_writable(options.write)
    tools = Tools(models, AllowedFolders(tuple(options.read), options.write), options.max_job_seconds)
    try:
        create_server(tools).run("stdio")
    finally:
        tools.stop()
    return CommandResult({"models": list(models)})


def _models(options: argparse.Namespace) -> dict[str, ModelOpener]:
    """Return the models by name: the model of ``-d`` or ``-m``, else all trained models of the folder of results."""
    from detseg3d.data.roots import find_datasets, results_root
    from detseg3d.data.trained_models import no_trained_model
    from detseg3d.inference.model_folder import folder_backends

    if options.model is not None or options.dataset is not None:
        model = served_model(options)
        return {model.source.path.stem: model}
    models: dict[str, ModelOpener] = {}
    root = results_root(options.results)
    for folder in find_datasets(root):
        if folder_backends(folder):
            options.model = folder
            models[folder.name] = served_model(options)
    if not models:
        raise no_trained_model(root)
    return models


if __name__ == "__main__":
    raise SystemExit(main())
