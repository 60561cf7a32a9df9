from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from detseg3d.preprocessing.resample import axis_matrix, resample_image, resampled_shape

LENGTHS = st.integers(1, 23)


# Below 2 voxels torch confuses memory formats and answers wrongly.
@settings(max_examples=40)
@given(*[st.integers(2, 23)] * 4, st.sampled_from([1, 3]))
def test_agrees_with_torch_in_two_dimensions(old_y: int, old_x: int, new_y: int, new_x: int, order: int) -> None:
    image = torch.randn(1, 2, old_y, old_x, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mode = {1: "bilinear", 3: "bicubic"}[order]
    wanted = functional.interpolate(image, (new_y, new_x), mode=mode, antialias=True, align_corners=False)[0]
    assert torch.allclose(resample_image(image[0][:, None], (1, new_y, new_x), order)[:, 0], wanted, atol=1e-4)


@settings(max_examples=25)
@given(st.tuples(LENGTHS, LENGTHS, LENGTHS), st.tuples(LENGTHS, LENGTHS, LENGTHS))
def test_refining_agrees_with_trilinear_interpolation(old: tuple[int, int, int], more: tuple[int, int, int]) -> None:
    new = tuple(a + b for a, b in zip(old, more, strict=True))
    image = torch.randn(1, *old, generator=torch.Generator().manual_seed(0))
    wanted = functional.interpolate(image[None], new, mode="trilinear", align_corners=False)[0]
    assert torch.allclose(resample_image(image, new), wanted, atol=1e-5)


@given(LENGTHS, LENGTHS, st.sampled_from([1, 3]))
def test_weights_sum_to_one(old: int, new: int, order: int) -> None:
    assert np.allclose(axis_matrix(old, new, order).sum(axis=1), 1, atol=1e-6)


@given(st.integers(2, 23), st.integers(1, 22), st.sampled_from([1, 3]))
def test_every_voxel_counts_when_the_grid_becomes_coarser(old: int, new: int, order: int) -> None:
    assert (np.abs(axis_matrix(old, min(new, old), order)).sum(axis=0) > 0).all()


def test_linear_ramp_stays_a_ramp_edge_to_edge() -> None:
    edges = np.arange(12) + 0.5
    ramp = torch.from_numpy(np.broadcast_to(edges, (1, 2, 3, 12)).copy())
    fine = resample_image(ramp, (2, 3, 24))[0, 0, 0].numpy()
    assert np.allclose(fine[1:-1], ((np.arange(24) + 0.5) / 2)[1:-1])


def test_the_same_shape_costs_nothing() -> None:
    image = torch.randn(1, 3, 4, 5)
    assert resample_image(image, (3, 4, 5)) is image


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 7, 8, 9)
    whole = resample_image(image, (5, 11, 9))
    monkeypatch.setattr("detseg3d.preprocessing.resample._CHUNK_VOXELS", 1)
    assert torch.allclose(resample_image(image, (5, 11, 9)), whole, atol=1e-6)


def test_is_differentiable() -> None:
    image = torch.randn(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resample_image(x, (2, 5, 4)), (image,))


@given(st.integers(0, 100))
def test_linear_never_overshoots(seed: int) -> None:
    image = torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(seed))
    result = resample_image(image, (7, 3, 9))
    assert image.min() - 1e-6 <= result.min()
    assert result.max() <= image.max() + 1e-6


def test_resampled_shape_covers_the_same_millimetres() -> None:
    assert resampled_shape((55, 320, 276), (3.0, 0.71875, 0.71875), (3.0, 0.71875, 0.71875)) == (55, 320, 276)
    assert resampled_shape((55, 320, 276), (3.0000021, 0.71875, 0.71875), (3.0, 0.71875, 0.71875)) == (55, 320, 276)
    assert resampled_shape((10, 11, 1), (1, 1, 1), (2, 2, 4)) == (5, 6, 1)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="order must be 1 or 3, found 2"):
        axis_matrix(3, 4, 2)
    with pytest.raises(ValueError, match="at least one voxel, found 3 and 0"):
        axis_matrix(3, 0)
    with pytest.raises(ValueError, match=r"expected an image \(C, Z, Y, X\)"):
        resample_image(torch.zeros(3, 3, 3), (1, 1, 1))
