"""Training cases of a raw data set: image, lesions and a digest of their files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry, check_spacing
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.data.folders import RawFolder
from detseg3d.data.images import read_channels, read_geometry
from detseg3d.data.instance_classes import InstanceClasses
from detseg3d.data.labels import LabelFormat, read_label, true_lesions
from detseg3d.system.memory import require_memory

__all__ = ["check_finite", "read_case", "source_digest"]


def read_case(case: RawCase, dataset: RawDataset) -> tuple[Array, Geometry, Array, Array]:
    """Read the images and the lesions of a training case.

    Parameters
    ----------
    case : RawCase
    dataset : RawDataset
        The data set of the case.

    Returns
    -------
    images : ndarray of float32, shape ``(C, Z, Y, X)``
    geometry : Geometry
    instances : ndarray of int32, shape ``(Z, Y, X)``, ids ``1..N``
    classes : ndarray of int64, shape ``(N,)``
        Class of lesions ``1..N``, from 0.

    Raises
    ------
    DetSeg3DError
        If a file is missing or unreadable, a spacing is below a nanometre or above a kilometre, a voxel is NaN or
        infinite, the label does not fit, or the memory is too small for the case.
    """
    if case.images[0].path.is_file():
        shape = read_geometry(case.images[0]).shape
        require_memory(measuring_bytes(shape, len(case.images)), f"this scan of {'×'.join(map(str, shape))} voxels")
    images, geometry = read_channels(case.images)
    check_spacing(geometry.spacing, case.case_id)
    check_finite(images, dataset.channel_names)
    if case.label is None:
        raise DetSeg3DError(
            "the training case has no label",
            file=RawFolder(dataset.folder).training_labels / f"{case.case_id}{dataset.file_ending}",
            remedy="add the label, all 0 for a scan without lesions, or move the image to imagesTs",
        )
    label_format = LabelFormat.of_dataset(dataset)
    label, label_geometry = read_label(case.label, label_format, case.images[0])
    differences = geometry.difference(label_geometry)
    if differences:
        raise DetSeg3DError(
            "the label is not on the grid of the image: " + "; ".join(differences), file=case.label.path
        )
    lesions = true_lesions(label, case.label.path, label_format, case_id=case.case_id)
    instances, classes = lesions.renumbered()
    return images, geometry, instances, classes


def check_finite(images: Array, channel_names: Sequence[str]) -> None:
    """Raise an error if a voxel is NaN or infinite.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    channel_names : sequence of str
        Names of the ``C`` channels, for the message.

    Raises
    ------
    DetSeg3DError
        If a voxel is NaN or infinite. The message names the channels.
    """
    # The sum is NaN or infinite if a voxel is NaN or infinite. A mask of such voxels would need memory.
    sums = [channel.sum(dtype=np.float64) for channel in images]
    bad = [name for name, total in zip(channel_names, sums, strict=True) if not np.isfinite(total)]
    if bad:
        raise DetSeg3DError(
            f"the image has NaN or infinite voxels in channel {', '.join(bad)}",
            remedy="replace these voxels, for example with the value of the background",
        )


def source_digest(case: RawCase, instance_classes: InstanceClasses | None = None) -> str:
    """Return a digest of the files of a case, which changes if a file is replaced (16 hexadecimal digits).

    The digest depends on the sizes and times of the files and on the classes of the lesions in an instance map.

    Parameters
    ----------
    case : RawCase
    instance_classes : InstanceClasses, optional
        Source of the classes, if the label is an instance map.
    """
    entries: list[object] = []
    paths = [source.path for source in (*case.images, *([case.label] if case.label else []))]
    if instance_classes is not None and case.label is not None:
        if instance_classes.table is None:
            paths.append(instance_classes.source_of(case.label.path))
        entries += [instance_classes.from_zero, *instance_classes.entries_of(case.case_id)]
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            status = file.stat() if file.exists() else None
            entries.append(
                (str(file.relative_to(path.parent)), status and status.st_size, status and status.st_mtime_ns)
            )
    return hashlib.sha256(repr(entries).encode()).hexdigest()[:16]


def measuring_bytes(shape: Sequence[int], num_channels: int) -> float:
    """Return the peak memory in bytes of reading and measuring a case.

    In addition to the image and the instance map, 9 bytes per voxel were measured for any number of channels.

    Parameters
    ----------
    shape : sequence of 3 ints
        Voxels ``(z, y, x)``.
    num_channels : int
    """
    return math.prod(shape) * (num_channels * 4 + 4 + 9)
