"""Write simulated scans as raw data sets in the layout of nnU-Net: the built-in example, and scans for pretraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detseg3d.core.arrays import Spacing, Triple, as_spacing, as_triple
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.folders import RawFolder
from detseg3d.data.images import write_image
from detseg3d.synthetic.phantom import Shape, simulate_case
from detseg3d.synthetic.random_scans.scan import MIN_EDGE, simulate_random_scan
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["RANDOM_DATASET", "PhantomOptions", "RandomScanOptions", "write_example_dataset", "write_random_dataset"]

# Case 3, 13, 23, … has no lesion.
HEALTHY_EVERY, HEALTHY_INDEX = 10, 3

RANDOM_DATASET = "Dataset998_RandomScans"
"""Name of the data set for pretraining."""

# Compressing the noise of the scans would take longer than simulating them.
_RANDOM_ENDING = ".nii"
# Edges of a random scan lie between this fraction of the longest edge and the longest edge.
_SHORTEST_EDGE = 0.65


@dataclass(frozen=True)
class PhantomOptions:
    """Options of the simulated scans of the example.

    Attributes
    ----------
    shape : 3 ints
        Voxels ``(z, y, x)``, at least 16 along each axis.
    spacing : 3 floats
        Millimetres ``(z, y, x)``.
    seed : int
        The same seed gives the same files, byte for byte.
    """

    shape: Shape = (96, 96, 96)
    spacing: Spacing = (1.0, 1.0, 1.0)
    seed: int = 0


@dataclass(frozen=True)
class RandomScanOptions:
    """Options of the random scans for pretraining.

    Attributes
    ----------
    num_cases : int
        Number of scans.
    longest_edge : int
        Longest edge of a scan in voxels, at least 25. Each edge of a scan has 65 to 100 % of this length.
    voxel : float
        Typical edge of a voxel in mm. The voxels of a scan are up to a third smaller or larger.
    seed : int
        The same seed gives the same files, byte for byte.
    """

    num_cases: int = 240
    longest_edge: int = 112
    voxel: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class _Job:
    """One case to write: its use (training or test), its number from 0, and its name."""

    training: bool
    index: int
    case_id: str


@dataclass(frozen=True)
class _About:
    """Entries of ``dataset.json``: the name of the data set, its description and the ending of its files."""

    name: str
    description: str
    file_ending: str


def write_example_dataset(
    output_folder: str | Path,
    num_cases: int = 24,
    num_test: int = 8,
    dataset_id: int = 999,
    phantom: PhantomOptions = PhantomOptions(),
    run: Run = Run(show_progress=False),
) -> Path:
    """Write the example as a raw data set.

    Parameters
    ----------
    output_folder : path
        Folder of the raw data sets. The function creates the folder ``DatasetXXX_Example`` in this folder.
    num_cases, num_test : int
        Number of training cases (``imagesTr``, ``labelsTr``) and of held-out cases (``imagesTs``, ``labelsTs``). Every
        tenth case has no lesion.
    dataset_id : int
        Number in the name of the folder, 1 to 999.
    phantom : PhantomOptions
    run : Run

    Returns
    -------
    Path
        The folder of the data set.

    Raises
    ------
    DetSeg3DError
        If a value is out of range, or if the data set exists already or cannot be written.
    """
    if num_cases < 1 or num_test < 0:
        raise DetSeg3DError("at least one training case is needed", value=(num_cases, num_test), expected="1 or more")
    if not 1 <= dataset_id <= 999:
        raise DetSeg3DError("the number of the data set is out of range", value=dataset_id, expected="1 to 999")
    folder = Path(output_folder) / f"Dataset{dataset_id:03d}_Example"
    raw = RawFolder(folder)
    jobs = [_Job(True, index, f"example_{index + 1:03d}") for index in range(num_cases)]
    jobs += [_Job(False, index, f"held_out_{index + 1:03d}") for index in range(num_test)]
    about = _About("Example", "Simulated scans with lesions, for trying out DetSeg3D. Not real data.", ".nii.gz")
    return _write_dataset(raw, about, partial(_write_case, raw=raw, phantom=phantom), jobs, run)


def _write_case(job: _Job, raw: RawFolder, phantom: PhantomOptions) -> None:
    """Simulate one case and write its image and its label."""
    healthy = job.index % HEALTHY_EVERY == HEALTHY_INDEX
    seed = (phantom.seed, 0 if job.training else 1, job.index)
    case = simulate_case(phantom.shape, phantom.spacing, seed, lesions=not healthy)
    geometry = _centered(phantom.shape, phantom.spacing)
    images, labels = (raw.training_images, raw.training_labels) if job.training else (raw.test_images, raw.test_labels)
    write_image(case.image, geometry, images / f"{job.case_id}_0000.nii.gz")
    write_image(case.label, geometry, labels / f"{job.case_id}.nii.gz")


def write_random_dataset(
    output_folder: str | Path, options: RandomScanOptions = RandomScanOptions(), run: Run = Run(show_progress=False)
) -> Path:
    """Write random scans for pretraining as a raw data set.

    Parameters
    ----------
    output_folder : path
        Folder of the raw data sets. The function creates the folder :data:`RANDOM_DATASET` in this folder.
    options : RandomScanOptions
    run : Run

    Returns
    -------
    Path
        The folder of the data set.

    Raises
    ------
    DetSeg3DError
        If a value is out of range, or if the data set exists already or cannot be written.
    """
    shortest = round(MIN_EDGE / _SHORTEST_EDGE)
    if options.num_cases < 2:
        raise DetSeg3DError("pretraining needs at least two scans", value=options.num_cases, expected="2 or more")
    if options.longest_edge < shortest:
        raise DetSeg3DError(
            "the random scans are too small", value=options.longest_edge, expected=f"at least {shortest} voxels"
        )
    folder = Path(output_folder) / RANDOM_DATASET
    raw = RawFolder(folder)
    jobs = [_Job(True, index, f"random_{index + 1:05d}") for index in range(options.num_cases)]
    about = _About(
        "RandomScans",
        "Simulated scans with random anatomy, intensities and lesions, for pretraining.",
        _RANDOM_ENDING,
    )
    return _write_dataset(raw, about, partial(_write_random_case, raw=raw, options=options), jobs, run)


def _write_random_case(job: _Job, raw: RawFolder, options: RandomScanOptions) -> None:
    """Simulate one random scan and write its image and its label."""
    seed = (options.seed, 2, job.index)
    edges = options.longest_edge * np.random.default_rng([*seed, 0]).uniform(_SHORTEST_EDGE, 1, 3)
    scan = simulate_random_scan(as_triple(np.ceil(edges)), seed)
    geometry = _centered(as_triple(scan.image.shape), as_spacing(options.voxel * edge for edge in scan.spacing))
    write_image(scan.image, geometry, raw.training_images / f"{job.case_id}_0000{_RANDOM_ENDING}")
    write_image(scan.label, geometry, raw.training_labels / f"{job.case_id}{_RANDOM_ENDING}")


def _centered(shape: Triple, spacing: Spacing) -> Geometry:
    """Return the geometry of a scan with its centre near the origin of the world coordinates, as in real scans."""
    z, y, x = (-0.5 * length * size for length, size in zip(spacing, shape, strict=True))
    return Geometry(shape, spacing, (x, y, z))


def _write_dataset(
    raw: RawFolder, about: _About, write: Callable[[_Job], None], jobs: Sequence[_Job], run: Run
) -> Path:
    """Write the cases of a new data set with one MRI channel and one lesion class, then its ``dataset.json``.

    Raises
    ------
    DetSeg3DError
        If the data set exists already, or if a case cannot be written.
    """
    folder = raw.dataset_json.parent
    if raw.dataset_json.exists():
        raise DetSeg3DError("the data set exists already", file=folder, remedy="remove it, or choose another folder")
    results = run_cases(write, jobs, run, "simulated scans")
    failures = describe_failures(results, lambda job: str(job.case_id))
    if failures:
        raise DetSeg3DError(f"the simulated scans could not be written:\n{failures}", file=folder)
    # dataset.json is written last, because a folder with this file counts as a complete data set.
    write_json(
        {
            "name": about.name,
            "description": about.description,
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": sum(job.training for job in jobs),
            "file_ending": about.file_ending,
        },
        raw.dataset_json,
    )
    return folder
