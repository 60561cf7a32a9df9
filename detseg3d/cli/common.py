"""What all commands share: the parser's looks, common flags, logging, and errors turned into exit codes."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from detseg3d import __version__
from detseg3d.cli.parser import CommandParser
from detseg3d.cli.terminal import show, terminal, use_utf8
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.planning.rules.length import STEPS_PER_EPOCH
from detseg3d.system.memory import is_out_of_memory, out_of_memory
from detseg3d.system.run import Run
from detseg3d.system.signals import Interruption, interruptible, raise_again

__all__ = [
    "EXIT_FAILURE",
    "EXIT_INTERRUPTED",
    "EXIT_SUCCESS",
    "add_common_flags",
    "add_length_flags",
    "add_precision_flag",
    "add_processes_flag",
    "add_root_flags",
    "create_parser",
    "evaluation_exit_code",
    "fraction",
    "mirror_axes",
    "non_negative_float",
    "non_negative_int",
    "positive_float",
    "positive_int",
    "precision",
    "require_docstrings",
    "run_command",
    "run_of",
]

EXIT_SUCCESS = 0
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
EXIT_SIGNAL = 128  # and the number of the signal, as shells have it

Number = TypeVar("Number", int, float)

logger = logging.getLogger(__name__)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of description and example, and states each default that says something."""

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
        The console script's name, for example ``detseg3d_train``.
    description : str
        What the command does, what it reads and what it writes.
    example : str
        One or more command lines that work, shown below the flags.

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
    """Add ``--verbose``, ``--no_progress`` and ``--version``."""
    group = parser.add_argument_group("output")
    group.add_argument("--verbose", action="store_true", help="report in more detail")
    group.add_argument(
        "--no_progress",
        "--disable_progress_bar",
        action="store_true",
        help="no progress bars (there are none in a log file anyway)",
    )
    group.add_argument("--version", action="version", version=f"DetSeg3D {__version__}")


