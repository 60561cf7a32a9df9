"""Simulate scans with lesions, and with structures that only look like lesions.

Each case is a body with a bright skin, a dark gap, folded outer tissue, smooth inner tissue, fluid-filled ventricles
and two nuclei. Lesions lie in the tissue and are brighter than their surroundings, some only slightly. A threshold
cannot find them, because of the bias field, the gain of the scanner, the bright skin, vessels (tubes), cysts (bright
shells), bright dots in the air and bright clots in the ventricles. A network can distinguish these by shape and place.

The anatomy is defined in millimetres, so another ``spacing`` samples the same kind of anatomy on another grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError

__all__ = [
    "Canvas",
    "Mask",
    "Point",
    "SyntheticCase",
    "Volume",
    "acquire",
    "draw_body",
    "draw_mimics",
    "inside_weight",
    "simulate_case",
]


Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Point = npt.NDArray[np.float64]
Slices = tuple[slice, ...]
Shape = tuple[int, int, int]
# Intensities before gain, bias field and noise.
AIR, SKIN, GAP, OUTER_TISSUE, INNER_TISSUE, FLUID = 2.0, 150.0, 35.0, 104.0, 82.0, 28.0
TEXTURE, NOISE = 4.0, 4.0
# Diameters of the lesions in units of the finest spacing. The spread is the standard deviation of the logarithm.
MEDIAN_DIAMETER, DIAMETER_SPREAD, MAX_DIAMETER = 7.0, 0.7, 40.0
MEAN_LESIONS, MAX_LESIONS = 14.0, 24
CUBE = np.ones((3, 3, 3), bool)  # The 26 neighbours of a voxel.


@dataclass(frozen=True)
class SyntheticCase:
    """A simulated scan.

    Attributes
    ----------
    image : ndarray of int16, shape ``(Z, Y, X)``
    label : ndarray of uint8, shape ``(Z, Y, X)``
        1 in lesions, 0 elsewhere.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]


class Canvas:
    """A grid in millimetres with functions to draw on it.

    Parameters
    ----------
    shape : 3 ints
        Voxels ``(z, y, x)``.
    spacing : 3 floats
        Millimetres ``(z, y, x)``.
    seed : sequence of int
        Seed of all random numbers of the canvas.
    """

    def __init__(self, shape: Shape, spacing: Spacing, seed: Sequence[int]) -> None:
        self.shape = shape
        self.spacing = np.asarray(spacing, np.float64)
        self.size = np.asarray(shape) * self.spacing
        self.random = np.random.default_rng(list(seed))
        self.axes = [((np.arange(n) + 0.5) * s).astype(np.float32) for n, s in zip(shape, spacing, strict=True)]
        self.frequencies = [
            fft.fftfreq(shape[0], spacing[0])[:, None, None].astype(np.float32),
            fft.fftfreq(shape[1], spacing[1])[None, :, None].astype(np.float32),
            fft.rfftfreq(shape[2], spacing[2])[None, None, :].astype(np.float32),
        ]

    def smooth_noise(self, *scales: float) -> Volume:
        """Return noise of unit variance: the sum of white noise blurred with each of ``scales`` (sigma in mm)."""
        spectrum = fft.rfftn(self.random.standard_normal(self.shape, dtype=np.float32))
        squared = sum(frequency**2 for frequency in self.frequencies)
        total = np.zeros(self.shape, np.float32)
        for scale in scales:
            blurred = fft.irfftn(spectrum * np.exp(-2 * np.pi**2 * scale**2 * squared), s=self.shape)
            total += blurred / max(float(blurred.std()), 1e-6)
        return total / max(float(total.std()), 1e-6)

    def radius(self, center: npt.ArrayLike, semi_axes: npt.ArrayLike) -> Volume:
        """Return the distance from ``center`` in units of the semi-axes, for the whole grid."""
        parts = [
            ((axis - np.float32(c)) / np.float32(s)) ** 2
            for axis, c, s in zip(self.axes, np.asarray(center), np.asarray(semi_axes), strict=True)
        ]
        return np.sqrt(parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :])

    def window(self, center: Point, reach: float) -> tuple[Slices, list[Volume]]:
        """Return slices that contain all voxels within ``reach`` mm of ``center``, and their offsets in mm."""
        slices, offsets = [], []
        for axis, c, step, count in zip(self.axes, center, self.spacing, self.shape, strict=True):
            low = int(np.clip(np.floor((c - reach) / step), 0, count - 1))
            high = int(np.clip(np.ceil((c + reach) / step), low + 1, count))
            slices.append(slice(low, high))
            offsets.append(axis[low:high] - np.float32(c))
        return tuple(slices), offsets

    def voxel(self, center: Point) -> tuple[int, int, int]:
        """Return the index of the voxel that contains ``center`` (in mm)."""
        z, y, x = np.clip(center / self.spacing, 0, np.asarray(self.shape) - 1).astype(int)
        return int(z), int(y), int(x)

    def place_in(self, mask: Mask) -> Point | None:
        """Return a random point (in mm) inside ``mask``, or ``None`` if none is found."""
        for _ in range(200):  # This is far faster than listing all voxels of the mask.
            point = self.random.random(3) * self.size
            if mask[self.voxel(point)]:
                return point
        return None


