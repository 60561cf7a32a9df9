"""Evaluate folders of predictions, whoever made them, against a folder of labels, in the labels' own geometry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

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
    common_cases,
    describe_problem,
    files_by_case,
    image_case,
    only_class,
    roi_case,
)
from detseg3d.evaluation.definitions.per_case import FigureRule
from detseg3d.evaluation.intervals import headline_intervals, paired_comparison
from detseg3d.evaluation.layout import LayoutFiles, lesions_from_layout
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.evaluation.probabilities.components import ComponentRule, lesions_from_probabilities
from detseg3d.evaluation.probabilities.maps import probability_files, read_probability_map
from detseg3d.evaluation.remarks import different_scans
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

__all__ = [
    "EvaluationOptions",
    "LabelFormat",
    "evaluate_case",
    "evaluate_folders",
    "evaluate_systems",
    "read_label_format",
    "summarize",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is computed, and how.

    Attributes
    ----------
    figures : FigureRule or None
        Surface, lesion-wise and component-wise figures; ``None`` leaves them out.
    samples : int
        Bootstrap resamples of the patients; 0 gives no intervals.
    seed : int
        Of the bootstrap.
    components : ComponentRule or None
        The predictions are probability maps; this makes lesions with scores of them.
    """

    figures: FigureRule | None = field(default_factory=FigureRule)
    samples: int = 1000
    seed: int = 0
    components: ComponentRule | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Files:
    """The files of one case; ``layout`` only for predictions in the layout of ``detseg3d_predict``."""

    case_id: str
    truth: Path
    prediction: Path
    layout: LayoutFiles | None


@dataclass(frozen=True)
class _Evaluated:
    """One case; ``values`` only where no dataset.json says what the values of the files mean."""

    metrics: CaseMetrics
    values: CaseValues | None


@dataclass(frozen=True)
class _System:
    """One folder of predictions, evaluated."""

    cases: list[CaseMetrics]
    result: dict[str, Any]


def evaluate_folders(
    truth_folder: str | Path,
    prediction_folder: str | Path,
    *,
    label_format: LabelFormat | None = None,
    options: EvaluationOptions | None = None,
    cases: Sequence[str] | None = None,
    truth_files: Mapping[str, Path] | None = None,
    run: Run = Run(),
) -> dict[str, Any]:
    """Evaluate all cases that both folders have.

    Parameters
    ----------
    truth_folder : path
        ``CASE.nii.gz`` (or another supported ending) per case: semantic labels or instance maps.
    prediction_folder : path
        Likewise, endings may differ. With a subfolder ``instances``, as ``detseg3d_predict`` writes it, lesions come
        from the instance maps in there, classes and scores from ``rois/CASE.json`` (a case that lacks it while others
        have theirs is a problem); otherwise lesions are the 26-connected components of each class. With
        ``options.components``: probability maps, see
        :func:`~detseg3d.evaluation.probabilities.maps.probability_files`.
    label_format : LabelFormat, optional
        By default from the dataset.json in or above ``truth_folder`` or in ``prediction_folder``; see
        :func:`read_label_format`. Its patients are drawn as a whole in the bootstrap.
    options : EvaluationOptions, optional
    cases : sequence of str, optional
        Only these; by default all of ``truth_folder``.
    truth_files : dict of str to path, optional
        The label of each case, wherever it lies; of ``truth_folder`` then only the dataset.json is read.
    run : Run, optional

    Returns
    -------
    dict
        Ready for JSON: ``truth_folder``, ``prediction_folder``, ``class_labels``, ``options``, ``summary`` (see
        :func:`~detseg3d.evaluation.summary.summarize`), ``patients`` (their number), ``intervals`` (see
        :func:`~detseg3d.evaluation.intervals.headline_intervals`), ``cases``, ``lesions`` (a record per true and per
        predicted lesion) and ``problems``: what could not be evaluated, as ``{"case", "problem"}``. Such cases are in
        no figure.

    Raises
    ------
    DetSeg3DError
        If a folder does not exist or has no label files, or if they have no case in common, or, without a
        dataset.json, no label.
    """
    done = _evaluate(
        Path(truth_folder),
        Path(prediction_folder),
        label_format,
        options,
        cases,
        run,
        truth_files,
    )
    return done.result


