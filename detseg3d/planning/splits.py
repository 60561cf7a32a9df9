"""Folds for cross-validation: seeded, never splitting a patient, balanced in lesion load."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.json_files import read_json

__all__ = [
    "FOLDS",
    "Split",
    "folds_without_lesions",
    "load_splits",
    "make_holdout_split",
    "make_splits",
    "warn_of_folds_without_lesions",
]

logger = logging.getLogger(__name__)

FOLDS: Final = 5

Split = dict[str, list[str]]


def load_splits(file: str | Path) -> list[Split]:
    """Read a splits_final.json and check it, for people write their own.

    Raises
    ------
    DetSeg3DError
        If it is no list of folds, a fold has nothing to train on or names a case twice, or if training and validation
        share cases. (All of them, as :func:`make_splits` has it for a single patient, is no oversight and passes.)
    """
    splits = read_json(file)
    if not isinstance(splits, list) or not splits or not all(_is_split(split) for split in splits):
        raise DetSeg3DError(
            "the splits cannot be understood",
            file=file,
            expected='a list with an entry for each fold: [{"train": ["CASE", ...], "val": ["CASE", ...]}, ...]',
            remedy="mend the file, or remove it and run detseg3d_plan_and_preprocess to have new splits made",
        )
    for number, split in enumerate(splits):
        train, val = split["train"], split["val"]
        if not train:
            raise DetSeg3DError(f"fold {number} has no training cases", file=file, remedy="add some, or remove it")
        for part, cases in (("train", train), ("val", val)):
            twice = sorted(case for case, count in Counter(cases).items() if count > 1)
            if twice:
                raise DetSeg3DError(f'fold {number} names cases twice in "{part}"', file=file, value=twice[:5])
        shared = sorted(set(train) & set(val))
        if shared and set(train) != set(val):
            raise DetSeg3DError(
                f"fold {number} has {len(shared)} case(s) both in training and in validation",
                file=file,
                value=shared[:5],
                expected="no case on both sides: its scores would be those of cases that were learnt by heart",
                remedy="remove these cases from one side",
            )
    return splits


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
) -> list[Split]:
    """Folds for cross-validation.

    Patients are sorted by lesion load and dealt out in rounds, one to each fold in random order, the fold with the
    fewest cases first: each fold gets its share of empty, sparse and crowded cases, and each validates on lesions if
    as many patients have some. Patients of one round change places where that spreads the classes of lesions more
    evenly. With fewer patients than folds there are as many folds as patients (leave one out), which is logged.

    Parameters
    ----------
    cases : sequence of str
    patients : mapping
        From case to patient; a case that is not named is a patient of its own.
    loads : mapping
        From case to lesion load, for example the number of lesions; 0 by default.
    seed : int, optional
    folds : int, optional
    classes : mapping, optional
        From case to the classes of its lesions.

    Returns
    -------
    list of dict
        Per fold ``{"train": [...], "val": [...]}``, sorted. Every case is in exactly one ``val``.

        With a single patient there is nothing to hold out: the one fold validates on its training cases, and a
        warning says that its scores mean nothing.

    Examples
    --------
    >>> splits = make_splits(["a", "b", "c", "d"], {"a": "p", "b": "p"}, {"a": 3, "c": 2}, seed=0, folds=2)
    >>> [sorted(split["val"]) for split in splits]
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
        # Within a round the fullest fold gets the patient with the fewest cases; ties are broken at random.
        turn = sorted(random.permutation(folds).tolist(), key=lambda fold: sizes[fold])
        round_groups = sorted(ordered[start : start + folds], key=lambda name: -len(groups[name]))
        rounds.append(dict(zip(turn, round_groups, strict=False)))
        for fold, name in rounds[-1].items():
            sizes[fold] += len(groups[name])
    if classes:
        _spread_classes(rounds, groups, classes, folds)
    return [
        _split(cases, [case for dealt in rounds if fold in dealt for case in groups[dealt[fold]]])
        for fold in range(folds)
    ]