def inside_weight(radius: Volume, edge: float, scale: float, width: float = 1.0) -> Volume:
    """Return a soft step from 1 (``radius`` below ``edge``) to 0 (above it).

    The step is ``width`` mm wide. A ``radius`` of 1 measures ``scale`` mm.
    """
    return np.clip((edge - radius) * np.float32(scale / width) + np.float32(0.5), 0, 1)


def _blob(canvas: Canvas, center: Point, diameter: float, roughness: float) -> tuple[Slices, Volume]:
    """Return the window and the normalised radius (below 1 inside) of a connected, irregular ellipsoid."""
    random = canvas.random
    axes = np.exp(random.normal(0, 0.22, 3))
    axes *= diameter / 2 / axes.prod() ** (1 / 3)
    slices, (z, y, x) = canvas.window(center, float(axes.max()) * (1 + roughness) + 2 * float(canvas.spacing.max()))
    rotation = (np.linalg.qr(random.standard_normal((3, 3)))[0] / axes[:, None]).astype(np.float32)
    squared = np.zeros((len(z), len(y), len(x)), np.float32)
    for row in rotation:
        squared += (row[0] * z[:, None, None] + row[1] * y[None, :, None] + row[2] * x[None, None, :]) ** 2
    radius = np.sqrt(squared)
    if diameter > 2.5 * canvas.spacing.min():
        bumps = random.standard_normal(radius.shape, dtype=np.float32)
        bumps = ndimage.gaussian_filter(bumps, diameter / 6 / canvas.spacing, mode="wrap")
        radius *= 1 + roughness * np.clip(bumps / max(float(bumps.std()), 1e-6), -2, 2) * 0.5
    middle = tuple(int(np.abs(offset).argmin()) for offset in (z, y, x))
    radius[middle] = min(radius[middle], 0.2)  # The smallest lesion has one voxel.
    pieces, count = ndimage.label(radius < 1, CUBE)
    if count > 1:
        radius[(pieces > 0) & (pieces != pieces[middle])] = 1.3
    return slices, radius


def _draw_vessel(canvas: Canvas, image: Volume, tissue: Mask, start: Point) -> None:
    """Draw a winding bright tube in the tissue as balls along a random walk."""
    random = canvas.random
    radius, brightness = random.uniform((0.7, 130), (1.4, 175))
    direction, point = random.standard_normal(3), start
    for _ in range(int(random.uniform(25, 60) / 0.8)):
        direction += 0.25 * random.standard_normal(3)
        direction /= np.linalg.norm(direction)
        point = point + 0.8 * direction
        if not tissue[canvas.voxel(point)]:
            return
        slices, (z, y, x) = canvas.window(point, radius + 1)
        distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
        weight = np.clip(radius - distance + 0.5, 0, 1)
        image[slices] = np.maximum(image[slices], image[slices] * (1 - weight) + brightness * weight)


