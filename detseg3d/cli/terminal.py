"""Output of the commands: messages, tables, warnings and errors.

Names of cases, classes, channels and files may come from other people. They can contain control characters, which move
the cursor, ring the bell or change the direction of writing so that one name looks like another. This module escapes
these characters.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

__all__ = ["show", "terminal", "use_utf8", "escape_control_characters"]

# Control characters except line break and tab, characters that set the writing direction, line separators that only
# some programs recognise, invisible tags, and lone surrogates. No output encoding can represent a lone surrogate.
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)

# Interpreter option that only this module sets and reads.
_SHOWN = "detseg3d_shown_encoding"


def escape_control_characters(text: str) -> str:
    r"""Return ``text`` with escaped control characters.

    Examples
    --------
    >>> print(escape_control_characters("scan\x1b[2J.nii.gz"))
    scan\x1b[2J.nii.gz
    """
    return _CONTROL_CHARACTERS.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def show(text: str = "", *, error: bool = False) -> None:
    """Print ``text`` to the standard output or the standard error, with escaped control characters.

    Parameters
    ----------
    text : str, optional
    error : bool, optional
        Print to the standard error. If the standard error is closed or full, the message is lost, and only the exit
        code reports the failure.

    Raises
    ------
    OSError
        If the standard output cannot be written.
    """
    if not error:
        print(escape_control_characters(text))
        return
    with suppress(OSError, ValueError):  # ValueError: the stream is closed
        print(escape_control_characters(text), file=sys.stderr)


def use_utf8() -> None:
    """Restart the command in Python's UTF-8 mode if the locale has another encoding.

    Names on disk and in JSON files are UTF-8. In a locale with another encoding, the name in a JSON file would differ
    from the name on disk, and libraries written in C++ would look for other files. Output to the terminal keeps the
    encoding of the terminal.
    """
    if os.name != "posix" or sys.flags.utf8_mode or not sys.executable:
        return
    if codecs.lookup(sys.getfilesystemencoding()).name == "utf-8":
        return
    shown = getattr(sys.stdout, "encoding", None) or "ascii"
    words = [sys.executable, "-X", "utf8", "-X", f"{_SHOWN}={shown}", *sys.orig_argv[1:]]
    os.execv(sys.executable, words)  # nosec B606  # this interpreter, with its own arguments


@contextmanager
def terminal(verbose: bool = False) -> Iterator[None]:
    """Send log messages and warnings to the standard error, one line each, inside this context.

    Standard streams that the caller closed (``2>&-``) are replaced first. Otherwise, the next opened file would get the
    number of the closed stream, and libraries would write their messages into that file.

    Parameters
    ----------
    verbose : bool, optional
        Also show debugging messages.
    """
    _open_closed_streams()
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot show must not stop the command.
            stream.reconfigure(encoding=_shown_encoding(stream.encoding), errors=errors)
    package, of_warnings = logging.getLogger("detseg3d"), logging.getLogger("py.warnings")
    package.setLevel(logging.DEBUG if verbose else logging.INFO)
    for logger in (package, of_warnings):
        if not any(isinstance(handler, _TerminalHandler) for handler in logger.handlers):
            handler = _TerminalHandler()
            handler.setFormatter(_Formatter(datefmt="%H:%M:%S"))
            logger.addHandler(handler)
        # Some libraries add a handler to the root logger, which would print every message again.
        logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        package.propagate = of_warnings.propagate = True


def _shown_encoding(own: str) -> str:
    """Return the encoding that the terminal had before :func:`use_utf8`, or ``own``, the encoding of the stream."""
    chosen = sys._xoptions.get(_SHOWN)
    return chosen if isinstance(chosen, str) else own


def _open_closed_streams() -> None:
    """Open the null device in place of a closed standard input, output or error."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the new file the lowest free number, here `number`. Child processes inherit the file.
            os.set_inheritable(os.open(os.devnull, mode), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # Python sets None if the stream was already closed at the start
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115


class _TerminalHandler(logging.Handler):
    """Log handler that writes to the standard error without breaking progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except BrokenPipeError:
            raise
        except OSError:
            pass  # the message is lost; the exit code reports the result
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """Log format with time and message, and with the level for all messages except INFO."""

    def format(self, record: logging.LogRecord) -> str:
        self._style._fmt = (
            "%(asctime)s %(message)s" if record.levelno == logging.INFO else "%(asctime)s %(levelname)s: %(message)s"
        )
        return escape_control_characters(super().format(record))
