"""Prompts for interactive segmentation: a point and boxes for each lesion, as JSON."""

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
    """Write a point and boxes for each lesion, in the form that LesionLocator and nnInteractive read.

    The file has an object for each lesion, under its number. For a case without lesions, the file is ``{}``, so that a
    loop over the lesions does nothing. ``point`` is the index ``[z, y, x]`` of the voxel of the
    lesion that is nearest to its centroid. ``box`` is ``[z0, z1, y0, y1, x0, x1]``, half-open. ``slice_box`` is the box
    of the lesion in the slice of the point. nnInteractive needs it, because its models take boxes of one slice only.
    Indices have the axis order of the file, as in an array of SimpleITK. ``class`` and ``score`` are further
    entries. LesionLocator ignores entries that it does not know.

    Parameters
    ----------
    table : LesionTable
    path : Path

    Raises
    ------
    DetSeg3DError
        If the instance map cannot be read or the file cannot be written.

    References
    ----------
    ``documentation/prompting.md`` of https://github.com/MIC-DKFZ/LesionLocator and ``readme.md`` of
    https://github.com/MIC-DKFZ/nnInteractive.
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
    in_slice = voxels[voxels[:, 0] == point[0]]
    slice_box = np.stack([in_slice.min(axis=0), in_slice.max(axis=0) + 1], axis=1).ravel()
    return {
        "point": [int(value) for value in point],
        "box": [int(edge) for edge in box],
        "slice_box": [int(edge) for edge in slice_box],
        "class": lesion.class_name,
        "score": lesion.score,
    }
