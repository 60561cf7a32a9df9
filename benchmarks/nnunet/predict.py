r"""Predict scans with a narrow nnU-Net: no mirrored copies, tiles that overlap by half, one thread, bfloat16.

    python -m benchmarks.nnunet.predict Dataset101_SynthMS weights.pth \
        SCANS/gamma_medium/Dataset101_SynthMS/imagesTr MASKS/gamma_medium

Each scan ``CASE_0000.nii.gz`` gets a mask ``CASE.nii.gz`` and a probability map ``CASE.npz``. Scans that have a mask
already are left out. ``python -m benchmarks.shift --masks MASKS`` judges the masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn
from tqdm import tqdm

from benchmarks.nnunet.trainer import make_trainer


class _Bfloat16(nn.Module):
    """A network that computes in bfloat16 and returns float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits: torch.Tensor = self.network(patch.contiguous(memory_format=torch.channels_last_3d))
        return logits.float()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nnunet.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="data set of the training")
    parser.add_argument("weights", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--case_ids", nargs="+", metavar="CASE", help="predict only these scans")
    options = parser.parse_args()
    trainer = make_trainer(options.dataset, 0)
    plans, configuration, dataset_json = trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
    trainer.network.load_state_dict(torch.load(options.weights, weights_only=True))
    trainer.set_deep_supervision_enabled(False)
    network = _Bfloat16(trainer.network).eval()
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_mirroring=False,
        device=torch.device("cpu"),
        perform_everything_on_device=False,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network, plans, configuration, [network.state_dict()], dataset_json, type(trainer).__name__, None
    )
    preprocessor = configuration.preprocessor_class(verbose=False)
    ending = f"_0000{dataset_json['file_ending']}"
    options.masks.mkdir(parents=True, exist_ok=True)
    for first in tqdm(sorted(options.scans.glob(f"*{ending}"))):
        case_id = first.name.removesuffix(ending)
        mask = options.masks / f"{case_id}{dataset_json['file_ending']}"
        if mask.exists() or (options.case_ids and case_id not in options.case_ids):
            continue
        channels = sorted(options.scans.glob(f"{case_id}_????{dataset_json['file_ending']}"))
        images, _, properties = preprocessor.run_case(
            [str(channel) for channel in channels], None, plans, configuration, dataset_json
        )
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(images)).float()
        stem = str(options.masks / case_id)
        export_prediction_from_logits(
            logits, properties, configuration, plans, dataset_json, stem, save_probabilities=True, num_threads_torch=1
        )


if __name__ == "__main__":
    main()
