from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import Plans
from detseg3d.preprocessing.case import CaseTransform, case_transform, include_lesions, preprocess_case
from tests.preprocessing.factory import make_plans, make_scan

BOXES = st.lists(st.floats(0, 40), min_size=6, max_size=6).map(
    lambda v: [*np.minimum(v[:3], v[3:]), *np.maximum(v[:3], v[3:])]
)


@given(st.lists(BOXES, max_size=4), st.tuples(*[st.floats(0.3, 5)] * 3))
def test_boxes_return_to_where_they_were(boxes: list[list[float]], spacing: tuple[float, float, float]) -> None:
    transform = case_transform((60, 61, 62), spacing, (3, 0, 7, 50, 61, 40), make_plans())
    array = np.array(boxes).reshape(-1, 6)
    assert np.allclose(transform.boxes_to_original(transform.boxes_to_fine(array)), array, atol=1e-6)


def test_the_crop_is_the_whole_fine_grid() -> None:
    transform = case_transform((30, 40, 50), (2.0, 0.7, 0.7), (5, 2, 3, 25, 39, 44), make_plans())
    assert transform.boxes_to_fine([[5, 2, 3, 25, 39, 44]])[0] == pytest.approx((0, 0, 0, *transform.fine_shape))
    assert transform.fine_shape == (40, 26, 29)
    assert transform.fine_spacing == pytest.approx((1.0, 0.7 * 37 / 26, 0.7 * 41 / 29))


def test_a_transform_is_unchanged_by_json() -> None:
    transform = case_transform((30, 40, 50), (2.0, 0.7, 0.7), (5, 2, 3, 25, 39, 44), make_plans())
    assert CaseTransform.from_dict(json.loads(json.dumps(transform.to_dict()))) == transform


def test_on_the_fine_grid_already_the_case_is_only_cropped_and_normalised() -> None:
    image, label = make_scan(0)
    instances, classes = instances_from_semantic(label, (1,))
    case = preprocess_case(image[None], (1, 1, 1), make_plans(), instances, classes)
    assert case.transform.crop_box == (2, 2, 3, 14, 16, 17)
    assert case.instances is not None
    assert np.array_equal(case.instances, instances[2:14, 2:16, 3:17])
    body = image[2:14, 2:16, 3:17]
    assert np.allclose(case.image[0], (body - body.mean()) / body.std(), atol=1e-4)


def test_training_and_inference_see_the_same_image() -> None:
    image, label = make_scan(1)
    instances, classes = instances_from_semantic(label, (1,))
    plans = make_plans()
    with_truth = preprocess_case(image[None], (2, 0.8, 0.8), plans, instances, classes)
    without = preprocess_case(image[None], (2, 0.8, 0.8), plans)
    assert np.array_equal(with_truth.image, without.image)
    assert with_truth.transform == without.transform
    assert without.instances is None
    assert without.lesions == []


def test_the_input_is_not_changed() -> None:
    image, _ = make_scan(1)
    before = image.copy()
    preprocess_case(image[None], (2, 0.8, 0.8), make_plans())
    assert np.array_equal(image, before)


def test_lesion_boxes_lie_where_the_lesions_do() -> None:
    image, label = make_scan(2, lesions=5)
    instances, classes = instances_from_semantic(label, (1,))
    case = preprocess_case(
        image[None],
        (0.5, 0.5, 0.5),
        make_plans(fine_spacing=(0.25,) * 3, detection_spacing=(0.25,) * 3),
        instances,
        classes,
    )
    _, wanted = boxes_from_instances(instances)
    found = case.transform.boxes_to_original([lesion["box"] for lesion in case.lesions])
    assert np.abs(found - wanted).max() <= 0.5


