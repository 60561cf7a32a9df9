from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.errors import DetSeg3DError
from detseg3d.models import detseg
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.merging.decode import DenseLevel, Detections, decode, suppression_of
from detseg3d.models.networks.detector import DetectorOutput, LevelOutput
from detseg3d.models.networks.segmenter import SegmenterOutput
from detseg3d.models.objectives.roi_sampling import RoiSample
from detseg3d.models.objectives.targets import VolumeTargets
from detseg3d.planning.plans import Plans
from tests.models.factory import LESIONS, SHAPE, gradients, make_image, make_model, make_targets, train

EVERYTHING: dict[str, Any] = {"candidate_threshold": 0.0, "score_threshold": 0.0, "max_candidates": 12}


def anisotropic(plans: Plans) -> Plans:
    """Fine grid 3×1×1 mm, detection grid 3×2×2 mm, cells of 1×4×4 and 2×8×8 fine voxels."""
    return plans.evolve(
        fine_spacing=[3, 1, 1],
        detection_spacing=[3, 2, 2],
        stage1={"strides": [[1, 2, 2], [2, 2, 2]], "level_max_sizes": [[15, 15, 15]]},
    )


# -- What Stage 2 is shown and asked -----------------------------------------------------------------------------


def roi_batch(model: DetSeg3D, target: VolumeTargets, sample: RoiSample) -> Any:
    image = (target.instances == 1).float()[None, None]
    return model._crop_batch(image, [target], [sample], np.random.default_rng(0))


def sample_of(box: list[float], lesion: int, label: int = 0) -> RoiSample:
    return RoiSample(np.array([box], np.float32), np.array([label]), np.array([lesion]))


def test_target_and_image_are_cropped_alike(model: DetSeg3D) -> None:
    # An image that equals the mask must be cropped to the target, wherever the box lies.
    target = make_targets(SHAPE, LESIONS)
    batch = roi_batch(model, target, sample_of([3.3, 4.9, 3.1, 8.2, 9.4, 7.7], 1))
    assert torch.allclose(batch.crops[:, 0], batch.target, atol=1e-6) and batch.target.max() > 0.9
    assert batch.positive.tolist() == [1]


def test_other_lesions_of_the_class_carry_no_weight(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, roi={"minimum_extent": [8, 8, 8]})
    target = make_targets((16, 16, 16), [[4, 4, 4, 8, 8, 8], [4, 4, 9, 8, 8, 11]])
    batch = roi_batch(model, target, sample_of([4, 4, 4, 8, 8, 8], 1))  # the RoI runs from 2 to 10: 2 samples a voxel
    assert batch.weight[0, 8, 8, 15] == 0 and batch.weight[0, 8, 8, 8] == 1
    assert batch.target[0, 8, 8, 15] == 0


def test_lesions_of_another_class_are_background(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, class_names=["a", "b"], class_labels=[1, 2])
    target = make_targets((16, 16, 16), [[4, 4, 4, 8, 8, 8], [4, 4, 9, 8, 8, 11]], classes=[0, 1])
    batch = roi_batch(model, target, sample_of([4, 4, 4, 8, 8, 8], 1))
    assert (batch.weight == 1).all() and batch.target[0, 8, 8, 15] == 0


def test_samples_outside_the_volume_carry_no_weight(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, roi={"minimum_extent": [8, 8, 8]})
    target = make_targets((16, 16, 16), [[0, 4, 4, 4, 8, 8]])
    batch = roi_batch(model, target, sample_of([0, 4, 4, 4, 8, 8], 1))  # z from -2 to 6
    assert not batch.weight[0, :4].any() and (batch.weight[0, 4:] == 1).all()


def test_a_box_without_a_lesion_has_an_empty_target(model: DetSeg3D) -> None:
    batch = roi_batch(model, make_targets(SHAPE, LESIONS), sample_of([3, 4, 3, 8, 9, 7], 0))
    assert not batch.target.any() and batch.positive.tolist() == [0]
    assert batch.weight.min() == 0  # a lesion lies there that is not meant: neither right nor wrong


