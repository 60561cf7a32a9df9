"""Read what the validation of each fold has stored: candidates, plans and weights.

Each case counts once, as predicted by the fold that did not train on it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from detseg3d.consolidation.cases import CandidateCase
from detseg3d.consolidation.shifted_scans import (
    STRENGTH,
    ShiftedScan,
    read_shifted_record,
    shifted_candidates,
    shifted_truth,
)
from detseg3d.consolidation.true_boxes import TrueBoxLesion, read_true_boxes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawDataset
from detseg3d.data.folders import FoldFolder, ModelFolder
from detseg3d.data.trained_models import has_trained_fold, no_trained_model
from detseg3d.inference.model_folder import same_network
from detseg3d.inference.operating_point import weights_digest
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.planning.thresholds import THRESHOLD_FIELDS, ThresholdStage
from detseg3d.system.json_files import read_json

__all__ = ["ValidatedFolds", "load_validated_folds"]

logger = logging.getLogger(__name__)

# Candidates can be pooled only if these settings were equal when they were stored.
_STORED_UNDER = (
    *(field.name for field in THRESHOLD_FIELDS if field.stage is ThresholdStage.CANDIDATES),
    "candidate_density",
    "min_candidates",
    "max_candidates",
    "mirror_axes",
)
_MAX_SHOWN = 5


@dataclass(frozen=True)
class ValidatedFolds:
    """Validated folds of a model.

    Attributes
    ----------
    folds : tuple of str
        Names, without repetition.
    plans : Plans
        Plans of the first fold. The plans of the others give the same network and the same candidates.
    cases : tuple of CandidateCase
        Validation cases of all folds, sorted by name.
    weights : mapping of str to str
        SHA-256 of the weights of each fold, by the name of its folder.
    true_boxes : tuple of TrueBoxLesion
        True lesions of these cases, segmented in their true boxes.
    failures : mapping of str to str
        Validation cases that cannot be pooled, and why.
    shifted : mapping of CandidateCase to ShiftedScan
        Shifted scans of the pooled cases that the folds have predicted. Empty if a fold has none.
    """

    folds: tuple[str, ...]
    plans: Plans
    cases: tuple[CandidateCase, ...]
    weights: Mapping[str, str]
    true_boxes: tuple[TrueBoxLesion, ...]
    failures: Mapping[str, str]
    shifted: Mapping[CandidateCase, ShiftedScan] = field(default_factory=dict)


def load_validated_folds(
    dataset: RawDataset, model_folder: Path, folds: Sequence[str | int] | None = None
) -> ValidatedFolds:
    """Read what the validation of each fold has stored.

    Parameters
    ----------
    dataset : RawDataset
        Provides the labels.
    model_folder : Path
        ``results/DatasetXXX_Name``.
    folds : sequence, optional
        Names of folds. By default all numbered folds of the folder.

    Returns
    -------
    ValidatedFolds

    Raises
    ------
    DetSeg3DError
        If a fold is missing, was not validated completely or has no stored candidates, if folds share validation cases
        or have different plans, or if a case has no label.
    """
    model = ModelFolder(model_folder)
    names = tuple(dict.fromkeys(map(str, _numbered_folds(model) if folds is None else folds)))
    if "all" in names:
        raise DetSeg3DError(
            "the fold all was trained on every case, so none is left to judge it",
            file=model.fold("all").path,
            remedy="name the folds of a cross-validation with -f",
        )
    if not has_trained_fold(model_folder):
        raise no_trained_model(model_folder)
    labels = dataset.label_files
    cases: dict[str, CandidateCase] = {}
    failures: dict[str, str] = {}
    for name in names:
        fold = model.fold(name)
        stored, failed = _cases_of_fold(fold)
        failures.update(failed)
        for case_id in stored:
            file, label = fold.validation.candidates(case_id), labels.get(case_id)
            if label is None:
                raise DetSeg3DError("the raw data set has no label of this validation case", file=file, value=case_id)
            if case_id in cases:
                raise DetSeg3DError(
                    f"two folds have validated this case: {cases[case_id].fold} and {name}",
                    file=file,
                    value=case_id,
                    expected="folds with different validation cases",
                    remedy="select folds of one split with -f",
                )
            cases[case_id] = CandidateCase(case_id, name, file, label, dataset.patient_of(case_id))
    missing = [case_id for case_id in labels if case_id not in cases and case_id not in failures]
    if folds is None and missing:
        logger.warning("%d of %d cases were not validated by any of the folds %s", len(missing), len(labels), names)
    lesions = [lesion for name in names for lesion in _true_boxes(model.fold(name))]
    digests = {name: _digest_of_weights(model.fold(name)) for name in names}
    return ValidatedFolds(
        names,
        _common_plans(model, names),
        tuple(cases[case_id] for case_id in sorted(cases)),
        {model.fold(name).path.name: digest for name, digest in digests.items()},
        tuple(lesion for lesion in lesions if lesion.case in cases),
        {case_id: message for case_id, message in failures.items() if case_id not in cases},
        _shifted_cases(model, digests, cases),
    )


def _shifted_cases(
    model: ModelFolder, digests: Mapping[str, str], cases: Mapping[str, CandidateCase]
) -> dict[CandidateCase, ShiftedScan]:
    """Return the shifted scans of all folds. If a fold has no usable ones, return none, and say so in the log.

    With the shifted scans of some folds only, unchanged and shifted scans would come from different patients.
    """
    shifted: dict[CandidateCase, ShiftedScan] = {}
    for name, digest in digests.items():
        fold = model.fold(name)
        validation, record = fold.validation, read_shifted_record(fold.validation)
        if record is None or not record.scans:
            logger.info("fold %s has no shifted validation scans; %s writes them", name, _validation_command(fold))
            return {}
        if record.weights != digest or record.strength != STRENGTH:
            logger.warning(
                "the shifted validation scans of fold %s were predicted with other weights and are not used; %s writes "
                "them again",
                name,
                _validation_command(fold),
            )
            return {}
        for scan in record.scans:
            case = cases.get(scan.case_id)
            if case is not None and case.fold == name:
                candidates = shifted_candidates(validation, scan.shift, scan.case_id)
                truth = shifted_truth(validation, scan.shift, scan.case_id)
                shifted[replace(case, candidates=candidates, label=truth, shift=scan.shift)] = scan
    return shifted


def _numbered_folds(model: ModelFolder) -> list[int]:
    """Return all numbers up to the highest fold. A missing fold in between is an error when it is read."""
    numbers = [int(fold.name) for fold in model.folds() if fold.name.isdecimal()]
    return list(range(max(numbers, default=0) + 1))


def _validation_command(fold: FoldFolder) -> str:
    """Return the command that validates the fold again."""
    return f"detseg3d_train {fold.path.parent.name} {fold.name} --val"


def _cases_of_fold(fold: FoldFolder) -> tuple[list[str], dict[str, str]]:
    """Return the cases that the last validation of a fold predicted, and the problems of those that failed.

    Other candidates in the folder are from an earlier validation with other splits, so the fold may have been trained
    on their cases since.
    """
    validation = fold.validation
    # Hidden files are left over from a process that was killed.
    stored = {path.stem for path in validation.candidates_folder.glob("[!.]*.npz")}
    if not stored:
        raise DetSeg3DError(
            f"fold {fold.name} has no stored candidates",
            file=validation.path,
            expected="validation/candidates/CASE.npz for each validation case",
            remedy=f"train the fold, or write the candidates with {_validation_command(fold)}; or select other folds "
            "with -f",
        )
    summary, remedy = validation.summary, f"validate the fold again with {_validation_command(fold)}"
    if not summary.is_file():
        raise DetSeg3DError(f"the validation of fold {fold.name} is not complete", file=summary, remedy=remedy)
    try:
        record = read_json(summary)
        validated = [str(case["case_id"]) for case in record["cases"]]
        problems = {str(entry["case_id"]): str(entry["problem"]) for entry in record["problems"]}
    except (KeyError, TypeError) as error:
        raise DetSeg3DError(
            f"the summary of the validation cannot be read ({type(error).__name__}: {error})",
            file=summary,
            remedy=remedy,
        ) from error
    outdated = sorted(stored - set(validated) - set(problems))
    if outdated:
        logger.warning(
            "fold %s: the stored candidates of %d case(s) are older than the last validation and are ignored: %s",
            fold.name,
            len(outdated),
            ", ".join(outdated[:_MAX_SHOWN]) + (", …" if len(outdated) > _MAX_SHOWN else ""),
        )
    failed = {case_id: f"validation of fold {fold.name}: {text}" for case_id, text in problems.items()}
    failed |= {
        case_id: f"fold {fold.name} has no candidates of this case" for case_id in validated if case_id not in stored
    }
    return sorted(set(validated) & stored - set(problems)), failed


def _common_plans(model: ModelFolder, names: Sequence[str]) -> Plans:
    """Return the plans of the first fold, and check that the others agree with them."""
    files = [model.fold(name).plans for name in names]
    first, *others = [load_plans(file) for file in files]
    for file, plans in zip(files[1:], others, strict=True):
        if not same_network(plans, first):
            raise DetSeg3DError(
                "the folds were trained with different plans",
                file=file,
                remedy=f"train this fold again with the plans of fold {names[0]}, or leave it out with -f",
            )
        own, expected = (plan.inference.model_dump(include=set(_STORED_UNDER)) for plan in (plans, first))
        different = [name for name in _STORED_UNDER if own[name] != expected[name]]
        if different:
            raise DetSeg3DError(
                "the candidates of the folds were stored with different settings of the inference",
                file=file,
                value=", ".join(f"{name} {own[name]}" for name in different),
                expected=", ".join(f"{name} {expected[name]}" for name in different) + f", as fold {names[0]}",
                remedy="make the inference sections of their plans.json equal and validate again (--val)",
            )
        if plans.inference != first.inference:
            logger.warning(
                "the plans of %s have other thresholds than those of fold_%s; the latter are used",
                file.parent.name,
                names[0],
            )
    return first


def _digest_of_weights(fold: FoldFolder) -> str:
    """Return the digest of the weights, and warn if they are newer than the candidates."""
    file = fold.final_weights
    if not file.is_file():
        raise DetSeg3DError(f"fold {fold.name} has no weights", file=file, remedy="train the fold to its end")
    trained = file.stat().st_mtime
    candidates = list(fold.validation.candidates_folder.glob("[!.]*.npz"))
    older = sum(path.stat().st_mtime < trained for path in candidates)
    if older:
        logger.warning(
            "fold %s: %d of %d stored candidates are older than the weights; if the fold was trained again, run %s "
            "first",
            fold.name,
            older,
            len(candidates),
            _validation_command(fold),
        )
    return weights_digest(file)


def _true_boxes(fold: FoldFolder) -> list[TrueBoxLesion]:
    file, command = fold.validation.true_boxes, _validation_command(fold)
    if not file.is_file():
        logger.warning("fold %s has no Dice of the true boxes; %s writes it", fold.name, command)
        return []
    return read_true_boxes(file, f"write it again with {command}")
