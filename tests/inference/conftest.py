"""A predictor with one fold of the tiny model, and its prediction of one scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from tests.scans import make_scan


def load(folder: Path, folds: tuple[int, ...] = (0,), **settings: Any) -> Predictor:
    return Predictor.from_model_folder(folder, folds, LoadOptions(device="cpu", **settings))


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return load(tiny_model)


@pytest.fixture(scope="module")
def result(predictor: Predictor) -> Prediction:
    return predictor.predict_array(make_scan(101)[0], (1.0, 1.0, 1.0), keep_probabilities=True)
