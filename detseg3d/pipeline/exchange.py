"""Export a trained model as one file, and install a model file of any origin.

A model is data and never code. An exported model does not name any case: the names of cases and patients, and the
metrics of single cases, are left out. A model file is installed only after all of its content was checked.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from detseg3d.core.backend import Backend, NetworkFormat, stored_weights
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import read_description
from detseg3d.data.folders import FoldFolder, ModelFolder
from detseg3d.deploy.networks import ExportedFiles
from detseg3d.inference.model_file import (
    MODEL_ENDING,
    ModelDescription,
    check_model_name,
    unpack_model,
    write_model,
)
from detseg3d.inference.model_folder import fold_folders, load_reference, same_network
from detseg3d.inference.operating_point import load_operating_point, weights_digest
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.weights import check_weights, load_weights, save_tensors
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.system.files import remove_stale, replace_folder, temporary_beside
from detseg3d.system.json_files import read_json, write_json

__all__ = ["export_model", "install_model"]

INSTALLATION = "installation.json"
_MAX_JSON_BYTES = 64 << 20
# The entries of each file that are exported. Other entries may name cases, patients and folders.
_SHARED_OF_DATASET = (
    *("name", "description", "reference", "licence", "license", "release", "channel_names", "modality", "labels"),
    *("file_ending", "instances", "default_spacing", "suv", "codes", "numTraining"),
)
_SHARED_OF_FINGERPRINT = ("version", "dataset_name", "summary", "dataset")
_SHARED_OF_METRICS = ("class_labels", "options", "summary", "estimates", "cross_validation")


# -- Export ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportedModel:
    """A model file that was written.

    Attributes
    ----------
    description : ModelDescription
        Name and checksum.
    folds : tuple of str
        Names of the folders of the folds: ``fold_0``, ``fold_1``, …
    documents : tuple of str
        Names of the JSON documents in the file.
    mask_agreement : tuple of float
        For networks in int8: the Dice of the masks in int8 and in float32, for each fold.
    """

    description: ModelDescription
    folds: tuple[str, ...]
    documents: tuple[str, ...]
    mask_agreement: tuple[float, ...] = ()


def export_model(
    model_folder: str | Path,
    output: str | Path,
    folds: Sequence[str | int] | None = None,
    network_format: NetworkFormat = NetworkFormat.DETSEG3D,
    int8_scans: str | Path | None = None,
    show_progress: bool = True,
) -> ExportedModel:
    """Write a trained model as one file.

    Parameters
    ----------
    model_folder : path
        ``results/DatasetXXX_Name``.
    output : path
        The model file, ``.safetensors``. An earlier file is replaced.
    folds : sequence of str or int, optional
        Names of the folds; by default all numbered folds, or ``all`` if no other fold was trained.
    network_format : NetworkFormat, optional
        Format of the networks. Networks for another backend are compared with PyTorch before they are written.
    int8_scans : path, optional
        Scans with which the networks are exported in int8; see :func:`~detseg3d.pipeline.int8.export_in_int8`. Only for
        OpenVINO.
    show_progress : bool
        Show a progress bar of the export in int8 if the standard error output is a terminal.

    Returns
    -------
    ExportedModel

    Raises
    ------
    DetSeg3DError
        If the model is not complete: a fold or its weights are missing, the weights do not fit their plans, the plans
        of the folds give different networks, or the operating point was chosen with other weights. For another backend
        also for the reasons of :func:`~detseg3d.deploy.export.export_network`, and with ``int8_scans`` for those of
        :func:`~detseg3d.pipeline.int8.export_in_int8`.
    """
    folder, output = Path(model_folder), Path(output)
    if output.suffix.lower() != MODEL_ENDING:
        raise DetSeg3DError(
            "a model is exported as a safetensors file", file=output, expected=f"a name that ends in {MODEL_ENDING}"
        )
    check_model_name(folder.name)
    if int8_scans is not None and network_format is not NetworkFormat.OPENVINO:
        raise DetSeg3DError(
            "only networks for OpenVINO are exported in int8",
            value=str(network_format),
            expected=str(NetworkFormat.OPENVINO),
            remedy="use --format openvino, or leave out --int8",
        )
    chosen = fold_folders(folder, folds, "final")
    check_model_folder(folder, [fold.name for fold in chosen])
    model = ModelFolder(folder)
    contents = {file: read_json(file, _MAX_JSON_BYTES) for fold in chosen for file in (fold.plans, fold.appearance)}
    for file in (model.plans, model.operating_point):
        if file.is_file():
            contents[file] = read_json(file, _MAX_JSON_BYTES)
    for file, entries in (
        (model.dataset_json, _SHARED_OF_DATASET),
        (model.fingerprint, _SHARED_OF_FINGERPRINT),
        (model.cross_validation_evaluation.metrics, _SHARED_OF_METRICS),
    ):
        if file.is_file():
            contents[file] = _without_cases(file, entries)
    documents = {file.relative_to(folder).as_posix(): _json_text(file, data) for file, data in contents.items()}
    agreement: list[float] = []
    with tempfile.TemporaryDirectory(prefix="detseg3d_export_") as temporary:
        weights = {fold.path.name: fold.final_weights for fold in chosen}
        for fold in chosen if network_format is not NetworkFormat.DETSEG3D else ():
            files = _export_fold(fold, network_format)
            if int8_scans is not None:
                from detseg3d.pipeline.int8 import export_in_int8  # imported here, because few exports need it

                quantized = export_in_int8(files, load_plans(fold.plans), Path(int8_scans), show_progress)
                files = quantized.files
                agreement.append(quantized.agreement)
            weights[fold.path.name] = Path(temporary) / fold.path.name
            tensors = {name: torch.from_numpy(array) for name, array in files.to_arrays().items()}
            save_tensors(tensors, weights[fold.path.name])
        description = write_model(output, folder.name, documents, weights, network_format)
    return ExportedModel(description, tuple(weights), tuple(sorted(documents)), tuple(agreement))


def _export_fold(fold: FoldFolder, network_format: NetworkFormat) -> ExportedFiles:
    """Export the networks of a fold."""
    from detseg3d.deploy.export import export_network

    plans = load_plans(fold.plans)
    try:
        # Only the code of a custom network could build it, and this code is not run here.
        model = DetSeg3D(plans)
        if plans.training.network is None:
            load_weights(model, fold.final_weights)
        return export_network(model, network_format)
    except DetSeg3DError as error:
        raise DetSeg3DError(
            error.problem,
            file=error.file or fold.path,
            value=error.value,
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def _without_cases(file: Path, entries: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a JSON file that may be exported; the fingerprint is returned without names of cases."""
    data = read_json(file)
    kept = {name: data[name] for name in entries if name in data}
    if file == ModelFolder(file.parent).fingerprint:
        kept["cases"] = {}
        summary = kept.get("summary")
        if isinstance(summary, dict) and isinstance(summary.get("cases_without_lesions"), list):
            # The list names cases. Only the number of cases is exported.
            kept["summary"] = {**summary, "cases_without_lesions": len(summary["cases_without_lesions"])}
    return kept


