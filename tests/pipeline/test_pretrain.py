from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.transfer import transfer_weights
from detseg3d.models.weights import save_weights
from detseg3d.pipeline.pretrain import PretrainingOptions, like_plans, pretrain
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.synthetic.dataset import RANDOM_DATASET

# Plans of another data set: thick slices, a flat kernel, two channels, and two classes with a box each.
OTHER = {
    "fine_spacing": (3.0, 0.7, 0.7),
    "detection_spacing": (3.0, 0.7, 0.7),
    "channel_names": ("T1", "T2"),
    "normalization": ({"scheme": "zscore"},) * 2,
    "class_names": ("new", "old"),
    "class_labels": (1, 2),
    "stage1": {"strides": ((1, 2, 2), (1, 2, 2)), "kernels": ((1, 3, 3), (3, 3, 3)), "boxes_per_class": True},
    "roi": {"size": (8, 16, 16)},
}


def test_every_tensor_fits_the_plans_that_the_pretraining_imitates(tiny_plans: Plans, tmp_path: Path) -> None:
    target = tiny_plans.evolve(**OTHER)
    plans = like_plans(tiny_plans, target)
    save_weights(DetSeg3D(plans), tmp_path / "model_final.safetensors")
    save_plans(plans, tmp_path / "plans.json")
    transfer = transfer_weights(DetSeg3D(target), tmp_path / "model_final.safetensors")
    assert [module.name for module in transfer.modules if module.loaded < module.total] == []


def test_channels_classes_and_normalisation_remain_those_of_the_simulated_scans(tiny_plans: Plans) -> None:
    plans = like_plans(tiny_plans, tiny_plans.evolve(**OTHER))
    assert plans.fine_spacing == (3.0, 0.7, 0.7)
    assert plans.stage1.strides == ((1, 2, 2), (1, 2, 2))
    assert plans.roi.size == (8, 16, 16)
    assert plans.channel_names == tiny_plans.channel_names
    assert plans.class_names == tiny_plans.class_names
    assert plans.normalization == tiny_plans.normalization


def test_an_earlier_pretraining_is_not_overwritten(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / RANDOM_DATASET
    raw.mkdir(parents=True)
    (raw / "dataset.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        pretrain(tmp_path, PretrainingOptions())
    assert error.value.file == tmp_path
