"""Summarize a set of cases: pool over all lesions and average over cases, by class and by lesion size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from detseg3d.core.size_classes import VOXEL_EDGES
from detseg3d.evaluation.by_class import ByClass
from detseg3d.evaluation.definitions.agreement import volume_agreement
from detseg3d.evaluation.definitions.lesionwise import LesionwiseCounts
from detseg3d.evaluation.definitions.outlines import SURFACE_METRICS, OutlineMetrics
from detseg3d.evaluation.definitions.presets import preset_metrics
from detseg3d.evaluation.limits import reaches
from detseg3d.evaluation.metrics import CaseMetrics, ClassMetrics, Criterion, LesionMetrics
from detseg3d.evaluation.result import (
    ClassMeans,
    DetectionMeans,
    DetectionSummary,
    DiceSummary,
    FalsePositives,
    Group,
    LesionwiseSummary,
    OutlineMeans,
    OutlineSummary,
    PanopticMeans,
    PanopticSummary,
    PresetSummary,
    RecallBySize,
    SizeBin,
    SizeRecall,
    Summary,
)
from detseg3d.evaluation.scores.bootstrap import pooled_share_interval
from detseg3d.evaluation.scores.froc import ScoredCase, ScoreSummary, score_summary

__all__ = ["VOLUME_EDGES", "recall_by_quantile", "recall_by_size", "summarize"]

VOLUME_EDGES = (10, 30, 100, 300, 1000, 10_000, 100_000)
"""Limits of the size bins in mm³."""


def summarize(
    cases: Sequence[CaseMetrics],
    class_names: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> Summary:
    """Return the metrics of a set of cases.

    *Pooled* metrics add up the lesions (or voxels) of all cases first, so that a case counts by its lesions. *Means
    over cases* give each case the same weight.

    Parameters
    ----------
    cases : sequence of CaseMetrics
        From :func:`~detseg3d.evaluation.case.evaluate_case`.
    class_names : sequence of str, optional
        All classes, including classes that no case has. By default, the classes that occur in the cases.
    patients : dict of str to str, optional
        Patient of each case, for the intervals of the recall by size. By default each case is a patient.

    Returns
    -------
    Summary
    """
    if class_names is None:
        class_names = list(dict.fromkeys(name for case in cases for name in case.classes))
    patient_of = {case.case_id: (patients or {}).get(case.case_id, case.case_id) for case in cases}
    classes = {name: _group(cases, name, patient_of) for name in class_names}
    return Summary(
        cases=len(cases),
        overall=_group(cases, None, patient_of),
        classes=classes,
        class_mean=_class_mean(list(classes.values())),
        scores=_scores(cases, class_names),
        preset=_preset(cases, class_names),
    )


def _group(cases: Sequence[CaseMetrics], class_name: str | None, patients: Mapping[str, str]) -> Group:
    """Return the metrics of one class, or of all classes together for ``None``."""
    metrics = [case.overall if class_name is None else case.classes.get(class_name, ClassMetrics()) for case in cases]
    # A case without a class in truth and prediction does not count for the class. Over all classes, every case counts.
    counted = metrics if class_name is None else [entry for entry in metrics if not entry.is_empty]
    lesion_free = [entry for entry in metrics if not entry.has_lesions]
    total = sum(metrics, start=ClassMetrics())
    voxel_volumes = [case.voxel_volume_mm3 for case in cases]
    return Group(
        scans=len(metrics),
        dice=_dice(metrics, counted, total),
        detection={criterion: _detection(metrics, counted, total, criterion) for criterion in Criterion},
        lesion_free=_lesion_free(lesion_free),
        panoptic=_panoptic(counted, total),
        recall_by_size=_recall_by_size(cases, class_name, patients),
        volume_agreement=volume_agreement(
            [volume * entry.truth_voxels for volume, entry in zip(voxel_volumes, metrics, strict=True)],
            [volume * entry.prediction_voxels for volume, entry in zip(voxel_volumes, metrics, strict=True)],
        ),
        outlines=_outlines(cases, metrics, class_name),
    )


def _dice(metrics: Sequence[ClassMetrics], counted: Sequence[ClassMetrics], total: ClassMetrics) -> DiceSummary:
    with_lesions = [entry for entry in metrics if entry.has_lesions]
    return DiceSummary(
        mean=_mean([entry.dice for entry in counted]),
        cases=len(counted),
        mean_with_lesions=_mean([entry.dice for entry in with_lesions]),
        cases_with_lesions=len(with_lesions),
        empty_cases=sum(entry.is_empty for entry in metrics),
        pooled=total.dice if metrics else None,
    )


def _detection(
    metrics: Sequence[ClassMetrics], counted: Sequence[ClassMetrics], total: ClassMetrics, criterion: Criterion
) -> DetectionSummary:
    counts, pooled = [entry.detection[criterion] for entry in counted], total.detection[criterion]
    return DetectionSummary(
        recall=pooled.recall if counted else None,
        precision=pooled.precision if counted else None,
        f1=pooled.f1 if counted else None,
        truth=pooled.truth,
        found=pooled.found,
        predictions=pooled.predictions,
        true_positives=pooled.true_positives,
        false_positives=pooled.false_positives,
        false_positives_per_scan=pooled.false_positives / len(metrics) if metrics else None,
        mean_over_cases=DetectionMeans(
            recall=_mean([entry.recall for entry in counts if entry.truth]),
            precision=_mean([entry.precision for entry in counts if entry.predictions]),
            f1=_mean([entry.f1 for entry in counts]),
        ),
    )


def _lesion_free(metrics: Sequence[ClassMetrics]) -> FalsePositives:
    # Without true lesions every prediction is a false positive, so any criterion gives the same number.
    total = sum(entry.detection[Criterion.ANY].false_positives for entry in metrics)
    return FalsePositives(
        scans=len(metrics),
        total=total,
        per_scan=total / len(metrics) if metrics else None,
        scans_without_false_positives=sum(entry.prediction_voxels == 0 for entry in metrics),
    )


def _panoptic(counted: Sequence[ClassMetrics], total: ClassMetrics) -> PanopticSummary:
    pooled = total.panoptic
    return PanopticSummary(
        pq=pooled.pq if counted else None,
        sq=pooled.sq if counted else None,
        rq=pooled.rq if counted else None,
        matches=pooled.matches,
        iou_sum=pooled.iou_sum,
        mean_over_cases=PanopticMeans(
            pq=_mean([entry.panoptic.pq for entry in counted]),
            sq=_mean([entry.panoptic.sq for entry in counted]),
            rq=_mean([entry.panoptic.rq for entry in counted]),
        ),
    )


def _outlines(
    cases: Sequence[CaseMetrics], metrics: Sequence[ClassMetrics], class_name: str | None
) -> OutlineSummary | None:
    if not any(case.outlines is not None for case in cases):
        return None
    counted: list[OutlineMetrics] = []
    with_lesions: list[OutlineMetrics] = []
    for case, entry in zip(cases, metrics, strict=True):
        if case.outlines is None:
            continue
        if class_name is None:
            counted.append(case.outlines.overall)
        elif not entry.is_empty:
            counted.append(case.outlines.classes[class_name])
        if entry.has_lesions:
            with_lesions.append(counted[-1])
    pooled = sum((entry.lesionwise for entry in counted), start=LesionwiseCounts())
    return OutlineSummary(
        mean=_outline_means(counted),
        mean_with_lesions=_outline_means(with_lesions),
        cc_dice=_mean([entry.cc_dice for entry in counted]),
        lesionwise=LesionwiseSummary(
            dice=pooled.dice if counted else None,
            hd95_mm=pooled.hd95_mm if counted else None,
            truth=pooled.truth,
            missed=pooled.missed,
            false_positives=pooled.false_positives,
            dice_mean_over_cases=_mean([entry.lesionwise.dice for entry in counted]),
        ),
    )


def _outline_means(entries: Sequence[OutlineMetrics | OutlineMeans]) -> OutlineMeans:
    """Return the mean of each surface metric over the entries that have it."""
    return OutlineMeans(
        *(
            _mean([value for entry in entries if (value := getattr(entry, name)) is not None])
            for name in SURFACE_METRICS
        )
    )


def _class_mean(groups: Sequence[Group]) -> ClassMeans:
    present = [group for group in groups if group.dice.cases_with_lesions]
    outlines = [group.outlines for group in present if group.outlines is not None]
    return ClassMeans(
        classes=len(present),
        dice=_mean_of_known([group.dice.mean for group in present]),
        dice_with_lesions=_mean_of_known([group.dice.mean_with_lesions for group in present]),
        f1={criterion: _mean_of_known([group.detection[criterion].f1 for group in present]) for criterion in Criterion},
        pq=_mean_of_known([group.panoptic.pq for group in present]),
        outlines=_outline_means([entry.mean for entry in outlines]) if outlines else None,
        cc_dice=_mean_of_known([entry.cc_dice for entry in outlines]),
    )


def _scores(cases: Sequence[CaseMetrics], class_names: Sequence[str]) -> dict[Criterion, ScoreSummary] | None:
    scored = [case.scored for case in cases if case.scored is not None]
    if not cases or len(scored) < len(cases):
        return None
    result = {}
    for criterion in Criterion:
        # A case without the class still counts as a scan of the class in the false positives per scan.
        classes = {
            name: [
                entry.classes[name][criterion] if name in entry.classes else ScoredCase.empty(case.case_id)
                for case, entry in zip(cases, scored, strict=True)
            ]
            for name in class_names
        }
        result[criterion] = score_summary(ByClass([entry.overall[criterion] for entry in scored], classes))
    return result


def _preset(cases: Sequence[CaseMetrics], class_names: Sequence[str]) -> PresetSummary | None:
    known = [case.preset for case in cases if case.preset is not None]
    if not known or len(known) < len(cases) or len({entry.preset for entry in known}) > 1:
        return None
    preset = known[0].preset
    classes = {name: preset_metrics(preset, [entry.classes.get(name) for entry in known]) for name in class_names}
    return PresetSummary(preset, classes)


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean, or ``None`` if there are no values."""
    return float(np.mean(values)) if len(values) else None


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean over the values that are not ``None``."""
    return _mean([value for value in values if value is not None])


def _recall_by_size(cases: Sequence[CaseMetrics], class_name: str | None, patients: Mapping[str, str]) -> RecallBySize:
    lesions = [
        lesion
        for case in cases
        for lesion in case.lesions
        if lesion.is_true and class_name in (None, lesion.class_name)
    ]
    return RecallBySize(
        voxels=recall_by_size(lesions, lambda lesion: lesion.voxels, VOXEL_EDGES, "voxels", patients),
        mm3=recall_by_size(lesions, lambda lesion: lesion.volume_mm3, VOLUME_EDGES, "mm³", patients),
        quantile=recall_by_quantile(lesions, patients=patients),
    )


def recall_by_size(
    lesions: Sequence[LesionMetrics],
    size_of: Callable[[LesionMetrics], float],
    edges: Sequence[float],
    unit: str,
    patients: Mapping[str, str] | None = None,
) -> tuple[SizeBin, ...]:
    """Return the recall of true lesions in bins of size.

    Bins are half-open: a lesion whose size equals an edge belongs to the upper bin.

    Parameters
    ----------
    lesions : sequence of LesionMetrics
        True lesions.
    size_of : callable
        Function that returns the size of a lesion.
    edges : sequence of float
        Ascending inner limits. The first bin begins at 0 and the last bin has no end.
    unit : str
        Unit, for the names of the bins.
    patients : dict of str to str, optional
        Patient of each case. By default each case is a patient.

    Examples
    --------
    >>> [row.name for row in recall_by_size([], lambda lesion: lesion.voxels, (15, 50), "voxels")]
    ['under 15 voxels', '15 to under 50 voxels', '50 voxels or more']
    """
    limits = [0.0, *edges, None]
    sizes = np.array([size_of(lesion) for lesion in lesions], np.float64)
    rows = []
    for low, high in pairwise(limits):
        assert low is not None
        inside = reaches(sizes, low) if high is None else reaches(sizes, low) & ~reaches(sizes, high)
        members = [lesion for lesion, chosen in zip(lesions, inside, strict=True) if chosen]
        if low == 0:
            name = f"under {_number(high)} {unit}" if high is not None else f"any number of {unit}"
        elif high is None:
            name = f"{_number(low)} {unit} or more"
        else:
            name = f"{_number(low)} to under {_number(high)} {unit}"
        rows.append(_size_bin(name, (low, high), members, patients or {}))
    return tuple(rows)


def recall_by_quantile(
    lesions: Sequence[LesionMetrics], parts: int = 4, patients: Mapping[str, str] | None = None
) -> tuple[SizeBin, ...]:
    """Return the recall of true lesions in equal shares by volume, smallest first.

    Lesions of equal volume stay in one bin. Therefore the shares are unequal if many lesions have the same volume. If
    all lesions have the same volume, there is one bin.

    Parameters
    ----------
    lesions : sequence of LesionMetrics
        True lesions.
    parts : int, optional
        Number of shares.
    patients : dict of str to str, optional
        Patient of each case. By default each case is a patient.
    """
    if not lesions:
        return ()
    volumes = np.array([lesion.volume_mm3 for lesion in lesions])
    # The inverted CDF gives the largest lesion of each share except the last share. With four lesions and four parts,
    # each lesion is one share.
    inner = np.unique(np.quantile(volumes, np.arange(1, parts) / parts, method="inverted_cdf"))
    rows = []
    for part in range(len(inner) + 1):
        inside = np.searchsorted(inner, volumes, side="left") == part
        if not inside.any():
            continue
        members = [lesion for lesion, chosen in zip(lesions, inside, strict=True) if chosen]
        low, high = float(volumes[inside].min()), float(volumes[inside].max())
        name = f"{_number(low)} mm³" if low == high else f"{_number(low)} to {_number(high)} mm³"
        rows.append(_size_bin(name, (low, high), members, patients or {}))
    return tuple(rows)


def _size_bin(
    name: str, limits: tuple[float, float | None], lesions: Sequence[LesionMetrics], patients: Mapping[str, str]
) -> SizeBin:
    patient_of_lesion = [patients.get(lesion.case_id, lesion.case_id) for lesion in lesions]
    detection = {}
    for criterion in Criterion:
        found = [float(lesion.matched[criterion]) for lesion in lesions]
        around = pooled_share_interval(found, np.ones(len(found)), patient_of_lesion)
        detection[criterion] = SizeRecall(int(sum(found)), _mean(found), around.low, around.high)
    return SizeBin(name, *limits, len(lesions), detection, _mean([lesion.dice for lesion in lesions]))


def _number(value: float) -> str:
    """Return a short text with thin groups of thousands: 0.35, 12, 1 500."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}".replace(",", " ")
