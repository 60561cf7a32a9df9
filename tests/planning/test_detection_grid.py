from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.planner import plan_dataset
from detseg3d.planning.plans import Plans
from tests.planning.factory import Lesion, make_dataset, make_fingerprint

Shape = tuple[int, int, int]
Lengths = tuple[float, float, float]


def scattered(edges: Lengths, count: int, shape: Shape, spacing: Lengths, seed: int = 0) -> list[Lesion]:
    """Lesions of one size anywhere in a volume."""
    size = np.array(shape) * spacing
    half = np.minimum(np.array(edges), size) / 2
    places = np.random.default_rng(seed).uniform(half, size - half, (count, 3))
    return [(0, edges, tuple(place)) for place in places]


def plan_scans(
    scans: list[tuple[Shape, Lengths, list[Lesion]]], channels: tuple[str, ...] = ("MR",), **options: Any
) -> Plans:
    dataset = make_dataset([f"case_{index}" for index in range(len(scans))], channels)
    fingerprint = make_fingerprint(
        dataset, [scan[0] for scan in scans], [scan[1] for scan in scans], [scan[2] for scan in scans]
    )
    return plan_dataset(fingerprint, dataset, **options)


def plan_alike(edges: list[Lengths], shape: Shape, spacing: Lengths, count: int = 20, **options: Any) -> Plans:
    """Two equal scans with ``count`` lesions of each size."""
    lesions = [lesion for seed, size in enumerate(edges) for lesion in scattered(size, count, shape, spacing, seed)]
    return plan_scans([(shape, spacing, lesions), (shape, spacing, [])], **options)


def why(plans: Plans, name: str) -> str:
    return " ".join(f"{d.value}: {d.reason}" for d in plans.decisions if d.name == name)


def finest_cell(plans: Plans) -> Lengths:
    return plans.cell_sizes()[0]


# -- A head at full resolution ---------------------------------------------------------------------------------------


def test_lesions_of_a_voxel_get_a_head_at_full_resolution() -> None:
    plans = plan_alike([(1, 1, 1), (12, 12, 12)], (96, 128, 128), (1, 1, 1))
    assert finest_cell(plans) == (1, 1, 1)
    assert plans.stage1.head_stages[0] == 0 and plans.stage1.channels[0] == 16
    assert len(plans.stage1.head_stages) == 2
    assert why(plans, "fine stage").startswith("16 channels at full resolution, with a head: With the head, 100.0% of")


def test_lesions_of_two_voxels_need_no_head_at_full_resolution() -> None:
    plans = plan_alike([(2, 2, 2), (12, 12, 12)], (96, 128, 128), (1, 1, 1))
    assert finest_cell(plans) == (2, 2, 2)
    assert "100.0% of the lesions span a cell of their level" in why(plans, "fine stage")


@pytest.mark.parametrize(("tiny", "cell"), [(1, 2), (3, 1)])
def test_one_small_lesion_in_a_hundred_does_not_justify_a_head_at_full_resolution(tiny: int, cell: int) -> None:
    shape: Shape = (96, 128, 128)
    lesions = scattered((1, 1, 1), tiny, shape, (1, 1, 1)) + scattered((6, 6, 6), 100 - tiny, shape, (1, 1, 1), 1)
    plans = plan_scans([(shape, (1, 1, 1), lesions), (shape, (1, 1, 1), [])])
    assert finest_cell(plans) == (cell, cell, cell)


def test_a_head_at_full_resolution_that_does_not_fit_is_named_with_the_limit() -> None:
    plans = plan_alike([(1, 1, 1)], (300, 300, 300), (1, 1, 1))
    assert min(finest_cell(plans)) > 1.4
    assert "With a head at full resolution" in why(plans, "fine stage")
    assert "forbids." in why(plans, "fine stage")
    rich = plan_alike([(1, 1, 1)], (300, 300, 300), (1, 1, 1), training_gb=64, inference_gb=16)
    assert finest_cell(rich) == (1, 1, 1)


def test_a_head_at_full_resolution_may_take_a_slightly_coarser_grid() -> None:
    plans = plan_alike([(1, 1, 1)], (160, 200, 180), (1, 1, 1), training_gb=10)
    assert 1 < finest_cell(plans)[0] <= math.sqrt(2)
    assert plans.predicted_inference_gb <= 2
    assert "The memory for prediction forbids a finer grid" in why(plans, "detection spacing")


def test_thick_slices_do_not_hide_lesions_that_are_small_in_the_plane() -> None:
    plans = plan_alike([(5, 0.5, 0.5)], (20, 128, 128), (5, 0.5, 0.5))
    assert finest_cell(plans) == (1, 1, 1)


def test_without_lesions_no_head_at_full_resolution_is_tried() -> None:
    plans = plan_scans([((96, 128, 128), (1, 1, 1), [])] * 2)
    assert finest_cell(plans) == (2, 2, 2)


