"""Measure a data set: grids, intensities, appearance and every lesion of its training cases."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from detseg3d.core.arrays import Array
from detseg3d.core.body import body_box, body_mask, channel_mask, plausible_range, tissue_mask
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.intensities import Scheme, channel_scheme, degeneration_of_scan, is_image_of_label
from detseg3d.data.cases import read_case, source_digest
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.fingerprint import (
    CaseFingerprint,
    ChannelIntensities,
    DatasetFacts,
    Fingerprint,
    FingerprintSummary,
    IntensityStatistics,
    LesionRecord,
    ScanFingerprint,
    percentiles,
    percentiles_per_axis,
)
from detseg3d.planning.measurements import ChannelSamples, MeasuredScan, Measurements
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["measure_case", "measure_dataset", "pool_intensities", "samples_per_case", "summarize"]

# Voxels drawn from each case, channel and region for the percentiles over the data set. Every case has the same weight.
_MAX_SAMPLES = 10_000
# Voxels drawn from all cases together, so that the memory is bounded. Of more than a thousand cases, each gives fewer.
_MAX_ALL_SAMPLES = 10_000_000
# Voxels that the percentiles of a region are computed from.
_PERCENTILE_VALUES = 1_000_000


def measure_case(
    images: Array,
    geometry: Geometry,
    instances: Array,
    classes: Array,
    seed: int = 0,
    schemes: Sequence[Scheme] = (),
    samples_per_region: int | None = None,
) -> tuple[ScanFingerprint, list[ChannelSamples]]:
    """Measure one case.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    geometry : Geometry
        Geometry of the images.
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map with ids ``1..N``.
    classes : ndarray of int, shape ``(N,)``
        Class of each id, from 0.
    seed : int, optional
        Seed for drawing the intensity samples.
    schemes : sequence of str, optional
        How each channel is normalised. By default all channels are normalised by z-score.
    samples_per_region : int, optional
        Maximum number of intensities that are drawn from each channel and region; by default 10 000.

    Returns
    -------
    scan : ScanFingerprint
    samples : list of ChannelSamples
        Samples for the percentiles over the data set, one entry for each channel.
    """
    random, number = np.random.default_rng(seed), samples_per_region or _MAX_SAMPLES
    mask = body_mask(images)
    box = body_box(images, mask)
    foreground = instances > 0
    intensity, samples, degenerate = [], [], []
    zscore: Scheme = "zscore"
    for channel, scheme in zip(images, schemes or [zscore] * len(images), strict=True):
        inside = channel_mask(channel, mask)
        tissue = tissue_mask(channel, inside)
        body, lesions = channel.ravel() if tissue is None else channel[tissue], channel[foreground]
        intensity.append(ChannelIntensities(body=_statistics(body), lesions=_statistics(lesions)))
        samples.append(ChannelSamples(_draw(body, random, number), _draw(lesions, random, number)))
        degenerate.append(degeneration_of_scan(channel, scheme, inside))
    depth, height, width = instances.shape
    scan = ScanFingerprint(
        spacing=geometry.spacing,
        shape=(depth, height, width),
        crop_box=box,
        cropped_shape=(box[3] - box[0], box[4] - box[1], box[5] - box[2]),
        intensity=tuple(intensity),
        degenerate=tuple(degenerate),
        image_is_label=any(is_image_of_label(channel, instances) for channel in images),
        appearance=measure_appearance(images, geometry, box),
        lesions=_measure_lesions(instances, classes, geometry.spacing, box),
    )
    return scan, samples


def samples_per_case(cases: int) -> int:
    """Return the number of intensities that are drawn from each channel and region of each of many cases.

    Examples
    --------
    >>> samples_per_case(200), samples_per_case(10_000)
    (10000, 1000)
    """
    return min(_MAX_SAMPLES, _MAX_ALL_SAMPLES // max(cases, 1))


def _draw(values: Array, random: np.random.Generator, number: int) -> Array:
    """Draw at most ``number`` values with replacement."""
    if len(values) <= number:
        return values.astype(np.float32)
    drawn: Array = values[random.integers(0, len(values), number)].astype(np.float32)
    return drawn


def _statistics(values: Array) -> IntensityStatistics | None:
    """Return the distribution of a region's intensities, or ``None`` if the region has no voxel."""
    if values.size == 0:
        return None
    # A million values, evenly spread, give percentiles as good as the hundred million of a whole CT.
    thinned = values[:: max(1, values.size // _PERCENTILE_VALUES)]
    distribution = percentiles(thinned)
    distribution[0.0], distribution[100.0] = float(values.min()), float(values.max())
    low, high = plausible_range(thinned)
    if values.min() < low or values.max() > high:
        # Otherwise a few outliers would set the scale of a CT.
        values = values[(values >= low) & (values <= high)]
    return IntensityStatistics(
        mean=float(values.mean(dtype=np.float64)), std=float(values.std(dtype=np.float64)), percentiles=distribution
    )


def _measure_lesions(
    instances: Array, classes: Array, spacing: tuple[float, float, float], box: tuple[int, ...]
) -> tuple[LesionRecord, ...]:
    """Measure every lesion of an instance map; ``box`` is the crop to the body."""
    ids, boxes = boxes_from_instances(instances)
    if len(ids) == 0:
        return ()
    unit = np.asarray(spacing)
    voxels = np.bincount(instances[instances > 0], minlength=int(ids.max()) + 1)[ids]
    volumes = voxels * unit.prod()
    extents = (boxes[:, 3:] - boxes[:, :3]) * unit
    centers = ((boxes[:, 3:] + boxes[:, :3]) / 2 - np.asarray(box[:3])) * unit
    nearest: list[float | None] = [None] * len(ids)
    if len(ids) > 1:
        nearest = [float(distance) for distance in cKDTree(centers).query(centers, k=2)[0][:, 1]]
    return tuple(
        LesionRecord(
            class_index=int(classes[lesion - 1]),
            voxels=int(voxels[row]),
            volume_mm3=float(volumes[row]),
            extents_mm=tuple(extents[row].tolist()),
            diameter_mm=float((6 * volumes[row] / np.pi) ** (1 / 3)),
            center_mm=tuple(centers[row].tolist()),
            nearest_mm=nearest[row],
        )
        for row, lesion in enumerate(ids)
    )


def measure_dataset(dataset: RawDataset, run: Run = Run(processes=2), folder: Path | None = None) -> Fingerprint:
    """Measure all training cases of a data set.

    Parameters
    ----------
    dataset : RawDataset
    run : Run, optional
    folder : Path, optional
        Folder in which the measurements of single cases are kept until the fingerprint is complete. A measurement that
        was interrupted continues from them. By default they are kept in memory.

    Returns
    -------
    Fingerprint
        It does not depend on the number of processes.

    Raises
    ------
    DetSeg3DError
        If a case cannot be measured. The error names all such cases.
    """
    number = samples_per_case(len(dataset.cases))
    stored = None if folder is None else Measurements.of_dataset(folder, DatasetFacts.of(dataset), number)
    task = partial(_measure, dataset=dataset, number=number, stored=stored)
    results = run_cases(task, dataset.cases, run, "fingerprint")
    failures = describe_failures(results, lambda case: str(case.case_id))
    if failures:
        raise DetSeg3DError(
            f"{sum(result.error is not None for result in results)} of {len(results)} case(s) cannot be measured:\n"
            + failures,
            file=dataset.folder,
            remedy="correct or remove these cases; --verify lists all problems of a data set",
        )
    cases, samples = {}, []
    for result in results:
        case, source = result.item, source_digest(result.item, dataset.instance_classes)
        measured = result.value if stored is None else stored.read(case.case_id, source)
        if measured is None:
            raise DetSeg3DError(
                "the files of this case changed while the data set was measured",
                file=case.images[0].path,
                remedy="run the same command again",
            )
        cases[case.case_id] = CaseFingerprint(
            source=source, patient=dataset.patient_of(case.case_id), **dict(measured.scan)
        )
        samples.append(measured.samples)
    return Fingerprint(
        dataset_name=dataset.name,
        dataset=DatasetFacts.of(dataset),
        cases=cases,
        summary=summarize(cases, samples, dataset.class_names),
    )


def _measure(case: RawCase, dataset: RawDataset, number: int, stored: Measurements | None) -> MeasuredScan | None:
    """Read and measure one case. The seed depends on the name of the case alone.

    With ``stored``, the measurement is written there and not returned. A case that is there already is not measured.
    """
    source = source_digest(case, dataset.instance_classes)
    if stored is not None and stored.read(case.case_id, source) is not None:
        return None
    scan, samples = measure_case(
        *read_case(case, dataset),
        schemes=[channel_scheme(name) for name in dataset.channel_names],
        seed=zlib.crc32(case.case_id.encode("utf-8", "surrogateescape")),
        samples_per_region=number,
    )
    measured = MeasuredScan(scan, samples)
    if stored is None:
        return measured
    stored.write(case.case_id, source, measured)
    return None


def summarize(
    cases: Mapping[str, ScanFingerprint], samples: Sequence[Sequence[ChannelSamples]], class_names: Sequence[str]
) -> FingerprintSummary:
    """Compute the distributions over all cases and lesions.

    Parameters
    ----------
    cases : mapping
        From the name of a case to its measurements.
    samples : sequence of sequences of ChannelSamples
        For each case, the samples of each channel.
    class_names : sequence of str

    Returns
    -------
    FingerprintSummary
    """
    scans = list(cases.values())
    lesions = [lesion for scan in scans for lesion in scan.lesions]
    extents = np.array([lesion.extents_mm for lesion in lesions]).reshape(-1, 3)
    return FingerprintSummary(
        cases=len(scans),
        cases_without_lesions=tuple(case_id for case_id, scan in cases.items() if not scan.lesions),
        lesions=len(lesions),
        lesions_per_class={
            name: sum(lesion.class_index == index for lesion in lesions) for index, name in enumerate(class_names)
        },
        lesions_per_case=percentiles([len(scan.lesions) for scan in scans]),
        spacing=percentiles_per_axis([scan.spacing for scan in scans]),
        shape=percentiles_per_axis([scan.shape for scan in scans]),
        cropped_shape=percentiles_per_axis([scan.cropped_shape for scan in scans]),
        volume_mm3=percentiles([lesion.volume_mm3 for lesion in lesions]),
        voxels=percentiles([lesion.voxels for lesion in lesions]),
        extents_mm=percentiles_per_axis(extents),
        longest_edge_mm=percentiles(extents.max(axis=1) if len(extents) else []),
        diameter_mm=percentiles([lesion.diameter_mm for lesion in lesions]),
        nearest_mm=percentiles([lesion.nearest_mm for lesion in lesions if lesion.nearest_mm is not None]),
        intensity=pool_intensities(samples),
    )


def pool_intensities(samples: Sequence[Sequence[ChannelSamples]]) -> tuple[ChannelIntensities, ...]:
    """Return the intensities of each channel over all cases.

    Parameters
    ----------
    samples : sequence of sequences of ChannelSamples
        For each case, the samples of each channel.

    Returns
    -------
    tuple of ChannelIntensities
        One entry for each channel.
    """
    return tuple(
        ChannelIntensities(
            body=_statistics(np.concatenate([drawn.body for drawn in channel])),
            lesions=_statistics(np.concatenate([drawn.lesions for drawn in channel])),
        )
        for channel in zip(*samples, strict=True)
    )
