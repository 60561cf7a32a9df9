"""Run a command: parse the command line, set up messages, and turn results and errors into output and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from detseg3d.cli.terminal import show, terminal, use_utf8
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.version import __version__
from detseg3d.data.roots import use_huge_pages
from detseg3d.system.memory import is_out_of_memory, keep_freed_memory, out_of_memory
from detseg3d.system.run_record import RunRecorder, RunTarget, recorded_run
from detseg3d.system.signals import Interruption, interruptible, raise_if_interrupted

if TYPE_CHECKING:
    from detseg3d.evaluation.result import EvaluationResult

__all__ = [
    "EXIT_FAILURE",
    "EXIT_SUCCESS",
    "CommandResult",
    "evaluation_exit_code",
    "require_docstrings",
    "require_extra",
    "run_command",
]

EXIT_SUCCESS = 0
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
EXIT_SIGNAL = 128  # shells add the number of the signal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommandResult:
    """Outcome of a command.

    Attributes
    ----------
    data : mapping
        Result for programs, printed by ``--json``. It contains only values that JSON can represent.
    exit_code : int
        0 on success, 1 if any case failed.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = EXIT_SUCCESS


def require_docstrings() -> None:
    """Raise an error if Python runs without docstrings, which scikit-image needs at import time.

    Raises
    ------
    DetSeg3DError
        Under ``python -OO`` or ``PYTHONOPTIMIZE=2``.
    """
    if sys.flags.optimize > 1:
        raise DetSeg3DError(
            "Python runs without docstrings, but the library scikit-image needs its docstrings",
            value=f"optimisation level {sys.flags.optimize}",
            expected="level 0 or 1",
            remedy="unset PYTHONOPTIMIZE, or start Python without -OO",
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


def evaluation_exit_code(result: EvaluationResult | None) -> int:
    """Return the exit code of a command that evaluated a model, and log the names of failed cases.

    Parameters
    ----------
    result : EvaluationResult or None
        From :func:`~detseg3d.evaluation.folders.evaluate_folders`; ``None`` if there was no case to evaluate.
    """
    failed = [] if result is None else sorted({problem.case_id for problem in result.problems})
    if not failed:
        return EXIT_SUCCESS
    logger.error("%d validation case(s) could not be evaluated, see above: %s", len(failed), ", ".join(failed))
    return EXIT_FAILURE


def run_command(
    parser: argparse.ArgumentParser,
    function: Callable[[argparse.Namespace], CommandResult],
    arguments: Sequence[str] | None = None,
    record: Callable[[argparse.Namespace], RunTarget | None] | None = None,
) -> int:
    """Parse a command line, call ``function`` and return the exit code.

    With ``--json``, the standard output receives one JSON object: ``command``, ``version``, ``exit_code``, ``result``
    and ``error``. ``error`` is null or has the fields of a :class:`~detseg3d.core.errors.DetSeg3DError`.

    Parameters
    ----------
    parser : ArgumentParser
        From :func:`~detseg3d.cli.arguments.create_parser`.
    function : callable
        Receives the parsed arguments and returns a :class:`CommandResult`.
    arguments : sequence of str, optional
        Words of the command line without the command; ``sys.argv`` by default.
    record : callable, optional
        Function that returns the place of the run record, see :func:`~detseg3d.system.run_record.recorded_run`. By
        default, no record is written.

    Returns
    -------
    int
        0 on success, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP. Error messages go to
        the standard error.
    """
    if arguments is None:
        use_utf8()
    words = (parser.prog, *(sys.argv[1:] if arguments is None else arguments))
    parsed: list[argparse.Namespace] = []

    def target() -> RunTarget | None:
        return record(parsed[0]) if record is not None and parsed else None

    try:
        # `recorded_run` encloses `interruptible`, so that the record is also written after a signal.
        with recorded_run(words, target) as recorder, interruptible(), terminal():
            parsed.append(parser.parse_args(arguments))
            return _run(parser, function, parsed[0], recorder)
    except Interruption as interruption:
        show(f"{parser.prog}: interrupted ({interruption})", error=True)
        return EXIT_SIGNAL + interruption.number
    except KeyboardInterrupt:
        show(f"{parser.prog}: interrupted", error=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has ended, for example in `command | head`. This is not an error.
        sys.stderr.close()
        return EXIT_SUCCESS


def _run(
    parser: argparse.ArgumentParser,
    function: Callable[[argparse.Namespace], CommandResult],
    options: argparse.Namespace,
    recorder: RunRecorder,
) -> int:
    if options.verbose:
        logging.getLogger("detseg3d").setLevel(logging.DEBUG)
    use_huge_pages()
    keep_freed_memory()
    error: DetSeg3DError | None = None
    try:
        # Programs read the standard output with --json, so text for people moves to the standard error.
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            result = function(options)
    except BrokenPipeError:
        raise
    except Exception as exception:
        raise_if_interrupted()
        error = _user_error(exception)
        if error is None:
            raise
        logger.debug("traceback of the error:", exc_info=True)
        show(f"{parser.prog}: error: {error}", error=True)
        result = CommandResult(exit_code=EXIT_FAILURE)
    recorder.exit_code, recorder.error = result.exit_code, error
    if options.json:
        show(_as_json(parser.prog, result, error))
    return result.exit_code


def _user_error(error: Exception) -> DetSeg3DError | None:
    """Return the error for the user, or ``None`` for a defect of this program. Python then prints a traceback."""
    if isinstance(error, DetSeg3DError):
        return error
    if is_out_of_memory(error):
        return out_of_memory(error)
    if isinstance(error, OSError) and error.filename is None and "temporary directory" in str(error):
        return DetSeg3DError(
            "no folder for temporary files is writable",
            value=error.strerror or str(error),
            remedy="export TMPDIR=FOLDER with a writable folder",
        )
    if isinstance(error, OSError):
        # For example a folder without permission, or a full disk. The message of the system explains it.
        file = None if error.filename is None else str(error.filename)
        return DetSeg3DError(error.strerror or str(error), file=file)
    return None


def _as_json(command: str, result: CommandResult, error: DetSeg3DError | None) -> str:
    fields = None
    if error is not None:
        fields = {
            "problem": error.problem,
            "file": None if error.file is None else str(error.file),
            "value": None if error.value is None else str(error.value),
            "expected": None if error.expected is None else str(error.expected),
            "remedy": error.remedy,
        }
    document = {
        "command": command,
        "version": __version__,
        "exit_code": result.exit_code,
        "result": result.data,
        "error": fields,
    }
    return json.dumps(document, indent=1, allow_nan=False)
