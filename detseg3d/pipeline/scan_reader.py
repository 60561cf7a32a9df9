"""Reading of scans: the next scan is read while the present scan is predicted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import numpy.typing as npt

from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import RawCase
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.system.memory import available_bytes

__all__ = ["Scan", "ScanReader"]

logger = logging.getLogger(__name__)

Scan = tuple[npt.NDArray[np.float32], Geometry]
"""Images ``(C, Z, Y, X)`` as they were read, and their geometry."""

# A prediction needs up to this multiple of the bytes of its scan. With less free memory, no scan is read ahead.
_BYTES_OF_PREDICTION = 40


class ScanReader:
    """Reader of the scans of a list of cases; a thread reads the next scan while the caller works on the present scan.

    At most one scan waits. No scan is read ahead if the predictor limits the memory, or if little memory is free.

    Parameters
    ----------
    predictor : Predictor
    cases : sequence of RawCase
        In the order in which they will be read. A case may be left out by the caller.
    options : InputOptions
        How images are read.
    """

    def __init__(self, predictor: Predictor, cases: Sequence[RawCase], options: InputOptions) -> None:
        self._predictor = predictor
        self._options = options
        self._following = dict(zip((case.case_id for case in cases), cases[1:], strict=False))
        self._thread = ThreadPoolExecutor(1, "reader")
        self._waiting: tuple[str, Future[Scan]] | None = None

    def __enter__(self) -> ScanReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._waiting = None

    def read(self, case: RawCase) -> Scan:
        """Return the scan ``(C, Z, Y, X)`` of a case and its geometry, and begin to read the scan of the next case.

        Raises
        ------
        DetSeg3DError
            For the reasons of :meth:`~detseg3d.inference.predictor.Predictor.read`.
        """
        scan = self._read_before(case)
        if scan is None:
            scan = self._predictor.read(case, self._options)
        following = self._following.get(case.case_id)
        if following is not None and self._has_room(scan):
            self._waiting = following.case_id, self._thread.submit(self._predictor.read, following, self._options)
        return scan

    def _read_before(self, case: RawCase) -> Scan | None:
        """Return the scan if the thread has read it."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting[0] != case.case_id:
            return None
        try:
            return waiting[1].result()
        except Exception:
            # The memory may have been full at that moment. The scan is read again, and that error is the user's.
            logger.debug("%s was not read ahead", case.case_id, exc_info=True)
            return None

    def _has_room(self, scan: Scan) -> bool:
        free = available_bytes()
        return self._predictor.memory_gb is None and (free is None or free > _BYTES_OF_PREDICTION * scan[0].nbytes)
