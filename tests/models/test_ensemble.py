from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.models import ensemble
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.ensemble import (
    DetectOptions,
    GridImages,
    MemberScores,
    SegmentedRois,
    average_dense,
    detect,
    flip_combinations,
    flip_dense,
    highest_near,
    segment_rois,
)
from detseg3d.models.merging.decode import DenseLevel, Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.networks.detector import DetectorOutput, LevelOutput
from detseg3d.models.networks.segmenter import SegmenterOutput
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan

axes = st.sets(st.integers(0, 2)).map(sorted)


@pytest.mark.parametrize(
    ("given_axes", "expected"),
    [
        ((), [()]),
        ((1,), [(), (1,)]),
        ((2, 0), [(), (0,), (2,), (0, 2)]),
        ((0, 0), [(), (0,)]),
        ((0, 1, 2), [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]),
    ],
)
def test_flip_combinations(given_axes: tuple[int, ...], expected: list[tuple[int, ...]]) -> None:
    assert flip_combinations(given_axes) == expected


def make_level(seed: int = 0) -> DenseLevel:
    random = torch.Generator().manual_seed(seed)
    return DenseLevel(*(torch.randn(channels, 3, 4, 5, generator=random) for channels in (2, 3, 3)))


def assert_equal_levels(first: DenseLevel, second: DenseLevel) -> None:
    for name in ("probability", "log_size", "offset"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), atol=1e-6, rtol=1e-5)


def options(mirror_axes: tuple[int, ...] = (), **inference: float) -> DetectOptions:
    return DetectOptions(InferencePlan(**inference), mirror_axes)


@given(axes)
def test_each_box_of_a_cell_is_flipped_like_a_single_box(flipped: list[int]) -> None:
    first, second = make_level(0), make_level(1)
    both = DenseLevel(
        first.probability,
        torch.cat([first.log_size, second.log_size]),
        torch.cat([first.offset, second.offset]),
    )
    turned = flip_dense(both, flipped)
    for index, level in enumerate((first, second)):
        boxes = slice(3 * index, 3 * index + 3)
        alone = flip_dense(level, flipped)
        assert torch.equal(turned.offset[boxes], alone.offset)
        assert torch.equal(turned.log_size[boxes], alone.log_size)


@given(axes)
def test_flipping_twice_changes_nothing(flipped: list[int]) -> None:
    level = make_level()
    assert_equal_levels(flip_dense(flip_dense(level, flipped), flipped), level)


def test_a_flip_moves_the_centre_together_with_the_cell() -> None:
    """An object at position p of n cells lies at n - p in the flipped image: for the cell and its offset together."""
    level = make_level()
    back = flip_dense(level, (2,))
    for z, y, x in np.ndindex(3, 4, 5):
        mirrored = 4 - x
        place = x + 0.5 + float(level.offset[2, z, y, x])
        assert mirrored + 0.5 + float(back.offset[2, z, y, mirrored]) == pytest.approx(5 - place, abs=1e-6)
        assert float(back.offset[0, z, y, mirrored]) == float(level.offset[0, z, y, x])
        assert torch.equal(back.probability[:, z, y, mirrored], level.probability[:, z, y, x])
        assert torch.equal(back.log_size[:, z, y, mirrored], level.log_size[:, z, y, x])


class Toy:
    """Stage 1 that turns with its image: the heatmap is the image, the offset its slope, the size a sum."""

    def __init__(self, gain: float = 1.0, biased: bool = False) -> None:
        self.gain, self.biased, self.calls = gain, biased, 0

    def detect(self, image: torch.Tensor) -> DetectorOutput:
        self.calls += 1
        middle = image[:, :1] * self.gain
        slope = torch.cat([image.roll(-1, axis) - image.roll(1, axis) for axis in (2, 3, 4)], dim=1) * 0.1
        sums = torch.cat([image.roll(-1, axis) + image.roll(1, axis) for axis in (2, 3, 4)], dim=1)
        if self.biased:  # what a network does that has learned left from right
            middle = middle + torch.linspace(0, 1, image.shape[4])
        return DetectorOutput([LevelOutput(middle, sums, slope)], middle)

    def precision_on(self, _device: torch.device) -> Precision:
        return Precision.FP32


