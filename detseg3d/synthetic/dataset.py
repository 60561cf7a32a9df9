"""Write the built-in example as a raw data set."""

from __future__ import annotations

import functools
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

__all__ = ["write_example_dataset"]


HEALTHY_EVERY, HEALTHY_INDEX = 10, 3  # case 3, 13, 23, … has no lesion


def write_example_dataset(
    output_folder: str | Path,
    num_cases: int = 24,
    shape: Shape = (96, 96, 96),
    spacing: Spacing = (1.0, 1.0, 1.0),
    seed: int = 0,
    num_test: int = 8,
    dataset_id: int = 999,
    run: Run = Run(show_progress=False),
) -> Path:
    """Write the example as an nnU-Net style data set.

    Parameters
    ----------
    output_folder : path
        Folder of raw data sets; ``DatasetXXX_Example`` is made in it.
    num_cases, num_test : int
        Cases for training (``imagesTr``, ``labelsTr``) and held-out cases (``imagesTs``, ``labelsTs``). Every tenth
        case is free of lesions.
    shape, spacing : tuple
        Voxels and millimetres per axis, ``(z, y, x)``.
    seed : int
        The same seed gives the same cases, byte for byte.
    dataset_id : int
        The number in the folder's name.
    run : Run

    Returns
    -------
    Path
        The data set's folder.

    Raises
    ------
    DetSeg3DError
        If a value is out of range, the data set exists already or cannot be written.
    """
    if num_cases < 1 or num_test < 0:
        raise DetSeg3DError("at least one training case is needed", value=(num_cases, num_test), expected="1 or more")
    if not 1 <= dataset_id <= 999:
        raise DetSeg3DError("the number of the data set is out of range", value=dataset_id, expected="1 to 999")
    folder = Path(output_folder) / f"Dataset{dataset_id:03d}_Example"
    if RawFolder(folder).dataset_json.exists():
        raise DetSeg3DError("the data set exists already", file=folder, remedy="remove it or write elsewhere")
    jobs = [(True, index, f"example_{index + 1:03d}") for index in range(num_cases)]
    jobs += [(False, index, f"held_out_{index + 1:03d}") for index in range(num_test)]
    write = functools.partial(_write_case, folder=folder, shape=shape, spacing=spacing, seed=seed)
    results = run_cases(write, jobs, run, "example cases")
    failures = describe_failures(results, name=lambda job: str(job[2]))
    if failures:
        raise DetSeg3DError(f"the example could not be written:\n{failures}", file=folder)
    # Written last: the data set is there once this file is.
    write_json(
        {
            "name": "Example",
            "description": "Simulated scans with lesions, for trying out DetSeg3D. Not real data.",
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": num_cases,
            "file_ending": ".nii.gz",
        },
        RawFolder(folder).dataset_json,
    )
    return folder


def _write_case(job: tuple[bool, int, str], folder: Path, shape: Shape, spacing: Spacing, seed: int) -> None:
    training, index, case_id = job
    healthy = index % HEALTHY_EVERY == HEALTHY_INDEX
    case = simulate_case(shape, spacing, (seed, 0 if training else 1, index), lesions=not healthy)
    z, y, x = spacing
    # The origin puts the field's middle at about world 0, as scanners do.
    origin = (-0.5 * x * shape[2], -0.5 * y * shape[1], -0.5 * z * shape[0])
    geometry = Geometry(shape, spacing, origin)
    raw = RawFolder(folder)
    images, labels = (raw.training_images, raw.training_labels) if training else (raw.test_images, raw.test_labels)
    write_image(case.image, geometry, images / f"{case_id}_0000.nii.gz")
    write_image(case.label, geometry, labels / f"{case_id}.nii.gz")
