"""Load test of the service: many clients at the same time, and faults.

python -m benchmarks.service_load MODEL --requests 200 --at_once 8

The test starts ``detseg3d_serve`` as a process and sends scans from several threads. Some requests are faults: broken
files, an archive that unpacks to gigabytes, an upload beyond the limit, a client that disconnects during its upload, a
client that disconnects while it follows the events, and a worker process that is killed. Each accepted scan must end
with its own result or with its own error, and the memory of both processes must stay bounded.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image

ROOT = Path(__file__).parents[1]
MAX_UPLOAD_GB = 0.02
FAULT_SHARE = 0.3


class Kind(str, Enum):
    """Kind of a request."""

    SCAN = "a scan"
    BROKEN = "a broken file"
    BOMB = "an archive that unpacks to gigabytes"
    OVERSIZE = "an upload beyond the limit"
    CUT = "a client that disconnects during its upload"
    GONE = "a client that disconnects while it follows the events"
    KILL = "a scan during which the worker process is killed"


@dataclass
class LoadResult:
    """Outcome of a load test.

    Attributes
    ----------
    requests : dict of str to int
        Number of requests of each kind.
    outcomes : dict of str to int
        Number of outcomes.
    wrong : list of str
        Requests with another outcome than expected: lost scans, results of another scan, errors of another kind.
    seconds : float
        Time of the whole test without the start of the service.
    waits : int
        How often a client waited because the queue was full.
    service_mb, worker_mb : list of float
        Memory of the processes over time, in MB.
    exit_code : int
        Of the service after SIGTERM.
    """

    requests: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    waits: int = 0
    service_mb: list[float] = field(default_factory=list)
    worker_mb: list[float] = field(default_factory=list)
    exit_code: int = 0


class Clients:
    """The clients of one load test.

    Parameters
    ----------
    address : str
    process : int
        Number of the process of the service.
    seed : int
    """

    def __init__(self, address: str, process: int, seed: int) -> None:
        self.address, self._process, self._seed = address, process, seed
        self.result = LoadResult()
        self._lock = threading.Lock()

    def send(self, number: int, kind: Kind) -> None:
        """Send one request and check its outcome."""
        with httpx.Client(base_url=self.address, timeout=120) as client:
            try:
                outcome = getattr(self, f"_{kind.name.lower()}")(client, number)
            except Exception as error:  # a defect of the service must not end the test
                outcome = f"wrong: {type(error).__name__}: {error}"
        with self._lock:
            self.result.requests[kind.value] += 1
            if outcome.startswith("wrong"):
                self.result.wrong.append(f"request {number}, {kind.value}: {outcome}")
            self.result.outcomes["wrong" if outcome.startswith("wrong") else outcome] += 1

    def _scan(self, client: httpx.Client, number: int) -> str:
        return self._judge(client, self._post(client, number, make_scan(self._seed, number)), number)

    def _broken(self, client: httpx.Client, number: int) -> str:
        job = self._end(client, self._post(client, number, make_scan(self._seed, number)[:900]))
        is_named = job["state"] == "failed" and job["error"]["file"] == f"scan{number}.nii.gz"
        return "refused by name" if is_named or is_killed(job) else f"wrong: {job['error']}"

    def _bomb(self, client: httpx.Client, number: int) -> str:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("slice.dcm", "w") as member:
            for _ in range(64):
                member.write(bytes(1 << 22))
        job = self._end(client, self._post(client, number, stream.getvalue(), "bomb.zip"))
        is_named = job["state"] == "failed" and "too large" in job["error"]["problem"]
        return "refused by name" if is_named or is_killed(job) else f"wrong: {job['error']}"

    def _oversize(self, client: httpx.Client, number: int) -> str:
        try:
            answer = client.post("/v1/jobs", files={"file": (f"{number}.nii", bytes(int(MAX_UPLOAD_GB * 1e9) + 1))})
        except httpx.TransportError:
            return "413 or closed"  # the service answers and closes while the client is still sending
        return "413 or closed" if answer.status_code in (413, 503) else f"wrong: status {answer.status_code}"

    def _cut(self, client: httpx.Client, number: int) -> str:
        def pieces() -> Any:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="cut.nii.gz"\r\n\r\n'
            yield make_scan(self._seed, number)[:2000]
            raise ConnectionAbortedError("the client disconnects")

        with suppress(ConnectionAbortedError, httpx.TransportError):
            client.post("/v1/jobs", content=pieces(), headers={"Content-Type": "multipart/form-data; boundary=b"})
        return "no job"

    def _gone(self, client: httpx.Client, number: int) -> str:
        job = self._post(client, number, make_scan(self._seed, number))
        with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
            next(stream.iter_lines())
        return self._judge(client, job, number)

    def _kill(self, client: httpx.Client, number: int) -> str:
        job = self._post(client, number, make_scan(self._seed, number))
        for _ in range(1200):
            if client.get(f"/v1/jobs/{job}").json()["state"] != "queued":
                break
            time.sleep(0.05)
        for worker in worker_processes(self._process):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        return self._judge(client, job, number)

    def _post(self, client: httpx.Client, number: int, content: bytes, name: str = "") -> str:
        """Send a file, again and again while the queue is full; return the number of the job."""
        while True:
            answer = client.post("/v1/jobs", files={"file": (name or f"scan{number}.nii.gz", content)})
            if answer.status_code != 503:
                break
            with self._lock:
                self.result.waits += 1
            time.sleep(min(float(answer.headers["retry-after"]), 1.0))
        answer.raise_for_status()
        job: str = answer.json()["id"]
        return job

    def _end(self, client: httpx.Client, job: str) -> dict[str, Any]:
        """Follow the events of a job to its end and return the job."""
        with client.stream("GET", f"/v1/jobs/{job}/events") as stream:
            for _ in stream.iter_lines():
                pass
        ended: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
        return ended

    def _judge(self, client: httpx.Client, job: str, number: int) -> str:
        """Check that a scan has its own result, or the error of a worker process that was killed."""
        ended = self._end(client, job)
        if ended["state"] == "succeeded":
            lesions = client.get(f"/v1/jobs/{job}/results/lesions.json").json()
            is_own = tuple(lesions["shape"]) == shape_of(number) and ended["files"][0]["name"] == f"scan{number}.nii.gz"
            return "own result" if is_own else "wrong: the result of another scan"
        return "worker killed" if is_killed(ended) else f"wrong: {ended['state']}, {ended['error']}"


def run_load(command: Sequence[str], requests: int, at_once: int, seed: int = 0) -> LoadResult:
    """Start a service, send requests to it, and end it.

    Parameters
    ----------
    command : sequence of str
        Program and arguments that start the service, without address, folder and limits.
    requests, at_once : int
        Number of requests, and number of clients at the same time.
    seed : int
    """
    kinds = draw_kinds(requests, seed)
    with tempfile.TemporaryDirectory(prefix="service_load_") as name:
        folder = Path(name)
        limits = ["--max_upload_gb", str(MAX_UPLOAD_GB), "--max_unpacked_gb", "0.1", "--max_queue", "4"]
        words = [*command, "--port", "0", "--folder", str(folder / "jobs"), *limits]
        with (folder / "log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
        try:
            clients = Clients(wait_for_address(process, folder / "log"), process.pid, seed)
            stopped = threading.Event()
            observer = threading.Thread(target=observe, args=(clients, stopped))
            observer.start()
            begin = time.monotonic()
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(clients.send, range(requests), kinds))
            clients.result.seconds = time.monotonic() - begin
            check_all_ended(clients)
            stopped.set()
            observer.join()
            process.send_signal(signal.SIGTERM)
            clients.result.exit_code = process.wait(60)
        finally:
            process.kill()
            process.wait()
    return clients.result


def draw_kinds(requests: int, seed: int) -> list[Kind]:
    """Return the kind of each request. Each kind of fault occurs, and their order is drawn."""
    faults = [kind for kind in Kind if kind is not Kind.SCAN]
    count = max(int(FAULT_SHARE * requests), len(faults))
    kinds = [faults[number % len(faults)] for number in range(count)] + [Kind.SCAN] * (requests - count)
    return [kinds[place] for place in np.random.default_rng(seed).permutation(requests)]


def shape_of(number: int) -> tuple[int, int, int]:
    """Return the shape ``(z, y, x)`` of a scan, by which its result is recognised."""
    return 24 + number % 8, 30 + number // 8 % 8, 32 + number // 64 % 8


def make_scan(seed: int, number: int) -> bytes:
    """Return a scan of noise with bright blocks as ``.nii.gz``."""
    random = np.random.default_rng((seed, number))
    shape = shape_of(number)
    image = np.zeros(shape, np.float32)
    image[2:-3, 2:-3, 2:-3] = random.normal(100, 10, tuple(size - 5 for size in shape))
    for _ in range(3):
        z, y, x = (int(random.integers(5, size - 10)) for size in shape)
        image[z : z + 4, y : y + 4, x : x + 4] += 60
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        write_image(image, Geometry(shape), path)
        return path.read_bytes()


def is_killed(job: dict[str, Any]) -> bool:
    """Return whether a job failed because its worker process was killed."""
    return job["state"] == "failed" and job["error"]["value"] == "SIGKILL"


def worker_processes(service: int) -> list[int]:
    """Return the worker processes of the service (Linux)."""
    children = Path(f"/proc/{service}/task").glob("*/children")
    numbers = [int(number) for file in children for number in file.read_text(encoding="ascii").split()]
    return [number for number in numbers if b"multiprocessing-fork" in Path(f"/proc/{number}/cmdline").read_bytes()]


def check_all_ended(clients: Clients) -> None:
    """Note each job that is not finished after all clients have ended."""
    with httpx.Client(base_url=clients.address, timeout=60) as client:
        for job in client.get("/v1/jobs").json():
            if job["state"] not in ("succeeded", "failed"):
                clients.result.wrong.append(f"the job {job['id']} is still {job['state']}")


def observe(clients: Clients, stopped: threading.Event) -> None:
    """Note the memory of the processes until the test ends."""
    with httpx.Client(base_url=clients.address, timeout=60) as client:
        while not stopped.wait(0.5):
            for name, value in re.findall(r'resident_bytes\{process="(\w+)"\} (\d+)', client.get("/metrics").text):
                (clients.result.service_mb if name == "service" else clients.result.worker_mb).append(int(value) / 1e6)


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address that the service prints."""
    while True:
        text = log.read_text(encoding="utf-8")
        if "answers at" in text:
            return text.split("answers at ")[1].split(";")[0]
        if process.poll() is not None:
            raise RuntimeError(f"the service ended: {text}")
        time.sleep(0.1)


def growth(values: Sequence[float]) -> tuple[float, float]:
    """Return the highest values of the first half and of the second half."""
    half = len(values) // 2
    return max(values[: half + 1]), max(values[half:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test and print its result; return 1 if a scan was lost or an outcome was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at_once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "detseg3d", "serve", "-m", options.model, "--disable_tta", "-device", "cpu"]
    result = run_load(command, options.requests, options.at_once, options.seed)
    print(json.dumps({"requests": result.requests, "outcomes": result.outcomes}, indent=1))
    print(f"{result.seconds:.0f} s, {result.waits} waits for a full queue, exit code {result.exit_code} after SIGTERM")
    for name, values in (("service", result.service_mb), ("worker", result.worker_mb)):
        first, second = growth(values)
        print(f"memory of the {name}: at most {first:.0f} MB in the first half, {second:.0f} MB in the second half")
    print("\n".join(result.wrong) or "nothing lost, nothing wrong")
    return int(bool(result.wrong) or result.exit_code != 128 + signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