# -- Memory ----------------------------------------------------------------------------------------------------------


def test_more_memory_for_prediction_gives_a_finer_grid_if_prediction_is_the_limit() -> None:
    shape: Shape = (300, 400, 400)
    usual, more_training, more = (
        plan_alike([(6, 6, 6)], shape, (1, 1, 1), **options)
        for options in ({}, {"training_gb": 64}, {"training_gb": 64, "inference_gb": 16})
    )
    assert usual.detection_spacing == more_training.detection_spacing != (1, 1, 1)
    assert more.detection_spacing == (1, 1, 1)
    assert (usual.inference_budget_gb, more.inference_budget_gb) == (2, 16)
    assert more.predicted_inference_gb > 2
    text = "The memory for prediction forbids a finer grid (flag --inference_gb)"
    assert text in why(more_training, "detection spacing")
    assert "Neither memory limit forbids a finer grid" in why(more, "detection spacing")


def test_the_reason_names_the_memory_for_training_as_the_limit() -> None:
    plans = plan_alike([(6, 6, 6)], (256, 256, 256), (1, 1, 1), training_gb=1.5, inference_gb=16)
    assert plans.detection_spacing[0] > 1
    text = "The memory for training forbids a finer grid (flag --training_gb)"
    assert text in why(plans, "detection spacing")


# -- Scans of unequal size -------------------------------------------------------------------------------------------

HEAD: tuple[Shape, Lengths] = ((180, 220, 200), (1, 1, 1))
BODY: tuple[Shape, Lengths] = ((600, 500, 500), (3, 1, 1))


def test_one_body_scan_among_head_scans_does_not_change_the_grid_and_is_named() -> None:
    heads = [(*HEAD, scattered((2, 2, 2), 3, *HEAD, seed)) for seed in range(19)]
    alone, mixed = plan_scans(heads), plan_scans([*heads, (*BODY, [])])
    assert mixed.detection_spacing == alone.detection_spacing == (1, 1, 1)
    assert mixed.planned_shape == alone.planned_shape == HEAD[0]
    assert why(mixed, "larger scans").startswith("1 of 20")
    assert "case_19 (600×500×500 voxels of 3×1×1 mm)" in why(mixed, "larger scans")
    assert "needs 3" in why(mixed, "larger scans") and "GB above its input" in why(mixed, "larger scans")
    assert why(alone, "larger scans") == ""


def test_a_smaller_volume_is_planned_if_its_grid_finds_more_lesions() -> None:
    # A third of the scans is large, but not so large that it could not be predicted on the fine grid.
    small: tuple[Shape, Lengths] = ((100, 160, 160), (1, 1, 1))
    large: tuple[Shape, Lengths] = ((400, 400, 400), (1, 1, 1))
    scans = [(*small, scattered((2, 2, 2), 5, *small, seed)) for seed in range(16)]
    scans += [(*large, scattered((2, 2, 2), 5, *large, seed)) for seed in range(8)]
    plans = plan_scans(scans)
    assert plans.planned_shape == small[0]
    assert plans.detection_spacing == (1, 1, 1)
    assert "50th percentile" in why(plans, "planned volume")
    assert "The largest volume, 400×400×400, would need a detection grid of" in why(plans, "planned volume")
    assert why(plans, "larger scans").startswith("8 of 24")
    assert "and 3 more" in why(plans, "larger scans")


def test_rois_fit_into_the_volume_that_is_planned_for() -> None:
    small: tuple[Shape, Lengths] = ((14, 160, 160), (1, 1, 1))
    large: tuple[Shape, Lengths] = ((400, 400, 400), (1, 1, 1))
    scans = [(*small, scattered((2, 2, 2), 5, *small, seed)) for seed in range(16)]
    scans += [(*large, scattered((2, 2, 2), 5, *large, seed)) for seed in range(8)]
    plans = plan_scans(scans)
    assert plans.planned_shape == small[0] and plans.roi.size == (12, 24, 24)


def test_a_volume_is_not_chosen_if_usual_scans_could_not_be_predicted() -> None:
    # The same with bodies: on the grid of the heads one would take 39 GB to predict.
    scans = [(*HEAD, scattered((2, 2, 2), 5, *HEAD, seed)) for seed in range(16)]
    scans += [(*BODY, scattered((2, 2, 2), 5, *BODY, seed)) for seed in range(8)]
    plans = plan_scans(scans)
    assert plans.planned_shape == (1800, 500, 500)
    assert "A volume of the 50th percentile, 180×220×200" in why(plans, "planned volume")
    assert "GB to predict. A higher --inference_gb allows it" in why(plans, "planned volume")
    rich = plan_scans(scans, training_gb=64)
    assert rich.planned_shape == HEAD[0] and rich.detection_spacing == (1, 1, 1)


