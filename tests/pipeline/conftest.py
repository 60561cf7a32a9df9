"""A complete trained model, and the same model as one file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from detseg3d.pipeline.exchange import export_model
from tests.shared_models import complete_model


@pytest.fixture(scope="session")
def whole_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all that training and consolidation leave; read it only."""
    return complete_model(tmp_path_factory.mktemp("theirs") / "Dataset001_Tiny", tiny_model)


@pytest.fixture(scope="session")
def archive(whole_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as one file."""
    path = tmp_path_factory.mktemp("archive") / "model.zip"
    export_model(whole_model, path)
    return path


@pytest.fixture
def own_model(whole_model: Path, tmp_path: Path) -> Path:
    """A copy of the model to change, alone in its folder."""
    return Path(shutil.copytree(whole_model, tmp_path / "own" / whole_model.name))
