"""Read segmentations of 3D Slicer (.seg.nrrd) as labels.

3D Slicer stores a segmentation as a label map, and the name, label value and layer of each segment in the header.
Overlapping segments are stored in several layers, along a fourth axis. The volume is usually cropped to the segments.

- **Values.** The label values in a file number the segments of this file, so they may differ between files. If
  ``dataset.json`` names the labels and every segment has the name of a label, each segment gets the value of its name.
  If no segment has the name of a label, the label values of the file are used. If only some segments have the name of a
  label, the file is refused.
- **Layers** become one label. A voxel in two segments with different values is an error, because a label has one value
  per voxel.
- **Cropped** volumes are put on the grid of the image if their voxels coincide with voxels of the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.nrrd import NrrdHeader, read_nrrd_header, read_nrrd_layers

__all__ = ["Segment", "place_on_grid", "read_segmentation", "read_segments", "segments_of"]


_KEY = re.compile(r"Segment([0-9]{1,5})_(Name|LabelValue|Layer|ID)")
_BACKGROUND = "background"
# Largest distance between a voxel of a cropped segmentation and a voxel of the image, in voxels.
_ON_VOXELS = 0.01


@dataclass(frozen=True)
class Segment:
    """One segment of a segmentation.

    Attributes
    ----------
    name : str
    value : int
        Value of the segment in the volume of its layer.
    layer : int
        Number of the layer, from 0.
    """

    name: str
    value: int
    layer: int


def read_segments(path: Path) -> tuple[Segment, ...]:
    """Read the segments of a .nrrd file, in their order; empty if the file is not a segmentation of 3D Slicer.

    Raises
    ------
    DetSeg3DError
        If the header cannot be read, or states an impossible segment.
    """
    return segments_of(read_nrrd_header(path))


def segments_of(header: NrrdHeader) -> tuple[Segment, ...]:
    """Return the segments that a header states; see :func:`read_segments`."""
    stated: dict[int, dict[str, str]] = {}
    for key, value in header.pairs.items():
        match = _KEY.fullmatch(key)
        if match is not None:
            stated.setdefault(int(match[1]), {})[match[2]] = value.strip()
    segments = []
    # Before version 4.11 of 3D Slicer each segment had a separate volume of zeros and ones.
    own_layers = not any("Layer" in entry or "LabelValue" in entry for entry in stated.values())
    for place, number in enumerate(sorted(stated)):
        entry = stated[number]
        value, layer = entry.get("LabelValue", "1"), entry.get("Layer", str(place if own_layers else 0))
        if not re.fullmatch("[0-9]{1,9}", value) or int(value) == 0 or not re.fullmatch("[0-9]{1,5}", layer):
            raise DetSeg3DError(
                f"the segment {number} has an impossible value or layer",
                file=header.path,
                value=entry,
                expected="a label value of 1 or more, and a layer of 0 or more",
                remedy="save the segmentation again in 3D Slicer",
            )
        segments.append(Segment(entry.get("Name", entry.get("ID", f"segment {number}")), int(value), int(layer)))
    return tuple(segments)


def read_segmentation(header: NrrdHeader, names: Mapping[str, int] | None = None) -> tuple[Array, Geometry]:
    """Read a segmentation of 3D Slicer as one label.

    Parameters
    ----------
    header : NrrdHeader
        Header of a file with segments, see :func:`segments_of`.
    names : mapping of str to int, optional
        Value of each label by its name.

    Returns
    -------
    label : ndarray of uint8, uint16 or uint32, shape ``(Z, Y, X)``
        On the grid of the file, which may be cropped; see :func:`place_on_grid`.
    geometry : Geometry

    Raises
    ------
    DetSeg3DError
        If the voxels cannot be read, only some segments have the name of a label, two segments have the same value or
        overlap, or voxels do not belong to a segment.
    """
    segments = segments_of(header)
    values = _values(header.path, segments, names)
    layers, geometry = read_nrrd_layers(header)
    _check_layers(header.path, segments, layers)
    largest = max(values)
    label = np.zeros(geometry.shape, np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.uint32)
    for number, layer in enumerate(layers):
        in_layer = [
            (segment, value) for segment, value in zip(segments, values, strict=True) if segment.layer == number
        ]
        unknown = sorted(set(np.unique(layer).tolist()) - {0, *(segment.value for segment, _ in in_layer)})
        if unknown:
            raise DetSeg3DError(
                "the segmentation has voxels that do not belong to a segment",
                file=header.path,
                value=unknown[:10],
                expected=f"one of {[segment.value for segment, _ in in_layer]}",
                remedy="save the segmentation again in 3D Slicer",
            )
        for segment, value in in_layer:
            mask = layer == segment.value
            _check_overlap(header.path, segment, value, label[mask])
            label[mask] = value
    return label, geometry


def _values(path: Path, segments: Sequence[Segment], names: Mapping[str, int] | None) -> list[int]:
    """Return the value of each segment in the label."""
    by_name = {name.strip().casefold(): value for name, value in (names or {}).items() if name != _BACKGROUND}
    keys = [segment.name.strip().casefold() for segment in segments]
    fitting = [key in by_name for key in keys]
    if all(fitting):
        return [by_name[key] for key in keys]
    if any(fitting):
        raise DetSeg3DError(
            "only some segments have the name of a label",
            file=path,
            value=[segment.name for segment in segments][:20],
            expected=f"names among {list(names or ())}",
            remedy="rename or remove the segments in 3D Slicer, or name all of them in dataset.json",
        )
    values = [segment.value for segment in segments]
    if len(set(values)) < len(values):
        raise DetSeg3DError(
            "two segments in different layers have the same label value, and no label has their name",
            file=path,
            value=[f"{segment.name}: {segment.value}" for segment in segments][:20],
            remedy="name the segments like the labels of dataset.json (--labels of detseg3d_convert), or export the "
            "segmentation as a label map in 3D Slicer",
        )
    return values


def _check_layers(path: Path, segments: Sequence[Segment], layers: Array) -> None:
    if layers.dtype.kind not in "iu":
        raise DetSeg3DError("the voxels of the segmentation are not integers", file=path, value=str(layers.dtype))
    missing = sorted({segment.layer for segment in segments if segment.layer >= len(layers)})
    if missing:
        raise DetSeg3DError(
            "the segmentation names layers that do not exist",
            file=path,
            value=missing[:10],
            expected=f"layers from 0 to {len(layers) - 1}",
            remedy="save the segmentation again in 3D Slicer",
        )


def _check_overlap(path: Path, segment: Segment, value: int, covered: Array) -> None:
    others = covered[(covered != 0) & (covered != value)]
    if others.size:
        raise DetSeg3DError(
            "segments overlap, but a label has one value per voxel",
            file=path,
            value=f"{others.size} voxel(s) of {segment.name} are also in other segments",
            remedy="remove the overlap in 3D Slicer (Masking: overwrite other segments), or export the segments as a "
            "label map",
        )


def place_on_grid(label: Array, geometry: Geometry, grid: Geometry, path: Path) -> tuple[Array, Geometry]:
    """Put a cropped label on the grid of its image, with zeros outside the cropped volume.

    Parameters
    ----------
    label : ndarray, shape ``(Z, Y, X)``
    geometry : Geometry
        Geometry of the label.
    grid : Geometry
        Geometry of the image.
    path : Path
        The file that messages name.

    Returns
    -------
    label : ndarray, shape ``grid.shape``
        The label is unchanged if its voxels do not coincide with voxels of the grid. The caller then compares the two
        geometries.
    geometry : Geometry

    Raises
    ------
    DetSeg3DError
        If the voxels of the label coincide with voxels of the grid, and a voxel other than 0 lies outside the grid.

    Examples
    --------
    >>> label, _ = place_on_grid(np.ones((1, 1, 1), np.uint8), Geometry((1, 1, 1), origin=(2.0, 0.0, 0.0)),
    ...                          Geometry((1, 1, 4)), Path("a.seg.nrrd"))
    >>> label.tolist()
    [[[0, 0, 1, 0]]]
    """
    # With the size and origin of the grid, only spacing, direction and shear can differ.
    moved = Geometry(grid.shape, geometry.spacing, grid.origin, geometry.direction, _moved(geometry, grid))
    if grid.difference(moved):
        return label, geometry
    first = grid.world_to_voxel_edges(geometry.voxel_edges_to_world([[0.5, 0.5, 0.5]]))[0] - 0.5
    start = np.rint(first).astype(int)
    if np.abs(first - start).max() > _ON_VOXELS:
        return label, geometry
    stop = start + label.shape
    inside = tuple(slice(max(0, -a), max(0, n - a)) for a, n in zip(start, grid.shape, strict=True))
    target = tuple(slice(max(0, a), max(0, min(n, b))) for a, b, n in zip(start, stop, grid.shape, strict=True))
    result = np.zeros(grid.shape, label.dtype)
    result[target] = label[inside]
    if np.count_nonzero(result) != np.count_nonzero(label):
        raise DetSeg3DError(
            "the segmentation has voxels outside the image",
            file=path,
            value=f"{np.count_nonzero(label) - np.count_nonzero(result)} voxel(s)",
            expected="segments inside the image",
            remedy="check that image and segmentation belong together",
        )
    return result, grid


def _moved(geometry: Geometry, grid: Geometry) -> tuple[float, ...] | None:
    if geometry.affine is None:
        return None
    matrix = np.asarray(geometry.affine).reshape(4, 4).copy()
    matrix[:3, 3] = grid.origin
    return tuple(float(value) for value in matrix.ravel())
