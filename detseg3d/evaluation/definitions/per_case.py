"""Figures of one case that need more than counts: surfaces, lesion-wise and component-wise Dice, by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detseg3d.core.arrays import AnyIntArray
from detseg3d.evaluation.definitions.cc_dice import cc_dice_by_lesion
from detseg3d.evaluation.definitions.lesionwise import METASTASES, LesionwiseCounts, LesionwiseRule, lesionwise_scores
from detseg3d.evaluation.definitions.presets import Preset, PresetInput, PresetResult, preset_case
from detseg3d.evaluation.definitions.surface_elements import area_surface_metrics
from detseg3d.evaluation.definitions.surfaces import surface_metrics

__all__ = ["SURFACE_FIGURES", "CaseFigures", "FigureRule", "case_figures", "preset_result"]


SURFACE_FIGURES = ("nsd", "hd95_mm", "assd_mm", "nsd_area", "hd95_area_mm")
"""Figures of the outlines in :class:`CaseFigures`, which are averaged over cases."""


@dataclass(frozen=True)
class FigureRule:
    """What is computed, and by which variant of its definition.

    Attributes
    ----------
    tolerance_mm : float
        Of the normalised surface Dice.
    lesionwise : LesionwiseRule
        The challenge whose lesion-wise Dice is computed.
    hd95 : bool
        Compute distances, too.
    preset : Preset or None
        Also compute the figures of a challenge or of another program under its own rules.
    """

    tolerance_mm: float = 1.0
    lesionwise: LesionwiseRule = METASTASES
    hd95: bool = True
    preset: Preset | None = None


@dataclass(frozen=True)
class CaseFigures:
    """Figures of one class in one case, or of all classes of the case together.

    Attributes
    ----------
    nsd : float
    hd95_mm : float or None
        ``None`` if distances were not asked for.
    lesionwise : LesionwiseCounts
    cc_dice : float
        Mean over the true lesions (of several classes: over all of them, and 0 for each class that is predicted though
        the truth has none of it).
    assd_mm : float or None
    nsd_area : float
    hd95_area_mm : float or None
        Weighted by area, see :mod:`~detseg3d.evaluation.definitions.surface_elements`.

    Notes
    -----
    Of several classes, surface Dice and distances are means over the classes that truth or prediction have.
    """

    nsd: float
    hd95_mm: float | None
    lesionwise: LesionwiseCounts
    cc_dice: float
    assd_mm: float | None
    nsd_area: float
    hd95_area_mm: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "nsd": self.nsd,
            "hd95_mm": self.hd95_mm,
            "lesionwise_dice": self.lesionwise.dice,
            "lesionwise_hd95_mm": self.lesionwise.hd95_mm,
            "cc_dice": self.cc_dice,
            "assd_mm": self.assd_mm,
            "nsd_area": self.nsd_area,
            "hd95_area_mm": self.hd95_area_mm,
        }


def case_figures(
    truth: AnyIntArray,
    prediction: AnyIntArray,
    truth_classes: Mapping[int, int],
    prediction_classes: Mapping[int, int],
    class_names: Sequence[str],
    spacing: Sequence[float],
    rule: FigureRule,
    voxel_volume: float | None = None,
) -> dict[str, CaseFigures]:
    """Figures of each class, and of all together under ``all``.

    Parameters
    ----------
    truth, prediction : ndarray of int, shape ``(Z, Y, X)``
        Instance maps.
    truth_classes, prediction_classes : dict of int to int
        Class index of every lesion, by its value in the map.
    class_names : sequence of str
    spacing : 3 floats
        Millimetres ``(z, y, x)``.
    rule : FigureRule
    voxel_volume : float, optional
        Of one voxel in mm³; by default the product of the spacing.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 1, 6), np.int32)
    >>> truth[0, 0, 0:4], prediction[0, 0, 0:2] = 1, 1
    >>> figures = case_figures(truth, prediction, {1: 0}, {1: 0}, ["lesion"], (1.0, 1.0, 1.0), FigureRule())
    >>> round(figures["all"].cc_dice, 3), round(figures["all"].hd95_mm, 3)
    (0.667, 1.85)
    """
    figures, lesions, occurring = {}, [], []
    for index, name in enumerate(class_names):
        own_truth = _of_class(truth, truth_classes, index)
        own_prediction = _of_class(prediction, prediction_classes, index)
        surfaces = surface_metrics(own_truth, own_prediction, spacing, rule.tolerance_mm)
        by_area = area_surface_metrics(own_truth, own_prediction, spacing, rule.tolerance_mm)
        dice = cc_dice_by_lesion(own_truth, own_prediction, spacing)
        anything = bool(own_prediction.any())
        figures[name] = CaseFigures(
            surfaces.nsd,
            surfaces.hd95_mm if rule.hd95 else None,
            lesionwise_scores(own_truth, own_prediction, spacing, rule.lesionwise, rule.hd95, voxel_volume),
            float(dice.mean()) if len(dice) else float(not anything),
            surfaces.assd_mm if rule.hd95 else None,
            by_area.nsd,
            by_area.hd95_mm if rule.hd95 else None,
        )
        lesions.append(dice if len(dice) or not anything else np.zeros(1))
        if anything or len(dice):
            occurring.append(figures[name])
    pooled = np.concatenate([np.zeros(0), *lesions])

    def mean(values: Sequence[float | None], nothing: float) -> float:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else nothing

    figures["all"] = CaseFigures(
        mean([entry.nsd for entry in occurring], 1.0),
        mean([entry.hd95_mm for entry in occurring], 0.0) if rule.hd95 else None,
        sum(
            (figures[name].lesionwise for name in class_names),
            start=LesionwiseCounts(hd95_sum=0.0 if rule.hd95 else None),
        ),
        float(pooled.mean()) if len(pooled) else 1.0,
        mean([entry.assd_mm for entry in occurring], 0.0) if rule.hd95 else None,
        mean([entry.nsd_area for entry in occurring], 1.0),
        mean([entry.hd95_area_mm for entry in occurring], 0.0) if rule.hd95 else None,
    )
    return figures


def preset_result(
    preset: Preset,
    case: PresetInput,
    truth_classes: AnyIntArray,
    prediction_classes: AnyIntArray,
    class_names: Sequence[str],
) -> PresetResult:
    """What a preset needs to know of a case, class by class.

    Parameters
    ----------
    preset : Preset
    case : PresetInput
        All lesions.
    truth_classes, prediction_classes : ndarray of int64, shape ``(T,)`` and ``(P,)``
        Class index of each lesion of ``case.table``.
    class_names : sequence of str
    """
    of_truth = dict(zip(case.table.truth.ids.tolist(), truth_classes.tolist(), strict=True))
    of_prediction = dict(zip(case.table.prediction.ids.tolist(), prediction_classes.tolist(), strict=True))
    classes = {}
    for index, name in enumerate(class_names):
        found = prediction_classes == index
        own = PresetInput(
            _of_class(case.truth, of_truth, index),
            _of_class(case.prediction, of_prediction, index),
            case.table.select(truth_classes == index, found),
            None if case.scores is None else case.scores[found],
            case.spacing,
            case.voxel_volume,
        )
        classes[name] = preset_case(preset, own)
    return PresetResult(preset, classes)


def _of_class(instances: AnyIntArray, classes: Mapping[int, int], index: int) -> AnyIntArray:
    """The instance map with the lesions of one class only."""
    others = [number for number, own in classes.items() if own != index]
    if not others:
        return instances
    if len(others) == len(classes):
        return np.zeros_like(instances)
    result: AnyIntArray = np.where(np.isin(instances, others), 0, instances)
    return result