def make_image(shape: tuple[int, int, int] = (4, 5, 6)) -> torch.Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("mirror_axes", [(2,), (0, 1), (0, 1, 2)])
def test_flips_change_nothing_for_a_network_that_turns_with_its_image(mirror_axes: tuple[int, ...]) -> None:
    [plain] = average_dense([Toy()], make_image(), options()).levels  # type: ignore[list-item]
    [averaged] = average_dense([Toy()], make_image(), options(mirror_axes)).levels  # type: ignore[list-item]
    assert_equal_levels(plain, averaged)


def test_flips_change_something_for_a_network_that_does_not() -> None:
    toy = Toy(biased=True)
    [plain], [averaged] = (average_dense([toy], make_image(), options(axes)).levels for axes in ((), (2,)))  # type: ignore[list-item]
    assert not torch.allclose(plain.probability, averaged.probability)


def test_every_flip_is_one_pass() -> None:
    toy = Toy()
    average_dense([toy], make_image(), options((0, 1, 2)))  # type: ignore[list-item]
    assert toy.calls == 8


def blobs(shape: tuple[int, int, int]) -> torch.Tensor:
    """An image ``(1, 1, Z, Y, X)`` that is bright in one corner block and dark elsewhere."""
    image = torch.zeros(1, 1, *shape)
    image[..., 8:24, 8:24, 8:24] = 1.0
    return image


class Sized(DetSeg3D):
    """Stage 1 that sees only blocks of 8 voxels: its box has 8 voxels wherever the mean of such a block is high."""

    def detect(self, image: torch.Tensor) -> DetectorOutput:
        levels = []
        for stage in self.plans.stage1.head_stages:
            stride = self.plans.stage1.cumulative_stride(stage)
            cells = torch.nn.functional.avg_pool3d(image, stride)
            near = torch.nn.functional.avg_pool3d(cells, 3, 1, 1)
            size = torch.full((1, 3, *cells.shape[2:]), math.log(8 / stride[0]))
            levels.append(LevelOutput(40 * near - 24, size, torch.zeros_like(size)))
        features = torch.zeros(1, self.plans.stage1.fpn_channels, *levels[0].heatmap.shape[2:])
        return DetectorOutput(levels, features)


@pytest.mark.parametrize(("size", "edges"), [(None, {8.0}), ((12.0, 12.0, 12.0), {8.0, 16.0}), ((20.0,) * 3, {8.0})])
def test_a_second_reading_at_half_resolution_adds_the_boxes_above_a_size(
    size: tuple[float, ...] | None, edges: set[float], tiny_plans: Plans
) -> None:
    keep_all = {"suppression_distance": 0, "suppression_iou": 1, "min_candidates": 1000}
    plans = tiny_plans.evolve(inference={"coarse_reading_size": size, **keep_all})
    candidates = Sized(plans).infer(blobs((32, 32, 36))[0]).candidates
    longest = (candidates.boxes[:, 3:] - candidates.boxes[:, :3]).max(axis=1)
    assert set(longest.round(3).tolist()) == edges
    if 16.0 in edges:
        place = candidates.boxes[longest.round(3) == 16].mean(axis=0)
        assert place == pytest.approx([8, 8, 8, 24, 24, 24], abs=2)


class Mapped(Sized):
    """Stage 1 without any box, whose dense map is high in bright cells."""

    def detect(self, image: torch.Tensor) -> DetectorOutput:
        output = super().detect(image)
        levels = [level._replace(heatmap=torch.full_like(level.heatmap, -9.0)) for level in output.levels]
        dense = 8 * torch.nn.functional.avg_pool3d(image, 2) - 4
        return DetectorOutput(levels, output.features, dense=dense)