def draw_body(canvas: Canvas) -> tuple[Volume, Mask, Mask, Mask]:
    """Return the image without lesions, and the masks of tissue, of ventricles and of air."""
    random = canvas.random
    center = canvas.size * (0.5 + random.uniform(-0.03, 0.03, 3))
    semi_axes = canvas.size * random.uniform(0.40, 0.46, 3)
    scale = float(semi_axes.mean())
    folds = canvas.smooth_noise(0.05 * scale, 0.12 * scale)
    body = canvas.radius(center, semi_axes) * (1 + 0.035 * canvas.smooth_noise(0.35 * scale))
    ventricle_axes = semi_axes * random.uniform([0.16, 0.32, 0.09], [0.24, 0.44, 0.14])
    side = np.array([0, 0, 1.5 * ventricle_axes[2]])
    ventricles = np.minimum(
        canvas.radius(center + side, ventricle_axes), canvas.radius(center - side, ventricle_axes)
    ) * (1 + 0.08 * folds)
    nuclei = [
        canvas.radius(center + semi_axes * [0.12, 0.05, side_x], semi_axes * random.uniform(0.12, 0.17, 3))
        for side_x in (-0.42, 0.42)
    ]
    image = np.full(canvas.shape, AIR, np.float32)
    layers = [
        (inside_weight(body, 1.0, scale), SKIN * random.uniform(0.9, 1.1)),
        (inside_weight(body, 0.94, scale), GAP),
        (inside_weight(body, 0.87, scale), OUTER_TISSUE),
        (inside_weight(body + 0.06 * folds, 0.74, scale), INNER_TISSUE),
        *((inside_weight(nucleus * (1 + 0.06 * folds), 1.0, 0.14 * scale), OUTER_TISSUE + 6) for nucleus in nuclei),
        (inside_weight(ventricles, 1.0, float(ventricle_axes.mean())), FLUID),
    ]
    for weight, intensity in layers:
        image += weight * (np.float32(intensity) - image)
    tissue = (body < 0.84) & (ventricles > 1.08)
    image += np.float32(TEXTURE) * canvas.smooth_noise(0.8, 2.0, 5.0) * (body < 0.87)
    return image, tissue, ventricles < 0.9, body > 1.06


def draw_mimics(canvas: Canvas, image: Volume, tissue: Mask, fluid: Mask, air: Mask) -> Mask:
    """Draw bright structures that are not lesions, and return the mask of the voxels that lesions must avoid."""
    random = canvas.random
    taken = np.zeros(canvas.shape, bool)
    for _ in range(random.integers(4, 8)):
        start = canvas.place_in(tissue)
        if start is not None:
            _draw_vessel(canvas, image, tissue, start)
    for where, count, largest in ((air, 8, 8.0), (fluid, 2, 4.0)):
        for _ in range(count):
            center = canvas.place_in(where)
            if center is not None:
                slices, radius = _blob(canvas, center, random.uniform(2, largest), 0.3)
                weight = (radius < 1) & where[slices]
                image[slices] = np.where(weight, random.uniform(100, 170), image[slices])
    for _ in range(random.integers(1, 4)):
        center = canvas.place_in(tissue)
        if center is not None:
            slices, radius = _blob(canvas, center, random.uniform(8, 13), 0.15)
            shell = np.exp(-(((radius - 0.85) / 0.2) ** 2)) * tissue[slices]
            core = inside_weight(radius, 0.7, 5.0) * tissue[slices]
            image[slices] += core * (FLUID - image[slices]) + shell * random.uniform(30, 50)
            taken[slices] |= radius < 1.3
    return taken


def _draw_lesions(canvas: Canvas, image: Volume, tissue: Mask, taken: Mask) -> npt.NDArray[np.uint8]:
    """Draw lesions with at least two voxels between them, and return the label."""
    random = canvas.random
    label = np.zeros(canvas.shape, np.uint8)
    unit = float(canvas.spacing.min())
    largest = min(MAX_DIAMETER * unit, 0.42 * float(canvas.size.min()))
    count = int(np.clip(random.poisson(MEAN_LESIONS), 1, MAX_LESIONS))
    diameters = np.exp(random.normal(np.log(MEDIAN_DIAMETER * unit), DIAMETER_SPREAD, count)).clip(unit, largest)
    free = tissue & ~taken
    for diameter in np.sort(diameters)[::-1]:  # Large lesions first, while there is room.
        for attempt in range(40):
            # A lesion that does not fit becomes smaller after ten attempts, so the last attempts nearly always fit.
            size = max(unit, float(diameter) * 0.9 ** max(0, attempt - 10))
            if _draw_lesion(canvas, image, free, label, size):
                break
    return label


def _is_clear(label: npt.NDArray[np.uint8], slices: Slices, inside: Mask) -> bool:
    """Return whether two voxels around ``inside`` are free, so that lesions stay separate components."""
    near = tuple(slice(max(0, part.start - 2), part.stop + 2) for part in slices)
    mask = np.zeros(label[near].shape, bool)
    within = (slice(part.start - wide.start, part.stop - wide.start) for part, wide in zip(slices, near, strict=True))
    mask[tuple(within)] = inside
    return not np.any(label[near][ndimage.binary_dilation(mask, CUBE, iterations=2)])