def test_lesion_table_keeps_class_and_true_volume() -> None:
    image, label = make_scan(3, lesions=3)
    label[3, 3, 4] = 2
    instances, classes = instances_from_semantic(label, (1, 2))
    plans = make_plans(class_names=("a", "b"), class_labels=(1, 2), fine_spacing=(2, 2, 2), detection_spacing=(2, 2, 2))
    case = preprocess_case(image[None], (0.5, 1, 1), plans, instances, classes)
    assert [lesion["id"] for lesion in case.lesions] == [1, 2, 3]
    assert sorted(lesion["class"] for lesion in case.lesions) == [0, 0, 1]
    assert sorted(lesion["volume_mm3"] for lesion in case.lesions) == [0.5, 4.0, 13.5]
    assert all(lesion["voxels"] >= 1 for lesion in case.lesions)
    rescued = {lesion["volume_mm3"] for lesion in case.lesions if lesion["rescued"]}
    assert 0.5 in rescued
    assert 13.5 not in rescued


def test_a_lesion_outside_the_body_is_not_cropped_away() -> None:
    image, label = make_scan(4)
    label[0, 0, 0] = 1
    instances, classes = instances_from_semantic(label, (1,))
    case = preprocess_case(image[None], (1, 1, 1), make_plans(), instances, classes)
    assert len(case.lesions) == len(classes)
    assert case.transform.crop_box[:3] == (0, 0, 0)


def test_without_crop_the_whole_volume_stays() -> None:
    image, _ = make_scan(4)
    case = preprocess_case(image[None], (1, 1, 1), make_plans(crop_to_body=False))
    assert case.image.shape[1:] == image.shape


@pytest.mark.parametrize("shape", [(1, 20, 20), (1, 1, 1), (40, 2, 3)])
def test_degenerate_volumes(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).normal(100, 5, (1, *shape)).astype(np.float32)
    case = preprocess_case(image, (3, 0.4, 0.4), make_plans())
    assert case.image.shape[1:] == case.transform.fine_shape
    assert np.isfinite(case.image).all()


def test_nan_is_refused_with_the_channel() -> None:
    image = np.ones((2, 3, 3, 3), np.float32)
    image[1, 2, 2, 2] = np.nan
    plans = make_plans(channel_names=("T1", "FLAIR"), normalization=[{"scheme": "zscore"}] * 2)
    with pytest.raises(DetSeg3DError, match="NaN or infinite voxels in channel FLAIR"):
        preprocess_case(image, (1, 1, 1), plans)


def test_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        preprocess_case(np.ones((2, 3, 3, 3)), (1, 1, 1), make_plans())
    assert caught.value.value == (2, 3, 3, 3)
    assert caught.value.expected == "(C, Z, Y, X) with the 1 channel(s) FLAIR"


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, float("nan"), 1), (1, 1)])
def test_bad_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        preprocess_case(np.ones((1, 3, 3, 3)), spacing, make_plans())
    assert str(caught.value.value) == str(spacing)


@pytest.mark.parametrize("length", [500.0, 999_999.0])
def test_a_spacing_that_asks_for_countless_voxels_is_refused_before_they_are_made(length: float) -> None:
    image, _ = make_scan(0)
    with pytest.raises(DetSeg3DError, match=r"(?s)too large on the grid of the plans.*spacing in the header"):
        preprocess_case(image[None], (length,) * 3, make_plans())


def test_a_spacing_that_blows_the_case_up_beyond_the_memory_is_refused(tiny_plans: Plans) -> None:
    images = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
    with pytest.raises(DetSeg3DError, match=r"resampling to 1500×1500×1500 voxels of the fine grid needs about"):
        preprocess_case(images, (75.0, 75.0, 75.0), tiny_plans)


def test_a_lesion_outside_the_body_widens_the_box() -> None:
    assert include_lesions((2, 2, 2, 8, 8, 8), np.array([[3, 3, 3, 4, 4, 4], [0, 3, 7, 1, 4, 9]])) == (0, 2, 2, 8, 8, 9)


def test_without_lesions_the_box_stays() -> None:
    assert include_lesions((2, 2, 2, 8, 8, 8), np.zeros((0, 6))) == (2, 2, 2, 8, 8, 8)
