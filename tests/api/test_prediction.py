from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

import detseg3d
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_image, write_image
from detseg3d.inference.load_options import LoadOptions
from detseg3d.pipeline.exchange import export_model
from tests.scans import make_scan

SCAN, LABEL = make_scan(101)


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> detseg3d.Predictor:
    return detseg3d.Predictor.from_model_folder(tiny_model, (0,), LoadOptions(device="cpu"))


@pytest.fixture(scope="module")
def prediction(predictor: detseg3d.Predictor) -> detseg3d.Prediction:
    return detseg3d.predict(SCAN, predictor, spacing=(1, 1, 1))


def test_a_model_folder_and_a_loaded_model_predict_the_same(tiny_model: Path, prediction: detseg3d.Prediction) -> None:
    again = detseg3d.predict(SCAN, tiny_model, spacing=(1, 1, 1), folds=(0,), device="cpu")
    assert np.array_equal(again.instances, prediction.instances) and len(prediction.lesions) == 4


def test_a_model_file_predicts_like_the_folder_that_it_was_exported_from(
    tiny_model: Path, prediction: detseg3d.Prediction, tmp_path: Path
) -> None:
    export_model(tiny_model, tmp_path / "model.safetensors", folds=[0])
    again = detseg3d.predict(SCAN, tmp_path / "model.safetensors", spacing=(1, 1, 1), device="cpu")
    assert np.array_equal(again.instances, prediction.instances)


def test_every_kind_of_image_gives_the_same_lesions(
    predictor: detseg3d.Predictor, prediction: detseg3d.Prediction, tmp_path: Path
) -> None:
    path = tmp_path / "scan.nii.gz"
    write_image(SCAN, Geometry(SCAN.shape), path)
    for image in (path, SimpleITK.ReadImage(str(path)), nibabel.load(path), detseg3d.read_image(path)):
        assert np.array_equal(detseg3d.predict(image, predictor).instances, prediction.instances)


def test_a_mask_returns_to_the_axes_of_a_simpleitk_image(predictor: detseg3d.Predictor) -> None:
    source = SimpleITK.GetImageFromArray(SCAN[::-1].copy())
    source.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    prediction = detseg3d.predict(source, predictor)
    mask = SimpleITK.GetArrayFromImage(detseg3d.to_simpleitk(prediction.semantic, prediction.geometry))
    overlap = (mask[::-1] > 0) & (LABEL > 0)
    assert 2 * overlap.sum() / ((mask > 0).sum() + (LABEL > 0).sum()) > 0.8


def test_probabilities_are_returned_on_request(predictor: detseg3d.Predictor) -> None:
    result = detseg3d.predict(SCAN, predictor, spacing=(1, 1, 1), probabilities=True)
    assert result.probabilities is not None and result.probabilities.shape == (1, *SCAN.shape)


def test_folds_of_a_loaded_model_cannot_be_changed(predictor: detseg3d.Predictor) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        detseg3d.predict(SCAN, predictor, spacing=(1, 1, 1), folds=(1,))
    assert caught.value.expected is not None


def test_the_model_determines_the_number_of_channels(predictor: detseg3d.Predictor) -> None:
    with pytest.raises(DetSeg3DError):
        detseg3d.predict([SCAN, SCAN], predictor, spacing=(1, 1, 1))


def test_a_folder_of_scans_is_predicted_and_a_damaged_scan_is_named(
    predictor: detseg3d.Predictor, prediction: detseg3d.Prediction, tmp_path: Path
) -> None:
    write_image(SCAN, Geometry(SCAN.shape), tmp_path / "scans" / "good_0000.nii.gz")
    (tmp_path / "scans" / "bad_0000.nii.gz").write_bytes(b"no image")
    failures = detseg3d.predict_folder(tmp_path / "scans", tmp_path / "out", predictor, show_progress=False)
    assert list(failures) == ["bad"]
    assert np.array_equal(read_image(tmp_path / "out" / "good.nii.gz").array, prediction.semantic)
