from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg3d.core.codes import ClassCodes, Code
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.fingerprint import ChannelIntensities, IntensityStatistics
from detseg3d.planning.planner import choose_normalization, plan_dataset
from detseg3d.planning.plans import Plans, parse_plans
from tests.planning.factory import cubes, make_dataset, make_fingerprint

SMALL, MIXED = [3.0] * 20, [3.0] * 20 + [20.0] * 10


def plan(
    shape: tuple[int, int, int] = (96, 160, 128),
    spacing: tuple[float, float, float] = (1, 1, 1),
    edges: list[float] | None = None,
    channels: tuple[str, ...] = ("FLAIR",),
    **options: Any,
) -> Plans:
    dataset = make_dataset(channels=channels)
    lesions = [cubes(SMALL if edges is None else edges), []]
    return plan_dataset(make_fingerprint(dataset, [shape] * 2, [spacing] * 2, lesions), dataset, **options)


def why(plans: Plans, name: str) -> str:
    return " ".join(f"{d.value}: {d.reason}" for d in plans.decisions if d.name == name)


def test_head_scan() -> None:
    plans = plan(edges=MIXED)
    assert plans.fine_spacing == plans.detection_spacing == (1, 1, 1)
    assert plans.planned_shape == (96, 160, 128)
    assert plans.stage1.strides == ((1, 1, 1), *[(2, 2, 2)] * 4)
    assert plans.stage1.channels == (8, 32, 64, 96, 128)
    assert plans.stage1.head_stages == (1, 2)
    assert plans.roi.size == (32, 32, 32)
    assert [phase.window for phase in plans.training.curriculum] == [(48,) * 3, (96,) * 3, None]
    assert (plans.training.steps, plans.training.batch_size) == (5750, 1)
    assert plans.inference.candidate_threshold == 0.1


def test_plans_are_unchanged_by_json() -> None:
    plans = plan()
    assert parse_plans(json.loads(json.dumps(plans.model_dump(mode="json")))) == plans


def test_the_spacing_of_arrays_is_that_of_the_data_set() -> None:
    dataset = replace(make_dataset(), default_spacing=(3.0, 1.0, 1.0))
    fingerprint = make_fingerprint(dataset, [(32, 96, 96)] * 2, [(3, 1, 1)] * 2, [cubes(SMALL), []])
    assert plan_dataset(fingerprint, dataset).default_spacing == (3.0, 1.0, 1.0)


def test_plans_keep_the_codes_of_the_classes() -> None:
    codes = {"lesion": ClassCodes(Code("4147007", "SCT", "Mass"), Code("10200004", "SCT", "Liver"))}
    dataset = replace(make_dataset(), codes=codes)
    plans = plan_dataset(make_fingerprint(dataset, [(32, 96, 96)] * 2, [(3, 1, 1)] * 2, [cubes(SMALL), []]), dataset)
    assert parse_plans(json.loads(json.dumps(plans.model_dump(mode="json")))).codes == codes


def test_the_same_fingerprint_gives_the_same_plans() -> None:
    assert plan() == plan()


def test_anisotropic_scan_is_not_pooled_across_slices_at_first() -> None:
    plans = plan((56, 330, 330), (3, 0.72, 0.72))
    assert plans.stage1.strides[:2] == ((1, 1, 1), (1, 2, 2))
    assert plans.stage1.kernels[:2] == ((1, 3, 3),) * 2
    assert plans.roi.size[0] < plans.roi.size[1]
    assert plans.stage2.strides[0] == (1, 2, 2)
    assert "Axis z is over 2x coarser" in why(plans, "Stage 1 strides")
    assert "Axes with coarser spacing get fewer samples" in why(plans, "RoI size")
    assert "4.2x coarser than the next" in why(plans, "fine spacing")


def test_large_ct_is_detected_on_a_coarser_grid_that_fits() -> None:
    plans = plan((300, 512, 512), (1, 0.7, 0.7), channels=("CT",))
    assert max(plans.detection_scale) > 1
    assert plans.fine_spacing == (1, 0.7, 0.7)
    assert plans.predicted_training_gb <= 8
    assert plans.predicted_inference_gb <= 2
    assert "On the fine grid (1×0.7×0.7 mm), the planned volume 300×512×512 would need" in why(
        plans, "detection spacing"
    )