def test_a_box_of_several_tiles_gives_a_single_roi(model: DetSeg3D) -> None:
    target = make_targets((40, 40, 40), [[2, 2, 2, 38, 38, 38]])
    assert len(model.tiles([[2, 2, 2, 38, 38, 38]])[0]) > 1
    assert roi_batch(model, target, sample_of([2, 2, 2, 38, 38, 38], 1)).crops.shape == (1, 2, 16, 16, 16)


class Mapped(DetSeg3D):
    """A detector with one proposal of a given probability and a dense map that is high in one place."""

    proposal = 0.0
    edge = 3

    def detect(self, image: torch.Tensor) -> DetectorOutput:
        output = super().detect(image)
        levels = [
            level._replace(heatmap=torch.full_like(level.heatmap, -20.0), log_size=level.log_size.clone())
            for level in output.levels
        ]
        levels[0].heatmap[0, 0, 1, 1, 1] = math.log(self.proposal / (1 - self.proposal)) if self.proposal else -20.0
        levels[0].log_size[0, :, 1, 1, 1] = math.log(6.0)
        assert output.dense is not None
        dense = torch.full_like(output.dense, -9.0)
        dense[..., : self.edge, : self.edge, : self.edge] = 9.0
        return output._replace(levels=levels, dense=dense)


