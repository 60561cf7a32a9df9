from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from detseg3d.reporting.pictures.overlay import PREDICTION_COLOR, TRUTH_COLOR, draw_case, save_figure


@pytest.fixture
def case() -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    image = np.random.default_rng(0).normal(size=(8, 20, 24)).astype(np.float32)
    truth, prediction = np.zeros((2, *image.shape), np.int32)
    truth[2:4, 5:8, 5:8], truth[6, 15, 20] = 1, 2
    prediction[2:4, 6:9, 5:8], prediction[1, 1, 1] = 4, 9
    return image, truth, prediction


def texts(figure: Figure) -> list[str]:
    return [text.get_text().strip() for axes in figure.axes for text in axes.texts]


def colors(figure: Figure) -> set[tuple[float, ...]]:
    return {
        tuple(collection.get_color()[0][:3])
        for axes in figure.axes
        for collection in axes.collections
        if len(collection.get_segments())
    }


def test_each_finding_is_labelled(case: tuple[npt.NDArray[Any], ...]) -> None:
    image, truth, prediction = case
    shown = texts(draw_case(image, (3, 1, 1), prediction, [{"id": 4, "score": 0.8125}], truth, title="scan 7"))
    assert {"scan 7", "1  MISSED", "2  FALSE POSITIVE", "3  FOUND", "score 0.81"} <= set(shown)
    assert any("2 lesions: 1 found, 1 missed" in text and "1 false positive" in text for text in shown)


def test_truth_and_prediction_are_outlined_in_their_colors(case: tuple[npt.NDArray[Any], ...]) -> None:
    image, truth, prediction = case
    both = {to_rgba(TRUTH_COLOR)[:3], to_rgba(PREDICTION_COLOR)[:3]}
    assert colors(draw_case(image, (1, 1, 1), prediction, None, truth)) == both
    assert colors(draw_case(image, (1, 1, 1), prediction)) == {to_rgba(PREDICTION_COLOR)[:3]}


def test_pixels_keep_their_proportions(case: tuple[npt.NDArray[Any], ...]) -> None:
    image, truth, prediction = case
    figure = draw_case(image, (3.0, 1.0, 0.5), prediction, None, truth)
    overview = [axes.images[0].get_extent() for axes in figure.axes if axes.images][:3]
    sizes = [(abs(right - left), abs(top - bottom)) for left, right, bottom, top in overview]
    assert sizes == [(12.0, 20.0), (12.0, 24.0), (20.0, 24.0)]
    shown = [axes for axes in figure.axes if axes.images]
    assert [(abs(np.diff(axes.get_xlim())[0]), abs(np.diff(axes.get_ylim())[0])) for axes in shown[:3]] == sizes
    assert all(axes.get_aspect() == 1 for axes in figure.axes if axes.images)


def test_no_more_than_the_maximum_is_shown(case: tuple[npt.NDArray[Any], ...]) -> None:
    image, truth, prediction = case
    shown = texts(draw_case(image, (1, 1, 1), prediction, None, truth, maximum=2))
    assert any("2 of 3 shown below" in text for text in shown)
    assert "2  FALSE POSITIVE" in shown
    assert not any(text.startswith("3 ") for text in shown)


def test_a_case_without_lesions_is_drawn(case: tuple[npt.NDArray[Any], ...]) -> None:
    image = case[0]
    empty = np.zeros(image.shape, np.uint8)
    assert any("0 lesions: 0 found, 0 missed" in text for text in texts(draw_case(image, (1, 1, 1), empty, [], empty)))


def test_the_image_is_turned_with_its_outlines(case: tuple[npt.NDArray[Any], ...]) -> None:
    image, truth, prediction = case
    straight = draw_case(image, (3, 1, 1), prediction, None, truth)
    upside_down = (1, 0, 0, 0, 1, 0, 0, 0, -1)
    turned = draw_case(image[::-1], (3, 1, 1), prediction[::-1], None, truth[::-1], direction=upside_down)
    for first, second in zip(straight.axes, turned.axes, strict=True):
        assert len(first.images) == len(second.images)
        for one, other in zip(first.images, second.images, strict=True):
            assert np.array_equal(one.get_array(), other.get_array())


def test_volumes_of_another_shape_are_refused(case: tuple[npt.NDArray[Any], ...]) -> None:
    image, truth, prediction = case
    with pytest.raises(ValueError, match=r"truth .* and image .* differ in shape"):
        draw_case(image, (1, 1, 1), prediction, None, truth[:3])


def test_not_a_number_in_the_image_is_no_obstacle(case: tuple[npt.NDArray[Any], ...], tmp_path: Path) -> None:
    image, truth, prediction = case
    image[0, 0, 0] = np.nan
    save_figure(draw_case(image, (1, 1, 1), prediction, None, truth), tmp_path / "out.png", 30)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
