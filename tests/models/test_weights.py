from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.weights import load_weights, save_weights
from detseg3d.planning.plans import Plans


def layer(inputs: int = 3, outputs: int = 2) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def test_weights_come_back_to_the_bit(tmp_path: Path, tiny_plans: Plans) -> None:
    first, second = DetSeg3D(tiny_plans), DetSeg3D(tiny_plans)
    save_weights(first, tmp_path / "model.safetensors")
    assert load_weights(second, tmp_path / "model.safetensors") == []
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_metadata_is_kept_and_nothing_temporary_left(tmp_path: Path) -> None:
    save_weights(layer(), tmp_path / "model.safetensors", {"epoch": "7"})
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        assert file.metadata() == {"epoch": "7"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"the weights do not exist\n.*gone\.safetensors"):
        load_weights(layer(), tmp_path / "gone.safetensors")


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(2, 3)}, path)
    with pytest.raises(DetSeg3DError, match="the weights cannot be read"):
        load_weights(layer(), path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(layer(), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DetSeg3DError, match="the weights cannot be read"):
        load_weights(layer(), path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_weights(layer(3, 2), tmp_path / "w")
    with pytest.raises(DetSeg3DError, match=r"do not fit the plans \(1 missing, 1 left over\)"):
        load_weights(layer(4, 2), tmp_path / "w")


def test_weights_left_over_are_refused(tmp_path: Path) -> None:
    save_weights(nn.ModuleDict({"a": layer(), "b": layer()}), tmp_path / "w")
    with pytest.raises(DetSeg3DError, match=r"\(0 missing, 2 left over\)"):
        load_weights(nn.ModuleDict({"a": layer()}), tmp_path / "w")


def test_refused_weights_change_nothing(tmp_path: Path) -> None:
    model = layer(4, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_weights(layer(3, 2), tmp_path / "w")
    with pytest.raises(DetSeg3DError):
        load_weights(model, tmp_path / "w")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_for_fine_tuning_what_fits_is_loaded_and_the_rest_named(tmp_path: Path) -> None:
    source, model = layer(3, 2), layer(4, 2)
    save_weights(source, tmp_path / "w")
    assert load_weights(model, tmp_path / "w", strict=False) == ["weight"]
    assert torch.equal(model.bias, source.bias)


def test_for_fine_tuning_something_must_fit(tmp_path: Path) -> None:
    save_weights(layer(3, 2), tmp_path / "w")
    with pytest.raises(DetSeg3DError, match="none of the weights fits the model"):
        load_weights(nn.Conv3d(1, 1, 1), tmp_path / "w", strict=False)
