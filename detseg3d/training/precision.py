"""Check before a training that half precision gives the same outputs and gradients as float32 on this device.

Some libraries have kernels that return wrong results for some shapes of feature maps, without an error. A training
with such a kernel ends with a gradient that is not finite, or learns nothing. The check runs the planned network in
both precisions on a small window of each phase of the curriculum: each layer alone, for which rounding has little
effect, and both stages as a whole.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.memory import GIGABYTE, NetworkPlan, planned_training_bytes
from detseg3d.planning.plans import Plans
from detseg3d.system.device import autocast, autocast_dtype, precision_in_use
from detseg3d.training.schedule import phase_name

__all__ = ["PrecisionCheck", "check_precision", "record_precision", "window_to_check"]

logger = logging.getLogger(__name__)

# Larger relative differences from float32 are errors. Rounding changes a single layer by up to 0.006 in bfloat16
# (measured). In the whole network rounding adds up, and sometimes another voxel is the maximum: up to 0.41.
_LAYER_TOLERANCE = 0.05
_NETWORK_TOLERANCE = 0.9
# Largest window of the check, in voxels of the detection grid, so that the check takes seconds. Along each axis at
# least this number of cells of the coarsest map is kept, because kernels differ for maps shorter than three voxels.
_MAX_VOXELS = 48**3
_MIN_CELLS = 3


@dataclass(frozen=True)
class CheckedWindow:
    """A window of the check: the name of its phase and its shape ``(z, y, x)`` in fine voxels."""

    phase: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Difference:
    """Difference of an output or a gradient from float32, relative to the norm in float32.

    ``excess`` is ``relative`` divided by the tolerance for rounding. A value above 1, or NaN, is an error.
    """

    phase: str
    name: str
    relative: float
    excess: float


@dataclass(frozen=True)
class PrecisionCheck:
    """Result of :func:`check_precision`. The largest ``differences`` come first."""

    dtype: torch.dtype
    windows: tuple[CheckedWindow, ...]
    differences: tuple[Difference, ...]
    seconds: float

    @property
    def wrong(self) -> tuple[Difference, ...]:
        """Differences above the tolerance for rounding."""
        return tuple(difference for difference in self.differences if not difference.excess <= 1)

    def describe(self) -> str:
        """Return the result in one line."""
        name, largest = str(self.dtype).removeprefix("torch."), self.differences[0]
        windows = ", ".join(window.phase for window in self.windows)
        if not self.wrong:
            return (
                f"{name} agrees with float32 on this device ({windows}; {len(self.differences)} outputs and gradients "
                f"in {self.seconds:.1f} s)"
            )
        return (
            f"{name} gives other results than float32 on this device: {len(self.wrong)} of {len(self.differences)} "
            f"outputs and gradients, for one {largest.name} ({largest.phase}), by {largest.relative:.3g} times its size"
        )


def window_to_check(plans: Plans, window: Sequence[int]) -> tuple[int, int, int]:
    """Return a small window whose feature maps have the same critical lengths as those of ``window``.

    Parameters
    ----------
    plans : Plans
    window : 3 ints
        ``(z, y, x)`` in fine voxels.

    Returns
    -------
    3 ints
        ``window`` itself if it is small. The longest axes of a large window are shortened by whole cells of the
        coarsest map, to three cells at least.
    """
    strides = plans.stage1.cumulative_stride(len(plans.stage1.strides) - 1)
    scale = plans.detection_scale
    cells = [
        max(1, math.ceil(n / s / stride - 1e-6)) for n, s, stride in zip(window, scale, strides, strict=True)
    ]  # fmt: skip
    wanted = list(cells)
    while math.prod(n * stride for n, stride in zip(cells, strides, strict=True)) > _MAX_VOXELS:
        longest = max(range(3), key=lambda axis: (cells[axis] > _MIN_CELLS, cells[axis] * strides[axis]))
        if cells[longest] <= _MIN_CELLS:
            break
        cells[longest] -= 1
    z, y, x = (
        int(n) if kept == all_cells else max(1, math.floor(kept * stride * s + 1e-6))
        for n, kept, all_cells, stride, s in zip(window, cells, wanted, strides, scale, strict=True)
    )
    return z, y, x


def check_precision(
    model: DetSeg3D, plans: Plans, typical_shape: Sequence[int], device: torch.device
) -> PrecisionCheck | None:
    """Compare outputs and gradients in half precision with those in float32.

    The gradients are those of a projection of the outputs on fixed random numbers. The network is a copy of ``model``
    with other weights, because initial weights would hide layers (a normalisation that begins at zero passes no
    gradient), and trained weights may be sensitive to rounding. Neither ``model`` nor its gradients nor the random
    numbers of torch change.

    Parameters
    ----------
    model : DetSeg3D
        On ``device``.
    plans : Plans
        The windows are those of its curriculum.
    typical_shape : 3 ints
        Shape of a typical volume, in fine voxels.
    device : torch.device

    Returns
    -------
    PrecisionCheck or None
        ``None`` if the training uses float32.
    """
    dtype = autocast_dtype(device)
    if dtype is None:
        return None
    started = time.monotonic()
    windows: dict[tuple[int, int, int], str] = {}
    for phase in plans.training.curriculum:
        name = phase_name(phase)
        shape = window_to_check(plans, phase.window or typical_shape)
        windows[shape] = f"{windows[shape]}, {name}" if shape in windows else name
    differences: list[Difference] = []
    seen: set[tuple[Any, ...]] = set()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = _with_other_weights(model)
        for shape, name in windows.items():
            with _recorded_calls(network, seen) as calls:
                low = _results(network, plans, shape, device, half=True)
            exact = _results(network, plans, shape, device)
            differences += _compare(low, exact, name, _NETWORK_TOLERANCE)
            for call in calls:
                low, exact = _results_of_layer(call, device, half=True), _results_of_layer(call, device)
                differences += _compare(low, exact, name, _LAYER_TOLERANCE)
    differences.sort(key=lambda difference: -difference.excess if math.isfinite(difference.excess) else -math.inf)
    checked = tuple(CheckedWindow(name, shape) for shape, name in windows.items())
    return PrecisionCheck(dtype, checked, tuple(differences), time.monotonic() - started)


def record_precision(plans: Plans, device: torch.device) -> Plans:
    """Return the plans with the precision that is used on ``device``, and warn if the plans expected another one.

    A training may be resumed in another precision. A warning is logged in this case, and if the training needs more
    memory than planned.

    Parameters
    ----------
    plans : Plans
    device : torch.device

    Returns
    -------
    Plans
        With ``training.precision_used``.
    """
    precision, before = precision_in_use(device), plans.training.precision_used
    if before is not None and before is not precision:
        logger.warning("this training began in %s and continues in %s", before, precision)
    if precision.bytes_per_value > plans.memory_precision.bytes_per_value:
        network = NetworkPlan.of(plans, precision)
        needed = planned_training_bytes(network, plans.training, plans.planned_shape, plans.detection_scale)
        logger.warning(
            "the plans expect %.2g GB for a training in %s, but this training uses %s and will need about %.2g GB. "
            "To plan for this precision, run detseg3d_plan_and_preprocess --precision %s",
            plans.predicted_training_gb,
            plans.memory_precision,
            precision,
            needed / GIGABYTE,
            precision,
        )
    return plans.evolve(training={"precision_used": precision})


def _with_other_weights(model: DetSeg3D) -> DetSeg3D:
    """Return a copy in evaluation mode, without randomness, in which every weight has an effect."""
    network = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                values *= math.sqrt(2 / parameter[0].numel())
            else:
                values = 1 + 0.1 * values
            parameter.copy_(values)
            parameter.grad = None
    return network


def _results(
    network: DetSeg3D, plans: Plans, shape: Sequence[int], device: torch.device, half: bool = False
) -> Mapping[str, torch.Tensor]:
    """Return the outputs of both stages for an image of noise, and the gradients of all weights, by name."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn((1, plans.num_channels, *shape), generator=generator).to(device)
    # One RoI shows the whole window, the other one its centre.
    boxes = torch.tensor([[0, 0, 0, *shape], [n * part for part in (0.25, 0.75) for n in shape]], dtype=torch.float32)
    classes = torch.arange(2) % plans.num_classes
    with autocast(device) if half else torch.autocast(device.type, enabled=False):
        stage1 = network.detect(network.to_detection_grid(image))
        features = network.roi_features(stage1.features)
        crops = network.crop_inputs(image[0], boxes.numpy(), boxes.numpy())
        cropped = None if features is None else network.crop_features(features[0], boxes.numpy())
        stage2 = network.segment(crops, cropped, classes, stage1.context)
    outputs = {"features": stage1.features, "mask": stage2.mask, "score": stage2.score}
    if stage1.dense is not None:
        outputs["dense map"] = stage1.dense
    for index, level in enumerate(stage1.levels):
        outputs |= {f"{name} of level {index}": value for name, value in level._asdict().items()}
    projection = torch.zeros((), device=device)
    for name, output in outputs.items():
        direction = torch.randn(output.shape, generator=generator).to(device)
        if name == "score":
            # Both RoIs show the same image, so the score head gets almost equal inputs. With opposite signs their
            # gradients would cancel, and one activation that rounding moves across zero would look like an error.
            direction = direction.abs()
        projection = projection + (output.float() * direction).sum() / math.sqrt(output.numel())
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(projection, list(named.values()), allow_unused=True)
    results = {f"output {name}": output.detach() for name, output in outputs.items()}
    by_module: dict[str, list[torch.Tensor]] = {}
    for name, gradient in zip(named, gradients, strict=True):
        if gradient is not None:
            by_module.setdefault(name.rpartition(".")[0], []).append(gradient.flatten())
    # The gradient of a bias is a sum that may cancel, and rounding is then larger than what is left. Beside the weights
    # of its module it is small. A layer alone is compared weight by weight.
    return results | {f"gradient of {module}": torch.cat(parts) for module, parts in by_module.items()}