@pytest.mark.parametrize(("minimum", "expected"), [(None, 0), (16.0**3, 1), (16.0**3 + 1, 0)])
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_a_component_of_the_dense_map_without_a_box_is_a_candidate(
    minimum: float | None, expected: int, mirror_axes: tuple[int, ...], tiny_plans: Plans
) -> None:
    plans = tiny_plans.evolve(stage1={"dense_channels": 4}, inference={"dense_minimum_mm3": minimum})
    output = detect([Mapped(plans)], blobs((32, 32, 36))[0], DetectOptions(plans.inference, mirror_axes))
    assert output.candidates.boxes.tolist() == [[8.0] * 3 + [24.0] * 3] * expected
    assert output.candidates.scores == pytest.approx([1 / (1 + math.exp(-4))] * expected)
    assert {roi.candidate for roi in output.rois.predictions} == set(range(expected))


class Boxed(Mapped):
    """Stage 1 with one box, of the given score, around the bright cells, and with a dense map."""

    def __init__(self, plans: Plans, score: float) -> None:
        super().__init__(plans)
        self.score = score

    def detect(self, image: torch.Tensor) -> DetectorOutput:
        output = super().detect(image)
        center = tuple(length // 2 for length in output.levels[0].heatmap.shape[2:])
        output.levels[0].heatmap[(0, 0, *center)] = math.log(self.score / (1 - self.score))
        output.levels[0].log_size[(0, slice(None), *center)] = math.log(10.0)
        return output


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 1), (0.99, 2)])
def test_only_a_box_that_stage_2_takes_for_a_lesion_covers_a_component(
    threshold: float, expected: int, tiny_plans: Plans
) -> None:
    plans = tiny_plans.evolve(
        stage1={"dense_channels": 4}, inference={"dense_minimum_mm3": 8.0, "score_threshold": threshold}
    )
    output = detect([Boxed(plans, 0.5)], blobs((32, 32, 36))[0], DetectOptions(plans.inference))
    assert len(output.candidates) == expected
    assert output.candidates.scores.tolist() == sorted(output.candidates.scores.tolist(), reverse=True)
    assert {roi.candidate for roi in output.rois.predictions} == set(range(expected))
    for roi in output.rois.predictions:  # each RoI contains the centre of its own candidate
        box = output.candidates.boxes[roi.candidate]
        center = (box[:3] + box[3:]) / 2
        assert np.all(roi.roi[:3] <= center) and np.all(center <= roi.roi[3:])


