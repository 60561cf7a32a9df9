from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.data.labels import LabelFormat
from detseg3d.evaluation.metrics import Criterion
from detseg3d.evaluation.options import EvaluationOptions
from detseg3d.evaluation.probabilities.components import ComponentRule
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.reporting.text.evaluation_files import case_rows
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from tests.evaluations import evaluate_pair

SPACING = (2.0, 1.0, 1.0)


def volume(*values: int, dtype: Any = np.uint8) -> npt.NDArray[Any]:
    """Return a small volume that begins with these voxels."""
    array = np.zeros((3, 4, 8), dtype)
    array[0, 0, : len(values)] = values
    return array


def save(array: npt.NDArray[Any], path: Path, spacing: tuple[float, float, float] = SPACING) -> None:
    write_image(array, Geometry(array.shape, spacing), path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Write two cases: ``a`` has one found lesion, one missed lesion and one false positive; ``b`` is empty."""
    truth, prediction = tmp_path / "set" / "labelsTr", tmp_path / "pred"
    save(volume(1, 1, 0, 1), truth / "a.nii.gz")
    save(volume(), truth / "b.nii.gz")
    save(volume(1, 0, 0, 0, 0, 1), prediction / "a.nii.gz")
    save(volume(), prediction / "b.nii.gz")
    return truth, prediction


def add_instances(prediction: Path, case: str, instances: npt.NDArray[Any], value: int = 1) -> None:
    """Return an instance map and its mask."""
    save(instances, prediction / "instances" / f"{case}.nii.gz")
    save((value * (instances != 0)).astype(np.uint8), prediction / f"{case}.nii.gz")


def add_layout(prediction: Path, case: str, instances: npt.NDArray[Any], lesions: list[dict[str, Any]]) -> None:
    """Write the files of ``detseg3d_predict`` for a case with lesions of one class."""
    add_instances(prediction, case, instances, max((lesion.get("label", 1) for lesion in lesions), default=1))
    write_json({"case_id": case, "lesions": lesions}, prediction / "rois" / f"{case}.json")


def counts(result: EvaluationResult) -> tuple[int, int, int, int]:
    pooled = result.summary.overall.detection[Criterion.ANY]
    return pooled.truth, pooled.found, pooled.predictions, pooled.true_positives


def problems(result: EvaluationResult) -> dict[str, str]:
    return {problem.case_id: problem.problem for problem in result.problems}


@pytest.mark.parametrize("processes", [0, 1])
def test_plain_masks_are_split_into_components(folders: tuple[Path, Path], processes: int) -> None:
    result = evaluate_pair(*folders, run=Run(processes, show_progress=False))
    assert counts(result) == (2, 1, 2, 1)
    assert result.problems == ()
    assert [case.case_id for case in result.cases] == ["a", "b"]
    assert result.cases[0].dice == pytest.approx(2 / 5)
    assert [lesion.volume_mm3 for lesion in result.lesions] == [4.0, 2.0, 2.0, 2.0]
    assert EvaluationResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


@pytest.mark.parametrize("maps", [False, True])
def test_volumes_of_a_sheared_grid_are_measured_by_its_cells(folders: tuple[Path, Path], maps: bool) -> None:
    # A gantry tilt: slices are 3 mm apart, and each is 1.25 mm further along than the one before.
    affine = (1.0, 0, 0, 0, 0, 1.0, 1.25, 0, 0, 0, 3.0, 0, 0, 0, 0, 1)
    geometry = Geometry((3, 4, 8), (3.25, 1.0, 1.0), affine=affine)
    for folder in folders:
        write_image(volume(1, 1, dtype=np.float32), geometry, folder / "a.nii.gz")
    components = ComponentRule(minimum_volume_mm3=6.1) if maps else None
    result = evaluate_pair(*folders, cases=["a"], options=EvaluationOptions(components=components))
    assert [lesion.volume_mm3 for lesion in result.lesions] == [pytest.approx(6)] * (1 if maps else 2)
    assert case_rows(result)[0]["truth_mm3"] == pytest.approx(6)
    assert result.summary.overall.recall_by_size.quantile[0].high == pytest.approx(6)


def test_labels_can_be_in_any_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    truth, prediction = folders
    files = {"a": tmp_path / "elsewhere" / "rater1.nii.gz", "b": truth / "b.nii.gz"}
    files["a"].parent.mkdir()
    (truth / "a.nii.gz").rename(files["a"])
    result = evaluate_pair(tmp_path / "nowhere", prediction, truth_files=files, run=Run(show_progress=False))
    assert counts(result) == (2, 1, 2, 1) and result.problems == ()


def test_touching_instances_of_a_prediction_folder_stay_separate_and_keep_their_scores(
    folders: tuple[Path, Path],
) -> None:
    entries = [{"id": 3, "label": 1, "score": 0.9}, {"id": 700, "label": 1, "score": 0.2}]
    add_layout(folders[1], "a", volume(3, 700, dtype=np.uint16), entries)
    add_layout(folders[1], "b", volume(dtype=np.uint16), [])
    result = evaluate_pair(*folders)
    assert counts(result) == (2, 1, 2, 2)
    assert [(one.id, one.score) for one in result.lesions if not one.is_true] == [
        (3, 0.9),
        (700, 0.2),
    ]


def test_a_mask_without_instance_map_is_named(folders: tuple[Path, Path]) -> None:
    add_layout(folders[1], "a", volume(3, dtype=np.uint16), [{"id": 3, "label": 1, "score": 0.9}])
    assert "no instance map" in problems(evaluate_pair(*folders))["b"]


def test_a_case_without_its_roi_file_does_not_affect_the_scores_of_other_cases(folders: tuple[Path, Path]) -> None:
    add_layout(folders[1], "a", volume(3, dtype=np.uint16), [{"id": 3, "label": 1, "score": 0.9}])
    add_instances(folders[1], "b", volume(dtype=np.uint16))
    result = evaluate_pair(*folders)
    assert "no rois/b.json" in problems(result)["b"]
    assert result.summary.cases == 1 and result.summary.scores is not None


def test_a_lesion_missing_in_the_roi_file_is_a_problem(folders: tuple[Path, Path]) -> None:
    add_layout(folders[1], "a", volume(3, dtype=np.uint16), [])
    add_layout(folders[1], "b", volume(dtype=np.uint16), [])
    assert "are not in the RoI file" in problems(evaluate_pair(*folders))["a"]


def test_a_broken_roi_file_is_named(folders: tuple[Path, Path]) -> None:
    add_layout(folders[1], "a", volume(3, dtype=np.uint16), [{"id": 3}])
    add_layout(folders[1], "b", volume(dtype=np.uint16), [])
    assert "a.json" in problems(evaluate_pair(*folders))["a"]


def test_without_a_roi_file_a_single_class_is_clear(folders: tuple[Path, Path]) -> None:
    for case in "ab":
        add_instances(folders[1], case, volume(5 * (case == "a"), dtype=np.uint16))
    write_json({"labels": {"background": 0, "lesion": 1}}, folders[0].parent / "dataset.json")
    result = evaluate_pair(*folders)
    assert counts(result) == (2, 1, 1, 1)
    assert result.lesions[-1].score is None


def test_without_a_roi_file_several_classes_are_refused(folders: tuple[Path, Path]) -> None:
    for case in "ab":
        add_instances(folders[1], case, volume(5 * (case == "a"), dtype=np.uint16))
    write_json({"labels": {"background": 0, "core": 1, "rim": 2}}, folders[0].parent / "dataset.json")
    assert "without a RoI file the classes" in problems(evaluate_pair(*folders))["a"]


def test_cases_missing_on_either_side_are_named_and_the_others_are_evaluated(folders: tuple[Path, Path]) -> None:
    save(volume(1), folders[0] / "only_truth.nii.gz")
    save(volume(1), folders[1] / "only_prediction.nii.gz")
    result = evaluate_pair(*folders)
    assert problems(result).keys() == {"only_truth", "only_prediction"}
    assert "no prediction in" in problems(result)["only_truth"]
    assert "no label in" in problems(result)["only_prediction"]
    assert result.summary.cases == 2


@pytest.mark.parametrize(
    ("array", "spacing", "message"),
    [
        (volume(1), (2.0, 1.0, 1.5), "spacing"),
        (volume(1)[:2], SPACING, "size"),
        (volume(7), SPACING, "values that dataset.json does not name"),
        (volume(1).astype(np.float32) / 2, SPACING, "whole numbers"),
        (-volume(1).astype(np.int16), SPACING, "negative values"),
    ],
)
def test_a_case_that_cannot_be_compared_is_named_and_the_others_are_evaluated(
    folders: tuple[Path, Path], array: npt.NDArray[Any], spacing: tuple[float, float, float], message: str
) -> None:
    write_json({"labels": {"background": 0, "lesion": 1}}, folders[0].parent / "dataset.json")
    save(array, folders[1] / "a.nii.gz", spacing)
    result = evaluate_pair(*folders)
    assert message in problems(result)["a"]
    assert "a.nii.gz" in problems(result)["a"]
    assert [case.case_id for case in result.cases] == ["b"]


def test_an_unreadable_file_is_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "a.nii.gz").write_bytes(b"no image")
    assert "a.nii.gz" in problems(evaluate_pair(*folders))["a"]


def test_two_files_of_a_case_are_a_problem(folders: tuple[Path, Path]) -> None:
    save(volume(1), folders[1] / "a.mha")
    assert problems(evaluate_pair(*folders)) == {"a": "the prediction has several files: a.mha, a.nii.gz"}


def test_file_endings_may_differ_and_arrays_have_no_geometry(folders: tuple[Path, Path]) -> None:
    (folders[1] / "a.nii.gz").unlink()
    np.save(folders[1] / "a.npy", volume(1).astype(bool))
    result = evaluate_pair(*folders)
    assert result.problems == ()
    assert counts(result) == (2, 1, 1, 1)


def test_whole_numbers_stored_as_floats_are_labels(folders: tuple[Path, Path]) -> None:
    save(volume(1).astype(np.float64), folders[1] / "a.nii.gz")
    assert counts(evaluate_pair(*folders)) == (2, 1, 1, 1)


def test_instance_maps_are_not_split_or_joined(folders: tuple[Path, Path]) -> None:
    save(volume(1, 2, 0, 2, dtype=np.uint16), folders[0] / "a.nii.gz")
    save(volume(900, 0, 0, 0, dtype=np.uint16), folders[1] / "a.nii.gz")
    form = LabelFormat(truth_instances=True, prediction_instances=True)
    assert counts(evaluate_pair(*folders, label_format=form)) == (2, 1, 1, 1)


def test_dataset_json_declares_instance_maps(folders: tuple[Path, Path]) -> None:
    save(volume(1, 2, 0, 2, dtype=np.uint16), folders[0] / "a.nii.gz")
    write_json({"labels": {"background": 0, "lesion": 1}, "instances": True}, folders[0].parent / "dataset.json")
    assert counts(evaluate_pair(*folders)) == (2, 1, 2, 1)


def test_classes_are_named_by_dataset_json(folders: tuple[Path, Path]) -> None:
    write_json({"labels": {"background": 0, "core": 1, "rim": 2}}, folders[0].parent / "dataset.json")
    save(volume(2, 0, 0, 1), folders[1] / "a.nii.gz")
    classes = evaluate_pair(*folders).summary.classes
    assert list(classes) == ["core", "rim"]
    assert classes["core"].detection["any"].found == 1
    assert classes["rim"].detection["any"].false_positives == 1


def test_without_dataset_json_each_value_is_a_class(folders: tuple[Path, Path]) -> None:
    save(volume(2, 0, 0, 1), folders[1] / "a.nii.gz")
    classes = evaluate_pair(*folders).summary.classes
    assert list(classes) == ["label 1", "label 2"]
    assert classes["label 2"].dice.empty_cases == 1


def test_without_dataset_json_an_empty_scan_adds_no_class(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        save(volume(2), folder / "a.nii.gz")
    assert list(evaluate_pair(*folders).summary.classes) == ["label 2"]


@pytest.mark.parametrize("rois", [False, True])
def test_without_dataset_json_an_empty_scan_of_a_prediction_folder_adds_no_class(
    folders: tuple[Path, Path], rois: bool
) -> None:
    save(volume(2), folders[0] / "a.nii.gz")
    for case in "ab":
        lesions = [{"id": 1, "label": 2, "score": 0.5}] if case == "a" else []
        add_layout(folders[1], case, volume(case == "a", dtype=np.uint16), lesions)
        if not rois:
            (folders[1] / "rois" / f"{case}.json").unlink()
    summary = evaluate_pair(*folders).summary
    assert list(summary.classes) == ["label 2"]
    assert (summary.scores is not None) == rois


def test_without_dataset_json_lesions_without_roi_file_in_an_empty_scan_are_false(folders: tuple[Path, Path]) -> None:
    for case in "ab":
        add_instances(folders[1], case, volume(5, dtype=np.uint16))
    assert counts(evaluate_pair(*folders)) == (2, 1, 2, 1)


def test_without_dataset_json_a_probability_map_is_of_the_only_class_of_the_labels(
    folders: tuple[Path, Path],
) -> None:
    save(volume(255), folders[0] / "a.nii.gz")
    for case in "ab":
        save(volume(case == "a", dtype=np.float32), folders[1] / f"{case}.nii.gz")
    assert counts(evaluate_pair(*folders, options=EvaluationOptions(components=ComponentRule()))) == (1, 1, 1, 1)


def test_without_dataset_json_truth_and_predictions_need_a_label_in_common(folders: tuple[Path, Path]) -> None:
    save(volume(255), folders[0] / "a.nii.gz")
    with pytest.raises(DetSeg3DError, match="no label in common") as caught:
        evaluate_pair(*folders)
    assert "found:    ['label 1']" in str(caught.value) and "some of ['label 255']" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2]}, "region-based labels"),
        ({"background": 0, "lesion": 1, "ignore": 2}, '"ignore" label is not supported'),
        (None, '"labels" is missing'),
    ],
)
def test_labels_that_are_not_supported_are_refused(folders: tuple[Path, Path], labels: Any, message: str) -> None:
    write_json({"labels": labels}, folders[0].parent / "dataset.json")
    with pytest.raises(DetSeg3DError, match=message):
        evaluate_pair(*folders)


@pytest.mark.parametrize(
    "labels", [{"0": "background", "1": "core", "2": "rim"}, {"background": "0", "core": "1", "rim": 2.0}]
)
def test_labels_that_the_planning_accepts_are_accepted(folders: tuple[Path, Path], labels: dict[str, Any]) -> None:
    write_json({"labels": labels, "patients": {"a": 7}}, folders[0].parent / "dataset.json")
    assert list(evaluate_pair(*folders).summary.classes) == ["core", "rim"]


def test_intervals_count_patients_and_not_cases(folders: tuple[Path, Path]) -> None:
    write_json({"labels": {"background": 0, "a": 1}, "patients": {"a": 7, "b": 7}}, folders[0].parent / "dataset.json")
    assert evaluate_pair(*folders).patients == 1


@pytest.mark.parametrize("spacing", [[1, 2], 3, [0, 1, 1], "1 1 1"])
def test_an_invalid_spacing_is_refused(folders: tuple[Path, Path], spacing: Any) -> None:
    write_json({"labels": {"background": 0, "a": 1}, "default_spacing": spacing}, folders[0].parent / "dataset.json")
    with pytest.raises(DetSeg3DError, match='"default_spacing" does not hold three positive numbers'):
        evaluate_pair(*folders)


def test_nearly_whole_numbers_are_rounded_as_in_the_training(folders: tuple[Path, Path]) -> None:
    save(volume(1).astype(np.float32) * np.float32(0.9999), folders[1] / "a.nii.gz")
    assert evaluate_pair(*folders).problems == ()


def test_only_the_requested_cases_are_evaluated(folders: tuple[Path, Path]) -> None:
    save(volume(1), folders[0] / "training_case.nii.gz")
    result = evaluate_pair(*folders, cases=["a", "ghost"])
    assert result.summary.cases == 1
    assert problems(result).keys() == {"ghost"}


def test_folders_without_common_cases_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    save(volume(1), tmp_path / "other" / "c.nii.gz")
    with pytest.raises(DetSeg3DError, match="no case in common"):
        evaluate_pair(folders[0], tmp_path / "other")


def test_a_folder_that_does_not_exist_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="the folder of the prediction does not exist"):
        evaluate_pair(folders[0], tmp_path / "nowhere")


def test_an_edited_mask_is_a_problem_of_its_case(folders: tuple[Path, Path]) -> None:
    add_layout(folders[1], "a", volume(3, 3, dtype=np.uint16), [{"id": 3, "label": 1, "score": 0.9}])
    add_layout(folders[1], "b", volume(dtype=np.uint16), [])
    save(volume(1), folders[1] / "a.nii.gz")
    result = evaluate_pair(*folders)
    assert "differ" in problems(result)["a"] and "a.nii.gz" in problems(result)["a"]
    assert [case.case_id for case in result.cases] == ["b"]


def test_a_case_stored_with_255_is_named_and_the_others_are_evaluated(folders: tuple[Path, Path]) -> None:
    save(volume(255, 255), folders[1] / "b.nii.gz")
    save(volume(1), folders[0] / "c.nii.gz")
    save(volume(1), folders[1] / "c.nii.gz")
    result = evaluate_pair(*folders)
    assert problems(result).keys() == {"b"} and "255" in problems(result)["b"]
    assert list(result.summary.classes) == ["label 1"]
    assert [case.case_id for case in result.cases] == ["a", "c"]


def test_with_a_dataset_json_values_that_it_does_not_name_are_a_problem(folders: tuple[Path, Path]) -> None:
    write_json({"labels": {"background": 0, "lesion": 1}}, folders[0].parent / "dataset.json")
    save(volume(255, 255), folders[0] / "a.nii.gz")
    assert "255 (2 voxels)" in problems(evaluate_pair(*folders))["a"]


def test_instance_maps_without_the_flag_are_refused_with_it(folders: tuple[Path, Path]) -> None:
    for case, order in (("a", (3, 1, 2)), ("b", (2, 3, 1))):
        save(volume(1, 0, 2, 0, 3), folders[0] / f"{case}.nii.gz")
        save(volume(order[0], 0, order[1], 0, order[2]), folders[1] / f"{case}.nii.gz")
    with pytest.raises(DetSeg3DError) as caught:
        evaluate_pair(*folders)
    assert "--instances" in str(caught.value.remedy)
    form = LabelFormat(truth_instances=True, prediction_instances=True)
    assert counts(evaluate_pair(*folders, label_format=form)) == (6, 6, 6, 6)


def test_names_in_two_normal_forms_are_one_case(folders: tuple[Path, Path]) -> None:
    composed, decomposed = "\u00fcbung", "u\u0308bung"
    write_json({"labels": {"background": 0, "lesion": 1}}, folders[0].parent / "dataset.json")
    save(volume(1), folders[0] / f"{decomposed}.nii.gz")
    add_layout(folders[1], composed, volume(4, dtype=np.uint16), [{"id": 4, "label": 1, "score": 0.7}])
    for case in "ab":
        add_layout(folders[1], case, volume(dtype=np.uint16), [])
    (folders[1] / "rois" / f"{composed}.json").rename(folders[1] / "rois" / f"{decomposed}.json")
    result = evaluate_pair(*folders)
    assert result.problems == ()
    assert [case.case_id for case in result.cases] == ["a", "b", decomposed]
    assert evaluate_pair(*folders, cases=[composed]).cases[0].case_id == composed


def test_two_files_of_one_side_that_differ_in_the_normal_form_are_a_problem(folders: tuple[Path, Path]) -> None:
    for name in ("\u00fc", "u\u0308"):
        save(volume(1), folders[1] / f"{name}.nii.gz")
    save(volume(1), folders[0] / "\u00fc.nii.gz")
    found = problems(evaluate_pair(*folders))
    assert len(found) == 1 and "normal form" in next(iter(found.values()))
