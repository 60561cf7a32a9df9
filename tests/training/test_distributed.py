"""Training with several processes: real processes on this machine, started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from detseg3d.core.precision import Precision
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.system.device import compute_in
from detseg3d.training.distributed import (
    DistributedContext,
    any_process,
    average_gradients,
    broadcast_from_main,
    join_processes,
)
from tests.training.factory import write_store

SCRIPT = """
import json, sys
import torch
from detseg3d.training.distributed import any_process, average_gradients, broadcast_from_main
from detseg3d.training.distributed import join_processes, leave_processes

processes, device = join_processes(torch.device("cpu"))
weight, unused = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
weight.grad = torch.tensor([1.0, 10.0]) * (processes.rank + 1)
average_gradients([weight, unused], processes)
shared = broadcast_from_main([0.5 + processes.rank], processes, device)
result = [processes.rank, processes.size, weight.grad.tolist(), unused.grad.tolist(), shared]
result.append([any_process(processes.rank == 1, processes, device), any_process(False, processes, device)])
open(sys.argv[1] + f"/{processes.rank}.json", "w").write(json.dumps(result))

from pathlib import Path
from tests.training.test_distributed import train

train(Path(sys.argv[1]), "two_processes", processes, steps=4, batch_size=1)
leave_processes(processes)
"""


def train(root: Path, name: str, processes: DistributedContext, steps: int, batch_size: int) -> Path:
    """Train on whole volumes of the store in ``root``, each volume a batch of its own."""
    from detseg3d.data.case_store import CaseStore
    from detseg3d.data.folders import FoldFolder
    from detseg3d.planning.plans import load_plans
    from detseg3d.training.options import TrainingData
    from tests.training.conftest import QuickTrainer, make_options

    torch.set_num_threads(1)
    settings = {"steps": steps, "batch_size": batch_size, "precision": "fp32", "val_every": 100}
    plans = load_plans(root / "plans.json").evolve(training=settings)
    compute_in(torch.device("cpu"), Precision.FP32)
    options = make_options(distributed=processes, max_batch_voxels=0)
    store = CaseStore(root / "store")
    QuickTrainer(plans, TrainingData(store, store.case_ids()), FoldFolder(root / name), options).run()
    return root / name / "model_final.safetensors"


def torchrun(*arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert completed.returncode == 0, completed.stderr[-2000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Return the folder into which two processes have written their results and a trained network."""
    folder = tmp_path_factory.mktemp("processes")
    write_store(folder / "store", tiny_plans)
    curriculum = [{"fraction": 1.0, "window": None}]
    save_plans(tiny_plans.evolve(training={"curriculum": curriculum, "steps_per_epoch": 100}), folder / "plans.json")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    torchrun(str(folder / "script.py"), str(folder))
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[list[object]]:
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def test_each_process_knows_its_number(results: list[list[object]]) -> None:
    assert [result[:2] for result in results] == [[0, 2], [1, 2]]


def test_gradients_are_averaged_in_all_processes(results: list[list[object]]) -> None:
    assert [result[2] for result in results] == [[1.5, 15.0]] * 2


def test_a_parameter_without_gradient_counts_as_zero(results: list[list[object]]) -> None:
    assert [result[3] for result in results] == [[0.0, 0.0, 0.0]] * 2


def test_the_main_process_sets_the_clock(results: list[list[object]]) -> None:
    assert [result[4] for result in results] == [[0.5]] * 2


def test_what_one_process_finds_holds_for_all(results: list[list[object]]) -> None:
    assert [result[5] for result in results] == [[True, False]] * 2


def test_two_processes_train_the_network_of_one_process_with_the_same_volumes_in_each_step(folder: Path) -> None:
    """Two steps with two volumes each; the gradients are averaged over the processes or over the batch."""
    threads = torch.get_num_threads()
    try:
        one = load_file(train(folder, "one_process", DistributedContext(), steps=2, batch_size=2))
    finally:
        torch.set_num_threads(threads)
    two = load_file(folder / "two_processes" / "model_final.safetensors")
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_a_process_alone_joins_nobody() -> None:
    processes, device = join_processes(torch.device("cpu"))
    assert (processes, device) == (DistributedContext(0, 1), torch.device("cpu"))
    assert processes.is_main
    parameter = torch.nn.Parameter(torch.zeros(1))
    average_gradients([parameter], processes)
    assert parameter.grad is None
    assert broadcast_from_main([0.25], processes, device) == [0.25]
    assert any_process(True, processes, device) and not any_process(False, processes, device)


def test_the_others_wait_for_a_long_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _, timeout: waits.append(timeout))
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    assert join_processes(torch.device("cpu"))[0] == DistributedContext(1, 2)
    assert waits[0].total_seconds() > 6 * 3600
