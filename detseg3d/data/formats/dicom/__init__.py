"""Find DICOM objects in folders, group them into series, check their headers, and read them as volumes.

This package imports only modules that need no DICOM library. The module :mod:`detseg3d.data.formats.dicom.reader`
imports pydicom, so import it only in functions that read DICOM.
"""

from __future__ import annotations

from detseg3d.data.formats.dicom.files import DICOM_ENDINGS, is_dicom_file, is_dicom_folder

__all__ = ["DICOM_ENDINGS", "is_dicom_file", "is_dicom_folder"]
