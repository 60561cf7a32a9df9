"""What is measured of a data set before anything is planned: grids, intensities and every lesion."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from scipy.spatial import cKDTree

from detseg3d.core.arrays import Array
from detseg3d.core.body import body_box, body_mask, channel_mask, plausible_range, tissue_mask
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.intensities import Scheme, channel_scheme, degeneration_of_scan, is_image_of_label
from detseg3d.data.cases import read_case, source_digest
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.planning.appearance.scan import ScanAppearance, measure_appearance
from detseg3d.system.files import read_json
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["FINGERPRINT_VERSION", "load_appearances", "measure_case", "measure_dataset", "percentiles", "summarize"]


logger = logging.getLogger(__name__)


FINGERPRINT_VERSION = 3


_PERCENTILES = (0.5, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5)


# Voxels drawn per case, channel and region for the intensity percentiles over the set: each case weighs the same.
_SAMPLES = 10_000


_PERCENTILE_VALUES = 1_000_000


def measure_case(
    images: Array, geometry: Geometry, instances: Array, classes: Array, seed: int = 0, schemes: Sequence[Scheme] = ()
) -> tuple[dict[str, Any], list[dict[str, Array]]]:
    """Measure one case.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    geometry : Geometry
        Of the images.
    instances : ndarray of int, shape ``(Z, Y, X)``
    classes : ndarray of int, shape ``(N,)``
    seed : int, optional
        For drawing the intensity samples.
    schemes : sequence of str, optional
        How each channel is normalised; z-score by default.

    Returns
    -------
    record : dict
        JSON-ready: ``spacing``, ``shape``, ``crop_box``, ``cropped_shape``, ``intensity`` (per channel ``body`` and
        ``lesions``, the latter ``None`` without lesions), ``degenerate`` (per channel, why it says nothing
        after normalisation, in words, or ``None``), ``image_is_label``, ``appearance`` (a
        :class:`~detseg3d.planning.appearance.scan.ScanAppearance`) and ``lesions`` (a record each, see
        :func:`_measure_lesions`).
    samples : list of dict
        Per channel up to 10 000 intensities of ``body`` and of ``lesions``, for percentiles over the set.
    """
    random = np.random.default_rng(seed)
    spacing = geometry.spacing
    mask = body_mask(images)
    box = body_box(images, mask)
    foreground = instances > 0
    intensity, samples, degenerate = [], [], []
    zscore: Scheme = "zscore"
    for channel, scheme in zip(images, schemes or [zscore] * len(images), strict=True):
        inside = channel_mask(channel, mask)
        body = tissue_mask(channel, inside)
        regions = {"body": channel.ravel() if body is None else channel[body], "lesions": channel[foreground]}
        intensity.append({name: _statistics(values) for name, values in regions.items()})
        samples.append({name: _draw(values, random) for name, values in regions.items()})
        degenerate.append(degeneration_of_scan(channel, scheme, inside))
    record = {
        "spacing": [float(length) for length in spacing],
        "shape": list(instances.shape),
        "crop_box": list(box),
        "cropped_shape": [box[axis + 3] - box[axis] for axis in range(3)],
        "intensity": intensity,
        "degenerate": degenerate,
        "image_is_label": any(is_image_of_label(channel, instances) for channel in images),
        "appearance": measure_appearance(images, geometry, box).model_dump(mode="json"),
        "lesions": _measure_lesions(instances, classes, spacing, box),
    }
    return record, samples


def _draw(values: Array, random: np.random.Generator) -> Array:
    if len(values) <= _SAMPLES:
        return values.astype(np.float32)
    drawn: Array = values[random.integers(0, len(values), _SAMPLES)].astype(np.float32)
    return drawn


def _statistics(values: Array) -> dict[str, float] | None:
    if values.size == 0:
        return None
    # A million values, evenly spread, give percentiles as good as the hundred million of a whole CT.
    some = values[:: max(1, values.size // _PERCENTILE_VALUES)]
    spread = percentiles(some)
    limits = {"min": float(values.min()), "max": float(values.max())}
    low, high = plausible_range(some)
    if values.min() < low or values.max() > high:
        values = values[(values >= low) & (values <= high)]  # else a few outliers would set the scale of a CT
    result = {"mean": float(values.mean(dtype=np.float64)), "std": float(values.std(dtype=np.float64))}
    return {**result, **spread, **limits}


def percentiles(values: npt.ArrayLike) -> dict[str, float]:
    """Minimum, percentiles and maximum as a JSON-ready dict; empty for no values.

    Examples
    --------
    >>> percentiles([1, 2, 3])["p50"], percentiles([])
    (2.0, {})
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return {}
    found = np.percentile(array, (0, *_PERCENTILES, 100))
    names = ("min", *(f"p{percentile:g}" for percentile in _PERCENTILES), "max")
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def _measure_lesions(
    instances: Array, classes: Array, spacing: tuple[float, float, float], box: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Per lesion: class, voxels, volume, extents of the box, equivalent diameter, centre and nearest other centre.

    Lengths are in mm, axes ``(z, y, x)``. The centre is that of the box, counted from the crop's edge: it is what the
    detector has to find.
    """
    ids, boxes = boxes_from_instances(instances)
    if len(ids) == 0:
        return []
    unit = np.asarray(spacing)
    voxels = np.bincount(instances[instances > 0], minlength=int(ids.max()) + 1)[ids]
    volumes = voxels * unit.prod()
    extents = (boxes[:, 3:] - boxes[:, :3]) * unit
    centers = ((boxes[:, 3:] + boxes[:, :3]) / 2 - np.asarray(box[:3])) * unit
    nearest: list[float | None] = [None] * len(ids)
    if len(ids) > 1:
        nearest = [float(d) for d in cKDTree(centers).query(centers, k=2)[0][:, 1]]
    return [
        {
            "class": int(classes[lesion - 1]),
            "voxels": int(voxels[row]),
            "volume_mm3": float(volumes[row]),
            "extents_mm": extents[row].tolist(),
            "diameter_mm": float((6 * volumes[row] / np.pi) ** (1 / 3)),
            "center_mm": centers[row].tolist(),
            "nearest_mm": nearest[row],
        }
        for row, lesion in enumerate(ids)
    ]


def measure_dataset(dataset: RawDataset, run: Run = Run(processes=2)) -> dict[str, Any]:
    """Measure all training cases.

    Returns
    -------
    dict
        The content of ``dataset_fingerprint.json``: ``version``, ``dataset_name``, ``cases`` (a record each, see
        :func:`measure_case`, with the patient) and ``summary`` (see :func:`summarize`). The same for any number of
        processes.

    Raises
    ------
    DetSeg3DError
        If a case cannot be measured; all such cases are named.
    """
    results = run_cases(partial(_measure, dataset=dataset), dataset.cases, run, "fingerprint")
    failures = describe_failures(results, lambda case: str(case.case_id))
    if failures:
        raise DetSeg3DError(
            f"{sum(result.error is not None for result in results)} of {len(results)} case(s) cannot be measured:\n"
            + failures,
            file=dataset.folder,
            remedy="mend or remove these cases; --verify lists everything that is wrong with a data set",
        )
    cases, samples = {}, []
    for result in results:
        assert result.value is not None
        record, drawn = result.value
        case = result.item
        cases[case.case_id] = {
            "source": source_digest(case, dataset.instance_classes),
            "patient": dataset.patient_of(case.case_id),
            **record,
        }
        samples.append(drawn)
    return {
        "version": FINGERPRINT_VERSION,
        "dataset_name": dataset.name,
        "cases": cases,
        "summary": summarize(cases, samples, dataset.channel_names, dataset.class_names),
    }


def load_appearances(file: str | Path, cases: Sequence[str]) -> list[ScanAppearance]:
    """What these cases look like, from the ``dataset_fingerprint.json`` of their data set.

    Raises
    ------
    DetSeg3DError
        If the file is missing, is one of another version, or does not hold one of the cases.
    """
    fingerprint = read_json(file)
    measured = fingerprint.get("cases") if isinstance(fingerprint, dict) else None
    remedy = "run detseg3d_plan_and_preprocess for this data set"
    if not isinstance(measured, dict) or fingerprint.get("version") != FINGERPRINT_VERSION:
        raise DetSeg3DError(
            "the file is not a fingerprint of this version", file=file, expected=str(FINGERPRINT_VERSION), remedy=remedy
        )
    missing = [case for case in cases if case not in measured]
    if missing:
        raise DetSeg3DError("the fingerprint does not hold these cases", file=file, value=missing[:5], remedy=remedy)
    try:
        return [ScanAppearance.model_validate(measured[case]["appearance"]) for case in cases]
    except (ValidationError, KeyError, TypeError) as error:
        raise DetSeg3DError(
            "the fingerprint does not say what the scans look like", file=file, remedy=f"{remedy}, with --clean"
        ) from error


def _measure(case: RawCase, dataset: RawDataset) -> tuple[dict[str, Any], list[dict[str, Array]]]:
    schemes = [channel_scheme(name) for name in dataset.channel_names]
    return measure_case(
        *read_case(case, dataset), schemes=schemes, seed=zlib.crc32(case.case_id.encode("utf-8", "surrogateescape"))
    )


def summarize(
    cases: dict[str, dict[str, Any]],
    samples: list[list[dict[str, Array]]],
    channel_names: tuple[str, ...],
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """Percentiles over the set of everything measured per case and per lesion."""
    lesions = [lesion for record in cases.values() for lesion in record["lesions"]]
    counts = [len(record["lesions"]) for record in cases.values()]
    extents = np.array([lesion["extents_mm"] for lesion in lesions]).reshape(-1, 3)
    intensity = {}
    for index, name in enumerate(channel_names):
        pooled = {region: [drawn[index][region] for drawn in samples] for region in ("body", "lesions")}
        intensity[f"{index}_{name}"] = {
            region: _statistics(np.concatenate(values) if values else np.zeros(0)) for region, values in pooled.items()
        }
    return {
        "cases": len(cases),
        "cases_without_lesions": [case_id for case_id, record in cases.items() if not record["lesions"]],
        "lesions": len(lesions),
        "lesions_per_class": {
            name: sum(lesion["class"] == index for lesion in lesions) for index, name in enumerate(class_names)
        },
        "lesions_per_case": percentiles(counts),
        "spacing": _per_axis([record["spacing"] for record in cases.values()]),
        "shape": _per_axis([record["shape"] for record in cases.values()]),
        "cropped_shape": _per_axis([record["cropped_shape"] for record in cases.values()]),
        "volume_mm3": percentiles([lesion["volume_mm3"] for lesion in lesions]),
        "voxels": percentiles([lesion["voxels"] for lesion in lesions]),
        "extents_mm": _per_axis(extents),
        "longest_edge_mm": percentiles(extents.max(axis=1, initial=0) if len(extents) else []),
        "diameter_mm": percentiles([lesion["diameter_mm"] for lesion in lesions]),
        "nearest_mm": percentiles([d for lesion in lesions if (d := lesion["nearest_mm"]) is not None]),
        "intensity": intensity,
    }


def _per_axis(values: npt.ArrayLike) -> dict[str, dict[str, float]]:
    array = np.asarray(values, dtype=np.float64).reshape(-1, 3)
    return {axis: percentiles(array[:, index]) for index, axis in enumerate("zyx")}