def add_root_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the folder flags ``--raw``, ``--preprocessed`` and ``--results``, or those of them given by name."""
    what = {"raw": "raw data sets", "preprocessed": "plans and preprocessed cases", "results": "trained models"}
    fallback = {"raw": "detseg3d_raw, else $nnUNet_raw"}
    group = parser.add_argument_group("folders")
    for name in names or tuple(what):
        variable = fallback.get(name, f"detseg3d_{name}")
        group.add_argument(
            f"--{name}", metavar="FOLDER", help=f"folder that holds the {what[name]}; without it, ${variable}"
        )


def add_length_flags(group: argparse._ArgumentGroup) -> None:
    """Add ``--steps``, ``--epochs`` and ``--max_minutes``, the length of a training."""
    length = group.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive_int, metavar="N", help="steps of the optimiser in all")
    length.add_argument(
        "--epochs", type=positive_int, metavar="N", help=f"the same in epochs of {STEPS_PER_EPOCH} steps, as in nnU-Net"
    )
    group.add_argument(
        "--max_minutes",
        type=positive_float,
        metavar="M",
        help="fit the whole schedule in this time, with fewer steps if need be",
    )


def add_precision_flag(group: argparse._ActionsContainer, default: Precision | None, use: str) -> None:
    """Add ``--precision`` to a parser or a group of flags.

    Parameters
    ----------
    group : parser or group of arguments
    default : Precision or None
    use : str
        What the command uses it for and what the default is, as the end of a sentence.
    """
    group.add_argument(
        "--precision",
        type=precision,
        default=default,
        metavar="{" + ",".join(map(str, Precision)) + "}",
        help=f"numbers that the networks compute in; auto: half precision if the hardware has it, else fp32; {use}",
    )


def add_processes_flag(parser: argparse.ArgumentParser, default: int = 2) -> None:
    """Add ``-np``, the number of worker processes."""
    parser.add_argument(
        "-np",
        "--num_processes",
        type=non_negative_int,
        default=default,
        metavar="N",
        help="worker processes; 0 works in this process, which needs the least memory (default: %(default)s)",
    )


def run_of(options: argparse.Namespace) -> Run:
    """Return the number of worker processes and the display of progress that the user chose."""
    return Run(options.num_processes, not options.no_progress)


def positive_int(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    value = _parse(int, text, "a whole number")
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def non_negative_int(text: str) -> int:
    """Argument type: a whole number of at least 0."""
    value = _parse(int, text, "a whole number")
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must not be negative")
    return value


def positive_float(text: str) -> float:
    """Argument type: a finite number above 0."""
    value = _parse(float, text, "a number")
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0")
    return value


def non_negative_float(text: str) -> float:
    """Argument type: a finite number, 0 or more."""
    value = _parse(float, text, "a number")
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def fraction(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    value = _parse(float, text, "a number")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1")
    return value


def precision(text: str) -> Precision:
    """Argument type: ``auto``, ``bf16``, ``fp16`` or ``fp32``."""
    try:
        return Precision(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(map(str, Precision))}") from None


def mirror_axes(text: str) -> tuple[int, ...]:
    """Argument type: ``none``, or axes of an image by their letters, such as ``x`` or ``zyx``; 0 is z."""
    if text == "none":
        return ()
    if not text or set(text) - set("zyx") or len(set(text)) != len(text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither none nor some of the letters z, y and x, once each")
    return tuple(sorted("zyx".index(letter) for letter in text))


def _parse(kind: Callable[[str], Number], text: str, name: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {name}") from None


def require_docstrings() -> None:
    """Raise if Python runs without docstrings: scikit-image, which the augmentation imports, reads its own.

    Raises
    ------
    DetSeg3DError
        Under ``python -OO`` or ``PYTHONOPTIMIZE=2``.
    """
    if sys.flags.optimize > 1:
        raise DetSeg3DError(
            "Python runs without docstrings, and a library of the training (scikit-image) needs its own",
            value=f"optimisation level {sys.flags.optimize}",
            expected="level 0 or 1",
            remedy="unset PYTHONOPTIMIZE, or start Python without -OO",
        )


def evaluation_exit_code(result: Mapping[str, Any]) -> int:
    """Exit code of a command that validated a model; the cases that could not be evaluated are named on stderr.

    Parameters
    ----------
    result : dict
        From :func:`~detseg3d.evaluation.folders.evaluate_folders`; empty if there was nothing to evaluate.
    """
    failed = sorted({problem["case"] for problem in result.get("problems", ())})
    if not failed:
        return EXIT_SUCCESS
    logger.error("%d validation case(s) could not be evaluated, see above: %s", len(failed), ", ".join(failed))
    return EXIT_FAILURE


def run_command(
    parser: argparse.ArgumentParser,
    function: Callable[[argparse.Namespace], int | None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, run ``function`` and return the exit code.

    Parameters
    ----------
    parser : ArgumentParser
        From :func:`create_parser`.
    function : callable
        Gets the parsed arguments; returns an exit code, ``None`` for success.
    arguments : sequence of str, optional
        The command line without the command; ``sys.argv`` by default.

    Returns
    -------
    int
        0 on success, 1 for an error (its message goes to stderr), 130 when interrupted by Ctrl-C, 143 by SIGTERM,
        129 by SIGHUP.
    """
    if arguments is None:
        use_utf8()
    try:
        with interruptible(), terminal():
            return _run(parser, function, arguments)
    except Interruption as interruption:
        show(f"{parser.prog}: interrupted ({interruption})", error=True)
        return EXIT_SIGNAL + interruption.number
    except KeyboardInterrupt:
        show(f"{parser.prog}: interrupted", error=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as in `command | head`: nothing is wrong, and nobody listens any more.
        sys.stderr.close()
        return EXIT_SUCCESS


def _run(
    parser: argparse.ArgumentParser,
    function: Callable[[argparse.Namespace], int | None],
    arguments: Sequence[str] | None,
) -> int:
    options = parser.parse_args(arguments)
    if options.verbose:
        logging.getLogger("detseg3d").setLevel(logging.DEBUG)
    try:
        return function(options) or EXIT_SUCCESS
    except BrokenPipeError:
        raise
    except Exception as error:
        raise_again()
        message = _message(error)
        if message is None:
            raise
        logger.debug("where it happened:", exc_info=True)
        show(f"{parser.prog}: error: {message}", error=True)
        return EXIT_FAILURE


def _message(error: Exception) -> str | None:
    """Return the message for the user; ``None`` if the error is a defect of this program and its traceback is shown."""
    if isinstance(error, DetSeg3DError):
        return str(error)
    if is_out_of_memory(error):
        return str(out_of_memory(error))
    if isinstance(error, OSError) and error.filename is None and "temporary directory" in str(error):
        return str(
            DetSeg3DError(
                "there is no folder for temporary files that can be written to",
                value=error.strerror or str(error),
                remedy="export TMPDIR=FOLDER with a folder that can be written to",
            )
        )
    if isinstance(error, OSError):
        # A folder that may not be entered, a disk that is full: the system's words and the file say it all.
        place = "" if error.filename is None else f"\n  file:     {error.filename}"
        return f"{error.strerror or error}{place}"
    return None
