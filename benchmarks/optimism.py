"""How far the figures of a cross-validation are from the truth: simulated candidates through the real search.

    python benchmarks/optimism.py preprocessed/Dataset999_Example/plans.json [--scans 5 10 20 40] [--runs 12]

Every run simulates the stored candidates of a cross-validation with five folds, consolidates them, and judges plan and
choice on 200 new scans of the same kind. Patients differ: each has its own shift of all scores. One scan in five has
no lesion. Two kinds of networks are simulated:

- "plan is right": the plan's thresholds are about the best there are, so the true gain of any choice is about 0;
- "plan is wrong": all scores are far below the plan's threshold, so a choice gains much.

For each kind and number of scans the table states the gain in F1 at IoU ≥ 0.1 that the consolidation reports
(cross-fitted figure less the plan's), the true gain (both on the new scans), and how often the plan was kept. Mean and
standard error over the runs. The last column is the gain of the figure that is chosen and evaluated on the same scans.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.consolidation.calibration import rescale_thresholds
from detseg3d.consolidation.cases import CandidateCase, PreparedCase
from detseg3d.consolidation.count_table import CountTable
from detseg3d.consolidation.objective import Objective, pool_counts
from detseg3d.consolidation.outcomes import CaseOutcomes, CaseTruth
from detseg3d.consolidation.search import SearchInput, search
from detseg3d.data.labels import lesions_from_semantic
from detseg3d.evaluation.scores.calibration import fit_calibration
from detseg3d.inference.candidates import Candidates, load_candidates, save_candidates
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.plans import Plans, load_plans

SHAPE = (24, 48, 48)
RADII = (0.5, 1.0, 1.5, 2.2)
FOLDS = 5
NEW_SCANS = 200
# Every site is the centre of a block of its own, so that nothing touches.
SITES = tuple((z, y, x) for z in (4, 12, 20) for y in (8, 24, 40) for x in (8, 24, 40))


@dataclass(frozen=True)
class Network:
    """How the scores of a simulated network are distributed, on the logit scale."""

    name: str
    shift: float
    separation: float = 1.0
    noise: float = 1.2
    patients: float = 0.6  # standard deviation of the shift of a patient


NETWORKS = (Network("plan is right", 0.0), Network("plan is wrong", -2.5))


def _ball(centre: tuple[int, int, int], radius: float) -> npt.NDArray[np.bool_]:
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ball: npt.NDArray[np.bool_] = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2
    return ball


def simulate_scan(
    network: Network, random: np.random.Generator, lesion_free: bool
) -> tuple[npt.NDArray[np.uint8], Candidates]:
    """A label with 2 to 6 lesions or none, and candidates: 85 % of the lesions, and some four false positives."""
    sites = [SITES[index] for index in random.permutation(len(SITES))]
    lesions = 0 if lesion_free else int(random.integers(2, 7))
    patient = network.shift + random.normal(0, network.patients)
    label = np.zeros(SHAPE, np.uint8)
    proposed: list[tuple[tuple[int, int, int], float, bool]] = []
    for site in sites[:lesions]:
        radius = float(random.choice(RADII))
        label[_ball(site, radius)] = 1
        if random.random() < 0.85:
            proposed.append((site, max(0.5, radius + random.normal(0, 0.2)), True))
    proposed += [
        (site, float(random.choice(RADII)), False) for site in sites[lesions : lesions + int(random.poisson(4))]
    ]
    logits = [
        patient + network.separation * (1 if real else -1) + random.normal(0, network.noise) for *_, real in proposed
    ]
    detection = 1 / (1 + np.exp(-np.array(logits)))
    roi = 1 / (1 + np.exp(-np.array(logits) - random.normal(0, 0.5, len(logits))))
    order = np.argsort(-detection)
    boxes, predictions = [], []
    steps = np.mgrid[-3:4, -3:4, -3:4]
    distance = np.sqrt((steps**2).sum(axis=0))
    for place, index in enumerate(order.tolist()):
        site, radius, _ = proposed[index]
        centre = np.array(site) + 0.5
        boxes.append(np.concatenate([centre - np.floor(radius) - 0.5, centre + np.floor(radius) + 0.5]))
        region = np.concatenate([np.array(site) - 3.0, np.array(site) + 4.0])
        mask = torch.from_numpy((1 / (1 + np.exp(2 * (distance - radius)))).astype(np.float16))
        predictions.append(RoiPrediction(region, place, mask, float(roi[index])))
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 6),
        detection[order].astype(np.float32),
        np.zeros(len(order), np.int64),
    )
    return label, Candidates(found, predictions, SHAPE, (1.0, 1.0, 1.0))


def prepare(
    network: Network, count: int, folder: Path, random: np.random.Generator, name: str = "scan"
) -> list[PreparedCase]:
    """Simulated scans, each fifth without lesions; their candidates are stored as a validation stores them."""
    cases = []
    for index in range(count):
        label, candidates = simulate_scan(network, random, index % 5 == 4)
        file = folder / f"{name}{index}.npz"
        save_candidates(candidates, file)
        truth = CaseTruth.of(lesions_from_semantic(label, (1,), file), candidates.spacing)
        cases.append(PreparedCase(CandidateCase(f"{name}{index}", str(index % FOLDS), file, file), truth))
    return cases


def calibrated(plans: Plans, cases: Sequence[PreparedCase]) -> Plans:
    """The plans with the calibration that these cases give, as the consolidation fits it."""
    everything = plans.evolve(
        inference={"score_threshold": 0.0, "minimum_volume_mm3": 0.0, "scan_threshold": 0.0, "calibration": ()}
    )
    lesions = [
        lesion
        for case in cases
        for lesion in CaseOutcomes(load_candidates(case.stored.candidates), case.truth, everything).lesions(
            everything.inference
        )
    ]
    knots = fit_calibration([lesion.score for lesion in lesions], [bool(lesion.hits) for lesion in lesions])
    return rescale_thresholds(plans, knots)


@dataclass(frozen=True)
class Run:
    """What one simulated cross-validation reports, and what is true; gains are in F1 at IoU ≥ 0.1."""

    reported: float
    true: float
    on_the_same_scans: float
    plan_kept: bool


def simulate(network: Network, plans: Plans, scans: int, seed: int, new: Sequence[PreparedCase], folder: Path) -> Run:
    """One cross-validation, and its choice judged on the new scans."""
    cases = prepare(network, scans, folder, np.random.default_rng(seed))
    start = calibrated(plans, cases)
    result = search(SearchInput(cases, start), Objective(), run=Run(show_progress=False))
    metrics = result.choice_metrics()
    assert metrics.cross_fitted is not None
    true = 0.0  # of the plan over itself
    if not result.plan_kept:
        table = CountTable(new, start, Run(0, show_progress=False))
        table.evaluate([result.default, result.chosen], "new scans")
        plan, chosen = (
            pool_counts(table.counts[thresholds]).f1_iou_0_1 for thresholds in (result.default, result.chosen)
        )
        true = chosen - plan
    return Run(
        metrics.cross_fitted.f1_iou_0_1 - metrics.plan.f1_iou_0_1,
        true,
        metrics.chosen_on_the_same_scans.f1_iou_0_1 - metrics.plan.f1_iou_0_1,
        result.plan_kept,
    )


def describe(runs: Sequence[Run]) -> str:
    """Means with standard errors."""

    def mean(values: Sequence[float]) -> str:
        spread = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        return f"{np.mean(values):+.3f} ± {spread:.3f}"

    return (
        f"reported {mean([run.reported for run in runs])}, true {mean([run.true for run in runs])}, "
        f"difference {mean([run.reported - run.true for run in runs])}, "
        f"plan kept {sum(run.plan_kept for run in runs)} of {len(runs)}, "
        f"on the same scans {mean([run.on_the_same_scans for run in runs])}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path, help="plans.json of a data set with one class")
    parser.add_argument("--scans", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--new_scans", type=int, default=NEW_SCANS)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plans = load_plans(options.plans)
    started = time.monotonic()
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            new = prepare(network, options.new_scans, folder, np.random.default_rng(10_000), "new")
            for scans in options.scans:
                runs = [
                    simulate(network, plans, scans, seed, new, folder)
                    for seed in range(options.seed, options.seed + options.runs)
                ]
                seconds = time.monotonic() - started
                print(f"{network.name}, {scans} scans: {describe(runs)} [{seconds:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
