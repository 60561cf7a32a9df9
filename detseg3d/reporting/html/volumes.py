"""Prepare the volumes that the viewer of a report shows.

Each volume is turned to the radiological view, cropped to the body, and reduced to grey levels. If the report would
become too large, its volumes are made coarser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Spacing, as_triple
from detseg3d.core.body import body_box
from detseg3d.core.boxes import box_slices
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.images import read_image
from detseg3d.data.labels import LabelFormat, check_same_grid, read_label
from detseg3d.reporting.html.case_files import CaseFiles
from detseg3d.reporting.html.rendering import compress
from detseg3d.reporting.pictures.slices import intensity_window

__all__ = [
    "FileOrders",
    "ViewerVolumes",
    "fit_together",
    "fit_volumes",
    "load_systems",
    "load_volumes",
    "volumes_on_one_grid",
    "window_presets",
]

Shape = tuple[int, int, int]

_MARGIN = 2  # voxels around the body
_MAX_VOXELS = 2**25  # per volume, 32 MB; a browser keeps several copies in memory
_FEWER_LEVELS = 64
_CT_AIR, _CT_BONE = -900, 300  # Hounsfield units
_CT_WINDOWS = (("Soft tissue", -160, 240), ("Lung", -1350, 150), ("Bone", -500, 1300))  # black and white, in HU
_MIN_PRESET_LEVELS = 20  # grey levels; a narrower window would show steps
_MIN_VOXELS = 24  # along an axis; a coarser volume would not be useful


@dataclass(frozen=True)
class WindowPreset:
    """A named window of the viewer. ``black`` and ``white`` are grey levels of the embedded image (0 to 255)."""

    name: str
    black: int
    white: int


@dataclass(frozen=True)
class FileOrders:
    """Order and direction of the axes in the files of a case. Results state positions in voxels of these files."""

    image: StoredOrder
    truth: StoredOrder
    prediction: StoredOrder


@dataclass(frozen=True)
class ViewerVolumes:
    """A case as the viewer shows it. The axes point to the head, to the back and to the left of the patient.

    Attributes
    ----------
    image : ndarray of uint8, shape ``(Z, Y, X)``
        Grey levels from black (0) to white (255).
    truth, prediction : ndarray of uint8 or uint16, shape ``(Z, Y, X)``, or None
        Instance maps.
    spacing : 3 floats
        Voxel size ``(z, y, x)`` in mm.
    orders : FileOrders
        Axis orders of the files of the case.
    offset : 3 ints
        First voxel ``(z, y, x)`` of the turned volume that is shown.
    window : 2 floats
        Intensities that are shown as black and as white.
    presets : tuple of WindowPreset
        Named windows that the viewer offers.
    factor : 3 ints
        Number of voxels of the turned volume ``(z, y, x)`` that are averaged into one voxel.
    levels : int
        Number of grey levels.
    """

    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[Any] | None
    prediction: npt.NDArray[Any] | None
    spacing: Spacing
    orders: FileOrders
    offset: Shape
    window: tuple[float, float]
    presets: tuple[WindowPreset, ...] = ()
    factor: Shape = (1, 1, 1)
    levels: int = 256

    @property
    def layers(self) -> dict[str, npt.NDArray[Any]]:
        """Return the volumes that exist, by name: ``image``, ``truth`` and ``prediction``."""
        volumes = {"image": self.image, "truth": self.truth, "prediction": self.prediction}
        return {name: volume for name, volume in volumes.items() if volume is not None}

    @cached_property
    def encoded(self) -> dict[str, str]:
        """Return the voxels of each layer as text: little-endian, x runs fastest, gzip, base64."""
        return {name: compress(_little_endian(volume).tobytes()) for name, volume in self.layers.items()}

    @property
    def size(self) -> int:
        """Number of characters of all encoded volumes."""
        return sum(len(text) for text in self.encoded.values())

    def place(self, point: Sequence[float]) -> list[float]:
        """Convert a position ``(z, y, x)`` from voxel edges of the label file to voxel edges of these volumes."""
        z, y, x = (float(value) for value in point)
        turned = self.orders.truth.box_to_canonical((z, y, x, z, y, x))[:3]
        return [(value - first) / size for value, first, size in zip(turned, self.offset, self.factor, strict=True)]

    def place_box(self, box: Sequence[float]) -> list[float]:
        """Convert a box from voxel edges of the prediction file to voxel edges of these volumes, low corner first."""
        turned = self.orders.prediction.box_to_canonical(box)
        offset, factor = self.offset * 2, self.factor * 2
        return [(value - first) / size for value, first, size in zip(turned, offset, factor, strict=True)]

    @property
    def reduced(self) -> str:
        """Describe how the volumes were reduced to keep the file small; empty if the volumes were not reduced."""
        parts = []
        if self.factor != (1, 1, 1):
            parts.append(f"every {' × '.join(str(size) for size in self.factor)} voxels (z, y, x) averaged into one")
        if self.levels < 256:
            parts.append(f"{self.levels} grey levels")
        return ", ".join(parts)


def load_volumes(case: CaseFiles) -> ViewerVolumes:
    """Read a case, turn it to the radiological view, and crop it to the body and the lesions.

    Raises
    ------
    DetSeg3DError
        If a file is missing or unreadable, or the files lie on different grids.
    """
    return load_systems([case])[0]


def load_systems(cases: Sequence[CaseFiles]) -> list[ViewerVolumes]:
    """Read one case with the predictions of several systems. All results are cropped and reduced in the same way.

    Parameters
    ----------
    cases : sequence of CaseFiles
        The same case, with the prediction of each system. Image and truth are those of the first entry.

    Raises
    ------
    DetSeg3DError
        For the reasons of :func:`load_volumes`.
    """
    first = cases[0]
    image, geometry = read_image(first.image)
    label_format = LabelFormat(default_spacing=first.image.spacing)

    def read(path: Path | None, name: str) -> tuple[npt.NDArray[Any] | None, StoredOrder]:
        if path is None:
            return None, geometry.stored_order
        source = label_format.source(path).oriented_like(geometry)
        label, other = read_label(source, label_format, first.image)
        check_same_grid(geometry, other, (first.image.path, path), f"image and {name}")
        return label, other.stored_order

    truth, truth_order = read(first.truth, "truth")
    predictions = [read(case.prediction, "prediction") for case in cases]
    turned = np.nan_to_num(image.astype(np.float32))
    window = intensity_window(turned)
    part = _crop(turned, [label for label in (truth, *(entry for entry, _ in predictions)) if label is not None])
    z, y, x = (int(limits.start) for limits in part)
    grey, presets = _grey(turned[part], window), window_presets(turned, window)
    small_truth = None if truth is None else _small_labels(truth[part])
    result = [
        ViewerVolumes(
            image=grey,
            truth=small_truth,
            prediction=None if label is None else _small_labels(label[part]),
            spacing=geometry.spacing,
            orders=FileOrders(geometry.stored_order, truth_order, order),
            offset=(z, y, x),
            window=window,
            presets=presets,
        )
        for label, order in predictions
    ]
    while result[0].image.size > _MAX_VOXELS:
        result = [_halve(volumes) for volumes in result]
    return result


def volumes_on_one_grid(
    images: Sequence[npt.NDArray[np.float32]], labels: Sequence[npt.NDArray[Any]], spacing: Spacing
) -> list[ViewerVolumes]:
    """Return several scans on one grid, all cropped to the bodies and lesions of all scans.

    Parameters
    ----------
    images : sequence of ndarray of float32, shape ``(Z, Y, X)``
        Intensities in canonical order.
    labels : sequence of ndarray of int, shape ``(Z, Y, X)``
        Instance map of each scan; the ``prediction`` of the result.
    spacing : 3 floats
        Voxel size ``(z, y, x)`` in mm.
    """
    boxes = np.array([[(part.start, part.stop) for part in _crop(image, labels)] for image in images])
    low, high = boxes[:, :, 0].min(axis=0).tolist(), boxes[:, :, 1].max(axis=0).tolist()
    part = box_slices([*low, *high])
    order = StoredOrder(as_triple(images[0].shape))
    result = []
    for image, label in zip(images, labels, strict=True):
        window = intensity_window(image)
        volumes = ViewerVolumes(
            image=_grey(image[part], window),
            truth=None,
            prediction=_small_labels(label[part]),
            spacing=spacing,
            orders=FileOrders(order, order, order),
            offset=as_triple(low),
            window=window,
            presets=window_presets(image, window),
        )
        result.append(volumes)
    while result[0].image.size > _MAX_VOXELS:
        result = [_halve(volumes) for volumes in result]
    return result


def fit_together(group: Sequence[ViewerVolumes], budget: int) -> list[ViewerVolumes]:
    """Make volumes on one grid coarser, all in the same way, until they fit into ``budget`` characters.

    If even the coarsest volumes do not fit, they are returned.
    """
    kept = list(group)
    while sum(volumes.size for volumes in kept) > budget and all(_can_shrink(volumes) for volumes in kept):
        kept = [_shrink(volumes) for volumes in kept]
    return kept


def window_presets(image: npt.NDArray[np.float32], window: tuple[float, float]) -> tuple[WindowPreset, ...]:
    """Return the named windows of the viewer: the whole range, and for a CT scan also soft tissue, lung and bone.

    Parameters
    ----------
    image : ndarray of float32, shape ``(Z, Y, X)``
        Intensities. A scan counts as CT if its values reach from air to bone on the Hounsfield scale.
    window : 2 floats
        Intensities of grey level 0 and of grey level 255.

    Examples
    --------
    >>> scan = np.array([[[-1000.0, 900.0]]], np.float32)
    >>> [preset.name for preset in window_presets(scan, (-1000.0, 900.0))]
    ['Full range', 'Soft tissue', 'Lung', 'Bone']
    >>> window_presets(scan, (-1000.0, 900.0))[1]
    WindowPreset(name='Soft tissue', black=113, white=166)
    """
    presets = [WindowPreset("Full range", 0, 255)]
    if image.min() <= _CT_AIR and image.max() >= _CT_BONE:
        low, high = window
        for name, first, last in _CT_WINDOWS:
            black, white = (round(min(max((value - low) / (high - low), 0), 1) * 255) for value in (first, last))
            if white - black >= _MIN_PRESET_LEVELS:
                presets.append(WindowPreset(name, black, white))
    return tuple(presets)


def fit_volumes(cases: Sequence[ViewerVolumes], budget: int) -> list[ViewerVolumes]:
    """Make the largest volumes coarser until all of them fit into ``budget`` characters.

    A volume loses grey levels first. After that, pairs of voxels are averaged along the finest axes. Instance maps keep
    every lesion. If even the coarsest volumes do not fit, cases are left out from the end.

    Returns
    -------
    list of ViewerVolumes
        The cases that fit, in the order of ``cases``.
    """
    kept = list(cases)
    while kept and sum(volumes.size for volumes in kept) > budget:
        candidates = [index for index, volumes in enumerate(kept) if _can_shrink(volumes)]
        if not candidates:
            kept.pop()
            continue
        largest = max(candidates, key=lambda index: kept[index].size)
        kept[largest] = _shrink(kept[largest])
    return kept


def _can_shrink(volumes: ViewerVolumes) -> bool:
    return volumes.levels > _FEWER_LEVELS or min(_halved(volumes.image.shape, volumes.spacing)) >= _MIN_VOXELS


def _shrink(volumes: ViewerVolumes) -> ViewerVolumes:
    if volumes.levels > _FEWER_LEVELS:
        step = 256 // _FEWER_LEVELS
        # Each grey level becomes the middle of its step, so that black and white hardly change.
        return replace(volumes, image=volumes.image // step * step + step // 2, levels=_FEWER_LEVELS)
    return _halve(volumes)


def _halve(volumes: ViewerVolumes) -> ViewerVolumes:
    """Halve the number of voxels along the fine axes. Thick slices are kept as they are."""
    factor = _halving(volumes.spacing)
    z, y, x = (int(a * b) for a, b in zip(volumes.factor, factor, strict=True))
    dz, dy, dx = (float(a * b) for a, b in zip(volumes.spacing, factor, strict=True))
    image = np.rint(_blocks(volumes.image, factor, "edge").mean(axis=(1, 3, 5), dtype=np.float32)).astype(np.uint8)
    # The largest value of a block is taken instead of a mean, so that a lesion of one voxel remains.
    truth, prediction = (
        None if label is None else _blocks(label, factor, "constant").max(axis=(1, 3, 5))
        for label in (volumes.truth, volumes.prediction)
    )
    return replace(volumes, image=image, truth=truth, prediction=prediction, spacing=(dz, dy, dx), factor=(z, y, x))


def _halving(spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the reduction factor of each axis: 2 for the fine axes, 1 for the other axes."""
    finest = min(spacing)
    return tuple(2 if size < 1.5 * finest else 1 for size in spacing)