def test_nan_of_the_dense_map_is_an_error(tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Mapped(tiny_plans.evolve(stage1={"dense_channels": 4}))
    output = model.detect(blobs((32, 32, 36)))._replace(dense=torch.full((1, 1, 16, 16, 18), torch.nan))
    monkeypatch.setattr(model, "detect", lambda image: output)
    with pytest.raises(DetSeg3DError):
        average_dense([model], blobs((32, 32, 36)), options())


def test_a_second_reading_leaves_coarse_axes_as_they_are(tiny_plans: Plans) -> None:
    stage1 = {"strides": [[1, 2, 2], [2, 2, 2]], "kernels": [[1, 3, 3], [3, 3, 3]]}
    assert tiny_plans.evolve(stage1=stage1).stage1.coarse_factor == (1, 2, 2)
    fine = {"strides": [[1, 1, 1], [2, 2, 2]], "head_stages": [1], "level_max_sizes": []}
    assert tiny_plans.evolve(stage1=fine).stage1.coarse_factor == (2, 2, 2)
    never = {"strides": [[1, 1, 1], [1, 1, 1]]}
    assert tiny_plans.evolve(stage1=never).stage1.coarse_factor == (1, 1, 1)


NOT_FINITE = r"output is not finite(.|\n)*cpu with (.|\n)*-device cpu"


@pytest.mark.parametrize("part", ["heatmap", "log_size", "offset"])
def test_nan_of_stage_1_is_an_error_and_no_scan_without_lesions(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy()
    output = toy.detect(make_image())
    getattr(output.levels[0], part)[0, 0, 1, 1, 1] = torch.nan
    monkeypatch.setattr(toy, "detect", lambda image: output)
    with pytest.raises(DetSeg3DError, match=NOT_FINITE):
        average_dense([toy], make_image(), options())  # type: ignore[list-item]


@pytest.mark.parametrize(("weight", "intensity", "blamed"), [(1e12, 1.0, "weights"), (1.0, 1e30, "intensities")])
def test_the_cause_of_an_overflow_is_named(
    make_model: Callable[[int], DetSeg3D], weight: float, intensity: float, blamed: str
) -> None:
    model = make_model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(weight)
    with pytest.raises(DetSeg3DError) as caught:
        average_dense([model], make_image((16, 16, 16)) * intensity, options())
    assert blamed in str(caught.value.remedy)
    assert "largest weight" in caught.value.value and "largest intensity" in caught.value.value


def test_probabilities_of_models_are_averaged() -> None:
    models = [Toy(1.0), Toy(-2.0)]
    [level] = average_dense(models, make_image(), options()).levels  # type: ignore[arg-type]
    image = make_image()[0]
    torch.testing.assert_close(level.probability, (image.sigmoid() + (-2 * image).sigmoid()) / 2)


@pytest.fixture(scope="module")
def make_model(tiny_plans: Plans) -> Callable[[int], DetSeg3D]:
    def make(seed: int) -> DetSeg3D:
        torch.manual_seed(seed)
        return DetSeg3D(tiny_plans).eval()

    return make


BOXES = np.array([[4, 4, 4, 9, 9, 9], [2, 8, 6, 8, 16, 10], [10, 1, 12, 11, 2, 13]], np.float32)
FOUND = Detections(BOXES, np.ones(3, np.float32), np.zeros(3, np.int64))


def segment(
    models: list[DetSeg3D], found: Detections = FOUND, mirror_axes: tuple[int, ...] = (), **inference: float
) -> list[np.ndarray]:
    image = make_image((16, 20, 24))
    predictions = segment_rois(
        models, GridImages(image[0], image), found, options(mirror_axes, **inference)
    ).predictions
    return [np.append(p.probability.float().numpy(), p.score) for p in predictions]


def test_without_candidates_there_are_no_rois(make_model: Callable[[int], DetSeg3D]) -> None:
    nothing = Detections(np.zeros((0, 6), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert segment([make_model(0)], nothing) == []


def test_one_model_without_flips_gives_the_output_of_the_network(make_model: Callable[[int], DetSeg3D]) -> None:
    model, image = make_model(0), make_image((16, 20, 24))
    predictions = segment_rois([model], GridImages(image[0], image), FOUND, options()).predictions
    features = model.roi_features(model.detect(image).features)
    assert features is not None
    rois, _ = model.tiles(BOXES)
    with torch.no_grad():
        crops = model.crop_inputs(image[0], BOXES, rois)
        result = model.segment(crops, model.crop_features(features[0], rois), torch.zeros(3, dtype=torch.int64))
    for index, prediction in enumerate(predictions):
        assert prediction.candidate == index
        np.testing.assert_array_equal(prediction.roi, rois[index])
        # Half precision on both sides: the processor's, and that of the stored probability.
        torch.testing.assert_close(prediction.probability.float(), result.mask[index].sigmoid(), atol=0.02, rtol=0)
        assert prediction.score == pytest.approx(float(result.score[index].sigmoid()), abs=0.02)


def test_rois_of_models_are_averaged(make_model: Callable[[int], DetSeg3D]) -> None:
    first, second = segment([make_model(0)]), segment([make_model(1)])
    both = segment([make_model(0), make_model(1)])
    for one, other, mean in zip(first, second, both, strict=True):
        np.testing.assert_allclose(mean, (one + other) / 2, atol=2e-3)


def test_the_size_of_the_batch_does_not_matter(make_model: Callable[[int], DetSeg3D]) -> None:
    model = make_model(0)
    for one, other in zip(segment([model]), segment([model], roi_batch_size=1), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rois_are_flipped_with_their_features_and_back(
    axis: int, make_model: Callable[[int], DetSeg3D], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If both stages work voxel by voxel, flips do not change the result."""
    model = make_model(0)

    def cell_by_cell(image: torch.Tensor) -> DetectorOutput:
        means = torch.nn.functional.avg_pool3d(image, 2)
        return DetectorOutput([], torch.cat([means * gain for gain in range(model.plans.stage1.fpn_channels)], dim=1))

    def pointwise(
        crops: torch.Tensor, features: torch.Tensor, classes: torch.Tensor, context: object
    ) -> SegmenterOutput:
        upsampled = torch.nn.functional.interpolate(features.float(), scale_factor=2)
        return SegmenterOutput((crops + upsampled[:, :2])[:, 0], crops.float().mean(dim=(1, 2, 3, 4)))

    monkeypatch.setattr(model, "detect", cell_by_cell)
    monkeypatch.setattr(model, "segment", pointwise)
    for plain, flipped in zip(segment([model]), segment([model], mirror_axes=(axis,)), strict=True):
        np.testing.assert_allclose(plain, flipped, atol=2e-3)


def test_averaged_over_a_flip_a_mirrored_scan_gives_the_mirrored_masks(make_model: Callable[[int], DetSeg3D]) -> None:
    """A real network distinguishes left from right, so each mirrored copy needs its own features."""
    model, image = make_model(0), make_image((16, 16, 16))
    boxes = BOXES[:1]
    mirrored_boxes = boxes.copy()
    mirrored_boxes[:, 2], mirrored_boxes[:, 5] = 16 - boxes[:, 5], 16 - boxes[:, 2]
    [one], [other] = (
        segment_rois(
            [model],
            GridImages(picture[0], picture),
            Detections(where, np.ones(1), np.zeros(1, np.int64)),
            options((2,)),
        ).predictions
        for picture, where in ((image, boxes), (image.flip(4), mirrored_boxes))
    )
    torch.testing.assert_close(one.probability.float(), other.probability.float().flip(2), atol=4e-3, rtol=0)
    assert one.score == pytest.approx(other.score, abs=4e-3)


def test_a_large_candidate_has_several_rois(make_model: Callable[[int], DetSeg3D]) -> None:
    found = Detections(np.array([[0, 0, 0, 16, 20, 24]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    image = make_image((16, 20, 24))
    model = make_model(0)
    model.plans = model.plans.evolve(roi={"max_scale": 1.0})
    predictions = segment_rois([model], GridImages(image[0], image), found, options()).predictions
    assert len(predictions) > 1 and {p.candidate for p in predictions} == {0}


@pytest.mark.parametrize("part", ["mask", "score"])
def test_nan_of_stage_2_is_an_error(
    part: str, monkeypatch: pytest.MonkeyPatch, make_model: Callable[[int], DetSeg3D]
) -> None:
    model = make_model(0)
    plain = model.segmenter.forward

    def overflowing(*inputs: torch.Tensor) -> SegmenterOutput:
        output = plain(*inputs)
        getattr(output, part).flatten()[0] = torch.nan
        return output

    monkeypatch.setattr(model.segmenter, "forward", overflowing)
    image = make_image((16, 20, 24))
    with pytest.raises(DetSeg3DError, match=NOT_FINITE):
        segment_rois([model], GridImages(image[0], image), FOUND, options())


def test_rois_of_the_margin_alone_are_left_out(make_model: Callable[[int], DetSeg3D]) -> None:
    found = Detections(np.array([[0, 0, 0, 16, 20, 24]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    image = make_image((16, 20, 24))
    model = make_model(0)
    model.plans = model.plans.evolve(roi={"max_scale": 0.5, "margin": 0.5})
    everywhere, _ = model.tiles(found.boxes)
    outside = [roi for roi in everywhere if (roi[:3] >= image.shape[2:]).any() or (roi[3:] <= 0).any()]
    assert outside
    predictions = segment_rois([model], GridImages(image[0], image), found, options()).predictions
    assert len(predictions) == len(everywhere) - len(outside)


def test_masks_that_do_not_fit_into_the_memory_are_an_error(
    monkeypatch: pytest.MonkeyPatch, make_model: Callable[[int], DetSeg3D]
) -> None:
    monkeypatch.setattr("detseg3d.system.memory.available_bytes", lambda: 1000)
    image = make_image((16, 20, 24))
    with pytest.raises(DetSeg3DError, match=r"outlining 3 candidates in 3 RoIs needs(.|\n)*--candidate_threshold"):
        segment_rois([make_model(0)], GridImages(image[0], image), FOUND, options())


def test_each_roi_is_read_in_its_own_class(monkeypatch: pytest.MonkeyPatch, tiny_plans: Plans) -> None:
    torch.manual_seed(0)
    model = DetSeg3D(tiny_plans.evolve(class_names=("a", "b", "c"), class_labels=(1, 2, 3))).eval()

    def constant(crops: torch.Tensor, features: torch.Tensor) -> SegmenterOutput:
        values = torch.tensor([-10.0, 0.0, 10.0])
        mask = values[None, :, None, None, None].expand(len(crops), 3, *crops.shape[2:])
        return SegmenterOutput(mask, values.expand(len(crops), 3))

    monkeypatch.setattr(model.segmenter, "forward", constant)
    found = Detections(BOXES, np.ones(3, np.float32), np.array([2, 0, 1]))
    image = make_image((16, 20, 24))
    scores = [p.score for p in segment_rois([model], GridImages(image[0], image), found, options()).predictions]
    assert scores == pytest.approx([1, 0, 0.5], abs=1e-3)


# -- Scores of each network --------------------------------------------------------------------------------------------


def test_the_highest_probability_near_a_candidate_is_found_on_any_level() -> None:
    fine, coarse = torch.zeros(2, 12, 12, 12), torch.zeros(2, 3, 3, 3)
    fine[0, 4, 5, 4] = 0.5  # a cell beside that of the first centre
    fine[1, 4, 4, 4] = 0.9  # of another class
    fine[0, 4, 9, 4] = 0.8  # too far
    coarse[0, 2, 2, 2] = 0.7  # the cell of the second centre
    boxes = np.array([[6, 6, 6, 12, 12, 12], [15, 15, 15, 24, 24, 24]], np.float32)
    found = Detections(boxes, np.ones(2, np.float32), np.zeros(2, np.int64))
    assert highest_near([fine, coarse], [(2, 2, 2), (8, 8, 8)], found).tolist() == pytest.approx([0.7, 0.7])
    assert highest_near([fine], [(2, 2, 2)], found).tolist() == pytest.approx([0.5, 0.0])


def test_the_scores_of_each_network_are_returned(make_model: Callable[[int], DetSeg3D]) -> None:
    models, image = [make_model(0), make_model(1)], make_image((16, 20, 24))
    both = segment_rois(models, GridImages(image[0], image), FOUND, options((2,)))
    alone = [segment_rois([model], GridImages(image[0], image), FOUND, options((2,))) for model in models]
    assert both.members is not None and [part.members for part in alone] == [None, None]
    assert both.members.detection.shape == both.members.roi.shape == (2, len(FOUND))
    for number, part in enumerate(alone):
        assert both.members.roi[number].tolist() == pytest.approx([p.score for p in part.predictions])
    odds = np.log(both.members.roi / (1 - both.members.roi)).mean(axis=0)
    assert [p.score for p in both.predictions] == pytest.approx((1 / (1 + np.exp(-odds))).tolist())


def test_selected_candidates_keep_their_rois_and_the_scores_of_each_network() -> None:
    rois = [RoiPrediction(np.full(6, i), owner, torch.zeros(1, 1, 1), 0.1 * i) for i, owner in enumerate((0, 2, 2, 1))]
    members = MemberScores(np.arange(6.0).reshape(2, 3), np.arange(6.0, 12).reshape(2, 3))
    chosen = SegmentedRois(rois, members).select(np.array([2, 0]))
    assert [(roi.candidate, roi.score) for roi in chosen.predictions] == [(1, 0.0), (0, 0.1), (0, 0.2)]
    assert chosen.members is not None
    assert chosen.members.detection.tolist() == [[2, 0], [5, 3]] and chosen.members.roi.tolist() == [[8, 6], [11, 9]]


def test_the_average_of_one_network_with_itself_is_that_network(make_model: Callable[[int], DetSeg3D]) -> None:
    model, image = make_model(0), make_image((16, 20, 24))
    twice = segment_rois([model, model], GridImages(image[0], image), FOUND, options())
    once = segment_rois([model], GridImages(image[0], image), FOUND, options()).predictions
    assert [p.score for p in twice.predictions] == pytest.approx([p.score for p in once])
    assert twice.members is not None and np.array_equal(*twice.members.detection)


# -- Both stages -------------------------------------------------------------------------------------------------------

EVERYTHING = {"candidate_threshold": 0.0, "max_candidates": 12}


def outputs_of(model: DetSeg3D, image: torch.Tensor, given: DetectOptions) -> list[np.ndarray]:
    output = detect([model], image[0], given)
    rois = output.rois.predictions
    assert rois
    return [
        output.candidates.boxes,
        output.candidates.scores,
        np.stack([roi.probability.numpy() for roi in rois]),
        np.array([roi.score for roi in rois]),
    ]


@pytest.mark.parametrize(("mirror_axes", "passes"), [((), 1), ((2,), 2), ((0, 1, 2), 8)])
@pytest.mark.parametrize("networks", [1, 2])
def test_one_pass_of_stage_1_for_both_stages_gives_the_same_bits_as_a_pass_for_each(
    make_model: Callable[[int], DetSeg3D],
    monkeypatch: pytest.MonkeyPatch,
    mirror_axes: tuple[int, ...],
    passes: int,
    networks: int,
) -> None:
    models, image, calls = [make_model(seed) for seed in range(networks)], make_image((16, 20, 24)), []
    for model in models:
        plain = model.detect
        monkeypatch.setattr(model, "detect", lambda image, plain=plain: calls.append(None) or plain(image))
    given = options(mirror_axes, **EVERYTHING)
    shared = detect(models, image[0], given)
    assert len(calls) == passes * networks
    images = GridImages.of(models[0], image[0], torch.device("cpu"))
    apart = segment_rois(models, images, shared.candidates, given)
    assert len(calls) == passes * networks + len(flip_combinations(given.roi_mirror_axes)) * networks
    for one, other in zip(shared.rois.predictions, apart.predictions, strict=True):
        assert torch.equal(one.probability, other.probability) and one.score == other.score
    if networks > 1:
        assert shared.rois.members is not None and apart.members is not None
        assert np.array_equal(shared.rois.members.detection, apart.members.detection)
        assert np.array_equal(shared.rois.members.roi, apart.members.roi)


def test_stage_1_runs_again_for_what_does_not_fit_into_the_memory(
    make_model: Callable[[int], DetSeg3D], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image, calls = make_model(0), make_image((16, 20, 24)), []
    kept = outputs_of(model, image, options((0, 1, 2), **EVERYTHING))
    monkeypatch.setattr(ensemble, "_MAX_KEPT_BYTES", 0)
    plain = model.detect
    monkeypatch.setattr(model, "detect", lambda image: calls.append(None) or plain(image))
    again = outputs_of(model, image, options((0, 1, 2), **EVERYTHING))
    assert len(calls) == 9  # the first pass is kept in any case
    for one, other in zip(kept, again, strict=True):
        assert np.array_equal(one, other)


def test_the_highest_probability_is_known_without_any_candidate(make_model: Callable[[int], DetSeg3D]) -> None:
    output = detect([make_model(0)], make_image((16, 20, 24))[0], options(candidate_threshold=1.0))
    assert len(output.candidates) == 0 and output.rois.predictions == []
    assert 0 < output.highest_probability < 1
