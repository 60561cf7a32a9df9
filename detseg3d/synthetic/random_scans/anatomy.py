"""Random anatomies: a map of regions that resembles a head, a chest, an abdomen, or no body at all.

A region has a number, and nothing else. Its intensity and texture are drawn later and differ between scans. Structures
that resemble lesions (vessels, membranes, capsules, spots outside the body) are regions, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.synthetic.random_scans.canvas import Canvas, Volume

__all__ = ["AIR", "Anatomy", "draw_anatomy"]

AIR = 0
"""Region outside the body."""

Place = tuple[float, float, float]

_MAX_SPOTS = 8
_MAX_TUBES = 10
_MAX_CAPSULES = 5


@dataclass(frozen=True)
class Anatomy:
    """Regions of a scan.

    Attributes
    ----------
    regions : ndarray of uint8, shape ``(Z, Y, X)``
        Number of the region of each voxel. 0 is air.
    hosts : tuple of int
        Regions in which lesions may lie.
    mimics : tuple of int
        Regions of structures that resemble lesions.
    """

    regions: npt.NDArray[np.uint8]
    hosts: tuple[int, ...]
    mimics: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of regions, with air."""
        return max(int(self.regions.max()), *self.hosts, *self.mimics, 0) + 1


def draw_anatomy(canvas: Canvas) -> Anatomy:
    """Draw a random anatomy of a random kind.

    Parameters
    ----------
    canvas : Canvas

    Returns
    -------
    Anatomy
    """
    kinds: tuple[Callable[[Canvas], Anatomy], ...] = (_head, _chest, _abdomen, _tissue)
    kind = kinds[int(canvas.random.choice(len(kinds), p=(0.35, 0.2, 0.25, 0.2)))]
    return _add_mimics(canvas, kind(canvas))


def _body(canvas: Canvas, is_cylinder: bool) -> Volume:
    """Return the normalised radius of a body: below 1 inside. The body may extend beyond the canvas."""
    random = canvas.random
    center = canvas.half * (1 + random.uniform(-0.12, 0.12, 3))
    semi_axes = canvas.half * random.uniform(0.75, 1.15) * random.uniform(0.88, 1.0, 3)
    if is_cylinder:
        semi_axes[0] = canvas.half[0] * random.uniform(2, 6)
    scale = float(canvas.half.mean())
    bumps = canvas.smooth(0.7 * scale) + 0.4 * canvas.smooth(0.3 * scale)
    radius: Volume = canvas.radius(center, semi_axes) * (1 + np.float32(random.uniform(0.01, 0.06)) * bumps)
    return radius


def _organ(canvas: Canvas, place: Place, size: Place, bumps: Volume) -> Volume:
    """Return the normalised radius of an organ; ``place`` and ``size`` are in units of half the canvas."""
    random = canvas.random
    center = canvas.half * (1 + np.asarray(place) + random.normal(0, 0.04, 3))
    semi_axes = canvas.half * np.asarray(size) * random.uniform(0.8, 1.25, 3)
    radius: Volume = canvas.radius(center, semi_axes) * (1 + np.float32(random.uniform(0.03, 0.15)) * bumps)
    return radius


def _head(canvas: Canvas) -> Anatomy:
    """Draw skin, skull, fluid, folded cortex, white matter, ventricles and nuclei. Some heads have no skull."""
    random = canvas.random
    body = _body(canvas, is_cylinder=False)
    folds = canvas.smooth(random.uniform(3, 6)) + canvas.smooth(random.uniform(6, 12))
    depth = np.float32(random.uniform(0.02, 0.07)) * folds
    skull, fluid, cortex, white = np.cumsum(random.uniform((0.04, 0.03, 0.01, 0.05), (0.1, 0.1, 0.05, 0.16)))
    regions = np.zeros(canvas.shape, np.uint8)
    regions[body < 1] = 1
    regions[body < 1 - skull] = 2
    regions[body < 1 - fluid] = 3
    inner = body < 1 - fluid
    regions[inner & (body + depth < 1 - cortex)] = 4
    regions[inner & (body + 1.4 * depth < 1 - white)] = 5
    size = random.uniform(0.6, 1.6)
    for side in (-1, 1):
        ventricle = _organ(canvas, (0.02, 0.0, 0.09 * side), (0.2 * size, 0.32 * size, 0.07 * size), folds)
        nucleus = _organ(canvas, (0.0, 0.05, 0.28 * side), (0.14, 0.18, 0.1), folds)
        regions[(nucleus < 1) & inner] = 6
        regions[(ventricle < 1) & inner] = 3
    if random.random() < 0.5:
        regions[_membrane(canvas, body, (0, 0, 1)) & inner & (body > 0.35)] = 3
    if random.random() < 0.4:  # as after skull stripping
        regions[body >= 1 - fluid * random.uniform(0.95, 1.2)] = AIR
    return Anatomy(regions, (4, 5, 5, 5, 6))


