"""Path of an image, with the properties that the file does not state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from detseg3d.core.arrays import Spacing
from detseg3d.core.geometry import Geometry

__all__ = ["ImageSource", "SegmentRules"]


@dataclass(frozen=True)
class SegmentRules:
    """Rules by which a DICOM segmentation becomes a label.

    Attributes
    ----------
    classes : mapping of str to str or None, optional
        Class of each segment by its number or label; ``None`` leaves a segment out. By default the label of a segment
        is its class.
    threshold : float, optional
        Lowest fraction, from 0 to 1, of a lesion in a segmentation of the type ``FRACTIONAL``.
    """

    classes: Mapping[str, str | None] | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class ImageSource:
    """Path of an image, with the properties that the file does not state.

    Most formats need only the path.

    Parameters
    ----------
    path : Path
        A file, or a folder of DICOM files.
    spacing : 3 floats, optional
        Spacing ``(z, y, x)`` in mm of a ``.npy`` file; 1 mm by default. Files of other formats state their spacing.
    series : str, optional
        Series to read from a DICOM folder: a SeriesInstanceUID, SeriesNumber or SeriesDescription. Needed if the folder
        holds several series that can be read.
    suv : bool, optional
        Convert PET in DICOM format to standardised uptake values (SUV, body weight).
    orientation : 9 floats, optional
        Direction cosines of the axes of a ``.npy`` file, as in :attr:`Geometry.direction`; canonical by default. See
        :meth:`oriented_like`.
    segments : SegmentRules, optional
        Rules for the segments of a DICOM segmentation.

    Examples
    --------
    >>> ImageSource.of("scan.npy").name
    'scan.npy'
    >>> label = ImageSource(Path("label.npy"), spacing=(3.0, 1.0, 1.0))
    >>> feet_first = Geometry((8, 4, 4), direction=(1, 0, 0, 0, 1, 0, 0, 0, -1)).canonical()
    >>> label.oriented_like(feet_first).orientation[8]
    -1.0
    """

    path: Path
    spacing: Spacing | None = None
    series: str | None = None
    suv: bool = False
    orientation: tuple[float, ...] | None = None
    segments: SegmentRules | None = None

    @classmethod
    def of(cls, source: str | Path | ImageSource) -> ImageSource:
        """Return ``source`` unchanged if it is an ImageSource, else an ImageSource with this path."""
        return source if isinstance(source, ImageSource) else cls(Path(source))

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        return self.path.name

    def oriented_like(self, reference: Geometry) -> ImageSource:
        """Return this source with the axis order of another file.

        A ``.npy`` file does not state a direction. If it belongs to another file, as a label belongs to its scan, it
        has the axis order of the other file. Files of other formats state their direction and are read as before.

        Parameters
        ----------
        reference : Geometry
            Geometry of the other file, as :func:`~detseg3d.data.images.read_geometry` returns it.
        """
        return self if reference.stored is None else replace(self, orientation=reference.stored.direction)
