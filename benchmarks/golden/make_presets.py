"""Ask the programs that the presets follow about the golden cases: tests/evaluation/golden/presets.json.

    python benchmarks/golden/make_presets.py

Runs in the environment of make_answers.py, see README.md. Every class of every case is a set of one case. Spacing is
1 mm: BraTS-evaluation takes the spacing of a file in another order of axes than its voxels.
"""

from __future__ import annotations

import json
import math
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pandas as pd
from brats_evaluation.metrics_parser import parse_mets_results
from panoptica import Panoptica_Evaluator
from picai_eval import evaluate

FOLDER = Path(__file__).parents[2] / "tests" / "evaluation" / "golden"
PACKAGES = ("brats-evaluation", "panoptica", "picai_eval", "scikit-learn", "numpy")
METS = (
    *("lesionwise_dsc_mean", "lesionwise_nsd_mean", "lesionwise_hd95_mean"),
    *(f"{size}_instance_{figure}" for size in ("small", "large", "all") for figure in ("f1", "tp", "fn", "fp")),
)
PANOPTICA = ("pq", "sq", "rq", "pq_dsc", "sq_dsc", "sq_assd")


def masks() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each class of each case: true mask, predicted mask, and the scores of the predicted voxels."""
    result = {}
    with np.load(FOLDER / "cases.npz") as volumes:
        for name, values in json.loads((FOLDER / "cases.json").read_text(encoding="utf-8")).items():
            truth, prediction = volumes[f"{name}/truth"], volumes[f"{name}/prediction"]
            for index in range(values["classes"]):
                sides = [
                    np.isin(volume, np.flatnonzero(np.array(values[classes]) == index) + 1)
                    for volume, classes in ((truth, "truth_classes"), (prediction, "prediction_classes"))
                ]
                scores = np.concatenate([[0.0], np.array(values["scores"], np.float64)])
                result[f"{name}/{index}"] = (*sides, np.where(sides[1], scores[prediction], 0.0))
    return result


def config(package: str, *path: str) -> Panoptica_Evaluator:
    return Panoptica_Evaluator.load_from_config(str(files(package).joinpath("configs", *path)))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def number(value: float) -> float | None:
    """Ten digits; None for what is undefined."""
    return float(f"{value:.10g}") if math.isfinite(value) else None


def ask_brats(evaluator: Panoptica_Evaluator, truth: np.ndarray, prediction: np.ndarray) -> dict[str, float | None]:
    volumes = [(3 * mask).astype(np.uint8) for mask in (prediction, truth)]
    found = evaluator.evaluate(*volumes, voxelspacing=(1.0, 1.0, 1.0))["et"].to_dict(True)
    with tempfile.TemporaryDirectory() as folder:
        record = {"metrics": [{"subject_name": "case", "et": plain(found)}], "missings": []}
        source = Path(folder) / "metrics.json"
        source.write_text(json.dumps(record), encoding="utf-8")
        parse_mets_results(str(source), 27.0, 0.2, str(Path(folder) / "out.csv"))
        row = pd.read_csv(Path(folder) / "out.csv").iloc[0]
    return {name: number(float(row[f"{name}_et"])) for name in METS}


def main() -> None:
    brats = config("brats_evaluation", "config_mets.yaml")
    default = config("panoptica", "panoptica_evaluator_default.yaml")
    cases: dict[str, Any] = {}
    for name, (truth, prediction, _) in masks().items():
        found = next(
            iter(
                default.evaluate(
                    prediction.astype(np.uint8), truth.astype(np.uint8), voxelspacing=(1.0, 1.0, 1.0)
                ).values()
            )
        ).to_dict()
        cases[name] = {
            "brats2026-mets": ask_brats(brats, truth, prediction),
            "panoptica": {key: number(float(found[key])) for key in PANOPTICA},
        }
    # A detection map holds one score for each connected component.
    maps = []
    for _, prediction, scores in masks().values():
        parts = cc3d.connected_components(prediction, connectivity=26)
        highest = np.zeros(int(parts.max()) + 1)
        np.maximum.at(highest, parts.ravel(), scores.ravel())
        maps.append(highest[parts])
    truths = [truth.astype(np.int32) for truth, _, _ in masks().values()]
    together = evaluate(y_det=maps, y_true=truths, num_parallel_calls=1)
    picai = {"AP": number(together.AP), "AUROC": number(together.auroc), "score": number(together.score)}
    answer = {"versions": {name: version(name) for name in PACKAGES}, "cases": cases, "picai": picai}
    (FOLDER / "presets.json").write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
