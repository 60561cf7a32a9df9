"""Whether the values of label files mean the same in all of them, where no dataset.json says what they mean.

Without a dataset.json every value but 0 is taken for a class. That is wrong for instance maps, whose values are numbers
of lesions, and for a mask that is stored as 0 and 255 beside others that are stored as 0 and 1. Both would give figures
that look like those of a bad system.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.labels import Lesions

__all__ = ["CaseValues", "check_not_instances", "components_by_value", "compare_values", "odd_values"]

logger = logging.getLogger(__name__)


_LARGEST_CLASS = 31
"""A value above this is hardly the number of a class, if the others of the set are small."""

_ONE_PIECE = 0.9
"""Share of the values that are one connected component each, from which a file may be an instance map. Some lesions of
an instance map consist of several pieces."""

_FEWEST = 3
"""Values in one file, from which it may be an instance map: two values are most often two classes."""

_MANY = 6
"""So many values in one file are hardly all classes, if other files have fewer, or if no other file has them."""

_OF_ONE_FILE = 0.8
"""Share of different values among all values of all files, from which values are unique to their files."""


@dataclass(frozen=True)
class CaseValues:
    """The values that the label files of a case hold.

    Attributes
    ----------
    case_id : str
    truth, prediction : dict of int to int
        For each value but 0 the number of its 26-connected components. ``prediction`` is empty if the prediction is not
        a mask.
    common_voxels, equal_voxels : int
        Voxels that both files mark, and those of them that have the same value in both.
    """

    case_id: str
    truth: Mapping[int, int]
    prediction: Mapping[int, int]
    common_voxels: int = 0
    equal_voxels: int = 0


def components_by_value(lesions: Lesions, values: Sequence[int]) -> dict[int, int]:
    """Number of components of each value that occurs, from the lesions of a mask and the values of the classes.

    Examples
    --------
    >>> components_by_value(Lesions(np.zeros((1, 1, 1), int), {1: 0, 2: 0, 3: 1}), [7, 9])
    {7: 2, 9: 1}
    """
    counts: dict[int, int] = {}
    for index in lesions.classes.values():
        counts[values[index]] = counts.get(values[index], 0) + 1
    return counts


def compare_values(
    case_id: str, truth: AnyIntArray, prediction: AnyIntArray, components: tuple[Mapping[int, int], Mapping[int, int]]
) -> CaseValues:
    """The values of two masks on one grid; ``components`` are those of the truth and of the prediction."""
    common = (truth != 0) & (prediction != 0)
    equal = int(np.count_nonzero(truth[common] == prediction[common]))
    return CaseValues(case_id, *components, int(np.count_nonzero(common)), equal)


def check_not_instances(cases: Sequence[CaseValues]) -> None:
    """Raise if the files look like instance maps; warn where they may be.

    A file looks like an instance map if it has several values and nearly each of them is one connected component. Of
    masks with classes that may be true, too. So one of these must be seen as well, over all cases:

    - the two sides disagree about the value of most voxels that both mark: lesions are numbered, not named;
    - every file of the side is numbered from 1 without a gap, and their numbers differ;
    - hardly any value occurs in two files: lesions are numbered through all cases.

    Parameters
    ----------
    cases : sequence of CaseValues

    Raises
    ------
    DetSeg3DError
        Its remedy names the flag.
    """
    sides = {"truth": [case.truth for case in cases], "predictions": [case.prediction for case in cases]}
    counts = {len(values) for files in sides.values() for values in files if values}
    common = sum(case.common_voxels for case in cases)
    unequal = common > 0 and 2 * sum(case.equal_voxels for case in cases) < common
    found, possible = [], []
    for side, files in sides.items():
        if not _one_piece_each(files):
            continue
        possible.append(side)
        if unequal or _numbered_from_one(files, counts) or _unique_to_files(files):
            found.append(side)
    if found:
        which = " and ".join(f"the {side}" for side in found)
        flag = "--instances" if len(found) == 2 else f"--instances {found[0]}"
        raise DetSeg3DError(
            f"the files of {which} look like instance maps: every value is one lesion, not one class",
            value=f"up to {max(counts)} values in one file, nearly all of them one connected component",
            expected="masks, whose values are classes",
            remedy=f"give {flag}; if the values are classes, name them in a dataset.json beside the labels",
        )
    if possible and max(counts) >= _MANY:
        logger.warning(
            "the files of %s may be instance maps: there are up to %d values in one file, nearly all of them one "
            "connected component. Each value was taken for a class; if it is a lesion, give --instances",
            " and ".join(f"the {side}" for side in possible),
            max(counts),
        )


def _one_piece_each(files: Sequence[Mapping[int, int]]) -> bool:
    pieces = [count for values in files for count in values.values()]
    most = max((len(values) for values in files), default=0)
    return most >= _FEWEST and sum(count == 1 for count in pieces) >= _ONE_PIECE * len(pieces)


def _numbered_from_one(files: Sequence[Mapping[int, int]], counts: set[int]) -> bool:
    gapless = all(set(values) == set(range(1, len(values) + 1)) for values in files)
    return gapless and len(counts) > 1 and max(map(len, files)) >= _MANY


def _unique_to_files(files: Sequence[Mapping[int, int]]) -> bool:
    used = [values for values in files if values]
    total = sum(map(len, used))
    different = len({value for values in used for value in values})
    return len(used) > 1 and total >= _MANY and different >= _OF_ONE_FILE * total


def odd_values(cases: Sequence[CaseValues]) -> dict[str, DetSeg3DError]:
    """Cases that are stored with other values than the rest of the set, such as 0 and 255 beside 0 and 1.

    Parameters
    ----------
    cases : sequence of CaseValues

    Returns
    -------
    dict of str to DetSeg3DError
        By case: what to say of it.
    """
    problems: dict[str, DetSeg3DError] = {}
    in_truth = {value for case in cases for value in case.truth}
    for case in cases:
        others = [other for other in cases if other is not case and (other.truth or other.prediction)]
        elsewhere = {value for other in others for value in (*other.truth, *other.prediction)}
        predicted_elsewhere = {value for other in others for value in other.prediction}
        for side, values in (("truth", set(case.truth)), ("prediction", set(case.prediction))):
            if not values or not elsewhere or values & elsewhere:
                continue
            unknown = side == "prediction" and len(in_truth) == 1 and predicted_elsewhere == in_truth
            if (unknown and len(values) == 1) or _stored_otherwise(values, elsewhere, len(others)):
                problems[case.case_id] = DetSeg3DError(
                    f"the {side} of this case is stored with other values than the rest of the set",
                    value=sorted(values)[:10],
                    expected=f"some of {sorted(elsewhere)[:10]}, as in the other cases",
                    remedy="store it like the others; if the values are classes, name all classes in a dataset.json "
                    "beside the labels",
                )
                break
    return problems


def _stored_otherwise(values: set[int], elsewhere: set[int], others: int) -> bool:
    """Whether one file's values and those of the other cases, which have none in common, are two ways of storing."""
    if len(values) == len(elsewhere) == 1:
        larger = max(values) > max(elsewhere)
        return max(values | elsewhere) > _LARGEST_CLASS and (larger or others > 1)
    return min(values) > max(_LARGEST_CLASS, 2 * max(elsewhere))
