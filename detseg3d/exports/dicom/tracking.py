"""Identifiers that follow a lesion through all files and examinations."""

from __future__ import annotations

from pydicom.uid import generate_uid

__all__ = ["tracking_identifier", "tracking_uid"]


def tracking_identifier(number: int) -> str:
    """Return the name of a lesion for people, from its number in the instance map.

    Examples
    --------
    >>> tracking_identifier(3)
    'Lesion 3'
    """
    return f"Lesion {number}"


def tracking_uid(series_instance_uid: str, model: str, number: int) -> str:
    """Return the Tracking UID of a lesion.

    The same lesion has the same identifier in every export, because it is computed from its origin.

    Parameters
    ----------
    series_instance_uid : str
        The series in which the lesion was found.
    model : str
        Identifier of the model, from ``rois/CASE.json``.
    number : int
        Number of the lesion in the instance map.

    Returns
    -------
    str
        A UID below the root 2.25 or that of pydicom, at most 64 characters long.

    Examples
    --------
    >>> tracking_uid("1.2.3", "abc", 1) == tracking_uid("1.2.3", "abc", 1)
    True
    >>> tracking_uid("1.2.3", "abc", 1) == tracking_uid("1.2.3", "abc", 2)
    False
    """
    return str(generate_uid(entropy_srcs=["DetSeg3D lesion", series_instance_uid, model, str(number)]))
