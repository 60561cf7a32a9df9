"""Reads damaged images in a process of its own, since a library that crashes must not take the tests with it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from detseg3d.core.errors import DetSeg3DError

__all__ = ["READ", "REFUSED", "ReadWorker"]

READ, REFUSED = "read", "refused"
_SECONDS = 60
_GIGABYTES = 8


class ReadWorker:
    """A process that reads files one by one. Use it as a context; a new process follows one that has died."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote,), daemon=True)
        self._process.start()
        remote.close()

    def outcome(self, path: Path) -> str:
        """``read``, ``refused``, or what went wrong: a traceback, a broken promise, the death of the process."""
        self._connection.send(path)
        try:
            if self._connection.poll(_SECONDS):
                answer: str = self._connection.recv()
                return answer
            how = f"took longer than {_SECONDS} s"
        except (EOFError, OSError):
            self._process.join()
            how = f"ended with exit code {self._process.exitcode}"
        self.stop()
        self._start()
        return f"the process {how}"

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection) -> None:
    # What ITK prints of damaged files is no part of the outcome.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # A header that claims terabytes must be refused on machines that would grant the memory, too.
    resource.setrlimit(resource.RLIMIT_AS, (_GIGABYTES << 30, _GIGABYTES << 30))
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        connection.send(_read(path))


def _read(path: Path) -> str:
    from detseg3d.data.images import read_geometry, read_image

    try:
        array, geometry = read_image(path)
        if array.shape != geometry.shape or array.ndim != 3 or array.size == 0:
            return f"array {array.shape}, geometry {geometry.shape}"
        if array.dtype.kind not in "biuf" or not array.dtype.isnative:
            return f"voxels of {array.dtype}"
        numbers = (*geometry.spacing, *geometry.origin, *geometry.direction, *(geometry.affine or ()))
        if not np.isfinite(numbers).all() or not geometry.voxel_volume > 0:
            return f"not a place: {geometry}"
        if read_geometry(path) != geometry:
            return f"the header alone gives {read_geometry(path)}, not {geometry}"
    except DetSeg3DError as error:
        return REFUSED if str(path) in str(error) else f"the message does not name the file: {error}"
    except BaseException:
        return traceback.format_exc()
    return READ
