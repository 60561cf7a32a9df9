from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.shift.conditions import conditions_of
from benchmarks.shift.scans import ChangedScans
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import write_image
from detseg3d.synthetic.shifts.shift import Strength
from detseg3d.system.json_files import write_json


@pytest.mark.parametrize("ending", [".nii.gz", ".npy"])
def test_thick_slices_are_read_back_with_their_spacing_and_the_classes_of_the_lesions(
    tmp_path: Path, ending: str
) -> None:
    folder = tmp_path / "Dataset001_Two"
    random = np.random.default_rng(0)
    image, label = random.normal(100, 10, (20, 16, 16)).astype(np.float32), np.zeros((20, 16, 16), np.uint8)
    label[2:6, 2:6, 2:6], label[11:17, 9:14, 9:14] = 2, 1
    files = {"images": "images/scan" + ending, "label": "labels/truth" + ending}
    write_image(image, Geometry(image.shape), folder / files["images"])
    write_image(label, Geometry(label.shape), folder / files["label"])
    write_json(
        {
            "channel_names": {"0": "FLAIR"},
            "labels": {"background": 0, "first": 1, "second": 2},
            "numTraining": 1,
            "file_ending": ending,
            "dataset": {"a": {"images": [files["images"]], "label": files["label"]}},
        },
        folder / "dataset.json",
    )
    scans = ChangedScans(load_raw_dataset(folder), tmp_path / "scans")
    conditions = conditions_of(["FLAIR"], ["thick_slices_z"], [Strength.MEDIUM])
    scans.prepare(conditions)
    scan = scans.read(conditions[1], "a")
    assert scan.geometry.spacing == (5.0, 1.0, 1.0)
    of_class = {
        number: sorted(set(np.unique(np.argwhere(scan.lesions.instances == number)[:, 1]))) for number in (1, 2)
    }
    assert {scan.lesions.classes[number]: rows[0] for number, rows in of_class.items()} == {1: 2, 0: 9}
    raw = load_raw_dataset(scans.raw_folder(conditions[1]).path)
    assert [case.case_id for case in raw.cases] == ["a"]
