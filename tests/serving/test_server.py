"""The service as a process: its start and its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import httpx

from detseg3d.cli.serve import main
from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.server import run_service
from detseg3d.serving.settings import Access, ServiceLimits
from tests.serving.fakes import FakeSource

ROOT = Path(__file__).parents[2]


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import detseg3d.cli.serve as command
from tests.serving.fakes import ReadingSource
command.served_model = lambda options: ReadingSource()
if __name__ == "__main__":
    raise SystemExit(command.main(sys.argv[1:]))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A service with a model that only reads the scans."""
    script = tmp_path / "serve.py"
    script.write_text(SCRIPT.format(root=str(ROOT)), encoding="utf-8")
    return [sys.executable, str(script), "--port", "0", "--folder", str(tmp_path / "jobs")]


@contextmanager
def started(command: list[str], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Start a service, and yield its process and a client."""
    with log.open("w", encoding="utf-8") as handle, subprocess.Popen(command, stdout=handle, stderr=handle) as process:
        try:
            for _ in range(1200):
                text = log.read_text(encoding="utf-8")
                if "answers at" in text:
                    break
                assert process.poll() is None, text
                time.sleep(0.05)
            address = text.split("answers at ")[1].split(";")[0]
            with httpx.Client(base_url=address, timeout=60) as client:
                yield process, client
        finally:
            process.kill()


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(30)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM for other processes")
def test_a_service_that_is_started_again_continues_its_jobs(
    command: list[str], scan_file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started(command, log) as (process, client):
        done = client.post("/v1/jobs", files={"file": ("a.nii.gz", scan_file.read_bytes())}).json()["id"]
        assert "succeeded" in client.get(f"/v1/jobs/{done}/events").text
        # SIGTERM while a scan is predicted, another waits, and a client follows the first
        jobs = [client.post("/v1/jobs", files={"file": ("b.slow", b"slow")}).json()["id"] for _ in range(2)]
        with client.stream("GET", f"/v1/jobs/{jobs[0]}/events") as stream:
            next(stream.iter_lines())
            assert end(process, signal.SIGTERM) == 128 + signal.SIGTERM
    text = log.read_text(encoding="utf-8")
    assert text.splitlines()[-1].endswith("interrupted (SIGTERM)") and "Traceback" not in text
    with started(command, log) as (process, client):
        states = {job["id"]: job["state"] for job in client.get("/v1/jobs").json()}
        assert set(states) == {done, *jobs} and states[done] == "succeeded"
        texts = [client.get(f"/v1/jobs/{job}/events").text for job in jobs]
        # The model of the tests reads no such file: both jobs end with an error that names the file.
        assert all('"state": "failed"' in text and "b.slow" in text for text in texts)
        assert client.get(f"/v1/jobs/{done}/results/lesions.json").status_code == 200
        assert end(process, signal.SIGINT) == 128 + signal.SIGINT


def test_the_program_refuses_to_start_without_a_token(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", str(tiny_model), "--host", "0.0.0.0", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["value"] == "0.0.0.0"


def test_a_port_in_use_is_an_error_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(DetSeg3DError) as caught:
            run_service(FakeSource(), Access(port=port), ServiceLimits())
    assert caught.value.value == f"127.0.0.1, port {port}"
