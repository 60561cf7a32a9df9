"""The record of a run: its content, the time at which it is written, and the digest of the inputs."""

from __future__ import annotations

import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.run_record import Machine, RunTarget, digest_of_files, recorded_run
from detseg3d.system.signals import Interruption

COMMAND = ("detseg3d_test", "-i", "scans")


def read(folder: Path, name: str = "run") -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return record


def run(folder: Path, error: BaseException | None = None, exit_code: int = 0, **target: Any) -> dict[str, Any]:
    """The record of a run that logs a message."""
    try:
        with recorded_run(COMMAND, lambda: RunTarget(folder, **target)) as recorder:
            logging.getLogger("detseg3d.test").warning("the message")
            recorder.exit_code = exit_code
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    return read(folder)


def test_a_record_contains_command_versions_machine_and_times(tmp_path: Path) -> None:
    record = run(tmp_path, seed=7)
    assert record["command"] == list(COMMAND)
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["numpy"] == np.__version__
    assert record["seed"] == 7
    assert record["start"] <= record["end"] and record["start"].endswith("+00:00")
    assert 0 <= record["wall_seconds"] < 60 and 0 <= record["cpu_seconds"] < 60
    assert record["peak_memory_bytes"] > 1 << 20
    assert (record["exit_state"], record["exit_code"], record["error"]) == ("succeeded", 0, None)


def test_the_machine_is_described_by_its_hardware() -> None:
    machine = Machine.current()
    assert machine.cpu and machine.cores >= 1
    assert machine.memory_bytes is None or machine.memory_bytes > 1 << 28


def test_a_record_names_neither_user_nor_machine_nor_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "somebody-special")
    monkeypatch.setenv("SECRET_TOKEN", "secret-value")
    text = json.dumps(run(tmp_path))
    assert "somebody-special" not in text and "secret-value" not in text and platform.node() not in text


def test_the_messages_are_in_a_log_file_with_their_level(tmp_path: Path) -> None:
    run(tmp_path)
    [line] = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert line.endswith("WARNING the message")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DetSeg3DError("the image has 2 dimensions", file="a.nii"), "failed"),
        (ZeroDivisionError("division by zero"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (Interruption(15), "interrupted"),
    ],
    ids=["error of the user", "defect", "Ctrl-C", "signal"],
)
def test_a_record_is_written_after_errors_and_signals(tmp_path: Path, error: BaseException, state: str) -> None:
    (tmp_path / "result").touch()
    record = run(tmp_path, error)
    assert record["exit_state"] == state and record["exit_code"] != 0
    assert record["error"]
    if isinstance(error, DetSeg3DError):
        assert record["error"] == error.problem


def test_failed_cases_make_a_failed_run(tmp_path: Path) -> None:
    assert run(tmp_path, exit_code=1)["exit_state"] == "failed"


def test_earlier_runs_in_a_folder_are_kept_latest_first(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        run(tmp_path, seed=seed)
    record = read(tmp_path)
    assert [record["seed"], *(earlier["seed"] for earlier in record["previous"])] == [3, 2, 1]
    assert all("previous" not in earlier for earlier in record["previous"])
    assert len((tmp_path / "run.log").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", "[1, 2"])
def test_a_damaged_record_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert run(tmp_path)["previous"] == []


def test_a_run_that_fails_before_it_changes_the_folder_leaves_the_earlier_record(tmp_path: Path) -> None:
    record = run(tmp_path)
    for path in (tmp_path, *tmp_path.iterdir()):
        os.utime(path, (1e9, 1e9))
    assert run(tmp_path, DetSeg3DError("this fold is trained already")) == record


def test_no_record_is_written_if_the_results_have_no_folder(tmp_path: Path) -> None:
    with recorded_run(COMMAND, lambda: RunTarget(tmp_path / "none")):
        pass
    with recorded_run(COMMAND, lambda: None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_written_does_not_hide_the_outcome(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> RunTarget:
        raise OSError("no space left")

    with recorded_run(COMMAND, fail):
        pass
    assert "no space left" in caplog.text
    with pytest.raises(ZeroDivisionError), recorded_run(COMMAND, fail):
        raise ZeroDivisionError


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_a_digest_depends_on_names_and_contents_and_not_on_the_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "scan.nii", b"1")
    first = digest_of_files([tmp_path / "a"])
    assert digest_of_files([tmp_path / "b"]) == first
    write(tmp_path / "b/scan.nii", b"2")
    assert digest_of_files([tmp_path / "b"]) != first
    (tmp_path / "b/scan.nii").rename(tmp_path / "b/other.nii")
    write(tmp_path / "b/other.nii", b"1")
    assert digest_of_files([tmp_path / "b"]) != first


@pytest.mark.parametrize("position", [0, 3 << 20, -1], ids=["beginning", "middle", "end"])
def test_the_digest_of_a_large_file_depends_on_its_beginning_middle_and_end(tmp_path: Path, position: int) -> None:
    content = bytearray(6 << 20)
    first = digest_of_files([write(tmp_path / "large", bytes(content))])
    content[position] = 1
    assert digest_of_files([write(tmp_path / "large", bytes(content))]) != first


def test_the_digest_of_inputs_leaves_out_files_written_by_the_run(tmp_path: Path) -> None:
    old = write(tmp_path / "scan.nii", b"1")
    os.utime(old, (1e9, 1e9))
    before = run(tmp_path, inputs={"images": [tmp_path]})["digests"]["images"]
    assert run(tmp_path, inputs={"images": [tmp_path]})["digests"]["images"] != before  # run.json of the first run
    assert digest_of_files([tmp_path], newest=2e9 / 2) == before


def test_missing_inputs_are_left_out(tmp_path: Path) -> None:
    assert digest_of_files([tmp_path / "missing"]) == digest_of_files([])
