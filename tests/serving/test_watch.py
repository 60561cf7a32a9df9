from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.watch import ScanState, WatchedScan, WatchOptions, WatchState, watch_folder
from detseg3d.serving.worker import ModelWorker
from detseg3d.system.json_files import read_json, write_json

ROOT = Path(__file__).parents[2]
ONCE = WatchOptions(quiet_seconds=0, poll_seconds=0.01, once=True)


def put(folder: Path, name: str, content: str = "a scan") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def states(state: WatchState) -> dict[str, str]:
    return {scan.name: scan.state.value for scan in state.scans}


def test_each_scan_is_predicted_once_also_after_a_restart(
    fake_worker: ModelWorker, incoming: Path, tmp_path: Path
) -> None:
    put(incoming, "a.nii.gz")
    put(incoming, "b_0000.nii.gz")
    put(incoming, ".hidden.nii.gz")
    put(incoming, "notes.txt")
    output = tmp_path / "out"
    assert states(watch_folder(incoming, output, fake_worker, ONCE)) == {"a": "succeeded", "b": "succeeded"}
    written = {name: (output / "rois" / f"{name}.json").stat().st_mtime_ns for name in "ab"}
    put(incoming, "b_0000.nii.gz", "another scan of the same name")
    put(incoming, "c.mha")
    state = watch_folder(incoming, output, fake_worker, ONCE)
    assert states(state) == {"a": "succeeded", "b": "succeeded", "c": "succeeded"}
    assert [scan.lesions for scan in state.scans] == [6, 29, 6]
    again = {name: (output / "rois" / f"{name}.json").stat().st_mtime_ns for name in "ab"}
    assert (again["a"] == written["a"], again["b"] > written["b"]) == (True, True)


def test_a_scan_that_fails_is_listed_and_the_others_go_on(
    fake_worker: ModelWorker, incoming: Path, tmp_path: Path
) -> None:
    for name, content in (("a", "fail"), ("b", "die"), ("c", "fine")):
        put(incoming, f"{name}.nii.gz", content)
    state = watch_folder(incoming, tmp_path / "out", fake_worker, ONCE)
    assert states(state) == {"a": "failed", "b": "failed", "c": "succeeded"}
    with (tmp_path / "out" / "watch.csv").open(encoding="utf-8") as handle:
        rows = {row["scan"]: row for row in csv.DictReader(handle)}
    assert rows["a"]["file"] == str(incoming / "a.nii.gz")
    assert (rows["b"]["value"], rows["c"]["lesions"], rows["c"]["problem"]) == ("exit code 3", "4", "")


def test_a_scan_that_is_still_being_written_waits(fake_worker: ModelWorker, incoming: Path, tmp_path: Path) -> None:
    """The clock of the test goes on by a second with each look; the file grows during the first looks."""
    now = [0.0]
    file = put(incoming, "a.nii.gz", "x")

    def clock() -> float:
        now[0] += 0.25
        if now[0] < 5:
            file.write_text("x" * int(1 + now[0] * 4), encoding="utf-8")
        return now[0]

    options = WatchOptions(quiet_seconds=3, poll_seconds=0.01, once=True)
    state = watch_folder(incoming, tmp_path / "out", fake_worker, options, clock=clock)
    assert now[0] >= 8
    assert (states(state), state.scans[0].lesions) == ({"a": "succeeded"}, file.stat().st_size)


def test_a_dicom_folder_is_one_scan_when_its_last_file_is_there(
    fake_worker: ModelWorker, incoming: Path, tmp_path: Path
) -> None:
    slices = incoming / "anna"
    slices.mkdir()
    dicom = b"\0" * 128 + b"DICM"
    (slices / "1.dcm").write_bytes(dicom)
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5
        if now[0] == 2:
            (slices / "2.dcm").write_bytes(dicom)
        return now[0]

    options = WatchOptions(quiet_seconds=3, poll_seconds=0.01, once=True)
    state = watch_folder(incoming, tmp_path / "out", fake_worker, options, clock=clock)
    # The files have no header, so the scan fails; it was tried once, after the second file.
    assert (len(state.scans), now[0] >= 5) == (1, True)


def test_a_scan_during_which_the_program_ended_twice_fails(
    fake_worker: ModelWorker, incoming: Path, tmp_path: Path
) -> None:
    put(incoming, "a.nii.gz")
    output = tmp_path / "out"
    done = watch_folder(incoming, output, fake_worker, ONCE).scans[0]
    for attempts, expected in ((1, "succeeded"), (2, "failed")):
        begun = WatchedScan("a", done.signature, ScanState.BEGUN, attempts)
        write_json(WatchState((begun,)).to_json(), output / "watch.json")
        assert states(watch_folder(incoming, output, fake_worker, ONCE)) == {"a": expected}


def test_results_in_the_folder_that_is_watched_are_refused(fake_worker: ModelWorker, incoming: Path) -> None:
    for output in (incoming, incoming / "out"):
        with pytest.raises(DetSeg3DError) as caught:
            watch_folder(incoming, output, fake_worker, ONCE)
        assert caught.value.file == output
    with pytest.raises(DetSeg3DError):
        watch_folder(incoming / "missing", incoming.parent / "out", fake_worker, ONCE)


def test_a_folder_that_vanishes_for_a_while_is_listed_again(
    fake_worker: ModelWorker, incoming: Path, tmp_path: Path
) -> None:
    looks = [0]

    def is_stopped() -> bool:
        looks[0] += 1
        if looks[0] == 2:
            shutil.rmtree(incoming)
        if looks[0] == 20:
            put(incoming, "a.nii.gz")
        return (tmp_path / "out" / "rois" / "a.json").exists() or looks[0] > 5000

    options = WatchOptions(quiet_seconds=0, poll_seconds=0.01)
    assert states(watch_folder(incoming, tmp_path / "out", fake_worker, options, is_stopped)) == {"a": "succeeded"}


def test_a_single_pass_over_a_folder_that_cannot_be_listed_is_an_error(
    fake_worker: ModelWorker, incoming: Path, tmp_path: Path
) -> None:
    def is_stopped() -> bool:
        if incoming.exists():
            shutil.rmtree(incoming)
        return False

    with pytest.raises(DetSeg3DError) as caught:
        watch_folder(incoming, tmp_path / "out", fake_worker, ONCE, is_stopped)
    assert caught.value.file == incoming


COMMAND = """
import sys
import detseg3d.cli.watch as command
from tests.serving.fakes import FakeSource
command.served_model = lambda options: FakeSource()
if __name__ == "__main__":
    raise SystemExit(command.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM for other processes")
def test_a_signal_ends_the_command_after_the_present_scan(incoming: Path, tmp_path: Path) -> None:
    output, script = tmp_path / "out", put(tmp_path, "watch_with_fake.py", COMMAND)
    for name in "abcdefgh":
        put(incoming, f"{name}.nii.gz", "sleep 0.5")
    words = [sys.executable, str(script), str(incoming), str(output), "--quiet_seconds", "0"]
    process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    wait_until(lambda: (output / "watch.json").is_file() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGTERM)  # as systemd does: the worker process gets it, too
    assert process.wait(60) == 128 + signal.SIGTERM
    begun = [WatchedScan.from_json(scan) for scan in read_json(output / "watch.json")["scans"]]
    assert 1 <= len(begun) < 8
    assert {scan.state for scan in begun} == {ScanState.SUCCEEDED}
    assert all((output / "rois" / f"{scan.name}.json").is_file() for scan in begun)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("this did not become true")
