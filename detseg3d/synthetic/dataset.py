"""Write the built-in example as a raw data set in the layout of nnU-Net."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.folders import RawFolder
from detseg3d.data.images import write_image
from detseg3d.synthetic.phantom import Shape, simulate_case
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["PhantomOptions", "write_example_dataset"]

# Case 3, 13, 23, … has no lesion.
HEALTHY_EVERY, HEALTHY_INDEX = 10, 3


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
class _Job:
    """One case to write: its use (training or test), its number from 0, and its name."""

    training: bool
    index: int
    case_id: str


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
    if raw.dataset_json.exists():
        raise DetSeg3DError("the data set exists already", file=folder, remedy="remove it, or choose another folder")
    jobs = [_Job(True, index, f"example_{index + 1:03d}") for index in range(num_cases)]
    jobs += [_Job(False, index, f"held_out_{index + 1:03d}") for index in range(num_test)]
    results = run_cases(partial(_write_case, raw=raw, phantom=phantom), jobs, run, "example cases")
    failures = describe_failures(results, lambda job: str(job.case_id))
    if failures:
        raise DetSeg3DError(f"the example could not be written:\n{failures}", file=folder)
    # dataset.json is written last, because a folder with this file counts as a complete data set.
    write_json(
        {
            "name": "Example",
            "description": "Simulated scans with lesions, for trying out DetSeg3D. Not real data.",
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": num_cases,
            "file_ending": ".nii.gz",
        },
        raw.dataset_json,
    )
    return folder


def _write_case(job: _Job, raw: RawFolder, phantom: PhantomOptions) -> None:
    """Simulate one case and write its image and its label."""
    healthy = job.index % HEALTHY_EVERY == HEALTHY_INDEX
    seed = (phantom.seed, 0 if job.training else 1, job.index)
    case = simulate_case(phantom.shape, phantom.spacing, seed, lesions=not healthy)
    z, y, x = phantom.spacing
    # As in real scans, the centre of the field of view lies near the origin of the world coordinates.
    origin = (-0.5 * x * phantom.shape[2], -0.5 * y * phantom.shape[1], -0.5 * z * phantom.shape[0])
    geometry = Geometry(phantom.shape, phantom.spacing, origin)
    images, labels = (raw.training_images, raw.training_labels) if job.training else (raw.test_images, raw.test_labels)
    write_image(case.image, geometry, images / f"{job.case_id}_0000.nii.gz")
    write_image(case.label, geometry, labels / f"{job.case_id}.nii.gz")
