"""Ctrl-C, a scheduler's SIGTERM and a terminal's SIGHUP end a command in order, and a training between two steps.

They raise a ``KeyboardInterrupt`` in the main thread, so that temporary files are removed and worker processes end on
the way out. Where an exception at any moment would tear something apart, :func:`postponed` holds it back.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

__all__ = [
    "Interruption",
    "Postponed",
    "exit_with_parent",
    "ignore_signals_in_worker",
    "interruptible",
    "postponed",
    "raise_if_interrupted",
    "without_interrupt",
]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interruption(KeyboardInterrupt):
    """The process was asked to end by the signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Postponed:
    """The signal that has come, if any; what :func:`postponed` yields."""

    number: int | None = None

    def check(self) -> None:
        """Raise the :class:`Interruption` that was held back."""
        if self.number is not None:
            raise Interruption(self.number)


# The contexts of `interruptible` that are entered.
_contexts: list[Postponed] = []


def raise_if_interrupted() -> None:
    """Raise the :class:`Interruption` that a library may have turned into an error of its own, or swallowed.

    An exception that a signal raises can come up inside a library's compiled code, which may not let it through. Code
    that goes on after an error it did not foresee calls this first, and so does a loop over cases.
    """
    for context in _contexts:
        context.check()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While the context lasts, the signals raise :class:`Interruption` in this process's main thread.

    An error that follows a signal is taken for its consequence: :class:`Interruption` is raised in its place. Processes
    that are forked from this one ignore Ctrl-C and die of the other signals, unless they see to it themselves.
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
    """Hold the signals back until somebody asks for them (:meth:`Postponed.check`) or the context ends.

    A second Ctrl-C does not wait; signals of other kinds may come in pairs, as from torchrun, without any hurry.
    Outside the main thread, where Python handles no signals, nothing changes.
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
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        elif number != signal.SIGINT:  # in a fork of ours; of Ctrl-C, which all processes get, its parent decides
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    # What is ignored stays so: nohup asks for it, and shells do for SIGINT of what they start in the background.
    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextlib.contextmanager
def without_interrupt() -> Iterator[None]:
    """Processes started in this context never see the terminal's Ctrl-C: their parent decides what it means."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started with the first process, it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals_in_worker() -> None:
    """In a worker process: leave the signals, which a whole group of processes may get, to the parent."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    exit_with_parent()


def exit_with_parent() -> None:
    """In a worker process: end at once when the parent process is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
