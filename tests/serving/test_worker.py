from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.images import read_image
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.serving.records import PredictTask, Stage
from detseg3d.serving.worker import CancelledError, ModelWorker
from detseg3d.system.json_files import read_json
from tests.serving.fakes import MissingSource

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
needs_stop = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the system cannot stop a process")


def scan(folder: Path, content: str = "a scan") -> PredictTask:
    """Return a task for the model of the tests, which does what the content of the file asks for."""
    file = folder / f"{content.split()[0]}.txt"
    file.write_text(content, encoding="utf-8")
    return PredictTask("scan", folder / "out", (file,))


def test_a_scan_gets_the_lesions_of_the_predictor(
    real_worker: ModelWorker, tiny_model: Path, scan_file: Path, tmp_path: Path
) -> None:
    stages: list[Stage] = []
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scan_file.read_bytes()[:500])
    with pytest.raises(DetSeg3DError) as caught:
        real_worker.run(PredictTask("broken", tmp_path, (broken,)))
    outcome = real_worker.run(PredictTask("scan", tmp_path, (scan_file,)), stages.append)
    assert (caught.value.file, real_worker.starts) == (broken, 1)
    image, geometry = read_image(scan_file)
    predictor = Predictor.from_model_folder(tiny_model, ("0",), LoadOptions(device="cpu", use_mirroring=False))
    expected = predictor.predict_case(image[None].astype(np.float32), geometry)
    assert stages == list(Stage)
    assert outcome.lesions == len(expected.lesions) > 0
    record = read_json(tmp_path / "rois" / "scan.json")
    assert [lesion["score"] for lesion in record["lesions"]] == [lesion.score for lesion in expected.lesions]
    written = read_image(tmp_path / "instances" / "scan.nii.gz").array
    np.testing.assert_array_equal(written, expected.instances)


def test_an_error_and_an_outcome_reach_the_caller(fake_worker: ModelWorker, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        fake_worker.run(scan(tmp_path, "fail"))
    assert (caught.value.file, caught.value.value) == (tmp_path / "fail.txt", str(tmp_path))
    outcome = fake_worker.run(scan(tmp_path))
    assert (outcome.lesions, outcome.warnings) == (6, (f"a warning about {tmp_path / 'a.txt'}",))


def test_a_process_that_is_killed_costs_its_scan_and_is_replaced(fake_worker: ModelWorker, tmp_path: Path) -> None:
    fake_worker.start()

    def kill(_stage: Stage) -> None:
        assert fake_worker.process_id is not None
        os.kill(fake_worker.process_id, KILL)

    with pytest.raises(DetSeg3DError) as caught:
        fake_worker.run(scan(tmp_path, "sleep 60"), kill)
    assert caught.value.value == KILL.name
    assert fake_worker.run(scan(tmp_path)).lesions == 6


@needs_stop
def test_a_process_that_hangs_is_ended_at_the_time_limit(fake_worker: ModelWorker, tmp_path: Path) -> None:
    fake_worker.start()
    process = fake_worker.process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(DetSeg3DError):
        fake_worker.run(scan(tmp_path), max_seconds=0.3)
    assert time.monotonic() - begin < 10
    assert fake_worker.process_id is None
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_cancelled_scan_ends_the_process(fake_worker: ModelWorker, tmp_path: Path) -> None:
    cancelled = threading.Event()
    with pytest.raises(CancelledError):
        fake_worker.run(scan(tmp_path, "sleep 60"), lambda _: cancelled.set(), is_cancelled=cancelled.is_set)
    assert fake_worker.process_id is None


def test_a_signal_for_all_processes_does_not_end_the_scan(fake_worker: ModelWorker, tmp_path: Path) -> None:
    def signal_all(_stage: Stage) -> None:
        assert fake_worker.process_id is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(fake_worker.process_id, number)

    assert fake_worker.run(scan(tmp_path, "sleep 0.2"), signal_all).lesions == 9


def test_a_model_that_cannot_be_loaded_is_an_error() -> None:
    with ModelWorker(MissingSource()) as worker, pytest.raises(DetSeg3DError) as caught:
        worker.start()
    assert caught.value.file == Path("missing")
