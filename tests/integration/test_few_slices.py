"""Data sets whose scans have one, two or three slices, thin along any axis, through the commands' main functions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from detseg3d.cli import plan_and_preprocess, predict, train
from detseg3d.system.json_files import write_json

pytestmark = pytest.mark.usefixtures("quick_training")

NAME = "Dataset007_Thin"
CASES = 4


def write_thin_scan(folder: Path, part: str, index: int, shape: tuple[int, int, int]) -> None:
    """Noise with bright blocks that span every slice along the thin axis, or one of its slices."""
    random = np.random.default_rng(index)
    image, label = random.normal(100, 10, shape).astype(np.float32), np.zeros(shape, np.uint8)
    thin = int(np.argmin(shape))
    for block in range(3):
        region = [slice(a, a + 5) for a in random.integers(2, np.asarray(shape).clip(10) - 7)]
        region[thin] = slice(None) if block else slice(0, 1)
        label[tuple(region)] = 1
    image[label > 0] += 60
    spacing = [1.0, 1.0, 1.0]
    spacing[thin] = 5.0
    for kind, array, name in (("images", image, f"case{index}_0000"), ("labels", label, f"case{index}")):
        written = SimpleITK.GetImageFromArray(array)
        written.SetSpacing(spacing[::-1])
        (folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(written, str(folder / f"{kind}{part}" / f"{name}.nii.gz"))


@pytest.mark.parametrize("shape", [(1, 48, 44), (2, 48, 44), (40, 44, 3)])
def test_a_set_of_few_slices_is_planned_trained_and_predicted(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    raw = tmp_path / "raw" / NAME
    for index in range(CASES + 1):
        write_thin_scan(raw, "Tr" if index < CASES else "Ts", index, shape)
    write_json(
        {
            "channel_names": {"0": "MR"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": CASES,
            "file_ending": ".nii.gz",
        },
        raw / "dataset.json",
    )
    roots = ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "pre")]
    results = ["--results", str(tmp_path / "results")]
    assert plan_and_preprocess.main(["-d", "7", *roots, "--verify", "-np", "0", "--val_split", "0.25"]) == 0
    quick = ["--max_minutes", "0.05", "--num_workers", "0", "-device", "cpu"]
    assert train.main(["7", "0", *roots, *results, *quick]) == 0
    predictions = tmp_path / "predictions"
    words = ["-i", str(raw / "imagesTs"), "-o", str(predictions), "-d", "7", "-f", "0", *results]
    assert predict.main([*words, "--candidate_threshold", "0.05", "--score_threshold", "0.05"]) == 0
    mask = SimpleITK.ReadImage(str(predictions / f"case{CASES}.nii.gz"))
    assert mask.GetSize() == shape[::-1]
    assert json.loads((predictions / "rois" / f"case{CASES}.json").read_text(encoding="utf-8"))
