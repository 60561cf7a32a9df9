from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detseg3d.core.components import (
    instances_from_instance_map,
    instances_from_semantic,
    main_components,
)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.uint8, (4, 5, 4), elements=st.sampled_from([0, 0, 0, 1, 3, 9])))
def test_components_of_each_class_agree_with_scipy(label: np.ndarray) -> None:
    instances, classes = instances_from_semantic(label, (3, 1))
    assert instances.dtype == np.int32
    expected_count = 0
    for index, value in enumerate((3, 1)):
        reference, count = scipy.ndimage.label(label == value, structure=np.ones((3, 3, 3)))
        expected_count += count
        ids = np.flatnonzero(classes == index) + 1
        assert len(ids) == count
        for number in ids:
            # Each instance is exactly one component of scipy.
            own = np.unique(reference[instances == number])
            assert len(own) == 1
            np.testing.assert_array_equal(instances == number, reference == own[0])
    assert len(classes) == expected_count == instances.max()


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    label = np.zeros((2, 2, 2), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 1
    assert len(instances_from_semantic(label, (1,))[1]) == 1


def test_touching_lesions_of_two_classes_stay_apart() -> None:
    label = np.array([[[1, 1, 2, 2, 1]]], np.int16)
    instances, classes = instances_from_semantic(label, (1, 2))
    assert instances[0, 0].tolist() == [1, 1, 2, 2, 3]
    assert classes.tolist() == [0, 1, 0]


def test_values_without_a_class_are_background() -> None:
    label = np.array([[[7, 0, 1]]], np.int64)
    assert instances_from_semantic(label, (1,))[0][0, 0].tolist() == [0, 0, 1]


def test_a_healthy_case_has_no_lesion() -> None:
    instances, classes = instances_from_semantic(np.zeros((3, 3, 3), np.uint8), (1,))
    assert not instances.any()
    assert classes.shape == (0,)


def test_more_than_65535_lesions_are_counted() -> None:
    label = np.zeros((90, 90, 90), bool)
    label[::2, ::2, ::2] = True
    instances, classes = instances_from_semantic(label, (1,))
    assert len(classes) == 45**3 == instances.max()


@pytest.mark.parametrize("class_labels", [(0, 1), (1, 1)])
def test_class_labels_must_be_distinct_and_not_zero(class_labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="class labels must differ"):
        instances_from_semantic(np.zeros((1, 1, 1), np.uint8), class_labels)


@pytest.mark.parametrize("function", [lambda a: instances_from_semantic(a, (1,)), instances_from_instance_map])
def test_floats_and_other_dimensions_are_refused(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="must hold integers, found float32"):
        function(np.zeros((1, 1, 1), np.float32))
    with pytest.raises(ValueError, match=r"must have shape \(Z, Y, X\)"):
        function(np.zeros((1, 1), np.uint8))


def test_instance_map_is_renumbered_and_pieces_of_one_value_stay_one_lesion() -> None:
    label = np.array([[[300, 0, 5, 0, 300, 5]]], np.uint16)
    instances, classes = instances_from_instance_map(label)
    assert instances[0, 0].tolist() == [2, 0, 1, 0, 2, 1]
    assert classes.tolist() == [0, 0]


def test_instance_numbers_beyond_16_bits_are_kept_apart() -> None:
    label = np.array([[[1, 65537, 2**31 + 1]]], np.int64)
    assert instances_from_instance_map(label)[0][0, 0].tolist() == [1, 2, 3]


def test_instance_map_with_negative_values_is_refused() -> None:
    with pytest.raises(ValueError, match="found -1"):
        instances_from_instance_map(np.array([[[-1, 0]]], np.int8))


# -- Components of many instances --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.uint8, (3, 4, 4), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3, 5])),
    hnp.arrays(np.int64, 5, elements=st.integers(0, 1)),
)
def test_main_components_are_those_with_most_voxels(instances: np.ndarray, classes: np.ndarray) -> None:
    components, main = main_components(instances, classes)
    of_class = np.where(instances > 0, classes[np.maximum(instances, 1) - 1] + 1, 0)
    expected, _ = instances_from_semantic(of_class, (1, 2))
    np.testing.assert_array_equal(components, expected)
    for number in range(1, 6):
        counts = np.bincount(expected[instances == number], minlength=2)
        assert main[number] == (counts.argmax() if counts.any() else 0)
    assert main[0] == 0


def test_without_instances_there_are_no_components() -> None:
    for classes in (np.array([0, 0]), np.zeros(0, np.int64)):
        components, main = main_components(np.zeros((2, 2, 2), np.uint16), classes)
        assert not components.any() and main.tolist() == [0] * (len(classes) + 1)


def test_more_than_255_classes_stay_apart() -> None:
    row = np.array([[[1, 2]]])
    assert main_components(row, np.array([0, 256]))[1].tolist() == [0, 1, 2]
    assert main_components(row, np.array([256, 256]))[1].tolist() == [0, 1, 1]


def test_the_lesions_of_an_instance_map_have_the_classes_of_their_values() -> None:
    label = np.zeros((1, 1, 4), np.int32)
    label[0, 0] = [9, 70000, 5, 70000]
    _, classes = instances_from_instance_map(label, {70000: 2, 5: 1, 9: 0, 11: 3})
    assert classes.tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match="70000"):
        instances_from_instance_map(label, {5: 1, 9: 0})
