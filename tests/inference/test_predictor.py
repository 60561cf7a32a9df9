from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.core.boxes import box_centers, boxes_from_instances
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.inference import predictor as predictor_module
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.operating_point import OperatingPoint, save_operating_point, weights_digest
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.models.ensemble import DetectOptions, detect
from detseg3d.planning.plans import load_plans, save_plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.preprocessing.case import preprocess_case
from tests.inference.conftest import load
from tests.scans import SHAPE, make_scan


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


# -- One scan ----------------------------------------------------------------------------------------------------------


def test_lesions_are_found_and_outlined(result: Prediction) -> None:
    _, label = make_scan(101)
    assert dice(result.semantic > 0, label > 0) > 0.8
    assert len(result.lesions) == 4


def test_the_maps_agree_with_each_other_and_with_the_list(result: Prediction) -> None:
    np.testing.assert_array_equal(result.semantic > 0, result.instances > 0)
    ids, boxes = boxes_from_instances(result.instances)
    assert ids.tolist() == [lesion.id for lesion in result.lesions] == [1, 2, 3, 4]
    for lesion, box in zip(result.lesions, boxes, strict=True):
        assert list(lesion.box) == box.tolist()
        assert lesion.voxels == np.count_nonzero(result.instances == lesion.id)


def test_the_best_lesion_comes_first(result: Prediction) -> None:
    scores = [lesion.score for lesion in result.lesions]
    assert scores == sorted(scores, reverse=True)


def test_a_score_combines_both_stages(result: Prediction) -> None:
    for lesion in [*result.lesions, *result.candidates]:
        roi_score = 1 if lesion.roi_score is None else lesion.roi_score
        assert lesion.score == pytest.approx(np.sqrt(lesion.detection_score * roi_score), rel=1e-5)


def test_probabilities_agree_with_the_mask(result: Prediction) -> None:
    assert result.probabilities is not None
    assert result.probabilities.shape == (1, *SHAPE) and result.probabilities.dtype == np.float16
    assert result.probabilities[0][result.semantic > 0].min() > 0.499
    assert result.probabilities[0][result.semantic == 0].max() < 0.501


def test_probabilities_are_returned_only_on_request(predictor: Predictor) -> None:
    assert predictor.predict_array(make_scan(101)[0], (1, 1, 1)).probabilities is None


def test_predicting_twice_gives_the_same(predictor: Predictor, result: Prediction) -> None:
    again = predictor.predict_array(make_scan(101)[0], (1, 1, 1))
    np.testing.assert_array_equal(again.instances, result.instances)
    assert (again.lesions, again.candidates) == (result.lesions, result.candidates)


def test_the_input_is_not_changed(predictor: Predictor) -> None:
    image, _ = make_scan(101)
    before = image.copy()
    predictor.predict_array(image, (1, 1, 1))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", [np.int16, np.float64, np.uint8])
def test_any_type_of_voxel_is_taken(predictor: Predictor, result: Prediction, kind: type) -> None:
    image = make_scan(101)[0].clip(0, 255).round().astype(kind)
    assert dice(predictor.predict_array(image, (1, 1, 1)).semantic > 0, result.semantic > 0) > 0.95


def test_a_channel_axis_is_taken(predictor: Predictor, result: Prediction) -> None:
    again = predictor.predict_array(make_scan(101)[0][None], (1, 1, 1))
    np.testing.assert_array_equal(again.instances, result.instances)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4, 4)])
def test_a_scan_has_three_or_four_axes(predictor: Predictor, shape: tuple[int, ...]) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)3 or 4 axes.*expected: \(C, Z, Y, X\)"):
        predictor.predict_array(np.zeros(shape), (1, 1, 1))


def test_a_scan_has_the_channels_of_the_model(predictor: Predictor) -> None:
    with pytest.raises(DetSeg3DError, match="channel"):
        predictor.predict_array(np.zeros((2, 8, 8, 8)), (1, 1, 1))


