"""Models that are handed on: a trained model into one file, and a file from anybody into a model that can be used.

A model is data and never code. What is handed on says nothing of single cases: their names, and the figures of each of
them, stay behind. What comes in is taken for a model only after everything in it was checked.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg3d import __version__
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import read_description
from detseg3d.data.folders import ModelFolder
from detseg3d.inference.model_folder import fold_folders, load_reference, same_network
from detseg3d.inference.operating_point import load_operating_point, weights_digest
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.weights import check_weights, load_weights
from detseg3d.pipeline.model_archive import MANIFEST, Manifest, check_shared_name, unpack_archive, write_archive
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.system.files import read_json, remove_stale, replace_folder, temporary_beside, write_json

__all__ = ["Installed", "check_model_folder", "export_model", "install_model"]

logger = logging.getLogger(__name__)

METRICS = ModelFolder(Path()).cross_validation_evaluation.metrics.as_posix()
_CHECKPOINTS = ("final", "best")
_MOST_JSON_BYTES = 64 << 20
# What is handed on of each file; other entries may name cases, patients and folders.
_SHARED_OF_DATASET = (
    *("name", "description", "reference", "licence", "license", "release", "channel_names", "modality", "labels"),
    *("file_ending", "instances", "default_spacing", "suv", "numTraining"),
)
_SHARED_OF_FINGERPRINT = ("version", "dataset_name", "summary", "dataset")
_SHARED_OF_METRICS = ("class_labels", "options", "summary", "intervals", "cross_validation")


# -- Export ------------------------------------------------------------------------------------------------------------


def export_model(model_folder: str | Path, output: str | Path, folds: Sequence[str | int] | None = None) -> Manifest:
    """Write a trained model as one file.

    Parameters
    ----------
    model_folder : path
        ``results/DatasetXXX_Name``.
    output : path
        ``.zip``; an earlier file is replaced.
    folds : sequence, optional
        Default: all that are trained, without the one of all cases if there are others.

    Returns
    -------
    Manifest
        What was written.

    Raises
    ------
    DetSeg3DError
        If the model is not complete: a fold or its weights are missing, do not fit their plans or those of the other
        folds, or the operating point was chosen with other weights.
    """
    folder, output = Path(model_folder), Path(output)
    if output.suffix.lower() != ".zip":
        raise DetSeg3DError("a model is exported as a zip file", file=output, expected="a name that ends in .zip")
    check_shared_name(folder.name)
    chosen = fold_folders(folder, folds, "final")
    check_model_folder(folder, [fold.name for fold in chosen])
    files: dict[str, Path | bytes] = {}
    for fold in chosen:
        for file in (fold.plans, fold.appearance):
            files[file.relative_to(folder).as_posix()] = file
        for checkpoint in _CHECKPOINTS:
            weights = fold.weights(checkpoint)
            if weights.is_file():
                files[weights.relative_to(folder).as_posix()] = weights
    model = ModelFolder(folder)
    for file in (model.plans, model.operating_point):
        if file.is_file():
            files[file.name] = file
    for file, entries in (
        (model.dataset_json, _SHARED_OF_DATASET),
        (model.fingerprint, _SHARED_OF_FINGERPRINT),
        (model.cross_validation_evaluation.metrics, _SHARED_OF_METRICS),
    ):
        if file.is_file():
            files[file.relative_to(folder).as_posix()] = _without_cases(file, entries)
    return write_archive(output, folder.name, __version__, files)


def _without_cases(file: Path, entries: Sequence[str]) -> bytes:
    """These entries of a JSON file, as JSON."""
    data = read_json(file)
    kept = {name: data[name] for name in entries if name in data}
    if file == ModelFolder(file.parent).fingerprint:
        kept["cases"] = {}
        summary = kept.get("summary")
        if isinstance(summary, dict) and isinstance(summary.get("cases_without_lesions"), list):
            # The list names them; how many there are is what matters.
            kept["summary"] = {**summary, "cases_without_lesions": len(summary["cases_without_lesions"])}
    try:
        return (json.dumps(kept, indent=1, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise DetSeg3DError("the file holds NaN or infinity, which is no JSON", file=file) from error


# -- Checks ------------------------------------------------------------------------------------------------------------


def check_model_folder(folder: Path, folds: Sequence[str]) -> None:
    """Check that a folder holds a model that can be used, and that all that lies beside its folds is in order.

    Plans are within their limits and those of all folds give the same network; weights are compared with it before
    memory is taken, then loaded; each fold says what its training scans look like; the operating point belongs to these
    weights; dataset.json, fingerprint and metrics are what they are named.

    Parameters
    ----------
    folder : Path
    folds : sequence of str
        Names of the folds, such as ``"0"``.

    Raises
    ------
    DetSeg3DError
        Of the first thing that is wrong.
    """
    first: Plans | None = None
    model = ModelFolder(folder)
    for name in folds:
        fold = model.fold(name)
        plans = load_plans(fold.plans)
        first = first or plans
        if not same_network(plans, first):
            raise DetSeg3DError(
                "the folds were trained with different plans",
                file=fold.plans,
                remedy=f"leave this fold out with -f, or train it with the plans of {model.fold(folds[0]).path.name}",
            )
        for checkpoint in _CHECKPOINTS:
            weights = fold.weights(checkpoint)
            if checkpoint == "final" or weights.is_file():
                check_weights(plans, weights)
                load_weights(DetSeg3D(plans), weights)
        load_reference(fold, plans)
    assert first is not None, "a model has at least one fold"
    if model.plans.is_file():
        load_plans(model.plans)
    _check_operating_point(model, folds)
    _check_description(model.dataset_json, first)
    _check_json(model.fingerprint, lambda data: data.get("version") == FINGERPRINT_VERSION)
    _check_json(model.cross_validation_evaluation.metrics, lambda data: isinstance(data.get("summary"), dict))


def _check_operating_point(model: ModelFolder, folds: Sequence[str]) -> None:
    point = load_operating_point(model.path)
    chosen = [] if point is None else [model.fold(name) for name in folds]
    changed = [
        fold.path.name
        for fold in chosen
        if point is not None
        and fold.path.name in point.weights
        and weights_digest(fold.final_weights) != point.weights[fold.path.name]
    ]
    if changed:
        raise DetSeg3DError(
            "the operating point was chosen with other weights",
            file=model.operating_point,
            value=changed,
            remedy="run detseg3d_consolidate again, or remove the file to use the plan's thresholds",
        )


def _check_description(file: Path, plans: Plans) -> None:
    if not file.is_file():
        return
    _, channels, labels = read_description(file)
    values = tuple(sorted(value for value in labels.values() if value != 0))
    if channels != plans.channel_names or (values != tuple(sorted(plans.class_labels)) and not plans.instances):
        raise DetSeg3DError(
            "dataset.json describes other channels or classes than the plans",
            file=file,
            value=(channels, values),
            expected=f"{(plans.channel_names, plans.class_labels)}",
            remedy="use the dataset.json that the model was trained with",
        )


def _check_json(file: Path, fits: Callable[[Mapping[str, Any]], bool]) -> None:
    if not file.is_file():
        return
    data = read_json(file)
    if not isinstance(data, dict) or not fits(data):
        raise DetSeg3DError("the file is not what its name says", file=file, remedy="remove or restore it")


# -- Installation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Installed:
    """A model that was installed.

    Attributes
    ----------
    folder : Path
    folds : tuple of str
        Names of the folds: ``0``, ``1``, …
    kept : Path or None
        Where the model lies that was there before, if it was not just an earlier installation.
    """

    folder: Path
    folds: tuple[str, ...]
    kept: Path | None = None


def install_model(
    archive: str | Path, results: str | Path, name: str | None = None, overwrite: bool = False
) -> Installed:
    """Unpack a model that anybody may have made, check all of it, and put it among the results.

    The model appears under its name as a whole or not at all, whenever the process is stopped.

    Parameters
    ----------
    archive : path
        From :func:`export_model`.
    results : path
        Folder of the results.
    name : str, optional
        ``DatasetXXX_Name``, instead of the name that the archive says.
    overwrite : bool, optional
        Take the place of a model of that name. One that was installed is removed, if nothing was added to it; any
        other is kept as ``replaced_DatasetXXX_Name``.

    Raises
    ------
    DetSeg3DError
        If the archive is refused (see :func:`~detseg3d.pipeline.model_archive.unpack_archive`), what it holds is no
        model
        (see :func:`check_model_folder`), or there is a model of that name.
    """
    archive, results = Path(archive), Path(results)
    if name is not None:
        check_shared_name(name)
        _require_free(results / name, overwrite)
    _make_folder(results)
    remove_stale(results)  # what an installation that was killed has left
    temporary = temporary_beside(results / "model")
    try:
        temporary.mkdir()
        manifest = unpack_archive(archive, temporary)
        target = results / (name or manifest.name)
        _require_free(target, overwrite)
        folds = _check_unpacked(temporary, archive)
        write_json(manifest.model_dump(mode="json"), temporary / MANIFEST)
        kept = _put_in_place(temporary, target)
    except OSError as error:
        raise DetSeg3DError(
            f"the model cannot be installed: {error.strerror or error}",
            file=results,
            remedy="check free space and write permission of the folder",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Installed(target, tuple(folds), kept)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DetSeg3DError(f"the folder cannot be made: {error.strerror or error}", file=folder) from error


def _require_free(target: Path, overwrite: bool) -> None:
    if os.path.lexists(target) and not overwrite:
        raise DetSeg3DError(
            "there is a model of this name",
            file=target,
            remedy="choose another name with --name, or let it take its place with --overwrite",
        )


def _check_unpacked(folder: Path, archive: Path) -> list[str]:
    """Names of the folds, after all of the model was checked; errors name the file of the archive."""
    try:
        numbers = [fold.name for fold in ModelFolder(folder).folds()]
        folds = [path.name for path in fold_folders(folder, numbers, "final")]
        check_model_folder(folder, folds)
    except DetSeg3DError as error:
        inside = "" if error.file in (None, folder) else f"{Path(str(error.file)).relative_to(folder).as_posix()}: "
        raise DetSeg3DError(
            f"what the model file holds is refused: {inside}{error.problem}",
            file=archive,
            value=error.value,
            expected=error.expected,
            remedy="ask whoever made it for a file that detseg3d_export_model wrote",
        ) from error
    return folds


def _put_in_place(temporary: Path, target: Path) -> Path | None:
    """Rename the new model to its name, and before that the old one to another; where the old one is kept."""
    if not os.path.lexists(target):
        temporary.rename(target)
        return None
    worthless = _is_untouched(target)
    aside = _unused(target.with_name(f"replaced_{target.name}"))
    replace_folder(target, temporary, aside)
    if not worthless:
        return aside
    shutil.rmtree(aside, ignore_errors=True)
    return None


def _unused(path: Path) -> Path:
    number = 1
    candidate = path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}_{number}")
    return candidate


def _is_untouched(folder: Path) -> bool:
    """Whether a folder holds an installed model and nothing else: then its file can be installed again."""
    try:
        manifest = Manifest.model_validate(read_json(folder / MANIFEST, _MOST_JSON_BYTES))
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
        return set(files) == {*manifest.files, MANIFEST} and all(
            weights_digest(files[name]) == entry.sha256 for name, entry in manifest.files.items()
        )
    except (DetSeg3DError, ValueError, OSError):
        return False
