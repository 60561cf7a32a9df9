from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import detseg3d
from detseg3d.api.patient_report import report_patient
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.follow.compare import FollowOptions
from detseg3d.follow.registration import RegistrationMethod
from detseg3d.inference.result import PredictedLesion, Prediction
from detseg3d.measures.measure import measure_lesions
from detseg3d.planning.thresholds import Thresholds

SHAPE = (12, 16, 16)


@pytest.fixture
def prediction() -> Prediction:
    instances, geometry = np.zeros(SHAPE, np.uint16), Geometry(SHAPE, (2.0, 1.0, 1.0))
    instances[4:8, 5:9, 5:9] = 1
    (measures,) = measure_lesions(instances, [1], geometry)
    box = (4.0, 5.0, 5.0, 8.0, 9.0, 9.0)
    place = {"box": box, "box_world": ((0, 0, 0), (1, 1, 1)), "center": (6, 7, 7), "center_world": (7, 7, 12)}
    lesion = PredictedLesion("cyst", 1, 0.75, 0.7, 0.8, **place, id=1, measures=measures)
    image = np.random.default_rng(0).normal(size=SHAPE)
    return Prediction(
        (instances > 0).astype(np.uint8),
        instances,
        (lesion,),
        (),
        geometry,
        image=image,
        thresholds=Thresholds(score_threshold=0.61),
    )


def test_a_prediction_in_memory_becomes_a_page(prediction: Prediction, tmp_path: Path) -> None:
    page = report_patient(prediction, tmp_path / "page.html", name="<smith>", date="2024-01-02")
    html = page.read_text(encoding="utf-8")
    assert detseg3d.report_patient is report_patient
    for part in ("&lt;smith&gt;", "2024-01-02", "0.61", "1 lesion with a total volume of 128 mm³"):
        assert part in html
    assert html.count("<svg") == 6
    assert "<smith>" not in html


def test_the_follow_up_must_end_with_the_prediction(prediction: Prediction, tmp_path: Path) -> None:
    options = FollowOptions(RegistrationMethod.NONE)
    healthy = replace(prediction, instances=np.zeros_like(prediction.instances), lesions=())
    right = detseg3d.follow_lesions([healthy, prediction], options=options)
    page = report_patient(prediction, tmp_path / "page.html", follow_up=right)
    assert "scan 1 → scan 2" in page.read_text(encoding="utf-8")
    wrong = detseg3d.follow_lesions([prediction, healthy], options=options)
    with pytest.raises(DetSeg3DError):
        report_patient(prediction, tmp_path / "other.html", follow_up=wrong)


def test_an_image_on_another_grid_is_refused(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError):
        report_patient(prediction, tmp_path / "page.html", np.zeros(SHAPE), spacing=(1, 1, 1))
