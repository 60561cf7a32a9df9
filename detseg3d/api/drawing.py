"""Draw a scan with its lesions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detseg3d.api.images import ImageLike, as_image
from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image import Image
from detseg3d.inference.result import Prediction
from detseg3d.reporting.pictures.case_view import CaseView, LesionMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw"]


def draw(
    image: ImageLike,
    prediction: Prediction | ImageLike | None = None,
    truth: ImageLike | None = None,
    *,
    spacing: Sequence[float] | None = None,
    max_lesions: int = 12,
    output: str | Path | None = None,
) -> Figure:
    """Draw a scan with the outlines of its lesions: found, missed and false positive.

    Parameters
    ----------
    image : image
        One channel of the scan: a path, an array ``(Z, Y, X)``, or an image of SimpleITK or nibabel.
    prediction : Prediction or image, optional
        A result of :func:`~detseg3d.api.prediction.predict`, or a mask. The lesions of a mask are the 26-connected
        components of its values except 0.
    truth : image, optional
        Mask of the true lesions. Without a truth, the picture shows all predicted lesions.
    spacing : 3 floats, optional
        Voxel spacing in mm ``(z, y, x)`` of arrays.
    max_lesions : int, optional
        Maximum number of lesions that get a slice. Missed lesions and false positives come first.
    output : path, optional
        File to write. Its ending, .png, .pdf or .svg, selects the format.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. A notebook shows the figure as a picture.

    Raises
    ------
    DetSeg3DError
        If there is neither a prediction nor a truth, an image cannot be read, a mask has values that are not whole
        numbers, or the grids differ.

    Examples
    --------
    >>> import numpy as np
    >>> scan = np.random.default_rng(0).normal(size=(8, 32, 32))
    >>> mask = np.zeros(scan.shape, np.uint8)
    >>> mask[2:5, 10:16, 10:16] = 1
    >>> figure = draw(scan, mask, spacing=(3, 1, 1))
    """
    from detseg3d.reporting.pictures.overlay import draw_case, save_figure

    if prediction is None and truth is None:
        raise DetSeg3DError("nothing to draw", expected="a prediction, a truth, or both")
    scan = as_image(image, spacing)
    view = CaseView(
        image=scan.array,
        spacing=scan.spacing,
        truth=None if truth is None else _lesions(as_image(truth, _spacing_of(truth, spacing)), scan, "truth"),
        prediction=None if prediction is None else _predicted(prediction, scan, spacing),
        direction=scan.geometry.direction,
    )
    figure = draw_case(view, max_lesions)
    if output is not None:
        save_figure(figure, output)
    return figure


def _spacing_of(image: ImageLike, spacing: Sequence[float] | None) -> Sequence[float] | None:
    """Return the spacing if the image is an array. Other images know their spacing."""
    return spacing if isinstance(image, np.ndarray) else None


def _predicted(prediction: Prediction | ImageLike, scan: Image, spacing: Sequence[float] | None) -> LesionMap:
    """Return the lesions of a prediction, with boxes and scores if the prediction has them."""
    if not isinstance(prediction, Prediction):
        return _lesions(as_image(prediction, _spacing_of(prediction, spacing)), scan, "prediction")
    _check_grid(Image(prediction.instances, prediction.geometry), scan, "prediction")
    return LesionMap(
        prediction.instances,
        boxes={lesion.id: lesion.box for lesion in prediction.lesions},
        scores={lesion.id: lesion.score for lesion in prediction.lesions},
    )


def _lesions(mask: Image, scan: Image, side: str) -> LesionMap:
    """Return the connected components of a mask. Error messages call the mask ``side``."""
    _check_grid(mask, scan, side)
    values = np.unique(mask.array[mask.array != 0])
    whole = mask.array.astype(np.int64)
    if not np.array_equal(whole, mask.array) or (values < 0).any():
        raise DetSeg3DError(f"the {side} is not a mask", expected="0 for background and whole numbers for classes")
    instances, _ = instances_from_semantic(whole, [int(value) for value in values])
    return LesionMap(instances)


def _check_grid(mask: Image, scan: Image, side: str) -> None:
    differences = scan.geometry.difference(mask.geometry)
    if differences:
        raise DetSeg3DError(
            f"the {side} is not on the grid of the scan: " + "; ".join(differences),
            remedy=f"resample the {side} to the grid of the scan",
        )
