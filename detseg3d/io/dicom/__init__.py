"""DICOM: objects in folders are found, grouped into series, checked against what they say, and read as volumes."""

from __future__ import annotations

from detseg3d.io.dicom.files import is_dicom_file, is_dicom_folder
from detseg3d.io.dicom.reader import DicomOptions, read_dicom, read_dicom_geometry, share_series

__all__ = ["DicomOptions", "is_dicom_file", "is_dicom_folder", "read_dicom", "read_dicom_geometry", "share_series"]