def evaluate_systems(
    truth_folder: str | Path,
    prediction_folders: Mapping[str, str | Path],
    *,
    label_format: LabelFormat | None = None,
    options: EvaluationOptions | None = None,
    run: Run = Run(),
) -> dict[str, Any]:
    """Evaluate several folders of predictions of the same cases, and compare each with each.

    Parameters
    ----------
    truth_folder : path
    prediction_folders : dict of str to path
        What the systems are called, and their predictions.
    label_format, options, run : optional
        As :func:`evaluate_folders`.

    Returns
    -------
    dict
        ``systems``: of each what :func:`evaluate_folders` returns. ``comparisons``: for each pair ``first``,
        ``second``, ``cases`` (that both have) and ``figures``, see
        :func:`~detseg3d.evaluation.intervals.paired_comparison`.
    """
    options = options or EvaluationOptions()
    truth_folder = Path(truth_folder)
    systems = {
        name: _evaluate(truth_folder, Path(folder), label_format, options, None, run)
        for name, folder in prediction_folders.items()
    }
    patients = read_patients(truth_folder)
    comparisons = []
    for first, second in combinations(systems, 2):
        mine, other = systems[first].cases, systems[second].cases
        comparisons.append(
            {
                "first": first,
                "second": second,
                "cases": len({case.case_id for case in mine} & {case.case_id for case in other}),
                "figures": paired_comparison(mine, other, options.samples, options.seed, patients),
            }
        )
    results = {name: done.result for name, done in systems.items()}
    differ = different_scans(results)
    if differ:
        logger.warning("%s", " ".join(differ.split()))
    return {"systems": results, "comparisons": comparisons}


def _evaluate(
    truth_folder: Path,
    prediction_folder: Path,
    label_format: LabelFormat | None,
    options: EvaluationOptions | None,
    cases: Sequence[str] | None,
    run: Run,
    truth_files: Mapping[str, Path] | None = None,
) -> _System:
    options = options or EvaluationOptions()
    form = label_format or read_label_format(truth_folder, prediction_folder)
    files, problems = _pair_files(truth_folder, prediction_folder, cases, options, truth_files)
    labels = [] if options.components is None else [file.truth for file in files]
    single = only_class(labels, form, run)
    results = run_cases(partial(_evaluate_files, form, options, single), files, run, "evaluating")
    done: list[_Evaluated] = []
    for case in results:
        if case.value is not None:
            done.append(case.value)
        else:
            logger.debug("%s: %s", case.item.case_id, case.traceback)
            problems.append(describe_problem(case.item.case_id, case.error))
    evaluated = _of_one_meaning(done, problems)
    names = None if form.classes is None else list(form.classes)
    if names is None:  # the classes were found case by case
        _check_common_class(evaluated, truth_folder, prediction_folder)
        names = sorted({name for case in evaluated for name in case.classes}, key=lambda name: (len(name), name))
    patients = named_like(read_patients(truth_folder), [case.case_id for case in evaluated])
    groups = [patients.get(case.case_id, case.case_id) for case in evaluated]
    result = {
        "truth_folder": str(truth_folder),
        "prediction_folder": str(prediction_folder),
        "class_labels": None if form.classes is None else dict(form.classes),
        "options": options.to_dict(),
        "summary": summarize(evaluated, names, patients),
        "patients": len(set(groups)),
        "intervals": headline_intervals(evaluated, options.samples, options.seed, groups),
        "problems": sorted(problems, key=lambda problem: problem["case"]),
        "cases": [case.to_dict() for case in evaluated],
        "lesions": [lesion.to_dict() for case in evaluated for lesion in case.lesions],
    }
    return _System(evaluated, result)


def _of_one_meaning(cases: Sequence[_Evaluated], problems: list[dict[str, str]]) -> list[CaseMetrics]:
    """The cases whose values mean what those of the others mean; the others are added to ``problems``."""
    values = [case.values for case in cases if case.values is not None]
    if not values:
        return [case.metrics for case in cases]
    check_not_instances(values)
    odd = odd_values(values)
    problems += [describe_problem(case_id, error) for case_id, error in odd.items()]
    return [case.metrics for case in cases if case.metrics.case_id not in odd]


def _check_common_class(cases: Sequence[CaseMetrics], truth_folder: Path, prediction_folder: Path) -> None:
    """Raise if no label value of the truth is one of the predictions: 255 and 1 for one lesion, for example."""
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


def _pair_files(
    truth_folder: Path,
    prediction_folder: Path,
    cases: Sequence[str] | None,
    options: EvaluationOptions,
    truth_files: Mapping[str, Path] | None,
) -> tuple[list[_Files], list[dict[str, str]]]:
    """The files of each case that both sides have, and what is missing."""
    problems: list[dict[str, str]] = []
    truths: Mapping[str, Path]
    truths = truth_files if truth_files is not None else files_by_case(truth_folder, "truth", image_case, problems)
    if cases is not None:
        truths = named_like(truths, cases)
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
            {"case": case_id, "problem": "the prediction has a mask, but no instance map in instances/"}
            for case_id in sorted(set(masks) - set(predictions))
        ]
    common = common_cases(truths, predictions, (truth_folder, prediction_folder), problems, cases)
    if not in_layout:
        return [_Files(case_id, truths[case_id], predictions[case_id], None) for case_id in common], problems
    roi_folder = prediction.records_folder
    rois = named_like(files_by_case(roi_folder, "RoI file", roi_case, problems), truths) if roi_folder.is_dir() else {}
    layouts = {case_id: LayoutFiles(predictions[case_id], rois.get(case_id), masks.get(case_id)) for case_id in common}
    files = [_Files(case_id, truths[case_id], predictions[case_id], layouts[case_id]) for case_id in common]
    if any(layout.rois is not None for layout in layouts.values()):
        # A case without scores would take those of all others along: FROC and average precision need every case.
        lacking = [case_id for case_id, layout in layouts.items() if layout.rois is None]
        problems += [
            {"case": case_id, "problem": f"the prediction has an instance map, but no rois/{case_id}.json"}
            for case_id in lacking
        ]
        files = [file for file in files if file.case_id not in lacking]
    return files, problems


