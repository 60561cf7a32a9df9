"""Evaluate folders of predictions of any program against a folder of labels, in the geometry of the labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.names import named_like
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.images import file_ending, read_geometry
from detseg3d.data.labels import (
    LabelFormat,
    Lesions,
    check_same_grid,
    label_values,
    lesions_from_instances,
    lesions_from_semantic,
    read_label,
    read_label_format,
    read_patients,
    read_roi_lesions,
    true_lesions,
)
from detseg3d.evaluation.case import evaluate_case
from detseg3d.evaluation.case_files import (
    CaseProblem,
    common_cases,
    files_by_case,
    image_case,
    infer_single_class,
    roi_case,
)
from detseg3d.evaluation.intervals import estimate_metrics, paired_comparison
from detseg3d.evaluation.layout import LayoutFiles, lesions_from_layout
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.evaluation.options import EvaluationInput, EvaluationOptions
from detseg3d.evaluation.probabilities.components import lesions_from_probabilities
from detseg3d.evaluation.probabilities.maps import probability_files, read_probability_map
from detseg3d.evaluation.result import Comparison, EvaluationResult, SystemsResult
from detseg3d.evaluation.scores.paired_tests import paired_tests
from detseg3d.evaluation.stored_values import (
    CaseValues,
    check_not_instances,
    compare_values,
    components_by_value,
    odd_values,
)
from detseg3d.evaluation.summary import summarize
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["evaluate_folders", "evaluate_systems"]

logger = logging.getLogger(__name__)

_MAX_NAMES = 5


@dataclass(frozen=True)
class _Files:
    """Files of one case. Only predictions of ``detseg3d_predict`` have a ``layout``."""

    case_id: str
    truth: Path
    prediction: Path
    layout: LayoutFiles | None


@dataclass(frozen=True)
class _Settings:
    """Settings that are the same for every case of an evaluation.

    ``single_class`` is the label value of the class, if probability maps have only one class.
    """

    label_format: LabelFormat
    options: EvaluationOptions
    single_class: int


@dataclass(frozen=True)
class _EvaluatedCase:
    """Metrics of one case. ``values`` is ``None`` if a dataset.json states the meaning of the label values."""

    metrics: CaseMetrics
    values: CaseValues | None


def evaluate_folders(
    given: EvaluationInput, options: EvaluationOptions | None = None, run: Run = Run()
) -> EvaluationResult:
    """Evaluate all cases that both folders have.

    Parameters
    ----------
    given : EvaluationInput
        Folders to compare.
    options : EvaluationOptions, optional
        Variants of the metrics and settings of the bootstrap.
    run : Run, optional
        Number of worker processes and display of progress bars.

    Returns
    -------
    EvaluationResult
        The metrics and their intervals. The bootstrap draws all cases of a patient together.

    Raises
    ------
    DetSeg3DError
        If a folder does not exist or has no label files, or if the folders have no case in common. If there is no
        dataset.json, the folders must also have a label value in common.
    """
    options = options or EvaluationOptions()
    truth_folder, prediction_folder = given.folders
    label_format = given.label_format or read_label_format(truth_folder, prediction_folder)
    problems: list[CaseProblem] = []
    files = _pair_files(given, options, problems)
    labels = [] if options.components is None else [file.truth for file in files]
    settings = _Settings(label_format, options, infer_single_class(labels, label_format, run))
    evaluated: list[_EvaluatedCase] = []
    for result in run_cases(partial(_evaluate_files, settings), files, run, "evaluating"):
        if result.value is not None:
            evaluated.append(result.value)
        else:
            logger.debug("%s: %s", result.item.case_id, result.traceback)
            problems.append(CaseProblem.of(result.item.case_id, result.error))
    cases = _drop_odd_cases(evaluated, problems)
    if label_format.classes is not None:
        names = list(label_format.classes)
    else:
        # Without a dataset.json each case may have other classes. "label 2" comes before "label 10".
        _check_common_class(cases, truth_folder, prediction_folder)
        names = sorted({name for case in cases for name in case.classes}, key=lambda name: (len(name), name))
    patients = named_like(read_patients(truth_folder), [case.case_id for case in cases])
    patient_of_case = [patients.get(case.case_id, case.case_id) for case in cases]
    return EvaluationResult(
        truth_folder=str(truth_folder),
        prediction_folder=str(prediction_folder),
        class_labels=None if label_format.classes is None else dict(label_format.classes),
        options=options,
        summary=summarize(cases, names, patients),
        patients=len(set(patient_of_case)),
        estimates=estimate_metrics(cases, options.samples, options.seed, patient_of_case),
        cases=tuple(cases),
        problems=tuple(sorted(problems, key=lambda problem: problem.case_id)),
    )


def evaluate_systems(
    truth_folder: str | Path,
    prediction_folders: Mapping[str, str | Path],
    label_format: LabelFormat | None = None,
    options: EvaluationOptions | None = None,
    run: Run = Run(),
) -> SystemsResult:
    """Evaluate several folders of predictions of the same cases, and compare each pair of folders.

    A warning is logged if the systems were evaluated on different scans.

    Parameters
    ----------
    truth_folder : path
        Folder of the labels.
    prediction_folders : dict of str to path
        Folder of the predictions of each system, by the name of the system.
    label_format : LabelFormat, optional
        See :class:`~detseg3d.evaluation.options.EvaluationInput`.
    options : EvaluationOptions, optional
        Variants of the metrics and settings of the bootstrap.
    run : Run, optional
        Number of worker processes and display of progress bars.
    """
    options = options or EvaluationOptions()
    systems = {
        name: evaluate_folders(EvaluationInput(truth_folder, folder, label_format), options, run)
        for name, folder in prediction_folders.items()
    }
    patients = read_patients(truth_folder)
    comparisons = []
    for first, second in combinations(systems, 2):
        sides = systems[first].cases, systems[second].cases
        common = set.intersection(*({case.case_id for case in cases} for cases in sides))
        differences = paired_comparison(*sides, options.samples, options.seed, patients)
        tests = paired_tests(*sides, options.samples, options.seed, patients)
        comparisons.append(Comparison(first, second, len(common), differences, tests))
    result = SystemsResult(systems, tuple(comparisons))
    for name, missing in result.missing_scans.items():
        listed = ", ".join(missing[:_MAX_NAMES]) + (", …" if len(missing) > _MAX_NAMES else "")
        logger.warning("%s was not evaluated on %d scan(s) of the other systems: %s", name, len(missing), listed)
    return result


def _drop_odd_cases(cases: Sequence[_EvaluatedCase], problems: list[CaseProblem]) -> list[CaseMetrics]:
    """Return the metrics of the cases with usual label values. Cases with other values are added to ``problems``."""
    values = [case.values for case in cases if case.values is not None]
    if not values:
        return [case.metrics for case in cases]
    check_not_instances(values)
    odd = odd_values(values)
    problems += [CaseProblem.of(case_id, error) for case_id, error in odd.items()]
    return [case.metrics for case in cases if case.metrics.case_id not in odd]


def _check_common_class(cases: Sequence[CaseMetrics], truth_folder: Path, prediction_folder: Path) -> None:
    """Raise an error if truth and predictions have no label value in common, for example only 255 and only 1."""
    truths = sorted({name for case in cases for name, part in case.classes.items() if part.truth_voxels})
    predictions = sorted({name for case in cases for name, part in case.classes.items() if part.prediction_voxels})
    if truths and predictions and not set(truths) & set(predictions):
        raise DetSeg3DError(
            "truth and predictions have no label in common, so no lesion can be found",
            file=prediction_folder,
            value=predictions[:10],
            expected=f"some of {truths[:10]}, as in {truth_folder}",
            remedy="give a class the same value on both sides, or name all classes in a dataset.json beside the labels",
        )


def _pair_files(given: EvaluationInput, options: EvaluationOptions, problems: list[CaseProblem]) -> list[_Files]:
    """Return the files of each case that both sides have. Missing files are added to ``problems``."""
    truth_folder, prediction_folder = given.folders
    truths: Mapping[str, Path]
    if given.truth_files is not None:
        truths = given.truth_files
    else:
        truths = files_by_case(truth_folder, "truth", image_case, problems)
    if given.cases is not None:
        truths = named_like(truths, given.cases)
    prediction = PredictionFolder(prediction_folder)
    instance_folder = prediction.instances_folder
    in_layout = instance_folder.is_dir() and options.components is None
    if options.components is not None:
        predictions = probability_files(prediction_folder, problems)
    else:
        source = instance_folder if in_layout else prediction_folder
        predictions = files_by_case(source, "prediction", image_case, problems)
    predictions = named_like(predictions, truths)
    masks: Mapping[str, Path] = {}
    if in_layout:
        masks = named_like(files_by_case(prediction_folder, "prediction", image_case, []), truths)
        problems += [
            CaseProblem(case_id, "the prediction has a mask, but no instance map in instances/")
            for case_id in sorted(set(masks) - set(predictions))
        ]
    common = common_cases(truths, predictions, (truth_folder, prediction_folder), problems, given.cases)
    if not in_layout:
        return [_Files(case_id, truths[case_id], predictions[case_id], None) for case_id in common]
    roi_folder = prediction.records_folder
    rois = named_like(files_by_case(roi_folder, "RoI file", roi_case, problems), truths) if roi_folder.is_dir() else {}
    layouts = {case_id: LayoutFiles(predictions[case_id], rois.get(case_id), masks.get(case_id)) for case_id in common}
    if any(layout.rois is not None for layout in layouts.values()):
        # FROC and average precision need scores for every case. One case without scores would remove both metrics.
        for case_id in [case_id for case_id, layout in layouts.items() if layout.rois is None]:
            problems.append(CaseProblem(case_id, f"the prediction has an instance map, but no rois/{case_id}.json"))
            del layouts[case_id]
    return [_Files(case_id, truths[case_id], predictions[case_id], layout) for case_id, layout in layouts.items()]


def _evaluate_files(settings: _Settings, files: _Files) -> _EvaluatedCase:
    label_format, options = settings.label_format, settings.options
    compares_labels = options.components is None  # otherwise a label is compared with a probability map
    truth_source, prediction_source = label_format.source(files.truth), label_format.source(files.prediction)
    if compares_labels and file_ending(files.truth) == ".npy":
        truth_source = truth_source.oriented_like(read_geometry(prediction_source))
    truth_label, truth_geometry = read_label(truth_source, label_format, prediction_source if compares_labels else None)
    mask = None  # predicted mask, if its values may be compared with the values of the true mask
    if not compares_labels:
        names, values, prediction = _from_probabilities(truth_label, truth_geometry, files, settings)
    else:
        label, geometry = read_label(prediction_source.oriented_like(truth_geometry), label_format)
        check_same_grid(truth_geometry, geometry, (files.truth, files.prediction), "truth and prediction")
        names, values = _classes(label_format, lambda: _values_found(truth_label, label, files))
        if files.layout is not None:
            prediction = lesions_from_layout(
                label, geometry, files.layout, dict(zip(names, values, strict=True)), label_format
            )
        elif label_format.prediction_instances:
            classes = label_format.instance_classes
            stated = None if classes is None else classes.beside_maps()
            prediction = lesions_from_instances(label, files.prediction, stated)
        else:
            prediction, mask = lesions_from_semantic(label, values, files.prediction), label
    truth = true_lesions(truth_label, files.truth, label_format, values, files.case_id)
    metrics = evaluate_case(
        files.case_id,
        truth,
        prediction,
        truth_geometry.spacing,
        class_names=names,
        variants=options.variants,
        voxel_volume_mm3=truth_geometry.voxel_volume,
    )
    # Users look for a lesion in the label file, so its centre is stated in the axis order of this file.
    order = truth_geometry.stored_order
    lesions = tuple(replace(lesion, center=order.point_to_stored(lesion.center)) for lesion in metrics.lesions)
    metrics = replace(metrics, lesions=lesions)
    if label_format.classes is not None or label_format.truth_instances or label_format.prediction_instances:
        return _EvaluatedCase(metrics, None)
    of_truth = components_by_value(truth, values)
    if mask is None:
        return _EvaluatedCase(metrics, CaseValues(files.case_id, of_truth, {}))
    of_prediction = components_by_value(prediction, values)
    return _EvaluatedCase(metrics, compare_values(files.case_id, truth_label, mask, (of_truth, of_prediction)))


def _classes(label_format: LabelFormat, values_found: Callable[[], set[int]]) -> tuple[list[str], list[int]]:
    """Return names and values of the classes of a case. Without a dataset.json, each value is a class."""
    if label_format.classes is not None:
        return list(label_format.classes), list(label_format.classes.values())
    if label_format.truth_instances or label_format.prediction_instances:
        return ["lesion"], [1]
    values = sorted(values_found())
    return [f"label {value}" for value in values], values


def _from_probabilities(
    truth: AnyIntArray, geometry: Geometry, files: _Files, settings: _Settings
) -> tuple[list[str], list[int], Lesions]:
    """Return names and values of the classes of a case, and the lesions of its probability map."""
    label_format, rule = settings.label_format, settings.options.components
    assert rule is not None, "the predictions are probability maps"
    known: list[int] | None = None
    if label_format.classes is not None:
        known = list(label_format.classes.values())
    elif label_format.truth_instances:
        known = [1]
    source = label_format.source(files.prediction)
    map_ = read_probability_map(source, geometry, files.truth, known, settings.single_class)
    names, values = _classes(label_format, lambda: label_values(truth) | set(map_.class_values))
    return names, values, lesions_from_probabilities(map_, geometry.spacing, rule, values, geometry.voxel_volume)


def _values_found(truth: AnyIntArray, prediction: AnyIntArray, files: _Files) -> set[int]:
    """Return the values of the classes that truth and prediction use."""
    found = label_values(truth)
    if files.layout is None:
        return found | label_values(prediction)
    if files.layout.rois is not None:
        return found | {lesion.label for lesion in read_roi_lesions(files.layout.rois)}
    # Without a RoI file there is only one class.
    return found or ({1} if prediction.any() else set())
