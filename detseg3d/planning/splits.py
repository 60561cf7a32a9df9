"""Make the folds of cross-validation: seeded, balanced in lesion load, each patient in one fold only."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import PreparedFolder
from detseg3d.system.json_files import read_json

__all__ = [
    "FoldCases",
    "load_fold",
    "FOLDS",
    "folds_without_lesions",
    "load_splits",
    "make_holdout_split",
    "make_splits",
    "warn_of_folds_without_lesions",
]

logger = logging.getLogger(__name__)

FOLDS: Final = 5


@dataclass(frozen=True)
class FoldCases:
    """Training and validation cases of a fold.

    Examples
    --------
    >>> FoldCases(("a", "b"), ("c",)).to_json()
    {'train': ['a', 'b'], 'val': ['c']}
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]

    @classmethod
    def from_json(cls, entry: Mapping[str, Sequence[str]]) -> FoldCases:
        """Return the cases of an entry of splits_final.json, which has the form of nnU-Net."""
        return cls(tuple(entry["train"]), tuple(entry["val"]))

    def to_json(self) -> dict[str, list[str]]:
        """Return the entry of splits_final.json."""
        return {"train": list(self.train), "val": list(self.validation)}


def load_splits(file: str | Path) -> list[FoldCases]:
    """Read a splits_final.json and check it, because users may write their own file.

    Returns
    -------
    list of FoldCases
        One entry for each fold.

    Raises
    ------
    DetSeg3DError
        If the file is not a list of folds, if a fold has no training cases or names a case twice, or if training and
        validation share cases. A fold may use all cases on both sides, as :func:`make_splits` does for one patient.
    """
    entries = read_json(file)
    if not isinstance(entries, list) or not entries or not all(_is_split(entry) for entry in entries):
        raise DetSeg3DError(
            "the splits cannot be understood",
            file=file,
            expected='an entry for each fold: [{"train": ["CASE", ...], "val": ["CASE", ...]}, ...]',
            remedy="correct the file, or remove it and run detseg3d_plan_and_preprocess, which makes new splits",
        )
    splits = [FoldCases.from_json(entry) for entry in entries]
    for number, fold in enumerate(splits):
        train, validation = fold.train, fold.validation
        if not train:
            raise DetSeg3DError(
                f"fold {number} has no training cases",
                file=file,
                remedy="add training cases to the fold, or remove the fold",
            )
        for part, cases in (("train", train), ("val", validation)):
            repeated = sorted(case for case, count in Counter(cases).items() if count > 1)
            if repeated:
                raise DetSeg3DError(f'fold {number} names cases twice in "{part}"', file=file, value=repeated[:5])
        shared = sorted(set(train) & set(validation))
        if shared and set(train) != set(validation):
            raise DetSeg3DError(
                f"fold {number} has {len(shared)} case(s) both in training and in validation",
                file=file,
                value=shared[:5],
                expected="each case on one side only, because a network is not tested on its training cases",
                remedy="remove these cases from one side",
            )
    return splits


def load_fold(prepared: PreparedFolder, name: str) -> FoldCases:
    """Return the training and validation cases of a fold.

    Parameters
    ----------
    prepared : PreparedFolder
        Contains the splits.
    name : str
        Number of a split, or ``all``: all cases train, and the same cases validate.

    Returns
    -------
    FoldCases

    Raises
    ------
    DetSeg3DError
        If the fold does not exist, or the splits are damaged.
    """
    splits = load_splits(prepared.splits)
    if name == "all":
        cases = tuple(sorted({case for fold in splits for case in (*fold.train, *fold.validation)}))
        return FoldCases(cases, cases)
    names = [str(index) for index in range(len(splits))]
    if name not in names:  # 00 would be another folder of fold 0
        raise DetSeg3DError(
            "this fold does not exist",
            file=prepared.splits,
            value=name,
            expected=", ".join(names) + " or all",
            remedy="choose one of these folds, or add the fold to the file",
        )
    return splits[int(name)]


def _is_split(split: Any) -> bool:
    parts = [split.get(part) for part in ("train", "val")] if isinstance(split, dict) else [None]
    return all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts)


