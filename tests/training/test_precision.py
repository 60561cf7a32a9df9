"""The check of half precision before a training: what it finds, and what it leaves alone."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.data.case_store import CaseStore
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.networks.blocks import Conv3d
from detseg3d.models.networks.group_norm import GroupNorm
from detseg3d.planning.memory import NetworkPlan, planned_training_bytes
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.system import device as execution
from detseg3d.system.device import has_fast_bfloat16
from detseg3d.training import precision
from detseg3d.training.precision import PrecisionCheck, check_precision, record_precision, window_to_check
from tests.training.conftest import records, same_weights, train

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SHAPE = (24, 26, 28)


@pytest.fixture(autouse=True)
def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision on any CPU, though it may be emulated; float32 for one test is not float32 for the next."""
    monkeypatch.setattr(execution, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(execution, "_IN_USE", {})


class _Broken(torch.autograd.Function):
    """Passes a map on; its gradient is wrong."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return image.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient * ctx.factor, None


def break_layers(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], chosen: Callable[[Any], bool], factor: float = float("nan")
) -> None:
    """In half precision the gradient through some layers is ``factor`` times what it should be."""
    original = kind.forward

    def forward(self: Any, image: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = original(self, image)
        return _Broken.apply(output, factor) if torch.is_autocast_enabled("cpu") and chosen(image) else output

    monkeypatch.setattr(kind, "forward", forward)


def check(plans: Plans) -> PrecisionCheck:
    found = check_precision(DetSeg3D(plans), plans, SHAPE, CPU)
    assert found is not None
    return found


def test_bfloat16_agrees_for_the_network_of_a_plan(plans: Plans) -> None:
    found = check(plans)
    assert found.dtype is torch.bfloat16
    assert [(window.phase, window.shape) for window in found.windows] == [
        ("windows 12×12×12", (12, 12, 12)),
        ("whole volumes", SHAPE),
    ]
    assert found.wrong == ()
    assert len(found.describe().splitlines()) == 1


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this CPU does not compute in bfloat16")
def test_bfloat16_agrees_for_coarsest_maps_of_one_to_four_cells(plans: Plans) -> None:
    shapes = [(4 * z - 1, 4 * y, 4 * x - 2) for z, y, x in itertools.product((1, 2, 3, 4), (1, 2), (1, 2, 4))]
    curriculum = [{"fraction": 1 / len(shapes), "window": list(shape)} for shape in shapes]
    found = check(plans.evolve(training={"curriculum": curriculum}))
    assert [window.shape for window in found.windows] == shapes
    assert found.wrong == ()


def test_phases_with_the_same_window_share_a_check(plans: Plans) -> None:
    curriculum = [{"fraction": 0.5, "window": [12, 12, 12]}, {"fraction": 0.5, "window": [12, 12, 12]}]
    [window] = check(plans.evolve(training={"curriculum": curriculum})).windows
    assert (window.phase, window.shape) == ("windows 12×12×12, windows 12×12×12", (12, 12, 12))


def test_every_layer_is_compared_also_behind_a_normalisation_that_starts_at_zero(plans: Plans) -> None:
    plans = plans.evolve(stage1={"dense_channels": 4})
    model = DetSeg3D(plans)
    found = check_precision(model, plans, SHAPE, CPU)
    assert found is not None
    compared = {difference.name for difference in found.differences}
    for name, _ in model.named_parameters():
        assert f"gradient of {name.rpartition('.')[0]}" in compared
    assert all(difference.relative > 0 for difference in found.differences if "second" in difference.name)


def test_a_gradient_of_a_bias_that_cancels_is_judged_beside_its_weights(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly_cancelled(network: object, plans: Plans, shape: object, device: object, half: bool = False) -> object:
        results = original(network, plans, shape, device, half)  # type: ignore[arg-type]
        weights = results["gradient of segmenter.score.0"].clone()
        weights[-1] = 1e-6 if half else -1e-6
        return {**results, "gradient of segmenter.score.0": weights}

    original = precision._results
    monkeypatch.setattr(precision, "_results", nearly_cancelled)
    assert check(plans).wrong == ()


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0, 1e6, 1.2])
def test_a_wrong_gradient_is_found(plans: Plans, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    break_layers(monkeypatch, Conv3d, lambda image: image.shape[2] == 3, factor)  # the coarsest map of the windows
    found = check(plans)
    assert found.wrong
    assert found.differences[0] in found.wrong
    assert {difference.phase for difference in found.wrong} == {"windows 12×12×12"}


def test_a_wrong_output_is_found(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    original = GroupNorm.forward
    monkeypatch.setattr(
        GroupNorm,
        "forward",
        lambda self, image: original(self, image) * (1.2 if torch.is_autocast_enabled("cpu") else 1),
    )
    assert any("output of" in difference.name for difference in check(plans).wrong)


WITHOUT_THE_WAY_AROUND = """
from tests.conftest import TINY_PLANS
import torch
from detseg3d.models.networks import blocks
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import parse_plans
from detseg3d.training.precision import check_precision

windows = [{"fraction": 0.5, "window": [8, 12, 12]}, {"fraction": 0.5, "window": [12, 12, 4]}]
plans = parse_plans(TINY_PLANS).evolve(training={"curriculum": windows})
print(len(check_precision(DetSeg3D(plans), plans, (24, 26, 28), torch.device("cpu")).wrong), flush=True)
blocks.safe_request = lambda image, shape: (image, shape)
print(len(check_precision(DetSeg3D(plans), plans, (24, 26, 28), torch.device("cpu")).wrong), flush=True)
"""


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this CPU does not compute in bfloat16")
@pytest.mark.parametrize("instructions", ["AVX512_CORE_BF16", "AVX512_CORE_AMX"])
def test_without_the_way_around_the_wrong_kernels_the_check_fails(instructions: str) -> None:
    """Kernels of either set of instructions are wrong for one of these windows. A process may die of them."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_WAY_AROUND],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    counts = [int(line) for line in done.stdout.split()]
    assert counts[0] == 0
    assert counts[1:] != [0]


def test_nothing_is_checked_where_float32_is_used(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "has_fast_bfloat16", lambda: False)
    assert check_precision(DetSeg3D(plans), plans, SHAPE, CPU) is None


def test_the_check_leaves_weights_gradients_and_random_numbers_alone(plans: Plans) -> None:
    model = DetSeg3D(plans).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_precision(model, plans, SHAPE, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# -- In a training -----------------------------------------------------------------------------------------------------


def test_a_training_says_in_one_line_that_half_precision_is_right(
    plans: Plans, store: CaseStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train(plans, store, tmp_path, check_precision=True)
    assert sum("agrees with float32" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_training_falls_back_to_float32_with_a_warning(
    plans: Plans,
    store: CaseStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resume: bool,
) -> None:
    break_layers(monkeypatch, Conv3d, lambda image: image.shape[2] == 3)
    caplog.set_level(logging.WARNING)
    if resume:
        with monkeypatch.context() as patch:
            patch.setattr(execution, "has_fast_bfloat16", lambda: False)
            train(plans, store, tmp_path, check_precision=True)  # which has nothing to check
        assert caplog.records == []
    train(plans, store, tmp_path, resume=resume, check_precision=True)
    assert any("detector." in record.message and "windows 12×12×12" in record.message for record in caplog.records)
    assert execution.autocast_dtype(CPU) is None
    assert len(records(tmp_path)) == 4


def test_a_training_in_float32_does_not_decide_for_the_next_one(
    plans: Plans, store: CaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_layers(patch, Conv3d, lambda image: image.shape[2] == 3)
        train(plans, store, tmp_path / "first", check_precision=True)
    assert execution.autocast_dtype(CPU) is None
    train(plans, store, tmp_path / "second", check_precision=True)
    assert execution.autocast_dtype(CPU) is not None


def test_the_check_changes_nothing_of_a_training(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    train(plans, store, tmp_path / "checked", check_precision=True)
    train(plans, store, tmp_path / "unchecked")
    assert same_weights(tmp_path / "checked", tmp_path / "unchecked")


# -- The window to check -----------------------------------------------------------------------------------------------


def test_a_small_window_is_checked_as_it_is(plans: Plans) -> None:
    assert window_to_check(plans, (8, 30, 13)) == (8, 30, 13)


def test_a_large_window_keeps_its_short_axes(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_MAX_VOXELS", 8 * 16 * 16)
    stride = plans.stage1.cumulative_stride(len(plans.stage1.strides) - 1)
    assert stride == (4, 4, 4)
    assert window_to_check(plans, (8, 100, 200)) == (8, 16, 16)
    assert window_to_check(plans, (5, 100, 200)) == (5, 16, 16)
    assert window_to_check(plans, (100, 100, 200)) == (12, 12, 12)


# -- The precision that is asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "native", "used"), [("fp32", True, "fp32"), ("auto", True, "bf16"), ("auto", False, "fp32")]
)
def test_a_training_notes_what_it_was_asked_for_and_what_it_precision_used(
    plans: Plans, store: CaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, native: bool, used: str
) -> None:
    monkeypatch.setattr(execution, "has_fast_bfloat16", lambda: native)
    train(plans.evolve(training={"precision": asked}), store, tmp_path)
    training = load_plans(tmp_path / "plans.json").training
    assert (training.precision.value, str(training.precision_used)) == (asked, used)
    assert execution.precision_in_use(CPU).value == used


def test_a_training_that_fell_back_notes_float32(
    plans: Plans, store: CaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_layers(monkeypatch, Conv3d, lambda image: image.shape[2] == 3)
    train(plans, store, tmp_path, check_precision=True)
    assert load_plans(tmp_path / "plans.json").training.precision_used is Precision.FP32


def test_float16_is_refused_on_a_cpu_before_anything_is_written(plans: Plans, store: CaseStore, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as raised:
        train(plans.evolve(training={"precision": "fp16"}), store, tmp_path / "fold_0")
    assert raised.value.value == "--precision fp16 on cpu"
    assert not (tmp_path / "fold_0").exists()


@pytest.mark.parametrize(
    ("planned", "asked", "warned"), [("bf16", "fp32", True), ("fp32", "fp32", False), ("fp32", "bf16", False)]
)
def test_a_plan_for_fewer_bytes_than_the_training_takes_is_warned_of_with_the_memory(
    plans: Plans, planned: str, asked: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    execution.compute_in(CPU, Precision(asked))
    record_precision(plans.evolve(memory_precision=planned), CPU)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    if warned:
        network = NetworkPlan.of(plans, Precision.FP32)
        needed = planned_training_bytes(network, plans.training, plans.planned_shape, plans.detection_scale) / 1e9
        assert f"will need about {needed:.2g} GB" in caplog.text


def test_a_training_that_goes_on_in_another_precision_says_so(plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    execution.compute_in(CPU, Precision.FP32)
    begun = plans.evolve(memory_precision="fp32", training={"precision_used": "bf16"})
    noted = record_precision(begun, CPU)
    assert noted.training.precision_used is Precision.FP32
    assert "began in bf16 and continues in fp32" in caplog.text
