"""A small store, and a training on it that nothing interrupted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from detseg3d.data.case_store import CaseStore
from detseg3d.data.folders import FoldFolder
from detseg3d.planning.plans import Plans
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.state import TrainingProgress
from detseg3d.training.trainer import Trainer
from tests.training.factory import write_store

TRAIN, VAL = ("case0", "case1", "case2"), ("case3",)


@pytest.fixture(scope="module")
def plans(tiny_plans: Plans) -> Plans:
    """Ten steps in four epochs: six on windows, four on whole volumes; a validation at the end.

    A volume has the voxels of three windows or more, so windows get three times the steps of their share.
    """
    curriculum = [{"fraction": 1 / 3, "window": [12, 12, 12]}, {"fraction": 2 / 3, "window": None}]
    return tiny_plans.evolve(
        training={
            "steps": 10,
            "steps_per_epoch": 3,
            "batch_size": 2,
            "max_windows_per_case": 3,
            "val_every": 100,
            "min_rois_per_window": 4,
            "curriculum": curriculum,
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, plans: Plans) -> CaseStore:
    return write_store(tmp_path_factory.mktemp("store"), plans)


class QuickTrainer(Trainer):
    """A trainer that draws no curves: drawing takes longer than these trainings and has its own tests."""

    def draw_curves(self) -> None:
        self.folder.curves.write_text("picture", encoding="utf-8")


def make_options(**settings: Any) -> TrainingOptions:
    """Return options without the check of the precision, which takes as long as such a training."""
    return TrainingOptions(**{"num_workers": 0, "show_progress": False, "check_precision": False, **settings})


def make_trainer(
    plans: Plans,
    store: CaseStore,
    folder: Path,
    kind: type[Trainer] = QuickTrainer,
    val_cases: Sequence[str] = VAL,
    **settings: Any,
) -> Trainer:
    return kind(plans, TrainingData(store, TRAIN, val_cases), FoldFolder(folder), make_options(**settings))


def train(plans: Plans, store: CaseStore, folder: Path, **settings: Any) -> TrainingProgress:
    return make_trainer(plans, store, folder, **settings).run()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, plans: Plans, store: CaseStore) -> Path:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("trained") / "fold_0"
    train(plans, store, folder)
    return folder


def records(folder: Path, kind: str = "epoch") -> list[dict[str, Any]]:
    lines = (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def same_weights(first: Path, second: Path) -> bool:
    return (first / "model_final.safetensors").read_bytes() == (second / "model_final.safetensors").read_bytes()
