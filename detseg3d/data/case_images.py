"""Find the image of a case in a folder of scans, in the way in which predictions name cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import normal_name
from detseg3d.data.dataset import images_by_stem
from detseg3d.data.images import strip_ending

__all__ = ["image_of_case", "images_by_name"]


def images_by_name(path: Path) -> dict[str, Path]:
    """Return the scans in a folder by name: files, and DICOM series in subfolders. A file is the only scan.

    Raises
    ------
    DetSeg3DError
        If the path does not exist, or the folder cannot be read unambiguously.
    """
    if not path.exists():
        raise DetSeg3DError("the folder of images does not exist", file=path, remedy="check the path")
    if path.is_file():
        return {normal_name(strip_ending(path)): path}
    return {normal_name(name): file for name, file in images_by_stem(path).items()}


def image_of_case(case_id: str, images: Mapping[str, Path], channel: int = 0) -> Path | None:
    """Return the image of a case: ``CASE_0000`` with the number of the channel, or ``CASE``.

    A single DICOM series is the scan of every case, because its folder may have any name.

    Parameters
    ----------
    case_id : str
    images : mapping of str to Path
        From :func:`images_by_name`.
    channel : int, optional

    Returns
    -------
    Path or None
        ``None`` if the case has no image of this channel.
    """
    numbered = images.get(f"{case_id}_{channel:04d}")
    if numbered is not None:
        return numbered
    if case_id in images:
        return images[case_id]
    only = next(iter(images.values())) if len(images) == 1 and channel == 0 else None
    return only if only is not None and only.is_dir() else None
