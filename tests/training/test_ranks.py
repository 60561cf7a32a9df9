"""Several processes that train together: real processes, started by torchrun, talking over this machine only."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from detseg3d.training.ranks import Ranks, agree, any_of, average_gradients, join_ranks

SCRIPT = """
import json, sys
import torch
from detseg3d.training.ranks import agree, any_of, average_gradients, join_ranks, leave_ranks

ranks, device = join_ranks(torch.device("cpu"))
weight, unused = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
weight.grad = torch.tensor([1.0, 10.0]) * (ranks.rank + 1)
average_gradients([weight, unused], ranks)
result = [ranks.rank, ranks.size, weight.grad.tolist(), unused.grad.tolist(), agree([0.5 + ranks.rank], ranks, device)]
result.append([any_of(ranks.rank == 1, ranks, device), any_of(False, ranks, device)])
open(sys.argv[1] + f"/{ranks.rank}.json", "w").write(json.dumps(result))
leave_ranks(ranks)
"""


def torchrun(*arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[list[object]]:
    folder = tmp_path_factory.mktemp("ranks")
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
    ranks, device = join_ranks(torch.device("cpu"))
    assert (ranks, device) == (Ranks(0, 1), torch.device("cpu"))
    assert ranks.is_main
    parameter = torch.nn.Parameter(torch.zeros(1))
    average_gradients([parameter], ranks)
    assert parameter.grad is None
    assert agree([0.25], ranks, device) == [0.25]
    assert any_of(True, ranks, device) and not any_of(False, ranks, device)


def test_the_others_wait_for_a_long_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _, timeout: waits.append(timeout))
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    assert join_ranks(torch.device("cpu"))[0] == Ranks(1, 2)
    assert waits[0].total_seconds() > 6 * 3600
