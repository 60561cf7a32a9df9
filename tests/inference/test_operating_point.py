from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import ModelFolder
from detseg3d.evaluation.cross_validation import ChoiceMetrics, PooledMetrics
from detseg3d.inference.operating_point import (
    OperatingPoint,
    apply_operating_point,
    load_operating_point,
    save_operating_point,
    weights_digest,
)
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.system.json_files import read_json, write_json

CHOSEN = InferencePlan(
    candidate_threshold=0.2,
    score_threshold=0.7,
    mask_threshold=0.6,
    suppression_distance=0.75,
    suppression_iou=0.1,
    minimum_volume_mm3=4.5,
    scan_threshold=0.8,
    calibration=((0, 0), (0.123456789012345, 0.7), (1, 1)),
    roi_batch_size=3,
    mirror_axes=(),
)

POOLED = PooledMetrics(0.5, 0.5, 0.5, 1.0, 0.6, 0.6, 0.6, 0.8, 0.4, 10, 5, 6, 10)
METRICS = ChoiceMetrics(None, replace(POOLED, f1_iou_0_1=0.7), POOLED)


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Path]:
    files = {f"fold_{fold}": tmp_path / f"fold_{fold}" / "model_final.safetensors" for fold in (0, 1, "all")}
    for name, file in files.items():
        file.parent.mkdir()
        file.write_bytes(name.encode() * 100_000)
    return files


@pytest.fixture
def point(tmp_path: Path, weights: dict[str, Path]) -> OperatingPoint:
    """An operating point that was chosen with folds 0 and 1 and saved."""
    digests = {name: weights_digest(weights[name]) for name in ("fold_0", "fold_1")}
    point = OperatingPoint(inference=CHOSEN, objective="highest lesion F1", weights=digests, metrics=METRICS)
    assert (
        save_operating_point(point, tmp_path)
        == ModelFolder(tmp_path).operating_point
        == tmp_path / "operating_point.json"
    )
    return point


def test_a_saved_operating_point_is_read_unchanged(tmp_path: Path, point: OperatingPoint) -> None:
    assert load_operating_point(tmp_path) == point


def test_the_metrics_are_read_as_they_were_written(tmp_path: Path, point: OperatingPoint) -> None:
    loaded = load_operating_point(tmp_path)
    assert loaded is not None and loaded.metrics == METRICS
    stored = read_json(ModelFolder(tmp_path).operating_point)["metrics"]
    assert stored["cross_fitted"] is None and stored["plan"]["f1_iou_0_1"] == 0.5


def test_a_model_without_an_operating_point_keeps_its_plans(tmp_path: Path, tiny_plans: Plans) -> None:
    assert load_operating_point(tmp_path) is None
    assert apply_operating_point(tiny_plans, tmp_path, {}) == (tiny_plans, None)


def test_a_digest_is_that_of_the_file(weights: dict[str, Path]) -> None:
    assert weights_digest(weights["fold_0"]) == hashlib.sha256(b"fold_0" * 100_000).hexdigest()


def change(path: Path, **entries: Any) -> None:
    write_json({**read_json(path), **entries}, path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"version": 1}, "version: Input should be 3"),
        ({"weights": ["fold_0"]}, "weights: "),
        ({"inference": {"score_threshold": 1.5}}, "inference.score_threshold: .*less than or equal to 1"),
        ({"inference": {"score_treshold": 0.5}}, "inference.score_treshold: Extra inputs"),
        ({"inference": {"calibration": [[0, 0], [0.5, 0.9], [1, 0.8]]}}, "ascend in both coordinates"),
        ({"threshold": 0.5}, "threshold: Extra inputs"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, point: OperatingPoint, entries: dict[str, Any], message: str) -> None:
    change(ModelFolder(tmp_path).operating_point, **entries)
    expected = (
        rf"(?s)operating point has 1 problem.*operating_point\.json.*{message}.*detseg3d_consolidate again, or del"
    )
    with pytest.raises(DetSeg3DError, match=expected):
        load_operating_point(tmp_path)


