"""Measure the registration error of ``detseg3d_follow``, and its share of right states.

    python benchmarks/follow_up.py [--seeds 6]
    python benchmarks/follow_up.py --aligned data/raw/Dataset102_MSChange [--seeds 2]

The first command simulates pairs of scans with known motion and known changes. States are counted for the true instance
maps, and for maps with errors of the outlines.

The second command takes a data set with two aligned scans of each patient as channels. Its label marks the changed
lesions, but not how they changed. The command moves the position of the second scan in its header by a known motion,
and measures the error at the centres of the lesions. The error contains the error of the alignment of the data set. The
spread between several motions does not contain it: the registered places, moved back by the known motion, should be
equal. Each lesion of the label is also followed from its place in the first scan to its place in the moved scan: it is
right if it is matched with itself alone and stable.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.lesion_state import LesionState
from detseg3d.core.rigid import RigidTransform
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.image import Image
from detseg3d.data.images import read_image, read_label_array
from detseg3d.follow.compare import FollowOptions, follow_time_points
from detseg3d.follow.registration import RegistrationMethod, register
from detseg3d.follow.result import Comparison
from detseg3d.follow.time_point import TimePoint
from detseg3d.synthetic.follow_up import FollowUpOptions, SimulatedPair, simulate_pair

SETTINGS = {
    "5°, 5 mm": FollowUpOptions(max_degrees=5, max_mm=5),
    "10°, 15 mm": FollowUpOptions(max_degrees=10, max_mm=15),
    "20°, 30 mm": FollowUpOptions(max_degrees=20, max_mm=30),
    "20°, 30 mm, 70 % of the field of view": FollowUpOptions(max_degrees=20, max_mm=30, coverage=0.7),
    "10°, 15 mm, voxels 1.5 times larger": FollowUpOptions(max_degrees=10, max_mm=15, spacing_factor=1.5),
    "10°, 15 mm, slices of 4 mm": FollowUpOptions((42, 160, 160), (4.0, 1.0, 1.0), max_degrees=10, max_mm=15),
}
OUTLINE_ERRORS = (0.0, 0.25, 0.5)  # standard deviations in voxels
NOISE_WIDTH = 1.5  # voxels: neighbouring parts of an outline move together, as in predictions
OTHER = "other lesions"
Map = npt.NDArray[np.int32]


@dataclass
class States:
    """Number of right states, and the confusions, over many pairs."""

    right: int = 0
    total: int = 0
    counts: Counter[tuple[LesionState, str]] = field(default_factory=Counter)
    dice: list[float] = field(default_factory=list)

    def add(self, pair: SimulatedPair, comparison: Comparison) -> None:
        """Compare each true change with the change of the same lesions. A wrong grouping is a wrong state."""
        measured = {(change.earlier, change.later): change.state.value for change in comparison.changes}
        for truth in pair.changes:
            if not truth.earlier and not truth.later:
                continue  # neither scan covers the lesion
            state = measured.get((truth.earlier, truth.later), OTHER)
            self.total += 1
            self.right += state == truth.state.value
            self.counts[truth.state, state] += 1


@dataclass
class Tally:
    """Sums over the pairs of one setting."""

    errors: list[float] = field(default_factory=list)
    uncertainties: list[float] = field(default_factory=list)
    failures: int = 0
    seconds: list[float] = field(default_factory=list)
    states: dict[float, States] = field(default_factory=lambda: {error: States() for error in OUTLINE_ERRORS})


def measure(pair: SimulatedPair, tally: Tally, random: np.random.Generator) -> None:
    """Register a pair once, and follow its lesions with each error of the outlines."""
    scans = pair.earlier, pair.later
    true = [scan.instances.astype(np.int32) for scan in scans]
    images = [scan.image for scan in scans]
    start = time.process_time()
    try:
        registered = follow(true, images, FollowOptions())
    except DetSeg3DError as error:
        tally.failures += 1
        print("   ", error.problem, flush=True)
        return
    finally:
        tally.seconds.append(time.process_time() - start)
    transform = registered.registration.transform
    centers = [change.center for change in pair.changes]
    tally.errors += transform.distances(pair.transform, centers).tolist()
    tally.uncertainties.append(registered.registration.uncertainty_mm)
    known = FollowOptions(RegistrationMethod.FILE, (transform,), tolerance_mm=registered.tolerance_mm)
    for error, states in tally.states.items():
        maps = [with_outline_errors(array, error, random) for array in true] if error else true
        states.add(pair, follow(maps, images, known))
        states.dice += [dice for first, second in zip(true, maps, strict=True) for dice in dice_of(first, second)]


def follow(maps: Sequence[Map], images: Sequence[Image], options: FollowOptions) -> Comparison:
    points = [
        TimePoint.of_instances(f"scan {index + 1}", Image(array, image.geometry), None, image)
        for index, (array, image) in enumerate(zip(maps, images, strict=True))
    ]
    return follow_time_points(points, options).comparisons[0]


def with_outline_errors(instances: Map, error: float, random: np.random.Generator) -> Map:
    """Return the map with outlines that are moved by smooth noise with a standard deviation of ``error`` voxels.

    Distances are counted in voxels along each axis. Each lesion stays one component and keeps its number.
    """
    result = np.zeros_like(instances)
    numbers, boxes = boxes_from_instances(instances)
    for number, box in zip(numbers.tolist(), boxes, strict=True):
        low = np.maximum(np.asarray(box[:3], int) - 4, 0)
        high = np.minimum(np.asarray(box[3:], int) + 4, instances.shape)
        part = box_slices([*low.tolist(), *high.tolist()])
        mask = instances[part] == number
        depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
        depth -= 0.5 * np.sign(depth)  # 0 at the border between two voxels
        noise = ndimage.gaussian_filter(random.standard_normal(mask.shape), NOISE_WIDTH)
        moved = depth + error * noise / noise.std() > 0
        moved |= depth == depth.max()
        components, _ = instances_from_semantic(moved, (1,))
        sizes = np.bincount(components.ravel())
        moved = components == 1 + int(np.argmax(sizes[1:]))
        free = (instances[part] == 0) | mask
        result[part][moved & free] = number
    return result


def dice_of(first: Map, second: Map) -> list[float]:
    """Return the Dice coefficient of each lesion."""
    sizes = [np.bincount(array.ravel(), minlength=int(first.max()) + 1) for array in (first, second)]
    both = np.bincount(first[first == second], minlength=len(sizes[0]))
    return [2 * both[n] / (sizes[0][n] + sizes[1][n]) for n in range(1, len(both)) if sizes[0][n]]


def print_simulated(seeds: int) -> None:
    print(
        "setting | pairs | failed | error mm mean / 95 % / max | uncertainty mm | right states by outline error | CPU s"
    )
    total = {error: States() for error in OUTLINE_ERRORS}
    for number, (name, setting) in enumerate(SETTINGS.items()):
        tally = Tally()
        for seed in range(seeds):
            measure(simulate_pair(replace(setting, seed=seed)), tally, np.random.default_rng([number, seed]))
        errors = np.array(tally.errors or [np.nan])
        right = ", ".join(f"{error:g}: {states.right} of {states.total}" for error, states in tally.states.items())
        print(
            f"{name} | {seeds} | {tally.failures} | {errors.mean():.2f} / {np.percentile(errors, 95):.2f} / "
            f"{errors.max():.2f} | {np.mean(tally.uncertainties or [np.nan]):.2f} | {right} | "
            f"{np.mean(tally.seconds):.0f}",
            flush=True,
        )
        for error, states in tally.states.items():
            total[error].right += states.right
            total[error].total += states.total
            total[error].counts += states.counts
            total[error].dice += states.dice
    for error, states in total.items():
        print_confusion(error, states)


def print_confusion(error: float, states: States) -> None:
    """Print one row per true state, and one column per stated state."""
    columns = [*(state.value for state in LesionState), OTHER]
    columns = [column for column in columns if any(stated == column for _, stated in states.counts)]
    print(
        f"\noutline error {error:g} voxels, Dice {np.mean(states.dice or [np.nan]):.2f}: "
        f"{states.right} of {states.total} states are right"
    )
    print("truth | " + " | ".join(columns))
    for state in LesionState:
        if any(truth is state for truth, _ in states.counts):
            print(f"{state.value} | " + " | ".join(str(states.counts[state, column]) for column in columns))


def print_aligned(folder: Path, seeds: int) -> None:
    """Measure the registration error on two aligned scans of each patient."""
    print(
        "case | rotation ° | shift mm | error mm mean / max | from the first motion mm mean / max | uncertainty mm | "
        "tolerance mm | agreeing starts | "
        "lesions matched with themselves | CPU s"
    )
    for number, case in enumerate(load_raw_dataset(folder).cases):
        earlier, later = (read_image(source) for source in case.images)
        assert case.label is not None
        label, geometry = read_label_array(case.label.path)
        instances = instances_from_semantic(label, (1,))[0].astype(np.int32)
        centers = [
            geometry.voxel_edges_to_world(np.argwhere(instances == lesion) + 0.5).mean(axis=0)
            for lesion in range(1, int(instances.max()) + 1)
        ]
        first = None
        for seed in range(seeds):
            motion = simulated_motion(np.random.default_rng([number, seed]))
            images = (earlier, Image(later.array, moved(later.geometry, motion)))
            start = time.process_time()
            try:
                registration = register(*images)
            except DetSeg3DError as error:
                print(f"{case.case_id} | failed: {error.problem}", flush=True)
                continue
            seconds = time.process_time() - start
            errors, quality = registration.transform.distances(motion, centers), registration.quality
            assert quality is not None
            places = motion.inverse().apply(registration.transform.apply(centers))
            first = places if first is None else first
            spread = np.linalg.norm(places - first, axis=1)
            # The tolerance that follow_time_points chooses.
            tolerance = registration.uncertainty_mm + geometry.voxel_volume ** (1 / 3) / 2
            options = FollowOptions(RegistrationMethod.FILE, (registration.transform,), tolerance_mm=tolerance)
            changes = follow((instances, instances), images, options).changes
            same = sum(change.earlier == change.later and change.state is LesionState.STABLE for change in changes)
            print(
                f"{case.case_id} | {motion.angle_degrees:.0f} | {np.linalg.norm(motion.translation):.0f} | "
                f"{errors.mean():.2f} / {errors.max():.2f} | {spread.mean():.2f} / {spread.max():.2f} | "
                f"{quality.uncertainty_mm:.2f} | {tolerance:.2f} | "
                f"{quality.agreeing_starts} | {same} of {len(centers)} | {seconds:.0f}",
                flush=True,
            )


def simulated_motion(random: np.random.Generator) -> RigidTransform:
    """Return a motion of up to 20 degrees and up to about 30 mm."""
    euler = SimpleITK.Euler3DTransform()
    euler.SetRotation(*np.radians(random.uniform(-11, 11, 3)).tolist())
    return RigidTransform.of_matrix(euler.GetMatrix(), random.uniform(-17, 17, 3))


def moved(geometry: Geometry, motion: RigidTransform) -> Geometry:
    """Return a grid with another position of the patient in its header."""
    direction = motion.matrix @ np.asarray(geometry.direction).reshape(3, 3)
    x, y, z = motion.apply([geometry.origin])[0].tolist()
    return Geometry(geometry.shape, geometry.spacing, (x, y, z), tuple(direction.ravel().tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--aligned", type=Path, metavar="FOLDER", help="data set with two aligned scans per case")
    options = parser.parse_args()
    if options.aligned:
        print_aligned(options.aligned, options.seeds)
    else:
        print_simulated(options.seeds)


if __name__ == "__main__":
    main()
