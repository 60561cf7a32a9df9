"""The HTTP interface, with a model that does what its scans ask for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi.testclient import TestClient

from detseg3d.serving.app import create_app
from detseg3d.serving.service import Service
from detseg3d.serving.settings import Access, ServiceLimits
from detseg3d.serving.store import JobStore
from detseg3d.serving.worker import ModelWorker
from tests.serving.fakes import FakeModel

FORM = "multipart/form-data; boundary=b"
TOKEN = "0123456789abcdef"
LIMITS = ServiceLimits(
    max_upload_bytes=100_000, max_unpacked_bytes=10**6, max_files=3, max_job_seconds=3.0, max_queue=2, keep_seconds=60
)


def make_service(worker: ModelWorker, folder: Path, token: str | None = None, **limits: Any) -> Service:
    limit = replace(LIMITS, **limits)
    return Service(FakeModel.description, worker, JobStore(folder, limit), limit, Access(token=token))


@pytest.fixture
def idle(fake_worker: ModelWorker, tmp_path: Path) -> TestClient:
    """A service whose jobs stay in the queue."""
    return TestClient(create_app(make_service(fake_worker, tmp_path / "jobs")), base_url="http://127.0.0.1:8765")


@pytest.fixture
def client(fake_worker: ModelWorker, tmp_path: Path) -> Iterator[TestClient]:
    service = make_service(fake_worker, tmp_path / "jobs", max_queue=20)
    runner = service.runner()
    runner.start()
    yield TestClient(create_app(service), base_url="http://127.0.0.1:8765")
    runner.stop()


def send(client: TestClient, content: bytes = b"abc", name: str = "brain.nii.gz", **query: Any) -> Any:
    return client.post("/v1/jobs", files=[("file", (name, content))], params=query)


def finished(client: TestClient, job_id: str) -> dict[str, Any]:
    for _ in range(400):
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in ("succeeded", "failed"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job did not end: {job}")


def test_a_scan_is_predicted_and_its_results_are_offered(client: TestClient) -> None:
    answer = send(client, b"12345", "my brain.nii.gz", series="3", spacing="3,1,1", dicom_seg="binary")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    job = finished(client, answer.json()["id"])
    assert (job["state"], job["lesions"], job["error"]) == ("succeeded", 5, None)
    assert job["files"] == [{"name": "my brain.nii.gz", "size": 5}]
    assert job["options"] == {"series": ["3"], "spacing": [3.0, 1.0, 1.0], "segmentation": "binary"}
    assert job["warnings"] == ["a warning about my brain.nii.gz"]
    assert job["results"] == [{"name": "lesions.json", "media_type": "application/json", "size": 15}]
    assert client.get(f"/v1/jobs/{job['id']}/results/lesions.json").json() == {"lesions": []}
    assert client.get(f"/v1/jobs/{job['id']}/results/mask.nii.gz").status_code == 404


def test_an_error_has_the_fields_of_the_program_and_no_path_of_the_machine(client: TestClient, tmp_path: Path) -> None:
    job = finished(client, send(client, b"fail", "patient.nii.gz").json()["id"])
    assert job["state"] == "failed"
    assert job["error"]["file"] == "patient.nii.gz"
    assert job["error"]["problem"] == "patient.nii.gz is broken"
    assert str(tmp_path) not in json.dumps(job) and str(Path.home()) + "/" not in json.dumps(job)


def test_a_scan_that_ends_the_process_or_blocks_it_costs_only_itself(client: TestClient) -> None:
    jobs = [send(client, content).json()["id"] for content in (b"die", b"sleep 60", b"ok")]
    died, blocked, fine = (finished(client, job) for job in jobs)
    assert (died["state"], died["error"]["value"]) == ("failed", "exit code 3")
    assert (blocked["state"], "--max_job_seconds" in blocked["error"]["remedy"]) == ("failed", True)
    assert (fine["state"], fine["lesions"]) == ("succeeded", 2)


def test_a_running_job_is_cancelled_by_its_deletion(client: TestClient, tmp_path: Path) -> None:
    job = send(client, b"sleep 1.5").json()["id"]
    while client.get(f"/v1/jobs/{job}").json()["stage"] != "reading":
        time.sleep(0.02)
    assert client.get(f"/v1/jobs/{job}/results/lesions.json").status_code == 409
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert finished(client, send(client).json()["id"])["state"] == "succeeded"
    assert not (tmp_path / "jobs" / job).exists()
    assert client.delete(f"/v1/jobs/{job}").status_code == 404


def test_events_follow_a_job_to_its_end(client: TestClient) -> None:
    job = send(client, b"sleep 0.3").json()["id"]
    answer = client.get(f"/v1/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    assert {event[0] for event in events} == {"event: job"}
    states = [json.loads(event[1].removeprefix("data: "))["state"] for event in events]
    assert states[-1] == "succeeded" and set(states) <= {"queued", "running", "succeeded"}


def test_files_of_the_client_are_deleted_with_the_end_of_the_job(client: TestClient, tmp_path: Path) -> None:
    job = finished(client, send(client).json()["id"])["id"]
    assert sorted(path.name for path in (tmp_path / "jobs" / job).iterdir()) == ["job.json", "results"]


def test_a_full_queue_refuses_a_scan_and_says_when_to_try_again(idle: TestClient) -> None:
    assert [send(idle).status_code for _ in range(2)] == [202, 202]
    refused = send(idle)
    assert (refused.status_code, refused.json()["error"]["value"]) == (503, "2")
    assert int(refused.headers["retry-after"]) > 0
    assert [job["position"] for job in idle.get("/v1/jobs").json()] == [1, 0]
    assert idle.delete(f"/v1/jobs/{idle.get('/v1/jobs').json()[0]['id']}").status_code == 204
    assert send(idle).status_code == 202


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd.nii.gz", "..\\x.nii.gz", "a\0b.nii.gz", "x" * 5000]
)
def test_the_name_of_a_file_is_never_a_path(idle: TestClient, tmp_path: Path, name: str) -> None:
    before = {path for path in tmp_path.rglob("*") if "jobs" not in path.parts}
    answer = send(idle, b"abc", name)
    assert answer.status_code in (202, 400)
    stored = [path.name for path in tmp_path.rglob("*") if path.parent.name == "uploads"]
    assert set(stored) <= {"upload_00000", "upload_00000.nii.gz"}
    assert {path for path in tmp_path.rglob("*") if "jobs" not in path.parts} == before


def test_an_upload_beyond_a_limit_is_refused_and_leaves_nothing(idle: TestClient, tmp_path: Path) -> None:
    large = send(idle, b"x" * 200_000)

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\n'
        for _ in range(30):
            yield b"x" * 5000

    unstated = idle.post("/v1/jobs", content=pieces(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    many = idle.post("/v1/jobs", files=[("file", (f"{number}.dcm", b"x")) for number in range(4)])
    assert [answer.status_code for answer in (large, unstated, many)] == [413, 413, 413]
    assert many.json()["error"]["expected"] == "at most 3"
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"x", "application/json", 415),
        (b"x", "multipart/form-data", 415),
        (b"nonsense", FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc', FORM, 400),
        (b"--b--\r\n", FORM, 400),
        (b'--b\r\nContent-Disposition: form-data; name="series"\r\n\r\n3\r\n--b--', FORM, 400),
    ],
    ids=["json", "no boundary", "nonsense", "cut", "empty", "a field"],
)
def test_a_body_that_is_not_a_form_with_files_is_refused(
    idle: TestClient, tmp_path: Path, body: bytes, content_type: str, status: int
) -> None:
    answer = idle.post("/v1/jobs", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"problem", "file", "value", "expected", "remedy"}
    assert list((tmp_path / "jobs").iterdir()) == []


def test_parts_of_dicomweb_are_received(idle: TestClient) -> None:
    parts = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + text + b"\r\n" for text in (b"one", b"three"))
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    answer = idle.post("/v1/jobs", content=parts + b"--b--\r\n", headers={"Content-Type": kind})
    assert answer.status_code == 202
    assert answer.json()["files"] == [{"name": "part 1", "size": 3}, {"name": "part 2", "size": 5}]


@pytest.mark.parametrize("query", [{"spacing": "1,2"}, {"spacing": "0,1,1"}, {"dicom_seg": "x"}, {"series": "x" * 300}])
def test_a_parameter_that_is_not_valid_is_refused(idle: TestClient, query: dict[str, str]) -> None:
    answer = send(idle, **query)
    assert (answer.status_code, idle.get("/v1/jobs").json()) == (422, [])


def test_an_unknown_address_is_an_error_as_json(idle: TestClient) -> None:
    for path in ("/v1/nothing", "/v1/jobs/x", f"/v1/jobs/{'0' * 32}", "/assets/page.html", "/assets/..%2fapp.py"):
        answer = idle.get(path)
        assert answer.status_code in (404, 422)
        assert answer.json()["error"]["problem"]


# -- Who may ask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9"}, 200),
        ({"Host": "[::1]:8765"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:8765"}, 421),
        ({"Origin": "http://127.0.0.1:8765"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_a_page_of_another_origin_gets_nothing(idle: TestClient, headers: dict[str, str], status: int) -> None:
    assert idle.get("/v1/jobs", headers=headers).status_code == status


def test_a_page_of_another_origin_cannot_send_a_scan(idle: TestClient, tmp_path: Path) -> None:
    answer = idle.post("/v1/jobs", files=[("file", ("a.nii", b"x"))], headers={"Origin": "http://evil.example"})
    assert (answer.status_code, list((tmp_path / "jobs").iterdir())) == (403, [])


def test_a_token_is_needed_for_everything_but_the_page_and_the_state(fake_worker: ModelWorker, tmp_path: Path) -> None:
    service = make_service(fake_worker, tmp_path / "jobs", TOKEN)
    client = TestClient(create_app(service), base_url="http://127.0.0.1:8765")
    assert [client.get(path).status_code for path in ("/", "/health", "/docs", "/assets/page.js")] == [200] * 4
    closed = ("/v1/jobs", "/v1/model", "/metrics", "/openapi.json", f"/v1/jobs/{'0' * 32}/results/lesions.json")
    assert [client.get(path).status_code for path in closed] == [401] * 5
    wrong = {"Authorization": f"Bearer {TOKEN[:-1]}x"}
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert [client.get(path, headers=wrong).status_code for path in closed] == [401] * 5
    assert [client.get(path, headers=right).status_code for path in closed] == [200, 200, 200, 200, 404]
    assert send(client).status_code == 401
    assert client.post("/v1/session", json={"token": "wrong"}).status_code == 401
    answer = client.post("/v1/session", json={"token": TOKEN})
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert client.get("/v1/jobs").status_code == 200  # the client keeps the cookie
    client.cookies.clear()
    assert client.get("/v1/jobs", headers={"Cookie": "detseg3d_session=x"}).status_code == 401


def test_a_large_body_is_refused_where_no_scan_is_expected(idle: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"token": "'

    for content in (b"x" * 10_000, pieces()):
        assert idle.post("/v1/session", content=content).status_code == 413
    assert idle.post("/v1/session", json={"token": "x" * 5000}).status_code == 422


def test_every_answer_has_the_headers_for_security(idle: TestClient) -> None:
    for path in ("/", "/docs", "/v1/jobs", "/nothing", "/assets/page.js"):
        headers = idle.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_the_pages_load_nothing_from_elsewhere(idle: TestClient) -> None:
    names = ("page.js", "page.css", "report.css", "slices.js", "numbered.js")
    texts = [idle.get(path).text for path in ("/", "/docs", *(f"/assets/{name}" for name in names))]
    assert all(len(text) > 200 for text in texts)
    assert [text for text in texts if "https://" in text or "http://" in text or "//cdn" in text] == []
    assert "<script>" not in texts[0] and "style=" not in texts[0]


def test_the_description_names_every_request(idle: TestClient) -> None:
    schema = idle.get("/openapi.json").json()
    page = idle.get("/docs").text
    assert {"/v1/jobs", "/v1/jobs/{job_id}/events", "/v1/model", "/metrics", "/health"} <= set(schema["paths"])
    assert all(path in page for path in schema["paths"])
    assert schema["paths"]["/v1/jobs"]["post"]["responses"]["503"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ErrorReply"
    }


def test_state_and_metrics_count_what_happened(client: TestClient) -> None:
    assert client.get("/health").json()["status"] in ("ready", "loading")
    finished(client, send(client).json()["id"])
    finished(client, send(client, b"fail").json()["id"])
    client.get("/v1/jobs/nothing")
    lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['detseg3d_jobs_total{outcome="succeeded"}'] == "1"
    assert values['detseg3d_jobs_total{outcome="failed"}'] == "1"
    assert values['detseg3d_job_seconds_bucket{le="+Inf"}'] == values["detseg3d_job_seconds_count"] == "2"
    assert values['detseg3d_refused_total{status="422"}'] == "1"
    assert values["detseg3d_jobs_kept"] == "2"
    assert client.get("/v1/model").json()["model"]["channels"] == ["FLAIR"]
