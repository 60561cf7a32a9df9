"""A network or a loss of one's own goes through the training and the inference as an object that is passed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.case_store import CaseStore
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.objectives.losses import roi_mask_loss
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.appearance.training import TrainingAppearance, save_training_appearance
from detseg3d.planning.plans import Plans
from tests.training.conftest import records, train


class WithBatchNorm(DetSeg3D):
    """Stage 1 reads what a further layer, with weights and statistics of its own, has made of the image."""

    def __init__(self, plans: Plans) -> None:
        super().__init__(plans)
        self.entrance = nn.BatchNorm3d(plans.num_channels)

    def to_detection_grid(self, image: torch.Tensor) -> torch.Tensor:
        return super().to_detection_grid(self.entrance(image))


def halved(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return roi_mask_loss(logits, target, weight) / 2


@pytest.fixture(scope="module")
def own_network(tmp_path_factory: pytest.TempPathFactory, plans: Plans, store: CaseStore) -> Path:
    """A results folder with a fold of a network that is not part of the package."""
    folder = tmp_path_factory.mktemp("own_network")
    train(plans, store, folder / "fold_0", build_model=WithBatchNorm)
    return folder


def test_a_network_of_ones_own_is_trained_and_predicts(own_network: Path, plans: Plans) -> None:
    scan = measure_appearance(np.zeros((1, 24, 24, 24), np.float32), Geometry((24, 24, 24)))
    reference = TrainingAppearance.of([scan], plans.channel_names, plans.normalization)
    save_training_appearance(reference, own_network / "fold_0" / "appearance.json")
    predictor = Predictor.from_model_folder(own_network, [0], LoadOptions(build_model=WithBatchNorm))
    entrance = predictor.models[0].entrance
    assert isinstance(entrance, nn.BatchNorm3d)
    # Statistics are no parameters: the moving average must have taken them over, too.
    assert entrance.num_batches_tracked is not None and entrance.num_batches_tracked > 0
    prediction = predictor.predict_array(np.zeros((24, 24, 24), np.float32), (1, 1, 1))
    assert prediction.semantic.shape == (24, 24, 24)


def test_weights_of_another_network_are_refused(own_network: Path) -> None:
    with pytest.raises(DetSeg3DError, match="the weights do not fit the plans"):
        Predictor.from_model_folder(own_network, [0])


def test_a_loss_of_ones_own_is_what_the_masks_learn_by(
    plans: Plans, store: CaseStore, trained: Path, tmp_path: Path
) -> None:
    train(plans, store, tmp_path / "fold_0", build_model=partial(DetSeg3D, mask_loss=halved))
    usual, own = records(trained)[0]["losses"], records(tmp_path / "fold_0")[0]["losses"]
    assert own["segmentation"] < 0.75 * usual["segmentation"]
