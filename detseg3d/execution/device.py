"""Where the networks run, and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from detseg3d.core.errors import DetSeg3DError

__all__ = ["autocast", "autocast_dtype", "default_workers", "resolve_device"]


def resolve_device(name: str | None) -> torch.device:
    """The device called ``name`` (``cpu``, ``cuda``, ``cuda:1``, ``mps``); by default CUDA where there is one.

    Raises
    ------
    DetSeg3DError
        If there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DetSeg3DError("unknown device", value=name, expected="cpu, cuda, cuda:0, mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise DetSeg3DError("this device is not available here", value=name, remedy="use -device cpu")
    return device


def default_workers(device: torch.device) -> int:
    """Processes that prepare training windows: none on a CPU, up to 4 beside an accelerator.

    Reading a window takes 2 % of a training step on a CPU, and a busy process beside it slows every parallel operation
    of the training down.
    """
    return 0 if device.type == "cpu" else max(0, min(4, (os.cpu_count() or 1) - 1))


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision that pays on ``device``; None where float32 is the faster.

    bfloat16 on CUDA from Ampere on and on CPUs that have it in hardware (elsewhere it is emulated, slowly); float16 on
    older CUDA devices, whose gradients then need scaling.
    """
    if device.type == "cuda":
        # The question is asked of the current device.
        with nullcontext() if device.index is None else torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_bfloat16 else None
    return None


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision on ``device``, where it pays."""
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
