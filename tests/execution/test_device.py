from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.execution.device import autocast, autocast_dtype, resolve_device


def give_cuda(monkeypatch: pytest.MonkeyPatch, count: int, bfloat16: bool = True) -> None:
    """Pretend that there are ``count`` CUDA devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16 or including_emulation
    )


def give_cpu(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize(("count", "device"), [(0, "cpu"), (2, "cuda")])
def test_cuda_is_the_default_where_there_is_one(monkeypatch: pytest.MonkeyPatch, count: int, device: str) -> None:
    give_cuda(monkeypatch, count)
    assert resolve_device(None) == torch.device(device)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    give_cuda(monkeypatch, 2)
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:2", 2), ("meta", 1), ("xpu", 1)])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    give_cuda(monkeypatch, count)
    with pytest.raises(DetSeg3DError, match=rf"(?s)not available here.*'{name}'.*use -device cpu"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)unknown device.*expected: cpu, cuda"):
        resolve_device(name)


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_old_cuda_devices_take_float16(monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: torch.dtype) -> None:
    give_cuda(monkeypatch, 1, bfloat16)
    assert autocast_dtype(torch.device("cuda")) is dtype


def test_of_several_cuda_devices_the_one_that_is_used_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextmanager
    def using(device: torch.device) -> Iterator[None]:
        current.append(device.index)
        yield
        current.pop()

    give_cuda(monkeypatch, 2, True)
    monkeypatch.setattr(torch.cuda, "device", using)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1] == 1)
    assert autocast_dtype(torch.device("cuda:1")) is torch.bfloat16
    assert autocast_dtype(torch.device("cuda:0")) is torch.float16


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_processors_take_bfloat16_where_it_is_in_hardware(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: torch.dtype | None
) -> None:
    give_cpu(monkeypatch, bfloat16)
    assert autocast_dtype(torch.device("cpu")) is dtype


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_computes_in_that_precision(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, dtype: torch.dtype
) -> None:
    give_cpu(monkeypatch, bfloat16)
    layer = torch.nn.Linear(4, 4)
    with autocast(torch.device("cpu")):
        assert layer(torch.ones(1, 4)).dtype is dtype
    assert layer(torch.ones(1, 4)).dtype is torch.float32
