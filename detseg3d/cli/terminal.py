"""Everything that a command shows goes through this module: messages, tables, warnings, errors of the command line.

Names of cases, classes, channels and files come from strangers. A terminal obeys some characters: they move the cursor,
ring the bell, or turn the direction of writing so that one name looks like another. Here these characters are written
out.
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

__all__ = ["show", "terminal", "use_utf8", "visible"]

# Control characters but for line break and tab, marks and controls of the direction of writing, separators of lines
# that only some programs know, invisible tags, and lone surrogates, which no output can encode.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)

# An option of the interpreter that only this module sets and reads.
_SHOWN = "detseg3d_shown_encoding"


def visible(text: str) -> str:
    r"""``text`` with the characters that a terminal obeys written out.

    Examples
    --------
    >>> print(visible("scan\x1b[2J.nii.gz"))
    scan\x1b[2J.nii.gz
    """
    return _OBEYED.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def show(text: str = "", *, error: bool = False) -> None:
    """Print ``text``, with :func:`visible` characters only, to the standard output or to the standard error.

    Parameters
    ----------
    text : str, optional
    error : bool, optional
        Print to the standard error. A message that the standard error does not take is lost: the exit code still says
        that something is wrong.

    Raises
    ------
    OSError
        If the standard output does not take the text.
    """
    if not error:
        print(visible(text))
        return
    with suppress(OSError, ValueError):  # ValueError: it is closed
        print(visible(text), file=sys.stderr)


def use_utf8() -> None:
    """Start the command again in Python's UTF-8 mode, where the locale would have names of files read otherwise.

    Names on disk and in JSON files are UTF-8. In a locale of another encoding, a name from a JSON file would not be the
    name of the file, and libraries written in C++ would look for other files. What is shown keeps the encoding of the
    terminal.
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
    """While the context lasts, messages and warnings go to the standard error, one line each.

    Standard streams that were closed by the caller (``2>&-``) are replaced first: the system gives the number of a
    closed stream to the next file that is opened, and messages of a library would be written into that file.

    Parameters
    ----------
    verbose : bool, optional
        Show debugging messages, too.
    """
    _open_closed_streams()
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal does not have costs no result.
            stream.reconfigure(encoding=_shown_encoding(stream.encoding), errors=errors)
    package, of_warnings = logging.getLogger("detseg3d"), logging.getLogger("py.warnings")
    package.setLevel(logging.DEBUG if verbose else logging.INFO)
    for logger in (package, of_warnings):
        if not any(isinstance(handler, _TerminalHandler) for handler in logger.handlers):
            handler = _TerminalHandler()
            handler.setFormatter(_Formatter(datefmt="%H:%M:%S"))
            logger.addHandler(handler)
        # Some libraries give the root logger a handler of its own, which would print everything once more.
        logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        package.propagate = of_warnings.propagate = True


def _shown_encoding(own: str) -> str:
    """The encoding of the terminal: that before :func:`use_utf8`, or the stream's ``own``."""
    chosen = sys._xoptions.get(_SHOWN)
    return chosen if isinstance(chosen, str) else own


def _open_closed_streams() -> None:
    """Put the null device where the standard input, output or error is closed."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given, and those below are taken by now. It belongs to child processes, too.
            os.set_inheritable(os.open(os.devnull, mode), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # as Python has it where the stream was closed before the start
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115


class _TerminalHandler(logging.Handler):
    """Writes to stderr without tearing progress bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except BrokenPipeError:
            raise
        except OSError:
            pass  # nobody can be told; the exit code says what became of the command
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """The time and the message; the level only where it matters."""

    def format(self, record: logging.LogRecord) -> str:
        self._style._fmt = (
            "%(asctime)s %(message)s" if record.levelno == logging.INFO else "%(asctime)s %(levelname)s: %(message)s"
        )
        return visible(super().format(record))
