"""Device and precision of the networks."""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision, require_offered

__all__ = [
    "autocast",
    "autocast_dtype",
    "choose_precision",
    "compute_in",
    "default_workers",
    "has_fast_bfloat16",
    "precision_in_use",
    "require_correct_convolutions",
    "resolve_device",
]

logger = logging.getLogger(__name__)

_HALF = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
_MAX_CONVOLUTION_ERROR = 1e-3
# On a CPU, float16 is not offered: it would be emulated and overflows more easily than bfloat16.
_POSSIBLE = {
    "cuda": (Precision.BF16, Precision.FP16, Precision.FP32),
    "cpu": (Precision.BF16, Precision.FP32),
}
# Precision that was chosen in this process, by type of device (cpu, cuda).
_IN_USE: dict[str, Precision] = {}


def resolve_device(name: str | None) -> torch.device:
    """Return the device with a name; by default CUDA if it is available, else the CPU.

    Parameters
    ----------
    name : str or None
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``, …

    Raises
    ------
    DetSeg3DError
        If the name is unknown, or the device is not available or computes wrong convolutions.
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
        raise DetSeg3DError("the device is not available on this machine", value=name, remedy="use -device cpu")
    if device.type == "mps":
        require_correct_convolutions(device)
    return device


def require_correct_convolutions(device: torch.device) -> None:
    """Raise an error if 3D convolutions on a device, or their gradients, differ from those on the CPU.

    Some versions of macOS compute wrong convolutions on the mps device without an error (macOS 26.2,
    https://github.com/pytorch/pytorch/issues/197114).

    Raises
    ------
    DetSeg3DError
        If a difference exceeds a thousandth of the largest value.
    """
    error = max(_convolution_error(device, *channels) for channels in ((1, 8), (8, 8), (24, 32)))
    if not error <= _MAX_CONVOLUTION_ERROR:
        raise DetSeg3DError(
            "this device computes wrong 3D convolutions",
            value=f"{device}: largest difference from the CPU {error:.2g} of the largest value",
            expected=f"at most {_MAX_CONVOLUTION_ERROR}",
            remedy="use -device cpu, or update the operating system and PyTorch",
        )


def _convolution_error(device: torch.device, inputs: int, outputs: int) -> float:
    """Return the largest relative difference of outputs and gradients between a device and the CPU, in both layouts."""
    random = torch.Generator().manual_seed(0)
    image = torch.randn((2, inputs, 6, 8, 10), generator=random)
    kernel = torch.randn((outputs, inputs, 3, 3, 3), generator=random)
    error = 0.0
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        results = []
        for place in (torch.device("cpu"), device):
            leaves = [tensor.to(place, memory_format=layout).requires_grad_() for tensor in (image, kernel)]
            output = torch.conv3d(leaves[0], leaves[1], stride=(1, 2, 2), padding=1)
            gradients = torch.autograd.grad(output.square().sum(), leaves)
            results.append([tensor.detach().cpu() for tensor in (output, *gradients)])
        for exact, other in zip(*results, strict=True):
            difference = float((exact - other).abs().max() / exact.abs().max())
            error = max(error, difference if math.isfinite(difference) else math.inf)
    return error


def default_workers(device: torch.device) -> int:
    """Return the number of processes that prepare training windows: 0 on a CPU, up to 4 with an accelerator.

    On a CPU, reading a window takes only 2 % of a training step, and a second busy process slows down the training.
    """
    return 0 if device.type == "cpu" else max(0, min(4, (os.cpu_count() or 1) - 1))


@functools.cache
def has_fast_bfloat16() -> bool:
    """Return whether convolutions on this CPU use the processor's bfloat16 instructions.

    The flags of the processor are not sufficient. If oneDNN is switched off or limited to older instructions
    (``ONEDNN_MAX_CPU_ISA``), bfloat16 is emulated, which is up to 100 times slower. This function therefore computes a
    small product. The bfloat16 instructions (AVX512-BF16, AMX) replace results below the smallest normal float32 by
    zero. Emulations compute in float32 and keep such small results.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    tiny, small = torch.tensor(2.0**-120), torch.tensor(2.0**-10)
    if float(tiny * small) == 0:  # torch.set_flush_denormal is on, so emulations also give zero
        return True
    # The sum of 32 products of 2^-130 is 2^-125, a normal number. It is zero only if each product was set to zero.
    image = tiny.expand(1, 32, 4, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    kernel = small.expand(32, 32, 1, 1, 1).bfloat16().contiguous()
    with torch.no_grad():
        return bool(torch.conv3d(image, kernel).eq(0).all())


def choose_precision(device: torch.device, wanted: Precision = Precision.AUTO) -> Precision:
    """Return the precision that networks on a device use if ``wanted`` is requested.

    ``AUTO`` means bfloat16 on CUDA devices from Ampere on and on CPUs with fast bfloat16 (:func:`has_fast_bfloat16`),
    float16 on older CUDA devices, and float32 on all others.

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
        If the precision is not offered on this type of device: float16 is offered on CUDA only, bfloat16 on CUDA and
        CPUs.
    """
    if wanted is Precision.AUTO:
        return _fastest_precision(device)
    require_offered(wanted, _POSSIBLE.get(device.type, (Precision.FP32,)), device.type)
    return wanted


def _fastest_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        # `is_bf16_supported` checks the current device, so make `device` current.
        with nullcontext() if device.index is None else torch.cuda.device(device):
            return Precision.BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else Precision.FP16
    return Precision.BF16 if device.type == "cpu" and has_fast_bfloat16() else Precision.FP32


def compute_in(device: torch.device, wanted: Precision = Precision.AUTO) -> Precision:
    """Set the precision of networks on this type of device for the rest of this process.

    The precision applies to training, validation and prediction. Emulated bfloat16 is allowed, and a warning states its
    speed.

    Parameters
    ----------
    device : torch.device
    wanted : Precision, optional

    Returns
    -------
    Precision
        The chosen precision; never ``AUTO``.

    Raises
    ------
    DetSeg3DError
        If the precision is not offered on the device; see :func:`choose_precision`.
    """
    chosen = choose_precision(device, wanted)
    if chosen is Precision.BF16 and wanted is chosen and _fastest_precision(device) is not chosen:
        logger.warning(
            "%s emulates bfloat16: a convolution takes %.0f times as long as in float32; prefer --precision auto",
            device.type,
            _slowness(device, torch.bfloat16),
        )
    _IN_USE[device.type] = wanted
    return chosen


def precision_in_use(device: torch.device) -> Precision:
    """Return the precision of networks on a device: as set by :func:`compute_in`, or the default; never ``AUTO``."""
    return choose_precision(device, _IN_USE.get(device.type, Precision.AUTO))


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the half-precision type that networks on a device use, or ``None`` for float32."""
    return _HALF.get(precision_in_use(device))


def _slowness(device: torch.device, dtype: torch.dtype) -> float:
    """Return the time of a convolution in ``dtype`` divided by its time in float32."""
    seconds = []
    image = torch.randn(2, 32, 8, 16, 16, device=device).contiguous(memory_format=torch.channels_last_3d)
    kernel = torch.randn(32, 32, 3, 3, 3, device=device)
    for kind in (dtype, torch.float32):
        tries = []
        for _ in range(3):
            started = time.perf_counter()
            # Reading a number waits until the device has finished.
            float(torch.conv3d(image.to(kind), kernel.to(kind), padding=1).flatten()[0])
            tries.append(time.perf_counter() - started)
        seconds.append(min(tries))
    return seconds[0] / seconds[1]


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return a context of mixed precision on a device; without effect if networks on the device use float32."""
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
