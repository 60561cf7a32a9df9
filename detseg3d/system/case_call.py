"""Call a function on one case in a worker, and turn every outcome into values that can be sent to another process."""

from __future__ import annotations

import copy
import logging
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

from detseg3d.system.memory import is_out_of_memory, out_of_memory

__all__ = ["CallOutcome", "call", "limit_threads", "portable", "release_frames", "translated"]

CallOutcome = tuple[Any, Exception | None, str]
"""Value, error and traceback of a case."""


def call(function: Callable[[Any], Any], item: Any) -> CallOutcome:
    """Call the function, and return an outcome that can be pickled."""
    try:
        value = function(item)
        ForkingPickler.dumps(value)
    except SystemExit as error:
        return None, portable(error), traceback.format_exc()
    except Exception as error:
        outcome = None, portable(translated(error)), traceback.format_exc()
        release_frames(error)
        return outcome
    return value, None, ""


def translated(error: Exception) -> Exception:
    """Return ``error``, or an out-of-memory error if ``error`` reports missing memory in another form."""
    return out_of_memory(error) if is_out_of_memory(error) else error


def portable(error: BaseException) -> Exception:
    """Return ``error`` if it can be pickled and restored, else a RuntimeError with its type and message."""
    try:
        ForkingPickler.dumps(error)
        restored = copy.copy(error)  # calls the constructor as unpickling would
        if isinstance(error, Exception) and type(restored) is type(error) and str(restored) == str(error):
            return error
    except Exception:
        logging.getLogger(__name__).debug("an error of type %s cannot be pickled", type(error).__name__)
    return RuntimeError(f"{type(error).__name__}: {error}")


def release_frames(error: BaseException | None) -> None:
    """Release the local variables, such as arrays, that the traceback of a handled error keeps alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def limit_threads(threads: int) -> None:
    """Limit the threads of the libraries in this worker.

    If all workers together had more threads than the machine has cores, all workers would become slower.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    for name in (*names, "NUMEXPR_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    # With several threads, blosc2 stores the blocks of an array in the order in which the threads finish. The same
    # array would then give different files.
    os.environ.setdefault("BLOSC_NTHREADS", "1")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
