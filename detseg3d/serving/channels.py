"""The order of the images of one scan, and their names in the folder of a job."""

from __future__ import annotations

import re
from collections.abc import Sequence

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.endings import file_ending
from detseg3d.serving.records import UploadedFile

__all__ = ["arranged_name", "client_names", "in_channel_order"]

_CHANNEL = re.compile(r"_(\d{4})$")


def arranged_name(case_id: str, channel: int, upload: UploadedFile) -> str:
    """Return the name under which the image of a channel is read."""
    return f"{case_id}_{channel:04d}{file_ending(upload.stored) or ''}"


def client_names(case_id: str, uploads: Sequence[UploadedFile]) -> dict[str, str]:
    """Return the client's name of each file, by its names in the folder of the job."""
    names = {upload.stored: upload.name for upload in uploads}
    try:
        images = in_channel_order([upload for upload in uploads if file_ending(upload.stored) is not None])
    except DetSeg3DError:
        return names
    arranged = {arranged_name(case_id, channel, upload): upload.name for channel, upload in enumerate(images)}
    return {**names, **arranged}


def in_channel_order(images: Sequence[UploadedFile]) -> list[UploadedFile]:
    """Return images by the channel number at the end of their names, or in their order if the names lack numbers.

    Raises
    ------
    DetSeg3DError
        If a number is missing or occurs twice.
    """
    numbers = [_CHANNEL.search(_stem(upload)) for upload in images]
    if len(images) == 1 or not all(numbers):
        return list(images)
    by_channel = {int(match[1]): upload for match, upload in zip(numbers, images, strict=True) if match}
    if sorted(by_channel) != list(range(len(images))):
        raise DetSeg3DError(
            "the channel numbers in the names of the files are not complete",
            value=[upload.name for upload in images],
            expected=", ".join(f"…_{channel:04d}" for channel in range(len(images))),
            remedy="rename the files",
        )
    return [by_channel[channel] for channel in range(len(images))]


def _stem(upload: UploadedFile) -> str:
    """Return the client's name without the ending of its format."""
    ending = file_ending(upload.name.lower())
    return upload.name if ending is None else upload.name[: -len(ending)]
