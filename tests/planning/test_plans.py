from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import Plans, load_plans, parse_plans, preprocessing_hash, save_plans

CT = {"scheme": "ct", "mean": -100.0, "std": 300.0, "lower": -900.0, "upper": 300.0}


def problems(data: Any) -> str:
    with pytest.raises(DetSeg3DError) as caught:
        parse_plans(data)
    return str(caught.value)


# -- Reading and writing ---------------------------------------------------------------------------------------


def test_plans_are_read_as_they_were_written(tmp_path: Path, tiny_plans: Plans) -> None:
    save_plans(tiny_plans, tmp_path / "plans.json")
    assert load_plans(tmp_path / "plans.json") == tiny_plans


def test_plans_are_written_as_indented_json(tmp_path: Path, tiny_plans: Plans) -> None:
    save_plans(tiny_plans, tmp_path / "plans.json")
    text = (tmp_path / "plans.json").read_text(encoding="utf-8")
    assert '\n "dataset_name": "Dataset001_Tiny"' in text and json.loads(text)["version"] == 5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        load_plans(tmp_path / "plans.json")
    assert caught.value.file == tmp_path / "plans.json"


def test_errors_name_the_file(tmp_path: Path, plans_data: dict[str, Any]) -> None:
    path = tmp_path / "plans.json"
    path.write_text(json.dumps({**plans_data, "oops": 1}), encoding="utf-8")
    with pytest.raises(DetSeg3DError) as caught:
        load_plans(path)
    assert caught.value.file == path and "oops" in caught.value.problem


# -- Validation ------------------------------------------------------------------------------------------------


def test_all_problems_are_reported_together(plans_data: dict[str, Any]) -> None:
    plans_data["dataset_nam"] = "typo"
    plans_data["training"]["steps"] = 0
    plans_data["stage1"]["fpn"] = 8
    plans_data["roi"]["size"] = [16, 16]
    del plans_data["file_ending"]
    text = problems(plans_data)
    assert "the plans have 5 problem(s)" in text
    for line in (
        "dataset_nam: Extra inputs are not permitted, found 'typo'",
        "training.steps: Input should be greater than or equal to 1, found 0",
        "stage1.fpn: Extra inputs are not permitted, found 8",
        "roi.size.2: Field required",
        "file_ending: Field required",
    ):
        assert line in text


@pytest.mark.parametrize("data", [None, [], "plans", 3])
def test_a_value_that_is_not_an_object_is_an_error(data: Any) -> None:
    assert "(the whole)" in problems(data)


def test_a_long_value_is_shortened(plans_data: dict[str, Any]) -> None:
    plans_data["dataset_name"] = list(range(1000))
    text = problems(plans_data)
    assert "…" in text and len(text) < 400


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("stage1", {"blocks": [1]}, "one entry per stage expected"),
        ("stage1", {"head_stages": [1, 0]}, "must ascend and name stages 0 to 1"),
        ("stage1", {"head_stages": [0, 2]}, "must ascend and name stages 0 to 1"),
        ("stage1", {"head_stages": []}, "at least 1 item"),
        ("stage1", {"level_max_sizes": []}, "one entry less than head_stages"),
        ("stage1", {"strides": [[2, 2, 0], [2, 2, 2]]}, "stage1.strides.0.2"),
        ("stage2", {"strides": []}, "at least 1 item"),
        ("stage2", {"kernels": [[3, 3, 3]]}, "at least 2 items"),
        ("stage2", {"strides": [[2, 2, 2]] * 2}, "one stride between neighbouring scales"),
        ("roi", {"margin": -0.1}, "roi.margin"),
        ("roi", {"minimum_extent": [8, 8, 0]}, "roi.minimum_extent.2"),
        ("training", {"hard_negative_threshold": 1.5}, "training.hard_negative_threshold"),
        ("training", {"learning_rate": float("inf")}, "training.learning_rate"),
        ("training", {"curriculum": []}, "at least 1 item"),
        ("inference", {"mask_threshold": float("nan")}, "inference.mask_threshold"),
        ("inference", {"mirror_axes": [3]}, "inference.mirror_axes.0"),
    ],
)
def test_bad_values_of_a_section_are_refused(
    plans_data: dict[str, Any], section: str, change: dict[str, Any], message: str
) -> None:
    plans_data[section].update(change)
    assert message in problems(plans_data)


