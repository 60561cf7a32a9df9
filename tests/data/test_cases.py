from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.cases import read_case, source_digest
from detseg3d.data.dataset import load_raw_dataset
from tests.preprocessing.factory import make_scan, write_dataset, write_volume


def read_with_label(tmp_path: Path, label: np.ndarray, spacing: tuple[int, int, int] = (1, 1, 1)):
    folder = write_dataset(tmp_path)
    write_volume(label, folder / "labelsTr" / "case0.nii.gz", spacing)
    raw = load_raw_dataset(folder)
    return read_case(raw.cases[0], raw)


def test_label_with_an_unknown_value_is_refused(tmp_path: Path) -> None:
    label = make_scan(0)[1] * 3
    with pytest.raises(DetSeg3DError) as caught:
        read_with_label(tmp_path, label)
    assert caught.value.value == f"3 ({np.count_nonzero(label)} voxels)"


def test_label_on_another_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="label is not on the grid of the image"):
        read_with_label(tmp_path, make_scan(0)[1], (2, 1, 1))


def test_label_of_fractions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="whole numbers"):
        read_with_label(tmp_path, make_scan(0)[1] * np.float32(0.5))


def test_label_stored_as_floating_point_is_read(tmp_path: Path) -> None:
    _, _, instances, classes = read_with_label(tmp_path, make_scan(0)[1].astype(np.float32))
    assert int(instances.max()) == len(classes) == 3


def test_missing_label_is_refused(tmp_path: Path) -> None:
    raw = load_raw_dataset(write_dataset(tmp_path))
    with pytest.raises(DetSeg3DError, match=r"has no label(.|\n)*case0.nii.gz(.|\n)*imagesTs"):
        read_case(replace(raw.cases[0], label=None), raw)


def test_source_digest_changes_with_the_files(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    cases = load_raw_dataset(folder).cases
    before = source_digest(cases[0])
    assert source_digest(cases[0]) == before
    write_volume(make_scan(0, lesions=1)[1], folder / "labelsTr" / "case0.nii.gz")
    assert source_digest(cases[0]) != before
