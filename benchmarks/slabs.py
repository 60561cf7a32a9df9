"""Prediction in slabs beside prediction of whole volumes: lesions, masks, heatmaps, memory and time.

    python benchmarks/slabs.py figures results/Dataset101_SynthMS data/raw/Dataset101_SynthMS
    python benchmarks/slabs.py memory results/Dataset101_SynthMS scan.nii.gz --shape 600 512 512 --memory_gb 24 8 5

``figures`` predicts the validation scans of fold 0 as wholes and in slabs, and compares each prediction with the truth
and with the prediction of the whole. ``memory`` repeats a scan until it fills a shape, predicts it with each limit in a
process of its own, and prints the measured peak of the memory above the loaded libraries and the model, with the scan.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.components import instances_from_semantic
from detseg3d.core.precision import Precision
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import read_channels, read_label_array
from detseg3d.evaluation.case import detection_counts
from detseg3d.evaluation.matching import overlap_table
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.memory import prediction_bytes
from detseg3d.inference.predictor import Predictor
from detseg3d.models.ensemble import DetectOptions, GridImages, average_dense
from detseg3d.planning.memory import GIGABYTE
from detseg3d.planning.slabs import Passes
from detseg3d.preprocessing.case import CaseTransform, preprocess_case
from detseg3d.system.device import compute_in

CPU = torch.device("cpu")
Array = npt.NDArray[np.float32]


def status_bytes(field: str) -> int:
    """Return the resident memory of this process (``VmRSS``) or its peak (``VmHWM``) in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"this system does not state {field}")


@dataclass
class Totals:
    """Counts and sums over the scans that were predicted in one number of slabs."""

    slabs: int
    lesions: int = 0
    found: int = 0
    predicted: int = 0
    right: int = 0
    both: int = 0
    voxels: int = 0
    same: int = 0
    same_voxels: int = 0
    heatmap: float = 0.0
    score: float = 0.0
    seconds: float = 0.0

    def row(self) -> str:
        """Return a row of the table."""
        recall, precision = self.found / self.lesions, self.right / max(self.predicted, 1)
        return (
            f"| {self.slabs} | {2 * recall * precision / max(recall + precision, 1e-9):.4f} | "
            f"{2 * self.both / self.voxels:.4f} | {self.predicted} | {2 * self.same / max(self.same_voxels, 1):.5f} | "
            f"{self.heatmap:.2g} | {self.score:.2g} | {self.seconds:.0f} |"
        )


def limit_for(predictor: Predictor, transform: CaseTransform, slabs: int, scan: Array) -> float:
    """Return the limit in GB at which a scan is predicted in this number of slabs."""
    needed = prediction_bytes(predictor.plans, transform, CPU, passes=Passes(slabs, several=False)) + scan.nbytes
    return (needed + 1) / GIGABYTE


