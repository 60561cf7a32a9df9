"""The same seed gives the same files, byte by byte, on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import train
from detseg3d.planning.plans import Plans
from tests.integration.reliability.commands import finish, lasting, start
from tests.scans import prepare, write_dataset


@pytest.fixture
def roots(tmp_path: Path, tiny_plans: Plans) -> list[str]:
    raw = write_dataset(tmp_path / "raw", tiny_plans)
    prepare(raw, tmp_path / "preprocessed", tiny_plans)
    return ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "preprocessed")]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_training")
def test_the_seed_decides_what_a_training_gives(tmp_path: Path, roots: list[str]) -> None:
    words = ["1", "0", *roots, "--epochs", "2", "-device", "cpu", "--shifted_scans", "0"]
    # Another process has another order of hashes and other addresses; another number of workers, another timing.
    fresh = start("train", *words, "--seed", "3", "--results", tmp_path / "fresh", "--num_workers", "0")
    for name, seed, workers in (("here", "3", "1"), ("other", "4", "0")):
        own = ["--seed", seed, "--num_workers", workers, "--results", str(tmp_path / name)]
        assert train.main([*words, *own, "--no_progress"]) == 0
    finish(fresh)
    here, there, other = (lasting(tmp_path / name) for name in ("here", "fresh", "other"))
    assert here == there
    weights = "Dataset001_Tiny/fold_0/model_final.safetensors"
    assert here[weights] != other[weights]
