"""Measure the registration error of ``detseg3d_follow``, and its share of right states.

    python benchmarks/follow_up.py [--seeds 6]
    python benchmarks/follow_up.py --aligned data/raw/Dataset102_MSChange

The first command simulates pairs of scans with known motion and known changes. The second command takes a data set
with two aligned scans of each patient as channels. Its label marks the changed lesions. The command moves the position
of the second scan in its header by a known motion, and measures the error at the centres of the lesions. The error
contains the error of the alignment of the data set.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK

from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.rigid import RigidTransform
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.image import Image
from detseg3d.data.images import read_image, read_label_array
from detseg3d.follow.compare import FollowOptions, follow_time_points
from detseg3d.follow.registration import register
from detseg3d.follow.result import FollowUp
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


@dataclass
class Tally:
    """Sums over the pairs of one setting."""

    errors: list[float] = field(default_factory=list)
    uncertainties: list[float] = field(default_factory=list)
    failures: int = 0
    right: int = 0
    total: int = 0
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def measure(pair: SimulatedPair, tally: Tally) -> None:
    points = [
        TimePoint.of_instances(name, Image(scan.instances.astype(np.int32), scan.image.geometry), None, scan.image)
        for name, scan in (("baseline", pair.earlier), ("follow-up", pair.later))
    ]
    start = time.process_time()
    try:
        result = follow_time_points(points, FollowOptions())
    except DetSeg3DError as error:
        tally.failures += 1
        print("   ", error.problem)
        return
    finally:
        tally.seconds.append(time.process_time() - start)
    registration = result.comparisons[0].registration
    centers = [change.center for change in pair.changes]
    tally.errors += registration.transform.distances(pair.transform, centers).tolist()
    tally.uncertainties.append(registration.uncertainty_mm)
    count_states(pair, result, tally)


def count_states(pair: SimulatedPair, result: FollowUp, tally: Tally) -> None:
    """Compare each true change with the change of the same lesions. A wrong grouping counts as a wrong state."""
    found = {(change.earlier, change.later): change.state for change in result.comparisons[0].changes}
    for truth in pair.changes:
        if not truth.earlier and not truth.later:
            continue  # neither scan covers the lesion
        state = found.get((truth.earlier, truth.later))
        tally.total += 1
        if state is truth.state:
            tally.right += 1
        else:
            tally.confusions[truth.state.value, "other lesions" if state is None else state.value] += 1


def measure_aligned(folder: Path, seeds: int) -> None:
    """Measure the registration error on two aligned scans of each patient."""
    print("case | rotation ° | shift mm | error mm mean / max | uncertainty mm | agreeing starts | CPU s")
    dataset = load_raw_dataset(folder)
    for number, case in enumerate(dataset.cases):
        earlier, later = (read_image(source) for source in case.images)
        assert case.label is not None
        label, geometry = read_label_array(case.label.path)
        instances, _ = instances_from_semantic(label, (1,))
        centers = [
            geometry.voxel_edges_to_world(np.argwhere(instances == lesion) + 0.5).mean(axis=0)
            for lesion in range(1, int(instances.max()) + 1)
        ]
        for seed in range(seeds):
            motion = simulated_motion(np.random.default_rng([number, seed]))
            start = time.process_time()
            try:
                registration = register(earlier, Image(later.array, moved(later.geometry, motion)))
            except DetSeg3DError as error:
                print(f"{case.case_id} | failed: {error.problem}", flush=True)
                continue
            errors, quality = registration.transform.distances(motion, centers), registration.quality
            assert quality is not None
            print(
                f"{case.case_id} | {motion.angle_degrees:.0f} | {np.linalg.norm(motion.translation):.0f} | "
                f"{errors.mean():.2f} / {errors.max():.2f} | {quality.uncertainty_mm:.2f} | "
                f"{quality.agreeing_starts} | {time.process_time() - start:.0f}",
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
        measure_aligned(options.aligned, options.seeds)
        return
    print("setting | pairs | failed | error mm mean / 95 % / max | uncertainty mm | right states | wrong | CPU s")
    for name, setting in SETTINGS.items():
        tally = Tally()
        for seed in range(options.seeds):
            measure(simulate_pair(replace(setting, seed=seed)), tally)
        errors = np.array(tally.errors or [np.nan])
        print(
            f"{name} | {options.seeds} | {tally.failures} | {errors.mean():.2f} / {np.percentile(errors, 95):.2f} / "
            f"{errors.max():.2f} | {np.mean(tally.uncertainties or [np.nan]):.2f} | {tally.right} of {tally.total} | "
            f"{dict(tally.confusions)} | {np.mean(tally.seconds):.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
