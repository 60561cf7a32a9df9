"""The service with a real model: DICOM in and out, the commands of the documentation, and the page in Chromium."""

from __future__ import annotations

import base64
import io
import json
import queue
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detseg3d.data.images import read_image
from detseg3d.serving.app import create_app
from detseg3d.serving.service import Service
from detseg3d.serving.settings import Access, ServiceLimits
from detseg3d.serving.store import JobStore
from detseg3d.serving.worker import ModelWorker
from tests.data.formats.dicom.builders import MR, SeriesBuilder
from tests.documents import blocks_of
from tests.integration.browser import CHROMIUM, FLAGS
from tests.scans import make_scan

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "service.md"

TOKEN = "a token for this test"
# The script is served beside the page, because the policy of the page forbids scripts within it.
SCRIPT = """
const seen = { errors: [], requests: [] };
addEventListener("error", (e) => seen.errors.push(String(e.message || e.target.src)), true);
addEventListener("unhandledrejection", (e) => seen.errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => seen.errors.push(`${e.violatedDirective} ${e.blockedURI}`));
const until = async (condition) => {
  for (let tries = 0; tries < 1200 && !condition(); tries += 1) await new Promise((r) => setTimeout(r, 25));
  if (!condition()) throw new Error(`this did not become true: ${condition}; ${find("status").textContent}`);
};
const colors = () => {
  const canvas = document.querySelector("#panes canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let [grey, colored] = [0, 0];
  for (let i = 0; i < data.length; i += 4) {
    if (Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]) > 60) colored += 1;
    else if (data[i] > 40) grey += 1;
  }
  return [grey, colored];
};
const offer = (name, text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  find("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
};
(async () => {
  try {
    await until(() => !find("login").hidden);
    find("token").value = "a wrong token here";
    find("enter").click();
    await until(() => find("status").classList.contains("failed"));
    find("token").value = "TOKEN";
    find("enter").click();
    await until(() => find("login").hidden);
    offer("<img src=x onerror=alert(1)>.nii.gz", "BROKEN");
    await until(() => find("status").textContent.includes("File: <img"));
    seen.failure = find("status").textContent;
    offer("brain.nii.gz", "SCAN");
    await until(() => document.body.dataset.ready);
    seen.summary = find("summary").textContent;
    seen.rows = Array.from(find("lesions").tBodies[0].rows, (row) => row.cells.length);
    seen.files = Array.from(find("downloads").querySelectorAll("a"), (link) => link.textContent);
    seen.drawn = colors();
    find("outlines").click();
    seen.plain = colors();
    const before = document.querySelector("#panes canvas").toDataURL();
    find("lesions").tBodies[0].rows[1].click();
    seen.moved = document.querySelector("#panes canvas").toDataURL() !== before;
    seen.report = (await (await fetch(find("downloads").querySelector("a[href$='report.html']").href)).text()).length;
    find("delete").click();
    await until(() => find("status").textContent.includes("deleted"));
    seen.hidden = find("result").hidden;
    seen.left = (await (await fetch("/v1/jobs")).json()).length;
    seen.images = document.images.length;
  } catch (error) {
    seen.errors.push(String(error.stack || error));
  }
  seen.requests = performance.getEntriesByType("resource").map((entry) => new URL(entry.name).origin);
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
})();
"""


@dataclass(frozen=True)
class Listening:
    """A service in a thread: its address and its application."""

    address: str
    app: WithScript


class WithScript:
    """The application with a further script on its page, and an address to which the script sends what it saw."""

    def __init__(self, app: ASGIApp, script: str) -> None:
        self._app, self._script = app, script
        self._seen: queue.Queue[bytes] = queue.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if path == "/test.js":
            await Response(self._script, media_type="text/javascript")(scope, receive, send)
        elif path == "/seen":
            self._seen.put(await Request(scope, receive).body())
            await Response()(scope, receive, send)
        elif path == "/":
            await self._app(scope, receive, _add_script(send))
        else:
            await self._app(scope, receive, send)

    def look(self, address: str, folder: Path) -> dict[str, Any]:
        """Open the page in Chromium and return what the script saw."""
        assert CHROMIUM is not None
        with subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", address]) as browser:
            try:
                result: dict[str, Any] = json.loads(self._seen.get(timeout=120))
            finally:
                browser.terminate()
        return result