@pytest.mark.parametrize(
    ("shape", "channels"), [((1000, 512, 512), ("CT",)), ((360, 512, 512), ("T1", "T2", "FLAIR", "ADC"))]
)
def test_a_volume_that_takes_most_of_two_gigabytes_itself_can_be_planned(
    shape: tuple[int, int, int], channels: tuple[str, ...]
) -> None:
    plans = plan(shape, (1, 0.7, 0.7), channels=channels)
    fixed = math.prod(shape) * (4 * len(channels) + 6) / 1e9
    assert fixed < plans.predicted_inference_gb <= fixed + 1
    assert f"(limit {fixed + 1:.2g} above the input)" in why(plans, "detection spacing")


def test_the_reason_states_that_few_slices_are_never_pooled() -> None:
    plans = plan((4, 320, 320), (5, 0.7, 0.7))
    assert {stride[0] for stride in plans.stage1.strides} == {1}
    assert "Axis z (4) has too few voxels to be pooled" in why(plans, "Stage 1 strides")


def test_a_smaller_budget_gives_a_coarser_grid_and_reports_the_loss() -> None:
    rich, poor = (
        plan((256, 256, 256), edges=[1.5] * 5 + [20] * 5),
        plan((256,) * 3, edges=[1.5] * 5 + [20] * 5, training_gb=1.2),
    )
    assert rich.detection_spacing == (1, 1, 1)
    assert poor.detection_spacing[0] > 1
    assert poor.predicted_training_gb <= 1.2
    assert poor.training_budget_gb == 1.2
    assert "finds 10 of 10 training lesions. Lost lesions: none. 5 of the found lesions are smaller" in why(
        poor, "recall bound"
    )
    assert "It should span 2 cells. The memory allows no finer grid (see detection spacing)" in why(
        poor, "recall bound"
    )
    assert (poor.recall_bound.bound, poor.recall_bound.found_below_cell, rich.recall_bound.found_below_cell) == (
        1.0,
        5,
        5,
    )


def test_small_lesions_get_a_stage_at_full_resolution() -> None:
    plans = plan(edges=[8.0] * 5)
    assert plans.stage1.strides[0] == (1, 1, 1) and plans.stage1.head_stages[0] == 1
    assert why(plans, "fine stage").startswith(
        "8 channels at full resolution: The median lesion spans 4 cells of the stem (2×2×2 mm), at most 4"
    )


def test_larger_lesions_get_no_fine_stage() -> None:
    plans = plan(edges=[8.5] * 5)
    assert plans.stage1.strides[0] == (2, 2, 2) and plans.stage1.head_stages[0] == 0
    assert why(plans, "fine stage").startswith(
        "none: The median lesion spans 4.2 cells of the stem (2×2×2 mm), more than 4"
    )


def test_a_fine_stage_is_not_worth_a_coarser_grid() -> None:
    rich, poor = plan((256,) * 3), plan((256,) * 3, training_gb=4)
    assert rich.stage1.strides[0] == (1, 1, 1) and poor.stage1.strides[0] == (2, 2, 2)
    assert rich.detection_spacing == poor.detection_spacing == (1, 1, 1)
    assert rich.predicted_training_gb > 4 >= poor.predicted_training_gb
    assert "at most 4. But with such a stage the network would need 5.6 GB to train (budget 4)" in why(
        poor, "fine stage"
    )


def test_a_plan_without_lesions_has_no_fine_stage() -> None:
    assert why(plan(edges=[]), "fine stage") == "none: There is no lesion to measure."


def test_the_finest_grid_that_fits_is_taken() -> None:
    plans = plan((256, 256, 256), training_gb=1.5)
    finer = plan((256, 256, 256), training_gb=1.5 * 1.2)
    assert finer.detection_spacing[0] < plans.detection_spacing[0]


def test_impossible_budget_is_an_error() -> None:
    with pytest.raises(DetSeg3DError, match=r"no detection grid fits into 0.1 GB(.|\n)*raise --training_gb"):
        plan(training_gb=0.1)


def test_large_lesions_get_a_larger_roi() -> None:
    assert plan(edges=[30.0] * 10).roi.size == (48, 48, 48)
    assert plan(edges=[60.0] * 10).roi.size == (64, 64, 64)
    assert "75 % of the lesions span up to 60.0 fine voxels" in why(plan(edges=[60.0] * 10), "RoI size")


