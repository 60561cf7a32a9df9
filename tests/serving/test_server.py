"""The service as a process: its start, its end, and the real model behind it."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import httpx

from detseg3d.cli.serve import main
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.images import read_image
from detseg3d.serving.server import run_service
from detseg3d.serving.settings import Access, ServiceLimits
from tests.data.formats.dicom.builders import MR, SeriesBuilder
from tests.scans import make_scan
from tests.serving.fakes import FakeSource

ROOT = Path(__file__).parents[2]


class Running:
    """A service in a process of its own."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "detseg3d", "serve", "--port", "0", "-device", "cpu", *words]
        with log.open("w", encoding="utf-8") as handle:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=handle, stderr=handle)

    def wait_for_address(self) -> str:
        for _ in range(1200):
            text = self.log.read_text(encoding="utf-8")
            if "answers at" in text:
                return text.split("answers at ")[1].split(";")[0]
            assert self.process.poll() is None, text
            time.sleep(0.1)
        raise AssertionError(text)


@pytest.fixture(scope="module")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    words = ["-m", str(tiny_model), "-f", "0", "--disable_tta", "--folder", str(folder / "jobs")]
    service = Running(words, folder / "log")
    yield service
    service.process.kill()
    service.process.wait()


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    for _ in range(1200):
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in ("succeeded", "failed"):
            return job
        time.sleep(0.1)
    raise AssertionError(job)


def test_a_service_predicts_dicom_survives_its_worker_and_ends_in_order(
    running: Running, scan_file: Path, tmp_path: Path
) -> None:
    """One process for all, because its start takes seconds."""
    image, _ = make_scan(77)
    voxels = np.rint(image).astype("int16")
    SeriesBuilder(voxels, spacing=(1.0, 1.0, 1.0), sop_class=MR).write(tmp_path / "series")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, f"study/{path.name}")
    with httpx.Client(base_url=running.wait_for_address(), timeout=60) as client:
        # DICOM in, DICOM out
        sent = client.post("/v1/jobs", files={"file": ("anna.zip", stream.getvalue())}).json()
        job = finished(client, sent["id"])
        assert job["error"] is None and job["lesions"] > 0 and not any("report" in text for text in job["warnings"])
        names = "lesions.json instances.nii.gz mask.nii.gz segmentation.dcm report.dcm report.html viewer.json"
        assert [result["name"] for result in job["results"]] == names.split()
        results = {name: client.get(f"/v1/jobs/{job['id']}/results/{name}").content for name in names.split()}
        lesions = json.loads(results["lesions.json"])["lesions"]
        segmentation = pydicom.dcmread(io.BytesIO(results["segmentation.dcm"]))
        assert len(segmentation.SegmentSequence) in (len(lesions), len(lesions) + 1)  # a label map has a background
        assert pydicom.dcmread(io.BytesIO(results["report.dcm"])).Modality == "SR"
        (tmp_path / "map.nii.gz").write_bytes(results["instances.nii.gz"])
        assert read_image(tmp_path / "map.nii.gz").array.max() == len(lesions) == job["lesions"]
        assert b"<svg" in results["report.html"]
        assert set(json.loads(results["viewer.json"])["layers"]) == {"image", "prediction"}
        # A broken file, and a worker that is killed
        broken = client.post("/v1/jobs", files={"file": ("x.nii.gz", scan_file.read_bytes()[:400])}).json()
        error = finished(client, broken["id"])["error"]
        assert error["file"] == "x.nii.gz" and str(tmp_path.parent.parent) not in json.dumps(error)
        metrics = client.get("/metrics").text
        assert 'detseg3d_jobs_total{outcome="failed"} 1' in metrics
        # SIGTERM: the job that waits stays in the folder
        waiting = client.post("/v1/jobs", files={"file": ("y.nii.gz", scan_file.read_bytes())}).json()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 128 + signal.SIGTERM
    log = running.log.read_text(encoding="utf-8")
    assert log.splitlines()[-1] == "detseg3d_serve: interrupted (SIGTERM)" and "Traceback" not in log
    jobs = running.log.parent / "jobs"
    assert sorted(path.name for path in jobs.iterdir()) == sorted([job["id"], broken["id"], waiting["id"]])
    left = json.loads((jobs / waiting["id"] / "job.json").read_text(encoding="utf-8"))
    assert left["state"] in ("queued", "succeeded")


def test_the_program_refuses_to_start_without_a_token(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", str(tiny_model), "--host", "0.0.0.0", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["value"] == "0.0.0.0"


def test_a_port_in_use_is_an_error_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(DetSeg3DError) as caught:
            run_service(FakeSource(), Access(port=port), ServiceLimits())
    assert caught.value.value == f"127.0.0.1, port {port}"
