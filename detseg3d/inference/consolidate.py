"""Cross-validation pooled: calibration, operating point, stage attribution, and the predictions they give.

Each case counts once, as the fold predicted it that did not see it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.calibration import (
    apply_calibration,
    expected_calibration_error,
    fit_calibration,
    reliability_bins,
)
from detseg3d.evaluation.evaluate import read_label_format
from detseg3d.evaluation.labels import LabelFormat, read_label
from detseg3d.evaluation.lesions import evaluate_case
from detseg3d.execution.local import describe_failures, run_cases
from detseg3d.inference.attribution import attribute
from detseg3d.inference.candidates import candidates_path, load_candidates
from detseg3d.inference.export import describe_case, write_case, write_lesion_table
from detseg3d.inference.operating_point import OperatingPoint, describe, save_operating_point, weights_digest
from detseg3d.inference.sweep import Objective, StoredCase, Sweep, read_truth, search, with_setting
from detseg3d.io.files import read_json, write_json
from detseg3d.io.raw_dataset import RawDataset, load_raw_dataset
from detseg3d.planning.plans import Plans, load_plans

__all__ = ["Consolidated", "ScoredLesions", "consolidate"]

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PREDICTIONS = "cross_validation"
"""Folder of the pooled predictions, in the model's folder."""


@dataclass(frozen=True)
class ScoredLesions:
    """Scores of predicted lesions, before calibration, and whether each overlaps a true lesion."""

    scores: FloatArray
    is_lesion: BoolArray
    folds: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Consolidated:
    """What was found.

    Attributes
    ----------
    point : OperatingPoint
    report : dict
        For JSON and the report: ``operating_point``, ``sweep``, ``calibration``, ``attribution``, …
    predictions : Path
        The cross-validated predictions at the operating point, as ``detseg3d_predict`` would write them.
    """

    point: OperatingPoint
    report: dict[str, Any]
    predictions: Path


def consolidate(
    raw: str | Path,
    model_folder: str | Path,
    folds: Sequence[str | int] = (0, 1, 2, 3, 4),
    objective: Objective | None = None,
    num_processes: int = 0,
    progress: bool = True,
) -> Consolidated:
    """Calibrate the scores and choose the operating point on the pooled validation cases of the folds.

    Parameters
    ----------
    raw : path
        The raw data set, for its labels.
    model_folder : path
        ``results/DatasetXXX_Name``, with trained and validated folds.
    folds : sequence
    objective : Objective, optional
        The highest lesion F1 by default.
    num_processes : int
    progress : bool

    Returns
    -------
    Consolidated
        Also written: ``operating_point.json``, and ``cross_validation/`` with the predictions and
        ``consolidation.json``.

    Raises
    ------
    DetSeg3DError
        If a fold is not there or has no stored candidates, or folds share validation cases.
    """
    raw, model_folder = Path(raw), Path(model_folder)
    dataset = load_raw_dataset(raw)
    cases = collect_cases(dataset, model_folder, folds)
    plans = _common_plans(model_folder, folds)
    form = read_label_format(raw / "labelsTr")
    scored = _score_lesions(cases, plans, form, num_processes, progress)
    if len(scored.scores) == 0:
        raise DetSeg3DError(
            "no fold predicted any lesion, so there is nothing to calibrate or to choose",
            file=model_folder,
            remedy="train longer, and look at fold_*/progress.png",
        )
    knots = fit_calibration(scored.scores, scored.is_lesion)
    start = _threshold_on_scale(plans, knots)
    sweep = search(cases, start, form, objective or Objective(), num_processes, progress)
    chosen = with_setting(start, sweep.chosen)
    true_boxes = [row for fold in folds for row in _true_boxes(model_folder / f"fold_{fold}")]
    report: dict[str, Any] = {
        "dataset": model_folder.name,
        "folds": [str(fold) for fold in folds],
        "cases": len(cases),
        "operating_point": _describe_choice(sweep),
        "sweep": sweep.rows(),
        "calibration": describe_calibration(scored),
        "attribution": attribute(cases, chosen, form, true_boxes, num_processes, progress),
    }
    folder = model_folder / PREDICTIONS
    ending = dataset.file_ending
    written = run_cases(partial(_write_prediction, chosen, folder, ending), cases, num_processes, "masks", progress)
    describe_failures(written, lambda case: case.case_id)
    write_lesion_table(folder)
    point = OperatingPoint(
        inference=chosen.inference,
        objective=str(sweep.objective),
        weights={
            f"fold_{fold}": weights_digest(model_folder / f"fold_{fold}" / "model_final.safetensors") for fold in folds
        },
        figures={"chosen": sweep.figures(sweep.chosen), "plan": sweep.figures(sweep.default)},
    )
    write_json(report, folder / "consolidation.json")
    # Last: only a finished consolidation changes what is predicted.
    save_operating_point(point, model_folder)
    logger.info("operating point (%s): %s", sweep.objective, describe(chosen.inference))
    if chosen.inference.minimum_volume_mm3:
        logger.warning(
            "lesions under %g mm³ will be left out of every prediction: on these folds it pays",
            chosen.inference.minimum_volume_mm3,
        )
    return Consolidated(point, report, folder)


