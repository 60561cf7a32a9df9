"""Read the golden cases and the answers of the original implementations, both written by benchmarks/golden."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.metrics import CaseMetrics
from tests.evaluations import evaluate_maps

FOLDER = Path(__file__).parent
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class GoldenCase:
    """Two instance maps with ids ``1..N`` (ids may be missing), and the classes and scores of these ids."""

    name: str
    truth: IntArray
    prediction: IntArray
    spacing: tuple[float, float, float]
    truth_classes: tuple[int, ...]
    prediction_classes: tuple[int, ...]
    scores: tuple[float, ...]
    class_names: tuple[str, ...]

    def of_class(self, index: int) -> tuple[IntArray, IntArray]:
        """Return both maps with the lesions of only one class."""
        return tuple(
            np.where(np.isin(volume, np.flatnonzero(np.array(classes) == index) + 1), volume, 0)
            for volume, classes in ((self.truth, self.truth_classes), (self.prediction, self.prediction_classes))
        )  # type: ignore[return-value]


@cache
def golden_cases() -> dict[str, GoldenCase]:
    with np.load(FOLDER / "cases.npz", allow_pickle=False) as volumes:
        return {
            name: GoldenCase(
                name,
                volumes[f"{name}/truth"].astype(np.int32),
                volumes[f"{name}/prediction"].astype(np.int32),
                tuple(values["spacing"]),
                tuple(values["truth_classes"]),
                tuple(values["prediction_classes"]),
                tuple(values["scores"]),
                tuple(f"class {index}" for index in range(values["classes"])),
            )
            for name, values in json.loads((FOLDER / "cases.json").read_text(encoding="utf-8")).items()
        }


@cache
def answers() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
    return loaded


@cache
def evaluated(name: str, distances: bool = True) -> CaseMetrics:
    """Evaluate a golden case with all metrics."""
    case = golden_cases()[name]
    return evaluate_maps(
        name,
        case.truth,
        case.prediction,
        case.spacing,
        truth_classes=case.truth_classes,
        prediction_classes=case.prediction_classes,
        prediction_scores=case.scores,
        class_names=case.class_names,
        variants=MetricVariants(distances=distances),
    )