def _spread_classes(
    rounds: Sequence[dict[int, str]],
    groups: Mapping[str, list[str]],
    classes: Mapping[str, frozenset[int]],
    folds: int,
) -> None:
    """Exchange patients of one round between folds, in place, until no exchange spreads the classes more evenly.

    Patients of one round have like loads, and only those with as many cases change places: the folds keep their sizes
    and loads. What becomes smaller is the sum over folds and classes of the squared number of patients with the
    class, divided by their number in all, so that a rare class counts as much as a common one.
    """
    present = {name: frozenset().union(*(classes.get(case, ()) for case in group)) for name, group in groups.items()}
    every = sorted(frozenset().union(*present.values()))
    has = {name: np.array([label in found for label in every], float) for name, found in present.items()}
    nothing = np.zeros(len(every))
    weight = 1 / np.maximum(sum(has.values(), nothing), 1)
    counts, sizes = np.zeros((folds, len(every))), [0] * folds
    for dealt in rounds:
        for fold, name in dealt.items():
            counts[fold] += has[name]
            sizes[fold] += len(groups[name])
    improved = True
    while improved:
        improved = False
        for dealt in rounds:
            for first, second in combinations(range(folds), 2):
                one, other = dealt.get(first), dealt.get(second)
                change = (has[other] if other else nothing) - (has[one] if one else nothing)
                gain = -2 * float((weight * change) @ (counts[first] - counts[second] + change))
                more = (len(groups[other]) if other else 0) - (len(groups[one]) if one else 0)
                # Sizes may change places, too: of two folds that differ by one case either may be the larger.
                if gain < 1e-9 or more not in (0, sizes[second] - sizes[first]):
                    continue
                for fold, patient in ((first, other), (second, one)):
                    dealt.pop(fold, None)
                    if patient:
                        dealt[fold] = patient
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
) -> list[Split]:
    """One seeded split: about ``val_share`` of the cases for validation, at least one patient on either side.

    Patients and lesion load are respected as in :func:`make_splits`. Both sides have lesions if two patients have some.

    Examples
    --------
    >>> [split] = make_holdout_split([f"case{i}" for i in range(10)], {}, {}, 0.2)
    >>> len(split["train"]), len(split["val"])
    (8, 2)
    """
    if not 0 < val_share < 1:
        raise DetSeg3DError("the share of the validation cases must lie between 0 and 1", value=val_share)
    groups = _groups(cases, patients)
    if len(groups) < 2:
        return [_everything(cases)]
    random = np.random.default_rng(seed)
    ordered = _by_load(groups, loads, random)
    wanted = max(1, round(val_share * len(cases)))
    # Walking through the loads at equal distances from a random start gives a sample of all loads.
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
    """Cases held out, one patient exchanged for another if else one side would have no lesion."""
    sick = {name: any(loads.get(case, 0.0) > 0 for case in group) for name, group in groups.items()}
    inside = [name for name, group in groups.items() if set(group) <= set(held_out)]
    outside = [name for name in groups if name not in inside]
    for lacking, other in ((inside, outside), (outside, inside)):
        if any(sick[name] for name in lacking) or sum(sick[name] for name in other) < 2:
            continue
        # Of the patients with lesions one of middling load comes, for one with as many cases if there is one.
        ranked = sorted(
            (name for name in other if sick[name]), key=lambda name: sum(loads.get(case, 0.0) for case in groups[name])
        )
        comes = ranked[len(ranked) // 2]
        leaves = min(lacking, key=lambda name: abs(len(groups[name]) - len(groups[comes])))
        other[other.index(comes)], lacking[lacking.index(leaves)] = leaves, comes
    return [case for name in inside for case in groups[name]]


def folds_without_lesions(splits: Sequence[Split], loads: Mapping[str, float], part: str = "val") -> list[int]:
    """Numbers of the folds that have no lesion in ``part``, "val" or "train".

    Examples
    --------
    >>> folds_without_lesions([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}], {"a": 1.0, "b": 0.0})
    [0]
    """
    return [
        number
        for number, split in enumerate(splits)
        if split[part] and not any(loads.get(case, 0.0) > 0 for case in split[part])
    ]


def warn_of_folds_without_lesions(splits: Sequence[Split], loads: Mapping[str, float]) -> None:
    """Log which folds train or validate on no lesion, unless no case has one."""
    if not any(load > 0 for load in loads.values()):
        return
    validated, trained = (folds_without_lesions(splits, loads, part) for part in ("val", "train"))
    if validated:
        logger.warning(
            "%s %s no lesion: too few patients have some. Neither recall nor F1 can be stated there",
            _named(validated),
            "validates on" if len(validated) == 1 else "validate on",
        )
    if trained:
        logger.warning(
            "%s %s on no lesion, and can learn to find none",
            _named(trained),
            "trains" if len(trained) == 1 else "train",
        )


def _named(folds: Sequence[int]) -> str:
    return f"fold{'' if len(folds) == 1 else 's'} {', '.join(map(str, folds))}"


def _everything(cases: Sequence[str]) -> Split:
    logger.warning(
        "all %d case(s) are of one patient: training and validation use the same cases, validation scores mean nothing",
        len(cases),
    )
    return {"train": sorted(cases), "val": sorted(cases)}


def _groups(cases: Sequence[str], patients: Mapping[str, str]) -> dict[str, list[str]]:
    """Cases of each patient, both sorted."""
    if len(set(cases)) != len(cases):
        raise DetSeg3DError("a case is listed twice", value=sorted(c for c in set(cases) if list(cases).count(c) > 1))
    groups: dict[str, list[str]] = {}
    for case in sorted(cases):
        groups.setdefault(patients.get(case, case), []).append(case)
    return dict(sorted(groups.items()))


def _by_load(groups: Mapping[str, list[str]], loads: Mapping[str, float], random: np.random.Generator) -> list[str]:
    """Patients by mean lesion load per case, the highest first, ties in random order."""
    names = [list(groups)[index] for index in random.permutation(len(groups))]
    return sorted(names, key=lambda name: -float(np.mean([loads.get(case, 0.0) for case in groups[name]])))


def _split(cases: Sequence[str], held_out: Sequence[str]) -> Split:
    return {"train": sorted(set(cases) - set(held_out)), "val": sorted(held_out)}
