"""Hand-made candidates, and folders as the validation of a fold leaves them: no network is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from detseg3d.consolidation.cases import CandidateCase, PreparedCase
from detseg3d.consolidation.outcomes import CaseTruth
from detseg3d.core.geometry import Geometry
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.images import write_image
from detseg3d.data.labels import Lesions
from detseg3d.inference.candidates import Candidates, save_candidates
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.system.json_files import write_json

Box = tuple[int, int, int, int, int, int]
SHAPE = (24, 26, 28)
SIDE = 10
NAME = "Dataset001_Tiny"


class Blob(NamedTuple):
    """A candidate: its box, what both stages say of it, its class, and the box that its mask fills (else its own)."""

    box: Box
    detection: float
    roi: float
    of_class: int = 0
    mask: Box | None = None
    probability: float = 1.0

    @property
    def score(self) -> float:
        return float((np.float32(self.detection) * np.float64(self.roi)) ** 0.5)


def make_candidates(
    blobs: Sequence[Blob], shape: tuple[int, int, int] = SHAPE, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Candidates:
    """One RoI of 10³ voxels and samples each, whole voxels in the middle of the box; best first."""
    blobs = sorted(blobs, key=lambda blob: -blob.detection)
    predictions = []
    for index, blob in enumerate(blobs):
        box = np.asarray(blob.box)
        low = np.floor((box[:3] + box[3:]) / 2).astype(int) - SIDE // 2
        mask = np.zeros((SIDE,) * 3, np.float16)
        start, stop = ((np.asarray((blob.mask or blob.box)[a : a + 3]) - low).clip(0, SIDE) for a in (0, 3))
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = blob.probability
        roi = np.concatenate([low, low + SIDE]).astype(np.float32)
        predictions.append(RoiPrediction(roi, index, torch.from_numpy(mask), blob.roi))
    found = Detections(
        np.array([blob.box for blob in blobs], np.float32).reshape(-1, 6),
        np.array([blob.detection for blob in blobs], np.float32),
        np.array([blob.of_class for blob in blobs], np.int64),
    )
    return Candidates(found, predictions, shape, spacing)


def random_candidates(seed: int, count: int = 10, classes: int = 1, shape: tuple[int, int, int] = SHAPE) -> Candidates:
    """Soft spheres anywhere, also over the rim, some outlined by several RoIs."""
    random = np.random.default_rng(seed)
    boxes, predictions = [], []
    for index in range(count):
        middle, size = random.uniform(0, shape), random.uniform(2, 7, 3)
        boxes.append(np.concatenate([middle - size / 2, middle + size / 2]))
        for _ in range(random.integers(1, 3)):
            low, high = middle - size - random.uniform(0, 2, 3), middle + size + random.uniform(0, 2, 3)
            steps = [lo + (np.arange(8) + 0.5) * (hi - lo) / 8 for lo, hi in zip(low, high, strict=True)]
            far = sum(((grid - m) / (s / 2)) ** 2 for grid, m, s in zip(np.ix_(*steps), middle, size, strict=True))
            mask = torch.from_numpy((1 / (1 + np.exp(3 * (far - 1)))).astype(np.float16))
            roi = np.concatenate([low, high]).astype(np.float32)
            predictions.append(RoiPrediction(roi, index, mask, float(random.uniform(0.1, 1))))
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 6),
        np.sort(random.uniform(0.1, 1, count)).astype(np.float32)[::-1].copy(),
        random.integers(0, classes, count),
    )
    return Candidates(found, predictions, shape, (1.0, 1.0, 1.0))


def random_label(seed: int, candidates: Candidates, classes: int = 1) -> np.ndarray:
    """A label that some of the candidates are right about, and some blocks that none is about; values 1, 2, …."""
    random = np.random.default_rng([seed, 1])
    label = np.zeros(candidates.shape, np.uint8)
    blocks = [box for box in candidates.detections.boxes if random.random() < 0.6]
    blocks += [np.concatenate([low, low + 2]) for low in random.uniform(0, np.array(candidates.shape) - 2, (2, 3))]
    for block in blocks:
        low, high = np.maximum(np.round(block[:3]), 0).astype(int), np.round(block[3:]).astype(int)
        label[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = random.integers(1, classes + 1)
    return label


def filled(*boxes: Box, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """An instance map with lesion 1, 2, … in these boxes."""
    instances = np.zeros(shape, np.uint16)
    for number, (z0, y0, x0, z1, y1, x1) in enumerate(boxes, start=1):
        instances[z0:z1, y0:y1, x0:x1] = number
    return instances


def make_truth(
    *boxes: Box, classes: Sequence[int] | None = None, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> CaseTruth:
    of_class = dict(enumerate([0] * len(boxes) if classes is None else classes, start=1))
    return CaseTruth.of(Lesions(filled(*boxes), of_class), spacing)


def prepare_case(
    folder: Path, case_id: str, truth: CaseTruth, blobs: Sequence[Blob] | Candidates, fold: str = "0"
) -> PreparedCase:
    """A case for the search: its candidates are stored, its label is not read any more."""
    path = PredictionFolder(folder / f"fold_{fold}" / "validation").candidates(case_id)
    candidates = blobs if isinstance(blobs, Candidates) else make_candidates(blobs, spacing=truth.spacing)
    save_candidates(candidates, path)
    return PreparedCase(CandidateCase(case_id, fold, path, folder / "nowhere.mha"), truth)


# -- Folders -----------------------------------------------------------------------------------------------------------


def write_raw(root: Path, labels: Mapping[str, np.ndarray], classes: Sequence[str] = ("lesion",), **more: Any) -> Path:
    """A raw data set whose images are as bright as their labels."""
    folder = root / "raw" / NAME
    spacing = more.pop("spacing", (1.0, 1.0, 1.0))
    for case_id, label in labels.items():
        geometry = Geometry(label.shape, spacing, (3.5, -20.0, 0.25))
        write_image(label, geometry, folder / "labelsTr" / f"{case_id}.mha")
        write_image(100 * (label > 0).astype(np.uint8), geometry, folder / "imagesTr" / f"{case_id}_0000.mha")
    values = {"background": 0, **{name: value for value, name in enumerate(classes, start=1)}}
    description = {"channel_names": {"0": "FLAIR"}, "labels": values, "file_ending": ".mha"}
    write_json(description | {"numTraining": len(labels)} | more, folder / "dataset.json")
    return folder


def write_fold(root: Path, name: str, cases: Mapping[str, Sequence[Blob] | Candidates], plans: Plans) -> Path:
    """A fold after its validation, with a file in the place of the weights."""
    fold = root / "results" / NAME / f"fold_{name}"
    save_plans(plans, fold / "plans.json")
    weights = fold / "model_final.safetensors"
    weights.write_bytes(f"weights of {name}".encode())
    os.utime(weights, (1e9, 1e9))  # trained before it was validated
    for case_id, blobs in cases.items():
        candidates = blobs if isinstance(blobs, Candidates) else make_candidates(blobs)
        save_candidates(candidates, PredictionFolder(fold / "validation").candidates(case_id))
    write_json({"cases": [{"case_id": case} for case in cases], "problems": []}, fold / "validation" / "summary.json")
    rows = [{"case": case_id, "lesion": 1, "voxels": 27, "dice": 0.5} for case_id in cases]
    write_json(rows, fold / "validation" / "true_boxes.json")
    return fold