def collect_cases(dataset: RawDataset, model_folder: Path, folds: Sequence[str | int]) -> list[StoredCase]:
    """The validation cases of all folds, each with the candidates of the fold that did not see it."""
    labels = {case.case_id: case.label for case in dataset.cases}
    cases: dict[str, StoredCase] = {}
    for fold in folds:
        validation = model_folder / f"fold_{fold}" / "validation"
        files = sorted((validation / "candidates").glob("*.npz")) if validation.is_dir() else []
        if not files:
            raise DetSeg3DError(
                f"fold {fold} has no stored candidates",
                file=validation,
                expected="validation/candidates/CASE.npz for each validation case",
                remedy=f"train it, or write them with detseg3d_train {model_folder.name} {fold} --val; "
                "or name the folds that are there with -f",
            )
        for file in files:
            case_id, label = file.stem, labels.get(file.stem)
            if label is None:
                raise DetSeg3DError("the raw data set has no label of this validation case", file=file, value=case_id)
            if case_id in cases:
                raise DetSeg3DError(
                    f"case {case_id} was validated by fold {cases[case_id].fold} and by fold {fold}",
                    file=file,
                    expected="folds whose validation cases differ",
                    remedy="choose folds of one split with -f",
                )
            cases[case_id] = StoredCase(case_id, str(fold), candidates_path(validation, case_id), label)
    return [cases[case_id] for case_id in sorted(cases)]


def _common_plans(model_folder: Path, folds: Sequence[str | int]) -> Plans:
    return load_plans(model_folder / f"fold_{folds[0]}" / "plans.json")


def _threshold_on_scale(plans: Plans, knots: Sequence[tuple[float, float]]) -> Plans:
    """The plans with the calibration, and their score threshold where the calibration puts it."""
    threshold = float(apply_calibration(knots, np.array([plans.inference.score_threshold]))[0])
    return plans.evolve(inference={"calibration": tuple(knots), "score_threshold": threshold})


def _true_boxes(fold: Path) -> list[dict[str, Any]]:
    file = fold / "validation" / "true_boxes.json"
    return list(read_json(file)) if file.is_file() else []


# -- Scores ------------------------------------------------------------------------------------------------------------


def _score_lesions(
    cases: Sequence[StoredCase], plans: Plans, form: LabelFormat, num_processes: int, progress: bool
) -> ScoredLesions:
    """Every lesion that the candidates give without a score threshold, and whether there is one."""
    everything = plans.evolve(inference={"score_threshold": 0.0, "calibration": ()})
    scores, hits, folds = [], [], []
    for result in run_cases(partial(_score_case, everything, form), cases, num_processes, "calibration", progress):
        if result.value is None:
            assert result.error is not None
            raise result.error
        scores += [score for score, _ in result.value]
        hits += [hit for _, hit in result.value]
        folds += [result.item.fold] * len(result.value)
    return ScoredLesions(np.array(scores, np.float64), np.array(hits, np.bool_), np.array(folds, np.str_))


def _score_case(plans: Plans, form: LabelFormat, case: StoredCase) -> list[tuple[float, bool]]:
    candidates = load_candidates(case.candidates)
    truth = read_truth(case.label, form, plans)
    merged = candidates.admitted(plans.inference).merge(plans)
    metrics = evaluate_case(
        case.case_id,
        truth.instances,
        merged.instances,
        candidates.spacing,
        truth_classes=truth.classes,
        prediction_classes={lesion.id: lesion.class_index for lesion in merged.lesions},
    )
    score_of = {lesion.id: lesion.score for lesion in merged.lesions}
    return [(score_of[lesion.id], lesion.matched["any"]) for lesion in metrics.lesions if lesion.kind == "prediction"]


def describe_calibration(scored: ScoredLesions) -> dict[str, Any]:
    """Calibration error and reliability of the raw and of the calibrated score.

    ``after`` is honest: each fold's scores are calibrated by what the *other* folds showed.
    """
    calibrated = np.empty_like(scored.scores)
    names = np.unique(scored.folds)
    for fold in names:
        own = scored.folds == fold
        others = ~own if len(names) > 1 and not own.all() else own
        calibrated[own] = apply_calibration(
            fit_calibration(scored.scores[others], scored.is_lesion[others]), scored.scores[own]
        )
    return {
        name: {
            "ece": expected_calibration_error(scores, scored.is_lesion),
            "bins": reliability_bins(scores, scored.is_lesion),
        }
        for name, scores in (("before", scored.scores), ("after", calibrated))
    }


# -- Results -----------------------------------------------------------------------------------------------------------


def _describe_choice(sweep: Sweep) -> dict[str, Any]:
    return {
        "objective": str(sweep.objective),
        **asdict(sweep.chosen),
        **sweep.figures(sweep.chosen),
        "default": {**asdict(sweep.default), **sweep.figures(sweep.default)},
        "chosen_on_other_folds": sweep.without_own_fold(),
        "settings_tried": len(sweep.counts),
    }


def _write_prediction(plans: Plans, folder: Path, ending: str, case: StoredCase) -> None:
    candidates = load_candidates(case.candidates)
    _, geometry = read_label(case.label, LabelFormat(npy_spacing=candidates.spacing))
    assert geometry.shape == candidates.shape and math.isclose(geometry.spacing[0], candidates.spacing[0], rel_tol=1e-3)
    admitted = candidates.admitted(plans.inference)
    write_case(describe_case(admitted.merge(plans), admitted.found, geometry, plans), case.case_id, folder, ending)
