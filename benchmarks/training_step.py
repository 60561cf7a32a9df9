"""Show where the time of a training step goes: CPU time by kind of operator.

    python benchmarks/training_step.py preprocessed/Dataset101_SynthMS --steps 20
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/training_step.py preprocessed/Dataset101_SynthMS

The planned network trains with one thread on the cases of fold 0. The first steps are not measured. Time outside of
operators of PyTorch is data loading, targets, sampling of RoIs and Python.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from detseg3d.data.case_store import CaseStore
from detseg3d.data.folders import FoldFolder, PreparedFolder
from detseg3d.planning.plans import load_plans
from detseg3d.planning.splits import load_fold
from detseg3d.system.device import precision_in_use
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.trainer import Trainer

KINDS = (
    ("convolution", ("convolution",)),
    ("group norm", ("group_norm", "GroupNorm", "batch_norm", "baddbmm", "diag_embed")),
    ("leaky ReLU", ("leaky_relu",)),
    ("Muon's orthogonalisation", ("bmm", "addmm", "aten::mm")),
    ("resampling and crops", ("grid_sampler", "upsample", "index")),
    ("copies", ("copy_", "clone", "contiguous", "cat")),
    ("optimiser and sums", ("_foreach", "lerp", "add", "mul", "sum", "norm")),
)


def kind_of(operator: str) -> str:
    """Return the kind of an operator of PyTorch."""
    return next((kind for kind, parts in KINDS if any(part in operator for part in parts)), "other operators")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preprocessed", type=Path, help="folder of a preprocessed data set")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm_up", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepared = PreparedFolder(options.preprocessed)
    plans = load_plans(prepared.plans)
    fold = load_fold(prepared, "0")
    data = TrainingData(CaseStore(prepared.cases), fold.train, ())
    seconds: list[float] = []
    steps = options.warm_up + options.steps
    with tempfile.TemporaryDirectory() as folder:
        quick = plans.evolve(training={"steps": steps, "steps_per_epoch": steps})
        trainer = Trainer(quick, data, FoldFolder(Path(folder)), TrainingOptions(show_progress=False))
        profiler = profile(activities=[ProfilerActivity.CPU])
        step = trainer.step

        def measured(*arguments: object, **settings: object) -> object:
            if len(seconds) == options.warm_up:
                profiler.start()
            before = time.process_time()
            values = step(*arguments, **settings)
            seconds.append(time.process_time() - before)
            if len(seconds) == steps:
                profiler.stop()
            return values

        trainer.step = measured  # type: ignore[method-assign, assignment]
        trainer.run()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        times[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    whole = sum(seconds[options.warm_up :])
    print(f"{whole / options.steps:.3f} CPU s a step, {precision_in_use(torch.device('cpu'))}")
    print("| kind | share of a step |\n|---|---:|")
    for kind, total in times.most_common():
        print(f"| {kind} | {total / whole:.0%} |")


if __name__ == "__main__":
    main()
