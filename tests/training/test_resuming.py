from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.case_store import CaseStore
from detseg3d.planning.plans import Plans
from detseg3d.training import trainer
from tests.training.conftest import TRAIN, VAL, records, same_weights, train

pytestmark = pytest.mark.usefixtures("no_picture")


def lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the times, which no two runs share."""
    return {name: value for name, value in record.items() if not name.endswith("seconds")}


def interrupt_at(step: int) -> Callable[..., dict[str, float]]:
    original = trainer._train_step

    def run(*arguments: Any) -> dict[str, float]:
        if arguments[4] == step:
            raise KeyboardInterrupt
        return original(*arguments)

    return run


@pytest.mark.parametrize("step", [4, 6, 9], ids=["within a phase", "at the end of a phase", "in the last epoch"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_train_step", interrupt_at(step))
        with pytest.raises(KeyboardInterrupt):
            train(plans, store, tmp_path)
    torch.manual_seed(123)
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)
    assert [lasting(r) for r in records(tmp_path)] == [lasting(r) for r in records(trained)]


KILLED = """
import json, os, signal, sys
from pathlib import Path
from detseg3d.io.case_store import CaseStore
from detseg3d.planning.plans import load_plans
from detseg3d.training import trainer
original = trainer._train_step
def die(*arguments):
    if arguments[4] == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
trainer._train_step = die
folder = Path(sys.argv[1])
options = trainer.TrainingOptions(num_workers=0, progress=False)
trainer.train_fold(
    load_plans(folder / "plans.json"), CaseStore(sys.argv[2]), {train!r}, {val!r}, folder / "fold_0", options
)
""".replace("{train!r}", repr(TRAIN)).replace("{val!r}", repr(VAL))


def test_a_killed_training_resumes_to_the_same_weights(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    (tmp_path / "plans.json").write_text(plans.model_dump_json(), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(store.folder)]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(records(tmp_path / "fold_0")) == 2
    train(plans, store, tmp_path / "fold_0", resume=True)
    assert same_weights(trained, tmp_path / "fold_0")


def test_resuming_a_finished_training_changes_nothing(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    for name in ("checkpoint_latest.pt", "training_log.jsonl", "model_best.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)
    assert (tmp_path / "training_log.jsonl").read_bytes() == (trained / "training_log.jsonl").read_bytes()


def test_resuming_without_a_checkpoint_starts(trained: Path, plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)


def test_resuming_with_another_network_is_refused(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint_latest.pt").write_bytes((trained / "checkpoint_latest.pt").read_bytes())
    wider = plans.evolve(stage2={"channels": (16, 16)})
    with pytest.raises(DetSeg3DError, match="does not fit the plans"):
        train(wider, store, tmp_path, resume=True)