def _draw_lesion(canvas: Canvas, image: Volume, free: Mask, label: npt.NDArray[np.uint8], diameter: float) -> bool:
    """Try to draw one lesion at a random place, and return whether it fitted."""
    random = canvas.random
    center = canvas.place_in(free)
    if center is None:
        return False
    slices, radius = _blob(canvas, center, diameter, 0.35)
    inside = (radius < 1) & free[slices]
    pieces, count = ndimage.label(inside, CUBE)
    if count > 1:
        inside = pieces == np.bincount(pieces[inside]).argmax()
    if inside.sum() < 0.6 * (radius < 1).sum() or not _is_clear(label, slices, inside):
        return False
    # The contrast of small lesions is higher, because small and faint lesions would vanish in the noise.
    contrast = random.uniform(18 + 25 * float(canvas.spacing.min()) / diameter, 60)
    fade = random.uniform(0.1, 0.5)  # Fraction of the radius over which the lesion fades towards its edge.
    profile = np.where(inside, np.clip((1 - radius) / fade, 0, 1) * 0.5 + 0.5, 0)
    # The point spread of a scanner gives half a voxel of partial volume outside the label.
    halo = ndimage.uniform_filter(inside.astype(np.float32), 3) * ~inside
    image[slices] += np.float32(contrast) * (profile + 0.5 * halo).astype(np.float32)
    label[slices][inside] = 1
    return True


def acquire(canvas: Canvas, image: Volume) -> npt.NDArray[np.int16]:
    """Return the scan of an image without noise.

    The scanner adds uneven sensitivity, noise on both parts of the complex signal (so that the magnitude has a Rician
    distribution), and an arbitrary gain.

    Parameters
    ----------
    canvas : Canvas
        Grid of the scan, with the random numbers of the scanner.
    image : ndarray of float32, shape ``(Z, Y, X)``
        Intensities without noise. The array is not changed.
    """
    image = image * np.exp(0.12 * canvas.smooth_noise(0.3 * float(canvas.size.min())))
    noise = NOISE * canvas.random.standard_normal((2, *canvas.shape), dtype=np.float32)
    magnitude = np.sqrt((image + noise[0]) ** 2 + noise[1] ** 2)
    gain = 3 * np.exp(canvas.random.normal(0, 0.25))
    return np.round(gain * magnitude).astype(np.int16)


def simulate_case(
    shape: Shape = (96, 96, 96),
    spacing: Spacing = (1.0, 1.0, 1.0),
    seed: Sequence[int] = (0,),
    lesions: bool = True,
) -> SyntheticCase:
    """Simulate one scan.

    Parameters
    ----------
    shape : tuple of int
        Voxels ``(z, y, x)``, at least 16 along each axis.
    spacing : tuple of float
        Millimetres ``(z, y, x)``. The anatomy fills the field of view. Lesions measure 1 to 40 times the finest
        spacing, but at most 0.42 of the shortest side.
    seed : sequence of int
        The same seed gives the same case.
    lesions : bool, optional
        Draw lesions. If false, the label is empty.

    Returns
    -------
    SyntheticCase
        Image and label.

    Raises
    ------
    DetSeg3DError
        If the volume is too small or the spacing is not positive.

    Examples
    --------
    >>> case = simulate_case(shape=(32, 32, 32), seed=(7,))
    >>> case.image.shape, str(case.image.dtype), sorted(set(case.label.ravel().tolist()))
    ((32, 32, 32), 'int16', [0, 1])
    """
    if min(shape) < 16:
        raise DetSeg3DError("the volume is too small for a body", value=shape, expected="at least 16 voxels per axis")
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise DetSeg3DError("the spacing must be positive", value=spacing, expected="three numbers greater than 0")
    canvas = Canvas(shape, spacing, seed)
    image, tissue, fluid, air = draw_body(canvas)
    taken = draw_mimics(canvas, image, tissue, fluid, air)
    label = np.zeros(shape, np.uint8)
    if lesions:
        label = _draw_lesions(canvas, image, tissue, taken)
    return SyntheticCase(acquire(canvas, image), label)
