"""Follow the lesions of a patient over several scans in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detseg3d.api.images import ImageLike, as_image
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image import Image
from detseg3d.follow.compare import FollowOptions, follow_time_points
from detseg3d.follow.result import FollowUp
from detseg3d.follow.time_point import LesionFacts, RejectedCandidate, TimePoint
from detseg3d.inference.result import Prediction

__all__ = ["follow_lesions"]


def follow_lesions(
    lesions: Sequence[Prediction | ImageLike],
    images: Sequence[ImageLike] | None = None,
    *,
    options: FollowOptions | None = None,
    names: Sequence[str] | None = None,
    dates: Sequence[dt.date | None] | None = None,
    spacing: Sequence[float] | None = None,
) -> FollowUp:
    """Compare the lesions of two or more scans of a patient.

    Parameters
    ----------
    lesions : sequence of Prediction or image
        For each scan, in the order of time: a result of :func:`~detseg3d.api.prediction.predict`, or an instance map,
        in which each lesion has its own number.
    images : sequence of image, optional
        One channel of each scan, for the registration. Required except for aligned scans or known motions.
    options : FollowOptions, optional
        Registration, thresholds and tolerance. By default the scans are registered rigidly, and a lesion is enlarged or
        shrunk if its volume changed by at least 25 %.
    names : sequence of str, optional
        Names of the scans; ``scan 1``, ``scan 2``, … by default.
    dates : sequence of datetime.date or None, optional
        Day of each scan, from which the growth per time is computed; ``None`` if it is unknown.
    spacing : 3 floats, optional
        Voxel spacing in mm ``(z, y, x)`` of arrays.

    Returns
    -------
    FollowUp
        The change of each lesion, the registrations, and the lesions over all scans.

    Raises
    ------
    DetSeg3DError
        If an input cannot be used, the dates are not in the order of the scans, an image is missing, or the
        registration fails.

    Examples
    --------
    >>> from detseg3d.follow.registration import RegistrationMethod
    >>> before, after = np.zeros((2, 12, 24, 24), np.uint8)
    >>> before[4:8, 4:8, 4:8] = after[3:9, 3:9, 3:9] = 1
    >>> after[4:6, 16:19, 16:19] = 2
    >>> aligned = FollowOptions(RegistrationMethod.NONE)
    >>> result = follow_lesions([before, after], options=aligned, spacing=(1, 1, 1))
    >>> [(change.state.value, change.earlier, change.later) for change in result.comparisons[0].changes]
    [('enlarged', (1,), (1,)), ('new', (), (2,))]
    """
    for other, noun in ((images, "images"), (names, "names"), (dates, "dates")):
        if other is not None and len(other) != len(lesions):
            raise DetSeg3DError(
                f"the numbers of scans and of {noun} differ", value=(len(lesions), len(other)), expected="equal numbers"
            )
    points = []
    for index, entry in enumerate(lesions):
        image = None if images is None else as_image(images[index], _spacing_of(images[index], spacing))
        name = f"scan {index + 1}" if names is None else names[index]
        point = _time_point(name, entry, image, spacing)
        points.append(point if dates is None else replace(point, date=dates[index]))
    return follow_time_points(points, options or FollowOptions())


def _spacing_of(image: object, spacing: Sequence[float] | None) -> Sequence[float] | None:
    """Return the spacing if the image is an array. Other images know their spacing."""
    return spacing if isinstance(image, np.ndarray) else None


def _time_point(
    name: str, entry: Prediction | ImageLike, image: Image | None, spacing: Sequence[float] | None
) -> TimePoint:
    if not isinstance(entry, Prediction):
        instances = as_image(entry, _spacing_of(entry, spacing))
        whole = instances.array.astype(np.int64)
        if not np.array_equal(whole, instances.array) or (whole < 0).any():
            raise DetSeg3DError(f"{name} is not an instance map", expected="0 for background and a number per lesion")
        return TimePoint.of_instances(name, Image(whole, instances.geometry), None, image)
    facts = {lesion.id: LesionFacts(lesion.class_name, lesion.score) for lesion in entry.lesions}
    point = TimePoint.of_instances(name, Image(entry.instances, entry.geometry), facts, image)
    rejected = tuple(
        RejectedCandidate(candidate.box, candidate.score) for candidate in entry.candidates if candidate.lesion is None
    )
    return TimePoint(name, point.instances, point.lesions, image, rejected)
