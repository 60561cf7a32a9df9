"""Two checkouts of DetSeg3D, timed in turn: reading, preprocessing and prediction, as ratios.

    python benchmarks/versions.py OLD NEW --raw RAW --dataset 101

``OLD`` and ``NEW`` are folders of checkouts, each with its own ``.venv``. The script reads the same large files with
both, plans and preprocesses the same data set, trains each for half a minute, gives the old model the weights of the
new one and predicts the same scans. Each pair of runs follows directly on the other, so a change of the machine's speed
changes both. A ratio above 1 says that the new version takes longer. Times are processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK

READER = """
import sys, time
from detseg3d.data.images import read_image
read_image(sys.argv[2])
started = time.process_time()
for _ in range(int(sys.argv[1])):
    read_image(sys.argv[2])
print((time.process_time() - started) / int(sys.argv[1]))
"""
# Voxels of a scan of 512 × 512 × 160: smooth with noise, so that gzip makes about 50 MB of 84.
LARGE = (160, 512, 512)
ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")


@dataclass(frozen=True)
class Checkout:
    """One version of the project, and a folder for what it writes."""

    folder: Path
    work: Path

    def run(self, *arguments: str) -> str:
        """Run Python of this checkout on one core; returns its standard output."""
        command = [str(self.folder / ".venv" / "bin" / "python"), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # Python looks for the package in the working folder first.
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, encoding="utf-8", env=environment, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{self.folder}: {' '.join(arguments[:4])} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def command(self, name: str, *arguments: str) -> float:
        """Run a command of this checkout; returns its processor seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.run("-m", f"detseg3d.cli.{name}", *arguments, "--no_progress")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--raw", type=Path, required=True, help="folder of raw data sets")
    parser.add_argument("--dataset", default="101", help="number of the data set (default: 101)")
    parser.add_argument("--scans", type=int, default=4, help="scans to predict (default: 4)")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pair = (
            Checkout(options.old.resolve(), work / "old"),
            Checkout(options.new.resolve(), work / "new"),
        )
        raw = options.raw.resolve()
        print("| task | old, s | new, s | new / old (lowest to highest) |\n|---|---:|---:|---:|")
        for ending in ENDINGS:
            file = write_large(work / f"large{ending}")
            megabytes = file.stat().st_size / 1e6
            print_pair(f"read {ending}, {megabytes:.0f} MB", pair, options.runs, lambda one, file=file: read(one, file))
        print_pair("plan and preprocess", pair, 1, lambda one: prepare(one, raw, options.dataset))
        scans = prepare_models(pair, raw, options.dataset, options.scans, work)
        print_pair(
            f"predict {options.scans} scans", pair, options.runs, lambda one: predict(one, scans, options.dataset)
        )


def write_large(path: Path) -> Path:
    """Write a volume of 84 MB of 16-bit voxels."""
    rng = np.random.default_rng(0)
    voxels = (np.linspace(0, 1000, LARGE[0])[:, None, None] + rng.normal(0, 30, LARGE)).astype(np.int16)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.7, 1.2))
    SimpleITK.WriteImage(image, str(path), useCompression=path.suffix != ".nii")
    return path


def read(checkout: Checkout, file: Path) -> float:
    """Seconds that one reading of ``file`` takes, without the start of Python."""
    return float(checkout.run("-c", READER, "3", str(file)))


def prepare(checkout: Checkout, raw: Path, dataset: str) -> float:
    """Plan and preprocess in one process."""
    folder = checkout.work / "preprocessed"
    return checkout.command(
        "plan_and_preprocess", "-d", dataset, "--raw", str(raw), "--preprocessed", str(folder), "-np", "0"
    )


def prepare_models(pair: Sequence[Checkout], raw: Path, dataset: str, count: int, work: Path) -> Path:
    """Train both for half a minute, give both the weights of the new one; returns a folder with some scans."""
    for checkout in pair:
        folders = ("--preprocessed", str(checkout.work / "preprocessed"), "--results", str(checkout.work / "results"))
        checkout.command(
            "train", dataset, "0", *folders, "--raw", str(raw), "--max_minutes", "0.5", "--disable_tta", "--seed", "0"
        )
    weights = [next((one.work / "results").glob("*/fold_0/model_final.safetensors")) for one in pair]
    shutil.copyfile(weights[1], weights[0])
    scans = work / "scans"
    scans.mkdir()
    [source] = raw.glob(f"Dataset{int(dataset):03d}_*")
    channels = len(json.loads((source / "dataset.json").read_text(encoding="utf-8"))["channel_names"])
    for file in sorted((source / "imagesTr").iterdir())[: count * channels]:
        shutil.copyfile(file, scans / file.name)
    return scans


def predict(checkout: Checkout, scans: Path, dataset: str) -> float:
    """Predict the scans with the plan's thresholds."""
    output = checkout.work / "predictions"
    shutil.rmtree(output, ignore_errors=True)
    results = str(checkout.work / "results")
    model = ("-d", dataset, "-f", "0", "--results", results)
    return checkout.command(
        "predict", "-i", str(scans), "-o", str(output), *model, "--plan_thresholds", "--disable_tta"
    )


def print_pair(task: str, pair: Sequence[Checkout], runs: int, measure: Callable[[Checkout], float]) -> None:
    """Time the old and the new version in turn and print the medians and the ratio."""
    seconds = [(measure(pair[0]), measure(pair[1])) for _ in range(runs)]
    ratios = [new / old for old, new in seconds]
    old, new = (statistics.median(times) for times in zip(*seconds, strict=True))
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"| {task} | {old:.2f} | {new:.2f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