@dataclass(frozen=True)
class _Call:
    """Arguments of a call of a layer."""

    name: str
    layer: nn.Module
    positional: tuple[Any, ...]
    named: Mapping[str, Any]

    def kind(self) -> tuple[Any, ...]:
        """Return a key that is equal for calls that use the same kernels."""
        given = [
            (tuple(value.shape), value.stride()) if isinstance(value, torch.Tensor) else value
            for value in (*self.positional, *self.named.values())
        ]
        return type(self.layer), repr(self.layer), str(given)


@contextlib.contextmanager
def _recorded_calls(network: nn.Module, seen: set[tuple[Any, ...]]) -> Iterator[list[_Call]]:
    """Record the calls of layers with weights whose kind was not ``seen`` before, and add their kinds to ``seen``."""
    calls: list[_Call] = []
    handles = []

    def watch(name: str, layer: nn.Module) -> None:
        def record(layer: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            values = dict(zip(named, _without_graph(named.values()), strict=True))
            call = _Call(name, layer, _without_graph(positional), values)
            if call.kind() not in seen:
                seen.add(call.kind())
                calls.append(call)

        handles.append(layer.register_forward_pre_hook(record, with_kwargs=True))

    for name, layer in network.named_modules():
        if any(True for _ in layer.parameters(recurse=False)):
            watch(name, layer)
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _without_graph(values: Iterable[Any]) -> tuple[Any, ...]:
    """Replace tensors by empty ones of the same layout."""
    return tuple(torch.empty_like(value) if isinstance(value, torch.Tensor) else value for value in values)


def _results_of_layer(call: _Call, device: torch.device, half: bool = False) -> Mapping[str, torch.Tensor]:
    """Return the output of a layer for noise, and the gradients of its weights and inputs, by name."""
    generator = torch.Generator().manual_seed(2)

    def noise(like: Any) -> Any:
        if not isinstance(like, torch.Tensor) or not like.is_floating_point():
            return like
        # Values that exist in half precision, so that both precisions have the same input.
        values = torch.randn(like.shape, generator=generator).bfloat16().to(like.device)
        return torch.empty_like(like, dtype=like.dtype if half else torch.float32).copy_(values).requires_grad_()

    positional = [noise(value) for value in call.positional]
    named = {name: noise(value) for name, value in call.named.items()}
    with autocast(device) if half else torch.autocast(device.type, enabled=False):
        output = call.layer(*positional, **named)
    output = output[0] if isinstance(output, tuple) else output
    flow = torch.empty_like(output).copy_(torch.randn(output.shape, generator=generator).bfloat16())
    sources = {f"weight {name}": weight for name, weight in call.layer.named_parameters() if weight.requires_grad} | {
        f"input {index}": value for index, value in enumerate(positional) if isinstance(value, torch.Tensor)
    }
    gradients = torch.autograd.grad(output, list(sources.values()), flow, allow_unused=True)
    results = {f"output of {call.name}": output.detach()}
    for name, gradient in zip(sources, gradients, strict=True):
        if gradient is not None:
            results[f"gradient of {call.name}, {name}"] = gradient
    return results


def _compare(
    low: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor], phase: str, tolerance: float
) -> Iterator[Difference]:
    for name, wanted in exact.items():
        norm = float(wanted.double().norm())
        distance = float((low[name].double() - wanted.double()).norm())
        relative = distance / norm if norm > 0 else (math.inf if distance else 0.0)
        yield Difference(phase, name, relative, relative / tolerance)
