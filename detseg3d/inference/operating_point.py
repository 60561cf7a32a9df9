"""The operating point of a model: thresholds and calibration that cross-validation chose, stored beside its folds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import FoldFolder, ModelFolder
from detseg3d.evaluation.cross_validation import ChoiceMetrics, ShiftSummary
from detseg3d.planning.plans import MAX_PLANS_BYTES, Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.planning.thresholds import Thresholds
from detseg3d.system.files import open_regular_file
from detseg3d.system.json_files import read_json, write_json

__all__ = [
    "OperatingPoint",
    "PlansInUse",
    "apply_operating_point",
    "load_operating_point",
    "save_operating_point",
    "weights_digest",
]

logger = logging.getLogger(__name__)

_CALIBRATION = {"calibration", "calibration_base_rate", "calibration_variance"}


class OperatingPoint(BaseModel):
    """The thresholds and the calibration that ``detseg3d_consolidate`` chose.

    Attributes
    ----------
    inference : InferencePlan
        Thresholds and calibration; the other fields are not used.
    objective : str
        The objective of the choice, in words.
    weights : dict of str to str
        SHA-256 of the weights of each fold that the choice is based on, by the name of its folder.
    metrics : ChoiceMetrics or None
        Pooled cross-validation metrics at these thresholds and at the thresholds of the plan.
    plan_kept : bool
        True if the thresholds of the plan were kept, because no other thresholds gained more than noise.
    shifts : ShiftSummary or None
        Goal of the choice, and metrics on unchanged and on shifted validation scans. ``None`` if there were no shifted
        scans.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[3] = 3
    inference: InferencePlan
    objective: str
    weights: Mapping[str, str]
    metrics: ChoiceMetrics | None = None
    plan_kept: bool = False
    shifts: ShiftSummary | None = None

    def changes(self) -> dict[str, Any]:
        """Return the fields of the plan's inference section that the operating point replaces."""
        return self.inference.model_dump(include={*Thresholds.model_fields, *_CALIBRATION})


def weights_digest(file: str | Path) -> str:
    """Return the SHA-256 of a weights file, hexadecimal."""
    with open_regular_file(file) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(handle)


def _digest(handle: Iterable[bytes]) -> str:  # Python 3.10
    digest = hashlib.sha256()
    for block in handle:
        digest.update(block)
    return digest.hexdigest()


def save_operating_point(point: OperatingPoint, model_folder: str | Path) -> Path:
    """Write the operating point of a model, so that ``detseg3d_predict`` uses it; return the file."""
    path = ModelFolder(Path(model_folder)).operating_point
    write_json(point.model_dump(mode="json"), path)
    return path


def load_operating_point(model_folder: str | Path) -> OperatingPoint | None:
    """Read the operating point of a model; return ``None`` if the model has no operating point.

    Returns
    -------
    OperatingPoint or None

    Raises
    ------
    DetSeg3DError
        If the file is damaged.
    """
    path = ModelFolder(Path(model_folder)).operating_point
    if not path.is_file():
        return None
    remedy = "run detseg3d_consolidate again, or delete the file to use the plan's thresholds"
    try:
        return OperatingPoint.model_validate(read_json(path, MAX_PLANS_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        raise DetSeg3DError(
            f"the operating point has {error.error_count()} problem(s)",
            file=path,
            value=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            remedy=remedy,
        ) from error
    except DetSeg3DError as error:
        raise DetSeg3DError(error.problem, file=path, remedy=remedy) from error


class PlansInUse(NamedTuple):
    """Plans of a prediction.

    Attributes
    ----------
    plans : Plans
    point : OperatingPoint or None
        The operating point whose thresholds they have; ``None`` if they have their own thresholds.
    """

    plans: Plans
    point: OperatingPoint | None


def apply_operating_point(
    plans: Plans, model_folder: Path, weights: Mapping[str, Path], use_mirroring: bool = True
) -> PlansInUse:
    """Return the plans with the operating point of the model, if it belongs to these weights.

    A subset of the folds with which the operating point was chosen is accepted, because each fold was evaluated alone.
    A warning is logged if the operating point was chosen without one of the folds, for example fold ``all``. A warning
    is also logged if the mirrored copies differ, because scores then differ.

    Parameters
    ----------
    plans : Plans
    model_folder : Path
    weights : mapping of str to Path
        Weights file of each fold that is used, by the name of its folder.
    use_mirroring : bool
        True if the mirrored copies that ``plans`` name are averaged.

    Returns
    -------
    PlansInUse
    """
    point = load_operating_point(model_folder)
    if point is None:
        return PlansInUse(plans, None)
    name = ModelFolder(Path(model_folder)).operating_point.name
    changed = [
        fold for fold, file in weights.items() if fold in point.weights and weights_digest(file) != point.weights[fold]
    ]
    if changed:
        # Consolidation always uses the final weights, so running it again would not help a user of other weights.
        final = all(weights[fold] == FoldFolder(weights[fold].parent).final_weights for fold in changed)
        logger.warning(
            "%s was chosen with other weights of %s and is not used; %s",
            name,
            ", ".join(changed),
            "run detseg3d_consolidate again"
            if final
            else "it belongs to the final weights; with these weights the thresholds of the plan are used, and scores "
            "are not calibrated",
        )
        return PlansInUse(plans, None)
    others = [fold for fold in weights if fold not in point.weights]
    if others:
        logger.warning(
            "%s was chosen with %s; for %s its thresholds may not be the best",
            name,
            ", ".join(point.weights),
            ", ".join(others),
        )
    used = plans.inference.mirror_axes if use_mirroring else ()
    if used != point.inference.mirror_axes:
        logger.warning(
            "%s was chosen %s, but this prediction is made %s, so its thresholds were fitted to other scores; "
            "predict as the folds were validated, with or without --disable_tta, or change mirror_axes in the "
            "plans.json of every fold, run detseg3d_train --val for each fold, then detseg3d_consolidate",
            name,
            _with_copies(point.inference.mirror_axes),
            _with_copies(used),
        )
    logger.info("operating point of the cross-validation: %s", point.inference.thresholds.describe())
    return PlansInUse(plans.evolve(inference=point.changes()), point)


def _with_copies(axes: Sequence[int]) -> str:
    return f"with copies mirrored along {' '.join('zyx'[axis] for axis in axes)}" if axes else "without mirrored copies"
