"""A predictor with one fold of the tiny model and what it finds in one scan; the model as it is handed on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import CasePrediction
from detseg3d.pipeline.exchange import export_model
from tests.scans import make_scan
from tests.shared_models import complete_model


def load(folder: Path, folds: tuple[int, ...] = (0,), **settings: Any) -> Predictor:
    return Predictor.from_model_folder(folder, folds, device="cpu", **settings)


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return load(tiny_model)


@pytest.fixture(scope="module")
def result(predictor: Predictor) -> CasePrediction:
    return predictor.predict_array(make_scan(101)[0], (1.0, 1.0, 1.0), keep_probabilities=True)


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
