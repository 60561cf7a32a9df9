"""Orderly end of a command after Ctrl-C (SIGINT), SIGTERM of a scheduler or SIGHUP of a terminal.

A signal raises a ``KeyboardInterrupt`` in the main thread, so temporary files are removed and worker processes end.
:func:`postponed` delays the exception in code that must not stop halfway, for example during a training step.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

__all__ = [
    "Interruption",
    "exit_with_parent",
    "ignore_signals_in_worker",
    "interruptible",
    "postponed",
    "raise_if_interrupted",
    "use_usual_signal_stack",
    "without_interrupt",
]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interruption(KeyboardInterrupt):
    """Exception raised when a signal asks the process to end.

    Parameters
    ----------
    number : int
        Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Postponed:
    """State of :func:`postponed`: the number of the signal that arrived, or ``None``."""

    number: int | None = None

    def check(self) -> None:
        """Raise the delayed :class:`Interruption`, if a signal has arrived."""
        if self.number is not None:
            raise Interruption(self.number)


# The active contexts of `interruptible`.
_contexts: list[Postponed] = []


def raise_if_interrupted() -> None:
    """Raise :class:`Interruption` if a signal has arrived but its exception was lost.

    A signal can raise its exception inside a library, which may turn the exception into another error or drop it. Call
    this function in a loop over cases, and before code that continues after an unexpected error.
    """
    for context in _contexts:
        context.check()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let signals raise :class:`Interruption` in the main thread of this process.

    If any error is raised after a signal, :class:`Interruption` replaces the error. A forked process that installs no
    handlers ignores SIGINT and is killed by the other signals.
    """
    state = Postponed()

    def note_and_raise(number: int, _frame: FrameType | None) -> None:
        state.number = number
        raise Interruption(number)

    with _handling(note_and_raise):
        _contexts.append(state)
        try:
            yield
        except Exception as error:
            if state.number is not None:
                raise Interruption(state.number) from error
            raise
        finally:
            _contexts.remove(state)
    state.check()


@contextlib.contextmanager
def postponed() -> Iterator[Postponed]:
    """Delay signals until :meth:`Postponed.check` is called or the context ends.

    A second Ctrl-C raises :class:`Interruption` immediately. A second SIGTERM or SIGHUP does not, because launchers
    such as torchrun send these signals twice. Outside the main thread the context has no effect, because Python handles
    signals in the main thread only.
    """
    state = Postponed()

    def keep(number: int, _frame: FrameType | None) -> None:
        if number == state.number == signal.SIGINT:
            raise Interruption(number)
        state.number = state.number or number

    with _handling(keep):
        yield state
    state.check()


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    """Call ``handler(number, frame)`` for the signals of this process; restore the earlier handlers at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        elif number != signal.SIGINT:  # a forked process; Ctrl-C reaches all processes, and the parent reacts to it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    # A signal that is ignored stays ignored: nohup ignores SIGHUP, and shells ignore SIGINT for background jobs.
    handled_signals = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in handled_signals}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextlib.contextmanager
def without_interrupt() -> Iterator[None]:
    """Protect processes that are started in this context from Ctrl-C; their parent process reacts to it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting the tracker later, in the context, would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals_in_worker() -> None:
    """Ignore signals in a worker process. The parent process also receives the signals and reacts to them."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    exit_with_parent()


def exit_with_parent() -> None:
    """End this worker process as soon as its parent process has ended for any reason."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


class _SignalStack(ctypes.Structure):
    """The structure ``stack_t`` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_NO_SIGNAL_STACK = 2  # SS_DISABLE


def use_usual_signal_stack() -> None:
    """Let the signal handlers of this thread run on the usual stack. Only Linux needs and has an effect.

    OpenVINO 2026.4 gives the thread that loads a network a stack of 20 kB for signals, if the processor has AMX. This
    memory is freed while the stack is still in use, so the next signal, such as Ctrl-C, would end the process with a
    segmentation fault.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_SignalStack(None, _NO_SIGNAL_STACK, 0)), None)