@pytest.mark.parametrize(("override", "size"), [(48, (48, 48, 48)), ((8, 32, 32), (8, 32, 32))])
def test_roi_size_may_be_overridden(override: Any, size: tuple[int, int, int]) -> None:
    plans = plan(roi_size=override)
    assert plans.roi.size == size
    assert "The user chose this size" in why(plans, "RoI size")


@pytest.mark.parametrize("override", [2, 200, (32, 32, 500)])
def test_roi_size_out_of_range_is_an_error(override: Any) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        plan(roi_size=override)
    assert (caught.value.value, caught.value.expected) == (override, "4 to 128 samples along each axis")


@pytest.mark.parametrize("override", [4, 7, 25])
def test_an_roi_that_cannot_be_halved_is_an_error(override: int) -> None:
    with pytest.raises(DetSeg3DError, match=r"cannot be halved(.|\n)*even number of samples, at least 8"):
        plan(roi_size=override)


def test_large_rois_of_a_large_volume_leave_memory_for_the_detector() -> None:
    # 32 RoIs of 64³ would need 3.3 of the 4 GB, on whatever grid the detector works.
    assert plan((300, 512, 512), edges=[60.0] * 10, training_gb=4).predicted_training_gb <= 4


@pytest.mark.parametrize("name", ["CT", "ct", " Ct "])
def test_ct_is_known_by_its_channel_name(name: str) -> None:
    [normalization] = plan(channels=(name,)).normalization
    assert normalization.scheme == "ct"
    assert (normalization.mean, normalization.lower, normalization.upper) == pytest.approx((50, 0.5, 99.5))


def test_other_channels_are_z_scored_one_by_one() -> None:
    plans = plan(channels=("T1", "CT", "CTA", "noNorm"))
    assert [channel.scheme for channel in plans.normalization] == ["zscore", "ct", "zscore", "none"]
    assert "The window is" in why(plans, "normalisation of CT")


@pytest.mark.parametrize("name", ["CT_portal", "CT venous", "late-ct"])
def test_a_channel_that_may_be_a_ct_is_warned_of(name: str) -> None:
    plans = plan(channels=("T1", name))
    assert plans.normalization[1].scheme == "zscore"
    assert f'Channel 1 is called "{name}"' in why(plans, "warning")
    assert "rename it to CT in dataset.json" in why(plans, "warning")


def test_other_names_are_not_warned_of() -> None:
    assert "rename it" not in why(plan(channels=("CT", "T1", "CTA", "FACT", "noNorm")), "warning")


def test_a_class_in_fewer_cases_than_folds_is_warned_of() -> None:
    dataset = make_dataset(case_ids=tuple("abcdef"), classes=("common", "rare"))
    lesions = [cubes(SMALL)] * 5 + [cubes(SMALL) + cubes([6.0], label=1)]
    plans = plan_dataset(make_fingerprint(dataset, [(90, 90, 90)] * 6, [(1, 1, 1)] * 6, lesions), dataset)
    assert "Class rare is in 1 of 6 cases, fewer than the 5 folds" in why(plans, "warning")
    assert "Class common" not in why(plans, "warning")


def test_images_without_content_or_with_only_the_label_cause_a_warning() -> None:
    dataset = make_dataset()
    fingerprint = make_fingerprint(dataset, [(90, 90, 90)] * 2, [(1, 1, 1)] * 2, [cubes(SMALL)] * 2)
    second = fingerprint.cases["b"].model_copy(update={"degenerate": ("it is constant",), "image_is_label": True})
    fingerprint = fingerprint.model_copy(update={"cases": {**fingerprint.cases, "b": second}})
    text = why(plan_dataset(fingerprint, dataset), "warning")
    assert "Channel FLAIR carries no information in 1 case (b). In b, it is constant" in text
    assert "the label and nothing else in 1 case (b)" in text


