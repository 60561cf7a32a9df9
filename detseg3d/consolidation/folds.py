"""What the folds of a model left behind for cross-validation, checked: candidates, plans, weights.

Each case counts once, as the fold predicted it that did not see it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg3d.consolidation.cases import CandidateCase
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawDataset
from detseg3d.data.folders import ModelFolder
from detseg3d.inference.model_folder import same_network
from detseg3d.inference.operating_point import weights_digest
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.planning.thresholds import THRESHOLD_FIELDS, ThresholdStage
from detseg3d.system.json_files import read_json

__all__ = ["ValidatedFolds", "load_validated_folds"]

logger = logging.getLogger(__name__)

# Candidates that were stored under different ones of these cannot be pooled.
_STORED_UNDER = (
    *(field.name for field in THRESHOLD_FIELDS if field.stage is ThresholdStage.CANDIDATES),
    "candidate_density",
    "min_candidates",
    "max_candidates",
    "mirror_axes",
)


@dataclass(frozen=True)
class ValidatedFolds:
    """The folds of a model, ready to be pooled.

    Attributes
    ----------
    folds : tuple of str
        Names, each once.
    plans : Plans
        Those of the first fold; the others' give the same network and the same candidates.
    cases : tuple of CandidateCase
        The validation cases of all folds, by name.
    weights : dict of str to str
        SHA-256 of the weights, by the name of the fold's folder.
    true_boxes : tuple of dict
        Of these cases, from :func:`~detseg3d.training.validation.outline_true_boxes`.
    failures : dict of str to str
        Validation cases that cannot be pooled, and why.
    """

    folds: tuple[str, ...]
    plans: Plans
    cases: tuple[CandidateCase, ...]
    weights: dict[str, str]
    true_boxes: tuple[dict[str, Any], ...]
    failures: dict[str, str]


def load_validated_folds(
    dataset: RawDataset, model_folder: Path, folds: Sequence[str | int] | None = None
) -> ValidatedFolds:
    """Collect what the validation of each fold stored.

    Parameters
    ----------
    dataset : RawDataset
        For the labels.
    model_folder : Path
        ``results/DatasetXXX_Name``.
    folds : sequence, optional
        By default all numbered ones that are there.

    Raises
    ------
    DetSeg3DError
        If a fold is not there, not validated to the end or has no stored candidates, if folds share validation cases or
        differ in their plans, or if there is no label of a case.
    """
    names = tuple(dict.fromkeys(map(str, _numbered_folds(model_folder) if folds is None else folds)))
    if "all" in names:
        raise DetSeg3DError(
            "the fold all has seen every case, so it has no case to judge it by",
            file=ModelFolder(model_folder).fold("all").path,
            remedy="name the folds of a cross-validation with -f",
        )
    labels = dataset.label_files
    cases: dict[str, CandidateCase] = {}
    failures: dict[str, str] = {}
    for name in names:
        stored, failed = _cases_of_fold(model_folder, name)
        failures.update(failed)
        for case_id in stored:
            file = ModelFolder(model_folder).fold(name).validation.candidates(case_id)
            label = labels.get(case_id)
            if label is None:
                raise DetSeg3DError("the raw data set has no label of this validation case", file=file, value=case_id)
            if case_id in cases:
                raise DetSeg3DError(
                    f"case {case_id} was validated by fold {cases[case_id].fold} and by fold {name}",
                    file=file,
                    expected="folds whose validation cases differ",
                    remedy="choose folds of one split with -f",
                )
            cases[case_id] = CandidateCase(case_id, name, file, label, dataset.patient_of(case_id))
    left = [case_id for case_id in labels if case_id not in cases and case_id not in failures]
    if folds is None and left:
        logger.warning("%d of %d cases were validated by none of the folds %s", len(left), len(labels), " ".join(names))
    return ValidatedFolds(
        names,
        _common_plans(model_folder, names),
        tuple(cases[case_id] for case_id in sorted(cases)),
        _weights(model_folder, names),
        tuple(row for name in names for row in _true_boxes(model_folder, name) if row["case"] in cases),
        {case_id: message for case_id, message in failures.items() if case_id not in cases},
    )


def _numbered_folds(model_folder: Path) -> list[int]:
    """The folds up to the highest that is there: one that is missing between them is an error, when it is read."""
    numbers = [int(fold.name) for fold in ModelFolder(model_folder).folds() if fold.name.isdecimal()]
    return list(range(max(numbers, default=0) + 1))


def _again(model_folder: Path, name: str) -> str:
    return f"detseg3d_train {model_folder.name} {name} --val"


def _cases_of_fold(model_folder: Path, name: str) -> tuple[list[str], dict[str, str]]:
    """The cases that the fold's last validation predicted, and those that failed.

    What else lies in the folder is from an earlier validation with other splits: the fold may have trained on it since.
    """
    validation = ModelFolder(model_folder).fold(name).validation
    there = {
        path.stem for path in validation.candidates_folder.glob("[!.]*.npz")
    }  # hidden ones were left by a process that was killed
    if not there:
        raise DetSeg3DError(
            f"fold {name} has no stored candidates",
            file=validation.path,
            expected="validation/candidates/CASE.npz for each validation case",
            remedy=f"train it, or write them with {_again(model_folder, name)}; or name the folds that are there with "
            "-f",
        )
    summary = validation.summary
    if not summary.is_file():
        raise DetSeg3DError(
            f"the validation of fold {name} did not come to its end",
            file=summary,
            remedy=f"repeat it with {_again(model_folder, name)}",
        )
    try:
        record = read_json(summary)
        validated = [str(case["case_id"]) for case in record["cases"]]
        problems = {str(entry["case_id"]): str(entry["problem"]) for entry in record["problems"]}
    except (KeyError, TypeError) as error:
        raise DetSeg3DError(
            f"the summary of the validation cannot be understood ({type(error).__name__}: {error})",
            file=summary,
            remedy=f"write it again with {_again(model_folder, name)}",
        ) from error
    stale = sorted(there - set(validated) - set(problems))
    if stale:
        logger.warning(
            "fold %s: stored candidates of %d case(s) are not of its last validation and are left out: %s",
            name,
            len(stale),
            ", ".join(stale[:5]) + (", …" if len(stale) > 5 else ""),
        )
    failed = {case_id: f"validation of fold {name}: {text}" for case_id, text in problems.items()}
    failed |= {case_id: f"fold {name} stored no candidates of it" for case_id in validated if case_id not in there}
    return sorted(set(validated) & there - set(problems)), failed


def _common_plans(model_folder: Path, names: Sequence[str]) -> Plans:
    """The plans of the first fold, if those of the others agree with them in what matters here."""
    files = [ModelFolder(model_folder).fold(name).plans for name in names]
    first, *others = [load_plans(file) for file in files]
    for file, plans in zip(files[1:], others, strict=True):
        remedy = f"train it again with the plans of fold {names[0]}, or leave it out with -f"
        if not same_network(plans, first):
            raise DetSeg3DError("the folds were trained with different plans", file=file, remedy=remedy)
        mine, theirs = (plan.inference.model_dump(include=set(_STORED_UNDER)) for plan in (plans, first))
        if mine != theirs:
            found = ", ".join(f"{key} {mine[key]}" for key in _STORED_UNDER if mine[key] != theirs[key])
            expected = ", ".join(f"{key} {theirs[key]}" for key in _STORED_UNDER if mine[key] != theirs[key])
            raise DetSeg3DError(
                "the candidates of the folds were found under different inference settings",
                file=file,
                value=found,
                expected=f"{expected}, as fold {names[0]}",
                remedy="make the inference sections of their plans.json alike and validate again (--val)",
            )
        if plans.inference != first.inference:
            logger.warning(
                "the plans of %s name other thresholds than those of fold_%s, which are taken as the plan's",
                file.parent.name,
                names[0],
            )
    return first


def _weights(model_folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Digests of the weights that the candidates are of, as far as the times of the files tell."""
    digests = {}
    for name in names:
        fold = ModelFolder(model_folder).fold(name)
        file = fold.final_weights
        if not file.is_file():
            raise DetSeg3DError(f"fold {name} has no weights", file=file, remedy="train it to the end")
        written = file.stat().st_mtime
        candidates = list(fold.validation.candidates_folder.glob("[!.]*.npz"))
        older = sum(path.stat().st_mtime < written for path in candidates)
        if older:
            logger.warning(
                "fold %s: %d of %d stored candidates are older than its weights; if it was trained anew, run %s first",
                name,
                older,
                len(candidates),
                _again(model_folder, name),
            )
        digests[fold.path.name] = weights_digest(file)
    return digests


def _true_boxes(model_folder: Path, name: str) -> list[dict[str, Any]]:
    file = ModelFolder(model_folder).fold(name).validation.true_boxes
    if not file.is_file():
        logger.warning("fold %s has no figures for true boxes; %s writes them", name, _again(model_folder, name))
        return []
    rows = read_json(file)
    fields = {"case": (str,), "voxels": (int,), "dice": (int, float)}
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(type(row.get(name)) in types for name, types in fields.items()) for row in rows
    ):
        raise DetSeg3DError(
            "the figures for true boxes cannot be understood",
            file=file,
            expected=f"a list of entries with {', '.join(sorted(fields))}",
            remedy=f"write them again with {_again(model_folder, name)}",
        )
    return rows
