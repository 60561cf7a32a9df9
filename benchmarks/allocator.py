"""What keeping freed memory saves: seconds of a training step with it and without, as a ratio.

python -m benchmarks.allocator

The setting is one of the process, so each measurement is a process of its own; the two kinds take turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.memory import planned
from detseg3d.execution.allocator import keep_freed_memory
from detseg3d.execution.device import autocast, resolve_device
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.targets import volume_targets

EDGES = {48: 16, 96: 4}
"""Edge of the window, and how many steps are timed."""
ROUNDS = 5


def seconds_a_step(edge: int, steps: int) -> float:
    """Median over training steps on one cubic window with ten lesions, in this process."""
    plans = planned((96, 160, 128))
    device = resolve_device("cpu")
    model = DetSeg3D(plans)
    image = torch.randn(1, 1, edge, edge, edge)
    instances = np.zeros((edge,) * 3, np.uint16)
    for index in range(10):
        instances[tuple(slice(3 + 4 * index, 6 + 4 * index) for _ in range(3))] = index + 1
    seconds = []
    for step in range(steps + 2):
        started = time.perf_counter()
        model.zero_grad(set_to_none=True)
        with autocast(device):
            targets = [volume_targets(instances, np.zeros(11, np.int64))]
            losses = model.losses(image, targets, np.random.default_rng(step))
        losses.total(1.0, 0.25).backward()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def main() -> None:
    """Print the ratio for each size of window, or, with arguments, the seconds of one measurement."""
    if len(sys.argv) > 1:
        how, edge, steps = sys.argv[1:]
        if how == "keep":
            assert keep_freed_memory()
        print(seconds_a_step(int(edge), int(steps)))
        return
    for edge, steps in EDGES.items():
        ratios = []
        for _ in range(ROUNDS):
            command = [sys.executable, "-m", "benchmarks.allocator"]
            kept, left = (
                float(subprocess.check_output([*command, how, str(edge), str(steps)])) for how in ("keep", "leave")
            )
            ratios.append(kept / left)
        print(
            f"{edge}³: {statistics.median(ratios):.2f} of the time ({min(ratios):.2f} to {max(ratios):.2f}, "
            f"{ROUNDS} pairs)"
        )


if __name__ == "__main__":
    main()