def _halved(shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Return the sizes of the fine axes after :func:`_halve`."""
    return [size // step for size, step in zip(shape, _halving(spacing), strict=True) if step > 1]


def _blocks(volume: npt.NDArray[Any], factor: Sequence[int], padding: str) -> npt.NDArray[Any]:
    """Return the volume as blocks, shape ``(Z, fz, Y, fy, X, fx)``. Incomplete blocks at the end are padded."""
    missing = [(0, -size % step) for size, step in zip(volume.shape, factor, strict=True)]
    padded = np.pad(volume, missing, mode=padding)  # type: ignore[call-overload]
    shape = [part for size, step in zip(padded.shape, factor, strict=True) for part in (size // step, step)]
    blocks: npt.NDArray[Any] = padded.reshape(shape)
    return blocks


def _crop(image: npt.NDArray[np.float32], labels: Sequence[npt.NDArray[Any]]) -> tuple[slice, slice, slice]:
    """Return the box around the body and all lesions, with a margin, as slices."""
    box = np.array(body_box(image[None])).reshape(2, 3)
    for label in labels:
        voxels = np.nonzero(label)
        if len(voxels[0]):
            box[0] = np.minimum(box[0], [axis.min() for axis in voxels])
            box[1] = np.maximum(box[1], [axis.max() + 1 for axis in voxels])
    low = np.maximum(box[0] - _MARGIN, 0).tolist()
    high = np.minimum(box[1] + _MARGIN, image.shape).tolist()
    return box_slices([*low, *high])


def _grey(image: npt.NDArray[np.float32], window: tuple[float, float]) -> npt.NDArray[np.uint8]:
    low, high = window
    return np.rint(np.clip((image - low) * (255.0 / (high - low)), 0, 255)).astype(np.uint8)


def _small_labels(label: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a label as uint8 or uint16 for the viewer. Values above 65535 are replaced by their ranks."""
    highest = int(label.max(initial=0))
    if highest > np.iinfo(np.uint16).max:
        values, ranks = np.unique(label, return_inverse=True)
        label, highest = ranks.reshape(label.shape) + (values[0] != 0), len(values)
    return np.ascontiguousarray(label.astype(np.uint8 if highest < 256 else np.uint16))


def _little_endian(volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return volume.astype(volume.dtype.newbyteorder("<"))
