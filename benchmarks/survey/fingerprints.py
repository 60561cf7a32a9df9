"""Draw fingerprints from the facts about a kind, as if a data set of this kind had been measured."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from benchmarks.survey.model import Kind, LesionClass, Placement, Scans
from detseg3d.core.arrays import AnyFloatArray
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.planning.fingerprint import (
    CaseFingerprint,
    ChannelIntensities,
    DatasetFacts,
    Fingerprint,
    LesionRecord,
    ScanFingerprint,
)
from detseg3d.planning.measurements import ChannelSamples
from detseg3d.planning.measuring import pool_intensities, summarize

__all__ = ["describe", "draw_fingerprint"]


_TRIES = 20  # Places that are tried for a lesion before the lesion is left out.
_GAP = 1.05  # Distance of two ellipsoids that do not touch, in units of their mean radii.
_SAMPLES = 2000


@dataclass(frozen=True)
class _Drawn:
    """Lesions of one class in a scan: class index, centres from the corner of the body, edges; ``(n, 3)`` in mm."""

    label: int
    centers: AnyFloatArray
    extents: AnyFloatArray


def describe(kind: Kind) -> RawDataset:
    """Return the raw data set of a kind, as its dataset.json would describe it. Its files do not exist."""
    labels = {"background": 0, **{lesion.name: index + 1 for index, lesion in enumerate(kind.classes)}}
    channels = tuple(f"{modality.name}" if index == 0 else f"{modality.name}{index}" for index, modality in
                     enumerate(kind.channels))  # fmt: skip
    cases = tuple(RawCase(f"case_{index:04d}", ()) for index in range(kind.cases))
    name = f"Dataset999_{kind.name}"
    return RawDataset(Path(name), name, channels, labels, ".nii.gz", cases, kind.instances)


def draw_fingerprint(kind: Kind, unit: float = 1.0) -> Fingerprint:
    """Draw the fingerprint of a data set of this kind.

    Parameters
    ----------
    kind : Kind
    unit : float, optional
        Factor for all lengths: the same data set, written in another unit of length.

    Returns
    -------
    Fingerprint
        The same for each call.
    """
    dataset = describe(kind)
    scans = {
        case.case_id: _draw_scan(kind, geometry, np.random.default_rng([zlib.crc32(kind.name.encode()), index]), unit)
        for index, (case, geometry) in enumerate(zip(dataset.cases, _geometries(kind), strict=True))
    }
    samples = [_intensity_samples(kind, any(scan.lesions for scan in scans.values()))]
    intensity = pool_intensities(samples)
    healthy = tuple(ChannelIntensities(body=channel.body, lesions=None) for channel in intensity)
    cases = {
        name: CaseFingerprint(
            source="none",
            patient=dataset.patient_of(name),
            **{**dict(scan), "intensity": intensity if scan.lesions else healthy},
        )
        for name, scan in scans.items()
    }
    return Fingerprint(
        dataset_name=dataset.name,
        dataset=DatasetFacts.of(dataset),
        cases=cases,
        summary=summarize(cases, samples, dataset.class_names),
    )


def _geometries(kind: Kind) -> list[Scans]:
    """Return the geometry of each case."""
    if kind.outlier:
        rest = kind.scans[1:]
        return [kind.scans[0], *(rest[index % len(rest)] for index in range(kind.cases - 1))]
    weights = np.cumsum([scans.weight for scans in kind.scans])
    places = (np.arange(kind.cases) + 0.5) / kind.cases * weights[-1]
    return [kind.scans[int(index)] for index in np.searchsorted(weights, places)]


def _draw_scan(kind: Kind, scans: Scans, random: np.random.Generator, unit: float) -> ScanFingerprint:
    deviation = random.standard_normal(3) * scans.spread
    in_plane = float(np.exp(deviation[1] / 2))
    spacing = np.array(scans.spacing) * (np.exp(deviation[0]), in_plane, in_plane)
    slices = max(1, round(scans.shape[0] * float(np.exp(deviation[2] - deviation[0]))))
    shape = np.array((slices, *scans.shape[1:]))
    cropped = np.maximum(1, np.rint(shape * scans.body)).astype(int)
    start = (shape - cropped) // 2
    drawn = _draw_lesions(kind, cropped * spacing, spacing, random)
    (z, y, x), (size_z, size_y, size_x) = start.tolist(), cropped.tolist()
    return ScanFingerprint(
        spacing=tuple((spacing * unit).tolist()),
        shape=tuple(shape.tolist()),
        crop_box=(z, y, x, z + size_z, y + size_y, x + size_x),
        cropped_shape=(size_z, size_y, size_x),
        lesions=_with_nearest([lesion for group in drawn for lesion in _lesion_records(group, spacing, cropped, unit)]),
    )


def _draw_lesions(kind: Kind, size: AnyFloatArray, spacing: AnyFloatArray, random: np.random.Generator) -> list[_Drawn]:
    """Draw the lesions of all classes in a body of ``size`` mm. Lesions without a free place are left out."""
    drawn: list[_Drawn] = []
    taken = (np.zeros((0, 3)), np.zeros((0, 3)))
    for label, lesion in enumerate(kind.classes):
        if lesion.placement is Placement.NESTED:
            host = next(entry for entry in drawn if kind.classes[entry.label].name == lesion.host)
            drawn.append(_nested(label, lesion, host, random))
            continue
        count = lesion.counts.draw(random)
        extents = lesion.sizes.draw(random, count)[:, None] * np.array(lesion.aspect)
        extents = np.minimum(np.sort(extents.reshape(-1, 3), axis=0)[::-1], size)
        if lesion.placement in (Placement.SCATTERED, Placement.CLUSTERED):
            centers, kept = _throw(lesion, extents, taken, (size, spacing), random)
        else:
            centers, kept = _ordered(lesion, label, extents, size, random)
        drawn.append(_Drawn(label, centers[kept], extents[kept]))
        taken = (np.concatenate([taken[0], centers[kept]]), np.concatenate([taken[1], extents[kept]]))
    return drawn


def _nested(label: int, lesion: LesionClass, host: _Drawn, random: np.random.Generator) -> _Drawn:
    """Draw lesions inside lesions of another class. Their sizes are fractions of the enclosing lesion."""
    centers, extents = [np.zeros((0, 3))], [np.zeros((0, 3))]
    for center, extent in zip(host.centers, host.extents, strict=True):
        count = lesion.counts.draw(random)
        shares = lesion.sizes.draw(random, count)[:, None]
        extents.append(shares * extent)
        centers.append(center + (random.random((count, 3)) - 0.5) * (1 - shares) * extent * 0.6)
    return _Drawn(label, np.concatenate(centers), np.concatenate(extents))


def _throw(
    lesion: LesionClass,
    extents: AnyFloatArray,
    taken: tuple[AnyFloatArray, AnyFloatArray],
    body: tuple[AnyFloatArray, AnyFloatArray],
    random: np.random.Generator,
) -> tuple[AnyFloatArray, npt.NDArray[np.bool_]]:
    """Draw places where no lesion touches another, largest lesion first. Return them and which lesions have a place."""
    size, spacing = body
    count, known = len(extents), len(taken[0])
    centers = np.concatenate([taken[0], np.zeros((count, 3))])
    edges = np.concatenate([taken[1], extents])
    present = np.arange(known + count) < known
    region = size * lesion.region
    hearts = size / 2 + (random.random((lesion.clusters, 3)) - 0.5) * region * 0.8
    for row in range(count):
        if lesion.placement is Placement.CLUSTERED:
            places = (
                hearts[random.integers(0, lesion.clusters, _TRIES)]
                + random.standard_normal((_TRIES, 3)) * region.mean() * 0.08
            )
        else:
            places = size / 2 + (random.random((_TRIES, 3)) - 0.5) * region
        places = np.clip(places, extents[row] / 2, size - extents[row] / 2)
        others = np.flatnonzero(present)
        reach = (edges[others] + extents[row]) / 2 + spacing
        apart = np.square((places[:, None] - centers[others]) / reach).sum(axis=2).min(axis=1, initial=np.inf)
        free = np.flatnonzero(apart >= _GAP)
        if len(free):
            centers[known + row], present[known + row] = places[free[0]], True
    return centers[known:], present[known:]


def _ordered(
    lesion: LesionClass, label: int, extents: AnyFloatArray, size: AnyFloatArray, random: np.random.Generator
) -> tuple[AnyFloatArray, npt.NDArray[np.bool_]]:
    """Return places on a lattice, in columns or in rows, and which lesions have a place."""
    chosen = np.arange(len(extents))
    every = extents
    if lesion.placement is Placement.PACKED and len(extents):
        room = max(1, int((size * lesion.region).prod() / extents.prod(axis=1).mean()))
        chosen = np.unique(np.linspace(0, len(extents) - 1, min(room, len(extents))).astype(int))
        extents = extents[chosen]
    count = len(extents)
    index = np.arange(count)
    if lesion.placement is Placement.COLUMN:
        drift = np.cumsum(random.standard_normal((count, 3)) * (0, 1, 0.5) * 0.05 * lesion.step, axis=0)
        along = extents[0, 0] / 2 + index * lesion.step if count else index
        centers = np.column_stack([along, np.full(count, size[1] / 2), np.full(count, size[2] / 2)]) + drift
    elif lesion.placement is Placement.TWO_COLUMNS:
        along = (extents[0, 0] / 2 if count else 0) + index // 2 * lesion.step
        aside = np.where(index % 2 == 0, -0.5, 0.5) * extents[:, 2]
        centers = np.column_stack([along, np.full(count, size[1] / 2), size[2] / 2 + aside])
    elif lesion.placement is Placement.ARCH:
        place = index + label
        angle = (place % 16 - 7.5) * np.pi / 18
        radius = lesion.step * 18 / np.pi
        rows = np.where(place % 32 < 16, -0.55, 0.55) * (extents[:, 0] if count else 0)
        centers = np.array(size) / 2 + np.column_stack([rows, -radius * (np.cos(angle) - 0.5), radius * np.sin(angle)])
    else:
        region = size * lesion.region
        step = (region.prod() / max(count, 1)) ** (1 / 3)
        cells = np.maximum(1, np.ceil(region / step)).astype(int)
        while cells.prod() < count:
            step *= 0.9
            cells = np.maximum(1, np.ceil(region / step)).astype(int)
        sites = random.permutation(int(cells.prod()))[:count]
        lattice = np.column_stack(np.unravel_index(sites, cells)) + 0.5
        lattice = lattice + (random.random((len(sites), 3)) - 0.5) * 0.3
        centers = (size - region) / 2 + lattice * region / cells
    inside = np.all((centers >= extents[: len(centers)] / 2 - 1e-9) & (centers <= size - extents / 2 + 1e-9), axis=1)
    if lesion.placement is Placement.PACKED:
        places, kept = np.zeros_like(every), np.zeros(len(every), bool)
        places[chosen], kept[chosen] = np.clip(centers, extents / 2, size - extents / 2), True
        return places, kept
    return centers, inside


def _lesion_records(
    drawn: _Drawn, spacing: AnyFloatArray, shape: npt.NDArray[np.integer[Any]], unit: float
) -> list[LesionRecord]:
    """Return the lesions on the voxels of the scan, with the volumes of ellipsoids."""
    voxels = np.clip(np.rint(drawn.extents / spacing), 1, shape)
    start = np.clip(np.rint((drawn.centers - drawn.extents / 2) / spacing), 0, shape - voxels)
    counts = np.maximum(1, np.rint(np.pi / 6 * voxels.prod(axis=1)))
    extents, centers = voxels * spacing * unit, (start + voxels / 2) * spacing * unit
    volumes = counts * spacing.prod() * unit**3
    return [
        LesionRecord(
            class_index=drawn.label,
            voxels=int(counts[row]),
            volume_mm3=float(volumes[row]),
            extents_mm=tuple(extents[row].tolist()),
            diameter_mm=float((6 * volumes[row] / np.pi) ** (1 / 3)),
            center_mm=tuple(centers[row].tolist()),
        )
        for row in range(len(extents))
    ]


def _with_nearest(lesions: Sequence[LesionRecord]) -> tuple[LesionRecord, ...]:
    """Return the lesions with the distance to the nearest other lesion."""
    if len(lesions) < 2:
        return tuple(lesions)
    centers = np.array([lesion.center_mm for lesion in lesions])
    distances = cKDTree(centers).query(centers, k=2)[0][:, 1].tolist()
    return tuple(
        lesion.model_copy(update={"nearest_mm": distance}) for lesion, distance in zip(lesions, distances, strict=True)
    )


def _intensity_samples(kind: Kind, lesions: bool) -> list[ChannelSamples]:
    random = np.random.default_rng(zlib.crc32(kind.name.encode()))
    samples = []
    for modality in kind.channels:
        mean, deviation, lesion_mean, lesion_deviation = modality.value
        body = mean + deviation * random.standard_normal(_SAMPLES)
        inside = lesion_mean + lesion_deviation * random.standard_normal(_SAMPLES if lesions else 0)
        samples.append(ChannelSamples(body.astype(np.float32), inside.astype(np.float32)))
    return samples
