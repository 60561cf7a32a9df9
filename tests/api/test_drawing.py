from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import detseg3d
from detseg3d.core.errors import DetSeg3DError
from tests.scans import make_scan

SCAN, LABEL = make_scan(101)


def test_a_scan_with_a_mask_is_drawn_and_written(tmp_path: Path) -> None:
    figure = detseg3d.draw(SCAN, LABEL, spacing=(1, 1, 1), output=tmp_path / "case.png")
    assert len(figure.axes) > 3
    assert (tmp_path / "case.png").read_bytes().startswith(b"\x89PNG")


def test_truth_and_prediction_of_a_model_are_drawn(tiny_model: Path) -> None:
    prediction = detseg3d.predict(SCAN, tiny_model, spacing=(1, 1, 1), folds=(0,), device="cpu")
    figure = detseg3d.draw(SCAN, prediction, LABEL, spacing=(1, 1, 1))
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("FOUND" in text for text in texts)


@pytest.mark.parametrize(
    ("prediction", "truth"),
    [(None, None), (LABEL[1:], None), (LABEL + 0.5, None), (None, -LABEL.astype(np.int16))],
    ids=["nothing", "another shape", "fractions", "negative"],
)
def test_what_cannot_be_drawn_is_refused(prediction: np.ndarray | None, truth: np.ndarray | None) -> None:
    with pytest.raises(DetSeg3DError):
        detseg3d.draw(SCAN, prediction, truth, spacing=(1, 1, 1))


def test_a_notebook_shows_the_figure_as_a_picture() -> None:
    figure = detseg3d.draw(SCAN, LABEL, spacing=(1, 1, 1))
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
