"""A scan whose feature maps do not fit into the memory is predicted in slabs, with the same lesions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.inference.memory import prediction_bytes, slabs_that_fit
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans
from detseg3d.planning.slabs import Passes
from detseg3d.preprocessing.case import CaseTransform, case_transform, preprocess_case
from detseg3d.system.device import compute_in
from tests.inference.conftest import load
from tests.scans import make_scan

CPU = torch.device("cpu")
SPACING = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module", autouse=True)
def single_precision() -> Iterator[None]:
    """Rounding of half precision would hide errors."""
    compute_in(CPU, Precision.FP32)
    yield
    compute_in(CPU, Precision.AUTO)


def cube(plans: Plans, *shape: int) -> CaseTransform:
    return case_transform(shape, SPACING, (0, 0, 0, *shape), plans)


def predict_in(predictor: Predictor, scan: np.ndarray, slabs: int, spacing: Sequence[float] = SPACING) -> Prediction:
    """Predict in this number of slabs, even though the scan is small, and check the message."""
    messages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detseg3d.inference.predictor.slabs_that_fit", lambda *_: slabs)
        patch.setattr("detseg3d.inference.predictor.logger.info", lambda text, *values: messages.append(text % values))
        prediction = predictor.predict_array(scan, spacing)
    about_slabs = [message for message in messages if "slabs" in message]
    assert len(about_slabs) == (slabs > 1)
    assert all(f" {slabs} slabs" in message for message in about_slabs)
    return prediction


def assert_same_lesions(whole: Prediction, other: Prediction) -> None:
    assert len(whole.lesions) == len(other.lesions) > 0
    for one, two in zip(whole.lesions, other.lesions, strict=True):
        assert one.box == pytest.approx(two.box, abs=1e-2)
        assert one.score == pytest.approx(two.score, abs=1e-3)
    different = np.count_nonzero(whole.instances != other.instances)
    assert different <= 0.005 * np.count_nonzero(whole.instances)


@pytest.mark.parametrize("several", [False, True], ids=["one fold", "two mirrored folds"])
def test_slabs_give_the_lesions_of_the_whole(tiny_model: Path, several: bool) -> None:
    # Odd lengths; y is the longest axis.
    scan, _ = make_scan(201, lesions=8, shape=(37, 61, 45))
    predictor = load(tiny_model, folds=(0, 1) if several else (0,), use_mirroring=several)
    whole = predict_in(predictor, scan, 1)
    for slabs in (3,) if several else (2, 3):
        assert_same_lesions(whole, predict_in(predictor, scan, slabs))


def test_a_lesion_across_the_border_of_two_slabs_is_found_once(tiny_model: Path) -> None:
    scan, _ = make_scan(202, lesions=0, shape=(71, 40, 40))
    # The body begins at slice 2 and has 66 slices, so the border lies in slice 35.
    around = (slice(33, 38), slice(18, 23), slice(18, 23))
    scan[around] += 60
    prediction = predict_in(load(tiny_model, use_mirroring=False), scan, 2)
    inside = [lesion for lesion in prediction.lesions if (prediction.instances[around] == lesion.id).any()]
    assert len(inside) == 1
    assert np.count_nonzero(prediction.instances[around] == inside[0].id) > 0.7 * 5**3


def test_thick_slices_give_the_same_lesions_in_slabs(tiny_model: Path) -> None:
    scan, _ = make_scan(203, lesions=6, shape=(60, 64, 40))
    thick = scan[::3]  # slices of 3 mm, which are resampled to 1 mm
    predictor = load(tiny_model, use_mirroring=False)
    whole, slabs = (predict_in(predictor, thick, count, (3.0, 1.0, 1.0)) for count in (1, 3))
    assert_same_lesions(whole, slabs)


def test_the_number_of_slabs_is_the_smallest_that_fits(tiny_plans: Plans) -> None:
    transform = cube(tiny_plans, 400, 200, 200)
    needs = {
        slabs: prediction_bytes(tiny_plans, transform, CPU, passes=Passes(slabs, several=False))
        for slabs in range(1, 9)
    }
    for limit in np.linspace(needs[8], needs[1] * 1.01, 9):
        slabs = slabs_that_fit(tiny_plans, transform, CPU, limit, several_passes=False)
        assert needs[slabs] <= limit
        assert all(needs[fewer] > limit for fewer in range(1, slabs))
    assert slabs_that_fit(tiny_plans, transform, CPU, None) == 1
    # An accelerator holds the feature maps in its own memory.
    assert slabs_that_fit(tiny_plans, transform, torch.device("cuda"), 1.0) == 1


def test_slabs_need_less_memory_but_hold_the_image(tiny_plans: Plans) -> None:
    transform = cube(tiny_plans, 400, 200, 200)
    whole, slabs = (
        prediction_bytes(tiny_plans, transform, CPU, passes=Passes(count, several=False)) for count in (1, 20)
    )
    assert math.prod(transform.fine_shape) * 4 < slabs < whole


def limits(predictor: Predictor, scan: np.ndarray) -> tuple[float, float]:
    """The least memory in GB that a scan needs in slabs and as a whole, with the scan itself."""
    transform = preprocess_case(scan[None], SPACING, predictor.plans).transform
    slabs = slabs_that_fit(predictor.plans, transform, CPU, 0.0, several_passes=False)
    least, whole = (
        prediction_bytes(predictor.plans, transform, CPU, passes=Passes(count, several=False)) for count in (slabs, 1)
    )
    return (least + scan.nbytes + 1) / 1e9, (whole + scan.nbytes + 1) / 1e9


def test_the_limit_of_the_memory_decides(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    scan, _ = make_scan(204, shape=(100, 50, 50))
    predictor = load(tiny_model, use_mirroring=False)
    least, whole = limits(predictor, scan)
    assert least < whole
    lesions = []
    for limit, in_slabs in ((whole, False), (least, True)):
        predictor.memory_gb = limit
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="detseg3d.inference.predictor"):
            lesions.append(len(predictor.predict_array(scan, SPACING).lesions))
        assert ("slabs" in caplog.text) == in_slabs
    assert lesions[0] == lesions[1] > 0
    predictor.memory_gb = 0.99 * least
    with pytest.raises(DetSeg3DError) as error:
        predictor.predict_array(scan, SPACING)
    assert "as allowed" in str(error.value.expected)


def test_a_network_that_cannot_run_in_slabs_is_refused_a_large_scan(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, _ = make_scan(204, shape=(100, 50, 50))
    predictor = load(tiny_model)
    predictor.memory_gb, _ = limits(predictor, scan)
    monkeypatch.setattr(DetSeg3D, "runs_in_slabs", False)
    with pytest.raises(DetSeg3DError) as error:
        predictor.predict_array(scan, SPACING)
    assert "as allowed" in str(error.value.expected)
    with pytest.raises(DetSeg3DError) as error:
        predictor.models[0].detect_in_slabs(torch.zeros(1, 1, 16, 16, 16), 2)
    assert "DetSeg3D, 2 slabs" in str(error.value.value)
