"""Metrics of one case that need more than counts: surfaces, lesion-wise Dice and component-wise Dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import AnyIntArray, FloatArray, Spacing
from detseg3d.evaluation.definitions.cc_dice import cc_dice_by_lesion
from detseg3d.evaluation.definitions.lesionwise import METASTASES, LesionwiseCounts, LesionwiseRule, lesionwise_scores
from detseg3d.evaluation.definitions.presets import Preset
from detseg3d.evaluation.definitions.surface_elements import area_surface_metrics
from detseg3d.evaluation.definitions.surfaces import surface_metrics
from detseg3d.system.json_records import JsonRecord

__all__ = ["SURFACE_METRICS", "MetricVariants", "OutlineMetrics", "combine_outlines", "measure_outlines"]


SURFACE_METRICS = ("nsd", "hd95_mm", "assd_mm", "nsd_area", "hd95_area_mm")
"""Names of the surface metrics in :class:`OutlineMetrics`. A summary averages them over cases."""


@dataclass(frozen=True)
class MetricVariants(JsonRecord):
    """Variants of the metrics that need more than counts.

    Attributes
    ----------
    tolerance_mm : float
        Distance up to which two surfaces agree, for the normalised surface Dice.
    lesionwise : LesionwiseRule
        Rule of a challenge for the lesion-wise Dice.
    distances : bool
        Also compute distances between surfaces. This takes most of the time.
    preset : Preset or None
        Also compute the metrics of a challenge or of another program under its own rules.
    """

    tolerance_mm: float = 1.0
    lesionwise: LesionwiseRule = METASTASES
    distances: bool = True
    preset: Preset | None = None


@dataclass(frozen=True)
class OutlineMetrics(JsonRecord):
    """Surface metrics and lesion-wise metrics of one class in one case, or of all classes together.

    Attributes
    ----------
    nsd : float
        Normalised surface Dice.
    hd95_mm : float or None
        95th percentile of the Hausdorff distance; ``None`` if distances were not requested.
    lesionwise : LesionwiseCounts
        Sums for the lesion-wise Dice of the BraTS challenges.
    cc_dice : float
        Mean CC-Dice over the true lesions. For all classes together, the mean is over the true lesions of all classes;
        a class that only the prediction has counts as one lesion with the value 0.
    assd_mm : float or None
        Average symmetric surface distance; ``None`` if distances were not requested.
    nsd_area : float
        Normalised surface Dice, weighted by area; see :mod:`~detseg3d.evaluation.definitions.surface_elements`.
    hd95_area_mm : float or None
        HD95, weighted by area; ``None`` if distances were not requested.

    Notes
    -----
    For all classes together, the surface metrics are means over the classes that occur in truth or prediction.
    """

    nsd: float
    hd95_mm: float | None
    lesionwise: LesionwiseCounts
    cc_dice: float
    assd_mm: float | None
    nsd_area: float
    hd95_area_mm: float | None


@dataclass(frozen=True)
class ClassOutlines:
    """Contribution of one class of a case to the metrics of all classes together.

    Attributes
    ----------
    metrics : OutlineMetrics
        Metrics of the class.
    cc_dice : ndarray of float64, shape ``(T,)``
        CC-Dice of each true lesion.
    is_predicted : bool
        True if the prediction has a voxel of this class.
    """

    metrics: OutlineMetrics
    cc_dice: FloatArray
    is_predicted: bool

    @property
    def occurs(self) -> bool:
        """True if truth or prediction have a lesion of the class."""
        return self.is_predicted or len(self.cc_dice) > 0


def measure_outlines(
    truth: AnyIntArray,
    prediction: AnyIntArray,
    spacing: Spacing,
    variants: MetricVariants,
    voxel_volume_mm3: float | None = None,
) -> ClassOutlines:
    """Measure the outlines of one class.

    Parameters
    ----------
    truth, prediction : ndarray of int, shape ``(Z, Y, X)``
        Instance maps of the lesions of this class.
    spacing : tuple of 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    variants : MetricVariants
        Variants of the metrics.
    voxel_volume_mm3 : float, optional
        Volume of one voxel; by default the product of the spacing.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 1, 6), np.int32)
    >>> truth[0, 0, 0:4], prediction[0, 0, 0:2] = 1, 1
    >>> measured = measure_outlines(truth, prediction, (1.0, 1.0, 1.0), MetricVariants()).metrics
    >>> round(measured.cc_dice, 3), round(measured.hd95_mm, 3)
    (0.667, 1.85)
    """
    distances = variants.distances
    surfaces = surface_metrics(truth, prediction, spacing, variants.tolerance_mm)
    by_area = area_surface_metrics(truth, prediction, spacing, variants.tolerance_mm)
    dice = cc_dice_by_lesion(truth, prediction, spacing)
    is_predicted = bool(prediction.any())
    metrics = OutlineMetrics(
        nsd=surfaces.nsd,
        hd95_mm=surfaces.hd95_mm if distances else None,
        lesionwise=lesionwise_scores(truth, prediction, spacing, variants.lesionwise, distances, voxel_volume_mm3),
        cc_dice=float(dice.mean()) if len(dice) else float(not is_predicted),
        assd_mm=surfaces.assd_mm if distances else None,
        nsd_area=by_area.nsd,
        hd95_area_mm=by_area.hd95_mm if distances else None,
    )
    return ClassOutlines(metrics, dice, is_predicted)


def combine_outlines(parts: Sequence[ClassOutlines], distances: bool = True) -> OutlineMetrics:
    """Return the metrics of all classes together.

    Parameters
    ----------
    parts : sequence of ClassOutlines
        Contribution of each class.
    distances : bool, optional
        True if distances were computed.
    """
    occurring = [part.metrics for part in parts if part.occurs]
    # A class that only the prediction has counts as one lesion with CC-Dice 0.
    dice = [part.cc_dice if len(part.cc_dice) or not part.is_predicted else np.zeros(1) for part in parts]
    pooled = np.concatenate([np.zeros(0), *dice])

    def distance(values: Sequence[float | None]) -> float | None:
        return _mean([value for value in values if value is not None], 0.0) if distances else None

    return OutlineMetrics(
        nsd=_mean([entry.nsd for entry in occurring], 1.0),
        hd95_mm=distance([entry.hd95_mm for entry in occurring]),
        lesionwise=sum(
            (part.metrics.lesionwise for part in parts), start=LesionwiseCounts(hd95_sum=0.0 if distances else None)
        ),
        cc_dice=_mean(pooled.tolist(), 1.0),
        assd_mm=distance([entry.assd_mm for entry in occurring]),
        nsd_area=_mean([entry.nsd_area for entry in occurring], 1.0),
        hd95_area_mm=distance([entry.hd95_area_mm for entry in occurring]),
    )


def _mean(values: Sequence[float], without: float) -> float:
    """Return the mean, or ``without`` if there are no values."""
    return float(np.mean(values)) if len(values) else without
