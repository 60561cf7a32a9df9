"""Check the values of label files if no dataset.json states their meaning.

Without a dataset.json, every value except 0 counts as a class. This is wrong for instance maps, in which values number
the lesions. It is also wrong if one mask is stored with the values 0 and 255 and all other masks with 0 and 1. In both
cases, the metrics would look like the metrics of a bad system.
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


_MAX_CLASS = 31
"""Largest plausible value of a class, if the other values of the data set are small."""

_MIN_SINGLE_SHARE = 0.9
"""Minimum share of the values of an instance map that are one connected component each. Some lesions of an instance map
consist of several components."""

_MIN_VALUES = 3
"""Minimum number of values in an instance map. A file with two values usually has two classes."""

_MANY_VALUES = 6
"""Minimum number of values in one file that are hardly classes, if other files have fewer or other values."""

_MIN_UNIQUE_SHARE = 0.8
"""Minimum share of different values among the values of all files, if each value occurs in only one file."""


@dataclass(frozen=True)
class CaseValues:
    """Values in the label files of a case.

    Attributes
    ----------
    case_id : str
        Name of the case.
    truth, prediction : dict of int to int
        Number of 26-connected components of each value except 0. ``prediction`` is empty if the prediction is not a
        mask.
    common_voxels, equal_voxels : int
        Number of voxels that both files mark, and number of these voxels with the same value in both files.
    """

    case_id: str
    truth: Mapping[int, int]
    prediction: Mapping[int, int]
    common_voxels: int = 0
    equal_voxels: int = 0


def components_by_value(lesions: Lesions, values: Sequence[int]) -> dict[int, int]:
    """Return the number of components of each value that occurs in a mask.

    Parameters
    ----------
    lesions : Lesions
        Lesions of the mask.
    values : sequence of int
        Value of each class.

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
    """Compare the values of two masks on the same grid. ``components`` are the counts of truth and prediction."""
    common = (truth != 0) & (prediction != 0)
    equal = int(np.count_nonzero(truth[common] == prediction[common]))
    return CaseValues(case_id, *components, int(np.count_nonzero(common)), equal)


def check_not_instances(cases: Sequence[CaseValues]) -> None:
    """Raise an error if the files look like instance maps; log a warning if they may be instance maps.

    A file may be an instance map if it has several values and nearly each value is one connected component. Masks with
    classes can also have this property. Therefore, the error also needs one of these conditions over all cases:

    - Truth and prediction have different values in most voxels that both mark: the values number lesions.
    - Every file of truth or prediction is numbered from 1 without a gap, and the files have different numbers of
      values.
    - Hardly any value occurs in two files: lesions are numbered through all cases.

    Parameters
    ----------
    cases : sequence of CaseValues
        Values of all cases.

    Raises
    ------
    DetSeg3DError
        If the files look like instance maps. The remedy names the command-line flag.
    """
    sides = {"truth": [case.truth for case in cases], "predictions": [case.prediction for case in cases]}
    counts = {len(values) for files in sides.values() for values in files if values}
    common = sum(case.common_voxels for case in cases)
    unequal = common > 0 and 2 * sum(case.equal_voxels for case in cases) < common
    certain, possible = [], []
    for side, files in sides.items():
        if not _are_single_components(files):
            continue
        possible.append(side)
        if unequal or _are_numbered_from_one(files, counts) or _are_unique_to_files(files):
            certain.append(side)
    if certain:
        which = " and ".join(f"the {side}" for side in certain)
        flag = "--instances" if len(certain) == 2 else f"--instances {certain[0]}"
        raise DetSeg3DError(
            f"the files of {which} look like instance maps: every value is one lesion, not one class",
            value=f"up to {max(counts)} values in one file, nearly all of them one connected component",
            expected="masks, whose values are classes",
            remedy=f"give {flag}; if the values are classes, name them in a dataset.json beside the labels",
        )
    if possible and max(counts) >= _MANY_VALUES:
        logger.warning(
            "the files of %s may be instance maps: one file has up to %d values, and nearly all of them are one "
            "connected component. Each value counts as a class; if each value is one lesion, give --instances",
            " and ".join(f"the {side}" for side in possible),
            max(counts),
        )


def _are_single_components(files: Sequence[Mapping[int, int]]) -> bool:
    pieces = [count for values in files for count in values.values()]
    most = max((len(values) for values in files), default=0)
    return most >= _MIN_VALUES and sum(count == 1 for count in pieces) >= _MIN_SINGLE_SHARE * len(pieces)


def _are_numbered_from_one(files: Sequence[Mapping[int, int]], counts: set[int]) -> bool:
    gapless = all(set(values) == set(range(1, len(values) + 1)) for values in files)
    return gapless and len(counts) > 1 and max(map(len, files)) >= _MANY_VALUES


def _are_unique_to_files(files: Sequence[Mapping[int, int]]) -> bool:
    used = [values for values in files if values]
    total = sum(map(len, used))
    different = len({value for values in used for value in values})
    return len(used) > 1 and total >= _MANY_VALUES and different >= _MIN_UNIQUE_SHARE * total


def odd_values(cases: Sequence[CaseValues]) -> dict[str, DetSeg3DError]:
    """Return the cases with other values than the rest of the data set, such as 0 and 255 instead of 0 and 1.

    Parameters
    ----------
    cases : sequence of CaseValues
        Values of all cases.

    Returns
    -------
    dict of str to DetSeg3DError
        Error of each of these cases, by the name of the case.
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
            if (unknown and len(values) == 1) or _are_stored_differently(values, elsewhere, len(others)):
                problems[case.case_id] = DetSeg3DError(
                    f"the {side} of this case is stored with other values than the rest of the set",
                    value=sorted(values)[:10],
                    expected=f"some of {sorted(elsewhere)[:10]}, as in the other cases",
                    remedy="store this case like the other cases; if the values are classes, name all classes in a "
                    "dataset.json beside the labels",
                )
                break
    return problems


def _are_stored_differently(values: set[int], elsewhere: set[int], others: int) -> bool:
    """Return True if the disjoint values of a file and of the other cases are two codings of the same classes."""
    if len(values) == len(elsewhere) == 1:
        larger = max(values) > max(elsewhere)
        return max(values | elsewhere) > _MAX_CLASS and (larger or others > 1)
    return min(values) > max(_MAX_CLASS, 2 * max(elsewhere))
