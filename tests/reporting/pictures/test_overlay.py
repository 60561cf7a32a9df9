from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from detseg3d.reporting.pictures.case_view import CaseView, LesionMap
from detseg3d.reporting.pictures.overlay import PREDICTION_COLOR, TRUTH_COLOR, draw_case, save_figure


@pytest.fixture
def case() -> CaseView:
    """Return a case with a found lesion, a missed lesion and a false positive."""
    image = np.random.default_rng(0).normal(size=(8, 20, 24)).astype(np.float32)
    truth, prediction = np.zeros((2, *image.shape), np.int32)
    truth[2:4, 5:8, 5:8], truth[6, 15, 20] = 1, 2
    prediction[2:4, 6:9, 5:8], prediction[1, 1, 1] = 4, 9
    return CaseView(image, (3.0, 1.0, 1.0), LesionMap(truth), LesionMap(prediction, scores={4: 0.8125}))


def texts(figure: Figure) -> list[str]:
    return [text.get_text().strip() for axes in figure.axes for text in axes.texts]


def colors(figure: Figure) -> set[tuple[float, ...]]:
    return {
        tuple(collection.get_color()[0][:3])
        for axes in figure.axes
        for collection in axes.collections
        if len(collection.get_segments())
    }


def test_each_finding_has_the_number_of_its_lesion(case: CaseView) -> None:
    shown = texts(draw_case(replace(case, title="scan 7")))
    assert {"scan 7", "T2  MISSED", "9  FALSE POSITIVE", "4  FOUND", "score 0.81"} <= set(shown)
    assert any("2 lesions: 1 found, 1 missed" in text and "1 false positive" in text for text in shown)


def test_truth_and_prediction_are_outlined_in_their_colors(case: CaseView) -> None:
    both = {to_rgba(TRUTH_COLOR)[:3], to_rgba(PREDICTION_COLOR)[:3]}
    assert colors(draw_case(case)) == both
    assert colors(draw_case(replace(case, truth=None))) == {to_rgba(PREDICTION_COLOR)[:3]}


def test_pixels_keep_their_proportions(case: CaseView) -> None:
    figure = draw_case(replace(case, spacing=(3.0, 1.0, 0.5)))
    overview = [axes.images[0].get_extent() for axes in figure.axes if axes.images][:3]
    sizes = [(abs(right - left), abs(top - bottom)) for left, right, bottom, top in overview]
    assert sizes == [(12.0, 20.0), (12.0, 24.0), (20.0, 24.0)]
    shown = [axes for axes in figure.axes if axes.images]
    assert [(abs(np.diff(axes.get_xlim())[0]), abs(np.diff(axes.get_ylim())[0])) for axes in shown[:3]] == sizes
    assert all(axes.get_aspect() == 1 for axes in figure.axes if axes.images)


def test_no_more_than_the_maximum_is_shown(case: CaseView) -> None:
    shown = texts(draw_case(case, maximum=2))
    assert any("2 of 3 shown below" in text for text in shown)
    assert "9  FALSE POSITIVE" in shown
    assert not any(text.startswith("4 ") for text in shown)


def test_a_case_without_lesions_is_drawn(case: CaseView) -> None:
    empty = LesionMap(np.zeros(case.image.shape, np.uint8))
    shown = texts(draw_case(replace(case, truth=empty, prediction=empty)))
    assert any("0 lesions: 0 found, 0 missed" in text for text in shown)


def test_the_image_is_turned_with_its_outlines(case: CaseView) -> None:
    assert case.truth is not None and case.prediction is not None
    upside_down = CaseView(
        case.image[::-1],
        case.spacing,
        replace(case.truth, instances=case.truth.instances[::-1]),
        replace(case.prediction, instances=case.prediction.instances[::-1]),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, -1),
    )
    for first, second in zip(draw_case(case).axes, draw_case(upside_down).axes, strict=True):
        assert len(first.images) == len(second.images)
        for one, other in zip(first.images, second.images, strict=True):
            assert np.array_equal(one.get_array(), other.get_array())
        for one, other in zip(first.collections, second.collections, strict=True):
            assert np.array_equal(one.get_segments(), other.get_segments())


def test_an_image_that_is_not_finite_everywhere_is_drawn(case: CaseView, tmp_path: Path) -> None:
    case.image[0, 0, :3] = np.nan, np.inf, -np.inf
    save_figure(draw_case(case), tmp_path / "out.png", 30)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
