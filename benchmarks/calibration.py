"""Is the stated probability the observed rate? One network and five, with and without mirrored copies, simulated.

    python benchmarks/calibration.py [--candidates 3000] [--seeds 3]

Every candidate has a difficulty that all networks share. Each network adds noise of its own to it, and each mirrored
copy adds noise again, on the scale of log-odds and for both stages. Copies of a network are averaged as probabilities.
Of several networks, Stage 1 is averaged as a probability and Stage 2 by log-odds, as the prediction does. The
calibration is learnt as in a cross-validation: on candidates that one network saw, without copies or with eight. Then
new candidates are predicted by one network or by five.

For predictions of probability 0.4 or more the table states the mean stated probability and the share of lesions: of the
single network's map on the mean of the networks ("plain"), and of the map for several networks ("of several").
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray
from detseg3d.core.log_odds import mean_by_log_odds
from detseg3d.evaluation.scores.calibration import apply_calibration, fit_calibration
from detseg3d.evaluation.scores.ensemble_calibration import (
    ScoreSpread,
    calibration_of_several,
    variance_between,
)

NEW = 20_000
CANDIDATES_A_SCAN = 40


@dataclass(frozen=True)
class Scores:
    """Scores of both stages; shape ``(networks, candidates)`` each."""

    detection: FloatArray
    roi: FloatArray

    def of_each(self) -> FloatArray:
        """Score of each network."""
        combined: FloatArray = np.sqrt(self.detection * self.roi)
        return combined

    def averaged(self) -> FloatArray:
        """Score of all networks together."""
        combined: FloatArray = np.sqrt(self.detection.mean(axis=0) * mean_by_log_odds(self.roi))
        return combined


@dataclass(frozen=True)
class Population:
    """Candidates and networks; standard deviations on the scale of log-odds."""

    name: str
    share: float  # of lesions
    distance: float  # between the means of lesions and others
    difficulty: float
    network: float
    copy: float
    shift: float

    def draw(self, count: int, random: np.random.Generator) -> tuple[npt.NDArray[np.bool_], FloatArray]:
        """Whether each candidate is a lesion, and how much it looks like one."""
        lesion = random.random(count) < self.share
        looks = np.where(lesion, 0.5, -0.5) * self.distance + self.shift + random.normal(0, self.difficulty, count)
        return lesion, looks

    def scores(self, looks: FloatArray, networks: int, copies: int, random: np.random.Generator) -> Scores:
        """Scores of each network, its copies averaged."""

        def stage(common: float, own: FloatArray, own_copies: FloatArray) -> FloatArray:
            noise = common * (own + own_copies)
            noise = noise + random.normal(0, 0.7 * self.network, (networks, 1, len(looks))) * (1 - common)
            noise = noise + random.normal(0, 0.7 * self.copy, (networks, copies, len(looks))) * (1 - common)
            mean: FloatArray = (1 / (1 + np.exp(-(looks + noise)))).mean(axis=1)
            return mean

        own = random.normal(0, self.network, (networks, 1, len(looks)))
        own_copies = random.normal(0, self.copy, (networks, copies, len(looks)))
        return Scores(stage(1.0, own, own_copies), stage(0.5, own, own_copies))


POPULATIONS = (
    Population("easy", 0.4, 3.0, 1.0, 0.8, 0.4, -0.5),
    Population("networks disagree", 0.4, 2.0, 0.8, 1.2, 0.5, -0.5),
    Population("hard and rare", 0.2, 1.5, 0.8, 0.8, 0.4, -1.5),
    Population("networks agree", 0.5, 2.5, 1.2, 0.4, 0.3, 0.0),
)


def compare(
    population: Population, networks: int, copies: tuple[int, int], candidates: int, seed: int
) -> list[tuple[float, float]]:
    """Stated and observed rate of the plain map, and of that for several; ``copies`` in validation and prediction."""
    random = np.random.default_rng(seed)
    lesion, looks = population.draw(candidates, random)
    seen = population.scores(looks, 1, copies[0], random).of_each()[0]
    knots, spread = fit_calibration(seen, lesion), ScoreSpread.of(seen, lesion)
    truth, looks = population.draw(NEW, random)
    scores = population.scores(looks, networks, copies[1], random)
    of_each, averaged = scores.of_each(), scores.averaged()
    plain = apply_calibration(knots, averaged)
    several = np.empty(NEW)
    for start in range(0, NEW, CANDIDATES_A_SCAN):  # every scan by itself, as it is predicted
        scan = slice(start, start + CANDIDATES_A_SCAN)
        between = variance_between(of_each[:, scan])
        of_several = calibration_of_several(knots, spread, between, networks, as_probability=0.5)
        several[scan] = apply_calibration(of_several, averaged[scan])
    result = []
    for stated in (plain, several):
        reported = stated >= 0.4
        result.append((float(stated[reported].mean()), float(truth[reported].mean())))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(
        "population, networks, copies in validation and prediction: plain stated observed | of several stated observed"
    )
    for population in POPULATIONS:
        for networks in (1, 5):
            for copies in ((1, 1), (8, 8), (1, 8), (8, 1)):
                runs = np.array(
                    [compare(population, networks, copies, options.candidates, seed) for seed in range(options.seeds)]
                )
                (plain, several), spread = runs.mean(axis=0), np.abs(runs[:, 1, 0] - runs[:, 1, 1]).max()
                print(
                    f"{population.name}, {networks}, {copies[0]} and {copies[1]}: {plain[0]:.3f} {plain[1]:.3f} | "
                    f"{several[0]:.3f} {several[1]:.3f} (largest difference {spread:.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
