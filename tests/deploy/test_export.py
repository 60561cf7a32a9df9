from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detseg3d.core.backend import Backend, NetworkFormat
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.deploy import export
from detseg3d.deploy.export import MAX_DIFFERENCE, export_network
from detseg3d.deploy.network import ExportedNetwork
from detseg3d.deploy.networks import ExportedFiles, file_names
from detseg3d.deploy.runners import choose_backend_precision
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans

pytest.importorskip("onnx", reason="networks are exported with onnx, of the extra deploy")
pytest.importorskip("openvino", reason="openvino is in the extra deploy")
if importlib.util.find_spec("onnxruntime") is None:  # to import it here would start its telemetry
    pytest.skip("onnxruntime is in the extra deploy", allow_module_level=True)

FORMATS = (NetworkFormat.OPENVINO, NetworkFormat.ONNX)
PLANS: dict[str, dict[str, Any]] = {
    "usual": {},
    "dense map, flat voxels, odd RoI": {
        "stage1": {
            "channels": [8, 12, 16],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            "kernels": [[1, 3, 3], [1, 3, 3], [3, 3, 3]],
            "blocks": [1, 1, 2],
            "head_stages": [1, 2],
            "dense_channels": 8,
        },
        "roi": {"size": [9, 16, 11]},
    },
    "two classes with own boxes, two channels, no features": {
        "channel_names": ["CT", "PET"],
        "class_names": ["a", "b"],
        "class_labels": [1, 2],
        "normalization": [{"scheme": "zscore"}] * 2,
        "stage1": {"strides": [[1, 4, 2], [2, 2, 2]], "boxes_per_class": True},
        "stage2": {"feature_channels": 0, "channels": [8, 12, 16], "strides": [[1, 2, 2], [2, 2, 2]]}
        | {"kernels": [[3, 3, 3]] * 3},
    },
}


def trained(plans: Plans) -> DetSeg3D:
    """A network with random values in all parameters: without training, many of them are 0 or 1."""
    model = DetSeg3D(plans).eval()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return model


