from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import RawCase
from detseg3d.data.image_source import ImageSource
from detseg3d.inference.input_options import InputOptions
from detseg3d.pipeline import scan_reader
from detseg3d.pipeline.scan_reader import Scan, ScanReader

CASES = [RawCase(name, (ImageSource(Path(f"{name}.nii.gz")),)) for name in "abcd"]


class Reads:
    """Stands for a predictor: returns a scan of ones for each case, and remembers which thread read which case."""

    def __init__(self, memory_gb: float | None = None, broken: tuple[str, ...] = ()) -> None:
        self.memory_gb = memory_gb
        self.broken = list(broken)
        self.threads: dict[str, list[str]] = {}
        self.finished = {case.case_id: threading.Event() for case in CASES}

    def read(self, case: RawCase, options: InputOptions) -> Scan:
        self.threads.setdefault(case.case_id, []).append(threading.current_thread().name)
        self.finished[case.case_id].set()
        if case.case_id in self.broken:
            self.broken.remove(case.case_id)
            raise DetSeg3DError("the scan is damaged", file=case.images[0].path)
        return np.full((1, 2, 2, 2), ord(case.case_id), np.float32), Geometry((2, 2, 2))


def make_reader(reads: Any) -> ScanReader:
    return ScanReader(reads, CASES, InputOptions())


def values(reader: ScanReader, cases: list[RawCase]) -> list[str]:
    return [chr(int(reader.read(case)[0][0, 0, 0, 0])) for case in cases]


@pytest.fixture(autouse=True)
def much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_reader, "available_bytes", lambda: 1e12)


def test_every_case_gets_its_own_scan_and_all_but_the_first_are_read_ahead() -> None:
    reads = Reads()
    with make_reader(reads) as reader:
        assert values(reader, CASES) == list("abcd")
    assert reads.threads["a"] == ["MainThread"]
    assert all(len(reads.threads[name]) == 1 and reads.threads[name] != ["MainThread"] for name in "bcd")


def test_the_next_scan_is_read_before_it_is_asked_for() -> None:
    reads = Reads()
    with make_reader(reads) as reader:
        reader.read(CASES[0])
        assert reads.finished["b"].wait(10)
        assert not reads.finished["c"].is_set()


def test_a_case_that_is_left_out_does_not_shift_the_scans() -> None:
    reads = Reads()
    with make_reader(reads) as reader:
        assert values(reader, [CASES[0], CASES[2], CASES[3]]) == list("acd")


def test_a_scan_that_could_not_be_read_ahead_is_read_again() -> None:
    reads = Reads(broken=("b",))
    with make_reader(reads) as reader:
        assert values(reader, CASES) == list("abcd")
    assert len(reads.threads["b"]) == 2


def test_a_damaged_scan_is_the_error_of_its_own_case() -> None:
    with make_reader(Reads(broken=("b", "b"))) as reader:
        assert values(reader, CASES[:1]) == ["a"]
        with pytest.raises(DetSeg3DError) as caught:
            reader.read(CASES[1])
        assert caught.value.file == Path("b.nii.gz")
        assert values(reader, CASES[2:]) == list("cd")


@pytest.mark.parametrize("limit", ["memory of the predictor", "free memory"])
def test_no_scan_is_read_ahead_with_little_memory(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(memory_gb=1.0 if limit == "memory of the predictor" else None)
    if limit == "free memory":
        monkeypatch.setattr(scan_reader, "available_bytes", lambda: 100.0)
    with make_reader(reads) as reader:
        assert values(reader, CASES) == list("abcd")
    assert all(reads.threads[name] == ["MainThread"] for name in "abcd")
