"""Evaluate a folder of predictions, whoever made them, against a folder of labels, in the labels' own geometry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.labels import (
    LabelFormat,
    Lesions,
    check_same_grid,
    label_values,
    lesions_from_instances,
    lesions_from_semantic,
    read_label,
    read_label_format,
    read_roi_lesions,
)
from detseg3d.evaluation.lesions import evaluate_case
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.evaluation.summary import summarize
from detseg3d.execution.local import run_cases
from detseg3d.io.images import file_ending, strip_ending

__all__ = ["LabelFormat", "evaluate_case", "evaluate_folders", "read_label_format", "summarize"]

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Files:
    """The files of one case; ``rois`` only beside an instance map of our own layout."""

    case_id: str
    truth: Path
    prediction: Path
    in_layout: bool
    rois: Path | None


def evaluate_folders(
    truth_folder: str | Path,
    prediction_folder: str | Path,
    *,
    label_format: LabelFormat | None = None,
    cases: Sequence[str] | None = None,
    num_processes: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate all cases that both folders have.

    Parameters
    ----------
    truth_folder : path
        ``CASE.nii.gz`` (or another supported ending) per case: semantic labels or instance maps.
    prediction_folder : path
        Likewise, endings may differ. With a subfolder ``instances``, as ``detseg3d_predict`` writes it, lesions come
        from the instance maps in there, classes and scores from ``rois/CASE.json``; otherwise lesions are the
        26-connected components of each class.
    label_format : LabelFormat, optional
        By default from the dataset.json in or above ``truth_folder`` or in ``prediction_folder``; see
        :func:`read_label_format`.
    cases : sequence of str, optional
        Only these; by default all of ``truth_folder``.
    num_processes : int, optional
        Worker processes; 0 works in this process.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    dict
        Ready for JSON: ``truth_folder``, ``prediction_folder``, ``class_labels``, ``summary`` (see
        :func:`~detseg3d.evaluation.summary.summarize`), ``cases``, ``lesions`` (a record per true and per predicted
        lesion) and ``problems``: what could not be evaluated, as ``{"case", "problem"}``. Such cases are in no figure.

    Raises
    ------
    DetSeg3DError
        If a folder does not exist or has no label files, or if they have no case in common.
    """
    truth_folder, prediction_folder = Path(truth_folder), Path(prediction_folder)
    form = label_format or read_label_format(truth_folder, prediction_folder)
    files, problems = _pair_files(truth_folder, prediction_folder, cases)
    results = run_cases(partial(_evaluate_files, form), files, num_processes, "evaluating", progress)
    evaluated: list[CaseMetrics] = []
    for result in results:
        if result.value is not None:
            evaluated.append(result.value)
        else:
            known = isinstance(result.error, DetSeg3DError)
            text = str(result.error) if known else f"{type(result.error).__name__}: {result.error}"
            logger.debug("%s: %s", result.item.case_id, result.traceback)
            problems.append({"case": result.item.case_id, "problem": text})
    names = None if form.classes is None else list(form.classes)
    if names is None:  # the classes were found case by case
        names = sorted({name for case in evaluated for name in case.classes}, key=lambda name: (len(name), name))
    return {
        "truth_folder": str(truth_folder),
        "prediction_folder": str(prediction_folder),
        "class_labels": None if form.classes is None else dict(form.classes),
        "summary": summarize(evaluated, names),
        "problems": sorted(problems, key=lambda problem: problem["case"]),
        "cases": [case.to_dict() for case in evaluated],
        "lesions": [lesion.to_dict() for case in evaluated for lesion in case.lesions],
    }


