"""A case as the pictures show it: an image with the lesions of truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from detseg3d.core.arrays import AnyIntArray, Array, Box, Spacing
from detseg3d.core.errors import DetSeg3DError

__all__ = ["CaseView", "LesionMap"]


@dataclass(frozen=True)
class LesionMap:
    """The lesions of one side, truth or prediction.

    Attributes
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map: 0 is background, every other value is one lesion.
    classes : dict of int to str
        Name of the class of each lesion, by its value in the map. A lesion that is not in the dict matches lesions of
        every class.
    boxes : dict of int to Box
        Predicted boxes. A lesion that is not in the dict gets the box of its mask.
    scores : dict of int to float
        Scores of predicted lesions, by their values in the map.
    """

    instances: AnyIntArray
    classes: Mapping[int, str] = field(default_factory=dict)
    boxes: Mapping[int, Box] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CaseView:
    """A case to be drawn.

    Attributes
    ----------
    image : ndarray, shape ``(Z, Y, X)``
        One channel of the scan.
    spacing : 3 floats
        Voxel size ``(z, y, x)`` in mm.
    truth, prediction : LesionMap or None
        Lesions on the grid of the image. Without a truth, the picture shows all predicted lesions.
    direction : tuple of 9 floats, or None
        Direction cosines as in :class:`~detseg3d.core.geometry.Geometry`. If they are given, the volume is turned to
        the radiological view, with the right side of the patient on the left of the picture.
    title : str
        Name of the case.

    Raises
    ------
    DetSeg3DError
        If the shape of an instance map differs from the shape of the image.
    """

    image: Array
    spacing: Spacing
    truth: LesionMap | None = None
    prediction: LesionMap | None = None
    direction: tuple[float, ...] | None = None
    title: str = ""

    def __post_init__(self) -> None:
        for name, lesions in (("truth", self.truth), ("prediction", self.prediction)):
            if lesions is not None and lesions.instances.shape != self.image.shape:
                raise DetSeg3DError(
                    f"the {name} does not have the shape of the image",
                    value=lesions.instances.shape,
                    expected=str(self.image.shape),
                )
