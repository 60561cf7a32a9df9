"""Write simulated pairs of scans, with their instance maps and the true changes of the lesions."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import partial
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.images import write_image
from detseg3d.synthetic.dicom_series import SimulatedStudy, write_dicom_series
from detseg3d.synthetic.follow_up import FollowUpOptions, SimulatedScan, simulate_pair
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

__all__ = ["write_follow_up_example"]

_FOLDER = "FollowUp_Example"
_SIDES = {"baseline": dt.date(2024, 1, 15), "follow_up": dt.date(2024, 7, 15)}
"""Folder of each scan, and its date in DICOM."""


def write_follow_up_example(
    output_folder: str | Path,
    num_pairs: int = 4,
    options: FollowUpOptions | None = None,
    run: Run = Run(show_progress=False),
    *,
    dicom: bool = False,
) -> Path:
    """Write simulated patients with two scans each.

    The folders ``baseline`` and ``follow_up`` have the scans in ``images/CASE_0000.nii.gz`` and the true instance maps
    in ``instances/CASE.nii.gz``, so ``detseg3d_follow`` can read them. ``truth/CASE.json`` states the motion and the
    change of each lesion.

    Parameters
    ----------
    output_folder : path
        The function creates the folder ``FollowUp_Example`` in this folder.
    num_pairs : int
    options : FollowUpOptions, optional
        The seed of a pair is ``options.seed`` and its number.
    run : Run
    dicom : bool, optional
        Also write each scan as a DICOM series ``dicom/CASE/``. The series of a patient have dates half a year apart.

    Returns
    -------
    Path
        The folder of the pairs.

    Raises
    ------
    DetSeg3DError
        If a value is out of range, or if the folder exists already or cannot be written.
    """
    if num_pairs < 1:
        raise DetSeg3DError("at least one pair is needed", value=num_pairs, expected="1 or more")
    folder = Path(output_folder) / _FOLDER
    if folder.exists():
        raise DetSeg3DError("the example exists already", file=folder, remedy="remove it, or choose another folder")
    jobs = list(range(num_pairs))
    results = run_cases(
        partial(_write_pair, folder=folder, options=options or FollowUpOptions(), dicom=dicom),
        jobs,
        run,
        "simulated patients",
    )
    failures = describe_failures(results, _case_name)
    if failures:
        raise DetSeg3DError(f"the simulated scans could not be written:\n{failures}", file=folder)
    return folder


def _case_name(index: int) -> str:
    return f"patient_{index + 1:03d}"


def _write_pair(index: int, folder: Path, options: FollowUpOptions, dicom: bool) -> None:
    """Simulate one patient and write both scans and the truth. The truth is written last."""
    case = _case_name(index)
    seed = options.seed * 10_000 + index
    pair = simulate_pair(replace(options, seed=seed))
    for (side, date), scan in zip(_SIDES.items(), (pair.earlier, pair.later), strict=True):
        _write_scan(scan, folder / side, case)
        if dicom:
            write_dicom_series(scan.image, SimulatedStudy(case, side, date, seed), folder / side / "dicom" / case)
    write_json(pair.to_json(), folder / "truth" / f"{case}.json")


def _write_scan(scan: SimulatedScan, folder: Path, case: str) -> None:
    geometry = scan.image.geometry
    write_image(scan.image.array, geometry, folder / "images" / f"{case}_0000.nii.gz")
    write_image(scan.instances, geometry, folder / "instances" / f"{case}.nii.gz")
