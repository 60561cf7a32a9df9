"""Fingerprints and data sets of any kind, without files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.planning.fingerprint import CaseFingerprint, DatasetFacts, Fingerprint, LesionRecord
from detseg3d.planning.measurements import ChannelSamples
from detseg3d.planning.measuring import pool_intensities, summarize

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
) -> Fingerprint:
    cases = {}
    samples = []
    for case, shape, spacing, found in zip(dataset.cases, shapes, spacings, lesions, strict=True):
        values = np.asarray(intensities, float)
        drawn = [ChannelSamples(values, values if found else values[:0]) for _ in dataset.channel_names]
        samples.append(drawn)
        cases[case.case_id] = CaseFingerprint(
            source="none",
            patient=case.case_id,
            spacing=tuple(spacing),
            shape=tuple(shape),
            crop_box=(0, 0, 0, *shape),
            cropped_shape=tuple(shape),
            intensity=pool_intensities([drawn]),
            lesions=tuple(
                LesionRecord(
                    class_index=label,
                    voxels=10,
                    volume_mm3=float(np.prod(extents)),
                    extents_mm=tuple(extents),
                    diameter_mm=float(max(extents)),
                    center_mm=tuple(center),
                )
                for label, extents, center in found
            ),
        )
    return Fingerprint(
        dataset_name=dataset.name,
        dataset=DatasetFacts.of(dataset),
        cases=cases,
        summary=summarize(cases, samples, dataset.class_names),
    )


def cubes(edges: Sequence[float], distance: float = 30.0, label: int = 0) -> list[Lesion]:
    """Cubic lesions of these edges (mm) in a row, far from each other."""
    return [(label, (edge,) * 3, (15.0, 15.0, 15.0 + distance * index)) for index, edge in enumerate(edges)]
