"""Addresses of clusters and errors before any worker runs; ``tests/integration/test_cluster.py`` has real workers."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.version import __version__
from detseg3d.system.cluster import ClusterRequest, opened_cluster
from detseg3d.system.cluster_task import Conditions, FolderCheck, python_version, run_task


def error_of(address: str) -> DetSeg3DError:
    with pytest.raises(DetSeg3DError) as caught, opened_cluster(ClusterRequest(address)):
        pass
    return caught.value


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait ten seconds for a scheduler."""
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setattr("detseg3d.system.cluster._SECONDS_TO_CONNECT", 0.3)


@pytest.mark.parametrize("address", ["local:0", "local:", "local:two", "http://host:8786"])
def test_an_address_of_another_form_is_refused(quick: None, address: str) -> None:
    assert error_of(address).value == address


def test_a_missing_scheduler_file_is_named(quick: None, tmp_path: Path) -> None:
    assert error_of(str(tmp_path / "scheduler.json")).file == tmp_path / "scheduler.json"


@pytest.mark.parametrize("content", [[], {}, {"address": 3}, {"address": "file:///etc/passwd"}])
def test_a_file_without_an_address_is_refused(quick: None, tmp_path: Path, content: object) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert error_of(str(file)).file == file


def test_a_scheduler_that_has_ended_is_an_error_within_seconds(quick: None, tmp_path: Path) -> None:
    file, address = tmp_path / "scheduler.json", "tcp://127.0.0.1:9"
    file.write_text(json.dumps({"address": address}), encoding="utf-8")
    start = time.monotonic()
    error = error_of(str(file))
    assert (error.file, error.value) == (file, address)
    assert time.monotonic() - start < 10


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    error = error_of("local:1")
    assert error.remedy is not None and "detseg3d[cluster]" in error.remedy


def conditions(folder: Path, **changes: object) -> Conditions:
    fields = {"version": __version__, "python": python_version(), "folder": str(folder), **changes}
    return Conditions(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"version": "0.0.1"}, {"python": "2.7"}])
def test_a_worker_of_another_version_refuses_the_case_and_names_both(tmp_path: Path, changes: dict[str, str]) -> None:
    refusal = run_task(conditions(tmp_path, **changes), abs, -1).refusal
    assert refusal is not None and refusal.expected is not None
    assert next(iter(changes.values())) in refusal.expected
    assert __version__ in str(refusal.value) and python_version() in str(refusal.value)


def test_a_worker_that_may_not_write_refuses_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    marker.touch()
    monkeypatch.setattr("os.access", lambda *_: False)
    refusal = run_task(conditions(tmp_path, checks=(FolderCheck(str(tmp_path), str(marker)),)), abs, -1).refusal
    assert refusal is not None and refusal.file == tmp_path


def test_a_worker_without_the_current_folder_of_the_command_refuses_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    limits: list[int] = []
    monkeypatch.setattr("detseg3d.system.cluster_task.limit_threads", limits.append)
    refusal = run_task(conditions(tmp_path / "missing"), abs, -1).refusal
    assert refusal is not None and refusal.file == tmp_path / "missing"
    assert limits == [3]
