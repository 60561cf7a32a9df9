"""Prompts for interactive segmentation: a point and a box for each lesion, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from detseg3d.core.arrays import AnyIntArray
from detseg3d.data.images import read_image
from detseg3d.exports.lesion_table import ExportedLesion, LesionTable
from detseg3d.system.json_files import write_json

__all__ = ["write_prompts"]


def write_prompts(table: LesionTable, path: Path) -> None:
    """Write a point and a box for each lesion, in the form that LesionLocator reads.

    The file has an object for each lesion, under its number. ``point`` is the index ``[z, y, x]`` of the voxel of the
    lesion that is nearest to its centroid. ``box`` is ``[z0, z1, y0, y1, x0, x1]``, half-open. Both are in the order of
    the file, as in an array of SimpleITK. ``class`` and ``score`` are further entries, which LesionLocator ignores.

    Parameters
    ----------
    table : LesionTable
    path : Path

    Raises
    ------
    DetSeg3DError
        If the instance map cannot be read or the file cannot be written.
    """
    array, geometry = read_image(table.instance_source)
    stored = geometry.stored_order.to_stored(array).astype(np.int64)
    spacing = geometry.as_stored().spacing
    places = ndimage.find_objects(stored)
    prompts = {
        str(lesion.number): _prompt(lesion, stored, places[lesion.number - 1], spacing) for lesion in table.lesions
    }
    write_json(prompts, path)


def _prompt(
    lesion: ExportedLesion, instances: AnyIntArray, place: tuple[slice, ...], spacing: tuple[float, ...]
) -> dict[str, Any]:
    # The centroid of a curved lesion may lie outside the lesion, and a point there would be a wrong prompt.
    voxels = np.argwhere(instances[place] == lesion.number) + [part.start for part in place]
    distances = np.linalg.norm((voxels + 0.5 - lesion.measures.centroid) * spacing, axis=1)
    point = voxels[int(distances.argmin())]
    box = [edge for part in place for edge in (part.start, part.stop)]
    return {
        "point": [int(value) for value in point],
        "box": [int(edge) for edge in box],
        "class": lesion.class_name,
        "score": lesion.score,
    }
