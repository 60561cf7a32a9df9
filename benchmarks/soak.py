"""Kill the commands at random moments, run them again, and compare what comes out with an uninterrupted run.

    python benchmarks/soak.py --kills 200

A tiny data set is preprocessed, trained (two folds), consolidated and predicted once without interruption. Then each of
these commands is started again and again; after a random time it gets SIGKILL, SIGTERM or SIGINT, and is started anew
until it ends by itself. Its files must then be those of the uninterrupted run, byte by byte; of the training log all
but the times. Counted are kills, runs that took up earlier work, files that differ or are missing, temporary files that
stay, worker processes that outlive their parent, and ends that are not clean (another exit code than 143 or 130, a
traceback, more than half a minute). Linux only.

Most runs are forks of this process, which has loaded all libraries already: importing them takes longer than the work.
They draw no learning curve, which takes longer than such a training, too. One run in eight is a fresh process, killed
at any moment of its start as well.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from detseg3d.planning.plans import load_plans, save_plans
from detseg3d.system.files import write_text
from detseg3d.system.json_files import write_json
from detseg3d.training import trainer

NAME = "Dataset999_Example"
SECONDS_TO_END = 30
SIGNALS = (signal.SIGKILL,) * 6 + (signal.SIGTERM,) * 3 + (signal.SIGINT,)
# What the commands import when they run.
LOADED = (
    "detseg3d.pipeline.prepare",
    "detseg3d.pipeline.train",
    "detseg3d.pipeline.consolidation_report",
    "torch._dynamo",
)
RESUMED = ("resuming at epoch", "preprocessed already", "complete already")
# Times and pictures of times differ between any two runs.
NOT_COMPARED = ("checkpoint_latest.pt", "progress.png", "run.json", "run.log")


@dataclass(frozen=True)
class Stage:
    """A command, and the folders that it fills; files that other stages make there are named in ``kept``."""

    name: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    varied: tuple[tuple[str, ...], ...] = ((),)
    """Flags that must not change the outcome; one of them is drawn for each run."""


def stages(steps: int) -> list[Stage]:
    """The commands from a raw data set to predictions; folders are relative to the one they run in."""
    roots = ("--preprocessed", "preprocessed", "--raw", "raw")
    results = ("--results", "results")
    quiet = ("--no_progress",)
    workers = (*[("-np", "0")] * 7, ("-np", "2"))
    train = [
        Stage(
            f"train {fold}",
            ("train", "999", fold, "--c", "--steps", str(steps), "-device", "cpu", *roots, *results, *quiet),
            (f"results/{NAME}/fold_{fold}",),
            (("--num_workers", "0"), ("--num_workers", "0"), ("--num_workers", "1")),
        )
        for fold in ("0", "1")
    ]
    predict = ("predict", "-i", f"raw/{NAME}/imagesTs", "-o", "predictions", "-d", "999", "--continue_prediction")
    return [
        Stage(
            "preprocess",
            ("plan_and_preprocess", "-d", "999", "--keep_plans", *roots, *quiet),
            (f"preprocessed/{NAME}/cases",),
            workers,
        ),
        *train,
        Stage(
            "consolidate",
            ("consolidate", "999", "-f", "0", "1", "--raw", "raw", *results, *quiet),
            (f"results/{NAME}/cross_validation", f"results/{NAME}/operating_point.json"),
            workers,
        ),
        Stage("predict", (*predict, "-f", "0", "1", "-device", "cpu", *results, *quiet), ("predictions",)),
    ]


def prepare(folder: Path) -> None:
    """Simulate the data set, plan it, and make the networks so small that a step takes milliseconds."""
    run(folder, ("example", "raw", "--num_cases", "6", "--num_test", "4", "--shape", "24", "28", "26", "-np", "0"))
    run(folder, ("plan_and_preprocess", "-d", "999", "--no_pp", "--raw", "raw", "--preprocessed", "preprocessed",
                 "--roi_size", "16", "-np", "0"))  # fmt: skip
    file = folder / "preprocessed" / NAME / "plans.json"
    plans = load_plans(file)
    tiny = plans.evolve(
        stage1={
            "channels": [8] * len(plans.stage1.channels),
            "strides": [[2, 2, 2]] * len(plans.stage1.strides),
            "fpn_channels": 8,
        },
        stage2={"channels": [8] * len(plans.stage2.channels), "feature_channels": 4},
        training={
            "batch_size": 1,
            "min_rois_per_window": 2,
            "max_windows_per_case": 2,
            "val_every": 3,
            "learning_rate": 5e-3,
            "ema_decay": 0.5,
        },
        # So short a training finds nothing for certain: without thresholds there is something to write.
        inference={"candidate_threshold": 0.0, "mask_threshold": 0.1, "max_candidates": 10, "mirror_axes": []},
    )
    save_plans(tiny, file)
    cases = sorted(json.loads(file.with_name("dataset_fingerprint.json").read_text(encoding="utf-8"))["cases"])
    write_json(
        [{"train": cases[:3], "val": cases[3:]}, {"train": cases[3:], "val": cases[:3]}],
        file.with_name("splits_final.json"),
    )


class Forked:
    """A command of the package in a fork of this process, with a session of its own; used like a ``Popen``."""

    def __init__(self, folder: Path, command: tuple[str, ...], errors: Path) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_run_command(folder, command, errors))

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises ``subprocess.TimeoutExpired`` like a ``Popen``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork", timeout or 0)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _run_command(folder: Path, command: tuple[str, ...], errors: Path) -> int:
    """What a fork does, up to its exit code."""
    try:
        os.setsid()
        os.chdir(folder)
        # Worker processes of the forked process are not children of the fork, so it must not wait for them at its end.
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]
        for target, mode in ((errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), (Path(os.devnull), os.O_WRONLY)):
            os.dup2(os.open(target, mode), 2 if target == errors else 1)
        trainer.plot_progress = lambda _log, picture: write_text("a picture", picture)
        module = importlib.import_module(f"detseg3d.cli.{command[0]}")
        sys.modules["__main__"] = module  # which worker processes load first; this file loads everything
        code = int(module.main(command[1:]))
        multiprocessing.util._exit_function()
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:  # before the command has set itself up; alone, it would die of the signal
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return code


Process = Forked | subprocess.Popen[bytes]


def start(folder: Path, command: tuple[str, ...], errors: Path, fresh: bool = False) -> Process:
    """A command of the package as a process with a session of its own."""
    if not fresh:
        return Forked(folder, command, errors)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with errors.open("wb") as handle:
        return subprocess.Popen(
            [sys.executable, "-m", f"detseg3d.cli.{command[0]}", *command[1:]],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=handle, start_new_session=True,
        )  # fmt: skip


def run(folder: Path, command: tuple[str, ...]) -> None:
    """Run a command to its end."""
    errors = folder / "errors.txt"
    if start(folder, command, errors).wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.read_text(encoding='utf-8')}")


def measure(folder: Path, stage: Stage) -> float:
    """Run a stage to its end; the seconds it takes."""
    started = time.monotonic()
    run(folder, (*stage.command, *stage.varied[0]))
    return time.monotonic() - started


def files(folder: Path, stage: Stage) -> Iterator[Path]:
    """All files of a stage's outputs."""
    for output in stage.outputs:
        path = folder / output
        yield from (entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else (path,)


def contents(folder: Path, stage: Stage) -> dict[str, bytes]:
    """What is compared, by relative path."""
    found = {}
    for path in files(folder, stage):
        if path.name == "training_log.jsonl":
            records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            lasting = [{k: v for k, v in record.items() if not k.endswith("seconds")} for record in records]
            found[str(path.relative_to(folder))] = json.dumps(lasting).encode()
        elif path.name not in NOT_COMPARED and path.exists():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def clear(folder: Path, stage: Stage) -> None:
    """Remove what a stage made."""
    for output in stage.outputs:
        path = folder / output
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def survivors(session: int, seconds: float) -> int:
    """Processes of a session that are still there after some seconds; they are killed."""
    deadline = time.monotonic() + seconds
    while True:
        alive = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, _, _, of_session = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
                if int(of_session) == session and state != "Z":
                    alive.append(int(entry.name))
        if not alive or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for number in alive:
        with contextlib.suppress(OSError):
            os.kill(number, signal.SIGKILL)
    return len(alive)


class Soak:
    """Kills and counts."""

    def __init__(self, folder: Path, seed: int, start_seconds: float) -> None:
        self.folder = folder
        self.start_seconds = start_seconds
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []

    def note(self, what: str, text: str) -> None:
        """Count a failure and say it."""
        self.counts[what] += 1
        self.findings.append(f"{what}: {text}")
        print(self.findings[-1], flush=True)

    def attempt(self, stage: Stage, seconds: float, expected: dict[str, bytes], kills: int) -> None:
        """From nothing to a finished stage, with up to ``kills`` kills on the way."""
        clear(self.folder, stage)
        while True:
            if self.once(stage, seconds, kills > 0):
                break
            kills -= 1
            if kills < -3:
                raise SystemExit(f"{stage.name} does not come to its end:\n" + "\n".join(self.findings[-1:]))
        self.counts["outcomes compared"] += 1
        found = contents(self.folder, stage)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                how = "missing" if name not in found else "left over" if name not in expected else "different"
                self.note("litter" if ".partial." in name else "differences", f"{stage.name}: {name} is {how}")

    def once(self, stage: Stage, seconds: float, may_kill: bool) -> bool:
        """Run a stage, perhaps kill it; whether it came to its end."""
        # Early kills, too: a run that goes on where another stopped takes less time.
        delay = self.random.uniform(0, seconds * self.random.choice((0.3, 1)))
        number = self.random.choice(SIGNALS)
        errors = self.folder / "errors.txt"
        fresh = self.random.random() < 1 / 8
        if fresh:  # which spends most of its time with the start
            delay = self.random.uniform(0, seconds + self.start_seconds)
        process = start(self.folder, (*stage.command, *self.random.choice(stage.varied)), errors, fresh)
        self.counts["fresh processes"] += fresh
        self.counts["runs"] += 1
        try:
            process.wait(timeout=delay if may_kill else None)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            self.end(stage, process, number, errors)
        text = errors.read_text(encoding="utf-8", errors="replace")
        self.counts["resumptions"] += any(words in text for words in RESUMED)
        if process.returncode == 0:
            return True
        if process.returncode in (-number, 128 + number):
            name = signal.Signals(number).name
            self.counts[name] += 1
            self.counts[f"{name} during {stage.name}"] += 1
            return False
        self.note("failures", f"{stage.name} ended with {process.returncode} after {delay:.2f} s:\n{text}")
        return False

    def end(self, stage: Stage, process: Process, number: signal.Signals, errors: Path) -> None:
        """Wait until a process that got a signal has ended, and see how."""
        started = time.monotonic()
        try:
            process.wait(timeout=3 * SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.note("slow or torn ends", f"{stage.name} does not end on {number.name}")
            process.send_signal(signal.SIGKILL)
            process.wait()
        seconds = time.monotonic() - started
        self.counts["slowest end, ms"] = max(self.counts["slowest end, ms"], round(1000 * seconds))
        text = errors.read_text(encoding="utf-8", errors="replace")
        # An object of a library that the signal met half-made may complain when it is taken away; that is no failure.
        complaints = text.count("Exception ignored in")
        self.counts["complaints of half-made objects"] += complaints
        if number != signal.SIGKILL and (text.count("Traceback") > complaints or seconds > SECONDS_TO_END):
            self.note("slow or torn ends", f"{stage.name}, {number.name}, {seconds:.1f} s:\n{text}")
        orphans = survivors(process.pid, SECONDS_TO_END)
        if orphans:
            self.note("orphans", f"{stage.name}: {orphans} process(es) after {number.name}")

    @property
    def kills(self) -> int:
        """Signals that ended a process."""
        return sum(self.counts[number.name] for number in set(SIGNALS))


def main() -> int:
    """Run the soak; the exit code is 1 if anything was lost, left behind or not clean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kills_per_attempt", type=int, default=6, help="most kills on the way to one outcome")
    parser.add_argument("--steps", type=int, default=120, help="steps of a training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the counts")
    options = parser.parse_args()
    started = time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore for what runs in the background
    torch.set_num_threads(1)  # forks cannot take threads along
    for module in LOADED:
        importlib.import_module(module)
    loading = time.monotonic() - started
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        plan = []
        for stage in stages(options.steps):
            seconds = measure(folder, stage)
            plan.append((stage, seconds, contents(folder, stage)))
            print(f"{stage.name}: {seconds:.1f} s", flush=True)
        soak = Soak(folder, options.seed, loading)
        while soak.kills < options.kills:
            # The short ones twice.
            for stage, seconds, expected in (
                *plan,
                *(part for part in plan if part[0].name in ("preprocess", "predict")),
            ):
                left = min(options.kills_per_attempt, options.kills - soak.kills)
                if left == 0:
                    break
                soak.attempt(stage, seconds, expected, left)
                print(f"{soak.kills} kills, {time.monotonic() - started:.0f} s", flush=True)
    bad = ("differences", "litter", "orphans", "slow or torn ends", "failures")
    counts = {"kills": soak.kills, **{name: soak.counts[name] for name in bad}, **dict(sorted(soak.counts.items()))}
    counts["seconds"] = round(time.monotonic() - started)
    print(json.dumps(counts, indent=1))
    if options.output is not None:
        write_json({"counts": counts, "findings": soak.findings}, options.output)
    return int(any(soak.counts[name] for name in bad))


if __name__ == "__main__":
    raise SystemExit(main())
