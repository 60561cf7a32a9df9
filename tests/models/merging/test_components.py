from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg3d.models.merging.components import ComponentRule, DenseComponents
from tests.models.factory import make_detections

NO_BOX = make_detections([], [])
RULE = ComponentRule(threshold=0.3, minimum_voxels=0)


def make_map(*blocks: tuple[int, list[int], float], classes: int = 1) -> torch.Tensor:
    """A map of 8³ cells with blocks: class, box in cells, probability."""
    probability = torch.full((classes, 8, 8, 8), 0.1)
    for label, (z0, y0, x0, z1, y1, x1), value in blocks:
        probability[label, z0:z1, y0:y1, x0:x1] = value
    return probability


def find(
    probability: torch.Tensor, rule: ComponentRule = RULE, shape: tuple[int, ...] = (16, 16, 32)
) -> DenseComponents:
    return DenseComponents.find(probability, (2, 2, 4), shape, rule)


def test_a_component_becomes_a_box_in_fine_voxels_with_its_mean_probability() -> None:
    probability = make_map((0, [1, 2, 3, 3, 4, 5], 0.4))
    probability[0, 1, 2, 3] = 0.8
    found = find(probability).detections
    assert found.boxes.tolist() == [[2, 4, 12, 6, 8, 20]]
    assert found.scores == pytest.approx([0.4 + 0.4 / 8]) and found.classes.tolist() == [0]


def test_each_class_has_its_own_components() -> None:
    found = find(make_map((1, [0, 0, 0, 2, 2, 2], 0.5), (2, [1, 1, 1, 3, 3, 3], 0.6), classes=3)).detections
    assert found.classes.tolist() == [1, 2] and found.scores == pytest.approx([0.5, 0.6])


def test_cells_that_share_a_corner_belong_together() -> None:
    components = find(make_map((0, [0, 0, 0, 1, 1, 1], 0.5), (0, [1, 1, 1, 2, 2, 2], 0.5)))
    assert components.detections.boxes.tolist() == [[0, 0, 0, 4, 4, 8]]
    assert components.cells[0].tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(("minimum", "expected"), [(128, 1), (129, 0)])
def test_small_components_are_left_out(minimum: float, expected: int) -> None:
    probability = make_map((0, [0, 0, 0, 2, 2, 2], 0.5))  # 8 cells of 16 voxels
    components = find(probability, ComponentRule(0.3, minimum))
    assert len(components) == len(components.cells) == expected


def test_cells_of_the_padding_do_not_count() -> None:
    found = find(make_map((0, [6, 0, 0, 8, 2, 2], 0.5)), shape=(13, 16, 32)).detections
    assert found.boxes[:, [0, 3]].tolist() == [[12, 14]]


def test_without_a_component_there_are_no_detections() -> None:
    for components in (find(make_map(classes=2)), DenseComponents.none()):
        found = components.detections
        assert len(components) == len(found) == 0 and found.boxes.shape == (0, 6)
        assert found.boxes.dtype == np.float32 and found.classes.dtype == np.int64
        assert components.covered_by(NO_BOX).shape == (0,)


@pytest.mark.parametrize(("edge", "expected"), [(16, True), (8, True), (5, False)])
def test_boxes_cover_a_component_from_half_of_its_cells_on(edge: int, expected: bool) -> None:
    components = find(make_map((0, [0, 0, 0, 4, 4, 4], 0.5)))
    box = make_detections([[0, 0, 0, 8, 8, edge]], [0.2])
    assert components.covered_by(box).tolist() == [expected]
    assert components.covered_by(NO_BOX).tolist() == [False]


def test_boxes_of_other_classes_do_not_cover() -> None:
    components = find(make_map((0, [0, 0, 0, 4, 4, 4], 0.5), classes=2))
    assert not components.covered_by(make_detections([[0, 0, 0, 16, 16, 32]], [0.9], [1])).any()


def test_several_boxes_cover_together() -> None:
    components = find(make_map((0, [0, 0, 0, 4, 4, 4], 0.5)))
    quarters = make_detections([[0, 0, 0, 8, 8, 4], [0, 0, 12, 8, 8, 20]], [0.2, 0.2])
    assert components.covered_by(quarters).all() and not components.covered_by(quarters[:1]).any()


def test_the_cells_of_neighbouring_components_are_kept_apart() -> None:
    # The box of the first component contains the second component.
    probability = make_map((0, [0, 0, 0, 1, 8, 8], 0.5), (0, [0, 0, 0, 8, 8, 1], 0.5), (0, [5, 4, 5, 7, 6, 7], 0.6))
    components = find(probability)
    assert [len(cells) for cells in components.cells] == [64 + 64 - 8, 8]
    inner = make_detections([[10, 8, 20, 14, 12, 28]], [0.9])
    assert components.covered_by(inner).tolist() == [False, True]
    [kept] = components.select(~components.covered_by(inner)).cells
    assert len(kept) == 120
