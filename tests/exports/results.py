"""Folders of results, made without a network."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.measures.measure import measure_lesions

COSINE, SINE = math.cos(math.pi / 6), math.sin(math.pi / 6)

GEOMETRIES = {
    "axial": Geometry((8, 9, 10), (3.0, 1.0, 0.5), (5.0, -7.0, 9.0)),
    "oblique": Geometry(
        (8, 9, 10), (3.0, 1.0, 0.5), (5.0, -7.0, 9.0), (1.0, 0.0, 0.0, 0.0, COSINE, -SINE, 0.0, SINE, COSINE)
    ),
    "feet first": Geometry((8, 9, 10), (3.0, 1.0, 0.5), (5.0, -7.0, 9.0), (1, 0, 0, 0, 1, 0, 0, 0, -1)).canonical(),
    "flipped": Geometry((8, 9, 10), (3.0, 1.0, 0.5), (5.0, -7.0, 9.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1)).canonical(),
    "sagittal": Geometry((8, 9, 10), (3.0, 1.0, 0.5), (5.0, -7.0, 9.0), (0, 0, 1, 1, 0, 0, 0, -1, 0)).canonical(),
}


def two_lesions(shape: tuple[int, int, int]) -> AnyIntArray:
    """Return an instance map in canonical order with a curved lesion 1 and a cuboid 2."""
    instances = np.zeros(shape, np.uint16)
    instances[1:3, 1:6, 1], instances[1:3, 1, 1:5], instances[1:3, 5, 1:5] = 1, 1, 1
    instances[4:6, 6:8, 5:7] = 2
    return instances


def write_results(
    folder: Path, geometry: Geometry, instances: AnyIntArray, case_id: str = "a", codes: Any = None
) -> dict[str, Any]:
    """Write instance map and record of a case, and return the record. ``instances`` is in canonical order."""
    numbers = [int(number) for number in np.unique(instances) if number]
    order, lesions = geometry.stored_order, []
    for number, measures in zip(numbers, measure_lesions(instances, numbers, geometry), strict=True):
        voxels = np.argwhere(instances == number)
        box = order.box_to_stored((*voxels.min(axis=0).tolist(), *(voxels.max(axis=0) + 1).tolist()))
        entry = {"id": number, "class": f"kind {number}", "label": number, "score": 1 - number / 10, "box": list(box)}
        lesions.append({**entry, **measures.to_stored(order).to_json(), "codes": codes})
    record = {"case_id": case_id, "lesions": lesions[::-1]}
    (folder / "rois").mkdir(parents=True, exist_ok=True)
    (folder / "rois" / f"{case_id}.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "instances").mkdir(exist_ok=True)
    write_image(instances, geometry, folder / "instances" / f"{case_id}.nii.gz")
    return record
