"""Rigid registration of two scans of a patient with SimpleITK.

The registration maximises the mutual information of the intensities, so the scans may have different contrast. It
begins on a coarse grid from several starts and continues on finer grids. All random samples have fixed seeds and each
registration runs in one thread, so equal scans give equal results.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import product

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

from detseg3d.core.arrays import Array, FloatArray
from detseg3d.core.body import drawn_values, padding_value, plausible_range, tissue_mask
from detseg3d.core.boxes import box_slices
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.rigid import IDENTITY, RigidTransform
from detseg3d.data.image import Image
from detseg3d.system.json_records import JsonRecord

__all__ = ["Registration", "RegistrationMethod", "RegistrationQuality", "Start", "register"]

logger = logging.getLogger(__name__)


class RegistrationMethod(Enum):
    """Origin of the motion between two scans.

    Attributes
    ----------
    NONE
        The scans are taken to be aligned.
    RIGID
        The motion was computed by :func:`register`.
    FILE
        The user gave the motion.
    """

    NONE = "none"
    RIGID = "rigid"
    FILE = "file"


class Start(Enum):
    """Motion with which a registration begins.

    Attributes
    ----------
    HEADERS
        No motion: the world coordinates of both files.
    CENTERS
        The centres of both bodies' boxes coincide.
    MOMENTS
        The centres of mass of both bodies coincide.
    """

    HEADERS = "positions in the headers"
    CENTERS = "geometric centres"
    MOMENTS = "centres of mass"


@dataclass(frozen=True)
class RegistrationQuality(JsonRecord):
    """Quality of a registration.

    Attributes
    ----------
    mutual_information : float
        Mattes mutual information on the finest grid, in nats. Higher is better; 0 means unrelated intensities.
    overlap : float
        Share of the body in the earlier scan that the grid of the later scan covers.
    start : Start
        Start that gave the best result.
    agreeing_starts, starts : int
        Number of starts that reached the same motion within 5 % of the size of the body, and number of starts. A low
        number means that the result depends on the start.
    uncertainty_mm : float
        Root mean square distance in mm between repeated fits with other random samples, at the corners of the body's
        box.
    """

    mutual_information: float
    overlap: float
    start: Start
    agreeing_starts: int
    starts: int
    uncertainty_mm: float


@dataclass(frozen=True)
class Registration(JsonRecord):
    """The motion between two scans, with its origin and quality.

    Attributes
    ----------
    method : RegistrationMethod
    transform : RigidTransform
        Maps places of the earlier scan to places of the later scan.
    quality : RegistrationQuality or None
        ``None`` if the motion was not computed.
    """

    method: RegistrationMethod
    transform: RigidTransform
    quality: RegistrationQuality | None = None

    @property
    def uncertainty_mm(self) -> float:
        """Uncertainty of the motion in mm; 0 if the motion was not computed."""
        return 0.0 if self.quality is None else self.quality.uncertainty_mm


# Grids of the levels: the longest edge of the body is divided by these numbers.
_LEVELS = (40, 80, 160)
_SAMPLES = (15_000, 20_000, 30_000)
_REPEATS = 2
_BINS = 32
_MARGIN = 0.05  # of the edges of the body's box
_MIN_OVERLAP = 0.25
# The estimate of unrelated images with 32 bins and 60 000 samples is about 31² / (2 · 60 000) = 0.008.
_MIN_INFORMATION = 0.05
_TEST_SHIFT = 0.06  # of the longest edge of the body
_SAME_RESULT = 0.05  # of the longest edge of the body
_MIN_EDGE = 4  # voxels


@dataclass(frozen=True)
class _Volume:
    """A scan for the registration: intensities from 0 to 1, mask of the body, geometry, and the body's box in mm."""

    array: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    geometry: Geometry
    corners: FloatArray

    @property
    def longest_edge(self) -> float:
        return float(max(np.linalg.norm(self.corners[0] - self.corners[step]) for step in (1, 2, 4)))

    @property
    def box_center(self) -> FloatArray:
        return np.asarray(self.corners.mean(axis=0))

    @property
    def mass_center(self) -> FloatArray:
        center = ndimage.center_of_mass(self.array * self.mask)
        return np.asarray(self.geometry.voxel_edges_to_world([np.asarray(center) + 0.5])[0])


