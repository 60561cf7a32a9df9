from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg3d.models.merging.components import ComponentRule, uncovered_components
from detseg3d.models.merging.decode import Detections
from tests.models.factory import make_detections

NO_BOX = make_detections([], [])
RULE = ComponentRule(threshold=0.3, minimum_voxels=0)


def make_map(*blocks: tuple[int, list[int], float], classes: int = 1) -> torch.Tensor:
    """A map of 8³ cells with blocks: class, box in cells, probability."""
    probability = torch.full((classes, 8, 8, 8), 0.1)
    for label, (z0, y0, x0, z1, y1, x1), value in blocks:
        probability[label, z0:z1, y0:y1, x0:x1] = value
    return probability


def components(probability: torch.Tensor, candidates: Detections = NO_BOX, rule: ComponentRule = RULE) -> Detections:
    return uncovered_components(probability, (2, 2, 4), (16, 16, 32), candidates, rule)


def test_a_component_becomes_a_box_in_fine_voxels_with_its_mean_probability() -> None:
    probability = make_map((0, [1, 2, 3, 3, 4, 5], 0.4))
    probability[0, 1, 2, 3] = 0.8
    found = components(probability)
    assert found.boxes.tolist() == [[2, 4, 12, 6, 8, 20]]
    assert found.scores == pytest.approx([0.4 + 0.4 / 8]) and found.classes.tolist() == [0]


def test_each_class_has_its_own_components() -> None:
    found = components(make_map((1, [0, 0, 0, 2, 2, 2], 0.5), (2, [1, 1, 1, 3, 3, 3], 0.6), classes=3))
    assert found.classes.tolist() == [1, 2] and found.scores == pytest.approx([0.5, 0.6])


def test_cells_that_share_a_corner_belong_together() -> None:
    found = components(make_map((0, [0, 0, 0, 1, 1, 1], 0.5), (0, [1, 1, 1, 2, 2, 2], 0.5)))
    assert found.boxes.tolist() == [[0, 0, 0, 4, 4, 8]]


@pytest.mark.parametrize(("minimum", "expected"), [(128, 1), (129, 0)])
def test_small_components_are_left_out(minimum: float, expected: int) -> None:
    probability = make_map((0, [0, 0, 0, 2, 2, 2], 0.5))  # 8 cells of 16 voxels
    assert len(components(probability, rule=ComponentRule(0.3, minimum))) == expected


@pytest.mark.parametrize(("edge", "expected"), [(16, 0), (8, 0), (5, 1)])
def test_a_component_that_boxes_cover_by_half_is_left_out(edge: int, expected: int) -> None:
    probability = make_map((0, [0, 0, 0, 4, 4, 4], 0.5))
    box = make_detections([[0, 0, 0, 8, 8, edge]], [0.2])
    assert len(components(probability, box)) == expected


def test_boxes_of_other_classes_do_not_cover() -> None:
    probability = make_map((0, [0, 0, 0, 4, 4, 4], 0.5), classes=2)
    box = make_detections([[0, 0, 0, 16, 16, 32]], [0.9], [1])
    assert len(components(probability, box)) == 1


def test_several_boxes_cover_together() -> None:
    probability = make_map((0, [0, 0, 0, 4, 4, 4], 0.5))
    quarters = make_detections([[0, 0, 0, 8, 8, 4], [0, 0, 12, 8, 8, 20]], [0.2, 0.2])
    assert len(components(probability, quarters)) == 0
    assert len(components(probability, quarters[:1])) == 1


def test_cells_of_the_padding_do_not_count() -> None:
    probability = make_map((0, [6, 0, 0, 8, 2, 2], 0.5))
    found = uncovered_components(probability, (2, 2, 4), (13, 16, 32), NO_BOX, RULE)
    assert found.boxes[:, [0, 3]].tolist() == [[12, 14]]


def test_without_a_component_there_are_no_candidates() -> None:
    found = components(make_map(classes=2))
    assert len(found) == 0 and found.boxes.shape == (0, 6)
    assert found.boxes.dtype == np.float32 and found.classes.dtype == np.int64
