"""Peak memory of training steps and whole-volume inference, measured, beside what the planner's formula predicts.

    python benchmarks/memory.py training            # a training step on whole volumes of several sizes
    python benchmarks/memory.py inference           # prediction of 256³ and 300×512×512 voxels, planned grids

Each measurement is a process of its own; its peak is the highest resident memory above what the process held with the
libraries loaded and the input in place. The network has random weights, which changes nothing about its size; all peaks
of the heatmaps are taken as candidates, so that Stage 2 and merging have their full share of work.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from detseg3d.execution.device import autocast, autocast_dtype, resolve_device
from detseg3d.inference.predictor import Predictor
from detseg3d.io.raw_dataset import RawCase, RawDataset
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.targets import volume_targets
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION, summarize
from detseg3d.planning.memory import BYTES_PER_VALUE, GIGABYTE, inference_bytes, training_bytes
from detseg3d.planning.planner import plan_dataset
from detseg3d.planning.plans import Plans
from detseg3d.planning.roi_rules import rois_of_window
from detseg3d.training.optimizer import make_optimizers

SIZES = {
    "training": ((64, 64, 64), (96, 96, 96), (96, 160, 128), (160, 160, 160), (192, 192, 192)),
    "inference": ((96, 160, 128), (256, 256, 256), (300, 512, 512)),
}
CANDIDATES = 300
Shape = tuple[int, int, int]


def planned(shape: Shape) -> Plans:
    """The plan of a simulated set of one 1 mm scan of this shape with lesions of 3 to 20 mm."""
    dataset = RawDataset(
        folder=Path("Dataset001_Memory"),
        name="Dataset001_Memory",
        channel_names=("MRI",),
        labels={"background": 0, "lesion": 1},
        file_ending=".nii.gz",
        cases=(RawCase("case", (Path("case_0000.nii.gz"),)),),
    )
    lesions = [
        {"class": 0, "voxels": 10, "volume_mm3": edge**3, "extents_mm": [edge] * 3, "diameter_mm": edge,
         "center_mm": [10 + 2 * edge] * 3, "nearest_mm": None}
        for edge in (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 20.0)
    ]  # fmt: skip
    case = {
        "spacing": [1.0] * 3,
        "shape": list(shape),
        "crop_box": [0, 0, 0, *shape],
        "cropped_shape": list(shape),
        "intensity": [],
        "lesions": lesions,
    }
    values = np.arange(100.0)
    cases = {"case": case}
    summary = summarize(cases, [[{"body": values, "lesions": values}]], ("MRI",), ("lesion",))
    return plan_dataset({"version": FINGERPRINT_VERSION, "cases": cases, "summary": summary}, dataset)


class PeakMemory:
    """Highest resident memory of this process while the context lasts, above its start, in bytes."""

    def __enter__(self) -> PeakMemory:
        self.base = self.peak = resident_bytes()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.is_set():
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def rise(self) -> int:
        """Bytes above the start."""
        return self.peak - self.base


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096


def detection_shape(plans: Plans, shape: Shape) -> list[int]:
    """The volume on the detection grid."""
    return [math.ceil(n / scale - 1e-6) for n, scale in zip(shape, plans.detection_scale, strict=True)]


def measure_training(shape: Shape) -> tuple[float, float]:
    """Measured and predicted peak of one optimiser step on a whole volume, in bytes."""
    plans = planned(shape)
    device = resolve_device("cpu")
    image = torch.randn(1, 1, *shape)
    instances = np.zeros(shape, np.uint16)
    for index in range(10):
        instances[tuple(slice(3 + 4 * index, 6 + 4 * index) for _ in range(3))] = index + 1
    with PeakMemory() as memory:
        model = DetSeg3D(plans)
        optimizers = make_optimizers(model, plans.training)
        for step in range(2):
            targets = [volume_targets(instances, np.zeros(11, np.int64))]
            model.zero_grad(set_to_none=True)
            with autocast(device):
                losses = model.losses(image, targets, np.random.default_rng(step))
            losses.total(1.0, 1.0).backward()
            for optimizer in optimizers:
                optimizer.step()
    predicted = training_bytes(
        plans.stage1,
        plans.stage2,
        plans.roi,
        detection_shape(plans, shape),
        math.prod(shape),
        1,
        1,
        rois_of_window(plans.training, plans.roi.size, math.prod(detection_shape(plans, shape))),
    )
    return memory.rise, predicted


def measure_inference(shape: Shape) -> tuple[float, float]:
    """Measured and predicted peak of predicting a whole volume, above the input array, in bytes."""
    plans = planned(shape).evolve(
        inference={"det_threshold": 0.0, "score_threshold": 0.0, "max_candidates": CANDIDATES}
    )
    torch.manual_seed(0)
    predictor = Predictor([DetSeg3D(plans)], plans, resolve_device("cpu"), use_mirroring=False)
    scan = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with PeakMemory() as memory:
        result = predictor.predict_array(scan, (1.0, 1.0, 1.0))
    assert len(result.candidates) > 0
    size = 4 if autocast_dtype(predictor.device) is None else BYTES_PER_VALUE
    predicted = inference_bytes(plans.stage1, detection_shape(plans, shape), math.prod(shape), 1, 1, size)
    return memory.rise, predicted


def main() -> None:
    """Measure each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(SIZES))
    parser.add_argument("--shape", nargs=3, type=int, help="measure this one, in this process")
    options = parser.parse_args()
    if options.shape is None:
        print(f"{options.what}: shape, detection spacing, measured GB, predicted GB, measured / predicted, seconds")
        for shape in SIZES[options.what]:
            subprocess.run([sys.executable, __file__, options.what, "--shape", *map(str, shape)], check=True)
        return
    depth, height, width = options.shape
    shape = (depth, height, width)
    started = time.perf_counter()
    measured, predicted = (measure_training if options.what == "training" else measure_inference)(shape)
    spacing = "×".join(f"{s:.3g}" for s in planned(shape).detection_spacing)
    seconds = time.perf_counter() - started
    print(
        f"{depth}×{height}×{width}, {spacing} mm: {measured / GIGABYTE:.2f} GB, {predicted / GIGABYTE:.2f} GB, "
        f"{measured / predicted:.2f}, {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