@dataclass(frozen=True)
class _Fit:
    """Result of one optimisation."""

    transform: RigidTransform
    information: float


def register(earlier: Image, later: Image) -> Registration:
    """Find the rigid motion between two scans of one patient.

    Parameters
    ----------
    earlier, later : Image
        Any grids, any intensities.

    Returns
    -------
    Registration
        Motion from the earlier to the later scan, with its quality.

    Raises
    ------
    DetSeg3DError
        If a scan is constant, sheared or thinner than 4 voxels, or if the registration failed: the scans share too
        little, or their mutual information has no maximum at the result.

    Notes
    -----
    Three starts are optimised on the coarse grid: the positions in the headers, the centres of both bodies, and the
    centres of mass. The best result is refined. The check of the result moves it by 6 % of the body along each axis and
    rotates it by 7 degrees about each axis. The mutual information must fall in each direction.

    References
    ----------
    Mattes et al. (2003), "PET-CT image registration in the chest using free-form deformations", IEEE TMI 22(1).
    """
    with _one_thread():
        return _register(_prepare(earlier, "earlier"), _prepare(later, "later"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let ITK use one thread: the order of a sum over several threads changes its last digits.

    The number of threads of a registration method does not reach its metric, so the default of ITK is changed.
    """
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _register(fixed: _Volume, moving: _Volume) -> Registration:
    """Return the motion between two prepared scans."""
    edge = max(fixed.longest_edge, moving.longest_edge)
    center = fixed.box_center
    finest = min(*fixed.geometry.spacing, *moving.geometry.spacing)
    coarse = _Level(fixed, moving, max(edge / _LEVELS[0], finest), _SAMPLES[0])
    starts = {
        Start.HEADERS: IDENTITY,
        Start.CENTERS: RigidTransform.of_matrix(np.eye(3), moving.box_center - center),
        Start.MOMENTS: RigidTransform.of_matrix(np.eye(3), moving.mass_center - fixed.mass_center),
    }
    fits = {start: fit for start, motion in starts.items() if (fit := coarse.fit(motion, center, 0)) is not None}
    if not fits:
        raise _failure("no start of the registration brought the scans to an overlap", None)
    chosen = max(fits, key=lambda start: fits[start].information)
    best = fits[chosen]
    agreeing = sum(_rms(fit.transform, best.transform, fixed.corners) < _SAME_RESULT * edge for fit in fits.values())
    level = coarse
    for divisor, samples in zip(_LEVELS[1:], _SAMPLES[1:], strict=True):
        level = _Level(fixed, moving, max(edge / divisor, finest), samples)
        refined = level.fit(best.transform, center, 0)
        if refined is None:
            raise _failure("the registration left the overlap of the scans", None)
        best = refined
    repeats = [level.fit(best.transform, center, seed) for seed in range(1, _REPEATS + 1)]
    deviations = [_rms(fit.transform, best.transform, fixed.corners) for fit in repeats if fit is not None]
    quality = RegistrationQuality(
        mutual_information=round(best.information, 4),
        overlap=round(_overlap(fixed, moving, best.transform), 4),
        start=chosen,
        agreeing_starts=agreeing,
        starts=len(starts),
        uncertainty_mm=round(float(np.sqrt(np.mean(np.square(deviations)))) if deviations else edge, 3),
    )
    _check(coarse, best.transform, quality, center, edge)
    return Registration(RegistrationMethod.RIGID, best.transform, quality)


def _check(
    level: _Level, transform: RigidTransform, quality: RegistrationQuality, center: FloatArray, edge: float
) -> None:
    """Raise an error if the result of a registration is not a clear maximum of the mutual information."""
    if quality.overlap < _MIN_OVERLAP:
        raise _failure("the scans share too little of the body", quality)
    if quality.mutual_information < _MIN_INFORMATION:
        raise _failure("the intensities of the scans are unrelated", quality)
    here = level.information(transform, center)
    for moved in _displaced(transform, center, edge):
        if level.information(moved, center) >= here:
            raise _failure("the mutual information has no maximum at the result of the registration", quality)


def _displaced(transform: RigidTransform, center: FloatArray, edge: float) -> list[RigidTransform]:
    """Return the motion with an additional shift along each axis, and with an additional rotation about each axis."""
    moved = []
    for axis, sign in product(range(3), (-1, 1)):
        shift = np.zeros(3)
        shift[axis] = sign * _TEST_SHIFT * edge
        moved.append(RigidTransform.of_matrix(transform.matrix, transform.translation + shift))
        angle = sign * 2 * _TEST_SHIFT
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = transform.matrix @ turn
        moved.append(RigidTransform.of_matrix(rotation, transform.apply([center])[0] - rotation @ center))
    return moved


def _failure(problem: str, quality: RegistrationQuality | None) -> DetSeg3DError:
    return DetSeg3DError(
        f"the registration failed: {problem}",
        value=None
        if quality is None
        else f"mutual information {quality.mutual_information}, overlap {quality.overlap}",
        expected="two scans of the same part of one patient",
        remedy="check that the scans belong together; register them with another program and give --registration file, "
        "or use --registration none if they are aligned",
    )


def _rms(first: RigidTransform, second: RigidTransform, points: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(first.distances(second, points)))))


def _overlap(fixed: _Volume, moving: _Volume, transform: RigidTransform) -> float:
    """Return the share of the body in the earlier scan that lies in the grid of the later scan."""
    voxels = np.argwhere(fixed.mask)
    voxels = voxels[:: max(1, len(voxels) // 20_000)]
    places = moving.geometry.world_to_voxel_edges(transform.apply(fixed.geometry.voxel_edges_to_world(voxels + 0.5)))
    return float(np.mean(((places >= 0) & (places <= moving.geometry.shape)).all(axis=1)))


# -- Preparation -------------------------------------------------------------------------------------------------------


def _prepare(image: Image, name: str) -> _Volume:
    """Return a scan with intensities from 0 to 1 and the mask of its body."""
    geometry = image.geometry
    if geometry.affine is not None:
        raise DetSeg3DError(
            f"the grid of the {name} scan is sheared", remedy="resample the scan to a grid with right angles"
        )
    if min(image.shape) < _MIN_EDGE:
        raise DetSeg3DError(
            f"the {name} scan is too thin for a registration",
            value=image.shape,
            expected=f"at least {_MIN_EDGE} voxels along each axis",
            remedy="use --registration none, or register with another program and give --registration file",
        )
    array = np.nan_to_num(image.array.astype(np.float32), posinf=0.0, neginf=0.0)
    padding = padding_value(array)
    inside = np.ones(array.shape, bool) if padding is None else array != padding
    values = drawn_values(array, inside if inside.any() else None)
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if not high > low:
        raise DetSeg3DError(f"the {name} scan is constant", value=low, expected="a scan of a patient")
    limits = plausible_range(values)
    body = tissue_mask(array, inside, limits) if inside.any() else None
    mask = inside if body is None else body
    scaled = np.clip((array - np.float32(low)) / np.float32(high - low), 0, 1)
    where = np.argwhere(mask)
    box = np.stack([where.min(axis=0), where.max(axis=0) + 1])
    corners = np.array([[box[i][0], box[j][1], box[k][2]] for i, j, k in product((0, 1), repeat=3)])
    return _Volume(scaled, mask, geometry, geometry.voxel_edges_to_world(corners))


# -- Optimisation ------------------------------------------------------------------------------------------------------


class _Level:
    """Both scans on a grid of one resolution, and the optimisation of their motion."""

    def __init__(self, fixed: _Volume, moving: _Volume, spacing: float, samples: int) -> None:
        self._fixed = _resampled(fixed, fixed.array, spacing)
        self._moving = _resampled(moving, moving.array, spacing)
        mask = _resampled(fixed, _widened(fixed).astype(np.float32), spacing) > 0.3
        self._mask = SimpleITK.Cast(mask, SimpleITK.sitkUInt8)
        count = int(SimpleITK.GetArrayViewFromImage(self._mask).sum())
        self._share = min(1.0, samples / max(count, 1))
        self._spacing = spacing
        self._arm = fixed.longest_edge / 3

    def fit(self, start: RigidTransform, center: FloatArray, seed: int) -> _Fit | None:
        """Return the best motion near ``start``; ``None`` if ITK finds too little overlap."""
        euler = _euler(start, center)
        method = self._method(seed)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=2 * self._spacing,
            minStep=0.01 * self._spacing,
            numberOfIterations=150,
            relaxationFactor=0.8,  # smaller factors end the search before the maximum
            gradientMagnitudeTolerance=1e-9,
        )
        # A rotation by one radian moves the outer parts of the body by about this many millimetres.
        method.SetOptimizerScales([self._arm**2] * 3 + [1.0] * 3)
        method.SetInitialTransform(euler, inPlace=True)
        try:
            method.Execute(self._fixed, self._moving)
        except RuntimeError as error:
            logger.debug("a start of the registration failed: %s", error)
            return None
        return _Fit(_rigid(euler), -method.GetMetricValue())

    def information(self, transform: RigidTransform, center: FloatArray) -> float:
        """Return the mutual information of the scans under a motion; minus infinity without an overlap."""
        method = self._method(0)
        method.SetInitialTransform(_euler(transform, center))
        try:
            return -float(method.MetricEvaluate(self._fixed, self._moving))
        except RuntimeError:
            return float("-inf")

    def _method(self, seed: int) -> SimpleITK.ImageRegistrationMethod:
        method = SimpleITK.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricFixedMask(self._mask)
        # Gradients at the samples cost less than gradients of the whole scans.
        method.SetMetricUseFixedImageGradientFilter(False)
        method.SetMetricUseMovingImageGradientFilter(False)
        method.SetMetricSamplingStrategy(method.RANDOM if self._share < 1 else method.NONE)
        method.SetMetricSamplingPercentage(self._share, seed + 1)
        method.SetInterpolator(SimpleITK.sitkLinear)
        return method


def _resampled(volume: _Volume, array: Array, spacing: float) -> SimpleITK.Image:
    """Return a volume on an isotropic grid in the directions of the scan, without detail below the new spacing."""
    geometry = volume.geometry
    sigmas = [0.5 * np.sqrt(max(spacing**2 - old**2, 0)) / old for old in geometry.spacing]
    smooth = ndimage.gaussian_filter(array, sigmas, mode="nearest", truncate=3)
    image = SimpleITK.GetImageFromArray(smooth)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    size = [max(_MIN_EDGE, round(n * s / spacing)) for n, s in zip(geometry.shape, geometry.spacing, strict=True)]
    new_spacing = [n * s / m for n, s, m in zip(geometry.shape, geometry.spacing, size, strict=True)]
    first = np.array(new_spacing) / geometry.spacing / 2
    resampler = SimpleITK.ResampleImageFilter()
    resampler.SetSize(size[::-1])
    resampler.SetOutputSpacing(new_spacing[::-1])
    resampler.SetOutputOrigin(geometry.voxel_edges_to_world([first])[0].tolist())
    resampler.SetOutputDirection(geometry.direction)
    resampler.SetInterpolator(SimpleITK.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return resampler.Execute(image)


def _widened(volume: _Volume) -> npt.NDArray[np.bool_]:
    """Return the box of the body with a margin, without padding far from the body.

    The border between body and air carries most of the information, so the samples must include it.
    """
    places = volume.geometry.world_to_voxel_edges(volume.corners)
    low, high = places.min(axis=0), places.max(axis=0)
    margin = np.maximum(_MARGIN * (high - low), 1)
    wide = np.zeros(volume.mask.shape, bool)
    low = np.maximum(np.floor(low - margin), 0)
    high = np.minimum(np.ceil(high + margin), volume.mask.shape)
    wide[box_slices([*low.tolist(), *high.tolist()])] = True
    return wide


def _euler(transform: RigidTransform, center: Sequence[float] | FloatArray) -> SimpleITK.Euler3DTransform:
    euler = SimpleITK.Euler3DTransform()
    point = np.asarray(center, np.float64)
    euler.SetCenter(point.tolist())
    euler.SetMatrix(transform.rotation, 1e-6)
    euler.SetTranslation((transform.apply([point])[0] - point).tolist())
    return euler


def _rigid(euler: SimpleITK.Euler3DTransform) -> RigidTransform:
    offset = np.array(euler.TransformPoint((0.0, 0.0, 0.0)))
    return RigidTransform.of_matrix(euler.GetMatrix(), offset)
