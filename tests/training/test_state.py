"""The state of a training, and its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import Plans
from detseg3d.training.state import LossValues, TrainingProgress, TrainingState
from tests.training.conftest import make_options

PROGRESS = TrainingProgress(
    fraction=0.1 + 0.2,
    epoch=3,
    step=17,
    seconds=12.5,
    validation_seconds=1.5,
    best_metric=0.625,
    sums=LossValues(heatmap=0.1 + 0.2, total=1 / 3),
    steps_summed=2,
)


def begin(plans: Plans, seed: int = 0) -> TrainingState:
    return TrainingState.begin(plans, make_options(seed=seed))


def step(state: TrainingState) -> None:
    """A step of the optimisers that makes all weights smaller."""
    state.model.zero_grad()
    torch.stack([parameter.square().sum() for parameter in state.model.parameters()]).sum().backward()
    for optimizer in state.optimizers:
        optimizer.step()


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture
def checkpoint(tmp_path: Path, plans: Plans) -> Path:
    """The checkpoint of a training with seed 5 after three steps of the optimisers."""
    state = begin(plans, seed=5)
    state.progress = PROGRESS
    for _ in range(3):
        step(state)
    state.save(tmp_path / "c.pt")
    return tmp_path / "c.pt"


def test_a_training_continues_as_if_it_had_not_stopped(tmp_path: Path, plans: Plans) -> None:
    first, second = begin(plans), begin(plans, seed=1)
    for _ in range(3):
        step(first)
    first.save(tmp_path / "c.pt")
    second.load(tmp_path / "c.pt")
    step(first)
    step(second)
    assert torch.equal(weights(first.model), weights(second.model))


def test_the_average_comes_back(checkpoint: Path, plans: Plans) -> None:
    fresh, resumed = begin(plans, seed=5), begin(plans, seed=1)
    resumed.load(checkpoint)
    assert torch.equal(weights(fresh.average), weights(resumed.average))
    assert not torch.equal(weights(resumed.average), weights(resumed.model))


def test_progress_comes_back_to_the_bit(checkpoint: Path, plans: Plans) -> None:
    state = begin(plans)
    state.load(checkpoint)
    assert state.progress == PROGRESS


def test_the_scale_of_half_precision_gradients_comes_back(tmp_path: Path, plans: Plans) -> None:
    first, second = begin(plans), begin(plans)
    first.scaler, second.scaler = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (512.0, 8.0))
    first.save(tmp_path / "c.pt")
    second.load(tmp_path / "c.pt")
    assert second.scaler.state_dict()["scale"] == 512.0


def test_nothing_else_is_written(checkpoint: Path) -> None:
    assert [path.name for path in checkpoint.parent.iterdir()] == ["c.pt"]


def test_another_seed_is_refused(checkpoint: Path, plans: Plans) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        begin(plans).load(checkpoint, seed=6)
    assert (caught.value.file, caught.value.value, caught.value.expected) == (checkpoint, 6, "5")
    assert "--seed 5" in str(caught.value.remedy)


@pytest.mark.parametrize("seed", [None, 5])
def test_the_seed_of_the_checkpoint_is_used(checkpoint: Path, plans: Plans, seed: int | None) -> None:
    state = begin(plans)
    state.load(checkpoint, seed)
    assert state.seed == 5


def assert_refused(plans: Plans, checkpoint: Path) -> DetSeg3DError:
    with pytest.raises(DetSeg3DError) as caught:
        begin(plans).load(checkpoint)
    assert caught.value.file == checkpoint
    assert "--overwrite" in str(caught.value.remedy)
    return caught.value


def test_the_progress_of_another_version_is_refused(checkpoint: Path, plans: Plans) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "progress": {**content["progress"], "of_tomorrow": 1}}, checkpoint)
    assert "of_tomorrow" in assert_refused(plans, checkpoint).problem


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(checkpoint: Path, plans: Plans, fraction: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * fraction)])
    assert_refused(plans, checkpoint)


def test_pickled_code_is_refused(tmp_path: Path, plans: Plans) -> None:
    torch.save({"model": Path}, tmp_path / "c.pt")
    assert_refused(plans, tmp_path / "c.pt")


def test_a_file_with_other_content_is_refused(tmp_path: Path, plans: Plans) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "c.pt")
    assert_refused(plans, tmp_path / "c.pt")


def test_a_checkpoint_of_another_network_is_refused(checkpoint: Path, plans: Plans) -> None:
    assert_refused(plans.evolve(stage2={"channels": (16, 16)}), checkpoint)


def test_a_trial_changes_neither_network_nor_progress(plans: Plans) -> None:
    state = begin(plans)
    before = weights(state.model)
    trial = state.copy_for_trial(plans)
    step(trial)
    trial.progress.step += 1
    assert torch.equal(weights(state.model), before)
    assert not torch.equal(weights(trial.model), before)
    assert state.progress.step == 0


def test_an_epoch_has_the_mean_losses_of_its_steps() -> None:
    progress = TrainingProgress()
    for size in (1.0, 2.0):
        progress.add_losses(LossValues(size=size, total=2 * size))
    assert progress.close_epoch() == LossValues(size=1.5, total=3.0)
    assert (progress.epoch, progress.steps_summed, progress.sums, progress.unvalidated) == (1, 0, LossValues(), True)
