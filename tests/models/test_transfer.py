"""Weights of one plan as the start of another plan, compared tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.networks.blocks import space_to_depth
from detseg3d.models.transfer import ModuleTransfer, Transfer, transfer_weights
from detseg3d.models.weights import save_weights
from detseg3d.planning.plans import Plans, save_plans

WITH_FINE_STAGE: dict[str, Any] = {
    "channels": (8, 8, 16),
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "kernels": ((3, 3, 3),) * 3,
    "blocks": (1, 1, 1),
    "head_stages": (1, 2),
}
DEEPER: dict[str, Any] = {
    "channels": (8, 16, 16),
    "strides": ((2, 2, 2), (2, 2, 2), (2, 2, 2)),
    "kernels": ((3, 3, 3),) * 3,
    "blocks": (1, 1, 1),
    "head_stages": (0, 1, 2),
    "level_max_sizes": ((10, 10, 10), (20, 20, 20)),
}


def network(plans: Plans, seed: int) -> DetSeg3D:
    """A network with a different value in every tensor, also where it starts with zeros or ones."""
    torch.manual_seed(seed)
    model = DetSeg3D(plans)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def transferred(source: Plans, own: Plans, folder: Path) -> tuple[DetSeg3D, DetSeg3D, Transfer]:
    """The network of ``source``, the network of ``own`` after the transfer, and the description of the transfer."""
    first, second = network(source, 1), network(own, 2)
    save_weights(first, folder / "model_final.safetensors")
    save_plans(source, folder / "plans.json")
    return first, second, transfer_weights(second, folder / "model_final.safetensors")


def same(first: DetSeg3D, second: DetSeg3D, names: dict[str, str]) -> bool:
    """Return True if all tensors below each prefix of the first network equal those of the second network."""
    one, other = first.state_dict(), second.state_dict()
    pairs = [
        (value, other[prefix + name.removeprefix(start)])
        for start, prefix in names.items()
        for name, value in one.items()
        if name.startswith(start)
    ]
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


def counts(modules: tuple[ModuleTransfer, ...]) -> tuple[int, int]:
    return sum(module.loaded for module in modules), sum(module.total for module in modules)


def test_the_same_plan_takes_everything(tiny_plans: Plans, tmp_path: Path) -> None:
    first, second, transfer = transferred(tiny_plans, tiny_plans, tmp_path)
    assert same(first, second, {"": ""})
    assert counts(transfer.modules) == (len(first.state_dict()),) * 2
    assert not any(module.adapted for module in transfer.modules)


def test_stages_are_matched_by_stride_if_only_the_source_has_a_fine_stage(tiny_plans: Plans, tmp_path: Path) -> None:
    source = tiny_plans.evolve(stage1=WITH_FINE_STAGE)
    first, second, transfer = transferred(source, tiny_plans, tmp_path)
    assert same(first, second, {"detector.stages.2.": "detector.stages.1.", "detector.heads.": "detector.heads."})
    assert same(first, second, {"detector.stages.1.1.": "detector.stages.0.1."})
    # Here the first convolution sees the image, there the features of the fine stage.
    stem = "detector.stages.0.0.0.weight"
    assert torch.equal(second.state_dict()[stem], network(tiny_plans, 2).state_dict()[stem])
    assert counts(transfer.backbone)[0] == counts(transfer.backbone)[1] - 1
    assert [module.source for module in transfer.backbone] == ["stride 2×2×2", "stride 4×4×4"]


def test_stages_are_matched_by_stride_if_only_the_network_has_a_fine_stage(tiny_plans: Plans, tmp_path: Path) -> None:
    own = tiny_plans.evolve(stage1=WITH_FINE_STAGE)
    first, second, transfer = transferred(tiny_plans, own, tmp_path)
    assert same(first, second, {"detector.stages.1.": "detector.stages.2.", "detector.laterals.": "detector.laterals."})
    assert same(second, network(own, 2), {"detector.stages.0.": "detector.stages.0."})
    assert transfer.backbone[0].loaded == 0 and transfer.backbone[0].source == ""


@pytest.mark.parametrize(("old", "new"), [(1, 3), (2, 1), (2, 3)])
def test_equal_channels_give_the_activations_of_before(tiny_plans: Plans, tmp_path: Path, old: int, new: int) -> None:
    def plans(count: int) -> Plans:
        names = tuple(f"channel {index}" for index in range(count))
        return tiny_plans.evolve(channel_names=names, normalization=[{"scheme": "zscore"}] * count)

    first, second, transfer = transferred(plans(old), plans(new), tmp_path)
    assert counts(transfer.modules) == (len(first.state_dict()),) * 2
    image = torch.randn((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    before = first.detector.stages[0][0][0](space_to_depth(image.expand(-1, old, -1, -1, -1), (2, 2, 2)))
    after = second.detector.stages[0][0][0](space_to_depth(image.expand(-1, new, -1, -1, -1), (2, 2, 2)))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    box = torch.rand((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    crops = [torch.cat([image.expand(-1, count, -1, -1, -1), box], dim=1) for count in (old, new)]
    torch.testing.assert_close(
        second.segmenter.encoder[0](crops[1]), first.segmenter.encoder[0](crops[0]), rtol=1e-3, atol=1e-4
    )


def test_heads_are_matched_by_the_size_of_their_cells_in_mm(tiny_plans: Plans, tmp_path: Path) -> None:
    # Cells of 2 and 4 mm in the source, of 4 and 8 mm in the network.
    own = tiny_plans.evolve(fine_spacing=(2, 2, 2), detection_spacing=(2, 2, 2))
    first, second, _ = transferred(tiny_plans, own, tmp_path)
    for level in range(2):
        assert same(first, second, {"detector.heads.1.": f"detector.heads.{level}."})
        assert same(first, second, {"detector.smooth.1.": f"detector.smooth.{level}."})
    assert same(first, second, {"detector.stages.": "detector.stages."})


def test_further_levels_take_the_nearest_head(tiny_plans: Plans, tmp_path: Path) -> None:
    own = tiny_plans.evolve(stage1=DEEPER)
    first, second, transfer = transferred(tiny_plans, own, tmp_path)
    assert same(first, second, {f"detector.heads.{level}.": f"detector.heads.{level}." for level in range(2)})
    assert same(first, second, {"detector.heads.1.": "detector.heads.2."})
    assert [module.loaded > 0 for module in transfer.backbone] == [True, True, False]


def test_fewer_levels_take_the_heads_with_their_cell_sizes(tiny_plans: Plans, tmp_path: Path) -> None:
    source = tiny_plans.evolve(stage1=DEEPER)
    first, second, transfer = transferred(source, tiny_plans, tmp_path)
    assert same(second, first, {"detector.": "detector."})
    assert counts(transfer.modules) == (len(second.state_dict()),) * 2


def test_outputs_follow_the_names_of_classes(tiny_plans: Plans, tmp_path: Path) -> None:
    source = tiny_plans.evolve(class_names=("cyst", "tumour"), class_labels=(1, 2))
    own = tiny_plans.evolve(class_names=("tumour", "oedema", "cyst"), class_labels=(1, 2, 3))
    first, second, _ = transferred(source, own, tmp_path)
    for name in ("detector.heads.0.heatmap.weight", "segmenter.mask.bias", "segmenter.score.2.weight"):
        old, new = first.state_dict()[name], second.state_dict()[name]
        torch.testing.assert_close(new, torch.stack([old[1], old.mean(dim=0), old[0]]))


def test_the_dense_map_follows_the_names_of_classes(tiny_plans: Plans, tmp_path: Path) -> None:
    dense = {"dense_channels": 4}
    source = tiny_plans.evolve(stage1=dense, class_names=("cyst", "tumour"), class_labels=(1, 2))
    own = tiny_plans.evolve(stage1=dense, class_names=("tumour", "oedema", "cyst"), class_labels=(1, 2, 3))
    first, second, transfer = transferred(source, own, tmp_path)
    [module] = [module for module in transfer.modules if module.name == "dense map"]
    assert module.loaded == module.total and module.adapted == 2
    old, new = (model.state_dict()["detector.dense.1.weight"] for model in (first, second))
    torch.testing.assert_close(new, torch.stack([old[1], old.mean(dim=0), old[0]]))
    assert same(first, second, {"detector.dense.0.": "detector.dense.0."})


def test_a_dense_map_of_another_width_is_not_copied(tiny_plans: Plans, tmp_path: Path) -> None:
    source, own = (tiny_plans.evolve(stage1={"dense_channels": width}) for width in (4, 8))
    _, _, transfer = transferred(source, own, tmp_path)
    [module] = [module for module in transfer.modules if module.name == "dense map"]
    assert str(module) == "dense map: 1 of 5 tensors from the same"


def test_as_many_classes_of_other_names_keep_their_places(tiny_plans: Plans, tmp_path: Path) -> None:
    first, second, transfer = transferred(tiny_plans, tiny_plans.evolve(class_names=("nodule",)), tmp_path)
    assert same(first, second, {"": ""})
    assert not any(module.adapted for module in transfer.modules)


def test_flat_kernels_become_deep_kernels_with_the_same_output(tiny_plans: Plans, tmp_path: Path) -> None:
    flat = tiny_plans.evolve(stage1={"kernels": ((1, 3, 3), (3, 3, 3))})
    first, second, transfer = transferred(flat, tiny_plans, tmp_path)
    image = torch.randn((1, 8, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(second.detector.stages[0](image), first.detector.stages[0](image), rtol=1e-4, atol=1e-4)
    assert transfer.backbone[0].adapted == 3


def test_deep_kernels_are_summed_to_flat_kernels(tiny_plans: Plans, tmp_path: Path) -> None:
    flat = tiny_plans.evolve(stage1={"kernels": ((1, 3, 3), (3, 3, 3))})
    first, second, _ = transferred(tiny_plans, flat, tmp_path)
    name = "detector.stages.0.0.0.weight"
    torch.testing.assert_close(second.state_dict()[name], first.state_dict()[name].sum(dim=2, keepdim=True))


def test_another_backbone_is_refused_and_nothing_changed(tiny_plans: Plans, tmp_path: Path) -> None:
    save_weights(network(tiny_plans, 1), tmp_path / "model_final.safetensors")
    save_plans(tiny_plans, tmp_path / "plans.json")
    wider = tiny_plans.evolve(stage1={"channels": (12, 24)})
    model = network(wider, 2)
    with pytest.raises(DetSeg3DError) as caught:
        transfer_weights(model, tmp_path / "model_final.safetensors")
    assert caught.value.file == tmp_path / "model_final.safetensors"
    assert "(8, 16)" in str(caught.value.value) and "(12, 24)" in str(caught.value.expected)
    assert same(model, network(wider, 2), {"": ""})


def test_weights_without_their_plans_are_refused(tiny_plans: Plans, tmp_path: Path) -> None:
    save_weights(network(tiny_plans, 1), tmp_path / "model_final.safetensors")
    with pytest.raises(DetSeg3DError) as caught:
        transfer_weights(network(tiny_plans, 2), tmp_path / "model_final.safetensors")
    assert caught.value.file == tmp_path / "plans.json"


def test_the_transfer_is_described_in_words() -> None:
    assert str(ModuleTransfer("head", "cells of 2×2×2 mm", 4, 6, 2)) == (
        "head: 4 of 6 tensors from cells of 2×2×2 mm, 2 of them adapted"
    )
    assert str(ModuleTransfer("head", "", 0, 6)) == "head: not initialised from the pretrained weights"


def test_one_box_for_all_classes_becomes_a_box_for_each_class_and_back(tiny_plans: Plans, tmp_path: Path) -> None:
    shared = tiny_plans.evolve(class_names=("cyst", "tumour"), class_labels=(1, 2))
    apart = shared.evolve(stage1={"boxes_per_class": True})
    name = "detector.heads.0.regression.weight"
    first, second, _ = transferred(shared, apart, tmp_path)
    old, new = first.state_dict()[name], second.state_dict()[name]
    assert torch.equal(new, torch.cat([old[:3], old[:3], old[3:], old[3:]]))
    first, second, _ = transferred(apart, shared, tmp_path)
    old, new = first.state_dict()[name], second.state_dict()[name]
    torch.testing.assert_close(new, torch.cat([(old[:3] + old[3:6]) / 2, (old[6:9] + old[9:]) / 2]))
    swapped = apart.evolve(class_names=("tumour", "cyst"), class_labels=(2, 1))
    first, second, _ = transferred(apart, swapped, tmp_path)
    old, new = first.state_dict()[name], second.state_dict()[name]
    assert torch.equal(new, torch.cat([old[3:6], old[:3], old[9:], old[6:9]]))


def test_a_stage_that_pools_other_axes_takes_the_weights_of_the_nearest_stage(
    tiny_plans: Plans, tmp_path: Path
) -> None:
    flat = tiny_plans.evolve(stage1={"strides": ((2, 2, 2), (2, 1, 1))})
    first, second, transfer = transferred(tiny_plans, flat, tmp_path)
    assert same(first, second, {"detector.stages.": "detector.stages."})
    assert [module.source for module in transfer.backbone] == ["stride 2×2×2", "stride 4×4×4"]
