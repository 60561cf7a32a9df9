"""Masks of another system are judged as connected components, with scores if there is a probability map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.shift.masks import judge_stored_mask
from benchmarks.shift.scans import LabelledScan
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import RawDataset
from detseg3d.data.images import write_image
from detseg3d.data.labels import Lesions

SHAPE = (6, 8, 10)
GEOMETRY = Geometry(SHAPE, (2.0, 1.0, 1.0))
DATASET = RawDataset(Path(), "Dataset001_Test", ("FLAIR",), {"background": 0, "lesion": 1}, ".nii.gz", ())


@pytest.fixture
def scan() -> LabelledScan:
    """Two true lesions of eight voxels each."""
    instances = np.zeros(SHAPE, np.int32)
    instances[1:3, 1:3, 1:3], instances[3:5, 5:7, 6:8] = 1, 2
    return LabelledScan("case", np.zeros((1, *SHAPE), np.float32), GEOMETRY, Lesions(instances, {1: 0, 2: 0}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mask with the first lesion and a component apart."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 1:3, 1:3] = mask[5, 0, 9] = 1
    write_image(mask, GEOMETRY, tmp_path / "case.nii.gz")
    return tmp_path


def test_components_of_a_mask_are_lesions_without_scores(scan: LabelledScan, folder: Path) -> None:
    result = judge_stored_mask(scan, folder, DATASET)
    assert (result.counts.true_positives, result.counts.false_positives, result.counts.truth) == (1, 1, 2)
    assert [(lesion.number, lesion.found) for lesion in result.lesions] == [(1, True), (2, False)]
    assert result.scores is None and result.scores_any is None


def test_the_score_of_a_component_is_the_95th_percentile_of_its_probabilities(scan: LabelledScan, folder: Path) -> None:
    probability = np.full(SHAPE, 0.1, np.float32)
    probability[1:3, 1:3, 1:3], probability[2, 2, 2], probability[5, 0, 9] = 0.75, 1.0, 0.625
    np.savez(folder / "case.npz", probabilities=np.stack([1 - probability, probability]))
    result = judge_stored_mask(scan, folder, DATASET)
    assert result.scores is not None
    # The percentile lies at place 0.95 * 7 = 6.65 of the eight sorted values.
    assert result.scores.true_positive == pytest.approx((0.75 + 0.65 * 0.25,))
    assert result.scores.false_positive == (0.625,) and result.scores.truth[1] is None


def test_a_mask_on_another_grid_is_refused(scan: LabelledScan, folder: Path) -> None:
    file = folder / "case.nii.gz"
    write_image(np.zeros(SHAPE, np.uint8), Geometry(SHAPE, (2.0, 1.5, 1.0)), file)
    with pytest.raises(DetSeg3DError) as caught:
        judge_stored_mask(scan, folder, DATASET)
    assert caught.value.file == file
