"""Random lesions: bright or dark, sharp or diffuse, single or confluent, of a few voxels to many thousands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import BoolArray, FloatArray
from detseg3d.synthetic.random_scans.anatomy import AIR, Anatomy
from detseg3d.synthetic.random_scans.canvas import Canvas, Patch, Volume

__all__ = ["LesionStyle", "draw_lesions", "label_of"]

_NEIGHBOURS = np.ones((3, 3, 3), bool)
_MIN_DIAMETER = 1.8
# A lesion that reaches this weight is part of the label.
_EDGE = 0.5
_MAX_LESIONS = 40
# Lesions fill at most this fraction of their regions.
_MAX_FRACTION = 0.15
# Smallest fraction of the scan that a region must fill, so that lesions find a place in it.
_MIN_HOST = 0.01
# Range of intensities from which the contrast of a lesion must not lead out.
_DARKEST, _BRIGHTEST = 0.02, 1.35
# Smallest difference of a lesion from its surroundings.
_MIN_DELTA = 0.06


@dataclass(frozen=True)
class LesionStyle:
    """Properties that the lesions of one scan share, as the lesions of one disease do.

    Attributes
    ----------
    hosts : tuple of int
        Regions in which the lesions lie.
    diameter : float
        Median diameter in voxels.
    spread : float
        Standard deviation of the logarithm of the diameters.
    count : int
        Number of lesions to draw.
    sign : int
        1: brighter than the surroundings; -1: darker; 0: each lesion is either of both.
    contrast : float
        Difference from the surroundings, in standard deviations of their intensities.
    fade : float
        Width of the edge as a fraction of the radius.
    roughness : float
        Size of the bumps on the surface as a fraction of the radius.
    confluence : float
        Fraction of the lesions that consist of several merged parts.
    ring : float
        Fraction of the lesions with a core of another intensity.
    confined : float
        Fraction of the lesions that end at the border of their region.
    """

    hosts: tuple[int, ...]
    diameter: float
    spread: float
    count: int
    sign: int
    contrast: float
    fade: float
    roughness: float
    confluence: float
    ring: float
    confined: float

    @classmethod
    def draw(cls, anatomy: Anatomy, random: np.random.Generator) -> LesionStyle:
        """Draw the style of a scan.

        Parameters
        ----------
        anatomy : Anatomy
            Its hosts are the regions to choose from.
        random : Generator
        """
        # A region may have been covered by others.
        voxels = np.bincount(anatomy.regions.ravel(), minlength=anatomy.count)
        hosts = tuple(host for host in anatomy.hosts if voxels[host] >= _MIN_HOST * voxels.sum()) or anatomy.hosts
        if random.random() < 0.6:
            hosts = (int(random.choice(hosts)),)
        diameter = float(np.exp(random.uniform(np.log(2.8), np.log(18))))
        mean = 14 * (4 / diameter) ** 0.7
        return cls(
            hosts=tuple(dict.fromkeys(hosts)),
            diameter=diameter,
            spread=random.uniform(0.25, 0.7),
            count=min(_MAX_LESIONS, 1 + int(random.poisson(mean * np.exp(random.normal(0, 0.7))))),
            sign=int(random.choice((1, -1, 0), p=(0.55, 0.35, 0.1))),
            contrast=float(np.exp(random.uniform(np.log(2.0), np.log(8)))),
            fade=random.uniform(0.1, 0.6) if random.random() < 0.75 else random.uniform(0.7, 1.5),
            roughness=random.uniform(0.03, 0.3),
            confluence=float(random.choice((0.0, 0.15, 0.6))),
            ring=float(random.choice((0.0, 0.3), p=(0.8, 0.2))),
            confined=random.uniform(0.3, 1.0),
        )


def draw_lesions(canvas: Canvas, image: Volume, anatomy: Anatomy, style: LesionStyle, noise: float) -> Volume:
    """Draw lesions on an image, in place.

    Parameters
    ----------
    canvas : Canvas
    image : ndarray of float32
        Intensities, about 0 to 1.
    anatomy : Anatomy
    style : LesionStyle
    noise : float
        Standard deviation of the noise that the scanner will add. Lesions stand out from it.

    Returns
    -------
    ndarray of float32, shape ``(Z, Y, X)``
        Weight of the lesions in each voxel, 0 to 1. From 0.5 on, the voxel belongs to a lesion.
    """
    random = canvas.random
    weights = np.zeros(canvas.shape, np.float32)
    hosts = np.isin(anatomy.regions, style.hosts)
    body = anatomy.regions != AIR
    largest = 0.45 * min(canvas.shape)
    voxels_left = _MAX_FRACTION * float(hosts.sum())
    for _ in range(style.count):
        # A lesion that is too large for the rest of its region becomes smaller. A ball has about half of the voxels of
        # its cube.
        limit = min(largest, np.cbrt(2 * max(voxels_left, 0)))
        center = canvas.place_in(hosts)
        if center is None or limit < _MIN_DIAMETER:
            continue
        diameter = float(np.clip(style.diameter * np.exp(random.normal(0, style.spread)), _MIN_DIAMETER, limit))
        shape = _shape(canvas, center, diameter, style)
        allowed = hosts if random.random() < style.confined else body
        weight = _weight(shape, allowed[shape.slices], max(style.fade, 1 / diameter))
        if weight is not None:
            _apply(image, weight, hosts, style, _Paint(noise, diameter, random))
            weights[weight.slices] = np.maximum(weights[weight.slices], weight.values)
            voxels_left -= float((weight.values >= _EDGE).sum())
    return weights


def _shape(canvas: Canvas, center: FloatArray, diameter: float, style: LesionStyle) -> Patch:
    """Return the normalised radius of a lesion. A confluent lesion is the union of a chain of blobs."""
    random = canvas.random
    if diameter < 4 or random.random() >= style.confluence:
        return canvas.blob(center, diameter, style.roughness)
    whole = np.full(canvas.shape, 9, np.float32)
    point = center
    low, high = np.asarray(canvas.shape), np.zeros(3, int)
    for _ in range(int(random.integers(3, 8))):
        size = diameter * random.uniform(0.4, 0.75)
        part = canvas.blob(point, size, style.roughness)
        # The weight of a lesion fades over a fraction of its radius, so the radius of a part is scaled to the whole.
        values = 1 + (part.values - 1) * np.float32(size / diameter)
        whole[part.slices] = np.minimum(whole[part.slices], values)
        low = np.minimum(low, [extent.start for extent in part.slices])
        high = np.maximum(high, [extent.stop for extent in part.slices])
        step = random.standard_normal(3)
        point = np.clip(point + step / np.linalg.norm(step) * size * 0.6, 0, np.asarray(canvas.shape) - 1)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return Patch((z, y, x), whole[z, y, x])


def _weight(shape: Patch, allowed: BoolArray, fade: float) -> Patch | None:
    """Return the weight of a lesion in each voxel, connected in its label; ``None`` if hardly anything remains."""
    weight = np.clip((1 - shape.values) / np.float32(fade) + np.float32(_EDGE), 0, 1)
    size = int((weight >= _EDGE).sum())
    weight *= allowed
    parts, count = ndimage.label(weight >= _EDGE, _NEIGHBOURS)
    if count > 1:
        kept = int(np.bincount(parts[parts > 0]).argmax())
        weight[(parts > 0) & (parts != kept)] = 0
    remaining = int((weight >= _EDGE).sum())
    return Patch(shape.slices, weight) if remaining and remaining >= 0.3 * size else None


@dataclass(frozen=True)
class _Paint:
    """Noise of the scan, diameter of a lesion, and the generator that draws its intensity."""

    noise: float
    diameter: float
    random: np.random.Generator


def _apply(image: Volume, weight: Patch, hosts: BoolArray, style: LesionStyle, paint: _Paint) -> None:
    """Change the intensities of the image within a lesion."""
    random = paint.random
    part = image[weight.slices]
    around = part[(weight.values < 0.1) & hosts[weight.slices]]
    inside = part[weight.values >= _EDGE]
    # The contrast refers to the surroundings of this lesion, because regions have textures and the lesion may cross
    # their borders.
    mean = float(around.mean() if len(around) else inside.mean())
    deviation = float(around.std()) if len(around) > 8 else 0.05
    reference = float(np.clip(np.hypot(deviation, paint.noise), 0.02, 0.2))
    # A small lesion needs more contrast: few voxels have to stand out from the noise, and the blur dilutes them.
    contrast = style.contrast * random.uniform(0.8, 1.25) + 5 / paint.diameter
    sign = style.sign or (1 if random.random() < 0.5 else -1)
    delta = max(contrast * reference, _MIN_DELTA)
    if not _DARKEST <= mean + sign * delta <= _BRIGHTEST:
        # A dark lesion in air-filled lung would vanish, so it becomes bright.
        room = {1: _BRIGHTEST - mean, -1: mean - _DARKEST}
        sign = sign if room[sign] > 2 * reference else -sign
        delta = min(delta, max(room[sign], _MIN_DELTA))
    change = sign * delta * weight.values
    if random.random() < style.ring and paint.diameter > 6:
        core = ndimage.gaussian_filter((weight.values > 0.9).astype(np.float32), 0.12 * paint.diameter) > 0.8
        change[core] *= random.uniform(-0.7, 0.5)
    if random.random() < 0.5:  # the lesion replaces the texture of its region
        part += weight.values * (np.float32(mean) - part) * np.float32(random.uniform(0.3, 1.0))
    part += change.astype(np.float32)


def label_of(weights: Volume) -> npt.NDArray[np.uint8]:
    """Return the label of lesions.

    Parameters
    ----------
    weights : ndarray of float32, shape ``(Z, Y, X)``
        Weight of the lesions in each voxel, 0 to 1.

    Returns
    -------
    ndarray of uint8, shape ``(Z, Y, X)``
        1 where the weight is 0.5 or more, 0 elsewhere.
    """
    label: npt.NDArray[np.uint8] = (weights >= _EDGE).astype(np.uint8)
    return label
