"""Training with several processes: real processes on this machine, started by torchrun."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from detseg3d.training.distributed import (
    DistributedContext,
    any_process,
    average_gradients,
    broadcast_from_main,
    join_processes,
)

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
leave_processes(processes)
"""


def torchrun(*arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    completed = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert completed.returncode == 0, completed.stderr[-2000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[list[object]]:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    torchrun(str(folder / "script.py"), str(folder))
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
