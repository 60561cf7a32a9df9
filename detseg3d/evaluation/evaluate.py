"""Evaluate a folder of predictions, whoever made them, against a folder of labels, in the labels' own geometry."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.evaluation.lesions import evaluate_case
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.evaluation.summary import summarize
from detseg3d.execution.local import run_cases
from detseg3d.io.files import read_json
from detseg3d.io.images import file_ending, read_image, strip_ending

__all__ = ["LabelFormat", "evaluate_case", "evaluate_folders", "read_label_format", "summarize"]

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class LabelFormat:
    """How label files are to be read.

    Attributes
    ----------
    classes : dict of str to int, or None
        Value of each lesion class in the files; ``None``: every value but 0 is a class, named ``label 1``, …
    truth_instances, prediction_instances : bool
        The files are instance maps (every value one lesion, all of one class).
    npy_spacing : 3 floats or None
        Millimetres ``(z, y, x)`` of ``.npy`` files.
    """

    classes: Mapping[str, int] | None = None
    truth_instances: bool = False
    prediction_instances: bool = False
    npy_spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class _Files:
    """The files of one case; ``rois`` only beside an instance map of our own layout."""

    case_id: str
    truth: Path
    prediction: Path
    in_layout: bool
    rois: Path | None


@dataclass(frozen=True)
class _Lesions:
    """An instance map and what is known of its lesions, by id."""

    instances: IntArray
    classes: Mapping[int, int]
    scores: Mapping[int, float] | None = None


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


def read_label_format(truth_folder: str | Path, prediction_folder: str | Path | None = None) -> LabelFormat:
    """Classes and kind of the labels from a dataset.json, if there is one.

    Looked for in ``truth_folder``, the folder above it (``labelsTr`` lies beside dataset.json) and
    ``prediction_folder``. Without one, every value but 0 is a class.

    Raises
    ------
    DetSeg3DError
        If ``labels`` in dataset.json is not a name and a number each, or has an ``ignore`` label.
    """
    folders = [Path(truth_folder), Path(truth_folder).absolute().parent]
    folders += [] if prediction_folder is None else [Path(prediction_folder)]
    file = next((folder / "dataset.json" for folder in folders if (folder / "dataset.json").is_file()), None)
    if file is None:
        return LabelFormat()
    data = read_json(file)
    labels = data.get("labels") if isinstance(data, dict) else None
    if not isinstance(labels, dict) or not all(type(value) is int for value in labels.values()):
        raise DetSeg3DError(
            "dataset.json does not state the labels",
            file=file,
            value=labels,
            expected='names and values, as in {"background": 0, "lesion": 1}',
            remedy="region-based labels are not supported" if labels else None,
        )
    if "ignore" in labels:
        raise DetSeg3DError("an ignore label is not supported", file=file, value=labels)
    classes = {name: value for name, value in labels.items() if value != 0}
    instances = data.get("instances") is True
    spacing = data.get("npy_spacing")
    return LabelFormat(
        classes or None, truth_instances=instances, npy_spacing=None if spacing is None else tuple(spacing)
    )


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
    truth_label, truth_geometry = _read_label(files.truth, form)
    label, geometry = _read_label(files.prediction, form)
    _check_grid(files, truth_geometry, geometry)
    if form.classes is None:
        one_kind = form.truth_instances or form.prediction_instances
        names, values = (["lesion"], [1]) if one_kind else _values_found(truth_label, label, files)
    else:
        names, values = list(form.classes), list(form.classes.values())
    if form.truth_instances:
        truth = _from_instances(truth_label)
    else:
        truth = _from_semantic(truth_label, values, files.truth)
    if files.in_layout:
        prediction = _from_layout(label, files, names, values)
    elif form.prediction_instances:
        prediction = _from_instances(label)
    else:
        prediction = _from_semantic(label, values, files.prediction)
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


def _read_label(path: Path, form: LabelFormat) -> tuple[IntArray, Geometry]:
    """A label file as integers, whatever type it is stored in."""
    array, geometry = read_image(path, form.npy_spacing)
    if array.dtype.kind in "bu":
        return (array.astype(np.uint8) if array.dtype.kind == "b" else array), geometry
    integers = array.dtype.kind == "i"
    whole = integers or (np.all(np.isfinite(array)) and np.array_equal(array, np.rint(array)))
    if not whole or array.min() < 0:
        raise DetSeg3DError(
            "the label file holds values that are no labels",
            file=path,
            value=f"{array.dtype} from {array.min():g} to {array.max():g}",
            expected="whole numbers from 0",
            remedy="threshold a probability map before evaluating it",
        )
    return (array if integers else array.astype(np.int64)), geometry


def _check_grid(files: _Files, truth: Geometry, prediction: Geometry) -> None:
    differences = truth.difference(prediction)
    if ".npy" in (file_ending(files.truth), file_ending(files.prediction)):
        # An array file says nothing about its place, so only the size can be compared.
        differences = [difference for difference in differences if difference.startswith("size")]
    if differences:
        raise DetSeg3DError(
            "prediction and truth are not on the same grid (truth against prediction): " + "; ".join(differences),
            file=files.prediction,
            remedy="resample the prediction to the grid of the label",
        )


def _values(label: IntArray) -> set[int]:
    """All values but 0. Only the foreground is sorted, which is most often a small part."""
    return set(np.unique(label[label != 0]).tolist())


def _values_found(truth: IntArray, prediction: IntArray, files: _Files) -> tuple[list[str], list[int]]:
    """The classes of a case of which no dataset.json tells."""
    values = _values(truth)
    if not files.in_layout:
        values |= _values(prediction)
    elif files.rois is not None:
        values |= {int(lesion["label"]) for lesion in _roi_lesions(files.rois)}
    found = sorted(values) or [1]
    return [f"label {value}" for value in found], found


def _from_semantic(label: IntArray, values: Sequence[int], file: Path) -> _Lesions:
    unknown = sorted(_values(label) - set(values))
    if unknown:
        raise DetSeg3DError(
            "the file holds labels that dataset.json does not name",
            file=file,
            value=unknown[:10],
            expected=f"0 or one of {list(values)}",
            remedy="if these are instance maps, use --instances",
        )
    instances, classes = instances_from_semantic(label, values)
    return _Lesions(instances, dict(enumerate(classes.tolist(), start=1)))


def _from_instances(label: IntArray) -> _Lesions:
    # The numbers of the file are kept, so that the lesion records can be looked up in it.
    return _Lesions(label, dict.fromkeys(_values(label), 0))


def _roi_lesions(file: Path) -> list[dict[str, Any]]:
    try:
        lesions = read_json(file)["lesions"]
        # Read here what is needed later, so that anything missing is told with the file's name.
        return [
            {"id": int(entry["id"]), "label": int(entry["label"]), "score": entry.get("score")} for entry in lesions
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DetSeg3DError(
            f"the RoI file is not as detseg3d_predict writes it ({type(error).__name__}: {error})",
            file=file,
            expected='"lesions": a list of entries with "id", "label" and "score"',
        ) from error


def _from_layout(instances: IntArray, files: _Files, names: Sequence[str], values: Sequence[int]) -> _Lesions:
    """Lesions of our own layout: instance map, and classes and scores from the RoI file."""
    ids = _values(instances)
    if files.rois is None:
        if len(values) > 1 and ids:
            raise DetSeg3DError(
                "without a RoI file the classes of the predicted lesions are not known",
                file=files.prediction,
                expected=f"rois/{files.case_id}.json, as there are {len(values)} classes: {', '.join(names)}",
            )
        return _from_instances(instances)
    lesions = {lesion["id"]: lesion for lesion in _roi_lesions(files.rois)}
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
    return _Lesions(instances, classes, None if None in scores.values() else scores)
