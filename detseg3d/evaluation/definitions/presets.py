"""Metrics of challenges and of other programs, under their own rules.

docs/reference/metrics.md states each rule and its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import AnyIntArray, FloatArray, Spacing
from detseg3d.core.enums import StringEnum
from detseg3d.evaluation.definitions.brats_mets import Mets2026Case, SizeCounts, mets2026_case
from detseg3d.evaluation.definitions.lesionwise import BRATS2024_METS, LesionwiseCounts, lesionwise_scores
from detseg3d.evaluation.definitions.panoptica import PanopticaCase, panoptica_case
from detseg3d.evaluation.definitions.picai import PicaiCase, picai_case, picai_scores
from detseg3d.evaluation.matching import OverlapTable
from detseg3d.system.json_records import JsonRecord

__all__ = ["Preset", "PresetMetric", "PresetInput", "PresetResult", "preset_case", "preset_metrics"]


PresetCase = LesionwiseCounts | Mets2026Case | PicaiCase | PanopticaCase


class Preset(StringEnum):
    """Challenges and programs whose rules are available."""

    BRATS2024_METS = "brats2024-mets"
    BRATS2026_METS = "brats2026-mets"
    PICAI = "picai"
    PANOPTICA = "panoptica"


@dataclass(frozen=True)
class PresetInput:
    """Lesions of one class in one case, on both sides.

    Attributes
    ----------
    truth, prediction : ndarray of int, shape ``(Z, Y, X)``
        Instance maps of the lesions of this class.
    table : OverlapTable
        Overlaps of these lesions.
    scores : ndarray of float64, shape ``(P,)``, or None
        Scores of the predicted lesions.
    spacing : tuple of 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    voxel_volume_mm3 : float
        Volume of one voxel.
    """

    truth: AnyIntArray
    prediction: AnyIntArray
    table: OverlapTable
    scores: FloatArray | None
    spacing: Spacing
    voxel_volume_mm3: float


@dataclass(frozen=True)
class PresetResult(JsonRecord):
    """Counts of one case for the metrics of a preset, by class."""

    preset: Preset
    classes: Mapping[str, PresetCase]


@dataclass(frozen=True)
class PresetMetric(JsonRecord):
    """One metric of a set of cases.

    Attributes
    ----------
    key : str
        Name of the metric in the original program.
    title : str
        Name of the metric in texts.
    value : float or None
        Value of the metric; ``None`` if the metric is undefined.
    """

    key: str
    title: str
    value: float | None


def preset_case(preset: Preset, given: PresetInput) -> PresetCase:
    """Return the counts of one case for the metrics of a preset.

    Some presets compare masks. For these presets, all lesions of the class are one mask.
    """
    if preset is Preset.PICAI:
        return picai_case(given.table, given.scores)
    if preset is Preset.PANOPTICA:
        return panoptica_case(given.truth, given.prediction, given.spacing)
    if preset is Preset.BRATS2026_METS:
        return mets2026_case(given.truth, given.prediction, given.spacing, given.voxel_volume_mm3)
    return lesionwise_scores(
        given.truth, given.prediction, given.spacing, BRATS2024_METS, voxel_volume_mm3=given.voxel_volume_mm3
    )


def preset_metrics(preset: Preset, cases: Sequence[PresetCase | None]) -> tuple[PresetMetric, ...]:
    """Return the metrics of one class.

    Parameters
    ----------
    preset : Preset
        Challenge or program whose metrics are computed.
    cases : sequence of PresetCase or None
        Counts of each case; ``None`` if a case has the class neither in the truth nor in the prediction.

    Examples
    --------
    >>> [(metric.key, metric.value) for metric in preset_metrics(Preset.BRATS2024_METS, [None])]
    [('LesionWise_Score_Dice', 1.0), ('LesionWise_Score_HD95', 0.0)]
    """
    if preset is Preset.PICAI:
        return _picai([case if isinstance(case, PicaiCase) else PicaiCase() for case in cases])
    if preset is Preset.PANOPTICA:
        return _panoptica([case if isinstance(case, PanopticaCase) else PanopticaCase() for case in cases])
    if preset is Preset.BRATS2026_METS:
        return _mets2026([case if isinstance(case, Mets2026Case) else Mets2026Case() for case in cases])
    return _mets2024([case if isinstance(case, LesionwiseCounts) else LesionwiseCounts() for case in cases])


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean over the values that are defined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mets2024(cases: Sequence[LesionwiseCounts]) -> tuple[PresetMetric, ...]:
    return (
        PresetMetric("LesionWise_Score_Dice", "lesion-wise Dice", _mean(case.dice for case in cases)),
        PresetMetric("LesionWise_Score_HD95", "lesion-wise HD95 (mm)", _mean(case.hd95_mm for case in cases)),
    )


def _mets2026(cases: Sequence[Mets2026Case]) -> tuple[PresetMetric, ...]:
    metrics = [
        PresetMetric("lesionwise_dsc_mean", "lesion-wise Dice, from 27 mm³", _mean(case.dice for case in cases)),
        PresetMetric("lesionwise_nsd_mean", "lesion-wise NSD, from 27 mm³", _mean(case.nsd for case in cases)),
        PresetMetric(
            "lesionwise_hd95_mean", "lesion-wise HD95 (mm), from 27 mm³", _mean(case.hd95_mm for case in cases)
        ),
    ]
    for key, title, counts in (
        ("small_instance", "lesions under 27 mm³", [case.small for case in cases]),
        ("large_instance", "lesions from 27 mm³", [case.large for case in cases]),
        ("all_instance", "all lesions", [case.matched for case in cases]),
    ):
        known = [entry for entry in counts if entry is not None]
        metrics += [
            PresetMetric(
                f"{key}_f1", f"F1, {title}", _mean(entry.f1 for entry in known if entry != SizeCounts(0, 0, 0))
            ),
            PresetMetric(f"{key}_tp", f"found per case, {title}", _mean(entry.found for entry in known)),
            PresetMetric(f"{key}_fn", f"missed per case, {title}", _mean(entry.missed for entry in known)),
            PresetMetric(
                f"{key}_fp", f"false positives per case, {title}", _mean(entry.false_positives for entry in known)
            ),
        ]
    return tuple(metrics)


def _picai(cases: Sequence[PicaiCase]) -> tuple[PresetMetric, ...]:
    scores = picai_scores(cases)
    return (
        PresetMetric("score", "ranking score", scores.ranking),
        PresetMetric("AP", "average precision of lesions", scores.average_precision),
        PresetMetric("AUROC", "AUROC of cases", scores.auroc),
    )


def _panoptica(cases: Sequence[PanopticaCase]) -> tuple[PresetMetric, ...]:
    return (
        PresetMetric("pq", "panoptic quality", _mean(case.pq for case in cases)),
        PresetMetric("sq", "segmentation quality (IoU)", _mean(case.sq for case in cases)),
        PresetMetric("rq", "recognition quality", _mean(case.rq for case in cases)),
        PresetMetric("pq_dsc", "panoptic quality with Dice", _mean(case.pq_dice for case in cases)),
        PresetMetric("sq_dsc", "segmentation quality (Dice)", _mean(case.sq_dice for case in cases)),
        PresetMetric("sq_assd", "average surface distance (mm)", _mean(case.sq_masd_mm for case in cases)),
    )
