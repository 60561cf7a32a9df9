"""Write the report of a patient from a prediction in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detseg3d.api.images import ImageLike, as_image
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image import Image
from detseg3d.follow.result import FollowUp
from detseg3d.inference.result import Prediction
from detseg3d.reporting.html.patient import FollowedScan, PatientReport, ReportedLesion, write_patient_report
from detseg3d.reporting.text.scan_warnings import scan_warnings

__all__ = ["report_patient"]


def report_patient(
    prediction: Prediction,
    output: str | Path,
    image: ImageLike | None = None,
    *,
    name: str = "scan",
    date: str = "",
    follow_up: FollowUp | None = None,
    spacing: Sequence[float] | None = None,
) -> Path:
    """Write the report of a patient: an HTML page with key images and tables that prints to A4.

    Parameters
    ----------
    prediction : Prediction
        Result of :func:`~detseg3d.api.prediction.predict`.
    output : path
        File to write, for example ``report.html``.
    image : image, optional
        One channel of the scan for the pictures; by default the first channel, which the prediction keeps.
    name : str, optional
        Name of the case on the page.
    date : str, optional
        Date of the scan. By default the date that a DICOM series states; other formats do not state a date.
    follow_up : FollowUp, optional
        Result of :func:`~detseg3d.api.following.follow_lesions` with this prediction as its last scan.
    spacing : 3 floats, optional
        Voxel spacing in mm ``(z, y, x)`` of an array.

    Returns
    -------
    Path
        The written file.

    Raises
    ------
    DetSeg3DError
        If the image is not on the grid of the prediction, the last scan of the follow-up has other lesions, or the file
        cannot be written.
    """
    lesions = tuple(
        ReportedLesion(lesion.id, lesion.class_name, lesion.score, lesion.measures)
        for lesion in sorted(prediction.lesions, key=lambda lesion: lesion.id)
    )
    stated = next((identity.date for identity in prediction.geometry.dicom if identity is not None), "")
    similarity, expectation = prediction.similarity, prediction.expectation
    return write_patient_report(
        output,
        PatientReport(
            case_id=name,
            lesions=lesions,
            instances=Image(prediction.instances, prediction.geometry),
            scan=_scan(prediction, image, spacing),
            model=prediction.model,
            thresholds=prediction.thresholds,
            facts=(("Date of the scan", date or stated or "not stated"),),
            warnings=scan_warnings(
                () if similarity is None or not similarity.unlike else similarity.reasons,
                "" if expectation is None else expectation.describe(),
                prediction.limit_reached,
            ),
            follow_up=None if follow_up is None else _followed(follow_up, lesions),
        ),
    )


def _scan(prediction: Prediction, image: ImageLike | None, spacing: Sequence[float] | None) -> Image | None:
    """Return the image for the pictures, on the grid of the prediction."""
    if image is None:
        return None if prediction.image is None else Image(prediction.image, prediction.geometry)
    scan = as_image(image, spacing if isinstance(image, np.ndarray) else None)
    differences = prediction.geometry.difference(scan.geometry)
    if differences:
        raise DetSeg3DError(
            "the scan is not on the grid of the prediction: " + "; ".join(differences),
            expected="the scan from which the prediction was made",
        )
    return scan


def _followed(follow_up: FollowUp, lesions: Sequence[ReportedLesion]) -> FollowedScan:
    last = follow_up.time_points[-1]
    found = {(lesion.number, lesion.measures.voxels) for lesion in last.lesions}
    own = {(lesion.number, lesion.measures.voxels) for lesion in lesions}
    if found != own:
        raise DetSeg3DError(
            "the last scan of the follow-up has other lesions than the prediction",
            value=f"{len(found)} lesion(s)",
            expected=f"{len(own)} lesion(s) with the same numbers and sizes",
        )
    return FollowedScan(follow_up, len(follow_up.time_points) - 1)
