from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom.reader import describe_source
from detseg3d.data.images import read_image
from detseg3d.synthetic.follow_up import FollowUpOptions, simulate_pair
from detseg3d.synthetic.follow_up_files import write_follow_up_example
from detseg3d.system.json_files import read_json

OPTIONS = FollowUpOptions((32, 40, 40), (3.0, 3.0, 3.0), seed=0)


def test_each_patient_has_two_scans_with_instance_maps_and_the_truth(tmp_path: Path) -> None:
    folder = write_follow_up_example(tmp_path, 1, OPTIONS)
    pair = simulate_pair(OPTIONS)
    for side, scan in (("baseline", pair.earlier), ("follow_up", pair.later)):
        image = read_image(folder / side / "images" / "patient_001_0000.nii.gz")
        assert np.array_equal(image.array, scan.image.array)
        assert not image.geometry.difference(scan.image.geometry)
        assert np.array_equal(read_image(folder / side / "instances" / "patient_001.nii.gz").array, scan.instances)
    assert read_json(folder / "truth" / "patient_001.json") == pair.to_json()


def test_each_scan_can_be_written_as_a_dicom_series(tmp_path: Path) -> None:
    folder = write_follow_up_example(tmp_path, 1, OPTIONS, dicom=True)
    series = []
    for side, date in (("baseline", dt.date(2024, 1, 15)), ("follow_up", dt.date(2024, 7, 15))):
        path = folder / side / "dicom" / "patient_001"
        image, original = read_image(path), read_image(folder / side / "images" / "patient_001_0000.nii.gz")
        assert np.abs(image.array - original.array).max() <= 0.0501
        assert not image.geometry.difference(original.geometry)
        series.append(describe_source(path).series[0])
        assert (series[-1].patient_id, series[-1].date) == ("patient_001", date)
    for name in ("uid", "study_uid"):
        assert len({getattr(entry, name) for entry in series}) == 2


def test_an_existing_example_is_kept(tmp_path: Path) -> None:
    (tmp_path / "FollowUp_Example").mkdir()
    with pytest.raises(DetSeg3DError) as error:
        write_follow_up_example(tmp_path, 1, OPTIONS)
    assert error.value.file == tmp_path / "FollowUp_Example"


def test_no_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        write_follow_up_example(tmp_path, 0, OPTIONS)
    assert error.value.value == 0