def make_splits(
    cases: Sequence[str],
    patients: Mapping[str, str],
    loads: Mapping[str, float],
    seed: int = 12345,
    folds: int = FOLDS,
    classes: Mapping[str, frozenset[int]] | None = None,
) -> list[FoldCases]:
    """Make the folds of cross-validation.

    Patients are sorted by lesion load and distributed in rounds: each fold gets one patient of a round in random order,
    and the fold with the fewest cases gets the patient with the most cases. So each fold has its fraction of cases with
    no, few and many lesions, and each fold validates on lesions if there are enough patients with lesions. Then
    patients of one round are exchanged if this distributes the classes of lesions more evenly. If there are fewer
    patients than folds, the number of folds is the number of patients, which is logged.

    Parameters
    ----------
    cases : sequence of str
    patients : mapping
        From case to patient. A case without an entry counts as a separate patient.
    loads : mapping
        From case to lesion load, for example the number of lesions. The default is 0.
    seed : int, optional
    folds : int, optional
    classes : mapping, optional
        From case to the classes of its lesions.

    Returns
    -------
    list of FoldCases
        One entry for each fold, with sorted cases. Every case is in exactly one ``validation``.

        With a single patient there is one fold, which validates on its training cases. A warning states that its
        scores mean nothing.

    Raises
    ------
    DetSeg3DError
        If a case is listed twice.

    Examples
    --------
    >>> splits = make_splits(["a", "b", "c", "d"], {"a": "p", "b": "p"}, {"a": 3, "c": 2}, seed=0, folds=2)
    >>> [list(fold.validation) for fold in splits]
    [['c', 'd'], ['a', 'b']]
    """
    groups = _groups(cases, patients)
    if len(groups) < 2:
        return [_everything(cases)]
    if len(groups) < folds:
        logger.warning("%d folds instead of %d: there are only %d patients", len(groups), folds, len(groups))
        folds = len(groups)
    random = np.random.default_rng(seed)
    sizes = [0] * folds
    rounds: list[dict[int, str]] = []
    ordered = _by_load(groups, loads, random)
    for start in range(0, len(ordered), folds):
        # In a round, the fold with the most cases gets the patient with the fewest cases. Ties are broken at random.
        turn = sorted(random.permutation(folds).tolist(), key=lambda fold: sizes[fold])
        round_groups = sorted(ordered[start : start + folds], key=lambda name: -len(groups[name]))
        rounds.append(dict(zip(turn, round_groups, strict=False)))
        for fold, name in rounds[-1].items():
            sizes[fold] += len(groups[name])
    if classes:
        _spread_classes(rounds, groups, classes, folds)
    return [
        _split(cases, [case for assigned in rounds if fold in assigned for case in groups[assigned[fold]]])
        for fold in range(folds)
    ]


def _spread_classes(
    rounds: Sequence[dict[int, str]],
    groups: Mapping[str, list[str]],
    classes: Mapping[str, frozenset[int]],
    folds: int,
) -> None:
    """Exchange patients of one round between folds, in place, until no exchange distributes the classes more evenly.

    Patients of one round have similar loads, and only patients with the same number of cases are exchanged, so the
    folds keep their sizes and loads. The exchanges minimise the following sum over folds and classes: the squared
    number of patients with the class, divided by the number of all patients with the class. With this division, a rare
    class counts as much as a common one.
    """
    present = {name: frozenset().union(*(classes.get(case, ()) for case in group)) for name, group in groups.items()}
    every = sorted(frozenset().union(*present.values()))
    indicators = {name: np.array([label in labels for label in every], float) for name, labels in present.items()}
    nothing = np.zeros(len(every))
    weight = 1 / np.maximum(sum(indicators.values(), nothing), 1)
    counts, sizes = np.zeros((folds, len(every))), [0] * folds
    for assigned in rounds:
        for fold, name in assigned.items():
            counts[fold] += indicators[name]
            sizes[fold] += len(groups[name])
    improved = True
    while improved:
        improved = False
        for assigned in rounds:
            for first, second in combinations(range(folds), 2):
                own, other = assigned.get(first), assigned.get(second)
                change = (indicators[other] if other else nothing) - (indicators[own] if own else nothing)
                gain = -2 * float((weight * change) @ (counts[first] - counts[second] + change))
                more = (len(groups[other]) if other else 0) - (len(groups[own]) if own else 0)
                # The exchange may also swap the sizes of the two folds, because it does not matter which fold is
                # larger.
                if gain < 1e-9 or more not in (0, sizes[second] - sizes[first]):
                    continue
                for fold, patient in ((first, other), (second, own)):
                    assigned.pop(fold, None)
                    if patient:
                        assigned[fold] = patient
                counts[first] += change
                counts[second] -= change
                sizes[first], sizes[second] = sizes[first] + more, sizes[second] - more
                improved = True