def test_a_healthy_scan_has_no_lesion(predictor: Predictor) -> None:
    result = predictor.predict_array(make_scan(101, lesions=0)[0], (1, 1, 1))
    assert result.lesions == () and not result.semantic.any() and not result.instances.any()


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_scan_gives_a_result(predictor: Predictor, value: float) -> None:
    result = predictor.predict_array(np.full((12, 13, 14), value, np.float32), (1, 1, 1))
    assert result.semantic.shape == (12, 13, 14)
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 30), (3, 5, 7)])
def test_a_tiny_scan_gives_a_result(predictor: Predictor, shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).normal(100, 10, shape)
    assert predictor.predict_array(image, (1, 1, 1)).instances.shape == shape


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (0.5, 0.5, 0.5), (1.0, 1.5, 0.8)])
def test_results_lie_on_the_grid_of_the_input(
    predictor: Predictor, result: Prediction, spacing: tuple[float, float, float]
) -> None:
    """The same scan on another grid gives the same lesions at the same positions in mm."""
    image, _ = make_scan(101)
    shape = tuple(round(n / s) for n, s in zip(SHAPE, spacing, strict=True))
    centers = [
        np.minimum(((np.arange(n) + 0.5) * s).astype(int), m - 1) for n, s, m in zip(shape, spacing, SHAPE, strict=True)
    ]
    sampled = predictor.predict_array(image[np.ix_(*centers)], spacing)
    assert sampled.semantic.shape == shape
    expected = (result.semantic > 0)[np.ix_(*centers)]
    assert dice(sampled.semantic > 0, expected) > 0.6  # a network of seconds, and masks of 33 voxels and more
    middles = [np.array(lesion.center) * spacing for lesion in sampled.lesions]
    tolerance = np.maximum(1.5, 1.25 * np.array(spacing))  # a box ends where a voxel does
    for lesion in result.lesions:
        assert min((np.abs(middle - lesion.center) / tolerance).max() for middle in middles) <= 1


def test_shifting_the_scan_in_its_field_of_view_shifts_the_result(predictor: Predictor, result: Prediction) -> None:
    """Air in front of the body is cropped away, so the result must be shifted by the thickness of this air."""
    shifted = predictor.predict_array(np.pad(make_scan(101)[0], [(5, 0), (0, 7), (11, 3)]), (1, 1, 1))
    np.testing.assert_array_equal(shifted.instances[5:, :-7, 11:-3], result.instances)
    moved = np.array([5, 0, 11, 5, 0, 11])
    for first, second in zip(shifted.lesions, result.lesions, strict=True):
        np.testing.assert_allclose(first.box, np.array(second.box) + moved)


def test_candidates_lie_on_the_grid_of_the_input(predictor: Predictor) -> None:
    padded = np.pad(make_scan(101)[0][::2], [(5, 0), (0, 7), (11, 3)])
    result = predictor.predict_array(padded, (2.0, 1.0, 1.0))
    boxes = {lesion.id: lesion.box for lesion in result.lesions}
    of_lesions = [candidate for candidate in result.candidates if candidate.lesion is not None]
    assert len(of_lesions) == len(boxes) > 0
    for candidate in of_lesions:
        np.testing.assert_allclose(box_centers([candidate.box]), box_centers([boxes[candidate.lesion]]), atol=2.5)


def test_the_smallest_volume_is_measured_in_cubic_millimetres(predictor: Predictor) -> None:
    """Volumes are computed with the voxel size of the input, not with that of the plan's grid."""
    coarse, spacing = make_scan(101)[0][::2], (2.0, 1.0, 1.0)
    smallest = min(lesion.volume_mm3 for lesion in predictor.predict_array(coarse, spacing).lesions)
    for limit, kept in ((smallest - 0.5, True), (smallest + 0.5, False)):
        plans = predictor.plans.evolve(inference={"minimum_volume_mm3": limit})
        result = Predictor(predictor.models, plans, predictor.device).predict_array(coarse, spacing)
        assert (min(lesion.volume_mm3 for lesion in result.lesions) == smallest) == kept


# -- Folds and settings ------------------------------------------------------------------------------------------------