def test_a_window_that_would_clip_most_of_the_body_is_widened_and_explained() -> None:
    dataset = make_dataset(channels=("CT",))
    fingerprint = make_fingerprint(dataset, [(90, 90, 90)] * 2, [(1, 1, 1)] * 2, [cubes(SMALL)] * 2)
    body = fingerprint.summary.intensity[0].body
    assert body is not None
    lesions = body.model_copy(update={"percentiles": {**body.percentiles, 0.5: 110.0, 99.5: 150.0}})
    summary = fingerprint.summary.model_copy(update={"intensity": (ChannelIntensities(body=body, lesions=lesions),)})
    plans = plan_dataset(fingerprint.model_copy(update={"summary": summary}), dataset)
    assert plans.normalization[0].upper == 150 and plans.normalization[0].lower == body.percentiles[25]
    assert "would clip 100% of the body, so the window also contains the quartiles" in why(plans, "normalisation of CT")


def test_set_without_lesions_plans_with_a_warning() -> None:
    dataset = make_dataset(channels=("CT",))
    plans = plan_dataset(make_fingerprint(dataset, [(90, 90, 90)] * 2, [(1, 1, 1)] * 2, [[], []]), dataset)
    assert plans.recall_bound.lesions == 0
    assert plans.roi.size == (32, 32, 32)
    assert plans.stage1.head_stages == (0,)
    assert plans.normalization[0].upper > 0  # from the body
    assert "None of the 2 cases has a lesion" in why(plans, "warning")


@pytest.mark.parametrize(("high", "upper"), [(40.0, 400.0), (90.0, 90.0)])
def test_lesions_of_nearly_one_value_take_the_window_of_the_body(high: float, upper: float) -> None:
    lesions = IntensityStatistics(mean=35, std=1, percentiles={0.5: 35, 99.5: high})
    body = IntensityStatistics(mean=20, std=90, percentiles={0.5: -900, 99.5: 400})
    [chosen] = choose_normalization([ChannelIntensities(lesions=lesions, body=body)], ["CT"])
    assert chosen.upper == upper


def test_class_without_lesions_is_warned_of() -> None:
    dataset = make_dataset(classes=("core", "edema"))
    lesions = [cubes(SMALL, label=0), []]
    plans = plan_dataset(make_fingerprint(dataset, [(90, 90, 90)] * 2, [(1, 1, 1)] * 2, lesions), dataset)
    assert plans.class_names == ("core", "edema")
    assert plans.class_labels == (1, 2)
    assert "No training case has a lesion of class edema" in why(plans, "warning")
    assert "core: 20, edema: 0" in why(plans, "classes")


def plan_two_classes(*orders: bool) -> Plans:
    """Plan scans with two classes: the first class lies before (True) or behind the second class along x."""
    dataset = make_dataset([f"case_{index}" for index in range(len(orders))], classes=("head", "tail"))
    lesions = [[(order ^ 1, (9,) * 3, (30, 30, 10)), (int(order), (9,) * 3, (30, 30, 70))] for order in orders]
    count = len(orders)
    return plan_dataset(make_fingerprint(dataset, [(60, 60, 90)] * count, [(1, 1, 1)] * count, lesions), dataset)


def test_scans_are_not_mirrored_along_an_axis_on_which_classes_keep_an_order() -> None:
    plans = plan_two_classes(*[True] * 12)
    assert plans.training.mirror_axes == (0, 1) and plans.inference.mirror_axes == (1,)
    assert "Along x (right to left), head comes before tail in 12 of 12 scans" in why(plans, "mirroring")


def test_scans_without_an_order_are_mirrored_along_all_axes() -> None:
    for plans in (plan_two_classes(*[True, False] * 6), plan(edges=SMALL)):
        assert plans.training.mirror_axes == (0, 1, 2) and plans.inference.mirror_axes == (2,)
        assert "so no axis has a direction" in why(plans, "mirroring")


@pytest.mark.parametrize("numbered", [False, True])
def test_touching_masks_are_joined_if_the_labels_do_not_number_lesions(numbered: bool) -> None:
    dataset = replace(make_dataset(), instances=numbered)
    fingerprint = make_fingerprint(dataset, [(90, 90, 90)] * 2, [(1, 1, 1)] * 2, [cubes(SMALL), []])
    plans = plan_dataset(fingerprint, dataset)
    assert plans.inference.join_touching is not numbered
    assert bool(why(plans, "touching masks")) is not numbered


