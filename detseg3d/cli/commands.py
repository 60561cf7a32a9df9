"""The commands of DetSeg3D, in the order in which a project uses them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True)
class Command:
    """A command: the module ``detseg3d.cli.NAME``, the script ``detseg3d_NAME`` and ``detseg3d NAME``.

    Attributes
    ----------
    name : str
        Name of the module and of the sub-command.
    summary : str
        One line for the list of commands.
    """

    name: str
    summary: str

    @property
    def script(self) -> str:
        """Name of the console script."""
        return f"detseg3d_{self.name}"

    def build_parser(self) -> argparse.ArgumentParser:
        """Import the module of the command and return its parser."""
        build: Callable[[], argparse.ArgumentParser] = importlib.import_module(self._module).build_parser
        return build()

    def run(self, arguments: Sequence[str]) -> int:
        """Run the command on the words of a command line, and return its exit code."""
        main: Callable[[Sequence[str]], int] = importlib.import_module(self._module).main
        return main(arguments)

    @property
    def _module(self) -> str:
        return f"detseg3d.cli.{self.name}"


COMMANDS = (
    Command("run", "train and evaluate a model on a folder of images and a folder of labels"),
    Command("example", "write the built-in example data set"),
    Command("convert", "make a data set from a folder of images and a folder of labels"),
    Command("plan_and_preprocess", "measure data sets, plan the networks and preprocess the cases"),
    Command("train", "train and validate one fold"),
    Command("pretrain", "train a model to start from, on simulated scans"),
    Command("consolidate", "pool the folds, choose the thresholds and write the cross-validation report"),
    Command("predict", "find and outline the lesions of scans"),
    Command("serve", "predict the scans that clients send over HTTP, with a page to drop a scan"),
    Command("watch", "predict each scan that appears in a folder"),
    Command("mcp", "offer a model as tools for language models (MCP)"),
    Command("export_dicom", "write results as DICOM segmentations and reports"),
    Command("export_bids", "write results as a derivative of BIDS"),
    Command("evaluate", "compare predictions with labels"),
    Command("follow", "compare the lesions of scans of the same patient over time"),
    Command("report", "write a page per patient with key images and a table of the lesions, ready to print"),
    Command("visualize", "draw the lesions of a case"),
    Command("export_viewers", "write files for 3D Slicer, ITK-SNAP and interactive segmentation"),
    Command("export_model", "write a trained model as one file"),
    Command("install_model", "install a model from a file"),
    Command("completion", "print a script that completes commands and flags in a shell"),
)
