"""A narrow nnU-Net that a CPU can train: features 16 to 128, patches of 64 voxels, batch size 2, bfloat16.

Needs nnU-Net (``pip install nnunetv2``, written for 2.8.1) in an environment of its own, and a data set that
``nnUNetv2_plan_and_preprocess`` has prepared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.nn import functional as F

from detseg3d.system.json_files import read_json

__all__ = ["NarrowTrainer", "make_trainer"]


class _InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation as a batch normalisation of each sample.

    The results are equal. Only batch normalisation has a CPU kernel for channels-last tensors; with it, a training step
    takes 0.70 s instead of 0.92 s.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        samples = [
            F.batch_norm(sample, None, None, self.weight, self.bias, training=True, momentum=0.0, eps=self.eps)
            for sample in features.split(1)
        ]
        return torch.cat(samples)


class NarrowTrainer(nnUNetTrainer):
    """Trainer of nnU-Net for a CPU. It computes in bfloat16 with channels-last tensors."""

    def initialize(self) -> None:
        """Build the network and its optimizer."""
        super().initialize()
        for module in self.network.modules():
            if isinstance(module, nn.InstanceNorm3d):
                module.__class__ = _InstanceNorm
        self.network = self.network.to(memory_format=torch.channels_last_3d)

    def train_step(self, batch: dict[str, Any]) -> dict[str, float]:
        """Run one step and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self.network(batch["data"].contiguous(memory_format=torch.channels_last_3d))
        loss = self.loss([output.float() for output in outputs], batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": float(loss.detach())}


def make_trainer(dataset: str, fold: int) -> NarrowTrainer:
    """Return an initialised trainer of a prepared data set, for example ``Dataset101_SynthMS``."""
    folder = Path(str(nnUNet_preprocessed)) / dataset
    trainer = NarrowTrainer(
        _narrow(read_json(folder / "nnUNetPlans.json")),
        "3d_fullres",
        fold,
        read_json(folder / "dataset.json"),
        torch.device("cpu"),
    )
    trainer.initialize()
    torch.set_num_threads(1)
    return trainer


def _narrow(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans of an isotropic data set with a smaller network and smaller patches."""
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": [64, 64, 64], "batch_size": 2}
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": 5,
        "features_per_stage": [16, 32, 64, 128, 128],
        "kernel_sizes": [[3, 3, 3]] * 5,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * 4],
        "n_conv_per_stage": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
    }
    return {
        **plans,
        "plans_name": "narrowPlans",
        "configurations": {"3d_fullres": configuration},
        "continue_training": False,
    }