@pytest.mark.parametrize(("proposal", "edge", "expected"), [(0.0, 3, 1), (0.2, 3, 1), (0.9, 3, 0), (0.0, 2, 0)])
def test_stage_2_trains_on_the_components_of_unlike_scans_that_no_strong_box_covers(
    proposal: float, edge: int, expected: int, tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = math.prod(DetSeg3D(tiny_plans).cell_sizes[0])
    volumes = {"dense_minimum_mm3": 100 * cell, "dense_minimum_unlike_mm3": 12 * cell}
    plans = tiny_plans.evolve(stage1={"dense_channels": 4}, inference=volumes)
    model, given = Mapped(plans), []
    model.proposal, model.edge = proposal, edge
    plain = detseg.sample_boxes

    def record(target: VolumeTargets, proposals: Detections, *rest: Any) -> RoiSample:
        given.append(proposals)
        return plain(target, proposals, *rest)

    monkeypatch.setattr(detseg, "sample_boxes", record)
    target = make_targets(SHAPE, LESIONS)
    model.losses(make_image([target]), [target], np.random.default_rng(0))
    [proposals] = given
    is_component = np.isclose(proposals.scores, 1 / (1 + math.exp(-9)))
    assert is_component.sum() == expected
    assert proposals.boxes[is_component].tolist() == [[0, 0, 0, *(3 * np.array(model.cell_sizes[0]))]] * expected
    assert proposals.scores.tolist() == sorted(proposals.scores.tolist(), reverse=True)


def test_each_roi_answers_for_its_own_class() -> None:
    mask = torch.arange(6.0).reshape(2, 3, 1, 1, 1)
    output = DetSeg3D._own_class(SegmenterOutput(mask, mask.flatten(1)), torch.tensor([2, 0]))
    assert output.mask.flatten().tolist() == [2, 3] and output.score.tolist() == [2, 3]


# -- Grids -----------------------------------------------------------------------------------------------------


def test_an_equal_detection_grid_is_the_image_itself_padded_with_zeros(model: DetSeg3D) -> None:
    image = torch.ones(1, 1, 6, 8, 9)
    grid = model.to_detection_grid(image)
    assert grid.shape == (1, 1, 8, 8, 12)
    assert torch.equal(grid[:, :, :6, :, :9], image) and grid.sum() == image.sum()


def test_a_coarser_detection_grid_holds_the_means(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, detection_spacing=[1, 2, 2])
    image = torch.rand(2, 1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    wanted = image.reshape(2, 1, 4, 4, 2, 8, 2).mean(dim=(4, 6))
    assert torch.allclose(model.to_detection_grid(image), wanted, atol=1e-5)


def test_a_detection_grid_of_any_scale_covers_the_volume(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, detection_spacing=[1.7, 1.3, 1])
    grid = model.to_detection_grid(torch.ones(1, 1, 10, 10, 8))  # 5.9 × 7.7 × 8 detection voxels
    assert grid.shape == (1, 1, 8, 8, 8)
    assert torch.allclose(grid[:, :, :6], torch.ones(1, 1, 6, 8, 8)) and not grid[:, :, 6:].any()


@pytest.mark.parametrize("change", ["isotropic", "anisotropic"])
def test_feature_crops_lie_where_the_image_crops_lie(tiny_plans: Plans, change: str) -> None:
    # A map that holds the position of each cell's centre (fine voxels) must be read off at the samples' positions.
    model = make_model(anisotropic(tiny_plans) if change == "anisotropic" else tiny_plans)
    axes = [(torch.arange(12) + 0.5) * size for size in model.cell_sizes[0]]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    roi = np.array([[5.0, 6, 8, 9, 14, 15]])
    crops = model.crop_features(positions, roi)
    for axis in range(3):
        wanted = roi[0, axis] + (np.arange(8) + 0.5) / 8 * (roi[0, axis + 3] - roi[0, axis])
        found = crops[0, axis].movedim(axis, 0)[:, 3, 3].numpy()
        assert np.allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("change", ["isotropic", "anisotropic"])
def test_ideal_outputs_decode_to_the_boxes_of_the_truth(tiny_plans: Plans, change: str) -> None:
    model = make_model(anisotropic(tiny_plans) if change == "anisotropic" else tiny_plans)
    boxes = [[3, 3, 3, 4, 6, 7], [12, 20, 18, 20, 40, 39], [2, 30, 2, 5, 31, 4]]
    target = make_targets((24, 44, 42), boxes)
    with torch.no_grad():
        output = model.detect(model.to_detection_grid(torch.zeros(1, 1, 24, 44, 42)))
    ideal = []
    for level, wanted in zip(output.levels, model._level_targets(output, [target]), strict=True):
        volume, z, y, x = wanted.cells.unbind(1)
        log_size, offset = torch.zeros_like(level.log_size), torch.zeros_like(level.offset)
        log_size[volume, :, z, y, x], offset[volume, :, z, y, x] = wanted.log_size, wanted.offset
        ideal.append(LevelOutput(wanted.heatmap[0], log_size[0], offset[0]))
    assert all(level.heatmap.max() == 1 for level in ideal)  # both levels have lesions
    suppression = suppression_of(model.plans.inference, limit=100)
    found = decode([_dense(level) for level in ideal], model.cell_sizes, (24, 44, 42), 0.5, suppression)
    assert np.allclose(found.boxes[np.lexsort(found.boxes.T[::-1])].round(2), sorted(boxes), atol=0.02)


def _dense(level: LevelOutput) -> Any:
    return DenseLevel(level.heatmap, level.log_size, level.offset)


# -- Inference -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tiny_plans: Plans) -> dict[str, Any]:
    model = make_model(tiny_plans, inference=EVERYTHING, class_labels=[7])
    out: dict[str, Any] = model(make_image([make_targets(SHAPE, LESIONS)]), mode="test")
    return out


def test_the_segmentation_has_the_shape_of_the_volume_and_the_labels_of_the_files(result: dict[str, Any]) -> None:
    segmentation = result["full_segmentation"]
    assert segmentation.shape == SHAPE and segmentation.dtype == torch.uint8
    assert segmentation.unique().tolist() == [0, 7]


def test_instances_and_segmentation_agree(result: dict[str, Any]) -> None:
    assert result["instances"].dtype == torch.int32
    assert torch.equal(result["instances"] > 0, result["full_segmentation"] > 0)


def test_roi_info_describes_every_instance(result: dict[str, Any]) -> None:
    ids, boxes = boxes_from_instances(result["instances"].numpy())
    info = {lesion["id"]: lesion for lesion in result["roi_info"]}
    assert sorted(info) == ids.tolist() and len(ids) > 0
    for lesion, box in zip(ids.tolist(), boxes.tolist(), strict=True):
        assert info[lesion]["box"] == box and info[lesion]["label"] == 7 and info[lesion]["class"] == "lesion"
        assert info[lesion]["voxels"] == int((result["instances"] == lesion).sum())


def test_roi_info_is_sorted_by_score(result: dict[str, Any]) -> None:
    scores = [lesion["score"] for lesion in result["roi_info"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_prediction_is_deterministic(tiny_plans: Plans, result: dict[str, Any]) -> None:
    model = make_model(tiny_plans, inference=EVERYTHING, class_labels=[7])
    image = make_image([make_targets(SHAPE, LESIONS)])
    for _ in range(2):
        again = model(image, mode="test")
        assert torch.equal(again["full_segmentation"], result["full_segmentation"])
        assert again["roi_info"] == result["roi_info"]


def test_prediction_does_not_change_image_and_weights(model: DetSeg3D) -> None:
    image = make_image([make_targets(SHAPE, LESIONS)])
    before, weights = image.clone(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(image)
    assert torch.equal(image, before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_the_size_of_the_roi_batches_does_not_matter(tiny_plans: Plans, result: dict[str, Any]) -> None:
    model = make_model(tiny_plans, inference={**EVERYTHING, "roi_batch_size": 3}, class_labels=[7])
    again = model(make_image([make_targets(SHAPE, LESIONS)]), mode="test")
    assert (again["full_segmentation"] != result["full_segmentation"]).float().mean() < 1e-3


def test_a_volume_in_which_nothing_is_found_gives_an_empty_result(tiny_plans: Plans) -> None:
    out = make_model(tiny_plans, inference={"candidate_threshold": 1.0})(torch.zeros(1, 1, 9, 10, 11))
    assert out["roi_info"] == [] and out["full_segmentation"].shape == (9, 10, 11) and not out["instances"].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 5)])
def test_odd_volumes_are_segmented(tiny_plans: Plans, shape: tuple[int, int, int]) -> None:
    out = make_model(tiny_plans, inference=EVERYTHING)(torch.randn(1, 1, *shape))
    assert out["full_segmentation"].shape == shape


def test_anisotropic_grids_are_segmented(tiny_plans: Plans) -> None:
    out = make_model(anisotropic(tiny_plans), inference=EVERYTHING)(torch.randn(1, 1, 7, 30, 26))
    assert out["full_segmentation"].shape == (7, 30, 26) and out["roi_info"]


# -- Errors ----------------------------------------------------------------------------------------------------


def test_an_unknown_mode_is_an_error(model: DetSeg3D) -> None:
    with pytest.raises(DetSeg3DError, match=r"unknown mode\n.*'predict'\n.*'train' or 'test'"):
        model(torch.zeros(1, 1, 8, 8, 8), mode="predict")


def test_training_needs_targets(model: DetSeg3D) -> None:
    with pytest.raises(DetSeg3DError, match="mode 'train' needs the targets of every volume of the batch"):
        model(torch.zeros(1, 1, 8, 8, 8), mode="train")


def test_training_needs_targets_of_every_volume(model: DetSeg3D) -> None:
    with pytest.raises(DetSeg3DError, match="targets of every volume"):
        model(torch.zeros(2, 1, 8, 8, 8), mode="train", targets=[make_targets((8, 8, 8), [])])


def test_prediction_takes_one_volume(model: DetSeg3D) -> None:
    with pytest.raises(DetSeg3DError, match="one volume at a time"):
        model(torch.zeros(2, 1, 8, 8, 8))


@pytest.mark.parametrize("shape", [(1, 2, 8, 8, 8), (1, 8, 8, 8)])
def test_an_image_of_the_wrong_shape_is_an_error(model: DetSeg3D, shape: tuple[int, ...]) -> None:
    with pytest.raises(DetSeg3DError, match=r"does not fit the model\n.*\n.*\(B, 1, Z, Y, X\)"):
        model(torch.zeros(shape))


def test_context_attention_learns_from_the_coarsest_map(tiny_plans: Plans) -> None:
    """The last layer of the attention starts at zero, so the first step changes only this layer."""
    model = make_model(tiny_plans, stage2={"context_attention": True})
    train(model, [make_targets(SHAPE, LESIONS), make_targets(SHAPE, LESIONS[:1])]).segmentation.backward()
    attention = model.segmenter.attention
    assert attention is not None
    assert gradients(attention.attention.out_proj) > 0


def test_context_attention_predicts(tiny_plans: Plans) -> None:
    model = make_model(tiny_plans, stage2={"context_attention": True}, inference=EVERYTHING).eval()
    output = model(torch.randn(1, 1, *SHAPE), mode="test")
    assert output["full_segmentation"].shape == SHAPE
