"""The loop of the training, one step of it, and a time limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.data.folders import FoldFolder
from detseg3d.evaluation.metrics import DetectionCounts
from detseg3d.models import detseg
from detseg3d.models.weights import save_weights
from detseg3d.planning.plans import Plans, load_plans, save_plans
from detseg3d.training.options import TrainingData
from detseg3d.training.sampling import CaseTable, Example, SamplingOptions, WindowSampler
from detseg3d.training.state import TrainingState
from detseg3d.training.trainer import Trainer
from detseg3d.training.validation import ValidationResult
from tests.training.conftest import VAL, QuickTrainer, make_options, make_trainer, records, same_weights, train
from tests.training.factory import write_case

# -- The loop ----------------------------------------------------------------------------------------------------------


def test_a_training_writes_the_files_of_its_fold(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "checkpoint_latest.pt",
        "model_best.safetensors",
        "model_final.safetensors",
        "plans.json",
        "progress.png",
        "training_log.jsonl",
    ]


def test_the_plans_are_stored_beside_the_weights(trained: Path, plans: Plans) -> None:
    stored = load_plans(trained / "plans.json")
    assert stored.training.precision_used is not None
    assert stored.evolve(training={"precision_used": None}) == plans


def test_epochs_pass_through_the_curriculum(trained: Path) -> None:
    assert [(r["epoch"], r["step"], r["phase"]) for r in records(trained)] == [
        (1, 3, "windows 12×12×12"),
        (2, 6, "windows 12×12×12"),
        (3, 9, "whole volumes"),
        (4, 10, "whole volumes"),
    ]


def test_the_learning_rate_ends_low(trained: Path, plans: Plans) -> None:
    rates = [record["learning_rate"] for record in records(trained)]
    assert rates == sorted(rates, reverse=True)
    # The last step begins at 5/6 of the training, 2 % of which is warm-up.
    position = (5 / 6 - 0.02) / 0.98
    expected = plans.training.learning_rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * position)))
    assert rates[-1] == pytest.approx(expected)


def test_the_parts_of_the_loss_are_logged_and_add_up(trained: Path) -> None:
    weight = load_plans(trained / "plans.json").training.score_loss_weight
    for record in records(trained):
        losses = dict(record["losses"])
        total = losses.pop("total")
        assert set(losses) == {"heatmap", "size", "offset", "dense", "segmentation", "roi_score"}
        assert total == pytest.approx(sum(losses.values()) - (1 - weight) * losses["roi_score"], rel=1e-4)


def test_the_end_is_validated(trained: Path) -> None:
    [record] = records(trained, "validation")
    assert record["epoch"] == 4
    assert set(record) >= {"f1_iou_0.1", "recall_iou_0.1", "precision_iou_0.1", "f1_any", "dice", "stage1_recall"}


def test_the_curves_are_drawn_as_a_picture(plans: Plans, trained: Path, tmp_path: Path, store: CaseStore) -> None:
    (tmp_path / "training_log.jsonl").write_bytes((trained / "training_log.jsonl").read_bytes())
    make_trainer(plans, store, tmp_path, kind=Trainer).draw_curves()
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_learns(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    curriculum = [{"fraction": 1, "window": [16, 16, 16]}]
    longer = plans.evolve(training={"steps": 30, "steps_per_epoch": 6, "curriculum": curriculum})
    train(longer, store, tmp_path, val_cases=())
    losses = [record["losses"]["total"] for record in records(tmp_path)]
    assert losses[-1] < 0.95 * losses[0]


def test_the_seed_determines_the_weights(trained: Path, plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    torch.manual_seed(99)
    train(plans, store, tmp_path)
    assert same_weights(trained, tmp_path)


def test_another_seed_gives_other_weights(trained: Path, plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    train(plans, store, tmp_path, seed=1)
    assert not same_weights(trained, tmp_path)


def test_workers_change_nothing(trained: Path, plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    train(plans, store, tmp_path, num_workers=2)
    assert same_weights(trained, tmp_path)


def test_a_fold_without_training_case_is_refused(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        Trainer(plans, TrainingData(store, (), VAL), FoldFolder(tmp_path))
    assert caught.value.file == tmp_path
    assert "splits_final.json" in str(caught.value.remedy)


def test_pretrained_weights_are_the_start(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = detseg.DetSeg3D(plans)
    save_weights(model, tmp_path / "start.safetensors")
    save_plans(plans, tmp_path / "plans.json")
    state = TrainingState.begin(plans, make_options(pretrained_weights=tmp_path / "start.safetensors"))
    for name, value in model.state_dict().items():
        assert torch.equal(state.model.state_dict()[name], value), name
        assert torch.equal(state.average.state_dict()[name], value), name


# -- The best model ----------------------------------------------------------------------------------------------------


def validating_with(scores: list[float]) -> type[Trainer]:
    """A trainer whose validations have these F1."""
    left = iter(scores)

    class Validated(QuickTrainer):
        def validate(self) -> ValidationResult:
            # At any overlap every lesion is found: the best model must not be chosen by this.
            hits = round(100 * next(left))
            return ValidationResult(
                DetectionCounts(100, hits, 100, hits), DetectionCounts(100, 100, 100, 100), 0.0, 0.0
            )

    return Validated


@pytest.mark.parametrize(("scores", "best_is_last"), [([0.1, 0.6, 0.3, 0.2], False), ([0.1, 0.2, 0.2, 0.3], True)])
def test_the_best_model_has_the_highest_f1_of_matched_lesions(
    plans: Plans, store: CaseStore, tmp_path: Path, scores: list[float], best_is_last: bool
) -> None:
    train(plans.evolve(training={"val_every": 1}), store, tmp_path, kind=validating_with(scores))
    best, final = ((tmp_path / f"model_{name}.safetensors").read_bytes() for name in ("best", "final"))
    assert (best == final) == best_is_last


def test_without_validation_cases_the_final_model_is_the_best(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    (tmp_path / "model_best.safetensors").write_text("of an earlier training", encoding="utf-8")
    train(plans, store, tmp_path, val_cases=())
    best, final = ((tmp_path / f"model_{name}.safetensors").read_bytes() for name in ("best", "final"))
    assert best == final


def test_a_picture_that_cannot_be_drawn_does_not_stop_the_training(
    plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    class WithoutSpace(Trainer):
        def draw_curves(self) -> None:
            raise DetSeg3DError("the file cannot be written: No space left on device")

    train(plans, store, tmp_path, kind=WithoutSpace)
    assert (tmp_path / "model_final.safetensors").exists()


# -- One step ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer(plans: Plans, store: CaseStore, tmp_path: Path) -> Trainer:
    """A trainer before its first step."""
    return make_trainer(plans, store, tmp_path)


def at_step(trainer: Trainer, step: int) -> Trainer:
    trainer.progress.step = step
    return trainer


@pytest.mark.parametrize(
    ("step", "weight"),
    [(1, 0.9), (9, 0.5), (81, 0.1), (10_000, 0.002)],  # 1 - min(0.998, step / (9 + step))
)
def test_the_average_moves_towards_the_model(plans: Plans, step: int, weight: float) -> None:
    state = TrainingState.begin(plans, make_options())
    state.progress.step = step
    with torch.no_grad():
        for own, averaged in zip(state.model.parameters(), state.average.parameters(), strict=True):
            own.fill_(1.0)
            averaged.fill_(0.0)
    state.update_average(0.998, 1e-5)
    for averaged in state.average.parameters():
        torch.testing.assert_close(averaged, torch.full_like(averaged, weight))


def test_the_average_takes_no_gradient(plans: Plans) -> None:
    state = TrainingState.begin(plans, make_options())
    assert not any(parameter.requires_grad for parameter in state.average.parameters())
    assert all(parameter.requires_grad for parameter in state.model.parameters())


def make_example(store: CaseStore, case_id: str = "case0", window: tuple[int, int, int] | None = None) -> Example:
    return WindowSampler(store, CaseTable(store, [case_id]), SamplingOptions((1.0, 1.0, 1.0), window)).example(0)


def weights_of(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.state.model.parameters()]


def has_weights(trainer: Trainer, weights: list[torch.Tensor]) -> bool:
    return all(torch.equal(old, new) for old, new in zip(weights, trainer.state.model.parameters(), strict=True))


def test_a_step_on_a_scan_without_lesions_is_finite(plans: Plans, tmp_path: Path, trainer: Trainer) -> None:
    store = CaseStore(tmp_path)
    write_case(store, "healthy", plans, lesions=())
    losses = trainer.step([make_example(store, "healthy")])
    assert np.isfinite(losses.total) and losses.size == losses.offset == 0
    assert all(bool(torch.isfinite(weight).all()) for weight in weights_of(trainer))


def test_a_step_moves_the_weights_and_leaves_the_progress(store: CaseStore, trainer: Trainer) -> None:
    before = weights_of(trainer)
    trainer.step([make_example(store)])
    assert not has_weights(trainer, before)
    assert (trainer.progress.step, trainer.progress.fraction) == (0, 0.0)


def batch_sizes(trainer: Trainer, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of windows that the network sees together in a step."""
    sizes = []
    original = trainer.state.model.losses

    def losses(image: torch.Tensor, *arguments: Any) -> detseg.Losses:
        sizes.append(len(image))
        return original(image, *arguments)

    monkeypatch.setattr(trainer.state.model, "losses", losses)
    trainer.step(examples)
    return sizes


