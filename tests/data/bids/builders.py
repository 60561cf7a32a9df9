"""Small data sets in BIDS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image

GRID = Geometry((3, 4, 5), (2.0, 1.0, 0.5), (10.0, 20.0, 30.0))


def add_image(root: Path, name: str, folder: str = "anat", geometry: Geometry = GRID) -> Path:
    """Write an image with random voxels to the folder of its subject and session."""
    path = _path(root, name, folder)
    rng = np.random.default_rng(list(name.encode()))
    write_image(rng.normal(size=geometry.shape).astype(np.float32), geometry, path)
    return path


def add_mask(
    root: Path, name: str, values: tuple[int, ...] = (1,), folder: str = "anat", geometry: Geometry = GRID
) -> Path:
    """Write a mask with one voxel of each value."""
    path = _path(root, name, folder)
    mask = np.zeros(geometry.shape, np.uint8)
    mask[0, 0, : len(values)] = values
    write_image(mask, geometry, path)
    return path


def _path(root: Path, name: str, folder: str) -> Path:
    parts = [part for part in name.split("_")[:2] if part[:4] in ("sub-", "ses-")]
    path = root.joinpath(*parts, *([folder] if folder else []), f"{name}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
