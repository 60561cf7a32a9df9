"""Scans for the tests of the shifts: a bright body in noisy air, with balls as lesions."""

from __future__ import annotations

import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.synthetic.shifts.scan import Scan

CENTERS = ((12, 14, 15), (20, 26, 16), (13, 25, 30))
RADII = (4.0, 3.5, 1.2)
SHAPE = (30, 40, 44)


def ball(shape: tuple[int, ...], center: tuple[int, ...], radius: float) -> np.ndarray:
    """A mask of a ball, in voxels."""
    squared = sum((axis - place) ** 2 for axis, place in zip(np.indices(shape), center, strict=True))
    return squared <= radius**2


def make_scan(seed: int = 0, ct: bool = False, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Scan:
    """A body of 100 ± 5 (CT: 0 HU) with two large lesions and a small one of 180 (CT: 150 HU), in air of 3 ± 1."""
    random = np.random.default_rng(seed)
    body = ball(SHAPE, (15, 20, 22), 16)
    instances = np.zeros(SHAPE, np.int32)
    for number, (center, radius) in enumerate(zip(CENTERS, RADII, strict=True), start=1):
        instances[ball(SHAPE, center, radius)] = number
    air, tissue, lesion = (-1000, 0, 150) if ct else (3, 100, 180)
    image = np.where(instances > 0, lesion, np.where(body, tissue, air)) + random.normal(0, 5 if ct else 1, SHAPE)
    image += np.where(body, random.normal(0, 5, SHAPE), 0)
    geometry = Geometry(SHAPE, spacing, origin=(-20.0, 5.0, 100.0), direction=(0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1))
    return Scan(np.maximum(image, -1024 if ct else 0).astype(np.float32)[None], instances, geometry, (ct,))


def world_center(scan: Scan, number: int) -> np.ndarray:
    """Centre of a lesion in mm."""
    places = np.argwhere(scan.instances == number) + 0.5
    return scan.geometry.voxel_edges_to_world(places).mean(axis=0)
