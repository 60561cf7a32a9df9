from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans
from detseg3d.training.optimizer import Muon, make_optimizers, orthogonalize, set_learning_rate


def quintic(value: float) -> float:
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


def by_singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """The same polynomial, of the singular values themselves, in float64."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.square().sum().sqrt()
    return left @ torch.diag(torch.tensor([quintic(float(value)) for value in values]).double()) @ right


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99), spread=st.floats(0, 4))
def test_orthogonalize_equals_the_polynomial_of_the_singular_values(
    rows: int, columns: int, seed: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator) * torch.logspace(0, -spread, columns)
    expected = by_singular_values(matrix)
    difference = orthogonalize(matrix[None])[0].double() - expected
    assert difference.norm() < 2e-3 * expected.norm()


def test_a_batch_is_orthogonalized_matrix_by_matrix() -> None:
    matrices = torch.randn(3, 4, 7) * torch.tensor([1.0, 1e3, 1e-3])[:, None, None]
    expected = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), expected)


def test_the_singular_values_have_the_size_that_is_asked_for() -> None:
    matrices = torch.randn(2, 5, 3)
    torch.testing.assert_close(orthogonalize(matrices, 0.3), 0.3 * orthogonalize(matrices))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_gradients_however_small_or_large_move_no_more_than_others(scale: float) -> None:
    moved = orthogonalize(torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0)) * scale)
    assert torch.isfinite(moved).all() and torch.linalg.matrix_norm(moved, 2).max() < 1.3


def test_the_gradient_of_nothing_moves_nothing() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


def test_updates_are_those_of_pytorch_for_matrices() -> None:
    # PyTorch iterates in bfloat16, hence the tolerance.
    ours, theirs = (nn.Parameter(torch.ones(8, 20)) for _ in range(2))
    mine = Muon([ours], lr=0.01, weight_decay=0.1)
    library = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        ours.grad = torch.randn(8, 20, generator=torch.Generator().manual_seed(seed))
        theirs.grad = ours.grad.clone()
        mine.step()
        library.step()
    moved, expected = ours.detach() - 1, theirs.detach() - 1
    assert (moved - expected).norm() < 0.03 * expected.norm()


def test_memory_formats_give_the_same_update() -> None:
    kernels = [nn.Parameter(torch.ones(6, 4, 3, 3, 3).contiguous(memory_format=form)) for form in
               (torch.contiguous_format, torch.channels_last_3d)]  # fmt: skip
    gradient = torch.randn(6, 4, 3, 3, 3)
    for kernel in kernels:
        kernel.grad = gradient.clone(memory_format=torch.preserve_format)
        Muon([kernel], lr=0.1).step()
    torch.testing.assert_close(kernels[0].data, kernels[1].data)
    assert kernels[1].is_contiguous(memory_format=torch.channels_last_3d)


def test_kernels_of_one_shape_do_not_touch_each_other() -> None:
    together = [nn.Parameter(torch.randn(4, 2, 3, 3, 3)) for _ in range(2)]
    alone = copy.deepcopy(together)
    for first, second in zip(together, alone, strict=True):
        first.grad = torch.randn_like(first)
        second.grad = first.grad.clone()
    Muon(together, lr=0.1).step()
    for kernel in alone:
        Muon([kernel], lr=0.1).step()
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first.data, second.data)


def test_an_update_is_about_a_fifth_of_the_rate() -> None:
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3, 3))
    kernel.grad = torch.randn_like(kernel) * 1e-5
    Muon([kernel], lr=0.01).step()
    assert float(kernel.detach().square().mean().sqrt()) == pytest.approx(0.002, rel=0.2)


def test_a_parameter_without_gradient_stays() -> None:
    kernels = [nn.Parameter(torch.ones(4, 2, 3, 3, 3)) for _ in range(2)]
    kernels[0].grad = torch.randn_like(kernels[0])
    Muon(kernels, lr=0.1, weight_decay=0.5).step()
    assert torch.equal(kernels[1].data, torch.ones(4, 2, 3, 3, 3))
    assert not torch.equal(kernels[0].data, kernels[1].data)


def names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_every_weight_has_one_optimizer_and_kernels_have_muon(plans: Plans) -> None:
    model = DetSeg3D(plans)
    adam, muon = make_optimizers(model, plans.training)
    groups = [names(model, group["params"]) for group in (*adam.param_groups, *muon.param_groups)]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(list(model.parameters()))
    assert isinstance(muon, Muon)
    assert all(model.get_parameter(name).shape[2:].numel() > 1 for name in groups[2])
    assert {"detector.stages.0.0.0.weight", "segmenter.decoder.0.0.weight"} <= groups[2]
    assert "segmenter.mask.weight" in groups[0] and "segmenter.mask.bias" in groups[1]


def test_only_weights_decay(plans: Plans) -> None:
    optimizers = make_optimizers(DetSeg3D(plans), plans.evolve(training={"weight_decay": 0.25}).training)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        assert all((parameter.ndim > 1) == (group["weight_decay"] == 0.25) for parameter in group["params"])


def test_without_a_rate_of_kernels_all_is_adamw(plans: Plans) -> None:
    model = DetSeg3D(plans)
    (adam,) = make_optimizers(model, plans.evolve(training={"muon_lr_factor": 0}).training)
    assert sum(len(group["params"]) for group in adam.param_groups) == len(list(model.parameters()))


def test_kernels_have_their_own_rate(plans: Plans) -> None:
    optimizers = make_optimizers(DetSeg3D(plans), plans.evolve(training={"muon_lr_factor": 4}).training)
    set_learning_rate(optimizers, 0.01)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.04])


def test_the_state_survives_a_file(tmp_path: Path) -> None:
    kernels = [nn.Parameter(torch.ones(4, 2, 3, 3, 3)) for _ in range(2)]
    first, second = (Muon([kernel], lr=0.1) for kernel in kernels)
    kernels[0].grad = torch.randn_like(kernels[0])
    first.step()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    kernels[1].data.copy_(kernels[0].data)
    kernels[0].grad = kernels[1].grad = torch.randn_like(kernels[0])
    first.step()
    second.step()
    assert torch.equal(kernels[0].data, kernels[1].data)
