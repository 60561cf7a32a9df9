"""Compare CPU time and memory of a prediction with nnU-Net, MONAI and another version of DetSeg3D.

    python benchmarks/speed.py results/Dataset101_SynthMS --nnunet ENVIRONMENT/bin/python \
        --monai ENVIRONMENT/bin/python --previous OTHER_CHECKOUT --rounds 2

Scans of three sizes are simulated. Each measurement is a process of its own with one thread. It predicts a scan twice,
and the second prediction is timed. The default nnU-Net, which takes minutes, predicts once. The systems take turns, and
the table shows the minimum of all rounds, because the speed of a shared machine varies within minutes. Start and
loading are a column of their own.

DetSeg3D runs the trained model with all steps: resampling, both stages, merging and measures of the lesions. Of nnU-Net
and MONAI, only the network and the assembly of its tiles are timed; their weights are random, because the time of a
tile does not depend on them. Resampling and export would come on top.

- nnU-Net, default: six stages of 32 to 320 channels, tiles of 128 voxels that overlap by half, float32.
- nnU-Net, narrow: as in ``benchmarks/nnunet``, 16 to 128 channels, tiles of 64 voxels, bfloat16 where it is fast.
- MONAI: ``UNet`` with residual units, 16 to 256 channels, tiles of 96 voxels that overlap by a quarter, float32.

Mirrored copies are measured on the smallest scan only, and not for the default nnU-Net, which computes eight times as
much with them.
``--scan`` measures a scan of a file instead. The simulated scans are unlike the training scans of the model, so
DetSeg3D looks for weak lesions in them and takes longer.
``--avx2`` limits the instructions to AVX2 by ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
SIZES = ((64, 96, 80), (96, 160, 128), (160, 256, 224))
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@dataclass(frozen=True)
class Task:
    """What one process measures."""

    system: str
    shape: tuple[int, int, int]
    mirrored: bool
    model: str
    scan: str = ""


@dataclass(frozen=True)
class Measurement:
    """CPU seconds of one prediction, and of start and loading; peak memory of the process in GB."""

    scan_s: float
    start_s: float
    memory_gb: float


def simulate(shape: tuple[int, int, int]) -> np.ndarray:
    """Return a scan with tissue, noise and bright lesions; equal for all systems."""
    random = np.random.default_rng(0)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    radius = sum(((axis - n / 2) / (0.45 * n)) ** 2 for axis, n in zip((z, y, x), shape, strict=True))
    scan = np.where(radius < 1, 100.0, 5.0) + random.normal(0, 8, shape)
    for _ in range(12):
        centre = [random.uniform(0.3, 0.7) * n for n in shape]
        size = random.uniform(1.5, 5)
        scan[sum((axis - c) ** 2 for axis, c in zip((z, y, x), centre, strict=True)) < size**2] += 80
    return scan.astype(np.float32)


def read(file: str) -> np.ndarray:
    """Return the voxels of a scan."""
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)), np.float32)


def detseg3d(task: Task) -> Callable[[np.ndarray], object]:
    import torch

    from detseg3d.inference.predictor import Predictor
    from detseg3d.system.device import compute_in

    compute_in(torch.device("cpu"))
    # Earlier versions define LoadOptions in this module, and later versions import it there.
    load_options: Any = importlib.import_module("detseg3d.inference.load").LoadOptions
    options = load_options(device="cpu", use_mirroring=task.mirrored)
    predictor = Predictor.from_model_folder(task.model, None, options)
    return lambda scan: predictor.predict_array(scan, (1.0, 1.0, 1.0))


def nnunet(task: Task) -> Callable[[np.ndarray], object]:
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from torch import nn

    narrow = task.system == "nnU-Net, narrow"
    channels = (16, 32, 64, 128, 128) if narrow else (32, 64, 128, 256, 320, 320)
    stages = len(channels)
    network: nn.Module = PlainConvUNet(
        1, stages, channels, nn.Conv3d, 3, (1, *[2] * (stages - 1)), (2,) * stages, 2, (2,) * (stages - 1),
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    if narrow:
        from benchmarks.nnunet.predict import _Bfloat16
        from benchmarks.nnunet.trainer import _InstanceNorm
        from detseg3d.system.device import has_fast_bfloat16

        for module in network.modules():
            if isinstance(module, nn.InstanceNorm3d):
                module.__class__ = _InstanceNorm
        network = network.to(memory_format=torch.channels_last_3d)
        if has_fast_bfloat16():
            network = _Bfloat16(network)
    predictor = nnUNetPredictor(
        0.5, use_mirroring=task.mirrored, perform_everything_on_device=False, device=torch.device("cpu"),
        allow_tqdm=False,
    )  # fmt: skip
    predictor.network = network.eval()
    predictor.configuration_manager = SimpleNamespace(patch_size=(64 if narrow else 128,) * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
    predictor.allowed_mirroring_axes = (0, 1, 2) if task.mirrored else None

    @torch.inference_mode()
    def predict(scan: np.ndarray) -> object:
        normalized = (scan - scan.mean()) / scan.std()
        return predictor.predict_sliding_window_return_logits(torch.from_numpy(normalized[None])).argmax(0)

    return predict


def monai(_: Task) -> Callable[[np.ndarray], object]:
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import UNet

    network = UNet(3, 1, 2, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2, norm="instance").eval()
    inferer = SlidingWindowInferer((96, 96, 96), 1, 0.25, mode="gaussian")

    @torch.inference_mode()
    def predict(scan: np.ndarray) -> object:
        normalized = torch.from_numpy((scan - scan.mean()) / scan.std())[None, None]
        return inferer(normalized, network)[0].argmax(0)

    return predict


SYSTEMS = {
    "DetSeg3D": detseg3d,
    "DetSeg3D, previous": detseg3d,
    "nnU-Net, default": nnunet,
    "nnU-Net, narrow": nnunet,
    "MONAI": monai,
}


def measure(task: Task) -> Measurement:
    """Predict twice in this process; once with the default nnU-Net, which takes minutes."""
    import torch

    torch.set_num_threads(1)
    predict = SYSTEMS[task.system](task)
    start = time.process_time()
    scan = read(task.scan) if task.scan else simulate(task.shape)
    seconds = 0.0
    for _ in range(1 if task.system == "nnU-Net, default" else 2):
        before = time.process_time()
        predict(scan)
        seconds = time.process_time() - before
    return Measurement(seconds, start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def run(task: Task, python: str, checkout: Path, limits: dict[str, str]) -> Measurement:
    """Measure in a new process, with the packages of ``python`` and the code of ``checkout``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout), **limits}
    command = [python, str(Path(__file__).resolve()), task.model, "--task", json.dumps(asdict(task))]
    done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def compare(options: argparse.Namespace) -> None:
    programs: dict[str, tuple[str, Path]] = {"DetSeg3D": (sys.executable, ROOT)}
    if options.previous:
        programs["DetSeg3D, previous"] = (sys.executable, options.previous.resolve())
    if options.nnunet:
        programs |= dict.fromkeys(("nnU-Net, default", "nnU-Net, narrow"), (options.nnunet, ROOT))
    if options.monai:
        programs["MONAI"] = (options.monai, ROOT)
    scan = "" if options.scan is None else str(options.scan.resolve())
    shapes = [read(scan).shape] if scan else SIZES[: options.sizes]
    tasks = [
        Task(system, (shape[0], shape[1], shape[2]), mirrored, str(Path(options.model).resolve()), scan)
        for shape in shapes
        for mirrored in (False, True)
        for system in programs
        if not mirrored or (shape == shapes[0] and system not in ("MONAI", "nnU-Net, default"))
    ]
    results: dict[Task, list[Measurement]] = {}
    for _ in range(options.rounds):
        for task in tasks:
            python, checkout = programs[task.system]
            results.setdefault(task, []).append(run(task, python, checkout, AVX2 if options.avx2 else {}))
            print(task.system, task.shape, results[task][-1], file=sys.stderr, flush=True)
    print("| scan | mirrored copies | system | CPU s a scan | times DetSeg3D | CPU s to start | peak GB |")
    print("|---|---|---|---|---|---|---|")
    for task, measured in results.items():
        seconds = min(m.scan_s for m in measured)
        own = replace(task, system="DetSeg3D")
        ratio = seconds / min(m.scan_s for m in results[own])
        print(
            f"| {'×'.join(map(str, task.shape))} | {'yes' if task.mirrored else 'no'} | {task.system} | {seconds:.2f} "
            f"| {ratio:.1f} | {min(m.start_s for m in measured):.1f} | {min(m.memory_gb for m in measured):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model of one channel")
    parser.add_argument("--nnunet", metavar="PYTHON", help="interpreter that has nnunetv2 and DetSeg3D's packages")
    parser.add_argument("--monai", metavar="PYTHON", help="interpreter that has monai")
    parser.add_argument("--previous", type=Path, metavar="CHECKOUT", help="another version of DetSeg3D")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", type=int, default=3, choices=(1, 2, 3), help="number of sizes, smallest first")
    parser.add_argument(
        "--scan", type=Path, metavar="FILE", help="a scan with voxels of 1 mm, instead of simulated scans"
    )
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task is None:
        compare(options)
        return
    fields = json.loads(options.task)
    print(json.dumps(asdict(measure(Task(**{**fields, "shape": tuple(fields["shape"])})))))


if __name__ == "__main__":
    main()
