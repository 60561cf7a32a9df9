"""DICOM: objects in folders are found, grouped into series, checked against what they say, and read as volumes.

Only what needs no DICOM library is imported here. :mod:`detseg3d.data.formats.dicom.reader`, which does, is imported
by those who
read DICOM.
"""

from __future__ import annotations

from detseg3d.data.formats.dicom.files import DICOM_ENDINGS, is_dicom_file, is_dicom_folder

__all__ = ["DICOM_ENDINGS", "is_dicom_file", "is_dicom_folder"]
