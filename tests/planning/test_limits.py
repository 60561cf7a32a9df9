from __future__ import annotations

import re
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import MAX_PARAMETERS, parse_plans

HUGE = 10**9


def refusal(data: dict[str, Any], section: str, change: dict[str, Any]) -> str:
    data[section] = {**data[section], **change} if isinstance(data.get(section), dict) else change
    with pytest.raises(DetSeg3DError) as caught:
        parse_plans(data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("stage1", {"channels": [8, HUGE]}, "stage1.channels.1: Input should be less than or equal to 4096"),
        ("stage1", {"fpn_channels": HUGE}, "stage1.fpn_channels: Input should be less"),
        ("stage1", {"blocks": [1, HUGE]}, "stage1.blocks.1: Input should be less than or equal to 32"),
        ("stage1", {"kernels": [[3, 3, 3], [3, 3, HUGE]]}, "stage1.kernels.1.2: Input should be less"),
        ("stage1", {"kernels": [[3, 3, 3], [3, 3, 2]]}, "stage1.kernels.1.2: Value error, a kernel must be odd"),
        ("stage1", {"strides": [[HUGE, 2, 2], [2, 2, 2]]}, "stage1.strides.0.0: Input should be less"),
        ("stage1", {"channels": [8] * 13}, "stage1.channels: Tuple should have at most 12 items"),
        ("stage2", {"channels": [8, HUGE]}, "stage2.channels.1: Input should be less"),
        ("stage2", {"feature_channels": HUGE}, "stage2.feature_channels: Input should be less"),
        ("stage2", {"kernels": [[3, 3, 3], [3, 4, 3]]}, "a kernel must be odd"),
        ("roi", {"size": [HUGE, 16, 16]}, "roi.size.0: Input should be less than or equal to 512"),
        ("roi", {"size": [1, 16, 16]}, "roi.size.0: Input should be greater than or equal to 4"),
        ("roi", {"max_scale": 1e-9}, "roi.max_scale: Input should be greater"),
        ("inference", {"max_candidates": HUGE}, "inference.max_candidates: Input should be less"),
        ("inference", {"roi_batch_size": HUGE}, "inference.roi_batch_size: Input should be less"),
        ("training", {"batch_size": HUGE}, "training.batch_size: Input should be less"),
    ],
)
def test_absurd_values_are_named(
    plans_data: dict[str, Any], section: str, change: dict[str, Any], message: str
) -> None:
    assert message in refusal(plans_data, section, change)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("fine_spacing", [1e-9, 1, 1], "fine_spacing.0: Input should be greater than or equal to 0.0000001"),
        ("detection_spacing", [1, 1, 1e30], "detection_spacing.2: Input should be less"),
        ("planned_shape", [HUGE, 1, 1], "planned_shape.0: Input should be less"),
        ("class_labels", [70_000], "class_labels.0: Input should be less than or equal to 65535"),
        (
            "normalization",
            [{"scheme": "ct", "mean": float("nan"), "std": 1.0, "lower": 0.0, "upper": 1.0}],
            "normalization.0.ct.mean: Input should be a finite",
        ),
    ],
)
def test_absurd_entries_are_named(plans_data: dict[str, Any], entry: str, value: Any, message: str) -> None:
    assert message in refusal({**plans_data, entry: None}, entry, value)


# Each entry alone is within its limit; together they ask for too much.
WIDE = {"channels": [4096, 4096], "kernels": [[3, 3, 3], [3, 3, 3]], "blocks": [2, 2]}


DEEP = {
    "channels": [8] * 3,
    "strides": [[8, 2, 2]] * 3,
    "kernels": [[3, 3, 3]] * 3,
    "blocks": [1] * 3,
    "head_stages": [0],
    "level_max_sizes": [],
}


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("stage1", WIDE, rf"the network would have \d{{10}} weights, at most {MAX_PARAMETERS} are supported"),
        ("stage1", DEEP, r"the strides of Stage 1 multiply to \[512, 8, 8\], at most 256"),
        ("roi", {"size": [512, 512, 512]}, r"a batch of 16 RoIs of \[512, 512, 512\] has 2147483648 samples"),
        ("roi", {"minimum_extent": [10, 10, 1000]}, "roi.minimum_extent is 1000 fine voxels, at most 512"),
    ],
)
def test_limits_that_concern_several_fields(
    plans_data: dict[str, Any], section: str, change: dict[str, Any], message: str
) -> None:
    assert re.search(message, refusal(plans_data, section, change))


def test_copies_are_mirrored_along_axes_of_the_training_only(plans_data: dict[str, Any]) -> None:
    trained = {**plans_data, "training": {**plans_data["training"], "mirror_axes": [0, 2]}}
    message = refusal(trained, "inference", {"mirror_axes": [1, 2]})
    assert "inference.mirror_axes [1, 2] must be among training.mirror_axes [0, 2]" in message


def test_an_axis_is_mirrored_once(plans_data: dict[str, Any]) -> None:
    assert "inference.mirror_axes: Value error, an axis is named twice" in refusal(
        plans_data, "inference", {"mirror_axes": [1, 1]}
    )


def test_pooling_must_leave_something_of_an_roi(plans_data: dict[str, Any]) -> None:
    plans_data["stage2"]["strides"] = [[16, 2, 2]]
    message = refusal(plans_data, "roi", {"size": [8, 16, 16]})
    assert "multiply to [16, 2, 2], which is too much for an RoI of [8, 16, 16]" in message


def test_context_attention_needs_channels_for_its_heads(plans_data: dict[str, Any]) -> None:
    message = refusal(plans_data, "stage2", {"channels": [8, 18], "context_attention": True})
    assert "the last of the channels of Stage 2 must be a multiple of 4" in message
