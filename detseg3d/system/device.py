"""Where the networks run, and in which precision."""

from __future__ import annotations

import functools
import logging
import os
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision

__all__ = [
    "autocast",
    "autocast_dtype",
    "choose_precision",
    "compute_in",
    "default_workers",
    "has_fast_bfloat16",
    "precision_in_use",
    "resolve_device",
]

logger = logging.getLogger(__name__)

_HALF = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
# On a CPU float16 would be emulated as well, and more often overflow than bfloat16: there is nothing to gain.
_POSSIBLE = {
    "cuda": (Precision.BF16, Precision.FP16, Precision.FP32),
    "cpu": (Precision.BF16, Precision.FP32),
}
# What this process was told to compute in, by type of device (cpu, cuda).
_IN_USE: dict[str, Precision] = {}


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


def choose_precision(device: torch.device, wanted: Precision = Precision.AUTO) -> Precision:
    """What networks compute in on ``device`` if ``wanted`` is asked for; nothing is changed.

    ``AUTO`` is bfloat16 on CUDA from Ampere on and on CPUs that really compute in it (:func:`has_fast_bfloat16`),
    float16 on older CUDA devices, float32 on all others.

    Parameters
    ----------
    device : torch.device
    wanted : Precision, optional

    Returns
    -------
    Precision
        Never ``AUTO``.

    Raises
    ------
    DetSeg3DError
        If DetSeg3D does not compute in that precision on this type of device: float16 on anything but CUDA, bfloat16
        on anything but CUDA and CPUs.
    """
    if wanted is Precision.AUTO:
        return _fastest_precision(device)
    possible = _POSSIBLE.get(device.type, (Precision.FP32,))
    if wanted not in possible:
        raise DetSeg3DError(
            f"networks do not compute in {wanted} on this type of device",
            value=f"--precision {wanted} on {device.type}",
            expected=" or ".join(map(str, (Precision.AUTO, *possible))),
            remedy="use --precision auto",
        )
    return wanted


def _fastest_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        # The question is asked of the current device.
        with nullcontext() if device.index is None else torch.cuda.device(device):
            return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP16
    return Precision.BF16 if device.type == "cpu" and has_fast_bfloat16() else Precision.FP32


def compute_in(device: torch.device, wanted: Precision = Precision.AUTO) -> Precision:
    """Let networks on this type of device compute in ``wanted`` from now on, in this process.

    Training, validation and prediction follow. bfloat16 that the device only emulates is allowed; a warning says how
    slow it is here.

    Parameters
    ----------
    device : torch.device
    wanted : Precision, optional

    Returns
    -------
    Precision
        What they compute in; never ``AUTO``.

    Raises
    ------
    DetSeg3DError
        If the device does not compute in it, see :func:`choose_precision`.
    """
    chosen = choose_precision(device, wanted)
    if chosen is Precision.BF16 and wanted is chosen and _fastest_precision(device) is not chosen:
        logger.warning(
            "%s emulates bfloat16 here: a convolution takes %.0f times as long as in float32; prefer --precision auto",
            device.type,
            _slowness(device, torch.bfloat16),
        )
    _IN_USE[device.type] = wanted
    return chosen


def precision_in_use(device: torch.device) -> Precision:
    """What networks on ``device`` compute in, after :func:`compute_in` or by itself; never ``AUTO``."""
    return choose_precision(device, _IN_USE.get(device.type, Precision.AUTO))


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision that networks on ``device`` compute in; None for float32. See :func:`precision_in_use`."""
    return _HALF.get(precision_in_use(device))


def _slowness(device: torch.device, dtype: torch.dtype) -> float:
    """Time of a convolution in ``dtype`` divided by its time in float32, on ``device``."""
    seconds = []
    image = torch.randn(2, 32, 8, 16, 16, device=device).contiguous(memory_format=torch.channels_last_3d)
    kernel = torch.randn(32, 32, 3, 3, 3, device=device)
    for kind in (dtype, torch.float32):
        tries = []
        for _ in range(3):
            started = time.perf_counter()
            # To read a number waits for the device.
            float(torch.conv3d(image.to(kind), kernel.to(kind), padding=1).flatten()[0])
            tries.append(time.perf_counter() - started)
        seconds.append(min(tries))
    return seconds[0] / seconds[1]


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision on ``device``, unless networks compute in float32 there; see :func:`precision_in_use`."""
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
