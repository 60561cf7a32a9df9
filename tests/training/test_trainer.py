from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.evaluation.metrics import DetectionCounts
from detseg3d.models import detseg
from detseg3d.models.weights import save_weights
from detseg3d.planning.plans import Plans, load_plans, save_plans
from detseg3d.training import trainer
from detseg3d.training.sampling import CaseTable, Example, WindowSampler
from detseg3d.training.trainer import train_fold
from detseg3d.training.validation import ValidationResult
from tests.training.conftest import TRAIN, VAL, make_options, records, same_weights, train
from tests.training.factory import write_case

pytestmark = pytest.mark.usefixtures("no_picture")


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
        assert set(losses) == {"heatmap", "size", "offset", "segmentation", "roi_score"}
        assert total == pytest.approx(sum(losses.values()) - (1 - weight) * losses["roi_score"], rel=1e-4)


def test_the_end_is_validated(trained: Path) -> None:
    [record] = records(trained, "validation")
    assert record["epoch"] == 4
    assert set(record) >= {"f1_iou_0.1", "recall_iou_0.1", "precision_iou_0.1", "f1_any", "dice", "stage1_recall"}


def test_a_training_learns(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    curriculum = [{"fraction": 1, "window": [16, 16, 16]}]
    longer = plans.evolve(training={"steps": 30, "steps_per_epoch": 6, "curriculum": curriculum})
    train_fold(longer, store, TRAIN, (), tmp_path, make_options())
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
    with pytest.raises(DetSeg3DError, match=r"(?s)this fold has no training case.*splits_final\.json"):
        train_fold(plans, store, (), VAL, tmp_path, make_options())


def test_pretrained_weights_are_the_start(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = detseg.DetSeg3D(plans)
    save_weights(model, tmp_path / "start.safetensors")
    save_plans(plans, tmp_path / "plans.json")
    state = trainer._State(plans, make_options(pretrained_weights=tmp_path / "start.safetensors"))
    for name, value in model.state_dict().items():
        assert torch.equal(state.model.state_dict()[name], value), name
        assert torch.equal(state.average.state_dict()[name], value), name


# -- The best model ----------------------------------------------------------------------------------------------------


def fake_validation(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter(scores)

    def validate(*arguments: Any) -> ValidationResult:
        # At any overlap every lesion is found: the best model must not be chosen by this.
        hits = round(100 * next(left))
        return ValidationResult(DetectionCounts(100, hits, 100, hits), DetectionCounts(100, 100, 100, 100), 0.0, 0.0)

    monkeypatch.setattr(trainer, "validate", validate)


@pytest.mark.parametrize(("scores", "best_is_last"), [([0.1, 0.6, 0.3, 0.2], False), ([0.1, 0.2, 0.2, 0.3], True)])
def test_the_best_model_has_the_highest_f1_of_matched_lesions(
    plans: Plans,
    store: CaseStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    best_is_last: bool,
) -> None:
    fake_validation(scores, monkeypatch)
    train(plans.evolve(training={"val_every": 1}), store, tmp_path)
    best, final = ((tmp_path / f"model_{name}.safetensors").read_bytes() for name in ("best", "final"))
    assert (best == final) == best_is_last


def test_without_validation_cases_the_final_model_is_the_best(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    (tmp_path / "model_best.safetensors").write_text("of an earlier training", encoding="utf-8")
    train_fold(plans, store, TRAIN, (), tmp_path, make_options())
    best, final = ((tmp_path / f"model_{name}.safetensors").read_bytes() for name in ("best", "final"))
    assert best == final


def test_a_picture_that_cannot_be_drawn_does_not_stop_the_training(
    plans: Plans, store: CaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise DetSeg3DError("the file cannot be written: No space left on device")

    monkeypatch.setattr(trainer, "plot_progress", fail)
    train(plans, store, tmp_path)
    assert (tmp_path / "model_final.safetensors").exists()


# -- One step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "weight"),
    [(1, 0.9), (9, 0.5), (81, 0.1), (10_000, 0.002)],  # 1 - min(0.998, step / (9 + step))
)
def test_the_average_moves_towards_the_model(plans: Plans, step: int, weight: float) -> None:
    state = trainer._State(plans, make_options())
    state.progress.step = step
    with torch.no_grad():
        for own, averaged in zip(state.model.parameters(), state.average.parameters(), strict=True):
            own.fill_(1.0)
            averaged.fill_(0.0)
    state.update_average(0.998, 1e-5)
    for averaged in state.average.parameters():
        torch.testing.assert_close(averaged, torch.full_like(averaged, weight))


def test_the_average_takes_no_gradient(plans: Plans) -> None:
    state = trainer._State(plans, make_options())
    assert not any(parameter.requires_grad for parameter in state.average.parameters())
    assert all(parameter.requires_grad for parameter in state.model.parameters())


def make_example(store: CaseStore, case_id: str = "case0", window: tuple[int, int, int] | None = None) -> Example:
    return WindowSampler(store, CaseTable(store, [case_id]), (1, 1, 1), window, seed=0).example(0)


def all_finite(model: torch.nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_a_step_on_healthy_scans_is_finite(plans: Plans, tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    write_case(store, "healthy", plans, lesions=())
    state = trainer._State(plans, make_options())
    losses = trainer._train_step(plans, state, [make_example(store, "healthy")], 1.0, 1e-3, 0, make_options())
    assert all(np.isfinite(list(losses.values()))) and losses["size"] == losses["offset"] == 0
    assert all_finite(state.model)


def test_windows_of_one_shape_run_together_and_others_one_by_one(store: CaseStore) -> None:
    small, large = make_example(store, window=(8, 8, 8)), make_example(store)
    assert [len(group) for group in trainer._stacks([small, small])] == [2]
    assert [len(group) for group in trainer._stacks([small, large])] == [1, 1]


def test_a_batch_in_parts_has_the_mean_of_losses_and_gradients(
    plans: Plans, store: CaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same volume twice, one by one, is as good as once. Only the heatmap's bias: the RoIs are drawn anew."""
    example = make_example(store)
    monkeypatch.setattr(trainer, "_stacks", lambda examples: [[example] for example in examples])
    patient = plans.evolve(training={"gradient_clip": 1e9})
    losses, gradients = [], []
    for batch in ([example, example], [example]):
        state = trainer._State(patient, make_options())
        losses.append(trainer._train_step(patient, state, batch, 1.0, 0.0, 0, make_options())["heatmap"])
        bias = state.model.detector.heads[0].heatmap.bias
        assert bias is not None and bias.grad is not None
        gradients.append(float(bias.grad))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-3)


def test_a_lesion_weighs_the_same_in_every_window(plans: Plans, store: CaseStore) -> None:
    """What is summed over the lesions is divided by what windows show on average, not by what this one shows."""
    parts = []
    for typical in (1.0, 4.0):
        state = trainer._State(plans, make_options())
        parts.append(trainer._train_step(plans, state, [make_example(store)], typical, 0.0, 0, make_options()))
    for name in ("heatmap", "size", "offset"):
        assert parts[0][name] == pytest.approx(4 * parts[1][name], rel=1e-5)
    assert parts[0]["segmentation"] == pytest.approx(parts[1]["segmentation"], rel=1e-5)


def test_a_loss_that_is_not_finite_names_its_parts(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    state = trainer._State(plans, make_options())
    with torch.no_grad():
        state.model.detector.heads[0].regression.bias[0] = float("inf")
    with pytest.raises(
        DetSeg3DError,
        match=r"(?s)the loss is not finite at step 3 \(cases case0\): heatmap \d.*size inf, offset \d.*lower --lr",
    ):
        trainer._train_step(plans, state, [make_example(store)], 1.0, 1e-3, 3, make_options())


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(plans: Plans, store: CaseStore) -> None:
    state = trainer._State(plans, make_options())
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    next(state.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DetSeg3DError, match=r"the gradient is not finite at step 3 \(cases case0\): heatmap \d"):
        trainer._train_step(plans, state, [make_example(store)], 1.0, 1e-3, 3, make_options())
    assert all(torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True))


def test_a_step_whose_loss_is_not_finite_leaves_the_weights_alone(plans: Plans, store: CaseStore) -> None:
    state = trainer._State(plans, make_options())
    with torch.no_grad():
        state.model.detector.heads[0].regression.bias[0] = float("inf")
    before = state.model.detector.heads[0].heatmap.weight.clone()
    with pytest.raises(DetSeg3DError):
        trainer._train_step(plans, state, [make_example(store)], 1.0, 1e-3, 3, make_options())
    assert torch.equal(state.model.detector.heads[0].heatmap.weight, before)


def test_gradients_are_clipped(plans: Plans, store: CaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tight = plans.evolve(training={"gradient_clip": 1e-3})
    state = trainer._State(tight, make_options())
    seen: list[float] = []

    def remember(*arguments: Any, **settings: Any) -> None:
        squares = [p.grad.double().square().sum() for p in state.model.parameters() if p.grad is not None]
        seen.append(float(torch.stack(squares).sum().sqrt()))

    monkeypatch.setattr(state.optimizers[0], "step", remember)
    trainer._train_step(tight, state, [make_example(store)], 1.0, 1e-3, 0, make_options())
    assert seen == [pytest.approx(1e-3, rel=1e-2)]


def test_scaled_gradients_give_the_same_step(plans: Plans, store: CaseStore) -> None:
    """As in float16 on a GPU: both optimisers see the gradients without the scale."""
    states = [trainer._State(plans, make_options()) for _ in range(2)]
    states[1].scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for state in states:
        trainer._train_step(plans, state, [make_example(store)], 1.0, 1e-3, 0, make_options())
    for plain, scaled in zip(states[0].model.parameters(), states[1].model.parameters(), strict=True):
        torch.testing.assert_close(plain, scaled, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["detector.heads.0.heatmap.weight", "detector.stages.0.0.0.weight"])
def test_an_overflow_moves_no_weight_and_lowers_the_scale(plans: Plans, store: CaseStore, name: str) -> None:
    """In a weight of AdamW or of Muon: the other must not step alone."""
    state = trainer._State(plans, make_options())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    state.model.get_parameter(name).register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    trainer._train_step(plans, state, [make_example(store)], 1.0, 1e-3, 0, make_options())
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    assert state.scaler.get_scale() == 512.0


# -- A time limit ------------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_the_training_and_visits_every_phase(
    plans: Plans, store: CaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    # A clock of its own: every look at it takes a twentieth of a second, however fast the machine is.
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 20))
    curriculum = [
        {"fraction": 0.4, "window": [8, 8, 8]},
        {"fraction": 0.3, "window": [12, 12, 12]},
        {"fraction": 0.3, "window": None},
    ]
    endless = plans.evolve(training={"steps": 100_000, "curriculum": curriculum})
    progress = train_fold(endless, store, TRAIN, VAL, tmp_path, make_options(max_minutes=0.05))
    assert 3.0 <= progress.seconds < 3.3  # a step and the last validation come on top
    assert list(dict.fromkeys(record["phase"] for record in records(tmp_path))) == [
        "windows 8×8×8",
        "windows 12×12×12",
        "whole volumes",
    ]


def test_a_time_limit_takes_the_learning_rate_along(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    endless = plans.evolve(training={"steps": 100_000, "curriculum": [{"fraction": 1, "window": [8, 8, 8]}]})
    train_fold(endless, store, TRAIN, (), tmp_path, make_options(max_minutes=0.02))
    assert records(tmp_path)[-1]["learning_rate"] < 0.2 * plans.training.learning_rate


@pytest.mark.parametrize(("minutes", "expected"), [(20, 1), (40, 2)])
def test_a_limited_training_validates_on_its_way_between_half_an_hour_and_the_last_fifth(
    minutes: float, expected: int, plans: Plans, store: CaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(ticks) * 10.0))
    fake_validation([0.5] * 9, monkeypatch)
    curriculum = [{"fraction": 1, "window": [8, 8, 8]}]
    endless = plans.evolve(training={"steps": 100_000, "val_every": 7, "curriculum": curriculum})
    train_fold(endless, store, TRAIN, VAL, tmp_path, make_options(max_minutes=minutes))
    validated = records(tmp_path, "validation")
    assert len(validated) == expected
    assert all(record["seconds"] >= 60 * min(minutes, 30) for record in validated)
    assert all(record["seconds"] <= 60 * 0.8 * minutes for record in validated[:-1])


def test_a_time_limit_beyond_need_changes_nothing(
    trained: Path, plans: Plans, store: CaseStore, tmp_path: Path
) -> None:
    train(plans, store, tmp_path, max_minutes=1000)
    assert same_weights(trained, tmp_path)
