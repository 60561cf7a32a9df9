"""Create the parsers of the commands, with their shared flags and the types of their arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from detseg3d.cli.parser import CommandParser, own_word
from detseg3d.core.augmentation import Augmentation
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.core.precision import Precision
from detseg3d.core.version import __version__
from detseg3d.planning.rules.length import STEPS_PER_EPOCH
from detseg3d.system.run import Run

__all__ = [
    "add_augmentation_flag",
    "add_cluster_flag",
    "add_device_flag",
    "add_length_flags",
    "add_operate_flag",
    "add_precision_flag",
    "add_processes_flag",
    "add_processes_or_cluster_flags",
    "add_root_flags",
    "add_series_flag",
    "add_shifted_scans_flag",
    "create_parser",
    "fraction",
    "mirror_axes",
    "non_negative_float",
    "non_negative_int",
    "positive_float",
    "positive_int",
    "run_of",
]

Number = TypeVar("Number", int, float)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the description and the examples, and show informative defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        uninteresting = action.default in (None, argparse.SUPPRESS) or isinstance(action.default, bool)
        if text is None or "%(default)" in text or uninteresting or "default" in text or not action.option_strings:
            return text
        if isinstance(action.default, (list, tuple)):
            return f"{text} (default: {' '.join(str(entry) for entry in action.default)})"
        return text + " (default: %(default)s)"


def create_parser(command: str, description: str, example: str) -> CommandParser:
    """Return the parser of a command, with the common flags.

    Parameters
    ----------
    command : str
        Name of the console script, for example ``detseg3d_train``.
    description : str
        Purpose of the command, its input and its output.
    example : str
        One or more valid command lines. The help shows them below the flags.

    Examples
    --------
    >>> parser = create_parser("detseg3d_train", "Train one fold.", "detseg3d_train 101 0")
    >>> parser.parse_args(["--verbose"]).verbose
    True
    """
    parser = CommandParser(
        prog=command,
        description=description,
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines()),
        formatter_class=_HelpFormatter,
    )
    add_common_flags(parser)
    return parser


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command: ``--verbose``, ``--no_progress``, ``--json`` and ``--version``."""
    group = parser.add_argument_group("output")
    group.add_argument("--verbose", action="store_true", help="show details of the work and tracebacks of errors")
    group.add_argument(
        "--no_progress",
        "--disable_progress_bar",
        action="store_true",
        help="show no progress bars (log files never contain any)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="print the result as one JSON object for programs; messages for people go to the standard error",
    )
    group.add_argument("--version", action="version", version=f"DetSeg3D {__version__}")


def add_root_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the folder flags ``--raw``, ``--preprocessed`` and ``--results``, or only the flags in ``names``."""
    contents = {"raw": "raw data sets", "preprocessed": "plans and preprocessed cases", "results": "trained models"}
    variables = {"raw": "detseg3d_raw, else $nnUNet_raw"}
    group = parser.add_argument_group("folders")
    for name in names or tuple(contents):
        variable = variables.get(name, f"detseg3d_{name}")
        group.add_argument(f"--{name}", metavar="FOLDER", help=f"folder of the {contents[name]} (default: ${variable})")


def add_length_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags for the length of a training: ``--steps``, ``--epochs`` and ``--max_minutes``."""
    length = group.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive_int, metavar="N", help="number of optimizer steps")
    length.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"number of epochs of {STEPS_PER_EPOCH} optimizer steps each, as in nnU-Net",
    )
    group.add_argument(
        "--max_minutes",
        type=positive_float,
        metavar="M",
        help="time limit; the whole learning rate schedule fits into this time, with fewer steps if necessary",
    )


def add_augmentation_flag(group: argparse._ActionsContainer, default: Augmentation | None, use: str) -> None:
    """Add ``--augmentation``, the amount of augmentation, to a parser or a group of flags.

    Parameters
    ----------
    group : parser or argument group
    default : Augmentation or None
    use : str
        The default, as the last clause of the help text.
    """
    group.add_argument(
        "--augmentation",
        type=augmentation,
        default=default,
        metavar="{" + ",".join(map(str, Augmentation)) + "}",
        help="how much training windows are changed: none only flips them, strong imitates other scanners, protocols "
        f"and patients; {use}",
    )


def add_precision_flag(group: argparse._ActionsContainer, default: Precision | None, use: str) -> None:
    """Add ``--precision`` to a parser or a group of flags.

    Parameters
    ----------
    group : parser or argument group
    default : Precision or None
    use : str
        Purpose of the flag in this command and its default, as the last clause of the help text.
    """
    group.add_argument(
        "--precision",
        type=precision,
        default=default,
        metavar="{" + ",".join(map(str, Precision)) + "}",
        help=f"number format of the networks; auto is half precision if the hardware supports it, else fp32; {use}",
    )


