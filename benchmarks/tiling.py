"""Large lesions: several overlapping RoIs against one that shows the whole box in fewer samples.

    python benchmarks/tiling.py --results RESULTS/Dataset101_SynthMS --preprocessed PREPROCESSED/Dataset101_SynthMS -f 0

Stage 2 is given the true boxes of the validation cases, so only the outlines are compared: Dice of the lesions that
the plan covers with several RoIs, of the largest twentieth of all lesions, and of all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.consolidation.true_boxes import TrueBoxLesion, segment_true_boxes
from detseg3d.data.case_store import CaseStore
from detseg3d.data.folders import PreparedFolder
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.planning.splits import load_fold

ONE_ROI = 1e6  # fine voxels a sample may stand for: no box is ever too large for one RoI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of the trained data set")
    parser.add_argument("--preprocessed", type=Path, required=True)
    parser.add_argument("-f", "--folds", nargs="+", default=["0"])
    options = parser.parse_args()
    tiled, single, several = [], [], []
    for fold in options.folds:
        predictor = Predictor.from_model_folder(
            options.results, [fold], LoadOptions(use_mirroring=False, use_operating_point=False)
        )
        store, cases = (
            CaseStore(options.preprocessed / "cases"),
            load_fold(PreparedFolder(options.preprocessed), fold).validation,
        )
        several += tiled_lesions(predictor, store, cases)
        tiled += outline(predictor, store, cases, predictor.plans.roi.max_scale)
        single += outline(predictor, store, cases, ONE_ROI)
    print(json.dumps(compare(tiled, single, set(several)), indent=1))


def outline(predictor: Predictor, store: CaseStore, cases: Sequence[str], max_scale: float) -> list[TrueBoxLesion]:
    """Dice of each lesion in its true box, if one sample may stand for so many voxels."""
    plans = predictor.plans.evolve(roi={"max_scale": max_scale})
    predictor.plans = plans
    for model in predictor.models:
        model.plans = plans
    return segment_true_boxes(predictor, store, cases)


def tiled_lesions(predictor: Predictor, store: CaseStore, cases: Sequence[str]) -> list[tuple[str, int]]:
    """Lesions that take more than one RoI by the plan's rule."""
    tiles = predictor.models[0].tiles
    lesions = [(case, lesion) for case in cases for lesion in store.properties(case)["lesions"]]
    return [(case, int(lesion["id"])) for case, lesion in lesions if len(tiles([lesion["box"]])[0]) > 1]


def compare(
    tiled: Sequence[TrueBoxLesion], single: Sequence[TrueBoxLesion], several: set[tuple[str, int]]
) -> dict[str, Any]:
    """Mean Dice both ways over groups of lesions."""
    sizes = np.array([row.voxels for row in tiled])
    large = sizes >= np.quantile(sizes, 0.95)
    groups = {
        "several RoIs by the plan": np.array([(row.case, row.lesion) in several for row in tiled]),
        "largest 5 %": large,
        "all": np.ones(len(tiled), bool),
    }
    dice = np.array([[row.dice for row in rows] for rows in (tiled, single)])
    return {
        name: {
            "lesions": int(chosen.sum()),
            "voxels": [int(value) for value in np.percentile(sizes[chosen], [0, 50, 100])] if chosen.any() else [],
            "dice_tiled": float(dice[0, chosen].mean()) if chosen.any() else None,
            "dice_one_roi": float(dice[1, chosen].mean()) if chosen.any() else None,
            "better_worse_equal": [int((np.sign(dice[0] - dice[1])[chosen] == sign).sum()) for sign in (1, -1, 0)],
        }
        for name, chosen in groups.items()
    }


if __name__ == "__main__":
    main()
