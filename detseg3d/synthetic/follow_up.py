"""Simulate two scans of one patient, with known motion and known changes of the lesions.

Lesions are ellipsoids in the coordinates of the patient, so both scans and their instance maps are drawn without
resampling a label. The anatomy is that of :mod:`detseg3d.synthetic.phantom`. Each scan has its own grid, noise, bias
field and gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import FloatArray, IntArray, Spacing, Triple, as_spacing, as_triple
from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.lesion_state import LesionState
from detseg3d.core.rigid import RigidTransform
from detseg3d.data.image import Image
from detseg3d.synthetic.phantom import (
    Canvas,
    Mask,
    Point,
    Volume,
    acquire,
    draw_body,
    draw_mimics,
    inside_weight,
)
from detseg3d.system.json_records import JsonRecord

__all__ = ["FollowUpOptions", "SimulatedChange", "SimulatedPair", "SimulatedScan", "simulate_pair"]

# Number of changes of each kind in a pair. The rare kinds come first, while there is room.
_PLAN = (
    (LesionState.MERGED, 1),
    (LesionState.SPLIT, 1),
    (LesionState.ENLARGED, 3),
    (LesionState.SHRUNK, 3),
    (LesionState.STABLE, 4),
    (LesionState.NEW, 3),
    (LesionState.DISAPPEARED, 3),
)
_DIAMETERS = (5.0, 14.0)  # in units of the finest spacing
_GROWTH = (1.7, 3.0)  # factor of the volume; shrinking lesions have the inverse
_GAP = 3.0  # between lesions, in units of the coarsest spacing
_ATTEMPTS = 400


@dataclass(frozen=True)
class FollowUpOptions:
    """Options of a simulated pair.

    Attributes
    ----------
    shape : 3 ints
        Voxels ``(z, y, x)`` of the first scan, at least 32 along each axis.
    spacing : 3 floats
        Millimetres ``(z, y, x)`` of the first scan.
    seed : int
        The same seed gives the same pair.
    max_degrees, max_mm : float
        Largest rotation and largest shift of the patient. Each pair draws half of these values to all of them.
    coverage : float
        Share of the field of view along z that the second scan has, 0.5 to 1.
    spacing_factor : float
        Ratio of the voxel edges of both scans.
    """

    shape: Triple = (96, 112, 112)
    spacing: Spacing = (1.5, 1.5, 1.5)
    seed: int = 0
    max_degrees: float = 10.0
    max_mm: float = 15.0
    coverage: float = 1.0
    spacing_factor: float = 1.0

    def __post_init__(self) -> None:
        if min(self.shape) < 32:
            raise DetSeg3DError(
                "the volume is too small for a pair of scans", value=self.shape, expected="32 voxels or more"
            )
        if not all(np.isfinite(self.spacing)) or min(self.spacing) <= 0 or not self.spacing_factor > 0:
            raise DetSeg3DError("the spacing must be positive", value=self.spacing, expected="three numbers above 0")
        if not 0.5 <= self.coverage <= 1:
            raise DetSeg3DError(
                "the covered share of the body is out of range", value=self.coverage, expected="0.5 to 1"
            )


@dataclass(frozen=True)
class SimulatedScan:
    """One scan of a pair.

    Attributes
    ----------
    image : Image
    instances : ndarray of uint16, shape ``(Z, Y, X)``
        Instance map: lesions that touch have one number.
    """

    image: Image
    instances: npt.NDArray[np.uint16]


@dataclass(frozen=True)
class SimulatedChange(JsonRecord):
    """The true change of a lesion or of a group of lesions.

    Attributes
    ----------
    state : LesionState
    earlier, later : tuple of int
        Numbers in the instance map of each scan.
    volume_ratio : float or None
        True volume in the later scan divided by that in the earlier scan; ``None`` if only one scan has the lesion.
    center : tuple of 3 floats
        Centre in the world of the first scan, ``(x, y, z)`` in mm LPS.
    cut : bool
        True if the edge of a scan cuts the lesion, so that the volumes in the maps are not the true ones.
    """

    state: LesionState
    earlier: tuple[int, ...]
    later: tuple[int, ...]
    volume_ratio: float | None
    center: tuple[float, float, float]
    cut: bool = False


@dataclass(frozen=True)
class SimulatedPair(JsonRecord):
    """Two scans of a patient with the truth about motion and lesions.

    Attributes
    ----------
    transform : RigidTransform
        Motion from the first scan to the second scan.
    changes : tuple of SimulatedChange
    earlier, later : SimulatedScan
        Not written to JSON.
    """

    transform: RigidTransform
    changes: tuple[SimulatedChange, ...]
    earlier: SimulatedScan = field(metadata={"json": False})
    later: SimulatedScan = field(metadata={"json": False})


@dataclass(frozen=True)
class _Ball:
    """An ellipsoid: centre in mm ``(z, y, x)`` of the canvas, and the matrix that maps its inside to the unit ball."""

    center: Point
    matrix: FloatArray

    @classmethod
    def of_axes(cls, center: Point, semi_axes: FloatArray, rotation: FloatArray) -> _Ball:
        return cls(center, rotation / semi_axes[:, None])

    def scaled(self, volume_ratio: float) -> _Ball:
        """Return the ellipsoid with another volume."""
        return replace(self, matrix=self.matrix / volume_ratio ** (1 / 3))

    @property
    def reach(self) -> float:
        """Longest semi-axis in mm."""
        return float(1 / np.linalg.svd(self.matrix, compute_uv=False).min())

    @property
    def volume(self) -> float:
        """Volume in mm³."""
        return float(4 / 3 * np.pi / abs(np.linalg.det(self.matrix)))

    def radius(self, points: FloatArray) -> FloatArray:
        """Return the distance of points ``(…, 3)`` from the centre, 1 on the surface."""
        return np.asarray(np.linalg.norm((points - self.center) @ self.matrix.T, axis=-1))


@dataclass(frozen=True)
class _Lesion:
    """A lesion or a group: its ellipsoids in each scan, its contrast and its state."""

    state: LesionState
    earlier: tuple[_Ball, ...]
    later: tuple[_Ball, ...]
    contrast: float

    @property
    def balls(self) -> tuple[_Ball, ...]:
        return self.earlier + self.later


def simulate_pair(options: FollowUpOptions = FollowUpOptions()) -> SimulatedPair:
    """Simulate two scans of a patient.

    Parameters
    ----------
    options : FollowUpOptions

    Returns
    -------
    SimulatedPair
        Scans, motion, and the state of each lesion. A pair has fewer lesions if not all fit into the body.

    Examples
    --------
    >>> pair = simulate_pair(FollowUpOptions(shape=(48, 48, 48), seed=3))
    >>> pair.earlier.instances.shape, 0 < pair.transform.angle_degrees <= 10
    ((48, 48, 48), True)
    """
    canvas = Canvas(options.shape, options.spacing, (options.seed, 0))
    anatomy, tissue, fluid, air = draw_body(canvas)
    taken = draw_mimics(canvas, anatomy, tissue, fluid, air)
    lesions = _draw_changes(canvas, tissue & ~taken)
    patient = _centered(options.shape, options.spacing)
    motion = _draw_motion(canvas.random, options)
    earlier = _scan(anatomy, lesions, (patient, patient), None, (options.seed, 1))
    later = _scan(anatomy, lesions, (patient, _later_geometry(options)), motion, (options.seed, 2))
    changes = tuple(_describe(lesion, patient, motion, earlier, later) for lesion in lesions)
    return SimulatedPair(motion, changes, earlier, later)


def _centered(shape: Triple, spacing: Spacing) -> Geometry:
    """Return the geometry of a scan with its centre near the origin of the world coordinates."""
    z, y, x = (-0.5 * (count - 1) * step for count, step in zip(shape, spacing, strict=True))
    return Geometry(shape, spacing, (x, y, z))


def _later_geometry(options: FollowUpOptions) -> Geometry:
    """Return the grid of the second scan. A smaller field of view is cut off at the feet."""
    spacing = as_spacing(step * options.spacing_factor for step in options.spacing)
    lengths = np.array(options.shape) * options.spacing * [options.coverage, 1, 1]
    shape = as_triple(np.maximum(np.round(lengths / spacing), 1))
    geometry = _centered(shape, spacing)
    x, y, z = geometry.origin
    top = options.shape[0] * options.spacing[0] / 2 - shape[0] * spacing[0] / 2
    return replace(geometry, origin=(x, y, z + top))


def _draw_motion(random: np.random.Generator, options: FollowUpOptions) -> RigidTransform:
    """Return a random motion about the middle of the first scan."""
    axis, direction = random.standard_normal((2, 3))
    axis /= np.linalg.norm(axis)
    direction /= np.linalg.norm(direction)
    angle = np.radians(options.max_degrees) * random.uniform(0.5, 1)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # formula of Rodrigues
    return RigidTransform.of_matrix(rotation, direction * options.max_mm * random.uniform(0.5, 1))


# -- Lesions -----------------------------------------------------------------------------------------------------------


def _draw_changes(canvas: Canvas, free: Mask) -> list[_Lesion]:
    """Return lesions at random places of the tissue that keep their distance from each other in both scans."""
    gap = _GAP * float(canvas.spacing.max())
    lesions: list[_Lesion] = []
    for state, count in _PLAN:
        for _ in range(count):
            for attempt in range(_ATTEMPTS):
                # A lesion that does not fit becomes smaller, down to half its size.
                lesion = _draw_change(canvas, free, state, 1 - 0.5 * attempt / _ATTEMPTS)
                if lesion is not None and _is_clear(lesion, lesions, gap) and _is_inside(canvas, free, lesion):
                    lesions.append(lesion)
                    break
    return lesions


def _draw_change(canvas: Canvas, free: Mask, state: LesionState, shrinkage: float) -> _Lesion | None:
    random = canvas.random
    center = canvas.place_in(free)
    if center is None:
        return None
    low, high = (value * float(canvas.spacing.min()) for value in _DIAMETERS)
    diameter = max(low, shrinkage * float(np.exp(random.uniform(np.log(low), np.log(high)))))
    contrast = float(random.uniform(35, 60))
    if state in (LesionState.MERGED, LesionState.SPLIT):
        return _draw_group(canvas, state, center, max(diameter, 1.6 * low), contrast)
    rotation = np.linalg.qr(random.standard_normal((3, 3)))[0]
    axes = np.exp(random.normal(0, 0.15, 3))
    ball = _Ball.of_axes(center, axes * diameter / 2 / axes.prod() ** (1 / 3), rotation)
    ratio = {
        LesionState.ENLARGED: float(random.uniform(*_GROWTH)),
        LesionState.SHRUNK: float(1 / random.uniform(*_GROWTH)),
    }.get(state, 1.0)
    if ratio < 1:  # the smaller of both sizes must still have several voxels
        ball = ball.scaled(1 / ratio)
    return _Lesion(
        state,
        () if state is LesionState.NEW else (ball,),
        () if state is LesionState.DISAPPEARED else (ball.scaled(ratio),),
        contrast,
    )


def _draw_group(canvas: Canvas, state: LesionState, center: Point, diameter: float, contrast: float) -> _Lesion:
    """Return two balls that are apart in one scan and overlap in the other scan."""
    direction = canvas.random.standard_normal(3)
    direction /= np.linalg.norm(direction)
    radius = diameter / 2
    voxel = float(canvas.spacing.max())
    half = radius + 1.25 * voxel  # half the distance of the centres
    identity = np.eye(3)
    apart = tuple(_Ball.of_axes(center + side * half * direction, np.full(3, radius), identity) for side in (-1, 1))
    touching = tuple(replace(ball, matrix=identity / (half + 0.75 * voxel)) for ball in apart)
    if state is LesionState.MERGED:
        return _Lesion(state, apart, touching, contrast)
    return _Lesion(state, touching, apart, contrast)


def _is_clear(lesion: _Lesion, others: list[_Lesion], gap: float) -> bool:
    return all(
        np.linalg.norm(mine.center - ball.center) > mine.reach + ball.reach + gap
        for other in others
        for ball in other.balls
        for mine in lesion.balls
    )


def _is_inside(canvas: Canvas, free: Mask, lesion: _Lesion) -> bool:
    """Return True if the ends of the axes of all ellipsoids lie in free tissue."""
    for ball in lesion.balls:
        ends = np.linalg.inv(ball.matrix).T
        points = np.concatenate([ball.center + ends, ball.center - ends])
        if (
            (points < 0).any()
            or (points >= canvas.size).any()
            or not all(free[canvas.voxel(point)] for point in points)
        ):
            return False
    return True


# -- Scans -------------------------------------------------------------------------------------------------------------


def _scan(
    anatomy: Volume,
    lesions: list[_Lesion],
    geometries: tuple[Geometry, Geometry],
    motion: RigidTransform | None,
    seed: tuple[int, int],
) -> SimulatedScan:
    """Return the scan of a patient: the first scan without ``motion``, otherwise the second scan.

    ``geometries`` are the grid of the anatomy and the grid of the scan.
    """
    patient, grid = geometries
    to_patient = _patient_points(patient, grid, motion)
    if motion is None:
        image = anatomy.copy()
    else:
        coordinates = np.moveaxis(to_patient((slice(None),) * 3) / patient.spacing - 0.5, -1, 0)
        image = ndimage.map_coordinates(anatomy, coordinates, order=1, mode="nearest").astype(np.float32)
    mask = np.zeros(grid.shape, bool)
    for lesion in lesions:
        for ball in lesion.earlier if motion is None else lesion.later:
            window = _window(ball, patient, grid, motion)
            if window is None:
                continue
            radius = ball.radius(to_patient(window)).astype(np.float32)
            weight = inside_weight(radius, 1.0, ball.reach, float(max(grid.spacing)))
            # The brightest of overlapping balls counts, so that a merged lesion has no bright seam.
            image[window] = np.maximum(
                image[window], image[window] + np.float32(lesion.contrast) * weight * (~mask[window])
            )
            mask[window] |= radius <= 1
    instances = instances_from_semantic(mask, (1,))[0].astype(np.uint16)
    scanner = Canvas(grid.shape, grid.spacing, seed)
    return SimulatedScan(Image(acquire(scanner, image), grid), instances)


def _patient_points(
    patient: Geometry, grid: Geometry, motion: RigidTransform | None
) -> Callable[[tuple[slice, ...]], FloatArray]:
    """Return a function that gives the place of each voxel of a window, in mm ``(z, y, x)`` of the canvas."""
    back = None if motion is None else motion.inverse()

    def points(window: tuple[slice, ...]) -> FloatArray:
        axes = [np.arange(count)[part] + 0.5 for count, part in zip(grid.shape, window, strict=True)]
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        world = grid.voxel_edges_to_world(voxels.reshape(-1, 3))
        places = patient.world_to_voxel_edges(world if back is None else back.apply(world))
        return (places * patient.spacing).reshape(voxels.shape)

    return points


def _to_grid(point: Point, patient: Geometry, grid: Geometry, motion: RigidTransform | None) -> FloatArray:
    """Return a place of the canvas in voxel edges of a scan."""
    world = patient.voxel_edges_to_world([point / patient.spacing])
    return np.asarray(grid.world_to_voxel_edges(world if motion is None else motion.apply(world))[0])


def _window(ball: _Ball, patient: Geometry, grid: Geometry, motion: RigidTransform | None) -> tuple[slice, ...] | None:
    """Return the part of a scan around an ellipsoid; ``None`` if the scan does not cover any of it."""
    center = _to_grid(ball.center, patient, grid, motion)
    reach = (ball.reach + 2 * max(grid.spacing)) / np.asarray(grid.spacing)
    low = np.maximum(np.floor(center - reach), 0).astype(int)
    high = np.minimum(np.ceil(center + reach), grid.shape).astype(int)
    return None if (low >= high).any() else tuple(slice(a, b) for a, b in zip(low, high, strict=True))


# -- Truth -------------------------------------------------------------------------------------------------------------


def _describe(
    lesion: _Lesion, patient: Geometry, motion: RigidTransform, earlier: SimulatedScan, later: SimulatedScan
) -> SimulatedChange:
    """Return the true change of a lesion, with its numbers in both instance maps."""
    sides = ((earlier, lesion.earlier, None), (later, lesion.later, motion))
    numbers = tuple(
        tuple(sorted({number for ball in balls for number in _numbers(ball, scan, patient, move)}))
        for scan, balls, move in sides
    )
    covered = min(
        _covered(ball, scan.image.geometry, patient, move) for scan, _, move in sides for ball in lesion.balls
    )
    seen = [bool(entry) for entry in numbers]
    # A lesion is out of view if a scan should show it but does not, or if its place is not covered where it is absent.
    is_hidden = seen != [bool(lesion.earlier), bool(lesion.later)] or (sum(seen) == 1 and covered < 1)
    state = LesionState.OUT_OF_VIEW if is_hidden else lesion.state
    volumes = [sum(ball.volume for ball in balls) for _, balls, _ in sides]
    is_single = lesion.state in (LesionState.ENLARGED, LesionState.SHRUNK, LesionState.STABLE)
    center = np.mean([ball.center for ball in lesion.earlier or lesion.later], axis=0)
    x, y, z = patient.voxel_edges_to_world([center / patient.spacing])[0].tolist()
    return SimulatedChange(
        state=state,
        earlier=numbers[0],
        later=numbers[1],
        volume_ratio=round(volumes[1] / volumes[0], 4) if is_single else None,
        center=(x, y, z),
        cut=covered < 1,
    )


def _numbers(ball: _Ball, scan: SimulatedScan, patient: Geometry, motion: RigidTransform | None) -> Iterator[int]:
    grid = scan.image.geometry
    window = _window(ball, patient, grid, motion)
    if window is None:
        return
    inside = ball.radius(_patient_points(patient, grid, motion)(window)) <= 1
    values: IntArray = np.unique(scan.instances[window][inside]).astype(np.int64)
    yield from (number for number in values.tolist() if number)


def _covered(ball: _Ball, grid: Geometry, patient: Geometry, motion: RigidTransform | None) -> float:
    """Return the share of an ellipsoid that a scan covers, from points of a regular grid in it."""
    steps = np.linspace(-1, 1, 9)
    unit = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    unit = unit[np.linalg.norm(unit, axis=1) <= 1]
    points = ball.center + unit @ np.linalg.inv(ball.matrix).T
    world = patient.voxel_edges_to_world(points / patient.spacing)
    places = grid.world_to_voxel_edges(world if motion is None else motion.apply(world))
    return float(np.mean(((places >= 0) & (places <= grid.shape)).all(axis=1)))
