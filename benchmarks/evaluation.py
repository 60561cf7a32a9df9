"""Seconds to evaluate a pair of 256³ volumes with 100 lesions each, and the same for panoptica and MONAI, as a ratio.

    python benchmarks/evaluation.py                                      # 5 pairs
    python benchmarks/evaluation.py --pairs 50 --oracle_python /tmp/golden/bin/python

Ours is timed twice: with the counts alone (Dice, detection, PQ, lesion records, FROC and AP) and with all metrics but
HD95 (these, NSD, lesion-wise Dice, CC-Dice). The others run on the same pairs, alternating with ours, in a process of
the interpreter that has them; benchmarks/golden/README.md makes one. They do less: panoptica PQ, Dice and IoU of
instances, Dice and, apart, NSD of instances and of the whole; MONAI Dice and NSD of the whole (its PQ keeps a mask per
lesion, 13 GB here). One thread each if OMP_NUM_THREADS=1 is set. Volumes are in memory; reading files is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SPACING = (1.0, 1.0, 1.0)
TOLERANCE_MM = 1.0
ALL = "DetSeg3D (all but HD95)"
Map = npt.NDArray[np.int32]


def make_pair(seed: int, side: int, lesions: int) -> tuple[Map, Map, npt.NDArray[np.float64]]:
    """Truth, prediction and scores: lesions of 2 to 8 voxels radius, 85 % found and moved, 15 % more false ones."""
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, side, side, side), np.int32)
    false = round(0.15 * lesions)
    per_axis = int(np.ceil((lesions + false) ** (1 / 3)))
    step = side / per_axis
    cells = random.permutation(per_axis**3)[: lesions + false]
    corners = np.stack(np.unravel_index(cells, (per_axis,) * 3), axis=1) * step
    longest = min(8.0, step / 4)
    predicted = 0
    for number, corner in enumerate(corners, start=1):
        center = corner + step / 2 + random.uniform(-step / 8, step / 8, size=3)
        radii = np.exp(random.uniform(np.log(longest / 4), np.log(longest), size=3))
        if number <= lesions:
            stamp(truth, number, center, radii)
        if number > lesions or random.random() < 0.85:
            predicted += 1
            stamp(prediction, predicted, center + random.normal(0, 0.15, 3) * radii, radii * random.uniform(0.8, 1.2))
    return truth, prediction, random.random(predicted)


def stamp(volume: Map, number: int, center: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> None:
    """An ellipsoid, at least one voxel."""
    low = np.maximum(np.floor(center - radii).astype(int), 0)
    high = np.minimum(np.ceil(center + radii).astype(int) + 1, volume.shape)
    grid = np.indices(tuple(high - low)) + low.reshape(3, 1, 1, 1)
    inside = (((grid - center.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)) ** 2).sum(axis=0) <= 1
    volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][inside] = number
    volume[tuple(center.astype(int))] = number


def seconds(step: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[float, Any]:
    """Time of one call, and what it returned."""
    started = time.perf_counter()
    result = step(*arguments, **keywords)
    return time.perf_counter() - started, result


class Oracle:
    """The other libraries, in a process that takes the path of a pair and answers with a line of JSON."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.libraries: dict[str, str] = self._answer()

    def time(self, path: Path) -> dict[str, Any]:
        """Seconds of each library, and panoptica's quality, for comparison."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process with the other libraries ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """What runs in the other interpreter."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the libraries print, too
    warnings.simplefilter("ignore")

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    timed = {name: step for name, step in (("panoptica", panoptica_steps()), ("monai", monai_steps())) if step}
    answer({name: version for name, (version, _) in timed.items()})
    for line in sys.stdin:
        with np.load(line.strip()) as stored:
            truth, prediction = stored["truth"], stored["prediction"]
        result: dict[str, Any] = {}
        for _, steps in timed.values():
            for name, step in steps.items():
                result[name], value = seconds(step, truth, prediction)
                if value is not None:
                    result["pq"] = value
        answer(result)