def add_operate_flag(group: argparse._ActionsContainer, default: str) -> None:
    """Add ``--operate``; ``default`` describes the choice of a command without this flag."""
    group.add_argument(
        "--operate",
        type=own_word,
        choices=tuple(str(goal) for goal in OperatingGoal),
        help="scans for which the thresholds are chosen: home (like the training scans) or robust (also of other "
        f"scanners) (default: {default})",
    )


def add_shifted_scans_flag(group: argparse._ActionsContainer) -> None:
    """Add ``--shifted_scans``."""
    group.add_argument(
        "--shifted_scans",
        type=non_negative_int,
        metavar="N",
        help="after the validation, also predict up to N copies of validation scans with simulated changes (thick "
        "slices, noise, fainter lesions, ...), which --operate robust and the expected recall of unlike scans need; 0 "
        "for none (default: one copy of each scan, at most 20)",
    )


def add_cluster_flag(group: argparse._ActionsContainer) -> None:
    """Add ``--cluster``, the cluster that runs the cases."""
    group.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="run the cases on the workers of a Dask cluster: tcp://HOST:PORT of its scheduler, its scheduler file, or "
        "local:N for N processes of this machine; install the extra `cluster` first",
    )


def add_processes_or_cluster_flags(parser: argparse.ArgumentParser, default: int = 2) -> None:
    """Add ``-np`` and ``--cluster``, of which a user gives one at most."""
    group = parser.add_mutually_exclusive_group()
    add_processes_flag(group, default)
    add_cluster_flag(group)


def add_processes_flag(parser: argparse._ActionsContainer, default: int = 2) -> None:
    """Add ``-np``, the number of worker processes."""
    parser.add_argument(
        "-np",
        "--num_processes",
        type=non_negative_int,
        default=default,
        metavar="N",
        help="number of worker processes; 0 works in the main process and needs the least memory "
        "(default: %(default)s)",
    )


def add_device_flag(group: argparse._ActionsContainer) -> None:
    """Add ``-device``, the device of the networks."""
    group.add_argument(
        "-device", "--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (default: cuda if available)"
    )


def add_series_flag(group: argparse._ActionsContainer) -> None:
    """Add ``--series``, the DICOM series to read for the channels of a scan."""
    group.add_argument(
        "--series",
        nargs="+",
        default=[],
        metavar="SERIES",
        help="series to read from DICOM folders: SeriesInstanceUID, number or description; either one series for all "
        "channels, or one series per channel from the same folder",
    )


def add_training_machine_flags(machine: argparse._ArgumentGroup, seeded: str) -> None:
    """Add ``--seed``, ``-device`` and ``--num_workers`` of a command that simulates or splits scans and trains.

    Parameters
    ----------
    machine : argument group
    seeded : str
        The steps that the seed determines.
    """
    machine.add_argument(
        "--seed",
        type=non_negative_int,
        metavar="N",
        help=f"random seed of {seeded} (default: 0; with --c, the earlier value)",
    )
    add_device_flag(machine)
    machine.add_argument(
        "--num_workers",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="number of processes that prepare training windows",
    )


def add_spacing_flag(group: argparse._ActionsContainer, fallback: str = "1 1 1") -> None:
    """Add ``--spacing``, the voxel spacing of ``.npy`` files.

    Parameters
    ----------
    group : parser or argument group
    fallback : str, optional
        Description of the spacing that is used without the flag.
    """
    group.add_argument(
        "--spacing",
        type=positive_float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help=f"voxel spacing of .npy files in mm (default: {fallback})",
    )


def run_of(options: argparse.Namespace) -> Run:
    """Return the number of worker processes and the display of progress bars that the user chose."""
    return Run(options.num_processes, not options.no_progress)


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = _parse(int, text, "a whole number")
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def non_negative_int(text: str) -> int:
    """Parse a whole number of at least 0."""
    value = _parse(int, text, "a whole number")
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must not be negative")
    return value


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = _parse(float, text, "a number")
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0")
    return value


def non_negative_float(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = _parse(float, text, "a number")
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def fraction(text: str) -> float:
    """Parse a number from 0 to 1."""
    value = _parse(float, text, "a number")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value


def precision(text: str) -> Precision:
    """Parse a precision: ``auto``, ``bf16``, ``fp16`` or ``fp32``."""
    try:
        return Precision(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(map(str, Precision))}") from None


def augmentation(text: str) -> Augmentation:
    """Parse an amount of augmentation: ``none``, ``standard`` or ``strong``."""
    try:
        return Augmentation(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(map(str, Augmentation))}") from None


def mirror_axes(text: str) -> tuple[int, ...]:
    """Parse ``none`` or letters of axes such as ``zyx``, and return axis indices; z is 0."""
    if text == "none":
        return ()
    if not text or set(text) - set("zyx") or len(set(text)) != len(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not valid: give none, or letters from z, y and x without repetition"
        )
    return tuple(sorted("zyx".index(letter) for letter in text))


def _parse(kind: Callable[[str], Number], text: str, description: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {description}") from None
