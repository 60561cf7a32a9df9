"""The fuzzer's own rules, and a short run of it; ``python -m benchmarks.fuzz`` is the long one."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("forks with limits need Linux", allow_module_level=True)

from benchmarks.fuzz import trial
from benchmarks.fuzz.__main__ import draw_target, format_table, run_trials
from benchmarks.fuzz.mutate import (
    Mutant,
    mutate_bytes,
    mutate_gzip,
    mutate_header,
    mutate_json,
    mutate_table,
    mutate_zip,
)
from benchmarks.fuzz.targets import TARGETS, Target
from benchmarks.fuzz.trial import FAULTS, Ended, Trial, run_limited

HEADER = b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementDataFile = LOCAL\n"
TABLE = b"case,z0,score\na,1,0.5\nb,2,0.25\n"
DOCUMENT = json.dumps({"a": 1, "b": [1, {"c": "x"}], "d": None}).encode()


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.json", DOCUMENT)
        archive.writestr("b.bin", bytes(100))
    return target.getvalue()


MUTATORS: dict[str, tuple[bytes, Callable[[bytes, random.Random], Mutant]]] = {
    "bytes": (bytes(range(256)) * 4, mutate_bytes),
    "gzip": (gzip.compress(bytes(range(256)) * 4), mutate_gzip),
    "header": (HEADER + bytes(8), lambda content, draw: mutate_header(content, len(HEADER), draw)),
    "json": (DOCUMENT, mutate_json),
    "table": (TABLE, mutate_table),
    "zip": (zipped(), lambda content, draw: mutate_zip(content, draw, lambda _name, data: mutate_bytes(data, draw))),
}


@pytest.mark.parametrize("name", MUTATORS)
def test_a_mutant_is_made_again_from_its_seed_and_differs_from_the_file(name: str) -> None:
    content, mutate = MUTATORS[name]
    mutants = [mutate(content, random.Random(f"0/{seed}")) for seed in range(60)]
    assert mutants == [mutate(content, random.Random(f"0/{seed}")) for seed in range(60)]
    assert sum(mutant.content != content for mutant in mutants) > 45
    assert len({mutant.content for mutant in mutants}) > 30


def test_bytes_outside_the_part_that_is_meant_stay() -> None:
    content = bytes(1000)
    for seed in range(200):
        mutant = mutate_bytes(content, random.Random(seed), 300)
        assert mutant.content[:300] == content[:300]


def test_the_number_of_a_mutant_decides_its_target() -> None:
    assert draw_target(0, 17, TARGETS)[0] == draw_target(0, 17, TARGETS)[0]
    drawn = {draw_target(0, index, TARGETS)[0].name for index in range(2000)}
    assert drawn == {target.name for target in TARGETS}


def overflow() -> int:
    raise ZeroDivisionError


def wait() -> int:
    time.sleep(60)
    return 0


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crash"),
        (lambda: os.kill(os.getpid(), signal.SIGABRT), "crash"),
        (overflow, "traceback"),
        (wait, "hang"),
        (lambda: 1, "silent"),
        (lambda: 0, "same result"),
        (lambda: (sys.stderr.write("error: the file is damaged\n"), 1)[1], "refused"),
    ],
)
def test_how_a_command_ends_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[[], int], outcome: str
) -> None:
    monkeypatch.setattr(trial, "_WALL_SECONDS", 1 if outcome == "hang" else 60)
    ended = run_limited(function, tmp_path / "errors", tmp_path)
    assert trial._judge(TARGETS[0], Mutant(b"", ""), ended, ("x", ""), ("x", "")) == outcome


@pytest.mark.parametrize(
    ("target", "protected", "voxels", "errors", "outcome"),
    [
        ("nii.gz -> predict", True, "(1, 2, 3) other", "", "wrong voxels"),
        ("nii.gz -> predict", False, "(1, 2, 3) other", "", "other result"),
        ("nii.gz -> predict", True, "(1, 2, 3) digest", "", "same result"),
        ("dicom -> predict", False, "(1, 2, 2) other", "", "lost slices"),
        ("dicom -> predict", False, "(1, 2, 2) other", "WARNING: a file is not read", "other result"),
    ],
)
def test_voxels_are_held_against_the_checksum_and_slices_are_counted(
    target: str, protected: bool, voxels: str, errors: str, outcome: str
) -> None:
    [chosen] = [entry for entry in TARGETS if entry.name == target]
    found = ("same" if outcome == "same result" else "other", voxels)
    ended = Ended(0, 0, 100, 1.0, errors)
    mutant = Mutant(b"", "", protected=protected)
    assert trial._judge(chosen, mutant, ended, found, ("same", "(1, 2, 3) digest")) == outcome


def test_the_table_counts_outcomes_by_kind_of_file() -> None:
    names = [target.name for target in TARGETS]
    trials = [Trial(names[0], "a", "", "refused", 1, ""), Trial(names[-1], "a", "", "crash", 1, "")]
    lines = format_table(trials).splitlines()
    assert lines[0].split(" | ")[:6] == ["|", "mutants", "refused", "same result", "other result", "crash"]
    assert lines[-1].startswith("| all | 2 | 1 | 0 | 0 | 1 |")


@pytest.mark.slow
def test_no_mutant_of_a_short_run_finds_a_fault(tmp_path: Path) -> None:
    quick: list[Target] = [target for target in TARGETS if "train" not in target.name]
    trials = run_trials(range(24), 1, quick, tmp_path)
    assert len(trials) == 24
    assert [found for found in trials if found.outcome in FAULTS] == []
    assert sum(found.outcome == "refused" for found in trials) > 5