def test_large_scans_are_planned_for_if_their_grid_finds_all_lesions() -> None:
    small, large = ((60, 60, 60), (1, 1, 1)), ((300, 300, 300), (1, 1, 1))
    scans = [(*small, scattered((9, 9, 9), 2, *small, seed)) for seed in range(16)]
    scans += [(*large, scattered((9, 9, 9), 2, *large, seed)) for seed in range(8)]
    assert plan_scans(scans).planned_shape == (300, 300, 300)


# -- Few slices, and lengths of any unit -----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices", [1, 2, 3, 5])
def test_few_slices_are_planned_by_their_plane(axis: int, slices: int) -> None:
    shape, spacing = [320, 320, 320], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = slices, 4.0
    edges = []
    for size in (3.0, 20.0, 50.0):
        edge = [size] * 3
        edge[axis] = min(slices, 2) * 4.0
        edges.append((edge[0], edge[1], edge[2]))
    plans = plan_alike(edges, (shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2]))
    plane = [other for other in range(3) if other != axis]
    assert plans.roi.size[axis] == max(4, slices) and {plans.roi.size[other] for other in plane} == {64}
    assert all(stride[axis] == 1 for stride in (*plans.stage1.strides, *plans.stage2.strides))
    assert [cell[plane[0]] for cell in plans.cell_sizes()] == [2, 4, 8]
    for phase in plans.training.curriculum[:-1]:
        assert phase.window is not None and phase.window[axis] == slices


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize(
    ("shape", "spacing", "edges"),
    [
        ((96, 160, 128), (1.0, 1.0, 1.0), [(1.0, 1.0, 1.0), (12.0, 12.0, 12.0)]),
        ((300, 512, 512), (1.0, 1.0, 1.0), [(4.0, 4.0, 4.0), (60.0, 60.0, 60.0)]),
        ((1, 512, 512), (1.0, 1.0, 1.0), [(1.0, 8.0, 8.0), (1.0, 40.0, 40.0)]),
    ],
)
def test_the_unit_of_length_changes_nothing_but_lengths(
    shape: Shape, spacing: Lengths, edges: list[Lengths], unit: float
) -> None:
    def scaled(lengths: Lengths) -> Lengths:
        return (lengths[0] * unit, lengths[1] * unit, lengths[2] * unit)

    here = plan_alike(edges, shape, spacing)
    there = plan_alike([scaled(edge) for edge in edges], shape, scaled(spacing))
    assert there.detection_spacing == pytest.approx(scaled(here.detection_spacing), rel=1e-3)
    assert there.roi.minimum_extent == pytest.approx(scaled(here.roi.minimum_extent), rel=1e-3)
    assert there.stage1.strides == here.stage1.strides and there.stage1.head_stages == here.stage1.head_stages
    upper = [scaled(size) for size in here.stage1.level_max_sizes]
    assert np.allclose(there.stage1.level_max_sizes, upper, rtol=1e-3, atol=0)
    assert there.planned_shape == here.planned_shape and there.roi.size == here.roi.size
    assert there.stage2 == here.stage2 and there.training.curriculum == here.training.curriculum
    assert there.recall_bound.found == here.recall_bound.found


@pytest.mark.parametrize("length", [1e-7, 1e7])
def test_a_spacing_beyond_nanometres_and_kilometres_is_refused_with_the_case(length: float) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        plan_scans([((40, 40, 40), (1, 1, 1), []), ((40, 40, 40), (1, length, 1), [])])
    assert "case_1" in caught.value.problem
    assert caught.value.value == (1, length, 1)
    assert caught.value.remedy


# -- Classes that share a cell -----------------------------------------------------------------------------------------


def plan_two_classes(lesions: list[Lesion]) -> Plans:
    dataset = make_dataset(["case_0", "case_1"], ("MR",), ("core", "oedema"))
    shape, spacing = (96, 96, 96), (1.0, 1.0, 1.0)
    fingerprint = make_fingerprint(dataset, [shape] * 2, [spacing] * 2, [lesions, []])
    return plan_dataset(fingerprint, dataset)


def test_nested_classes_get_a_box_each() -> None:
    places = [(20.0, 20.0, 20.0), (20.0, 70.0, 40.0), (70.0, 30.0, 70.0)]
    nested = [(label, (size,) * 3, place) for place in places for label, size in ((0, 10.0), (1, 14.0))]
    plans = plan_two_classes(nested)
    assert plans.stage1.boxes_per_class
    assert plans.recall_bound.found == 6
    assert "6 lesions" in why(plans, "boxes")


def test_classes_that_lie_apart_share_one_box() -> None:
    places = [(20.0, 20.0, 20.0), (20.0, 70.0, 40.0), (70.0, 30.0, 70.0)]
    apart = [(index % 2, (10.0,) * 3, place) for index, place in enumerate(places)]
    plans = plan_two_classes(apart)
    assert not plans.stage1.boxes_per_class
    assert why(plans, "boxes") == ""