def largest_difference(wanted: torch.Tensor, given: torch.Tensor) -> float:
    assert wanted.shape == given.shape
    return float((wanted - given).abs().max() / max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("network_format", FORMATS)
@pytest.mark.parametrize("name", PLANS)
def test_networks_of_any_plan_give_the_outputs_of_torch(
    tiny_plans: Plans, name: str, network_format: NetworkFormat
) -> None:
    plans = tiny_plans.evolve(**PLANS[name])
    model = trained(plans)
    exported = ExportedNetwork(plans, export_network(model, network_format), Precision.FP32, threads=1)
    random = torch.Generator().manual_seed(2)
    # Other shapes and numbers than those that the export compares.
    for cells in ((2, 1, 1), (3, 4, 5)):
        shape = [n * stride for n, stride in zip(cells, model.total_stride, strict=True)]
        image = torch.randn((1, plans.num_channels, *shape), generator=random)
        with torch.no_grad():
            wanted, given = model.detect(image), exported.detect(image)
        for level, other in zip(wanted.levels, given.levels, strict=True):
            for tensor, same in zip(level, other, strict=True):
                assert largest_difference(tensor, same) < MAX_DIFFERENCE
        assert (wanted.dense is None) == (given.dense is None)
        if wanted.dense is not None and given.dense is not None:
            assert largest_difference(wanted.dense, given.dense) < MAX_DIFFERENCE
        features = model.roi_features(wanted.features)
        projected = exported.roi_features(given.features)
        assert (features is None) == (projected is None)
        if features is not None and projected is not None:
            assert largest_difference(features.detach(), projected) < MAX_DIFFERENCE
    for count in (2, 7):
        crops = torch.randn((count, plans.num_channels + 1, *plans.roi.size), generator=random)
        features = torch.randn((count, plans.stage2.feature_channels, *model.feature_size), generator=random)
        classes = torch.arange(count) % plans.num_classes
        with torch.no_grad():
            segmented = model.segment(crops, features, classes)
        same = exported.segment(crops, features, classes)
        assert largest_difference(segmented.mask, same.mask) < MAX_DIFFERENCE
        assert largest_difference(segmented.score, same.score) < MAX_DIFFERENCE


def test_equal_networks_give_equal_files(tiny_plans: Plans) -> None:
    model = trained(tiny_plans)
    for network_format in FORMATS:
        assert export_network(model, network_format) == export_network(model, network_format)


class OwnNetwork(DetSeg3D):
    """A custom network."""


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (OwnNetwork, {}),
        (DetSeg3D, {"training": {"network": "mine:build"}}),
        (DetSeg3D, {"stage2": {"context_attention": True}}),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused(
    tiny_plans: Plans, build: type[DetSeg3D], changes: dict[str, Any]
) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        export_network(build(tiny_plans.evolve(**changes)), NetworkFormat.ONNX)
    assert caught.value.value in ("OwnNetwork", "mine:build", "stage2.context_attention")


def test_an_unknown_module_is_refused(tiny_plans: Plans) -> None:
    model = DetSeg3D(tiny_plans)
    model.detector.stages[0].append(nn.Softplus())
    with pytest.raises(DetSeg3DError) as caught:
        export_network(model, NetworkFormat.ONNX)
    assert caught.value.value == "Softplus"


@pytest.mark.parametrize("network_format", FORMATS)
def test_an_export_that_differs_from_torch_is_refused(
    tiny_plans: Plans, network_format: NetworkFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(tiny_plans)
    usual = export._run_with_torch

    def change_a_weight(*arguments: Any) -> tuple[torch.Tensor, ...]:
        # The weight changes after the network was written, so the file and PyTorch differ.
        with torch.no_grad():
            model.detector.stages[0][0][0].weight[0, 0, 1, 1, 1] += 0.05
        return usual(*arguments)

    monkeypatch.setattr(export, "_run_with_torch", change_a_weight)
    with pytest.raises(DetSeg3DError) as caught:
        export_network(model, network_format)
    assert "of the largest value" in str(caught.value.value)
    assert caught.value.expected == f"at most {MAX_DIFFERENCE:g}"


@pytest.mark.parametrize("network_format", FORMATS)
def test_networks_of_other_plans_are_refused(tiny_plans: Plans, network_format: NetworkFormat) -> None:
    files = export_network(trained(tiny_plans), network_format)
    with pytest.raises(DetSeg3DError) as caught:
        ExportedNetwork(tiny_plans.evolve(stage1={"dense_channels": 8}), files)
    assert "dense" in str(caught.value.expected) and "dense" not in str(caught.value.value)


@pytest.mark.parametrize("network_format", FORMATS)
def test_a_file_that_is_not_a_network_is_refused(tiny_plans: Plans, network_format: NetworkFormat) -> None:
    files = ExportedFiles(network_format, dict.fromkeys(file_names(network_format), b"no network"))
    with pytest.raises(DetSeg3DError):
        ExportedNetwork(tiny_plans, files)


def test_an_onnx_network_that_opens_other_files_is_refused(tiny_plans: Plans) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    files = export_network(trained(tiny_plans), NetworkFormat.ONNX)
    network = onnx.load_model_from_string(files.contents["stage1.onnx"])
    set_external_data(network.graph.initializer[0], "/etc/hostname")
    network.graph.initializer[0].ClearField("raw_data")
    changed = ExportedFiles(NetworkFormat.ONNX, {**files.contents, "stage1.onnx": network.SerializeToString()})
    with pytest.raises(DetSeg3DError) as caught:
        ExportedNetwork(tiny_plans, changed)
    assert caught.value.value == network.graph.initializer[0].name


def test_precision_is_chosen_on_purpose() -> None:
    assert choose_backend_precision(Backend.ONNXRUNTIME) is Precision.FP32
    assert choose_backend_precision(Backend.OPENVINO, Precision.BF16) is Precision.BF16
    assert choose_backend_precision(Backend.OPENVINO) in (Precision.BF16, Precision.FP32)
    for backend, precision in ((Backend.ONNXRUNTIME, Precision.BF16), (Backend.OPENVINO, Precision.FP16)):
        with pytest.raises(DetSeg3DError) as caught:
            choose_backend_precision(backend, precision)
        assert caught.value.value == f"--precision {precision} on {backend}"


def test_openvino_in_bfloat16_is_close_to_float32_and_not_equal(tiny_plans: Plans) -> None:
    files = export_network(trained(tiny_plans), NetworkFormat.OPENVINO)
    image = torch.randn((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    exact, half = (
        ExportedNetwork(tiny_plans, files, precision, 1).detect(image).levels[0].heatmap
        for precision in (Precision.FP32, Precision.BF16)
    )
    difference = float((exact - half).abs().max())
    assert difference < 0.05 * float(exact.abs().max())
    if choose_backend_precision(Backend.OPENVINO) is Precision.BF16:
        assert difference > 0  # without the instructions, OpenVINO may compute in float32


def test_exported_networks_run_on_the_cpu_only(tiny_plans: Plans) -> None:
    network = ExportedNetwork(tiny_plans, export_network(trained(tiny_plans), NetworkFormat.ONNX))
    assert network.ready_on(torch.device("cpu")) is network
    with pytest.raises(DetSeg3DError) as caught:
        network.ready_on(torch.device("cuda"))
    assert caught.value.expected == "cpu"


def test_a_surplus_or_damaged_file_of_an_export_is_refused() -> None:
    usual = {name: np.ones(3, np.uint8) for name in file_names(NetworkFormat.ONNX)}
    assert ExportedFiles.from_arrays(NetworkFormat.ONNX, usual).to_arrays()["stage1.onnx"].tolist() == [1, 1, 1]
    for changes in ({"more": usual["stage1.onnx"]}, {"stage2.onnx": np.ones(3)}, {"stage1.onnx": np.ones(0, np.uint8)}):
        with pytest.raises(DetSeg3DError) as caught:
            ExportedFiles.from_arrays(NetworkFormat.ONNX, {**usual, **changes})
        assert caught.value.value in changes
