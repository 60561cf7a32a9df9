from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.planning.plans import Plans
from detseg3d.system.signals import Interruption
from detseg3d.training.sampling import Example
from detseg3d.training.state import LossValues
from detseg3d.training.trainer import Trainer
from detseg3d.training.validation import ValidationResult
from tests.training.conftest import TRAIN, VAL, QuickTrainer, records, same_weights, train


def lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the times, which no two runs share."""
    return {name: value for name, value in record.items() if not name.endswith("seconds")}


def acting_at(actions: Mapping[int, Callable[[], object]]) -> type[Trainer]:
    """A trainer that does something before some of its steps."""

    class Acting(QuickTrainer):
        def step(self, examples: Sequence[Example], mean_lesions: float = 1.0) -> LossValues:
            actions.get(self.progress.step, lambda: None)()
            return super().step(examples, mean_lesions)

    return Acting


def crash() -> NoReturn:
    raise KeyboardInterrupt


def crashing_at(step: int) -> type[Trainer]:
    return acting_at({step: crash})


@pytest.mark.parametrize("step", [4, 6, 9], ids=["within a phase", "at the end of a phase", "in the last epoch"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(plans, store, tmp_path, kind=crashing_at(step))
    torch.manual_seed(123)
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)
    assert [lasting(r) for r in records(tmp_path)] == [lasting(r) for r in records(trained)]


def test_a_new_training_that_dies_at_once_does_not_pass_for_the_earlier_one(
    plans: Plans, store: CaseStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(plans, store, tmp_path)
    assert "replaced" not in caplog.text
    with pytest.raises(KeyboardInterrupt):
        train(plans, store, tmp_path, kind=crashing_at(0))
    assert "the weights of the earlier training are replaced" in caplog.text
    assert not list(tmp_path.glob("model_*.safetensors"))
    train(plans, store, tmp_path, resume=True)
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(("given", "expected"), [(None, 1000.0), (2000.0, 2000.0)])
def test_a_resumed_training_keeps_its_time_limit_unless_given_another(
    plans: Plans,
    store: CaseStore,
    tmp_path: Path,
    given: float | None,
    expected: float,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(plans, store, tmp_path, kind=crashing_at(9), max_minutes=1000.0)
    progress = train(plans, store, tmp_path, resume=True, max_minutes=given)
    assert progress.max_minutes == expected


KILLED = """
import json, os, signal, sys
from pathlib import Path
from detseg3d.data.case_store import CaseStore
from detseg3d.data.folders import FoldFolder
from detseg3d.planning.plans import load_plans
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.trainer import Trainer

class Killed(Trainer):
    def step(self, *arguments):
        if self.progress.step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*arguments)

folder = Path(sys.argv[1])
data = TrainingData(CaseStore(sys.argv[2]), {train!r}, {val!r})
options = TrainingOptions(show_progress=False)
Killed(load_plans(folder / "plans.json"), data, FoldFolder(folder / "fold_0"), options).run()
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


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (0, signal.SIGTERM),
        (2, signal.SIGTERM),
        (4, signal.SIGINT),
        (5, signal.SIGTERM),
        (8, signal.SIGTERM),
        (9, signal.SIGTERM),
    ],
    ids=["first step", "end of an epoch", "within an epoch", "end of a phase", "whole volumes", "last step"],
)
def test_a_signal_leaves_the_checkpoint_of_the_step_it_came_in(
    trained: Path,
    plans: Plans,
    store: CaseStore,
    tmp_path: Path,
    step: int,
    number: signal.Signals,
) -> None:
    interrupted = acting_at({step: functools.partial(signal.raise_signal, number)})
    with pytest.raises(Interruption, match=number.name):
        train(plans, store, tmp_path, kind=interrupted)
    checkpoint = torch.load(tmp_path / "checkpoint_latest.pt", weights_only=True)
    assert checkpoint["progress"]["step"] == step + 1
    torch.manual_seed(123)
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)
    for kind in ("epoch", "validation"):
        assert [lasting(r) for r in records(tmp_path, kind)] == [lasting(r) for r in records(trained, kind)]


@pytest.mark.parametrize("moment", ["before", "after its record"])
def test_a_training_stopped_while_it_validates_validates_again(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path, moment: str
) -> None:
    class Crashing(QuickTrainer):
        def validate(self) -> ValidationResult:
            return super().validate() if moment == "after its record" else crash()

        def draw_curves(self) -> None:
            crash()

    with pytest.raises(KeyboardInterrupt):
        train(plans, store, tmp_path, kind=Crashing)
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)
    assert (tmp_path / "model_best.safetensors").read_bytes() == (trained / "model_best.safetensors").read_bytes()
    for kind in ("epoch", "validation"):
        assert [lasting(r) for r in records(tmp_path, kind)] == [lasting(r) for r in records(trained, kind)]


def test_a_long_epoch_is_saved_on_its_way(trained: Path, plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(plans, store, tmp_path, kind=crashing_at(2), seconds_between_checkpoints=0.0)
    assert torch.load(tmp_path / "checkpoint_latest.pt", weights_only=True)["progress"]["step"] == 2
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)


def test_a_process_that_prepares_windows_leaves_signals_to_the_training(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal and many schedulers signal all processes of a job, the training perhaps last."""
    others = set(multiprocessing.active_children())  # of other tests in this process

    def signal_children() -> None:
        for process in set(multiprocessing.active_children()) - others:
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(process.pid or 0, number)

    # Step 8 comes after all windows that were prepared in advance: the training needs the children after the signals.
    interrupted = acting_at({1: signal_children, 8: functools.partial(signal.raise_signal, signal.SIGTERM)})
    with pytest.raises(Interruption):
        train(plans, store, tmp_path, kind=interrupted, num_workers=1)
    assert torch.load(tmp_path / "checkpoint_latest.pt", weights_only=True)["progress"]["step"] == 9
    assert set(multiprocessing.active_children()) <= others
    train(plans, store, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the library's own thread
def test_a_killed_process_that_prepares_windows_is_an_error(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    others = set(multiprocessing.active_children())  # of other tests in this process

    def kill_all() -> None:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()

    with pytest.raises(DetSeg3DError) as caught:
        train(plans, store, tmp_path, kind=acting_at({1: kill_all}), num_workers=1)
    assert "process" in caught.value.problem and "--num_workers 0" in str(caught.value.remedy)


def test_resuming_a_finished_training_changes_nothing(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("checkpoint_latest.pt", "training_log.jsonl", "model_best.safetensors", "plans.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    train(plans.evolve(training={"steps": 99}), store, tmp_path, resume=True)
    assert "this training is finished" in caplog.text
    assert (tmp_path / "plans.json").read_bytes() == (trained / "plans.json").read_bytes()
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
    with pytest.raises(DetSeg3DError) as caught:
        train(wider, store, tmp_path, resume=True)
    assert caught.value.file == tmp_path / "checkpoint_latest.pt"
