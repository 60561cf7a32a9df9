"""Export a fold with Stage 1 in int8, and compare its masks with those of the network in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.deploy.network import ExportedNetwork
from detseg3d.deploy.networks import ExportedFiles
from detseg3d.deploy.quantize import quantize_stage1
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.planning.plans import Plans
from detseg3d.preprocessing.case import preprocess_case

__all__ = ["MAX_INT8_SCANS", "MIN_MASK_AGREEMENT", "Int8Export", "export_in_int8"]

MIN_MASK_AGREEMENT: Final = 0.9
"""Lowest Dice of the masks in int8 and in float32 with which a network is exported."""

MAX_INT8_SCANS: Final = 16
"""Largest number of scans on which the ranges of the maps are measured."""


@dataclass(frozen=True)
class Int8Export:
    """A fold with Stage 1 in int8.

    Attributes
    ----------
    files : ExportedFiles
    scans : int
        Number of scans on which the ranges of the maps were measured.
    agreement : float
        Dice of the masks of these scans, predicted in int8 and in float32. All voxels of all scans are counted
        together.
    """

    files: ExportedFiles
    scans: int
    agreement: float


def export_in_int8(files: ExportedFiles, plans: Plans, source: Path) -> Int8Export:
    """Compute Stage 1 in int8, with the ranges that its maps have in some scans.

    Parameters
    ----------
    files : ExportedFiles
        Networks of one fold for OpenVINO, in float32.
    plans : Plans
    source : Path
        Folder with scans like those that will be predicted, in any layout that ``detseg3d_predict`` reads. Of more than
        16 scans, 16 at equal distances in the list are used.

    Returns
    -------
    Int8Export

    Raises
    ------
    DetSeg3DError
        If there is no scan, a scan cannot be read, no lesion is found in the scans, the masks in int8 differ too much
        from those in float32, or the package nncf is missing.
    """
    usual = _predictor(files, plans)
    cases = usual.list_inputs(source)
    places = np.unique(np.linspace(0, len(cases) - 1, MAX_INT8_SCANS).round().astype(int))
    cases = tuple(cases[place] for place in places)
    scans = [usual.read(case, InputOptions()) for case in cases]
    images: list[Array] = []
    for array, geometry in scans:
        fine = torch.from_numpy(preprocess_case(array, geometry.spacing, plans).image)
        images.append(usual.models[0].to_detection_grid(fine[None]).numpy())
    quantized = quantize_stage1(files, images)
    del images
    fast = _predictor(quantized, plans)
    both = either = 0
    for array, geometry in scans:
        wanted, given = (predictor.predict_case(array, geometry).semantic > 0 for predictor in (usual, fast))
        both, either = both + int((wanted & given).sum()), either + int(wanted.sum() + given.sum())
    if either == 0:
        raise DetSeg3DError(
            "no lesion was found in the scans for int8, so masks in int8 and in float32 cannot be compared",
            file=source,
            expected="scans with lesions",
        )
    agreement = 2 * both / either
    if agreement < MIN_MASK_AGREEMENT:
        raise DetSeg3DError(
            "the masks in int8 differ from those in float32",
            file=source,
            value=f"Dice {agreement:.3f} in {len(scans)} scan(s)",
            expected=f"at least {MIN_MASK_AGREEMENT:g}",
            remedy="give more scans that are like those to be predicted, or export without --int8",
        )
    return Int8Export(quantized, len(scans), agreement)


def _predictor(files: ExportedFiles, plans: Plans) -> Predictor:
    network = ExportedNetwork(plans, files, Precision.FP32, torch.get_num_threads())
    return Predictor([network], plans, torch.device("cpu"), use_mirroring=False)