@pytest.mark.parametrize("text", ["", "[1, 2", "[]", "null"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    ModelFolder(tmp_path).operating_point.write_text(text, encoding="utf-8")
    with pytest.raises(
        DetSeg3DError, match=r"(?s)operating_point\.json.*detseg3d_consolidate again, or delete the file"
    ):
        load_operating_point(tmp_path)


def test_thresholds_and_calibration_are_used_and_nothing_else(
    tmp_path: Path, point: OperatingPoint, weights: dict[str, Path], tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    del weights["fold_all"]
    with caplog.at_level("INFO"):
        plans = apply_operating_point(tiny_plans, tmp_path, weights, use_mirroring=False).plans
    kept = {name: getattr(tiny_plans.inference, name) for name in ("roi_batch_size", "mirror_axes", "max_candidates")}
    assert plans == tiny_plans.evolve(inference={**CHOSEN.model_dump(), **kept})
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_subset_of_the_folds_uses_the_operating_point(
    tmp_path: Path, point: OperatingPoint, weights: dict[str, Path], tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    plans = apply_operating_point(tiny_plans, tmp_path, {"fold_1": weights["fold_1"]}, use_mirroring=False).plans
    assert plans.inference.score_threshold == 0.7 and caplog.text == ""


@pytest.mark.usefixtures("point")
@pytest.mark.parametrize(
    ("chosen", "mirrored", "message"),
    [
        ((), True, "chosen without mirrored copies, but this prediction is made with copies mirrored along x,"),
        (
            (2,),
            False,
            "chosen with copies mirrored along x, but this prediction is made without mirrored copies,",
        ),
        ((), False, None),
        ((2,), True, None),
    ],
)
def test_mirrored_copies_that_differ_from_the_operating_point_are_reported_once(
    tmp_path: Path,
    weights: dict[str, Path],
    tiny_plans: Plans,
    caplog: pytest.LogCaptureFixture,
    chosen: tuple[int, ...],
    mirrored: bool,
    message: str | None,
) -> None:
    stored = read_json(ModelFolder(tmp_path).operating_point)["inference"]
    change(ModelFolder(tmp_path).operating_point, inference={**stored, "mirror_axes": list(chosen)})
    del weights["fold_all"]
    apply_operating_point(tiny_plans, tmp_path, weights, use_mirroring=mirrored)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == (message is not None)
    assert message is None or (message in messages[0] and "--disable_tta" in messages[0] and "--val" in messages[0])


def test_the_operating_point_is_not_used_with_other_weights(
    tmp_path: Path, point: OperatingPoint, weights: dict[str, Path], tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    weights["fold_1"].write_bytes(b"trained again")
    assert apply_operating_point(tiny_plans, tmp_path, weights) == (tiny_plans, None)
    assert (
        "operating_point.json was chosen with other weights of fold_1 and is not used; run detseg3d_consolidate again"
        in caplog.text
    )
    assert "fold_0" not in caplog.text


def test_the_operating_point_is_not_used_with_the_best_weights_and_no_consolidation_is_advised(
    tmp_path: Path, point: OperatingPoint, weights: dict[str, Path], tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    best = weights["fold_1"].with_name("model_best.safetensors")
    best.write_bytes(b"an earlier moment")
    assert apply_operating_point(tiny_plans, tmp_path, {"fold_1": best}) == (tiny_plans, None)
    assert "chosen with other weights of fold_1 and is not used; it belongs to the final weights" in caplog.text
    assert "detseg3d_consolidate again" not in caplog.text


@pytest.mark.parametrize("folds", [("fold_0", "fold_all"), ("fold_all",)])
def test_a_fold_that_did_not_contribute_to_the_operating_point_is_named(
    tmp_path: Path,
    point: OperatingPoint,
    weights: dict[str, Path],
    tiny_plans: Plans,
    caplog: pytest.LogCaptureFixture,
    folds: tuple[str, ...],
) -> None:
    plans = apply_operating_point(tiny_plans, tmp_path, {fold: weights[fold] for fold in folds}).plans
    assert plans.inference.score_threshold == 0.7
    assert "was chosen with fold_0, fold_1; for fold_all its thresholds may not be the best" in caplog.text
