"""Peak memory of training and prediction beside what the planner's formulas say, for eight kinds of data sets.

    python benchmarks/memory.py                            # all kinds, both precisions; a few minutes on one core
    python benchmarks/memory.py --kinds small thin --precisions fp32 --jobs 2

Each measurement is a process of its own, with one thread. A training is :class:`Trainer` on whole volumes with two
cases of noise: libraries, check of the precision, two steps, validation. Its peak is that of the process, as the plan's
figure is. A prediction is one whole volume; its peak is counted above what the process held with the libraries loaded
and the scan in place. The network has random weights, which changes nothing about its size. All peaks of the heatmaps
are candidates, so that Stage 2 and merging have their full share of work.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.precision import Precision
from detseg3d.data.case_store import CaseStore
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.data.folders import FoldFolder
from detseg3d.inference.memory import network_bytes
from detseg3d.inference.predictor import Predictor
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.fingerprint import CaseFingerprint, DatasetFacts, Fingerprint, LesionRecord
from detseg3d.planning.measurements import ChannelSamples
from detseg3d.planning.measuring import pool_intensities, summarize
from detseg3d.planning.memory import GIGABYTE, NetworkPlan, Region, planned_training_bytes
from detseg3d.planning.planner import plan_dataset
from detseg3d.planning.plans import Plans, preprocessing_hash
from detseg3d.system.device import compute_in
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.trainer import Trainer

CPU = torch.device("cpu")
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Kind:
    """A kind of data set: one scan with cubes of ``edges`` mm as lesions, class by class in turn."""

    name: str
    shape: Shape
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: int = 1
    classes: int = 1
    edges: tuple[float, ...] = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)


KINDS = (
    Kind("tiny", (24, 24, 24), edges=(2.0, 3.0, 3.0, 4.0)),  # heads at stride 1
    Kind("small", (48, 56, 48), edges=(12.0, 16.0, 20.0, 24.0)),
    Kind("fine stage", (96, 128, 112)),
    Kind("two channels", (112, 96, 96), (3.0, 3.0, 3.0), 2, edges=(15.0, 20.0, 30.0, 60.0, 90.0)),
    Kind("four channels, three classes", (96, 112, 96), (1.0, 1.0, 1.0), 4, 3, (8.0, 12.0, 20.0, 30.0, 45.0)),
    Kind("many classes", (80, 96, 96), (1.0, 1.0, 1.0), 1, 32, (14.0, 16.0, 18.0, 20.0)),
    Kind("thin", (12, 224, 224), (5.0, 0.8, 0.8), edges=(6.0, 8.0, 12.0, 20.0)),
    Kind("large", (160, 160, 144), edges=(20.0, 30.0, 40.0, 60.0)),
)


def planned(kind: Kind, precision: Precision) -> Plans:
    """The plan of a set of one scan of this kind; memory decides nothing."""
    names = tuple(f"lesion{index}" for index in range(kind.classes))
    channels = tuple(f"channel{index}" for index in range(kind.channels))
    dataset = RawDataset(
        folder=Path("Dataset001_Memory"),
        name="Dataset001_Memory",
        channel_names=channels,
        labels={"background": 0, **{name: index + 1 for index, name in enumerate(names)}},
        file_ending=".nii.gz",
        cases=(RawCase.of_files("case", [Path(f"case_{index:04d}.nii.gz") for index in range(kind.channels)]),),
    )
    size = np.multiply(kind.shape, kind.spacing)
    lesions = tuple(
        LesionRecord(
            class_index=index % kind.classes,
            voxels=10,
            volume_mm3=edge**3,
            extents_mm=tuple(np.minimum([edge] * 3, size).tolist()),
            diameter_mm=edge,
            center_mm=tuple((size * (0.1 + 0.8 * index / (8 * kind.classes))).tolist()),
        )
        for index, edge in enumerate(kind.edges * 2 * kind.classes)
    )
    values = np.arange(100.0)
    samples = [[ChannelSamples(values, values)] * kind.channels]
    case = CaseFingerprint(
        source="none",
        patient="case",
        spacing=kind.spacing,
        shape=kind.shape,
        crop_box=(0, 0, 0, *kind.shape),
        cropped_shape=kind.shape,
        intensity=pool_intensities(samples),
        lesions=lesions,
    )
    fingerprint = Fingerprint(
        dataset_name=dataset.name,
        dataset=DatasetFacts.of(dataset),
        cases={"case": case},
        summary=summarize({"case": case}, samples, names),
    )
    return plan_dataset(fingerprint, dataset, training_gb=100.0, precision=precision)


def write_cases(folder: Path, kind: Kind, plans: Plans) -> None:
    """Two cases of noise with ten lesions on the plan's fine grid."""
    store = CaseStore(folder)
    shape = plans.planned_shape
    random = np.random.default_rng(0)
    instances = np.zeros(shape, np.uint16)
    for index in range(10):
        edges = [max(1, round(min(kind.edges) / length)) for length in plans.fine_spacing]
        start = [random.integers(0, max(1, n - edge)) for n, edge in zip(shape, edges, strict=True)]
        instances[tuple(slice(a, a + edge) for a, edge in zip(start, edges, strict=True))] = index + 1
    ids, boxes = boxes_from_instances(instances)
    lesions = [
        {"id": int(number), "class": int(number) % kind.classes, "box": box.tolist()}
        for number, box in zip(ids, boxes, strict=True)
    ]
    properties: dict[str, Any] = {"preprocessing_hash": preprocessing_hash(plans), "shape": list(shape)}
    image = random.normal(size=(kind.channels, *shape)).astype(np.float32)
    for index in range(2):
        records = {**properties, "spacing": list(plans.fine_spacing), "lesions": lesions}
        store.write(f"case{index}", image, instances, records)


