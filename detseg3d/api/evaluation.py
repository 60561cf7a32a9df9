"""Compare a predicted mask with a true mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.api.images import ImageLike, as_image
from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.arrays import evaluate_arrays
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.inference.result import Prediction

__all__ = ["evaluate"]


def evaluate(
    truth: ImageLike,
    prediction: Prediction | ImageLike,
    *,
    spacing: Sequence[float] | None = None,
    classes: Mapping[str, int] | None = None,
    scores: npt.ArrayLike | None = None,
) -> CaseMetrics:
    """Compare a predicted mask with a true mask, lesion by lesion and voxel by voxel.

    The lesions are the 26-connected components of each class. To compare folders, use
    :func:`~detseg3d.evaluation.folders.evaluate_folders`.

    Parameters
    ----------
    truth : image
        True mask: a path, an array ``(Z, Y, X)``, or an image of SimpleITK or nibabel.
    prediction : Prediction or image
        A result of :func:`~detseg3d.api.prediction.predict`, or a mask on the grid of ``truth``.
    spacing : 3 floats, optional
        Voxel spacing in mm ``(z, y, x)``, required if both masks are arrays. If one mask is an array and the other
        mask is an image, the array must lie on the grid of the image.
    classes : dict of str to int, optional
        Name and value of each class. May be omitted if both masks use the same single value besides 0.
    scores : array_like of float, shape ``(Z, Y, X)``, optional
        Score of each voxel, for example its probability, in the axis order of the arrays that :func:`as_image` returns.
        The score of a predicted lesion is the highest value inside the lesion. With scores, the result also has the
        records for FROC and average precision.

    Returns
    -------
    CaseMetrics
        Metrics of the case. :func:`~detseg3d.evaluation.summary.summarize` pools several cases.

    Raises
    ------
    DetSeg3DError
        If an image cannot be read, the grids differ, or the meaning of the values is ambiguous.

    Examples
    --------
    >>> import numpy as np
    >>> truth, prediction = np.zeros((2, 8, 8, 8), bool)
    >>> truth[1:3, 1:3, 1:3] = truth[5:7, 5:7, 5:7] = True
    >>> prediction[1:3, 1:3, 1:4] = True
    >>> case = evaluate(truth, prediction, spacing=(3, 1, 1))
    >>> case.overall.detection["any"].recall, round(case.dice, 3)
    (0.5, 0.571)
    """
    if isinstance(prediction, Prediction):
        from detseg3d.data.image import Image

        prediction = Image(prediction.semantic, prediction.geometry)
    is_array = [isinstance(mask, np.ndarray) for mask in (truth, prediction)]
    if all(is_array):
        true_mask, predicted_mask = as_image(truth, spacing), as_image(prediction, spacing)
    elif any(is_array):
        image = as_image(prediction if is_array[0] else truth)
        array = np.asarray(truth if is_array[0] else prediction)
        if array.shape != image.shape:
            raise DetSeg3DError("truth and prediction differ in shape", value=array.shape, expected=str(image.shape))
        of_array = image._replace(array=array)
        true_mask, predicted_mask = (of_array, image) if is_array[0] else (image, of_array)
    else:
        true_mask, predicted_mask = as_image(truth), as_image(prediction)
    differences = true_mask.geometry.difference(predicted_mask.geometry)
    if differences:
        raise DetSeg3DError(
            "the grids of truth and prediction differ: " + "; ".join(differences),
            remedy="resample the prediction to the grid of the truth",
        )
    return evaluate_arrays(true_mask.array, predicted_mask.array, true_mask.spacing, classes=classes, scores=scores)