def _json_text(file: Path, data: object) -> str:
    try:
        return json.dumps(data, indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise DetSeg3DError("the file holds NaN or infinity, which is not valid in JSON", file=file) from error


# -- Checks ------------------------------------------------------------------------------------------------------------


def check_model_folder(
    folder: Path, folds: Sequence[str], network_format: NetworkFormat = NetworkFormat.DETSEG3D
) -> None:
    """Check that a folder holds a complete model.

    The plans of all folds must be within their limits and give the same network. The weights of each fold are compared
    with this network before memory is allocated, and then loaded. The weights of a custom network are not compared,
    because only the code of the network knows their shapes. Each fold must state the appearance of its training scans.
    The operating point must belong to the weights. The content of dataset.json, fingerprint and metrics is checked too.

    Parameters
    ----------
    folder : Path
        ``DatasetXXX_Name``.
    folds : sequence of str
        Names of the folds, such as ``"0"``.
    network_format : NetworkFormat, optional
        Format of the networks. Networks for another backend were checked when they were unpacked, and are compared
        with the plans when they are loaded.

    Raises
    ------
    DetSeg3DError
        If a check fails. The error describes the first problem.
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
        # Only the code of a custom network knows the shapes of its weights. This code is not run here.
        if plans.training.network is None and network_format is NetworkFormat.DETSEG3D:
            check_weights(plans, fold.final_weights)
            load_weights(DetSeg3D(plans), fold.final_weights)
        load_reference(fold, plans)
    assert first is not None, "a model has at least one fold"
    if model.plans.is_file():
        load_plans(model.plans)
    _check_operating_point(model, folds, stored_weights("final", Backend.of(network_format)))
    _check_description(model.dataset_json, first)
    _check_json(model.fingerprint, lambda data: data.get("version") == FINGERPRINT_VERSION)
    _check_json(model.cross_validation_evaluation.metrics, lambda data: isinstance(data.get("summary"), dict))


def _check_operating_point(model: ModelFolder, folds: Sequence[str], stored: str) -> None:
    point = load_operating_point(model.path)
    digests = {} if point is None else point.weights
    chosen = [fold for fold in map(model.fold, folds) if fold.path.name in digests]
    changed = [fold.path.name for fold in chosen if weights_digest(fold.weights(stored)) != digests[fold.path.name]]
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
        raise DetSeg3DError("the content of the file does not fit its name", file=file, remedy="remove or restore it")


# -- Installation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InstalledModel:
    """A model that was installed.

    Attributes
    ----------
    folder : Path
    folds : tuple of str
        Names of the folds: ``0``, ``1``, …
    kept : Path or None
        New folder of the earlier model of this name. ``None`` if the earlier model was an unchanged installation, or if
        no earlier model existed.
    """

    folder: Path
    folds: tuple[str, ...]
    kept: Path | None = None


class _Installation(BaseModel):
    """Record of an installation, which later shows whether the model was changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: ModelDescription
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]  # SHA-256 by name


