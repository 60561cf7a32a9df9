"""Compare the backends of a prediction: CPU time, memory and masks of PyTorch, OpenVINO and ONNX Runtime.

Every measurement is a process of its own that predicts the scan twice with one thread. The second prediction is timed.
The measurements take turns, and the table shows the minimum of all rounds, because the speed of a shared machine varies
within minutes. AVX2 is emulated: PyTorch and ONNX Runtime obey ATEN_CPU_CAPABILITY or keep their own kernels, and
OpenVINO needs OV_CPU_MAX_ISA and ONEDNN_MAX_CPU_ISA together (with the second variable alone, OpenVINO 2026.4 crashes).
ONNX Runtime cannot be limited, so it has no row for AVX2.

Run with: python benchmarks/backends.py results/Dataset101_SynthMS scan_0000.nii.gz --rounds 3 --int8 other_scans
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from detseg3d.core.backend import Backend
from detseg3d.core.precision import Precision

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"}


@dataclass(frozen=True)
class Variant:
    """What one process measures."""

    backend: Backend
    precision: Precision
    avx2: bool
    int8: bool = False

    def __str__(self) -> str:
        number_format = f"int8, else {self.precision}" if self.int8 else str(self.precision)
        return f"{self.backend} {number_format}{' AVX2' if self.avx2 else ''}"


@dataclass(frozen=True)
class Measurement:
    """CPU seconds of one scan and of start and loading; peak memory in GB; number of lesions."""

    scan_s: float
    start_s: float
    memory_gb: float
    lesions: int


VARIANTS = (
    Variant(Backend.TORCH, Precision.BF16, False),
    Variant(Backend.OPENVINO, Precision.BF16, False),
    Variant(Backend.TORCH, Precision.FP32, False),
    Variant(Backend.OPENVINO, Precision.FP32, False),
    Variant(Backend.ONNXRUNTIME, Precision.FP32, False),
    Variant(Backend.TORCH, Precision.FP32, True),
    Variant(Backend.OPENVINO, Precision.FP32, True),
    Variant(Backend.OPENVINO, Precision.BF16, False, int8=True),
    Variant(Backend.OPENVINO, Precision.FP32, False, int8=True),
    Variant(Backend.OPENVINO, Precision.FP32, True, int8=True),
)


def measure(variant: Variant, model: str, scans: list[str], output: Path, folds: list[str]) -> None:
    """Predict twice in this process; write the measurement and the results."""
    import torch

    from detseg3d.data.image_source import ImageSource
    from detseg3d.data.images import read_channels
    from detseg3d.inference.load_options import LoadOptions
    from detseg3d.inference.model_file import opened_model
    from detseg3d.inference.predictor import Predictor
    from detseg3d.models.ensemble import GridImages, average_dense
    from detseg3d.preprocessing.case import preprocess_case
    from detseg3d.system.device import compute_in

    torch.set_num_threads(1)
    compute_in(torch.device("cpu"), variant.precision)
    options = LoadOptions(device="cpu", use_mirroring=False, backend=variant.backend, precision=variant.precision)
    with opened_model(model) as folder:
        predictor = Predictor.from_model_folder(folder, folds, options)
    start = time.process_time()
    images, geometry = read_channels([ImageSource(Path(scan)) for scan in scans])
    seconds = []
    for _ in range(2):
        before = time.process_time()
        prediction = predictor.predict_case(images, geometry)
        seconds.append(time.process_time() - before)
    memory = peak_memory_gb()
    case = preprocess_case(images, geometry.spacing, predictor.plans)
    grids = GridImages.of(predictor.models[0], torch.from_numpy(case.image), predictor.device)
    average = average_dense(predictor.models, grids.detection, predictor._detect_options(predictor.plans.inference))
    heatmaps = np.concatenate([level.probability.numpy().ravel() for level in average.levels])
    np.savez_compressed(output.with_suffix(".npz"), instances=prediction.instances, heatmaps=heatmaps)
    measurement = Measurement(seconds[1], start, memory, len(prediction.lesions))
    output.write_text(json.dumps(asdict(measurement)), encoding="utf-8")


def peak_memory_gb() -> float:
    """Return the peak memory of this process. That of ``getrusage`` includes the peak of the process that forked it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e9


def run(variant: Variant, model: Path, arguments: argparse.Namespace, output: Path) -> Measurement:
    """Measure in a new process."""
    flags = [str(model), *arguments.scans, "--measure", str(VARIANTS.index(variant)), "--output", str(output)]
    if arguments.folds:
        flags += ["--folds", *arguments.folds]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(AVX2 if variant.avx2 else {})}
    subprocess.run([sys.executable, __file__, *flags], check=True, env=environment)
    return Measurement(**json.loads(output.read_text(encoding="utf-8")))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / max(1, int(first.sum() + second.sum()))


def compare(arguments: argparse.Namespace) -> None:
    from detseg3d.pipeline.exchange import export_model

    model = Path(arguments.model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = {(Backend.TORCH, False): model}
        for backend in (Backend.OPENVINO, Backend.ONNXRUNTIME):
            models[backend, False] = folder / f"{backend}.safetensors"
            export_model(model, models[backend, False], arguments.folds, backend.network_format)
        if arguments.int8:
            file = models[Backend.OPENVINO, True] = folder / "int8.safetensors"
            export_model(model, file, arguments.folds, Backend.OPENVINO.network_format, arguments.int8)
        results: dict[Variant, list[Measurement]] = {}
        chosen = [
            variant
            for variant in VARIANTS
            if (variant.backend, variant.int8) in models and not (arguments.quick and variant.avx2)
        ]
        for _ in range(arguments.rounds):
            for variant in chosen:
                results.setdefault(variant, []).append(
                    run(
                        variant,
                        models[variant.backend, variant.int8],
                        arguments,
                        folder / f"{VARIANTS.index(variant)}.json",
                    )
                )
        stored = {variant: np.load(folder / f"{VARIANTS.index(variant)}.npz") for variant in chosen}
        exact = stored[VARIANTS[2]]
        print("| backend, precision | CPU s a scan | CPU s to start | peak GB | lesions | Dice | heatmap difference |")
        print("|---|---|---|---|---|---|---|")
        for variant, measured in results.items():
            given = stored[variant]
            overlap = dice(given["instances"] > 0, exact["instances"] > 0)
            difference = np.abs(given["heatmaps"] - exact["heatmaps"]).max()
            print(
                f"| {variant} | {min(m.scan_s for m in measured):.2f} | {min(m.start_s for m in measured):.2f} "
                f"| {min(m.memory_gb for m in measured):.2f} | {measured[-1].lesions} "
                f"| {overlap:.4f} | {difference:.1e} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("scans", nargs="+", help="one file for each channel of one scan")
    parser.add_argument("--folds", nargs="+", help="default: all trained folds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="without AVX2")
    parser.add_argument("--int8", type=Path, help="scans for int8; by default without int8")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is None:
        compare(arguments)
    else:
        measure(VARIANTS[arguments.measure], arguments.model, arguments.scans, arguments.output, arguments.folds)


if __name__ == "__main__":
    main()
