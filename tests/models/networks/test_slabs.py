"""Stage 1 in slabs gives the output of the whole volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.networks.blocks import Conv3d
from detseg3d.models.networks.detector import Detector, DetectorOutput
from detseg3d.models.networks.slabs import detect_in_slabs, divide, runs_in_slabs
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import Stage1Plan

CUBES = {
    # A first map at full resolution that no head reads, a dense map, and three levels of heads.
    "full resolution": Stage1Plan(
        channels=(4, 8, 16, 8),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 3),) * 4,
        blocks=(1, 1, 2, 1),
        fpn_channels=8,
        head_stages=(1, 2, 3),
        level_max_sizes=((9.0, 9.0, 9.0), (18.0, 18.0, 18.0)),
        dense_channels=8,
    ),
    # Heads that read the first map.
    "heads on the first map": Stage1Plan(
        channels=(8, 8, 16),
        strides=((2, 2, 2),) * 3,
        kernels=((3, 3, 3),) * 3,
        blocks=(1, 1, 1),
        fpn_channels=8,
        head_stages=(0, 1),
        level_max_sizes=((9.0, 9.0, 9.0),),
        boxes_per_class=True,
    ),
    # Thick slices, and a level without heads between two levels with heads.
    "anisotropic": Stage1Plan(
        channels=(4, 8, 8, 16),
        strides=((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 1, 1)),
        kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
        blocks=(1, 1, 1, 1),
        fpn_channels=8,
        head_stages=(1, 3),
        level_max_sizes=((9.0, 9.0, 9.0),),
        dense_channels=4,
    ),
}


def make_detector(plan: Stage1Plan, classes: int = 2) -> Detector:
    """A detector in which every layer matters: residual norms start at zero and would hide their block."""
    torch.manual_seed(0)
    detector = Detector(plan, 1, classes).eval()
    for name, parameter in detector.named_parameters():
        if parameter.ndim == 1 and "heatmap" not in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return detector


def make_image(*shape: int) -> torch.Tensor:
    """Noise with a gradient along each axis, so that the statistics of slabs differ from those of the whole."""
    image = torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(1))
    for axis, length in enumerate(shape):
        size = [1] * 5
        size[2 + axis] = length
        image = image * torch.linspace(0.2, 2, length).view(size) + torch.linspace(-1, 1, length).view(size)
    return image


def tensors_of(output: DetectorOutput) -> dict[str, torch.Tensor]:
    result = {"features": output.features}
    if output.context is not None:
        result["context"] = output.context
    if output.dense is not None:
        result["dense"] = output.dense
    for number, level in enumerate(output.levels):
        result |= {f"{name} {number}": values for name, values in level._asdict().items()}
    return result


def assert_equal(first: DetectorOutput, second: DetectorOutput, tolerance: float) -> None:
    expected, found = tensors_of(first), tensors_of(second)
    assert list(expected) == list(found)
    for name, values in expected.items():
        assert values.shape == found[name].shape and values.dtype == found[name].dtype, name
        spread = float(values.float().std())
        difference = float((values.float() - found[name].float()).abs().max())
        assert difference < tolerance * spread, (name, difference, spread)


@pytest.mark.parametrize("kind", CUBES)
@pytest.mark.parametrize("shape", [(64, 24, 16), (16, 56, 24), (16, 16, 48)])
def test_slabs_give_the_output_of_the_whole(kind: str, shape: tuple[int, int, int]) -> None:
    detector, image = make_detector(CUBES[kind]), make_image(*shape)
    with torch.no_grad():
        whole = detector(image)
    for slabs in (2, 3, 7):
        assert_equal(whole, detect_in_slabs(detector, image, slabs), 1e-3)


def test_half_precision_differs_by_its_rounding_only() -> None:
    detector, image = make_detector(CUBES["full resolution"]), make_image(64, 24, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        whole, slabs = detector(image), detect_in_slabs(detector, image, 3)
    assert whole.features.dtype == slabs.features.dtype == torch.bfloat16
    exact = tensors_of(whole)
    for name in ("features", "context", "dense"):
        difference = (exact[name] - tensors_of(slabs)[name]).float()
        assert float(difference.std() / exact[name].float().std()) < 0.02, name


def test_more_slabs_than_the_axis_has_cells_are_as_many_as_it_has() -> None:
    detector, image = make_detector(CUBES["anisotropic"]), make_image(16, 16, 16)
    with torch.no_grad():
        assert_equal(detector(image), detect_in_slabs(detector, image, 1000), 1e-3)


def test_the_statistics_are_those_of_the_whole_and_not_of_a_slab() -> None:
    # The second half is constant. By its own statistics, it would be normalised to noise.
    detector, image = make_detector(CUBES["heads on the first map"]), make_image(64, 16, 16)
    image[:, :, 32:] = 0.5
    with torch.no_grad():
        whole = detector(image)
        half = detector(image[:, :, 32:])
    assert_equal(whole, detect_in_slabs(detector, image, 2), 1e-3)
    middle = (whole.features[:, :, 24:28] - half.features[:, :, 8:12]).abs().max()
    assert float(middle) > 0.1 * float(whole.features.std())


def test_a_volume_that_is_not_padded_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple"):
        detect_in_slabs(make_detector(CUBES["anisotropic"]), torch.zeros(1, 1, 17, 16, 16), 2)


@pytest.mark.parametrize(
    ("length", "count", "reach", "unit"), [(96, 3, 4, 1), (98, 5, 1, 2), (6, 9, 3, 2), (7, 1, 2, 1)]
)
def test_slabs_share_no_cell_and_leave_none_out(length: int, count: int, reach: int, unit: int) -> None:
    slabs = divide(length, count, reach, unit)
    cells = np.concatenate([np.arange(slab.start, slab.stop) for slab in slabs])
    assert cells.tolist() == list(range(length)) and len(slabs) == min(count, length // unit)
    for slab in slabs:
        assert slab.low == 0 or slab.start - slab.low >= reach
        assert slab.high == length or slab.high - slab.stop >= reach
        assert all(edge % unit == 0 for edge in (slab.start, slab.stop, slab.low, slab.high))


def other_norm(model: DetSeg3D) -> None:
    model.detector.heads[0].tower[1] = torch.nn.InstanceNorm3d(8)


def dilated_convolution(model: DetSeg3D) -> None:
    model.detector.stages[1][1].second = Conv3d(16, 16, 3, padding=2, dilation=2, bias=False)


def shared_layer(model: DetSeg3D) -> None:
    model.detector.stages[1].append(model.detector.stages[1][1])


def layer_that_sees_the_whole_map(model: DetSeg3D) -> None:
    model.detector.laterals[0] = torch.nn.Sequential(model.detector.laterals[0], torch.nn.AdaptiveAvgPool3d(8))


@pytest.mark.parametrize("change", [other_norm, dilated_convolution, shared_layer, layer_that_sees_the_whole_map])
def test_a_network_with_other_layers_does_not_run_in_slabs(
    change: Callable[[DetSeg3D], None], tiny_plans: Plans
) -> None:
    model = DetSeg3D(tiny_plans)
    assert model.runs_in_slabs
    change(model)
    assert not runs_in_slabs(model.detector) and not model.runs_in_slabs


def test_a_network_that_changes_stage_1_does_not_run_in_slabs(tiny_plans: Plans) -> None:
    class Changed(DetSeg3D):
        def detect(self, image: torch.Tensor) -> Any:
            return super().detect(image * 2)

    assert not Changed(tiny_plans).runs_in_slabs
