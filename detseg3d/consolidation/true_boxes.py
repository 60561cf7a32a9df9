"""Dice of Stage 2 if Stage 1 were perfect: each true lesion is segmented in its true box."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore, class_of_id
from detseg3d.evaluation.matching import overlap_table
from detseg3d.inference.predictor import Predictor
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.merge import merge_rois
from detseg3d.models.objectives.targets import volume_targets
from detseg3d.planning.plans import preprocessing_hash
from detseg3d.system.json_files import read_json, write_json

__all__ = ["TrueBoxLesion", "read_true_boxes", "segment_true_boxes", "write_true_boxes"]

logger = logging.getLogger(__name__)

_TYPES: dict[str, tuple[type, ...]] = {"case": (str,), "lesion": (int,), "voxels": (int,), "dice": (int, float)}


@dataclass(frozen=True)
class TrueBoxLesion:
    """A true lesion that Stage 2 segmented in its true box.

    Attributes
    ----------
    case : str
    lesion : int
        Number in the instance map of the case.
    voxels : int
        Size in fine voxels.
    dice : float
    """

    case: str
    lesion: int
    voxels: int
    dice: float


def segment_true_boxes(predictor: Predictor, store: CaseStore, case_ids: Sequence[str]) -> list[TrueBoxLesion]:
    """Segment every true lesion in its true box and compare the masks on the fine grid.

    Parameters
    ----------
    predictor : Predictor
    store : CaseStore
        Preprocessed cases.
    case_ids : sequence of str
        Cases that are not preprocessed with the plans of the predictor are left out with a warning.

    Returns
    -------
    list of TrueBoxLesion
    """
    # Lesions that touch must not be joined, because each box belongs to its own lesion.
    plans = predictor.plans.evolve(inference={"join_touching": False})
    rows: list[TrueBoxLesion] = []
    for case_id in case_ids:
        if not store.is_complete(case_id, preprocessing_hash(predictor.plans)):
            logger.warning("%s is not preprocessed with these plans, so its true boxes are not segmented", case_id)
            continue
        values, instances = store.read(case_id)
        assert instances is not None, "training cases have labels"
        targets = volume_targets(instances, class_of_id(store.shape_and_lesions(case_id)[1]))
        if len(targets.ids) == 0:
            continue
        boxes = Detections(targets.boxes.astype(np.float32), np.ones(len(targets.ids), np.float32), targets.classes)
        image = torch.from_numpy(values.astype(np.float32))
        predictions = [prediction._replace(score=1.0) for prediction in predictor.segment_boxes(image, boxes)]
        merged = merge_rois(boxes, predictions, instances.shape, plans)
        # The mask of a box is compared with the lesion of this box, not with the lesion that it overlaps most.
        mask_of_box = {lesion.candidate: lesion.id for lesion in merged.lesions}
        table = overlap_table(instances.astype(np.int64), merged.instances.astype(np.int64))
        pairs = zip(table.truth_index.tolist(), table.prediction_index.tolist(), table.dice.tolist(), strict=True)
        dice = {(int(table.truth.ids[t]), int(table.prediction.ids[p])): value for t, p, value in pairs}
        voxels = dict(zip(table.truth.ids.tolist(), table.truth.voxels.tolist(), strict=True))
        for box, number in enumerate(targets.ids.tolist()):
            value = dice.get((number, mask_of_box.get(box, -1)), 0.0)
            rows.append(TrueBoxLesion(case_id, number, voxels[number], value))
    return rows


def write_true_boxes(lesions: Sequence[TrueBoxLesion], file: Path) -> None:
    """Write the lesions as JSON."""
    write_json([asdict(lesion) for lesion in lesions], file)


def read_true_boxes(file: Path, remedy: str) -> list[TrueBoxLesion]:
    """Read the lesions that :func:`write_true_boxes` has written.

    Parameters
    ----------
    file : Path
    remedy : str
        Remedy that the error names.

    Raises
    ------
    DetSeg3DError
        If the file is damaged.
    """
    rows: Any = read_json(file)
    if not isinstance(rows, list) or not all(map(_is_lesion, rows)):
        raise DetSeg3DError(
            "the Dice of the true boxes cannot be read",
            file=file,
            expected=f"a list of entries with {', '.join(_TYPES)}",
            remedy=remedy,
        )
    return [TrueBoxLesion(row["case"], row["lesion"], row["voxels"], float(row["dice"])) for row in rows]


def _is_lesion(row: Any) -> bool:
    return isinstance(row, dict) and all(type(row.get(name)) in types for name, types in _TYPES.items())