def compare_figures(folder: Path, dataset_folder: Path, counts: Sequence[int], precision: Precision) -> None:
    """Predict the validation scans of fold 0 in each number of slabs, and print a table."""
    compute_in(CPU, precision)
    options = LoadOptions(device="cpu", use_mirroring=False)
    predictor = Predictor.from_model_folder(folder, (0,), options)
    names = sorted(path.stem for path in (folder / "fold_0" / "validation" / "candidates").glob("*.npz"))
    cases = {case.case_id: case for case in load_raw_dataset(dataset_folder).cases}
    totals = [Totals(slabs) for slabs in (1, *counts)]
    for name in names:
        scan, geometry = read_channels(cases[name].images)
        label = cases[name].label
        assert label is not None
        mask, _ = read_label_array(label)
        truth, _ = instances_from_semantic(mask, [1])
        case = preprocess_case(scan, geometry.spacing, predictor.plans)
        images = GridImages.of(predictor.models[0], torch.from_numpy(case.image), CPU)
        whole = whole_heatmaps = None
        for total in totals:
            inference = predictor.plans.inference
            average = average_dense(
                predictor.models, images.detection, DetectOptions(inference, device=CPU, slabs=total.slabs)
            )
            heatmaps = [level.probability for level in average.levels]
            predictor.memory_gb = limit_for(predictor, case.transform, total.slabs, scan)
            started = time.perf_counter()
            prediction = predictor.predict_case(scan, geometry)
            total.seconds += time.perf_counter() - started
            if whole is None or whole_heatmaps is None:
                whole, whole_heatmaps = prediction, heatmaps
            for first, second in zip(whole_heatmaps, heatmaps, strict=True):
                total.heatmap = max(total.heatmap, float((first - second).abs().max()))
            if len(whole.lesions) == len(prediction.lesions):
                for one, other in zip(whole.lesions, prediction.lesions, strict=True):
                    total.score = max(total.score, abs(one.score - other.score))
            counted = detection_counts(overlap_table(truth, prediction.instances), None)
            total.lesions += counted.truth
            total.found += counted.found
            total.predicted += counted.predictions
            total.right += counted.true_positives
            total.both += int(((mask > 0) & (prediction.semantic > 0)).sum())
            total.voxels += int((mask > 0).sum()) + int((prediction.semantic > 0).sum())
            total.same += int(((whole.semantic > 0) & (prediction.semantic > 0)).sum())
            total.same_voxels += int((whole.semantic > 0).sum()) + int((prediction.semantic > 0).sum())
    print(f"{len(names)} scans, {totals[0].lesions} lesions, {precision}")
    print("| slabs | F1 | Dice | lesions | Dice with the whole | largest difference of heatmaps | of scores | s |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for total in totals:
        print(total.row())


@dataclass(frozen=True)
class MemoryTest:
    """A scan that is repeated to a shape and predicted with a limit."""

    folder: Path
    scan: Path
    shape: tuple[int, int, int]
    memory_gb: float
    precision: Precision
    candidate_threshold: float | None = None


class _Messages(logging.Handler):
    """Keep the messages about slabs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "slabs" in record.getMessage():
            self.lines.append(record.getMessage())


def measure_memory(test: MemoryTest) -> str:
    """Predict one scan in this process; return a row of the table."""
    torch.set_num_threads(1)
    messages = _Messages()
    logging.getLogger("detseg3d").addHandler(messages)
    logging.getLogger("detseg3d").setLevel(logging.INFO)
    compute_in(CPU, test.precision)
    load = LoadOptions(
        device="cpu",
        use_mirroring=False,
        memory_gb=test.memory_gb,
        candidate_threshold=test.candidate_threshold,
    )
    predictor = Predictor.from_model_folder(test.folder, (0,), load)
    scan, geometry = read_channels([test.scan])
    predictor.models[0].detect(torch.zeros(1, len(scan), *predictor.models[0].total_stride))
    before = status_bytes("VmRSS") - scan.nbytes
    indices = [np.arange(wanted) % had for wanted, had in zip(test.shape, scan.shape[1:], strict=True)]
    large = np.stack([channel[np.ix_(*indices)] for channel in scan])
    del scan
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again from the present memory
    started = time.perf_counter()
    try:
        prediction = predictor.predict_array(large, geometry.spacing)
        result = f"{len(prediction.lesions)}"
    except Exception as error:
        result = str(error).splitlines()[0]
    peak = (status_bytes("VmHWM") - before) / GIGABYTE
    return (
        f"| {test.memory_gb:g} | {messages.lines or 'whole'} | {peak:.2f} | {result} | "
        f"{time.perf_counter() - started:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    figures = commands.add_parser("figures")
    figures.add_argument("model", type=Path)
    figures.add_argument("dataset", type=Path)
    figures.add_argument("--slabs", type=int, nargs="+", default=[2, 3])
    memory = commands.add_parser("memory")
    memory.add_argument("model", type=Path)
    memory.add_argument("scan", type=Path)
    memory.add_argument("--shape", type=int, nargs=3, default=(600, 512, 512), help="voxels (z, y, x)")
    memory.add_argument("--memory_gb", type=float, nargs="+", required=True)
    memory.add_argument(
        "--candidate_threshold", type=float, help="a high threshold saves the time of Stage 2 (default: the plan's)"
    )
    for command in (figures, memory):
        command.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    options = parser.parse_args(arguments)
    precision = Precision(options.precision)
    torch.set_num_threads(1)
    if options.command == "figures":
        compare_figures(options.model, options.dataset, options.slabs, precision)
        return
    print("| limit GB | | measured GB | lesions | s |\n|---:|---|---:|---:|---:|", flush=True)
    for limit in options.memory_gb:
        test = MemoryTest(
            options.model, options.scan, tuple(options.shape), limit, precision, options.candidate_threshold
        )
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure_memory, (test,)), flush=True)


if __name__ == "__main__":
    main()
