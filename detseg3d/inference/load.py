"""Load a trained model: the networks of its folds, its thresholds, and the appearance of its training scans."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from detseg3d.core.backend import Backend
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.data.folders import FoldFolder
from detseg3d.deploy.network import ExportedNetwork
from detseg3d.deploy.networks import ExportedFiles
from detseg3d.evaluation.cross_validation import ShiftSummary
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.model_folder import (
    choose_backend,
    fold_folders,
    folder_backends,
    load_reference,
    restrict_mirroring,
    same_network,
)
from detseg3d.inference.operating_point import PlansInUse, apply_operating_point, weights_digest
from detseg3d.models.custom import check_network_is_named
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.two_stage import TwoStageNetwork
from detseg3d.models.weights import check_weights, load_weights, open_tensors
from detseg3d.planning.appearance.training import TrainingAppearance
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.system.device import resolve_device

__all__ = ["load_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that was read from its folder.

    Attributes
    ----------
    networks : list of TwoStageNetwork
        On ``device``.
    plans : Plans
        With the thresholds in use.
    device : torch.device
    reference : TrainingAppearance or None
        Appearance of the training scans.
    shifts : ShiftSummary or None
        Metrics of shifted validation scans at the thresholds in use, if they were measured.
    identity : ModelIdentity
        Name and weights of the model.
    """

    networks: list[TwoStageNetwork]
    plans: Plans
    device: torch.device
    reference: TrainingAppearance | None
    shifts: ShiftSummary | None
    identity: ModelIdentity


def load_model(folder: str | Path, folds: Sequence[str | int] | None, options: LoadOptions) -> LoadedModel:
    """Load the folds of a results folder.

    Parameters
    ----------
    folder : path
        ``results/DatasetXXX_Name``, with ``fold_0``, ``fold_1``, …
    folds : sequence or None
        Names of the folds; ``None`` for all trained folds.
    options : LoadOptions

    Returns
    -------
    LoadedModel

    Raises
    ------
    DetSeg3DError
        If a fold, its weights or the description of its training scans are missing, the weights do not fit the plans,
        the folds were trained with different plans, or the plans record a network that ``options`` do not name.
    """
    folder = Path(folder)
    options = replace(options, backend=choose_backend(folder, folder_backends(folder), options.backend))
    is_exported = options.backend is not Backend.TORCH
    device = resolve_device("cpu" if is_exported and options.device is None else options.device)
    chosen = fold_folders(folder, folds, options.stored_weights)
    plans_of = [load_plans(fold.plans) for fold in chosen]
    networks: list[TwoStageNetwork] = []
    references = []
    for fold, plans in zip(chosen, plans_of, strict=True):
        if not same_network(plans, plans_of[0]):
            raise DetSeg3DError(
                "the folds were trained with different plans",
                file=fold.plans,
                remedy=f"predict with fewer folds (-f), or train this fold with the plans of {chosen[0].path.name}",
            )
        load_network = _load_exported if is_exported else _load_network
        networks.append(load_network(fold, plans, options))
        references.append(load_reference(fold, plans))
    trained_in = sorted({str(plans.training.precision_used or "unknown") for plans in plans_of})
    logger.info(
        "model: %s, %s; trained in %s, predicts with %s in %s%s",
        folder.name,
        ", ".join(fold.path.name for fold in chosen),
        " and ".join(trained_in),
        options.backend,
        networks[0].precision_on(device),
        ", int8" if isinstance(networks[0], ExportedNetwork) and networks[0].has_int8 else "",
    )
    plans, point = _plans_in_use(folder, chosen, plans_of, options)
    shifts = None if point is None else point.shifts
    identity = ModelIdentity(plans.dataset_name, _digest([fold.weights(options.stored_weights) for fold in chosen]))
    return LoadedModel(networks, plans, device, TrainingAppearance.pooled(references), shifts, identity)


def _digest(weights: Sequence[Path]) -> str:
    """Return a SHA-256 of the weights of all folds, in any order of the folds."""
    digests = sorted(weights_digest(path) for path in weights)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


def _load_network(fold: FoldFolder, plans: Plans, options: LoadOptions) -> DetSeg3D:
    build_model = options.build_model or DetSeg3D
    if build_model is DetSeg3D:
        check_network_is_named(plans)
    weights = fold.weights(options.checkpoint)
    # The weights are checked before the network takes memory.
    check_weights(plans, weights, build_model)
    network = build_model(plans)
    load_weights(network, weights)
    return network


def _load_exported(fold: FoldFolder, plans: Plans, options: LoadOptions) -> ExportedNetwork:
    file = fold.weights(options.stored_weights)
    try:
        with open_tensors(file) as stored:
            arrays = {name: stored.read(name).numpy() for name in stored.entries}
        assert options.backend is not None, "load_model has chosen the backend"
        files = ExportedFiles.from_arrays(options.backend.network_format, arrays)
        return ExportedNetwork(plans, files, options.precision, torch.get_num_threads())
    except DetSeg3DError as error:
        if error.file is not None:
            raise
        raise DetSeg3DError(
            error.problem, file=file, value=error.value, expected=error.expected, remedy=error.remedy
        ) from error


def _plans_in_use(
    folder: Path, chosen: Sequence[FoldFolder], plans_of: Sequence[Plans], options: LoadOptions
) -> PlansInUse:
    """Return the plans of the first fold with the thresholds that are used, and the operating point they come from."""
    used = PlansInUse(restrict_mirroring(plans_of[0], plans_of), None)
    if options.use_operating_point:
        weights = {fold.path.name: fold.weights(options.stored_weights) for fold in chosen}
        used = apply_operating_point(used.plans, folder, weights, options.use_mirroring)
    given = {"candidate_threshold": options.candidate_threshold, "score_threshold": options.score_threshold}
    changes = {name: value for name, value in given.items() if value is not None}
    if options.score_threshold is not None:
        # A score threshold that the user gives holds in every scan.
        changes["scan_threshold"] = 0.0
    # The metrics of the operating point do not hold for other thresholds.
    return PlansInUse(used.plans.evolve(inference=changes), None) if changes else used
