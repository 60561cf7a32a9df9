from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.training.optimizer import Muon
from detseg3d.training.state import Progress, load_checkpoint, save_checkpoint

PROGRESS = Progress(fraction=0.1 + 0.2, epoch=3, step=17, seconds=12.5, validation_seconds=1.5, best_metric=0.625)


class Training:
    """A linear layer that has made ``steps`` steps of optimisers with momentum."""

    def __init__(self, seed: int, steps: int = 0, inputs: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(inputs, 2)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = [
            torch.optim.AdamW([self.model.bias], lr=0.1),
            Muon([self.model.weight], lr=0.1),
        ]
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.model.zero_grad()
        self.model(torch.ones(1, self.model.in_features)).square().sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def save(self, path: Path, seed: int = 5) -> None:
        save_checkpoint(path, self.model, self.average, self.optimizers, None, PROGRESS, seed)

    def load(self, path: Path, seed: int = 5) -> Progress:
        return load_checkpoint(path, self.model, self.average, self.optimizers, None, seed)[0]


def test_a_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    first, second = Training(0, steps=3), Training(1)
    first.save(tmp_path / "c.pt")
    second.load(tmp_path / "c.pt")
    first.step()
    second.step()
    assert torch.equal(first.model.weight, second.model.weight)


def test_the_average_comes_back(tmp_path: Path) -> None:
    first, second = Training(0, steps=3), Training(1)
    first.save(tmp_path / "c.pt")
    second.load(tmp_path / "c.pt")
    assert torch.equal(first.average.weight, second.average.weight)
    assert not torch.equal(second.average.weight, second.model.weight)


def test_progress_comes_back_to_the_bit(tmp_path: Path) -> None:
    training = Training(0)
    training.save(tmp_path / "c.pt")
    assert training.load(tmp_path / "c.pt") == PROGRESS


def test_the_scale_of_half_precision_gradients_comes_back(tmp_path: Path) -> None:
    training = Training(0)
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (512.0, 8.0)]
    save_checkpoint(
        tmp_path / "c.pt", training.model, training.average, training.optimizers, scalers[0], PROGRESS, seed=5
    )
    load_checkpoint(tmp_path / "c.pt", training.model, training.average, training.optimizers, scalers[1], seed=5)
    assert scalers[1].state_dict()["scale"] == 512.0


def test_nothing_else_is_written(tmp_path: Path) -> None:
    Training(0).save(tmp_path / "c.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_another_seed_is_refused(tmp_path: Path) -> None:
    Training(0).save(tmp_path / "c.pt", seed=5)
    with pytest.raises(DetSeg3DError, match=r"(?s)another seed.*found: +6.*expected: 5.*resume with --seed 5"):
        Training(0).load(tmp_path / "c.pt", seed=6)


def test_without_a_seed_that_of_the_checkpoint_is_taken(tmp_path: Path) -> None:
    training = Training(0)
    training.save(tmp_path / "c.pt", seed=5)
    loaded = load_checkpoint(tmp_path / "c.pt", training.model, training.average, training.optimizers, None)
    assert loaded == (PROGRESS, 5)


def test_progress_of_another_version_is_refused(tmp_path: Path) -> None:
    training = Training(0)
    training.save(tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    torch.save({**state, "progress": {**state["progress"], "of_tomorrow": 1}}, tmp_path / "c.pt")
    with pytest.raises(DetSeg3DError, match=r"(?s)does not fit.*of_tomorrow.*c\.pt.*anew with --overwrite"):
        training.load(tmp_path / "c.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.pt"
    Training(0).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DetSeg3DError, match=r"(?s)the checkpoint cannot be read.*c\.pt.*anew with --overwrite"):
        Training(0).load(path)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path}, tmp_path / "c.pt")
    with pytest.raises(DetSeg3DError, match="the checkpoint cannot be read"):
        Training(0).load(tmp_path / "c.pt")


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "c.pt")
    with pytest.raises(DetSeg3DError, match="the checkpoint cannot be read"):
        Training(0).load(tmp_path / "c.pt")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    Training(0, inputs=4).save(tmp_path / "c.pt")
    with pytest.raises(DetSeg3DError, match=r"(?s)does not fit the plans.*anew with --overwrite"):
        Training(0).load(tmp_path / "c.pt")
