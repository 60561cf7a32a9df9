"""Export a fold in int8, and compare its masks with those of the network in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tqdm import tqdm

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.deploy.network import ExportedNetwork
from detseg3d.deploy.networks import ExportedFiles
from detseg3d.deploy.quantize import quantize_network
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.planning.plans import Plans
from detseg3d.system.workers import is_bar_shown

__all__ = ["MAX_INT8_SCANS", "MIN_MASK_AGREEMENT", "Int8Export", "export_in_int8"]

MIN_MASK_AGREEMENT: Final = 0.9
"""Lowest Dice of the masks in int8 and in float32 with which a network is exported."""

MAX_INT8_SCANS: Final = 16
"""Largest number of scans on which the ranges of the maps are measured."""


# RoI batches of each scan on which the ranges of Stage 2 are measured.
_BATCHES_OF_SCAN: Final = 5


@dataclass(frozen=True)
class Int8Export:
    """The networks of a fold in int8, and their agreement with float32.

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


def export_in_int8(files: ExportedFiles, plans: Plans, source: Path, show_progress: bool = True) -> Int8Export:
    """Compute both networks in int8, with the ranges that their maps have in some scans.

    Parameters
    ----------
    files : ExportedFiles
        Networks of one fold for OpenVINO, in float32.
    plans : Plans
    source : Path
        Folder with scans like those that will be predicted, in any layout that ``detseg3d_predict`` reads. Of more than
        16 scans, 16 at equal distances in the list are used.
    show_progress : bool
        Show a progress bar if the standard error output is a terminal.

    Returns
    -------
    Int8Export

    Raises
    ------
    DetSeg3DError
        If there is no scan, a scan cannot be read, no lesion is found in the scans, the masks in int8 differ too much
        from those in float32, or the package nncf is missing.
    """
    recorder = _Recorder(plans, files, Precision.FP32, torch.get_num_threads())
    usual = _predictor(recorder)
    cases = usual.list_inputs(source)
    places = np.unique(np.linspace(0, len(cases) - 1, MAX_INT8_SCANS).round().astype(int))
    scans = [usual.read(cases[place], InputOptions()) for place in places]
    masks = []
    is_quiet = not is_bar_shown(show_progress)
    for array, geometry in tqdm(scans, desc="predicting in float32", unit="scan", disable=is_quiet):
        masks.append(usual.predict_case(array, geometry).semantic > 0)
        recorder.thin_out()
    if not any(mask.any() for mask in masks):
        raise DetSeg3DError(
            "no lesion was found in the scans for int8, so masks in int8 and in float32 cannot be compared",
            file=source,
            expected="scans with lesions",
        )
    quantized = quantize_network(files, recorder.inputs)
    fast = _predictor(ExportedNetwork(plans, quantized, Precision.FP32, torch.get_num_threads()))
    both = either = 0
    pairs = list(zip(scans, masks, strict=True))
    for (array, geometry), wanted in tqdm(pairs, desc="predicting in int8", unit="scan", disable=is_quiet):
        given = fast.predict_case(array, geometry).semantic > 0
        both, either = both + int((wanted & given).sum()), either + int(wanted.sum() + given.sum())
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


class _Recorder(ExportedNetwork):
    """A network that keeps the inputs of both stages.

    Attributes
    ----------
    inputs : dict of str to list
        For ``stage1`` and ``stage2``: inputs by the names of their ports.
    """

    def __init__(self, plans: Plans, files: ExportedFiles, precision: Precision, threads: int) -> None:
        super().__init__(plans, files, precision, threads)
        self.inputs: dict[str, list[Mapping[str, Array]]] = {"stage1": [], "stage2": []}
        self._random = np.random.default_rng(0)
        self._kept = 0

    def run_stage(self, stage: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a stage, and keep a copy of its inputs."""
        self.inputs[stage].append({name: np.array(array) for name, array in inputs.items()})
        return super().run_stage(stage, inputs)

    def thin_out(self) -> None:
        """Keep a few of the RoI batches of the last scan, drawn at random."""
        batches = self.inputs["stage2"]
        new = batches[self._kept :]
        drawn = sorted(self._random.choice(len(new), min(_BATCHES_OF_SCAN, len(new)), replace=False))
        batches[self._kept :] = [new[place] for place in drawn]
        self._kept = len(batches)


def _predictor(network: ExportedNetwork) -> Predictor:
    return Predictor([network], network.plans, torch.device("cpu"), use_mirroring=False)