def _chest(canvas: Canvas) -> Anatomy:
    """Draw fat, muscle, ribs, lungs with vessels, mediastinum, heart and spine."""
    random = canvas.random
    body = _body(canvas, is_cylinder=True)
    bumps = canvas.smooth(float(canvas.half.mean()) * random.uniform(0.15, 0.4))
    wall = 1 - random.uniform(0.12, 0.25)
    regions = np.zeros(canvas.shape, np.uint8)
    regions[body < 1] = 1
    regions[body < (1 + wall) / 2] = 2
    z, y, x = (np.arange(size, dtype=np.float32) for size in canvas.shape)
    period = random.uniform(10, 22)
    slope = random.uniform(-0.5, 0.5)
    phase = (z[:, None, None] + slope * np.abs(y[None, :, None] - canvas.half[1])) / period + 0 * x[None, None, :]
    regions[(np.abs(body - wall - 0.04) < 0.04) & (np.sin(2 * np.pi * phase) > random.uniform(-0.2, 0.5))] = 3
    inner = body < wall
    regions[inner] = 5
    lungs = np.zeros(canvas.shape, bool)
    for side in (-1, 1):
        lungs |= _organ(canvas, (0.0, 0.0, 0.42 * side), (0.95, 0.65, 0.38), bumps) < 1
    regions[inner & lungs] = 4
    heart = _organ(canvas, (0.2, -0.15, 0.1), (0.45, 0.32, 0.34), bumps)
    regions[inner & (heart < 1)] = 6
    regions[inner & (heart < random.uniform(0.4, 0.75))] = 7
    spine = canvas.radius(canvas.half * (1, 1.55, 1), (np.inf, *(canvas.half[1:] * random.uniform(0.14, 0.22, 2))))
    regions[(spine < 1) & (body < 0.95)] = 3
    for _ in range(int(random.integers(6, 18))):
        start = canvas.place_in(regions == 4)
        if start is not None:
            regions[canvas.tube(start, random.uniform(0.7, 2.8), random.uniform(20, 90), regions == 4)] = 8
    return Anatomy(regions, (4, 4, 4, 5, 2))


def _abdomen(canvas: Canvas) -> Anatomy:
    """Draw fat, muscle, liver, spleen, kidneys, bowel, spine and large vessels."""
    random = canvas.random
    body = _body(canvas, is_cylinder=True)
    bumps = canvas.smooth(float(canvas.half.mean()) * random.uniform(0.12, 0.4))
    wall = 1 - random.uniform(0.12, 0.35)
    regions = np.zeros(canvas.shape, np.uint8)
    regions[body < 1] = 1
    regions[body < wall + random.uniform(0.04, 0.1)] = 2
    inner = body < wall
    regions[inner] = 3
    side = -1 if random.random() < 0.5 else 1
    for _ in range(int(random.integers(4, 16))):
        center = canvas.place_in(regions == 3)
        if center is None:
            break
        loop = canvas.blob(center, random.uniform(0.2, 0.5) * float(canvas.half.min()), 0.15, 0.35)
        part = regions[loop.slices]
        is_free = (part == 3) | (part == 8)
        part[is_free & (loop.values < 1)] = 8
        part[is_free & (loop.values < random.uniform(0.5, 0.9))] = 9
    kidneys = (_organ(canvas, (0.2, 0.35, 0.45 * sign), (0.4, 0.16, 0.15), bumps) for sign in (-1, 1))
    for kidney in kidneys:
        regions[inner & (kidney < 1)] = 6
        regions[inner & (kidney < random.uniform(0.4, 0.7))] = 7
    spleen = _organ(canvas, (-0.3, 0.2, -0.6 * side), (0.35, 0.3, 0.2), bumps)
    regions[inner & (spleen < 1)] = 5
    liver = _organ(canvas, (-0.35, -0.1, 0.35 * side), (0.7, 0.55, 0.5), bumps)
    regions[inner & (liver < 1)] = 4
    spine = canvas.radius(canvas.half * (1, 1.5, 1), (np.inf, *(canvas.half[1:] * random.uniform(0.14, 0.22, 2))))
    regions[(spine < 1) & (body < 0.95)] = 10
    aorta = canvas.radius(canvas.half * (1, 1.2, 1.05), (np.inf, *(canvas.half[1:] * random.uniform(0.04, 0.09, 2))))
    regions[inner & (aorta < 1)] = 11
    for _ in range(int(random.integers(2, 8))):
        start = canvas.place_in(regions == 4)
        if start is not None:
            regions[canvas.tube(start, random.uniform(0.8, 2.5), random.uniform(15, 60), regions == 4)] = 11
    return Anatomy(regions, (4, 4, 4, 3, 5, 6, 2))


