"""Kill workers of a cluster at random moments of a prediction, and compare every file with those of a local run.

    python benchmarks/cluster_kills.py --model results/Dataset101_SynthMS --images raw/Dataset101_SynthMS/imagesTs
    python benchmarks/cluster_kills.py --model MODEL --images FOLDER --kills 20 --workers 2 --seed 1

A real scheduler and real worker processes run on this machine, found through a scheduler file as under SLURM. A worker
is killed with SIGKILL only while it has a case. Each worker has one thread. The command is started again, with
--continue_prediction, until it has ended with all kills done or without work left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from distributed import Client

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Run both predictions, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        started = time.monotonic()
        predict(options, folder / "local")
        seconds = time.monotonic() - started
        print(f"local run: {len(list((folder / 'local' / 'rois').iterdir()))} cases in {seconds:.0f} s", flush=True)
        kills = predict_with_kills(options, folder)
        differences = compare(folder / "local", folder / "cluster")
        print(f"{kills} workers killed while they had a case; files that differ: {differences or 'none'}")
        raise SystemExit(bool(differences))


def predict(options: argparse.Namespace, output: Path, *more: str) -> int:
    """Run ``detseg3d_predict``."""
    words = ["-i", options.images, "-o", output, "-m", options.model, "--device", "cpu", "--no_progress", *more]
    command = [sys.executable, "-m", "detseg3d.cli.predict", *map(str, words)]
    return subprocess.run(command, env=ENVIRONMENT, check=False).returncode


def predict_with_kills(options: argparse.Namespace, folder: Path) -> int:
    """Predict on a cluster, and kill workers meanwhile; return the number of kills."""
    file = folder / "scheduler.json"
    flags = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = start("distributed.cli.dask_scheduler", *flags, "--host", "127.0.0.1", "--port", "0")
    while not file.exists():
        time.sleep(0.1)
    local = ["--local-directory", str(folder / "scratch")]
    workers = start(
        "distributed.cli.dask_worker", *flags, "--nthreads", "1", "--nworkers", str(options.workers), *local
    )
    ended, kills = threading.Event(), []
    killer = threading.Thread(target=kill_workers, args=(file, options, ended, kills))
    try:
        killer.start()
        started = time.monotonic()
        codes = [predict(options, folder / "cluster", "--cluster", str(file))]
        while codes[-1] and len(codes) < 5:  # a case failed because its workers were killed too often
            codes.append(predict(options, folder / "cluster", "--cluster", str(file), "--continue_prediction"))
        print(f"on the cluster: exit codes {codes} in {time.monotonic() - started:.0f} s", flush=True)
    finally:
        ended.set()
        killer.join()
        for process in (workers, scheduler):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder / "scratch", ignore_errors=True)
    return len(kills)


def start(module: str, *words: str) -> subprocess.Popen[bytes]:
    """Start a program of Dask in a process group of its own."""
    command = [sys.executable, "-m", module, *words]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, cwd=ROOT, start_new_session=True)


def kill_workers(file: Path, options: argparse.Namespace, ended: threading.Event, kills: list[int]) -> None:
    """Kill a random worker that has a case, wait for a random time, and begin again."""
    draws = random.Random(options.seed)
    with Client(scheduler_file=str(file), set_as_default=False) as client:
        while not ended.is_set() and len(kills) < options.kills:
            if ended.wait(draws.uniform(1, 8)):
                return
            busy = [worker for worker, keys in client.processing().items() if any("function" not in k for k in keys)]
            if not busy:
                continue
            worker = draws.choice(sorted(busy))
            pid = client.run(os.getpid, workers=[worker], on_error="ignore").get(worker)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                kills.append(pid)


def compare(expected: Path, found: Path) -> list[str]:
    """Return the names of files that differ, are missing or are left over, except the records of the runs."""
    contents = [
        {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.stem != "run"
        }
        for folder in (expected, found)
    ]
    names = contents[0].keys() | contents[1].keys()
    return sorted(name for name in names if contents[0].get(name) != contents[1].get(name))


if __name__ == "__main__":
    main()
