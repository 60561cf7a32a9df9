"""A worker process with the shared tiny model, a scan for it, and a folder to watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.model_source import ModelSource
from detseg3d.serving.model import ServedModel
from detseg3d.serving.worker import ModelWorker
from tests.scans import make_scan
from tests.serving.fakes import FakeSource


@pytest.fixture(scope="session")
def source(tiny_model: Path) -> ServedModel:
    return ServedModel(ModelSource(tiny_model, ("0",), LoadOptions(device="cpu", use_mirroring=False)))


@pytest.fixture(scope="session")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image, _ = make_scan(77)
    path = tmp_path_factory.mktemp("scan") / "brain.nii.gz"
    write_image(image, Geometry(image.shape), path)
    return path


@pytest.fixture(scope="session")
def real_worker(source: ServedModel) -> Iterator[ModelWorker]:
    """A worker with the tiny model. Its start takes seconds, so the tests share it."""
    with ModelWorker(source) as worker:
        worker.start()
        yield worker


@pytest.fixture(scope="module")
def fake_worker() -> Iterator[ModelWorker]:
    """A worker that starts within a fraction of a second."""
    with ModelWorker(FakeSource()) as worker:
        worker.start()
        yield worker


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """An empty folder to watch."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder
