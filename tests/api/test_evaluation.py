from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

import detseg3d
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.evaluation.arrays import evaluate_arrays

TRUTH, PREDICTION = np.zeros((2, 8, 12, 12), np.uint8)
TRUTH[1:4, 1:4, 1:4] = TRUTH[5:7, 8:10, 8:10] = 1
PREDICTION[1:4, 1:4, 1:5] = 1
SPACING = (3.0, 1.0, 1.0)


def as_simpleitk(array: np.ndarray) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    return image


@pytest.mark.parametrize(
    ("truth", "prediction", "spacing"),
    [
        (TRUTH, PREDICTION, SPACING),
        (as_simpleitk(TRUTH), as_simpleitk(PREDICTION), None),
        (as_simpleitk(TRUTH), PREDICTION, None),
        (TRUTH, Image(PREDICTION, Geometry((8, 12, 12), SPACING)), None),
    ],
    ids=["arrays", "images", "image and array", "array and image"],
)
def test_every_kind_of_mask_gives_the_metrics_of_the_arrays(truth: object, prediction: object, spacing: object) -> None:
    expected = evaluate_arrays(TRUTH, PREDICTION, SPACING)
    case = detseg3d.evaluate(truth, prediction, spacing=spacing)  # type: ignore[arg-type]
    assert case.dice == expected.dice and case.overall.detection == expected.overall.detection


@pytest.mark.parametrize(
    "prediction", [np.zeros((8, 12, 11), np.uint8), Image(PREDICTION, Geometry((8, 12, 12), (2.0, 1.0, 1.0)))]
)
def test_masks_on_different_grids_are_refused(prediction: object) -> None:
    with pytest.raises(DetSeg3DError):
        detseg3d.evaluate(as_simpleitk(TRUTH), prediction)  # type: ignore[arg-type]