def make_holdout_split(
    cases: Sequence[str],
    patients: Mapping[str, str],
    loads: Mapping[str, float],
    val_share: float = 0.2,
    seed: int = 12345,
) -> list[FoldCases]:
    """Make one seeded split with about ``val_share`` of the cases for validation.

    Patients are not divided, and each side has at least one patient. Lesion loads are balanced as in
    :func:`make_splits`. Both sides have lesions if two patients have lesions.

    Returns
    -------
    list of FoldCases
        One entry.

    Raises
    ------
    DetSeg3DError
        If ``val_share`` is not between 0 and 1, or a case is listed twice.

    Examples
    --------
    >>> [fold] = make_holdout_split([f"case{i}" for i in range(10)], {}, {}, 0.2)
    >>> len(fold.train), len(fold.validation)
    (8, 2)
    """
    if not 0 < val_share < 1:
        raise DetSeg3DError("the fraction of the validation cases is out of range", value=val_share, expected="0 to 1")
    groups = _groups(cases, patients)
    if len(groups) < 2:
        return [_everything(cases)]
    random = np.random.default_rng(seed)
    ordered = _by_load(groups, loads, random)
    wanted = max(1, round(val_share * len(cases)))
    # Equal steps through the sorted loads from a random start give a sample of all loads.
    positions = (np.arange(len(ordered)) + random.random()) * max(1.0, 1 / val_share) % len(ordered)
    held_out: list[str] = []
    taken: set[str] = set()
    for name in [ordered[int(position)] for position in positions] + ordered:
        left = len(groups) - len(taken)
        if name not in taken and left > 1 and len(held_out) + len(groups[name]) <= max(wanted, len(groups[name])):
            taken.add(name)
            held_out += groups[name]
        if len(held_out) >= wanted:
            break
    return [_split(cases, _with_lesions(held_out, groups, loads))]


def _with_lesions(
    held_out: Sequence[str], groups: Mapping[str, list[str]], loads: Mapping[str, float]
) -> Sequence[str]:
    """Return the held-out cases. If one side would have no lesion, one patient is exchanged first."""
    has_lesions = {name: any(loads.get(case, 0.0) > 0 for case in group) for name, group in groups.items()}
    held = set(held_out)
    inside = [name for name, group in groups.items() if held.issuperset(group)]
    outside = [name for name, group in groups.items() if not held.issuperset(group)]
    for without, other in ((inside, outside), (outside, inside)):
        if any(has_lesions[name] for name in without) or sum(has_lesions[name] for name in other) < 2:
            continue
        # A patient of medium load moves to the other side, in exchange for a patient with a similar number of cases.
        ranked = sorted(
            (name for name in other if has_lesions[name]),
            key=lambda name: sum(loads.get(case, 0.0) for case in groups[name]),
        )
        moved_in = ranked[len(ranked) // 2]
        moved_out = min(without, key=lambda name: abs(len(groups[name]) - len(groups[moved_in])))
        other[other.index(moved_in)], without[without.index(moved_out)] = moved_out, moved_in
    return [case for name in inside for case in groups[name]]


def folds_without_lesions(sides: Sequence[Sequence[str]], loads: Mapping[str, float]) -> list[int]:
    """Return the numbers of the folds without a lesion, given the training or the validation cases of every fold.

    Examples
    --------
    >>> folds_without_lesions([["b"], ["a"]], {"a": 1.0, "b": 0.0})
    [0]
    """
    return [
        number for number, cases in enumerate(sides) if cases and not any(loads.get(case, 0.0) > 0 for case in cases)
    ]


def warn_of_folds_without_lesions(splits: Sequence[FoldCases], loads: Mapping[str, float]) -> None:
    """Warn of folds that train or validate on no lesion, if the data set has lesions."""
    if not any(load > 0 for load in loads.values()):
        return
    validated = folds_without_lesions([fold.validation for fold in splits], loads)
    trained = folds_without_lesions([fold.train for fold in splits], loads)
    if validated:
        logger.warning(
            "%s %s no lesion, because too few patients have lesions. Recall and F1 are undefined there",
            _named(validated),
            "validates on" if len(validated) == 1 else "validate on",
        )
    if trained:
        logger.warning(
            "%s %s on no lesion and cannot learn to find lesions",
            _named(trained),
            "trains" if len(trained) == 1 else "train",
        )


def _named(folds: Sequence[int]) -> str:
    return f"fold{'' if len(folds) == 1 else 's'} {', '.join(map(str, folds))}"


def _everything(cases: Sequence[str]) -> FoldCases:
    logger.warning(
        "all %d case(s) belong to one patient. Training and validation use the same cases, so scores mean nothing",
        len(cases),
    )
    return FoldCases(tuple(sorted(cases)), tuple(sorted(cases)))


def _groups(cases: Sequence[str], patients: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the cases of each patient; patients and cases are sorted."""
    if len(set(cases)) != len(cases):
        raise DetSeg3DError(
            "a case is listed twice", value=sorted(case for case, count in Counter(cases).items() if count > 1)
        )
    groups: dict[str, list[str]] = {}
    for case in sorted(cases):
        groups.setdefault(patients.get(case, case), []).append(case)
    return dict(sorted(groups.items()))


def _by_load(groups: Mapping[str, list[str]], loads: Mapping[str, float], random: np.random.Generator) -> list[str]:
    """Return the patients by mean lesion load per case, highest first, ties in random order."""
    patients = list(groups)
    names = [patients[index] for index in random.permutation(len(patients))]
    return sorted(names, key=lambda name: -float(np.mean([loads.get(case, 0.0) for case in groups[name]])))


def _split(cases: Sequence[str], held_out: Sequence[str]) -> FoldCases:
    return FoldCases(tuple(sorted(set(cases) - set(held_out))), tuple(sorted(held_out)))
