from __future__ import annotations

from pathlib import Path

import pytest

import detseg3d
from detseg3d.planning.plans import Plans
from detseg3d.training.options import TrainingOptions
from tests.scans import prepare, write_dataset

pytestmark = pytest.mark.usefixtures("quick_training")


def test_a_data_set_is_planned_by_its_number(tmp_path: Path, tiny_plans: Plans) -> None:
    write_dataset(tmp_path / "raw", tiny_plans)
    options = detseg3d.PrepareOptions(preprocess=False)
    prepared = detseg3d.plan(1, options, raw=tmp_path / "raw", preprocessed=tmp_path / "preprocessed")
    assert prepared.folder == tmp_path / "preprocessed" / "Dataset001_Tiny"
    assert prepared.plans.decisions


def test_a_fold_is_trained_consolidated_and_used(tmp_path: Path, tiny_plans: Plans) -> None:
    raw, results = tmp_path / "raw", tmp_path / "results"
    # The network is hardly trained, so its candidates have low scores.
    inference = {"candidate_threshold": 0.001, "score_threshold": 0.001, "max_candidates": 12, "mirror_axes": ()}
    plans = tiny_plans.evolve(inference=inference)
    prepare(write_dataset(raw, plans), tmp_path / "preprocessed", plans)
    options = TrainingOptions(num_workers=0, show_progress=False)
    detseg3d.train(1, 0, options, raw=raw, preprocessed=tmp_path / "preprocessed", results=results)
    assert (results / "Dataset001_Tiny" / "fold_0" / "model_final.safetensors").is_file()
    consolidated = detseg3d.consolidate(1, raw=raw, results=results)
    assert (results / "Dataset001_Tiny" / "operating_point.json").is_file()
    assert consolidated.predictions.is_dir()
