"""The figures of challenges and of other programs, under their own rules.

docs/reference/metrics.md states each rule and where it is published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.definitions.brats_mets import Mets2026Case, SizeCounts, mets2026_case
from detseg3d.evaluation.definitions.lesionwise import BRATS2024_METS, LesionwiseCounts, lesionwise_scores
from detseg3d.evaluation.definitions.panoptica import PanopticaCase, panoptica_case
from detseg3d.evaluation.definitions.picai import PicaiCase, picai_case, picai_scores
from detseg3d.evaluation.matching import OverlapTable

__all__ = ["Preset", "PresetCase", "PresetFigure", "PresetInput", "PresetResult", "preset_case", "preset_figures"]


PresetCase = LesionwiseCounts | Mets2026Case | PicaiCase | PanopticaCase


class Preset(StrEnum):
    """Whose rules are followed."""

    BRATS2024_METS = "brats2024-mets"
    BRATS2026_METS = "brats2026-mets"
    PICAI = "picai"
    PANOPTICA = "panoptica"


@dataclass(frozen=True)
class PresetInput:
    """One class of one case.

    Attributes
    ----------
    truth, prediction : ndarray of int, shape ``(Z, Y, X)``
        Instance maps of the lesions of this class.
    table : OverlapTable
        Of these lesions.
    scores : ndarray of float64, shape ``(P,)``, or None
        Of the predicted lesions.
    spacing : tuple of 3 floats
        Millimetres ``(z, y, x)``.
    voxel_volume : float
        mm³.
    """

    truth: npt.NDArray[Any]
    prediction: npt.NDArray[Any]
    table: OverlapTable
    scores: FloatArray | None
    spacing: tuple[float, float, float]
    voxel_volume: float


@dataclass(frozen=True)
class PresetResult:
    """What a preset needs to know of one case, by class."""

    preset: Preset
    classes: Mapping[str, PresetCase]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": str(self.preset), "classes": {name: asdict(case) for name, case in self.classes.items()}}


@dataclass(frozen=True)
class PresetFigure:
    """One figure of a set of cases.

    Attributes
    ----------
    key : str
        What the original calls it.
    title : str
    value : float or None
        ``None`` if it is undefined.
    """

    key: str
    title: str
    value: float | None


def preset_case(preset: Preset, given: PresetInput) -> PresetCase:
    """Count what the figures of a preset need. Masks are those of all lesions of the class together."""
    if preset is Preset.PICAI:
        return picai_case(given.table, given.scores)
    if preset is Preset.PANOPTICA:
        return panoptica_case(given.truth, given.prediction, given.spacing)
    if preset is Preset.BRATS2026_METS:
        return mets2026_case(given.truth, given.prediction, given.spacing, given.voxel_volume)
    return lesionwise_scores(
        given.truth, given.prediction, given.spacing, BRATS2024_METS, voxel_volume=given.voxel_volume
    )


def preset_figures(preset: Preset, cases: Sequence[PresetCase | None]) -> tuple[PresetFigure, ...]:
    """The figures of one class.

    Parameters
    ----------
    preset : Preset
    cases : sequence of PresetCase or None
        ``None``: the case has nothing of this class on either side.

    Examples
    --------
    >>> [(figure.key, figure.value) for figure in preset_figures(Preset.BRATS2024_METS, [None])]
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
    """Over those that are defined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mets2024(cases: Sequence[LesionwiseCounts]) -> tuple[PresetFigure, ...]:
    return (
        PresetFigure("LesionWise_Score_Dice", "lesion-wise Dice", _mean(case.dice for case in cases)),
        PresetFigure("LesionWise_Score_HD95", "lesion-wise HD95 (mm)", _mean(case.hd95_mm for case in cases)),
    )


def _mets2026(cases: Sequence[Mets2026Case]) -> tuple[PresetFigure, ...]:
    figures = [
        PresetFigure("lesionwise_dsc_mean", "lesion-wise Dice, from 27 mm³", _mean(case.dice for case in cases)),
        PresetFigure("lesionwise_nsd_mean", "lesion-wise NSD, from 27 mm³", _mean(case.nsd for case in cases)),
        PresetFigure(
            "lesionwise_hd95_mean", "lesion-wise HD95 (mm), from 27 mm³", _mean(case.hd95_mm for case in cases)
        ),
    ]
    for key, title, counts in (
        ("small_instance", "lesions under 27 mm³", [case.small for case in cases]),
        ("large_instance", "lesions from 27 mm³", [case.large for case in cases]),
        ("all_instance", "all lesions", [case.matched for case in cases]),
    ):
        known = [entry for entry in counts if entry is not None]
        figures += [
            PresetFigure(
                f"{key}_f1", f"F1, {title}", _mean(entry.f1 for entry in known if entry != SizeCounts(0, 0, 0))
            ),
            PresetFigure(f"{key}_tp", f"found per case, {title}", _mean(entry.found for entry in known)),
            PresetFigure(f"{key}_fn", f"missed per case, {title}", _mean(entry.missed for entry in known)),
            PresetFigure(
                f"{key}_fp", f"false positives per case, {title}", _mean(entry.false_positives for entry in known)
            ),
        ]
    return tuple(figures)


def _picai(cases: Sequence[PicaiCase]) -> tuple[PresetFigure, ...]:
    scores = picai_scores(cases)
    return (
        PresetFigure("score", "ranking score", scores.ranking),
        PresetFigure("AP", "average precision of lesions", scores.average_precision),
        PresetFigure("AUROC", "AUROC of cases", scores.auroc),
    )


def _panoptica(cases: Sequence[PanopticaCase]) -> tuple[PresetFigure, ...]:
    return (
        PresetFigure("pq", "panoptic quality", _mean(case.pq for case in cases)),
        PresetFigure("sq", "segmentation quality (IoU)", _mean(case.sq for case in cases)),
        PresetFigure("rq", "recognition quality", _mean(case.rq for case in cases)),
        PresetFigure("pq_dsc", "panoptic quality with Dice", _mean(case.pq_dice for case in cases)),
        PresetFigure("sq_dsc", "segmentation quality (Dice)", _mean(case.sq_dice for case in cases)),
        PresetFigure("sq_assd", "average surface distance (mm)", _mean(case.sq_masd_mm for case in cases)),
    )
