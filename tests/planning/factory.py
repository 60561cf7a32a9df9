"""Fingerprints and data sets of any kind, without files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION, summarize

Lesion = tuple[int, Sequence[float], Sequence[float]]  # class, extents mm, centre mm


def make_dataset(
    case_ids: Sequence[str] = ("a", "b"), channels: Sequence[str] = ("FLAIR",), classes: Sequence[str] = ("lesion",)
) -> RawDataset:
    labels = {"background": 0, **{name: index + 1 for index, name in enumerate(classes)}}
    cases = tuple(
        RawCase.of_files(case_id, [Path(f"{case_id}_{c:04d}.nii.gz") for c in range(len(channels))])
        for case_id in case_ids
    )
    return RawDataset(Path("raw/Dataset001_Test"), "Dataset001_Test", tuple(channels), labels, ".nii.gz", cases)


def make_fingerprint(
    dataset: RawDataset,
    shapes: Sequence[Sequence[int]],
    spacings: Sequence[Sequence[float]],
    lesions: Sequence[Sequence[Lesion]],
    intensities: Sequence[float] = (0.0, 50.0, 100.0),
) -> dict[str, Any]:
    cases = {}
    samples = []
    for case, shape, spacing, found in zip(dataset.cases, shapes, spacings, lesions, strict=True):
        cases[case.case_id] = {
            "spacing": list(spacing),
            "shape": list(shape),
            "crop_box": [0, 0, 0, *shape],
            "cropped_shape": list(shape),
            "intensity": [],
            "lesions": [
                {
                    "class": label,
                    "voxels": 10,
                    "volume_mm3": float(np.prod(extents)),
                    "extents_mm": list(extents),
                    "diameter_mm": float(max(extents)),
                    "center_mm": list(center),
                    "nearest_mm": None,
                }
                for label, extents, center in found
            ],
        }
        values = np.asarray(intensities, float)
        samples.append([{"body": values, "lesions": values if found else values[:0]} for _ in dataset.channel_names])
    return {
        "version": FINGERPRINT_VERSION,
        "dataset_name": dataset.name,
        "cases": cases,
        "summary": summarize(cases, samples, dataset.channel_names, dataset.class_names),
    }


def cubes(edges: Sequence[float], distance: float = 30.0, label: int = 0) -> list[Lesion]:
    """Cubic lesions of these edges (mm) in a row, far from each other."""
    return [(label, (edge,) * 3, (15.0, 15.0, 15.0 + distance * index)) for index, edge in enumerate(edges)]