@pytest.mark.parametrize(
    ("windows", "max_voxels", "expected"),
    [
        (((8, 8, 8), (8, 8, 8)), 8**3, [2]),
        (((8, 8, 8), None), 128**3, [1, 1]),
        (((8, 8, 8), (8, 8, 8)), 8**3 - 1, [1, 1]),
    ],
    ids=["small windows of one shape", "different shapes", "large windows"],
)
def test_only_small_windows_of_one_shape_run_together(
    plans: Plans,
    store: CaseStore,
    tmp_path: Path,
    windows: tuple[tuple[int, int, int] | None, ...],
    max_voxels: int,
    expected: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer(plans, store, tmp_path, max_batch_voxels=max_voxels)
    examples = [make_example(store, window=window) for window in windows]
    assert batch_sizes(trainer, examples, monkeypatch) == expected


def test_a_batch_in_parts_has_the_mean_of_losses_and_gradients(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    """The same volume twice, one by one, is as good as once. Only the heatmap's bias: the RoIs are drawn again."""
    example = make_example(store)
    patient = plans.evolve(training={"gradient_clip": 1e9})
    losses, gradients = [], []
    for batch in ([example, example], [example]):
        trainer = make_trainer(patient, store, tmp_path, max_batch_voxels=0)
        losses.append(trainer.step(batch).heatmap)
        bias = trainer.state.model.detector.heads[0].heatmap.bias
        assert bias is not None and bias.grad is not None
        gradients.append(float(bias.grad))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-3)


def test_a_lesion_weighs_the_same_in_every_window(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    """Sums over lesions are divided by the average number of lesions in a window, not by the number in this window."""
    example = make_example(store)
    few, many = (make_trainer(plans, store, tmp_path).step([example], mean_lesions=count) for count in (1.0, 4.0))
    for name in ("heatmap", "size", "offset"):
        assert getattr(few, name) == pytest.approx(4 * getattr(many, name), rel=1e-5)
    assert few.segmentation == pytest.approx(many.segmentation, rel=1e-5)


def test_a_loss_that_is_not_finite_names_its_parts_and_changes_no_weight(store: CaseStore, trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.state.model.detector.heads[0].regression.bias[0] = float("inf")
    before = trainer.state.model.detector.heads[0].heatmap.weight.clone()
    with pytest.raises(DetSeg3DError) as caught:
        at_step(trainer, 3).step([make_example(store)])
    assert "loss" in caught.value.problem and "step 3" in caught.value.problem and "case0" in caught.value.problem
    assert "heatmap" in str(caught.value.value) and "size inf" in str(caught.value.value)
    assert torch.equal(trainer.state.model.detector.heads[0].heatmap.weight, before)


def test_a_gradient_that_is_not_finite_names_the_cases_and_changes_no_weight(
    store: CaseStore, trainer: Trainer
) -> None:
    before = weights_of(trainer)
    next(trainer.state.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DetSeg3DError) as caught:
        at_step(trainer, 3).step([make_example(store)])
    assert "gradient" in caught.value.problem and "case0" in caught.value.problem
    assert has_weights(trainer, before)


def test_gradients_are_clipped(plans: Plans, store: CaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(plans.evolve(training={"gradient_clip": 1e-3}), store, tmp_path)
    seen: list[float] = []

    def remember(*arguments: Any, **settings: Any) -> None:
        squares = [p.grad.double().square().sum() for p in trainer.state.model.parameters() if p.grad is not None]
        seen.append(float(torch.stack(squares).sum().sqrt()))

    monkeypatch.setattr(trainer.state.optimizers[0], "step", remember)
    trainer.step([make_example(store)])
    assert seen == [pytest.approx(1e-3, rel=1e-2)]


def test_scaled_gradients_give_the_same_step(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    """As in float16 on a GPU: both optimisers see the gradients without the scale."""
    plain, scaled = (make_trainer(plans, store, tmp_path) for _ in range(2))
    scaled.state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for trainer in (plain, scaled):
        trainer.step([make_example(store)])
    for first, second in zip(weights_of(plain), weights_of(scaled), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["detector.heads.0.heatmap.weight", "detector.stages.0.0.0.weight"])
def test_an_overflow_moves_no_weight_and_lowers_the_scale(store: CaseStore, trainer: Trainer, name: str) -> None:
    """In a weight of AdamW or of Muon: the other optimiser must not step alone."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.state.scaler = scaler
    trainer.state.model.get_parameter(name).register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    before = weights_of(trainer)
    trainer.step([make_example(store)])
    assert has_weights(trainer, before)
    assert scaler.get_scale() == 512.0


# -- A time limit ------------------------------------------------------------------------------------------------------


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that advances by ``seconds`` at every look, however fast the machine is."""
    ticks = itertools.count()
    return lambda: next(ticks) * seconds


def test_a_time_limit_ends_the_training_and_visits_every_phase(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    curriculum = [
        {"fraction": 0.4, "window": [8, 8, 8]},
        {"fraction": 0.3, "window": [12, 12, 12]},
        {"fraction": 0.3, "window": None},
    ]
    endless = plans.evolve(training={"steps": 100_000, "curriculum": curriculum})
    progress = train(endless, store, tmp_path, max_minutes=0.05, clock=ticking(1 / 10))
    assert 3.0 <= progress.seconds < 3.3  # a step and the last validation come on top
    assert list(dict.fromkeys(record["phase"] for record in records(tmp_path))) == [
        "windows 8×8×8",
        "windows 12×12×12",
        "whole volumes",
    ]


def test_the_learning_rate_follows_the_time_limit(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    endless = plans.evolve(training={"steps": 100_000, "curriculum": [{"fraction": 1, "window": [8, 8, 8]}]})
    train(endless, store, tmp_path, val_cases=(), max_minutes=0.02)
    assert records(tmp_path)[-1]["learning_rate"] < 0.2 * plans.training.learning_rate


@pytest.mark.parametrize(("minutes", "expected"), [(20, 1), (40, 2)])
def test_a_limited_training_validates_between_half_an_hour_and_the_last_fifth_and_at_its_end(
    minutes: float, expected: int, plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    curriculum = [{"fraction": 1, "window": [8, 8, 8]}]
    endless = plans.evolve(training={"steps": 100_000, "val_every": 2, "curriculum": curriculum})
    train(endless, store, tmp_path, kind=validating_with([0.5] * 9), max_minutes=minutes, clock=ticking(30.0))
    validated = records(tmp_path, "validation")
    assert len(validated) == expected
    assert all(record["seconds"] >= 60 * min(minutes, 30) for record in validated)
    assert all(record["seconds"] <= 60 * 0.8 * minutes for record in validated[:-1])


def test_a_time_limit_beyond_need_changes_nothing(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    train(plans, store, tmp_path, max_minutes=1000)
    assert same_weights(trained, tmp_path)
