from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.weights import check_weights, load_weights, save_weights
from detseg3d.planning.plans import Plans


def layer(inputs: int = 3, outputs: int = 2) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def test_weights_are_read_bit_for_bit(tmp_path: Path, tiny_plans: Plans) -> None:
    first, second = DetSeg3D(tiny_plans), DetSeg3D(tiny_plans)
    save_weights(first, tmp_path / "model.safetensors")
    load_weights(second, tmp_path / "model.safetensors")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_metadata_are_kept_and_no_temporary_file_remains(tmp_path: Path) -> None:
    save_weights(layer(), tmp_path / "model.safetensors", {"epoch": "7"})
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        assert file.metadata() == {"epoch": "7"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="no umask on Windows")
@pytest.mark.parametrize("mask", [0o022, 0o007, 0o077])
def test_the_umask_decides_who_can_read_weights(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save_weights(layer(), tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(layer(), tmp_path / "gone.safetensors")
    assert caught.value.file == tmp_path / "gone.safetensors"


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(2, 3)}, path)
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(layer(), path)
    assert caught.value.file == path and caught.value.expected == "a complete safetensors file"


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(layer(), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(layer(), path)
    assert caught.value.file == path and caught.value.expected == "a complete safetensors file"


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_weights(layer(3, 2), tmp_path / "w")
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(layer(4, 2), tmp_path / "w")
    assert caught.value.file == tmp_path / "w" and caught.value.value == ["weight", "weight"]


def test_weights_left_over_are_refused(tmp_path: Path) -> None:
    save_weights(nn.ModuleDict({"a": layer(), "b": layer()}), tmp_path / "w")
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(nn.ModuleDict({"a": layer()}), tmp_path / "w")
    assert caught.value.file == tmp_path / "w" and caught.value.value == ["b.bias", "b.weight"]


def test_refused_weights_change_nothing(tmp_path: Path) -> None:
    model = layer(4, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_weights(layer(3, 2), tmp_path / "w")
    with pytest.raises(DetSeg3DError):
        load_weights(model, tmp_path / "w")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_and_change_nothing(tmp_path: Path, value: float) -> None:
    spoiled, model = layer(), layer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        spoiled.bias[1] = value
    save_weights(spoiled, tmp_path / "w")
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(model, tmp_path / "w")
    assert (caught.value.file, caught.value.value) == (tmp_path / "w", ["bias"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_weights_of_another_type_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in layer().state_dict().items()}, str(tmp_path / "w"))
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(layer(), tmp_path / "w")
    assert caught.value.file == tmp_path / "w" and str(caught.value.expected).startswith("F32")


def test_weights_are_checked_without_making_the_network(
    tmp_path: Path, tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors of the network have no memory, so a network of 1.5 GB is compared with its file quickly."""
    wide = tiny_plans.evolve(stage1={"channels": (2048, 1024)})
    devices = set()
    register = nn.Module.register_parameter

    def watch(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        devices.add(None if parameter is None else parameter.device.type)

    save_weights(DetSeg3D(tiny_plans), tmp_path / "w")
    monkeypatch.setattr(nn.Module, "register_parameter", watch)
    with pytest.raises(DetSeg3DError) as caught:
        check_weights(wide, tmp_path / "w")
    assert caught.value.file == tmp_path / "w"
    assert devices - {None} == {"meta"}


def test_weights_of_the_network_pass(tmp_path: Path, tiny_plans: Plans) -> None:
    save_weights(DetSeg3D(tiny_plans), tmp_path / "w")
    check_weights(tiny_plans, tmp_path / "w")


@pytest.mark.parametrize("value", [3e38, -3e38, 2e15])
def test_weights_that_no_training_produces_are_an_error_of_their_file(tmp_path: Path, value: float) -> None:
    source, model = layer(3, 2), layer(3, 2)
    with torch.no_grad():
        source.weight[0, 0] = value
    save_weights(source, tmp_path / "w")
    with pytest.raises(DetSeg3DError) as caught:
        load_weights(model, tmp_path / "w")
    assert caught.value.file == tmp_path / "w"
    assert caught.value.value == f"{abs(value):.3g} in weight"


def test_large_weights_that_a_network_can_work_with_are_loaded(tmp_path: Path) -> None:
    source, model = layer(3, 2), layer(3, 2)
    with torch.no_grad():
        source.weight[0, 0] = 1e14
    save_weights(source, tmp_path / "w")
    load_weights(model, tmp_path / "w")
    assert torch.equal(model.weight, source.weight)