def _evaluate_files(form: LabelFormat, options: EvaluationOptions, single_class: int, files: _Files) -> _Evaluated:
    compared = options.components is None  # two label files, not a label and a probability map
    truth_source, prediction_source = form.source(files.truth), form.source(files.prediction)
    if compared and file_ending(files.truth) == ".npy":
        truth_source = truth_source.oriented_like(read_geometry(prediction_source))
    truth_label, truth_geometry = read_label(truth_source, form, prediction_source if compared else None)
    mask = None  # of the prediction, if its values may be compared with those of the truth
    if options.components is not None:
        names, values, prediction = _from_probabilities(
            truth_label, truth_geometry, files, form, options.components, single_class
        )
    else:
        label, geometry = read_label(prediction_source.oriented_like(truth_geometry), form)
        check_same_grid(truth_geometry, geometry, (files.truth, files.prediction), "truth and prediction")
        names, values = _classes(form, lambda: _values_found(truth_label, label, files))
        if files.layout is not None:
            prediction = lesions_from_layout(label, geometry, files.layout, names, values, form)
        elif form.prediction_instances:
            stated = None if form.instance_classes is None else form.instance_classes.beside_maps()
            prediction = lesions_from_instances(label, files.prediction, stated)
        else:
            prediction, mask = lesions_from_semantic(label, values, files.prediction), label
    truth = true_lesions(truth_label, files.truth, form, values, files.case_id)
    metrics = evaluate_case(
        files.case_id,
        truth.instances,
        prediction.instances,
        truth_geometry.spacing,
        truth_classes=truth.classes,
        prediction_classes=prediction.classes,
        prediction_scores=prediction.scores,
        class_names=names,
        figures=options.figures,
        voxel_volume=truth_geometry.voxel_volume,
    )
    # Whoever looks a lesion up indexes the label file.
    order = truth_geometry.stored_order
    lesions = tuple(replace(lesion, center=order.point_to_stored(lesion.center)) for lesion in metrics.lesions)
    metrics = replace(metrics, lesions=lesions)
    if form.classes is not None or form.truth_instances or form.prediction_instances:
        return _Evaluated(metrics, None)
    of_truth = components_by_value(truth, values)
    if mask is None:
        return _Evaluated(metrics, CaseValues(files.case_id, of_truth, {}))
    of_prediction = components_by_value(prediction, values)
    return _Evaluated(metrics, compare_values(files.case_id, truth_label, mask, (of_truth, of_prediction)))


def _classes(form: LabelFormat, values_found: Callable[[], set[int]]) -> tuple[list[str], list[int]]:
    """Names and values of the classes of a case; without a dataset.json, those of the values that occur."""
    if form.classes is not None:
        return list(form.classes), list(form.classes.values())
    if form.truth_instances or form.prediction_instances:
        return ["lesion"], [1]
    found = sorted(values_found())
    return [f"label {value}" for value in found], found


def _from_probabilities(
    truth: AnyIntArray, geometry: Geometry, files: _Files, form: LabelFormat, rule: ComponentRule, single_class: int
) -> tuple[list[str], list[int], Lesions]:
    """Names and values of the classes of a case, and the lesions that its probability map gives."""
    known = list(form.classes.values()) if form.classes is not None else [1] if form.truth_instances else None
    map_ = read_probability_map(form.source(files.prediction), geometry, files.truth, known, single_class)
    names, values = _classes(form, lambda: label_values(truth) | set(map_.class_values))
    return names, values, lesions_from_probabilities(map_, geometry.spacing, rule, values, geometry.voxel_volume)


def _values_found(truth: AnyIntArray, prediction: AnyIntArray, files: _Files) -> set[int]:
    """The classes' values that truth and prediction use."""
    found = label_values(truth)
    if files.layout is None:
        return found | label_values(prediction)
    if files.layout.rois is not None:
        return found | {int(lesion["label"]) for lesion in read_roi_lesions(files.layout.rois)}
    return found or ({1} if prediction.any() else set())  # without a RoI file there may be one class only
