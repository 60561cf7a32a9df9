"""The DICOM objects to write for a case, and their paths."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError

__all__ = ["DicomOptions", "DicomPaths", "SegmentationKind", "is_written"]


class SegmentationKind(Enum):
    """How a segmentation stores its segments.

    ``LABELMAP`` stores one number per voxel (since 2023 in the standard), ``BINARY`` one volume of bits per segment.
    """

    LABELMAP = "labelmap"
    BINARY = "binary"


@dataclass(frozen=True)
class DicomOptions:
    """The DICOM objects to write.

    Attributes
    ----------
    segmentation : SegmentationKind or None
        Type of the segmentation; ``None`` for no segmentation.
    report : bool
        Write a structured report, which refers to the segmentation.
    contours : bool
        Write an RT structure set.
    """

    segmentation: SegmentationKind | None = SegmentationKind.LABELMAP
    report: bool = True
    contours: bool = False

    def __post_init__(self) -> None:
        if self.report and self.segmentation is None:
            raise DetSeg3DError(
                "a structured report needs a segmentation to which its measures refer",
                value="a report without a segmentation",
                expected="both, or neither",
                remedy="use --dicom_seg labelmap or --dicom_seg binary, or --no_dicom_sr",
            )


@dataclass(frozen=True)
class DicomPaths:
    """Paths of the DICOM objects of a case.

    Parameters
    ----------
    folder : Path
    case_id : str
    """

    folder: Path
    case_id: str

    @property
    def segmentation(self) -> Path:
        """Segmentation with one segment per lesion."""
        return self.folder / f"{self.case_id}.seg.dcm"

    @property
    def report(self) -> Path:
        """Structured report."""
        return self.folder / f"{self.case_id}.sr.dcm"

    @property
    def contours(self) -> Path:
        """RT structure set."""
        return self.folder / f"{self.case_id}.rtstruct.dcm"

    @property
    def all(self) -> tuple[Path, ...]:
        """All paths."""
        return self.segmentation, self.report, self.contours


def is_written(paths: DicomPaths, options: DicomOptions) -> bool:
    """Return whether the objects of a case exist. A case without lesions may have only a report."""
    if options.report and not paths.report.is_file():
        return False
    wanted = {paths.segmentation: options.segmentation is not None, paths.contours: options.contours}
    missing = [path for path, is_wanted in wanted.items() if is_wanted and not path.is_file()]
    return not missing or (options.report and not any(path.is_file() for path in wanted))
