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
from detseg3d.inference.load import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.serving.model import ModelSource
from detseg3d.serving.records import PredictTask, Stage
from detseg3d.serving.worker import CancelledError, ModelWorker
from detseg3d.system.json_files import read_json

needs_stop = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the system cannot stop a process")


def test_a_scan_gets_the_lesions_of_the_predictor(
    worker: ModelWorker, tiny_model: Path, scan_file: Path, tmp_path: Path
) -> None:
    stages: list[Stage] = []
    outcome = worker.run(PredictTask("scan", tmp_path, (scan_file,)), stages.append)
    image, geometry = read_image(scan_file)
    predictor = Predictor.from_model_folder(tiny_model, ("0",), LoadOptions(device="cpu", use_mirroring=False))
    expected = predictor.predict_case(image[None].astype(np.float32), geometry)
    assert stages == list(Stage)
    assert outcome.lesions == len(expected.lesions) > 0
    record = read_json(tmp_path / "rois" / "scan.json")
    assert [lesion["score"] for lesion in record["lesions"]] == [lesion.score for lesion in expected.lesions]
    written = read_image(tmp_path / "instances" / "scan.nii.gz").array
    np.testing.assert_array_equal(written, expected.instances)


def test_a_scan_that_fails_costs_only_itself(worker: ModelWorker, scan_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scan_file.read_bytes()[:500])
    process = worker.start() and worker.process_id
    with pytest.raises(DetSeg3DError) as caught:
        worker.run(PredictTask("scan", tmp_path / "out", (broken,)))
    assert caught.value.file == broken
    assert worker.run(PredictTask("scan", tmp_path / "out", (scan_file,))).lesions > 0
    assert worker.process_id == process


def test_a_process_that_is_killed_costs_its_scan_and_is_replaced(
    worker: ModelWorker, scan_file: Path, tmp_path: Path
) -> None:
    worker.start()

    def kill(_stage: Stage) -> None:
        assert worker.process_id is not None
        os.kill(worker.process_id, signal.SIGTERM)

    with pytest.raises(DetSeg3DError) as caught:
        worker.run(PredictTask("scan", tmp_path, (scan_file,)), kill)
    assert caught.value.value == "SIGTERM"
    assert worker.run(PredictTask("scan", tmp_path, (scan_file,))).lesions > 0


@needs_stop
def test_a_process_that_hangs_is_ended_at_the_time_limit(worker: ModelWorker, scan_file: Path, tmp_path: Path) -> None:
    worker.start()
    process = worker.process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(DetSeg3DError):
        worker.run(PredictTask("scan", tmp_path, (scan_file,)), max_seconds=0.3)
    assert time.monotonic() - begin < 10
    assert worker.process_id is None
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_cancelled_scan_ends_the_process(worker: ModelWorker, scan_file: Path, tmp_path: Path) -> None:
    cancelled = threading.Event()
    with pytest.raises(CancelledError):
        worker.run(
            PredictTask("scan", tmp_path, (scan_file,)), lambda _: cancelled.set(), is_cancelled=cancelled.is_set
        )
    assert worker.process_id is None


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with ModelWorker(ModelSource(tmp_path / "missing")) as worker, pytest.raises(DetSeg3DError) as caught:
        worker.start()
    assert caught.value.file == tmp_path / "missing"
