"""Masks of another system. Its lesions are the connected components of each class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.shift.judging import ScanResult, judge_mask
from benchmarks.shift.scans import LabelledScan
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawDataset
from detseg3d.data.labels import LabelFormat, Lesions, read_true_lesions
from detseg3d.evaluation.probabilities.maps import ProbabilityMap, read_probability_map

__all__ = ["judge_stored_mask"]


def judge_stored_mask(scan: LabelledScan, folder: Path, dataset: RawDataset) -> ScanResult:
    """Measure the lesions of a stored mask.

    Parameters
    ----------
    scan : LabelledScan
    folder : Path
        Folder with the mask ``CASE.nii.gz`` (or the file ending of the data set). If it also has a probability map
        ``CASE.npz`` of nnU-Net, the lesions get scores.
    dataset : RawDataset
        Its label values are those of the masks.

    Raises
    ------
    DetSeg3DError
        If the mask does not exist or is not on the grid of the scan.
    """
    classes = sorted(zip(dataset.class_labels, dataset.class_names, strict=True))
    file = folder / f"{scan.case_id}{dataset.file_ending}"
    mask = read_true_lesions(file, LabelFormat({name: value for value, name in classes}))
    differences = scan.geometry.difference(mask.geometry)
    if differences:
        raise DetSeg3DError("the mask is not on the grid of the scan: " + "; ".join(differences), file=file)
    lesions = mask.lesions
    map_file = folder / f"{scan.case_id}.npz"
    if map_file.exists():
        lesions = _with_scores(lesions, read_probability_map(map_file, scan.geometry, file, dataset.class_labels))
    return judge_mask(scan, lesions, dataset.class_names)


def _with_scores(lesions: Lesions, map_: ProbabilityMap) -> Lesions:
    """Return the lesions with the 95th percentile of the probabilities of their voxels as scores.

    In clean scans this score gives a higher average precision to nnU-Net than the mean or the maximum.
    """
    numbers = sorted(lesions.classes)
    scores = ndimage.labeled_comprehension(
        map_.probability, lesions.instances, numbers, lambda values: np.percentile(values, 95), np.float64, 0.0
    )
    return replace(lesions, scores=dict(zip(numbers, scores.tolist(), strict=True)))