def test_equal_folds_average_to_themselves(tiny_model: Path, result: Prediction, tmp_path: Path) -> None:
    for name in ("fold_0", "fold_1"):
        shutil.copytree(tiny_model / "fold_0", tmp_path / name)
    both = load(tmp_path, (0, 1)).predict_array(make_scan(101)[0], (1, 1, 1))
    assert dice(both.semantic > 0, result.semantic > 0) > 0.99
    for first, second in zip(both.candidates, result.candidates, strict=True):
        if second.roi_score is None:  # several networks outline every candidate, a single network does not
            assert first.score <= second.score
        else:
            assert first.score == pytest.approx(second.score, abs=1e-3)


def test_folds_are_averaged(tiny_model: Path) -> None:
    def heat(*folds: int) -> float:
        found = load(tiny_model, folds, use_mirroring=False).predict_array(make_scan(101)[0], (1, 1, 1)).candidates
        return float(found[0].detection_score)

    first, second, both = heat(0), heat(1), heat(0, 1)
    assert first != second
    assert min(first, second) - 0.02 <= both <= max(first, second) + 0.02


def test_all_trained_folds_are_the_default(tiny_model: Path) -> None:
    assert len(Predictor.from_model_folder(tiny_model, options=LoadOptions(device="cpu")).models) == 2


def test_a_fold_that_is_still_in_training_is_not_among_the_default(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model / "fold_0", tmp_path / "fold_0")
    shutil.copytree(tiny_model / "fold_1", tmp_path / "fold_1")
    (tmp_path / "fold_1" / "model_final.safetensors").unlink()
    assert len(Predictor.from_model_folder(tmp_path, options=LoadOptions(device="cpu")).models) == 1


def test_missing_folds_are_named(tiny_model: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)not trained.*found: +\['fold_3', 'fold_all'\].*fold_0, fold_1.*-f"):
        Predictor.from_model_folder(tiny_model, [0, 3, "all"], LoadOptions(device="cpu"))


def test_a_folder_without_folds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        Predictor.from_model_folder(tmp_path, options=LoadOptions(device="cpu"))
    assert caught.value.file == tmp_path and caught.value.remedy is not None


def test_a_fold_without_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model / "fold_0", tmp_path / "fold_0")
    (tmp_path / "fold_0" / "model_final.safetensors").unlink()
    with pytest.raises(DetSeg3DError, match=r"(?s)the weights do not exist.*model_final\.safetensors.*train this fold"):
        load(tmp_path)


def test_folds_of_different_plans_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("fold_0", "fold_1"):
        shutil.copytree(tiny_model / name, tmp_path / name)
    changed = load_plans(tmp_path / "fold_1" / "plans.json").evolve(roi={"margin": 0.5})
    save_plans(changed, tmp_path / "fold_1" / "plans.json")
    with pytest.raises(DetSeg3DError, match=r"(?s)trained with different plans.*fold_1.*plans of fold_0"):
        load(tmp_path, (0, 1))


def test_another_length_of_training_does_not_matter(tiny_model: Path) -> None:
    assert load(tiny_model, (0, 1)).plans.training.steps == 168  # fold 1 trained for 24


def test_the_best_weights_can_be_chosen(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model / "fold_0", tmp_path / "fold_0")
    shutil.copyfile(tiny_model / "fold_1" / "model_final.safetensors", tmp_path / "fold_0" / "model_best.safetensors")
    weights = [next(load(tmp_path, checkpoint=name).models[0].parameters()) for name in ("best", "final")]
    expected = next(load(tiny_model, (1,)).models[0].parameters())
    assert bool((weights[0] == expected).all()) and not bool((weights[1] == expected).all())


def test_no_candidate_passes_the_highest_threshold(tiny_model: Path) -> None:
    result = load(tiny_model, candidate_threshold=1.0).predict_array(make_scan(101)[0], (1, 1, 1))
    assert result.candidates == () and result.lesions == () and not result.semantic.any()


def test_candidates_that_are_not_accepted_are_listed_nevertheless(tiny_model: Path, result: Prediction) -> None:
    strict = load(tiny_model, score_threshold=1.0).predict_array(make_scan(101)[0], (1, 1, 1))
    assert strict.lesions == () and not strict.semantic.any()
    pairs = list(zip(strict.candidates, result.candidates, strict=True))
    assert pairs and all(few.detection_score == many.detection_score for few, many in pairs)
    # No candidate can reach the threshold, so the score of each is the highest that it could have.
    assert all(few.roi_score is None and many.score <= few.score < 1 for few, many in pairs)
    assert all(candidate.lesion is None for candidate in strict.candidates)


