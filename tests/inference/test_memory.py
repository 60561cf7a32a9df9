"""A scan that is too large is refused before its memory is taken, and costs no other scan."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.inference.memory import prediction_bytes
from detseg3d.inference.predictor import Predictor
from detseg3d.pipeline.predict import OutputOptions, predict_cases
from detseg3d.planning.plans import Plans
from detseg3d.preprocessing.case import case_transform
from tests.inference.conftest import load
from tests.scans import make_scan


def huge_scan(path: Path) -> None:
    """A scan of 4000³ voxels, 256 GB, of which the disk stores nothing."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(4000, 4000, 4000)).flush()


def test_a_huge_scan_is_refused_by_name_and_the_others_are_predicted(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    huge_scan(tmp_path / "in" / "huge.npy")
    np.save(tmp_path / "in" / "small.npy", make_scan(200)[0])
    failures = predict_cases(
        predictor, predictor.list_inputs(tmp_path / "in"), tmp_path / "out", output=OutputOptions(show_progress=False)
    )
    assert list(failures) == ["huge"]
    assert "reading this scan of 4000×4000×4000 voxels needs about 512 GB of memory" in failures["huge"]
    assert (tmp_path / "out" / "rois" / "small.json").exists()


def test_a_scan_beyond_the_allowance_is_refused(tiny_model: Path) -> None:
    scan, _ = make_scan(200)
    narrow = load(tiny_model, memory_gb=1e-4)
    with pytest.raises(DetSeg3DError, match=r"predicting this scan, .*GB(.|\n)*as allowed(.|\n)*--memory_gb"):
        narrow.predict_array(scan, (1.0, 1.0, 1.0))
    wide = load(tiny_model, memory_gb=1.0)
    assert wide.predict_array(scan, (1.0, 1.0, 1.0)).lesions


def test_a_wrong_spacing_that_blows_the_scan_up_is_refused(predictor: Predictor) -> None:
    scan, _ = make_scan(200)
    with pytest.raises(DetSeg3DError, match=r"voxels of the fine grid, needs about .* GB"):
        predictor.predict_array(scan, (50.0, 50.0, 50.0))


def test_a_file_beyond_the_allowance_is_not_even_read(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr("detseg3d.inference.predictor.read_channels", fail)
    scan, _ = make_scan(200)
    for ending in (".nii.gz", ".mha", ".nrrd", ".npy"):
        write_image(scan, Geometry(scan.shape), tmp_path / "in" / f"a{ending}")
        narrow = load(tiny_model, memory_gb=1e-5)
        cases = narrow.list_inputs(tmp_path / "in" / f"a{ending}")
        failures = predict_cases(narrow, cases, tmp_path / "out", output=OutputOptions(show_progress=False))
        assert "reading this scan" in failures["a"], ending


def test_on_an_accelerator_the_feature_maps_do_not_count(tiny_plans: Plans) -> None:
    transform = case_transform((64, 64, 64), (1.0, 1.0, 1.0), (0, 0, 0, 64, 64, 64), tiny_plans)
    beside = prediction_bytes(tiny_plans, transform, torch.device("cuda"))
    masks = tiny_plans.inference.candidate_limit(64**3) * math.prod(tiny_plans.roi.size) * 2
    assert beside == pytest.approx(1.1 * (64**3 * (4 + 6) + masks))
    assert prediction_bytes(tiny_plans, transform, torch.device("cpu")) > beside


def test_masks_on_a_finer_grid_than_the_networks_count(tiny_plans: Plans) -> None:
    def need(spacing: float) -> float:
        side = round(64 / spacing)
        box = (0, 0, 0, side, side, side)
        transform = case_transform((side,) * 3, (spacing,) * 3, box, tiny_plans)
        assert math.prod(transform.fine_shape) == 64**3
        return prediction_bytes(tiny_plans, transform, torch.device("cpu"))

    assert need(0.5) - need(1.0) == pytest.approx(1.1 * 6 * (128**3 - 64**3))


def test_large_rois_count(tiny_plans: Plans) -> None:
    # Two RoIs of 64³ samples at a time, some maps of 8 channels of them; and the masks of 500 candidates.
    transform = case_transform((40, 40, 40), (1.0, 1.0, 1.0), (0, 0, 0, 40, 40, 40), tiny_plans)
    small, large = (
        tiny_plans.evolve(roi={"size": (edge,) * 3}, inference={"roi_batch_size": 2, "min_candidates": 500})
        for edge in (16, 64)
    )
    more = prediction_bytes(large, transform, torch.device("cpu")) - prediction_bytes(
        small, transform, torch.device("cpu")
    )
    samples = 64**3 - 16**3
    assert more >= 500 * samples * 2 + 2 * samples * tiny_plans.stage2.channels[0] * 2 * 4


def test_the_candidates_that_a_larger_scan_may_have_count(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"candidate_density": 1e-3, "max_candidates": 10_000})
    masks = []
    for side in (64, 128):
        transform = case_transform((side,) * 3, (1.0, 1.0, 1.0), (0, 0, 0, *(side,) * 3), plans)
        masks.append(prediction_bytes(plans, transform, torch.device("cuda")) / 1.1 - side**3 * (4 + 6))
    of_one = math.prod(plans.roi.size) * 2
    assert masks == pytest.approx([263 * of_one, 2098 * of_one])
