"""A small raw data set on disk and plans for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from detseg3d.planning.plans import Plans, parse_plans
from detseg3d.system.json_files import write_json


def make_plans(**changes: Any) -> Plans:
    data: dict[str, Any] = {
        "dataset_name": "Dataset001_Test",
        "file_ending": ".nii.gz",
        "channel_names": ["FLAIR"],
        "class_names": ["lesion"],
        "class_labels": [1],
        "normalization": [{"scheme": "zscore"}],
        "fine_spacing": [1, 1, 1],
        "detection_spacing": [1, 1, 1],
        "planned_shape": [24, 24, 24],
        "stage1": {
            "channels": [8],
            "strides": [[2, 2, 2]],
            "kernels": [[3, 3, 3]],
            "blocks": [1],
            "fpn_channels": 8,
            "head_stages": [0],
            "level_max_sizes": [],
        },
        "roi": {"size": [16, 16, 16], "minimum_extent": [12, 12, 12]},
        "stage2": {"channels": [8, 16], "strides": [[2, 2, 2]], "kernels": [[3, 3, 3]] * 2},
        "training": {"curriculum": [{"fraction": 1, "window": None}]},
        "inference": {},
        "recall_bound": {"lesions": 0, "found": 0, "bound": 1},
    }
    return parse_plans({**data, **changes})


def make_scan(seed: int, shape: Sequence[int] = (16, 18, 20), lesions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A body on black ground with bright lesions of one to 27 voxels, and its label."""
    random = np.random.default_rng(seed)
    image = np.zeros(shape, np.float32)
    image[2:-2, 2:-2, 3:-3] = random.normal(100, 5, [n - k for n, k in zip(shape, (4, 4, 6), strict=True)])
    label = np.zeros(shape, np.uint8)
    for index in range(lesions):
        low = (3 + 4 * (index % 3), 3 + 4 * (index // 3 % 3), 4 + 4 * (index // 9))
        label[tuple(slice(a, a + 1 + index % 3) for a in low)] = 1
    image[label > 0] += 60
    return image, label


def write_volume(array: np.ndarray, path: Path, spacing: Sequence[float] = (1, 1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([float(length) for length in reversed(spacing)])
    SimpleITK.WriteImage(image, str(path))


def write_dataset(
    root: Path,
    lesions: Sequence[int] = (3, 0, 5, 2),
    spacing: Sequence[float] = (1, 1, 1),
    name: str = "Dataset001_Test",
    **description: Any,
) -> Path:
    """A data set with one case per entry of ``lesions``."""
    folder = root / name
    for index, count in enumerate(lesions):
        image, label = make_scan(index, lesions=count)
        write_volume(image, folder / "imagesTr" / f"case{index}_0000.nii.gz", spacing)
        write_volume(label, folder / "labelsTr" / f"case{index}.nii.gz", spacing)
    settings = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(lesions),
        "file_ending": ".nii.gz",
    }
    write_json({**settings, **description}, folder / "dataset.json")
    return folder