def test_the_plan_names_the_dense_map_the_second_reading_and_the_components() -> None:
    plans = plan(edges=MIXED)
    assert plans.stage1.dense_channels > 0
    assert plans.inference.coarse_reading_size is not None
    assert plans.inference.dense_minimum_mm3 is not None and plans.inference.dense_minimum_unlike_mm3 is not None
    assert plans.inference.smallest_component_mm3 == plans.inference.dense_minimum_unlike_mm3
    assert plans.inference.dense_minimum_unlike_mm3 < plans.inference.dense_minimum_mm3
    names = [decision.name for decision in plans.decisions]
    assert {"dense map", "coarse reading", "components of the dense map"} <= set(names)


def test_without_memory_for_a_dense_map_there_are_no_components() -> None:
    roomy = plan(edges=MIXED)
    tight = plan(edges=MIXED, training_gb=roomy.predicted_training_gb - 1e-3)
    assert tight.detection_spacing == roomy.detection_spacing
    assert tight.stage1.dense_channels == 0 and tight.inference.dense_minimum_mm3 is None
    assert "it does not fit" in why(tight, "dense map")


def test_every_decision_has_a_reason_with_numbers() -> None:
    for plans in (plan(edges=MIXED), plan((56, 330, 330), (3, 0.72, 0.72)), plan((300, 512, 512), (1, 0.7, 0.7))):
        names = [decision.name for decision in plans.decisions]
        for name in ("fine spacing", "planned volume", "RoI size", "Stage 2", "detection spacing", "Stage 1 strides"):
            assert name in names
        for decision in plans.decisions:
            if not decision.name.startswith("normalisation"):
                assert any(character.isdigit() for character in decision.reason), decision


def test_tiny_volume_of_tiny_lesions_is_detected_at_full_resolution() -> None:
    plans = plan((40, 40, 40), edges=[2.0] * 10)
    assert plans.stage1.strides[0] == (1, 1, 1)
    assert "The stride of the stem is 1" in why(plans, "Stage 1 strides")
    assert "(1×1×1 mm). The stem already has full resolution" in why(plans, "fine stage")
    assert [phase.window for phase in plans.training.curriculum] == [None]


def test_single_slices_can_be_planned() -> None:
    plans = plan((1, 256, 256), (5, 1, 1))
    assert all(stride[0] == 1 for stride in plans.stage1.strides)


@pytest.mark.parametrize(("lesions", "limit"), [(1, 100), (60, 240), (400, 1600), (3000, 12_000)])
def test_the_fullest_case_limits_the_candidates_of_a_scan_as_large(lesions: int, limit: int) -> None:
    dataset, crowd = make_dataset(), cubes([3.0] * lesions, distance=100 / lesions)
    plans = plan_dataset(make_fingerprint(dataset, [(96, 160, 128)] * 2, [(1, 1, 1)] * 2, [crowd, []]), dataset)
    volume, most = 96 * 160 * 128, plans.inference.max_candidates
    assert plans.inference.candidate_limit(volume) == pytest.approx(limit, abs=2)
    assert plans.inference.candidate_limit(volume / 100) == max(100, lesions)
    if lesions > 25:
        assert plans.inference.candidate_limit(2 * volume) == pytest.approx(min(2 * limit, most), abs=3)
    assert f"up to {lesions} lesions" in why(plans, "candidates")


def test_colliding_lesions_lower_the_bound() -> None:
    dataset = make_dataset()
    twins = [(0, (3.0,) * 3, (10.2, 10.2, 10.2)), (0, (3.0,) * 3, (10.8, 10.8, 10.8)), *cubes([3.0] * 8)]
    plans = plan_dataset(make_fingerprint(dataset, [(96,) * 3] * 2, [(1, 1, 1)] * 2, [twins, []]), dataset)
    assert plans.recall_bound.lost_same_cell == 1
    assert plans.recall_bound.bound == pytest.approx(0.9)


def test_planned_networks_can_be_built() -> None:
    import torch

    from detseg3d.models.detseg import DetSeg3D

    plans = plan((20, 40, 40), (3, 1, 1), edges=[4.0] * 10)
    output = DetSeg3D(plans).eval()(torch.zeros(1, 1, *plans.planned_shape), mode="test")
    assert tuple(output["full_segmentation"].shape) == plans.planned_shape
    assert np.asarray(output["roi_info"]).ndim == 1
