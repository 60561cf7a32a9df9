"""Where the networks run, and in which precision."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext

import torch

from detseg3d.core.errors import DetSeg3DError

__all__ = [
    "allow_half_precision",
    "autocast",
    "autocast_dtype",
    "compute_in_float32",
    "default_workers",
    "has_fast_bfloat16",
    "resolve_device",
]

# Types of devices (cpu, cuda) where this process computes in float32, since a check found half precision wrong there.
_FLOAT32_ONLY: set[str] = set()


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


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether convolutions on this CPU compute in bfloat16 by the processor's own instructions.

    The processor's flags do not decide that: oneDNN may be limited to older instructions (``ONEDNN_MAX_CPU_ISA``), or
    be switched off, and then emulates bfloat16, up to 100 times as slowly. So a small product is computed. The
    instructions for bfloat16 (AVX512-BF16, AMX) replace results below the smallest normal float32 by zero. Emulations
    compute in float32 and keep them.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    tiny, small = torch.tensor(2.0**-120), torch.tensor(2.0**-10)
    if float(tiny * small) == 0:  # torch.set_flush_denormal is on: emulations give zero, too
        return True
    # 32 products of 2^-130 each, whose sum 2^-125 is a normal number.
    image = tiny.expand(1, 32, 4, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    kernel = small.expand(32, 32, 1, 1, 1).bfloat16().contiguous()
    with torch.no_grad():
        return bool(torch.conv3d(image, kernel).eq(0).all())


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision that pays on ``device``; None where float32 is the faster, or was asked for.

    bfloat16 on CUDA from Ampere on and on CPUs that really compute in it (:func:`has_fast_bfloat16`); float16 on older
    CUDA devices, whose gradients then need scaling. After :func:`compute_in_float32` it is None.
    """
    if device.type in _FLOAT32_ONLY:
        return None
    if device.type == "cuda":
        # The question is asked of the current device.
        with nullcontext() if device.index is None else torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if has_fast_bfloat16() else None
    return None


def compute_in_float32(device: torch.device) -> None:
    """Compute in float32 on this type of device from now on, in this process: training, validation and prediction."""
    _FLOAT32_ONLY.add(device.type)


def allow_half_precision(device: torch.device) -> None:
    """Take back :func:`compute_in_float32`: the precision that pays on this type of device is used again."""
    _FLOAT32_ONLY.discard(device.type)


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision on ``device``, where it pays."""
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
