from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.arrays import evaluate_arrays
from detseg3d.evaluation.definitions.lesionwise import GLIOMA
from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.metrics import Criterion
from detseg3d.evaluation.summary import summarize
from tests.evaluations import evaluate_maps

SPACING = (3.0, 1.0, 0.5)


def volume(*values: float, dtype: Any = np.uint8) -> npt.NDArray[Any]:
    array = np.zeros((2, 3, 12), dtype)
    array[0, 0, : len(values)] = values
    return array


TRUTH = volume(1, 1, 0, 1, 0, 1, 1, 1)  # three lesions
PREDICTION = volume(1, 1, 0, 0, 0, 0, 1, 0, 0, 1)  # finds two of them, and one false positive


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int64, np.float32, np.float64])
def test_components_of_any_type_are_lesions(dtype: Any) -> None:
    case = evaluate_arrays(TRUTH.astype(dtype), PREDICTION.astype(dtype), SPACING)
    counts = case.overall.detection["any"]
    assert (counts.truth, counts.found, counts.predictions, counts.true_positives) == (3, 2, 3, 2)
    assert case.dice == pytest.approx(6 / 10)
    assert [lesion.volume_mm3 for lesion in case.lesions if lesion.kind == "truth"] == [3.0, 1.5, 4.5]


def test_every_metric_is_computed() -> None:
    case = evaluate_arrays(TRUTH, PREDICTION, SPACING, scores=volume(0.2, 0.9, 0, 0, 0, 0, 0.4, 0, 0, 0.6, dtype=float))
    assert case.outlines is not None
    assert all(value is not None for value in case.outlines.overall.to_json().values())
    scores = [lesion.score for lesion in case.lesions if lesion.kind == "prediction"]
    assert scores == [0.9, 0.4, 0.6]
    summary = summarize([case])
    assert summary.scores is not None
    assert summary.scores[Criterion.ANY].average_precision == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)


def test_the_lesions_can_have_any_value() -> None:
    one, other = (evaluate_arrays(value * TRUTH, value * PREDICTION, SPACING) for value in (np.uint8(1), np.uint8(255)))
    assert one == other


def test_classes_are_connected_and_compared_separately() -> None:
    case = evaluate_arrays(volume(1, 1, 2, 2), volume(1, 2, 2, 2), SPACING, classes={"core": 1, "rim": 2})
    assert list(case.classes) == ["core", "rim"]
    assert [part.detection["any"].truth for part in case.classes.values()] == [1, 1]
    assert case.classes["core"].dice == pytest.approx(2 / 3)


def test_options_and_the_case_name_are_passed_on() -> None:
    case = evaluate_arrays(TRUTH, PREDICTION, SPACING, variants=MetricVariants(lesionwise=GLIOMA), case_id="x")
    assert case.outlines is not None
    assert case.outlines.overall.lesionwise.truth == 0  # nothing is above 50 mm³
    assert {case.case_id, *(lesion.case_id for lesion in case.lesions)} == {"x"}


def test_a_case_without_lesions_can_be_evaluated() -> None:
    nothing = volume()
    assert evaluate_arrays(nothing, nothing, SPACING).dice == 1.0
    assert evaluate_arrays(TRUTH, nothing, SPACING).dice == 0.0


@pytest.mark.parametrize(
    ("truth", "prediction", "options", "problem"),
    [
        (volume(1, 0, 2, 0, 3), volume(1), {}, "ambiguous"),
        (volume(1, 2), volume(2, 1), {}, "ambiguous"),
        (volume(255), volume(1), {}, "different values"),
        (volume(1), volume(1, 7), {"classes": {"lesion": 1}}, "values that belong to no class"),
        (volume(1), volume(1), {"classes": {"a": 1, "b": 1}}, "values of the classes"),
        (volume(1), volume(1), {"classes": {}}, "values of the classes"),
        (volume(0.5, dtype=float), volume(1), {}, "whole numbers"),
        (volume(1), volume(np.nan, dtype=float), {}, "whole numbers"),
        (volume(-1, dtype=np.int16), volume(1), {}, "negative"),
        (volume(1)[:1], volume(1), {}, "not two volumes"),
        (volume(1)[None], volume(1)[None], {}, "not two volumes"),
        (volume(1), np.full((2, 3, 12), "1"), {}, "are not numbers"),
        (volume(1), volume(1), {"scores": np.zeros((2, 3))}, "different shapes"),
        (volume(1), volume(1), {"scores": volume(np.nan, dtype=float)}, "NaN or infinite"),
    ],
)
def test_ambiguous_or_wrong_arrays_are_refused(
    truth: npt.NDArray[Any], prediction: npt.NDArray[Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        evaluate_arrays(truth, prediction, SPACING, **options)
    assert problem in caught.value.problem


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, np.nan, 1.0)])
def test_an_invalid_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(DetSeg3DError, match="spacing"):
        evaluate_arrays(TRUTH, PREDICTION, spacing)


def test_masks_are_not_mistaken_for_instance_maps(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="evaluate_arrays"):
        evaluate_maps("a", TRUTH.astype(bool), PREDICTION.astype(bool), SPACING)
    with caplog.at_level(logging.WARNING):
        evaluate_maps("a", volume(1, 1), volume(0, 1), SPACING)
        evaluate_maps("a", volume(1, 0, 2), volume(1, 0, 1), SPACING)
        assert not caplog.records
        evaluate_maps("a", TRUTH, PREDICTION, SPACING)
    assert "evaluate_arrays" in caplog.text