def panoptica_steps() -> tuple[str, dict[str, Callable[[Map, Map], Any]]] | None:
    try:
        import panoptica
        from panoptica.metrics import Metric
    except ImportError:
        return None
    from importlib.metadata import version

    def evaluate(truth: Map, prediction: Map, metrics: list[Any], whole: list[Any]) -> float:
        evaluator = panoptica.Panoptica_Evaluator(
            expected_input=panoptica.InputType.UNMATCHED_INSTANCE,
            instance_matcher=panoptica.NaiveThresholdMatching(matching_metric=Metric.IOU, matching_threshold=0.5),
            instance_metrics=metrics,
            global_metrics=whole,
        )
        found = evaluator.evaluate(prediction, truth, voxelspacing=SPACING, verbose=False)
        return float(next(iter(found.values())).pq)

    return version("panoptica"), {
        "panoptica (PQ, Dice)": lambda t, p: evaluate(t, p, [Metric.DSC, Metric.IOU], [Metric.DSC]),
        "panoptica (PQ, Dice, NSD)": lambda t, p: evaluate(
            t, p, [Metric.DSC, Metric.IOU, Metric.NSD], [Metric.DSC, Metric.NSD]
        ),
    }


def monai_steps() -> tuple[str, dict[str, Callable[[Map, Map], Any]]] | None:
    try:
        import monai
        import torch
        from monai.metrics import compute_dice, compute_surface_dice
    except ImportError:
        return None
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))

    def evaluate(truth: Map, prediction: Map) -> None:
        y, guess = (torch.from_numpy((volume > 0)[None, None].astype(np.float32)) for volume in (truth, prediction))
        compute_dice(guess, y)
        compute_surface_dice(guess, y, [TOLERANCE_MM], include_background=True, spacing=SPACING)

    return monai.__version__, {"MONAI (Dice, NSD)": evaluate}


def report(times: dict[str, list[float]]) -> None:
    """Medians over the pairs, of the seconds and of the ratio to ours."""
    print(f"| | seconds a pair | lowest to highest | ratio to {ALL} |\n|---|---|---|---|")
    for name, values in times.items():
        ratio = statistics.median(value / ours for value, ours in zip(values, times[ALL], strict=True))
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} | {ratio:.2f} |")


def main() -> None:
    """Time all on the same pairs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--side", type=int, default=256, help="voxels along each axis")
    parser.add_argument("--lesions", type=int, default=100)
    parser.add_argument("--oracle_python", default=sys.executable, help="interpreter with panoptica and MONAI")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    # Late, as the other interpreter runs this file without DetSeg3D.
    from detseg3d.evaluation.case import as_lesions, evaluate_case
    from detseg3d.evaluation.definitions.outlines import MetricVariants
    from detseg3d.evaluation.intervals import estimate_metrics

    variants = MetricVariants(tolerance_mm=TOLERANCE_MM, distances=False)
    oracle = Oracle(options.oracle_python)
    found = ", ".join(f"{name} {version}" for name, version in oracle.libraries.items())
    print(f"{options.pairs} pairs of {options.side}³ with {options.lesions} lesions; beside: {found or 'nothing'}")
    times: dict[str, list[float]] = defaultdict(list)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(-1, options.pairs):
            # The first pair is small and not counted: libraries load parts of themselves when they are first used.
            side, lesions = (options.side, options.lesions) if index >= 0 else (48, 8)
            truth, prediction, scores = make_pair(index + 1, side, lesions)
            pair = str(index), as_lesions(truth), as_lesions(prediction, scores=scores), SPACING
            taken = {}
            taken["DetSeg3D (counts)"], _ = seconds(evaluate_case, *pair)
            taken[ALL], case = seconds(evaluate_case, *pair, variants=variants)
            if oracle.libraries:
                np.savez(Path(folder) / "pair.npz", truth=truth, prediction=prediction)
                taken |= oracle.time(Path(folder) / "pair.npz")
                quality = taken.pop("pq", case.overall.panoptic.pq)
                # An IoU of exactly one half matches for panoptica only.
                exactly_half = any(lesion.iou == 0.5 for lesion in case.lesions)
                assert exactly_half or abs(quality - case.overall.panoptic.pq) < 1e-9, f"pair {index}: PQ differs"
            if index >= 0:
                cases.append(case)
                for name, value in taken.items():
                    times[name].append(value)
    oracle.close()
    report(times)
    bootstrap, _ = seconds(estimate_metrics, cases)
    print(f"bootstrap of all figures, 1000 resamples of {len(cases)} cases: {bootstrap:.1f} s")


if __name__ == "__main__":
    main()
