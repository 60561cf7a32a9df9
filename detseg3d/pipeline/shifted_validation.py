"""Predict shifted copies of the validation scans of a fold, and store their candidates and true lesions."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from detseg3d.consolidation.outcomes import CaseTruth
from detseg3d.consolidation.shifted_scans import (
    STRENGTH,
    ShiftedPair,
    ShiftedRecord,
    ShiftedScan,
    choose_pairs,
    save_truth,
    shifted_candidates,
    shifted_truth,
    validation_shifts,
    write_shifted_record,
)
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.data.folders import FoldFolder, PredictionFolder
from detseg3d.data.labels import LabelFormat, Lesions, read_label, true_lesions
from detseg3d.inference.candidates import save_candidates
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.operating_point import weights_digest
from detseg3d.inference.predictor import Predictor
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.label_format import label_format_of
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.system.files import remove_files
from detseg3d.system.signals import raise_if_interrupted
from detseg3d.system.workers import is_bar_shown

__all__ = ["clear_shifted_scans", "predict_shifted_scans"]

logger = logging.getLogger(__name__)


def clear_shifted_scans(validation: PredictionFolder) -> None:
    """Remove the shifted scans of an earlier validation, which may be those of other weights."""
    remove_files(validation.shifted_scans)
    if validation.shifted_scans_folder.is_dir():
        shutil.rmtree(validation.shifted_scans_folder)


def predict_shifted_scans(
    predictor: Predictor,
    dataset: RawDataset,
    cases: Sequence[RawCase],
    fold: FoldFolder,
    max_scans: int,
    show_progress: bool = True,
) -> None:
    """Predict shifted copies of validation scans. A copy that fails is left out with a warning.

    Parameters
    ----------
    predictor : Predictor
        The network of the fold, with the thresholds of the plan.
    dataset : RawDataset
    cases : sequence of RawCase
        Validation cases that were predicted without an error.
    fold : FoldFolder
        Receives ``validation/shifted_scans/`` and ``validation/shifted_scans.json``.
    max_scans : int
        Largest number of shifted scans. There are not more than validation cases times shifts.
    show_progress : bool
    """
    by_id = {case.case_id: case for case in cases}
    patients = [dataset.patient_of(case_id) or case_id for case_id in by_id]
    pairs = choose_pairs(list(by_id), patients, validation_shifts(predictor.plans.channel_names), max_scans)
    if not pairs:
        return
    logger.info(
        "predicting %d shifted copies of validation scans, which show how much the model loses on other scanners; this "
        "takes about as long as the prediction of %d validation scans (--shifted_scans 0 leaves it out)",
        len(pairs),
        len(pairs),
    )
    label_format = label_format_of(predictor.plans, dataset)
    start, scans, failed = time.perf_counter(), [], 0
    bar = tqdm(pairs, desc="shifted scans", unit="scan", disable=not is_bar_shown(show_progress))
    for pair in bar:
        try:
            scans.append(_predict_pair(predictor, by_id[pair.case_id], pair, label_format, fold.validation))
        except Exception as error:
            # Shifted scans are additional knowledge. Whatever goes wrong must not lose the validated fold.
            raise_if_interrupted()
            failed += 1
            logger.debug("the shifted scan failed", exc_info=True)
            reason = error.problem if isinstance(error, DetSeg3DError) else f"{type(error).__name__}: {error}"
            logger.warning("%s, shifted by %s, is left out: %s", pair.case_id, pair.shift.name, reason)
    record = ShiftedRecord(weights_digest(fold.final_weights), str(STRENGTH), tuple(scans))
    write_shifted_record(record, fold.validation)
    logger.info("%d shifted scans were predicted in %.0f s", len(scans), time.perf_counter() - start)


def _predict_pair(
    predictor: Predictor, case: RawCase, pair: ShiftedPair, label_format: LabelFormat, validation: PredictionFolder
) -> ShiftedScan:
    """Shift and predict one scan, and store its candidates and true lesions."""
    images, geometry = predictor.read(case, InputOptions())
    assert case.label is not None, "validation cases have labels"
    label, _ = read_label(case.label, label_format)
    lesions = true_lesions(label, case.label.path, label_format, case_id=case.case_id)
    instances, classes = lesions.renumbered()
    scan = Scan.of(images, instances, geometry, predictor.plans.channel_names)
    del images, label
    shifted = pair.shift.apply(scan, STRENGTH, pair.seed)
    del scan
    kept = {number: int(classes[number - 1]) for number in shifted.lesion_ids}
    truth = CaseTruth.of(Lesions(np.asarray(shifted.instances), kept), shifted.geometry.spacing)
    similarity = None
    if predictor.reference is not None:
        similarity = predictor.reference.compare(measure_appearance(shifted.images, shifted.geometry))
    candidates = predictor.find_candidates(shifted.images, shifted.geometry, similarity, loose=True)
    save_candidates(candidates, shifted_candidates(validation, pair.shift.name, case.case_id))
    save_truth(truth, shifted_truth(validation, pair.shift.name, case.case_id))
    return ShiftedScan(case.case_id, pair.shift.name, () if similarity is None else similarity.differences)