def test_level_sizes_must_not_descend(plans_data: dict[str, Any]) -> None:
    three = {"channels": [8] * 3, "strides": [[2] * 3] * 3, "kernels": [[3] * 3] * 3, "blocks": [1] * 3}
    plans_data["stage1"].update(three, head_stages=[0, 1, 2], level_max_sizes=[[20, 20, 20], [20, 10, 20]])
    assert "must not descend along any axis" in problems(plans_data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version"),
        ({"normalization": [{"scheme": "zscore"}] * 2}, "2 normalisations for 1 channels"),
        ({"normalization": [{"scheme": "minmax"}]}, "normalization.0: Input tag 'minmax'"),
        ({"normalization": [{"scheme": "zscore", "mean": 1.0}]}, "normalization.0.zscore.mean: Extra inputs"),
        ({"normalization": [{**CT, "upper": None}]}, "normalization.0.ct.upper"),
        ({"normalization": [{**CT, "upper": -900.0}]}, "the window from -900.0 to -900.0 is empty"),
        ({"class_names": ["a", "b"], "class_labels": [1, 1]}, "a different value for each of ('a', 'b')"),
        ({"class_labels": [1, 2]}, "a different value"),
        ({"class_labels": [0]}, "class_labels.0"),
        ({"detection_spacing": [1, 1, 0.9]}, "must not be finer than fine_spacing"),
        ({"fine_spacing": [1, 1, 0]}, "fine_spacing.2"),
    ],
)
def test_plans_that_contradict_themselves_are_refused(
    plans_data: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    assert message in problems({**plans_data, **change})


@pytest.mark.parametrize(("shares", "good"), [((0.3, 0.7), True), ((0.1,) * 10, True), ((0.5, 0.25), False)])
def test_the_fractions_of_the_curriculum_must_sum_to_one(
    plans_data: dict[str, Any], shares: tuple[float, ...], good: bool
) -> None:
    plans_data["training"]["curriculum"] = [{"fraction": share, "window": None} for share in shares]
    if good:
        assert len(parse_plans(plans_data).training.curriculum) == len(shares)
    else:
        assert "the fractions of the curriculum must sum to 1, found 0.75" in problems(plans_data)


def test_plans_are_frozen(tiny_plans: Plans) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_plans.training.steps = 5  # type: ignore[misc]


# -- Figures derived from them ---------------------------------------------------------------------------------


def test_strides_multiply_from_stage_to_stage(plans_data: dict[str, Any]) -> None:
    plans_data["stage1"]["strides"] = [[1, 2, 2], [2, 2, 3]]
    stage1 = parse_plans(plans_data).stage1
    assert stage1.cumulative_stride(0) == (1, 2, 2) and stage1.cumulative_stride(1) == (2, 4, 6)


def test_cell_sizes_are_in_fine_voxels(plans_data: dict[str, Any]) -> None:
    plans_data.update(fine_spacing=[3, 1, 1], detection_spacing=[3, 1.5, 2])
    plans_data["stage1"]["strides"] = [[1, 2, 2], [2, 2, 2]]
    plans = parse_plans(plans_data)
    assert plans.detection_scale == (1, 1.5, 2)
    assert plans.cell_sizes() == ((1, 3, 4), (2, 6, 8))


def test_channels_and_classes_are_counted(plans_data: dict[str, Any]) -> None:
    plans_data.update(class_names=["a", "b"], class_labels=[1, 4])
    plans = parse_plans(plans_data)
    assert (plans.num_channels, plans.num_classes) == (1, 2)


# -- Changed copies --------------------------------------------------------------------------------------------


def test_evolve_updates_a_section_and_leaves_the_original(tiny_plans: Plans) -> None:
    changed = tiny_plans.evolve(training={"steps": 50}, dataset_name="Dataset002_Other")
    assert (changed.training.steps, changed.dataset_name) == (50, "Dataset002_Other")
    assert changed.training.curriculum == tiny_plans.training.curriculum
    assert (tiny_plans.training.steps, tiny_plans.dataset_name) == (8, "Dataset001_Tiny")


def test_evolve_validates(tiny_plans: Plans) -> None:
    with pytest.raises(DetSeg3DError, match=r"training\.steps: .*, found -1"):
        tiny_plans.evolve(training={"steps": -1})


def test_evolve_refuses_unknown_sections(tiny_plans: Plans) -> None:
    with pytest.raises(DetSeg3DError, match="trainig: Extra inputs are not permitted"):
        tiny_plans.evolve(trainig={"steps": 1})


# -- The hash of the preprocessing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"channel_names": ["T1"]},
        {"class_labels": [2]},
        {"instances": True},
        {"normalization": [{"scheme": "none"}]},
        {"normalization": [CT]},
        {"crop_to_body": False},
        {"fine_spacing": [1, 1, 0.99]},
        {"interpolation_order": 3},
    ],
)
def test_fields_that_preprocessing_reads_change_the_hash(tiny_plans: Plans, change: dict[str, Any]) -> None:
    assert preprocessing_hash(tiny_plans.evolve(**change)) != preprocessing_hash(tiny_plans)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_name": "Dataset002_Other"},
        {"detection_spacing": [2, 2, 2]},
        {"planned_shape": [8, 8, 8]},
        {"roi": {"size": [32, 32, 32]}},
        {"stage1": {"fpn_channels": 16}},
        {"stage2": {"feature_channels": 0}},
        {"training": {"steps": 7}},
        {"inference": {"candidate_threshold": 0.7}},
        {"training_budget_gb": 80},
        {"default_spacing": [3, 1, 1]},
    ],
)
def test_other_fields_do_not_change_the_hash(tiny_plans: Plans, change: dict[str, Any]) -> None:
    assert preprocessing_hash(tiny_plans.evolve(**change)) == preprocessing_hash(tiny_plans)


def test_the_hash_is_unchanged_by_writing_and_reading(tmp_path: Path, tiny_plans: Plans) -> None:
    save_plans(tiny_plans, tmp_path / "plans.json")
    assert preprocessing_hash(load_plans(tmp_path / "plans.json")) == preprocessing_hash(tiny_plans)
