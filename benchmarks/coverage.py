"""How often the intervals of an evaluation hold the true value, by simulation.

    python benchmarks/coverage.py                                        # 10, 20 and 50 patients, 400 studies each
    python benchmarks/coverage.py --kinds few --patients 4 6 8 --studies 1000
    python benchmarks/coverage.py --paired                               # two systems that are equally good

Each study draws patients of one kind. The true value of a figure is that of 20 000 patients. The intervals are those of
``detseg3d_evaluate``. An interval of 95 % should hold the true value in 95 % of the studies; the interval of a
difference between two equally good systems should leave out 0 in 5 %.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.evaluation.by_class import ByClass
from detseg3d.evaluation.intervals import estimate_metrics, paired_comparison, weighted_metrics
from detseg3d.evaluation.metrics import HEADLINE, CaseMetrics, ClassMetrics, Criterion, DetectionCounts, PanopticCounts
from detseg3d.evaluation.scores.froc import ScoredCase
from detseg3d.evaluation.scores.score_intervals import score_intervals

FIGURES = ("recall_iou_0.1", "precision_iou_0.1", "f1_iou_0.1", "fp_per_scan_iou_0.1", "dice", "ap_iou_0.1")
PAIRED = FIGURES[:-1]
_PATIENTS = 20_000


@dataclass(frozen=True)
class Drawn:
    """Patients with one scan each; every array has shape ``(N,)``."""

    truth: IntArray
    found: IntArray
    false_positives: IntArray
    dice: FloatArray


@dataclass(frozen=True)
class Kind:
    """A kind of data set and detector.

    Attributes
    ----------
    about : str
    lesions, false_positives : callable
        Number of each, for so many patients.
    recall : callable
        Probability with which a lesion of each patient is found.
    """

    about: str
    lesions: Callable[[np.random.Generator, int], IntArray]
    recall: Callable[[np.random.Generator, int], FloatArray]
    false_positives: Callable[[np.random.Generator, int], IntArray]

    def draw(self, random: np.random.Generator, count: int) -> Drawn:
        """Patients of this kind."""
        truth = self.lesions(random, count)
        found = random.binomial(truth, self.recall(random, count))
        false = self.false_positives(random, count)
        nothing = np.where((truth > 0) | (false > 0), 0.0, 1.0)
        return Drawn(truth, found, false, np.where(found > 0, random.beta(5, 2, count), nothing))


KINDS = {
    "many": Kind(
        "0 to about 100 lesions a patient, patients differ much",
        lambda random, n: np.where(random.random(n) > 0.1, random.poisson(np.exp(random.normal(3, 0.9, n))), 0),
        lambda random, n: random.beta(8, 2, n),
        lambda random, n: random.poisson(np.exp(random.normal(0.7, 0.8, n))),
    ),
    "few": Kind(
        "0 to 2 lesions a patient, recall .8",
        lambda random, n: random.integers(0, 3, n),
        lambda _, n: np.full(n, 0.8),
        lambda random, n: random.poisson(0.5, n),
    ),
    "one": Kind(
        "one lesion a patient, recall .95",
        lambda _, n: np.ones(n, np.int64),
        lambda _, n: np.full(n, 0.95),
        lambda random, n: random.poisson(0.05, n),
    ),
    "healthy": Kind(
        "every other scan is free of lesions, the others have about 5; patients differ much",
        lambda random, n: np.where(random.random(n) > 0.5, 1 + random.poisson(4, n), 0),
        lambda random, n: random.beta(4, 2, n),
        lambda random, n: random.poisson(np.exp(random.normal(-0.5, 1, n))),
    ),
    "failures": Kind(
        "about 5 lesions a patient, recall .9, but none is found in every tenth patient",
        lambda random, n: 1 + random.poisson(4, n),
        lambda random, n: np.where(random.random(n) < 0.1, 0.0, 0.9),
        lambda random, n: random.poisson(0.5, n),
    ),
    "rare": Kind(
        "one lesion in every seventh scan, recall .8",
        lambda random, n: random.binomial(1, 1 / 7, n),
        lambda _, n: np.full(n, 0.8),
        lambda random, n: random.poisson(0.3, n),
    ),
    "hard": Kind(
        "about 6 lesions a patient, recall .25, many false positives",
        lambda random, n: 1 + random.poisson(np.exp(random.normal(1, 1, n))),
        lambda random, n: random.beta(1, 3, n),
        lambda random, n: random.poisson(np.exp(random.normal(1, 1, n))),
    ),
}
"""The kinds that are simulated."""


def cases_of(drawn: Drawn, random: np.random.Generator | None) -> list[CaseMetrics]:
    """Evaluated cases with the drawn counts; with scores if there is a generator for them."""
    cases = []
    for index in range(len(drawn.truth)):
        truth, found, false = int(drawn.truth[index]), int(drawn.found[index]), int(drawn.false_positives[index])
        counts = DetectionCounts(truth, found, found + false, found)
        voxels = 100 * truth, 100 * (found + false)
        metrics = ClassMetrics(
            *voxels,
            int(drawn.dice[index] * sum(voxels) / 2),
            dict.fromkeys(Criterion, counts),
            PanopticCounts(truth, found + false, found, 0.7 * found),
        )
        scored = None
        if random is not None:
            hits, misses = random.beta(4, 2, found), random.beta(2, 3, false)
            record = ScoredCase(str(index), np.append(hits, np.full(truth - found, -np.inf)), hits, misses)
            scored = ByClass(dict.fromkeys(Criterion, record), {})
        cases.append(CaseMetrics(str(index), (1.0, 1.0, 1.0), 1.0, {"lesion": metrics}, (), scored=scored))
    return cases


def true_values(kind: Kind, seed: int) -> dict[str, float]:
    """The figures of very many patients."""
    random = np.random.default_rng(seed)
    figures = weighted_metrics(cases_of(kind.draw(random, _PATIENTS), random), np.ones((1, _PATIENTS)))
    return {name: float(figures[name].values[0]) for name in FIGURES}


def coverage(
    kind: Kind, truth: Mapping[str, float], patients: int, studies: int, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """For each figure: share of studies in which the interval holds the true value, mean width of the intervals.

    A study in which a figure has no interval (there is nothing that it counts) is left out.
    """
    held, widths = defaultdict(list), defaultdict(list)
    for study in range(studies):
        random = np.random.default_rng((seed, patients, study))
        cases = cases_of(kind.draw(random, patients), random)
        intervals = estimate_metrics([replace(case, scored=None) for case in cases], samples, study)
        # The same interval as that of a whole evaluation, for one criterion and not for three.
        curves = score_intervals(
            [case.scored.overall[HEADLINE] for case in cases if case.scored is not None], samples, study
        )
        for name in FIGURES:
            around = curves.average_precision if name.startswith("ap_") else intervals[name]
            low, high = around.low, around.high
            if low is not None and high is not None:
                held[name].append(low <= truth[name] <= high)
                widths[name].append(high - low)
    return {name: (float(np.mean(held[name])), float(np.mean(widths[name]))) for name in FIGURES if held[name]}


def false_alarms(kind: Kind, patients: int, studies: int, samples: int, seed: int) -> dict[str, float]:
    """Share of studies in which the interval of the difference leaves out 0, though both systems are equally good.

    Both see the same lesions; each finds its own share of them in each patient.
    """
    alarms = defaultdict(list)
    for study in range(studies):
        random = np.random.default_rng((seed, patients, study))
        first = kind.draw(random, patients)
        again = kind.draw(random, patients)
        found = random.binomial(first.truth, kind.recall(random, patients))
        nothing = np.where((first.truth > 0) | (again.false_positives > 0), 0.0, 1.0)
        dice = np.where(found > 0, random.beta(5, 2, patients), nothing)
        second = Drawn(first.truth, found, again.false_positives, dice)
        compared = paired_comparison(cases_of(first, None), cases_of(second, None), samples, study)
        for name in PAIRED:
            low, high = compared[name].low, compared[name].high
            alarms[name].append(low is not None and high is not None and not low <= 0 <= high)
    return {name: float(np.mean(values)) for name, values in alarms.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Simulate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--patients", nargs="+", type=int, default=[10, 20, 50])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--samples", type=int, default=500, help="resamples of each study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paired", action="store_true", help="differences between two equally good systems")
    options = parser.parse_args()
    how = options.studies, options.samples, options.seed
    rows = []
    for name in options.kinds:
        kind = KINDS[name]
        truth = {} if options.paired else true_values(kind, options.seed)
        for patients in options.patients:
            started = time.perf_counter()
            if options.paired:
                alarms = false_alarms(kind, patients, *how)
                cells = [f"{alarms[figure]:.3f}" for figure in PAIRED]
            else:
                found = coverage(kind, truth, patients, *how)
                cells = [f"{found[figure][0]:.3f} ({found[figure][1]:.2f})" for figure in FIGURES if figure in found]
            rows.append([f"{name}: {kind.about}", str(patients), *cells])
            print(f"{rows[-1]} {time.perf_counter() - started:.0f} s", flush=True)
    print(table(("kind", "patients", *(PAIRED if options.paired else FIGURES)), rows))


if __name__ == "__main__":
    main()