def _add_script(send: Send) -> Send:
    added = b'<script src="/test.js"></script></body>'

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [entry for entry in message["headers"] if entry[0] != b"content-length"]
        else:
            message["body"] = message.get("body", b"").replace(b"</body>", added)
        await send(message)

    return send_more


@contextmanager
def listening(worker: ModelWorker, folder: Path, token: str | None = None, script: str = "") -> Iterator[Listening]:
    """Run a service in a thread."""
    limits = ServiceLimits()
    assert worker.description is not None
    service = Service(worker.description, worker, JobStore(folder / "jobs", limits), limits, Access(token=token))
    app = WithScript(create_app(service), script)
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    runner = service.runner()
    runner.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield Listening(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app)
    finally:
        service.stopping.set()
        server.should_exit = True
        thread.join()
        runner.stop()


def test_dicom_goes_in_and_dicom_comes_out(real_worker: ModelWorker, tmp_path: Path) -> None:
    image, _ = make_scan(77)
    voxels = np.rint(image).astype("int16")
    SeriesBuilder(voxels, spacing=(1.0, 1.0, 1.0), sop_class=MR).write(tmp_path / "series")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, f"study/{path.name}")
    with listening(real_worker, tmp_path) as service, httpx.Client(base_url=service.address, timeout=60) as client:
        job = client.post("/v1/jobs", files={"file": ("anna.zip", stream.getvalue())}).json()
        events = client.get(f"/v1/jobs/{job['id']}/events").text
        assert '"state": "succeeded"' in events  # steps may be shorter than the time between two looks
        job = client.get(f"/v1/jobs/{job['id']}").json()
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


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_documentation_work(real_worker: ModelWorker, scan_file: Path, tmp_path: Path) -> None:
    (block,) = [block for block in blocks_of(PAGE) if "curl" in block.text]
    shutil.copyfile(scan_file, tmp_path / "brain.nii.gz")
    with listening(real_worker, tmp_path) as service:
        text = block.text.replace("http://127.0.0.1:8765", service.address).replace("python", sys.executable)
        done = subprocess.run(["bash", "-ec", text], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0, done.stderr
        assert httpx.get(f"{service.address}/v1/jobs").json() == []
    assert done.stdout.count("event: job") >= 2
    lesions = json.loads((tmp_path / "lesions.json").read_text(encoding="utf-8"))["lesions"]
    assert read_image(tmp_path / "instances.nii.gz").array.max() == len(lesions) > 0


@pytest.fixture(scope="module")
def seen(real_worker: ModelWorker, scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the script recorded on the page of a service."""
    folder = tmp_path_factory.mktemp("page")
    content = scan_file.read_bytes()
    script = SCRIPT.replace("TOKEN", TOKEN)
    for name, data in (("BROKEN", content[:300]), ("SCAN", content)):
        script = script.replace(f'"{name}"', json.dumps(base64.b64encode(data).decode()))
    with listening(real_worker, folder, TOKEN, script) as service:
        return service.app.look(f"{service.address}/", folder)


@needs_chromium
def test_the_page_shows_the_lesions_of_a_scan(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
    count = int(seen["summary"].split(" ")[0])
    assert seen["rows"] == [5] * count and count > 1
    assert seen["summary"].endswith("in brain.nii.gz")
    assert {"lesions.json", "instances.nii.gz", "report.html"} <= set(seen["files"])
    assert seen["report"] > 1000


@needs_chromium
def test_slices_and_outlines_are_drawn_and_follow_the_chosen_lesion(seen: dict[str, Any]) -> None:
    (grey, colored), (_, plain) = seen["drawn"], seen["plain"]
    assert grey > 1000 and colored > plain + 20
    assert seen["moved"]


@needs_chromium
def test_an_error_is_shown_as_text(seen: dict[str, Any]) -> None:
    assert "<img src=x onerror=alert(1)>.nii.gz" in seen["failure"]
    assert seen["images"] == 0


@needs_chromium
def test_a_scan_is_deleted_on_request(seen: dict[str, Any]) -> None:
    assert (seen["hidden"], seen["left"]) == (True, 1)  # the scan that failed is left


@needs_chromium
def test_the_page_asks_no_other_server(seen: dict[str, Any]) -> None:
    assert len(set(seen["requests"])) == 1