def status_bytes(field: str) -> int:
    """A figure of this process, in bytes: ``VmRSS``, the resident memory, or ``VmHWM``, its peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"this system does not tell {field}")


def start_peak() -> None:
    """Let the peak of this process, ``VmHWM``, begin anew at what it holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure_training(kind: Kind, precision: Precision) -> tuple[float, float]:
    """Measured and planned peak of a training on whole volumes, in bytes."""
    plans = planned(kind, precision)
    whole_volumes = [{"fraction": 1.0, "window": None}]
    plans = plans.evolve(training={"curriculum": whole_volumes, "precision": precision, "steps": 2})
    with tempfile.TemporaryDirectory() as folder:
        write_cases(Path(folder) / "cases", kind, plans)
        start_peak()
        store = CaseStore(Path(folder) / "cases")
        options = TrainingOptions(show_progress=False)
        data = TrainingData(store, ["case0", "case1"], ["case0"])
        Trainer(plans, data, FoldFolder(Path(folder) / "fold_0"), options).run()
    network = NetworkPlan.of(plans, precision)
    return status_bytes("VmHWM"), planned_training_bytes(
        network, plans.training, plans.planned_shape, plans.detection_scale
    )


def measure_prediction(kind: Kind, precision: Precision) -> tuple[float, float]:
    """Measured and planned peak of predicting a whole volume, above the scan, in bytes."""
    plans = planned(kind, precision).evolve(inference={"candidate_threshold": 0.0, "score_threshold": 0.0})
    compute_in(CPU, precision)
    torch.manual_seed(0)
    predictor = Predictor([DetSeg3D(plans)], plans, CPU, use_mirroring=False)
    scan = np.random.default_rng(0).normal(size=(kind.channels, *kind.shape)).astype(np.float32)
    # A small convolution loads what the libraries load at first use.
    predictor.models[0].detect(
        torch.zeros(1, kind.channels, *plans.stage1.cumulative_stride(len(plans.stage1.strides) - 1))
    )
    before = status_bytes("VmRSS")
    start_peak()
    result = predictor.predict_array(scan, kind.spacing)
    assert len(result.candidates) > 0
    shape = [math.ceil(n / scale - 1e-6) for n, scale in zip(plans.planned_shape, plans.detection_scale, strict=True)]
    candidates = plans.inference.candidate_limit(math.prod(kind.shape) * math.prod(kind.spacing))
    wanted = network_bytes(plans, Region(shape, math.prod(plans.planned_shape)), candidates, precision)
    return status_bytes("VmHWM") - before, wanted


@dataclass(frozen=True)
class Measurement:
    """What to measure: ``training`` or ``prediction`` of a kind, in a precision."""

    what: str
    kind: Kind
    precision: Precision


def measure(wanted: Measurement) -> str:
    """Measure in this process; returns a row of the table."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # the network is not trained: it has more candidates than may be
    started = time.perf_counter()
    run = measure_training if wanted.what == "training" else measure_prediction
    measured, predicted = run(wanted.kind, wanted.precision)
    spacing = "×".join(f"{s:.3g}" for s in planned(wanted.kind, wanted.precision).detection_spacing)
    return (
        f"| {wanted.kind.name} | {spacing} | {wanted.what} | {wanted.precision} | {predicted / GIGABYTE:.2f} | "
        f"{measured / GIGABYTE:.2f} | {predicted / measured:.2f} | {time.perf_counter() - started:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each kind in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [kind.name for kind in KINDS]
    parser.add_argument("--kinds", nargs="+", choices=names, default=names, metavar="NAME", help="default: all")
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=("bf16", "fp32"))
    parser.add_argument("--what", nargs="+", choices=("training", "prediction"), default=("training", "prediction"))
    parser.add_argument("--jobs", type=int, default=1, help="measurements at a time")
    options = parser.parse_args(arguments)
    print("| kind | detection mm | | precision | planned GB | measured GB | planned / measured | s |")
    print("|---|---|---|---|---:|---:|---:|---:|", flush=True)
    wanted = [
        Measurement(what, kind, Precision(precision))
        for kind in KINDS
        if kind.name in options.kinds
        for precision in options.precisions
        for what in options.what
    ]
    # A fork has the libraries loaded already; it ends after one measurement.
    with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        for row in pool.imap(measure, wanted, chunksize=1):
            print(row, flush=True)


if __name__ == "__main__":
    main()
