"""Mutate images, headers, documents, caches and archives at random, and give them to the real commands.

    python -m benchmarks.fuzz --count 3000 --seed 0
    python -m benchmarks.fuzz --seed 0 --index 1234        # the same mutant again, with what the command says

A tiny data set is simulated, trained and predicted first. Then each mutant changes one file of a copy of it, and the
command that reads this file runs in a fork with limits of time and memory. Counted are refusals, results that are the
same as without the mutation or others, and faults: crashes, hangs, tracebacks, failures without a message, voxels that
contradict the file's own checksum, slices that are lost without a warning, temporary files, and memory beyond 3 GB. The
exit code is 1 if there is any fault. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.fuzz.targets import TARGETS, Target
from benchmarks.fuzz.trial import FAULTS, OUTCOMES, Trial, baseline, try_mutant
from benchmarks.fuzz.workspace import build

# What the commands import when they run: a fork has it already.
_COMMANDS = ("predict", "evaluate", "train", "consolidate", "plan_and_preprocess", "install_model", "visualize")
_MODULES = (
    "pipeline.predict",
    "pipeline.train",
    "pipeline.prepare",
    "pipeline.consolidation_report",
    "pipeline.exchange",
    "evaluation.folders",
    "evaluation.boxes.evaluate",
    "evaluation.probabilities.sweep",
    "reporting.pictures.visualize",
    "reporting.text.evaluation_files",
    "data.formats.dicom.reader",
)


def draw_target(seed: int, index: int, targets: Sequence[Target]) -> tuple[Target, random.Random]:
    """The target of a mutant, and the generator that decides everything else about it."""
    draw = random.Random(f"{seed}/{index}")
    return draw.choices(targets, [target.share for target in targets])[0], draw


def format_table(trials: Sequence[Trial]) -> str:
    """Outcomes by kind of file, as a table in Markdown."""
    kinds = {target.name: target.kind for target in TARGETS}
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        for row in (kinds[trial.target], "all"):
            counts.setdefault(row, Counter())[trial.outcome] += 1
    shown = [outcome for outcome in OUTCOMES if outcome not in ("litter", "memory") or counts["all"][outcome]]
    lines = ["| | mutants | " + " | ".join(shown) + " |", "|---|" + "---:|" * (len(shown) + 1)]
    for row in (*sorted(name for name in counts if name != "all"), "all"):
        cells = [str(sum(counts[row].values())), *(str(counts[row][outcome]) for outcome in shown)]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_trials(indices: Sequence[int], seed: int, targets: Sequence[Target], folder: Path) -> list[Trial]:
    """Try the mutants with these numbers; each fault is printed as it is found. Those so far, if it is interrupted."""
    # Otherwise each fork imports them again.
    for command in _COMMANDS:
        importlib.import_module(f"detseg3d.cli.{command}")
    for module in (*(f"detseg3d.{name}" for name in _MODULES), "torch._dynamo", "matplotlib.backends.backend_agg"):
        importlib.import_module(module)
    base = folder / "base"
    base.mkdir()
    build(base)
    expected: dict[str, tuple[str, str]] = {}
    gc.freeze()  # a fork that collects garbage would copy all of it
    trials: list[Trial] = []
    with contextlib.suppress(KeyboardInterrupt):
        for index in indices:
            target, draw = draw_target(seed, index, targets)
            if target.name not in expected:
                expected[target.name] = baseline(target, base, folder / "work")
            trial = try_mutant(target, base, folder / "work", draw, expected[target.name])
            trials.append(trial)
            if trial.outcome in FAULTS or len(indices) == 1:
                words = f"{trial.target}, {trial.file}, {trial.how}: {trial.detail}"
                print(f"{index}: {trial.outcome}: {words}", flush=True)
            if len(trials) % 100 == 0:
                print(f"{len(trials)} of {len(indices)}", file=sys.stderr, flush=True)
    return trials


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000, help="mutants (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all of them (default: %(default)s)")
    parser.add_argument("--index", type=int, help="only the mutant with this number; its files are kept")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="targets whose names have such a word")
    parser.add_argument("--output", type=Path, help="file for the table of all mutants, CSV")
    options = parser.parse_args(arguments)
    targets = [target for target in TARGETS if not options.only or any(word in target.name for word in options.only)]
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    first, count = (options.first, options.count) if options.index is None else (options.index, 1)
    indices = range(first, first + count)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    try:
        trials = run_trials(indices, options.seed, targets, folder)
    finally:
        if options.index is None:
            shutil.rmtree(folder)
        else:
            print(f"the files lie in {folder}")
    print(format_table(trials))
    faults = sum(trial.outcome in FAULTS for trial in trials)
    print(f"{len(trials)} mutants in {time.monotonic() - started:.0f} s, {faults} fault(s)")
    if options.output is not None:
        with options.output.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["index", "target", "file", "change", "outcome", "seconds", "message"])
            for index, trial in zip(indices, trials, strict=False):
                words = [trial.target, trial.file, trial.how, trial.outcome, f"{trial.seconds:.2f}", trial.detail]
                writer.writerow([index, *(word.encode("unicode_escape").decode("ascii") for word in words)])
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