def _pair_files(
    truth_folder: Path, prediction_folder: Path, cases: Sequence[str] | None
) -> tuple[list[_Files], list[dict[str, str]]]:
    """The files of each case that both sides have, and what is missing."""
    problems: list[dict[str, str]] = []
    truths = _label_files(truth_folder, "truth", problems)
    instance_folder = prediction_folder / "instances"
    in_layout = instance_folder.is_dir()
    predictions = _label_files(instance_folder if in_layout else prediction_folder, "prediction", problems)
    if in_layout:
        for case_id in sorted(set(_label_files(prediction_folder, "prediction", [])) - set(predictions)):
            problems.append(
                {"case": case_id, "problem": "the prediction has a mask, but no instance map in instances/"}
            )
    named = {problem["case"] for problem in problems}
    wanted = set(truths) if cases is None else set(cases)
    for case_id in sorted(wanted - set(truths) - named):
        problems.append({"case": case_id, "problem": f"no label in {truth_folder}"})
    for case_id in sorted((wanted & set(truths)) - set(predictions) - named):
        problems.append({"case": case_id, "problem": f"no prediction in {prediction_folder}"})
    if cases is None:
        for case_id in sorted(set(predictions) - set(truths) - named):
            problems.append({"case": case_id, "problem": f"a prediction, but no label in {truth_folder}"})
    common = sorted(wanted & set(truths) & set(predictions))
    if not common:
        raise DetSeg3DError(
            "the two folders have no case in common",
            file=prediction_folder,
            value=sorted(predictions)[:3],
            expected=f"names like those in {truth_folder}: {sorted(truths)[:3]}",
            remedy="name each prediction like its label",
        )
    files = []
    for case_id in common:
        rois = prediction_folder / "rois" / f"{case_id}.json"
        files.append(
            _Files(case_id, truths[case_id], predictions[case_id], in_layout, rois if rois.is_file() else None)
        )
    return files, problems


def _label_files(folder: Path, what: str, problems: list[dict[str, str]]) -> dict[str, Path]:
    """Label files of a folder by case; a case with several files is a problem, not a guess."""
    if not folder.is_dir():
        raise DetSeg3DError(f"the folder of the {what} does not exist", file=folder, remedy="check the path")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and file_ending(path) is not None and not path.name.startswith("."):
            found.setdefault(strip_ending(path), []).append(path)
    for case_id, paths in found.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            problems.append({"case": case_id, "problem": f"the {what} has several files: {names}"})
    return {case_id: paths[0] for case_id, paths in found.items() if len(paths) == 1}


def _evaluate_files(form: LabelFormat, files: _Files) -> CaseMetrics:
    truth_label, truth_geometry = read_label(files.truth, form)
    label, geometry = read_label(files.prediction, form)
    check_same_grid(truth_geometry, geometry, (files.truth, files.prediction), "truth and prediction")
    if form.classes is None:
        one_kind = form.truth_instances or form.prediction_instances
        names, values = (["lesion"], [1]) if one_kind else _values_found(truth_label, label, files)
    else:
        names, values = list(form.classes), list(form.classes.values())
    if form.truth_instances:
        truth = lesions_from_instances(truth_label)
    else:
        truth = lesions_from_semantic(truth_label, values, files.truth)
    if files.in_layout:
        prediction = _from_layout(label, files, names, values)
    elif form.prediction_instances:
        prediction = lesions_from_instances(label)
    else:
        prediction = lesions_from_semantic(label, values, files.prediction)
    return evaluate_case(
        files.case_id,
        truth.instances,
        prediction.instances,
        truth_geometry.spacing,
        truth_classes=truth.classes,
        prediction_classes=prediction.classes,
        prediction_scores=prediction.scores,
        class_names=names,
    )


def _values_found(truth: IntArray, prediction: IntArray, files: _Files) -> tuple[list[str], list[int]]:
    """The classes of a case of which no dataset.json tells."""
    values = label_values(truth)
    if not files.in_layout:
        values |= label_values(prediction)
    elif files.rois is not None:
        values |= {int(lesion["label"]) for lesion in read_roi_lesions(files.rois)}
    found = sorted(values) or [1]
    return [f"label {value}" for value in found], found


def _from_layout(instances: IntArray, files: _Files, names: Sequence[str], values: Sequence[int]) -> Lesions:
    """Lesions of our own layout: instance map, and classes and scores from the RoI file."""
    ids = label_values(instances)
    if files.rois is None:
        if len(values) > 1 and ids:
            raise DetSeg3DError(
                "without a RoI file the classes of the predicted lesions are not known",
                file=files.prediction,
                expected=f"rois/{files.case_id}.json, as there are {len(values)} classes: {', '.join(names)}",
            )
        return lesions_from_instances(instances)
    lesions = {lesion["id"]: lesion for lesion in read_roi_lesions(files.rois)}
    missing = sorted(ids - set(lesions))
    if missing:
        raise DetSeg3DError("lesions of the instance map are not in the RoI file", file=files.rois, value=missing[:10])
    unknown = sorted({lesions[number]["label"] for number in ids} - set(values))
    if unknown:
        raise DetSeg3DError(
            "unknown label in the RoI file", file=files.rois, value=unknown, expected=f"one of {values}"
        )
    classes = {number: values.index(lesions[number]["label"]) for number in ids}
    scores = {number: lesions[number]["score"] for number in ids}
    return Lesions(instances, classes, None if None in scores.values() else scores)