def _tissue(canvas: Canvas) -> Anatomy:
    """Draw regions of random shape. Each voxel belongs to the region whose smooth random field is largest there."""
    random = canvas.random
    count = int(random.integers(2, 8))
    scale = np.exp(random.uniform(np.log(10), np.log(30))) * np.exp(random.normal(0, 0.3, 3))
    fields = np.stack([canvas.smooth(scale * random.uniform(0.7, 1.4)) for _ in range(count)])
    regions = (fields.argmax(axis=0) + 1).astype(np.uint8)
    if random.random() < 0.7:
        body = _body(canvas, is_cylinder=random.random() < 0.5)
        regions[body >= 1] = AIR
        if random.random() < 0.5:
            regions[(body < 1) & (body > random.uniform(0.85, 0.97))] = count + 1
    return Anatomy(regions, tuple(range(1, count + 1)))


def _membrane(canvas: Canvas, body: Volume, normal: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
    """Return a thin, slightly curved sheet through the middle of the canvas."""
    random = canvas.random
    direction = np.asarray(normal, float) + random.normal(0, 0.03, 3)
    direction /= np.linalg.norm(direction)
    z, y, x = (
        (np.arange(size) + 0.5 - half).astype(np.float32) for size, half in zip(canvas.shape, canvas.half, strict=True)
    )
    distance = (
        np.float32(direction[0]) * z[:, None, None]
        + np.float32(direction[1]) * y[None, :, None]
        + np.float32(direction[2]) * x[None, None, :]
    )
    distance += np.float32(random.uniform(0.5, 3)) * canvas.smooth(0.5 * float(canvas.half.mean()))
    sheet: npt.NDArray[np.bool_] = np.abs(distance) < random.uniform(0.5, 1.6)
    return sheet & (body < 1)


def _add_mimics(canvas: Canvas, anatomy: Anatomy) -> Anatomy:
    """Add vessels, membranes, capsules and spots outside the body as new regions."""
    random = canvas.random
    regions = anatomy.regions
    first = anatomy.count
    body = regions != AIR
    for _ in range(int(random.integers(0, _MAX_TUBES))):
        start = canvas.place_in(body)
        if start is not None:
            regions[canvas.tube(start, random.uniform(0.6, 3), random.uniform(20, 120), body)] = first
    if random.random() < 0.3:
        regions[_membrane(canvas, np.where(body, 0, 2), tuple(random.standard_normal(3))) & body] = first + 1
    for _ in range(int(random.integers(0, _MAX_CAPSULES))):
        center = canvas.place_in(body)
        if center is None:
            break
        capsule = canvas.blob(center, random.uniform(0.1, 0.6) * float(canvas.half.min()), 0.1)
        part = regions[capsule.slices]
        part[(np.abs(capsule.values - 0.92) < random.uniform(0.04, 0.1)) & (part != AIR)] = first + 2
    for _ in range(int(random.integers(0, _MAX_SPOTS))):
        center = canvas.place_in(~body)
        if center is None:
            break
        spot = canvas.blob(center, np.exp(random.uniform(np.log(1.5), np.log(12))), 0.2)
        part = regions[spot.slices]
        part[(spot.values < 1) & ~body[spot.slices]] = first + 3
    return Anatomy(regions, anatomy.hosts, tuple(range(first, first + 4)))
