"""Evaluate one case from mask arrays. The connected components of the masks are the lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyIntArray, Spacing
from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.case import as_lesions, evaluate_case
from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.metrics import CaseMetrics

__all__ = ["evaluate_arrays"]


def evaluate_arrays(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    spacing: Sequence[float],
    *,
    classes: Mapping[str, int] | None = None,
    scores: npt.ArrayLike | None = None,
    variants: MetricVariants | None = None,
    case_id: str = "case",
) -> CaseMetrics:
    """Compare a predicted mask with a true mask. The lesions are the 26-connected components of each class.

    For instance maps, in which each value is one lesion, use :func:`~detseg3d.evaluation.case.evaluate_case`.

    Parameters
    ----------
    truth, prediction : array_like of bool or number, shape ``(Z, Y, X)``
        Masks on the same grid; 0 is background. Floating-point arrays are accepted if all values are whole numbers.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    classes : dict of str to int, optional
        Name and value of each class. May be omitted if both masks use the same single value besides 0.
    scores : array_like of float, shape ``(Z, Y, X)``, optional
        Score of each voxel, for example the probability of a lesion. The score of a predicted lesion is the highest
        value inside the lesion. With scores, the result has the records for FROC and average precision.
    variants : MetricVariants, optional
        Variants of the surface and lesion-wise metrics. These metrics are always computed.
    case_id : str, optional
        Name of the case in the result.

    Returns
    -------
    CaseMetrics
        Metrics of the case. :func:`~detseg3d.evaluation.summary.summarize` pools several cases.

    Raises
    ------
    DetSeg3DError
        If the arrays are not two volumes of one shape or contain fractions, NaN or negative numbers, if ``spacing`` is
        not three positive numbers, or if the meaning of the values is ambiguous.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 8, 8, 8), bool)
    >>> truth[1:3, 1:3, 1:3] = truth[5:7, 5:7, 5:7] = True
    >>> prediction[1:3, 1:3, 1:4] = True
    >>> case = evaluate_arrays(truth, prediction, spacing=(3.0, 1.0, 1.0))
    >>> case.overall.detection["any"].recall, round(case.dice, 3), case.outlines.overall.hd95_mm > 1
    (0.5, 0.571, True)
    """
    true_mask, predicted_mask = _whole_numbers(truth, "truth"), _whole_numbers(prediction, "prediction")
    if true_mask.shape != predicted_mask.shape or true_mask.ndim != 3:
        raise DetSeg3DError(
            "truth and prediction are not two volumes of one shape",
            value={"truth": true_mask.shape, "prediction": predicted_mask.shape},
            expected="two arrays (Z, Y, X)",
        )
    checked_spacing = _checked_spacing(spacing)
    names = _classes(_values(true_mask), _values(predicted_mask), classes)
    true_map, true_classes = instances_from_semantic(true_mask, list(names.values()))
    predicted_map, predicted_classes = instances_from_semantic(predicted_mask, list(names.values()))
    return evaluate_case(
        case_id,
        as_lesions(true_map, true_classes),
        as_lesions(predicted_map, predicted_classes, None if scores is None else _highest(scores, predicted_map)),
        checked_spacing,
        class_names=list(names),
        variants=MetricVariants() if variants is None else variants,
    )


def _whole_numbers(values: npt.ArrayLike, side: str) -> AnyIntArray:
    """Return a mask as an integer array. Error messages call the mask ``side``."""
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.all(np.isfinite(array)) or np.any(array != np.round(array)):
            raise DetSeg3DError(
                f"the {side} has values that are not whole numbers",
                expected="a mask: 0 for background, and a whole number for each class",
                remedy="compare probabilities with a threshold first, and give them as scores",
            )
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise DetSeg3DError(
            f"the values of the {side} are not numbers", value=str(array.dtype), expected="integers or bool"
        )
    if array.size and array.dtype.kind == "i" and array.min() < 0:
        raise DetSeg3DError(f"the {side} has negative values", value=int(array.min()), expected="whole numbers from 0")
    return array


def _checked_spacing(spacing: Sequence[float]) -> Spacing:
    values = np.asarray(spacing, np.float64)
    if values.shape != (3,) or not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise DetSeg3DError(
            "the spacing is not three positive numbers", value=values.tolist(), expected="millimetres (z, y, x)"
        )
    z, y, x = values.tolist()
    return z, y, x


def _values(volume: AnyIntArray) -> set[int]:
    return set(np.unique(volume[volume != 0]).tolist())


def _classes(truth: set[int], prediction: set[int], classes: Mapping[str, int] | None) -> dict[str, int]:
    """Return the name and the value of each class. ``classes`` are the names that the caller gave."""
    found = {"truth": truth, "prediction": prediction}
    if classes is None:
        if len(truth | prediction) <= 1:
            return {"lesion": min(truth | prediction, default=1)}
        single = len(truth) == len(prediction) == 1
        raise DetSeg3DError(
            "truth and prediction mark the lesions with different values"
            if single
            else "several values are ambiguous: they may be classes or numbers of lesions",
            value={side: sorted(values)[:10] for side, values in found.items()},
            expected="the same single value besides 0 in truth and prediction",
            remedy='name the classes: classes={"core": 1, "rim": 2}; or use evaluate_case if each value is one lesion',
        )
    named = {str(name): int(value) for name, value in classes.items()}
    if not named or 0 in named.values() or len(set(named.values())) < len(named):
        raise DetSeg3DError("the values of the classes must differ from each other and from 0", value=dict(classes))
    unknown = {side: sorted(values - set(named.values()))[:10] for side, values in found.items()}
    if any(unknown.values()):
        raise DetSeg3DError(
            "the masks have values that belong to no class",
            value={side: values for side, values in unknown.items() if values},
            expected=f"0 or one of {sorted(named.values())}",
            remedy="name all classes; use evaluate_case if each value is one lesion",
        )
    return named


def _highest(scores: npt.ArrayLike, instances: AnyIntArray) -> list[float]:
    """Return the highest score in each of the lesions ``1..N``."""
    values = np.asarray(scores, np.float64)
    if values.shape != instances.shape:
        raise DetSeg3DError(
            "scores and prediction have different shapes", value=values.shape, expected=f"shape {instances.shape}"
        )
    inside = instances > 0
    if not np.all(np.isfinite(values[inside])):
        raise DetSeg3DError("a score inside a predicted lesion is NaN or infinite")
    highest = np.full(int(instances.max(initial=0)) + 1, -np.inf)
    np.maximum.at(highest, instances[inside], values[inside])
    return [float(value) for value in highest[1:]]