def install_model(
    file: str | Path, results: str | Path, name: str | None = None, overwrite: bool = False
) -> InstalledModel:
    """Install a model file of any origin: unpack and check all of its content, and move the model to the results.

    Whenever the process is stopped, the folder of the model is either complete or absent.

    Parameters
    ----------
    file : path
        Model file, as :func:`export_model` writes it.
    results : path
        Folder of the results.
    name : str, optional
        ``DatasetXXX_Name``; by default the name that the file states.
    overwrite : bool, optional
        Replace an earlier model of this name. If the earlier model is an unchanged installation, it is removed.
        Otherwise it is kept as ``replaced_DatasetXXX_Name``.

    Raises
    ------
    DetSeg3DError
        If the file is refused (see :func:`~detseg3d.inference.model_file.unpack_model`), its content is not a complete
        model (see :func:`check_model_folder`), or there is an earlier model of this name.
    """
    file, results = Path(file), Path(results)
    if name is not None:
        check_model_name(name)
        _require_free(results / name, overwrite)
    _make_folder(results)
    remove_stale(results)  # removes the files of a killed installation
    temporary = temporary_beside(results / "model")
    try:
        temporary.mkdir()
        description = unpack_model(file, temporary)
        target = results / (name or description.name)
        _require_free(target, overwrite)
        folds = _check_unpacked(temporary, file, description.network_format)
        record = _Installation(model=description, files=_digests(temporary))
        write_json(record.model_dump(mode="json"), temporary / INSTALLATION)
        kept = _put_in_place(temporary, target)
    except OSError as error:
        raise DetSeg3DError(
            f"the model cannot be installed: {error.strerror or error}",
            file=results,
            remedy="check free space and write permission of the folder",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return InstalledModel(target, tuple(folds), kept)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DetSeg3DError(
            f"the folder cannot be created: {error.strerror or error}",
            file=folder,
            remedy="check the permissions of the folder above it",
        ) from error


def _require_free(target: Path, overwrite: bool) -> None:
    if os.path.lexists(target) and not overwrite:
        raise DetSeg3DError(
            "there is an earlier model of this name",
            file=target,
            remedy="choose another name with --name, or replace the earlier model with --overwrite",
        )


def _check_unpacked(folder: Path, file: Path, network_format: NetworkFormat) -> list[str]:
    """Check the whole content of an unpacked model, and return the names of its folds. Errors name the model file."""
    try:
        folds = [fold.name for fold in ModelFolder(folder).folds()]
        check_model_folder(folder, folds, network_format)
    except DetSeg3DError as error:
        inside = "" if error.file in (None, folder) else f"{Path(str(error.file)).relative_to(folder).as_posix()}: "
        raise DetSeg3DError(
            f"the content of the model file is refused: {inside}{error.problem}",
            file=file,
            value=error.value,
            expected=error.expected,
            remedy="ask the author of the model for a file that detseg3d_export_model wrote",
        ) from error
    return folds


def _put_in_place(temporary: Path, target: Path) -> Path | None:
    """Move an earlier model aside, give the new model its name, and return the new place of the earlier model."""
    if not os.path.lexists(target):
        temporary.rename(target)
        return None
    can_be_installed_again = _is_unchanged_installation(target)
    aside = _unused(target.with_name(f"replaced_{target.name}"))
    replace_folder(target, temporary, aside)
    if not can_be_installed_again:
        return aside
    shutil.rmtree(aside, ignore_errors=True)
    return None


def _unused(path: Path) -> Path:
    """Return ``path``, or the first of ``path_2``, ``path_3``, … that does not exist."""
    number = 1
    candidate = path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}_{number}")
    return candidate


def _is_unchanged_installation(folder: Path) -> bool:
    """Return whether a folder holds an installed model without added, removed or changed files."""
    try:
        record = _Installation.model_validate(read_json(folder / INSTALLATION, _MAX_JSON_BYTES))
        return _digests(folder) == record.files
    except (DetSeg3DError, ValueError, OSError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder by name, except the record of the installation."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    return {name: weights_digest(path) for name, path in sorted(files.items()) if name != INSTALLATION}
