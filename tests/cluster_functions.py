"""Functions that the workers of a test cluster run. The imports are few, because each new worker repeats them."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg3d.models.detseg import DetSeg3D
    from detseg3d.planning.plans import Plans


def square(number: int) -> int:
    return number * number


def kill_once(flag: Path, number: int) -> int:
    """Kill the worker of case 1, but not a second time."""
    if number == 1 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_always(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_with_others(flag: Path, number: int) -> int:
    """Kill the worker of case 1 until the other cases have ended, as if these cases were the reason."""
    if number == 1 and not flag.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        flag.touch()
    time.sleep(0.5)  # so that the worker of case 1 starts again meanwhile
    return number


def fail(error: Exception) -> None:
    raise error


def warn_and_return_threads(number: int) -> tuple[str, int]:
    import torch

    logging.getLogger("detseg3d.tests").warning("case %d is odd", number)
    return str(Path.cwd()), torch.get_num_threads()


def killing_network(plans: Plans) -> DetSeg3D:
    """Kill the first worker that loads the model."""
    from detseg3d.models.detseg import DetSeg3D

    kill_first_worker()
    return DetSeg3D(plans)


def killing_write(*arguments: Any) -> None:
    """Write the masks of a case of a consolidation; kill the first worker that does so."""
    from detseg3d.pipeline.consolidate import write_pooled_case

    kill_first_worker()
    write_pooled_case(*arguments)


def kill_first_worker() -> None:
    """Kill the worker, unless a worker was killed in this folder before."""
    flag = Path("a_worker_was_killed")
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