def test_flips_can_be_left_out(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = predictor_module.detect

    def remember(models: Any, image: Any, options: Any) -> Any:
        seen.append(options.mirror_axes)
        return original(models, image, options)

    monkeypatch.setattr(predictor_module, "detect", remember)
    for mirrored in (True, False):
        load(tiny_model, use_mirroring=mirrored).predict_array(make_scan(101)[0], (1, 1, 1))
    assert seen == [(2,), ()]


def test_the_network_alone_and_the_predictor_give_the_same_bits(tiny_model: Path) -> None:
    """``model(image, mode="test")``, the validation of the training and the predictor are one path."""
    predictor = load(tiny_model, use_mirroring=False)
    scan = make_scan(101)[0]
    case = preprocess_case(scan[None], (1.0, 1.0, 1.0), predictor.plans)
    image = torch.from_numpy(case.image)
    expected = predictor.predict_array(scan, (1.0, 1.0, 1.0))
    z0, y0, x0, z1, y1, x1 = case.transform.crop_box
    alone = predictor.models[0](image[None], mode="test")
    assert expected.lesions and np.array_equal(alone["instances"].numpy(), expected.instances[z0:z1, y0:y1, x0:x1])
    assert [lesion["score"] for lesion in alone["roi_info"]] == [lesion.score for lesion in expected.lesions]
    validated = predictor.models[0].infer(image)
    predicted = detect(predictor.models, image, DetectOptions(predictor.plans.inference))
    assert np.array_equal(validated.candidates.boxes, predicted.candidates.boxes)


@pytest.mark.parametrize("use_mirroring", [False, True])
def test_candidates_without_influence_are_left_out_and_the_lesions_stay_the_same(
    tiny_model: Path, use_mirroring: bool
) -> None:
    predictor = load(tiny_model, (0,), use_mirroring=use_mirroring, candidate_threshold=0.02)
    scan, geometry = make_scan(101)[0][None], Geometry(make_scan(101)[0].shape)
    chosen = predictor.find_candidates(scan, geometry)
    whole = predictor.find_candidates(scan, geometry, outline_all=True)
    assert 0 < chosen.is_outlined().sum() < whole.is_outlined().sum() == len(whole) == len(chosen)
    few, many = predictor.describe(chosen, geometry), predictor.describe(whole, geometry)
    assert few.lesions and np.array_equal(few.instances, many.instances)
    assert [lesion.score for lesion in few.lesions] == pytest.approx([lesion.score for lesion in many.lesions])
    threshold = predictor.plans.inference.score_threshold
    for candidate, whole_candidate in zip(few.candidates, many.candidates, strict=True):
        if candidate.roi_score is None:
            assert whole_candidate.score <= candidate.score < threshold and whole_candidate.lesion is None


def test_models_are_in_evaluation_mode(predictor: Predictor) -> None:
    assert not any(model.training for model in predictor.models)


def test_a_predictor_needs_a_model(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="at least one model"):
        Predictor([], predictor.plans, predictor.device)


# -- The operating point -----------------------------------------------------------------------------------------------


@pytest.fixture
def consolidated(tiny_model: Path, tmp_path: Path) -> Path:
    """The model with an operating point of fold 0: its scores are halved, those of 0.3 and more are lesions."""
    for name in ("fold_0", "fold_1"):
        shutil.copytree(tiny_model / name, tmp_path / name)
    inference = InferencePlan(
        score_threshold=0.3, candidate_threshold=0.2, scan_threshold=0.4, calibration=((0, 0), (0.999, 0.4995), (1, 1))
    )
    weights = {"fold_0": weights_digest(tmp_path / "fold_0" / "model_final.safetensors")}
    save_operating_point(OperatingPoint(inference=inference, objective="highest lesion F1", weights=weights), tmp_path)
    return tmp_path


def test_the_operating_point_of_the_model_is_used(consolidated: Path, result: Prediction) -> None:
    predictor = load(consolidated)
    assert predictor.plans.inference.candidate_threshold == 0.2
    again = predictor.predict_array(make_scan(101)[0], (1.0, 1.0, 1.0))
    expected = [lesion.score / 2 for lesion in result.lesions if lesion.score / 2 >= 0.3]
    assert expected and [lesion.score for lesion in again.lesions] == pytest.approx(expected, rel=1e-6)


def test_the_plan_can_be_kept(consolidated: Path, predictor: Predictor) -> None:
    assert load(consolidated, use_operating_point=False).plans == predictor.plans


def test_thresholds_that_are_given_come_before_the_operating_point(consolidated: Path) -> None:
    inference = load(consolidated, candidate_threshold=0.45, score_threshold=0.0).plans.inference
    assert (inference.candidate_threshold, inference.score_threshold, inference.scan_threshold) == (0.45, 0.0, 0.0)
    assert inference.calibration[1] == (0.999, 0.4995)


def test_the_operating_point_of_other_weights_is_not_used(
    consolidated: Path, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copyfile(
        consolidated / "fold_1" / "model_final.safetensors", consolidated / "fold_0" / "model_best.safetensors"
    )
    assert load(consolidated, checkpoint="best").plans == predictor.plans
    assert "chosen with other weights of fold_0 and is not used" in caplog.text


def test_a_fold_without_a_part_in_the_operating_point_is_named(
    consolidated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(consolidated, (0, 1)).plans.inference.score_threshold == 0.3
    assert "was chosen with fold_0; for fold_1 its thresholds may not be the best" in caplog.text


def test_an_operating_point_of_mirrored_copies_is_not_used_without_them_in_silence(
    consolidated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(consolidated, use_mirroring=False)
    assert "this prediction is made without mirrored copies" in caplog.text


def test_a_damaged_operating_point_is_an_error(consolidated: Path) -> None:
    (consolidated / "operating_point.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DetSeg3DError, match=r"(?s)operating_point\.json.*delete the file to use the plan's thresholds"):
        load(consolidated)


def test_a_result_describes_how_the_scan_differs_from_the_training_scans(
    predictor: Predictor, result: Prediction, caplog: pytest.LogCaptureFixture
) -> None:
    assert result.similarity is not None and not result.similarity.unlike
    with caplog.at_level("WARNING", logger="detseg3d"):
        constant = predictor.predict_array(np.full((30, 36, 33), 5.0), (1.0, 1.0, 1.0))
    assert constant.similarity is not None and constant.similarity.unlike
    assert "the scan is unlike the training scans: all voxels have the same value" in caplog.text


@pytest.mark.parametrize(("gain", "minimum"), [(1.0, 2000.0), (0.0, 96.0)])
def test_smaller_components_are_candidates_in_a_scan_that_is_unlike_the_training_scans(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, gain: float, minimum: float
) -> None:
    volumes = {"dense_minimum_mm3": 2000.0, "dense_minimum_unlike_mm3": 96.0}
    other = Predictor(
        predictor.models, predictor.plans.evolve(inference=volumes), predictor.device, reference=predictor.reference
    )
    seen = []

    def remember(models: Any, image: torch.Tensor, options: DetectOptions) -> Any:
        seen.append(options.inference.dense_minimum_mm3)
        return detect(models, image, options)

    monkeypatch.setattr(predictor_module, "detect", remember)
    other.predict_array(make_scan(101)[0] * gain, (1.0, 1.0, 1.0))
    assert seen == [minimum]


def test_a_gain_that_normalisation_takes_away_is_not_unlike(predictor: Predictor, result: Prediction) -> None:
    scaled = predictor.predict_array(make_scan(101)[0] * 1000, (1.0, 1.0, 1.0))
    assert scaled.similarity is not None and not scaled.similarity.unlike
    assert len(scaled.lesions) == len(result.lesions)


def test_a_predictor_without_a_reference_compares_nothing(predictor: Predictor) -> None:
    alone = Predictor(predictor.models, predictor.plans, predictor.device)
    assert alone.predict_array(make_scan(101)[0], (1.0, 1.0, 1.0)).similarity is None
