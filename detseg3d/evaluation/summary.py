"""Cases added up: pooled over all lesions and averaged over cases, by class and by lesion size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from detseg3d.core.size_classes import VOXEL_EDGES
from detseg3d.evaluation.definitions.agreement import volume_agreement
from detseg3d.evaluation.definitions.lesionwise import LesionwiseCounts
from detseg3d.evaluation.definitions.per_case import SURFACE_FIGURES
from detseg3d.evaluation.definitions.presets import preset_figures
from detseg3d.evaluation.limits import reaches
from detseg3d.evaluation.metrics import CRITERIA, CaseMetrics, ClassMetrics, LesionRecord
from detseg3d.evaluation.scores.bootstrap import pooled_share_interval
from detseg3d.evaluation.scores.froc import ScoredCase, score_summary

__all__ = ["VOLUME_EDGES", "recall_by_quantile", "recall_by_size", "summarize"]

VOLUME_EDGES = (10, 30, 100, 300, 1000, 10_000, 100_000)
"""Limits of the size bins in mm³."""


def summarize(
    cases: Sequence[CaseMetrics],
    class_names: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Figures of a set of cases, ready for JSON: no NaN, ``None`` for a mean over nothing, and for all without a case.

    *Pooled* figures add up the lesions (voxels) of all cases first, so a case counts by its lesions; *means over cases*
    weigh each case alike.

    Parameters
    ----------
    cases : sequence of CaseMetrics
        From :func:`~detseg3d.evaluation.case.evaluate_case`.
    class_names : sequence of str, optional
        All classes, also those that no case has; by default the classes that occur.
    patients : dict of str to str, optional
        Patient of each case, for the intervals of the recall by size. By default each case is a patient.

    Returns
    -------
    dict
        ``cases``: their number.

        ``dice``: ``mean`` over the ``cases`` that it counts: all of them, where a case without any lesion in truth and
        prediction has 1.0 (there are ``empty_cases`` of these); ``mean_with_lesions`` over the ``cases_with_lesions``
        that have some in the truth; ``pooled`` over all voxels.

        ``lesions``: for each criterion (``iou_0.1``, ``any``, ``iou_0.5``) the pooled ``recall``, ``precision``, ``f1``
        with their counts, and ``mean_over_cases``: recall over cases with true lesions, precision over cases with
        predicted ones, F1 over those that ``dice`` counts.

        ``false_positives``: number of ``scans``; for each criterion ``total`` and ``per_scan``; the same for the
        ``lesion_free`` scans, those with no true lesion (of the class, within a class). In such a scan every predicted
        lesion is a false positive, whatever the criterion.

        ``panoptic``: pooled ``pq``, ``sq``, ``rq``, and ``mean_over_cases``.

        ``recall_by_size``: rows by ``voxels``, ``mm3`` and ``quantile``; see :func:`recall_by_size`.

        ``volume_agreement``: see :func:`~detseg3d.evaluation.definitions.agreement.volume_agreement`.

        :data:`~detseg3d.evaluation.definitions.per_case.SURFACE_FIGURES` and ``cc_dice`` (means over cases; of the
        former also
        ``…_with_lesions``, over those with lesions in the truth) and ``lesionwise`` (pooled ``dice`` and ``hd95_mm``
        with their counts, and ``dice_mean_over_cases``), if the cases have them.

        ``classes``: the same for each class. A case that has the class neither in the truth nor in the prediction is
        left out of the means over cases, as in nnU-Net: a class that is rare and never found would have a Dice of
        nearly 1. ``class_mean``: means over the classes that occur in the truth (``classes`` of them), each figure of
        the cases that it counts within the class.

        ``scores``: FROC, CPM and average precision, see :func:`~detseg3d.evaluation.scores.froc.score_summary`;
        ``None``
        unless every case has scores.

        ``preset``: ``name`` of the preset and for each of ``classes`` a list of ``key``, ``title`` and ``value`` of its
        figures; ``None`` unless every case has them.
    """
    if class_names is None:
        class_names = list(dict.fromkeys(name for case in cases for name in case.classes))
    result: dict[str, Any] = {"cases": len(cases)}
    overall = [case.overall for case in cases]
    of_case = {case.case_id: (patients or {}).get(case.case_id, case.case_id) for case in cases}
    result |= _group(overall, _truths(cases, None), overall, of_case) | _measured(cases, None)
    result["classes"] = {
        name: _group(of_class, _truths(cases, name), [case for case in of_class if not case.is_empty], of_case)
        | _measured(cases, name)
        for name, of_class in (
            (name, [case.classes.get(name, ClassMetrics()) for case in cases]) for name in class_names
        )
    }
    result["class_mean"] = _class_mean(list(result["classes"].values()))
    result["scores"] = _scores(cases, class_names)
    result["preset"] = _preset(cases, class_names)
    return result


def _preset(cases: Sequence[CaseMetrics], class_names: Sequence[str]) -> dict[str, Any] | None:
    known = [case.preset for case in cases if case.preset is not None]
    if not known or len(known) < len(cases) or len({entry.preset for entry in known}) > 1:
        return None
    preset = known[0].preset
    classes = {
        name: [asdict(figure) for figure in preset_figures(preset, [entry.classes.get(name) for entry in known])]
        for name in class_names
    }
    return {"name": str(preset), "classes": classes}


def _measured(cases: Sequence[CaseMetrics], class_name: str | None) -> dict[str, Any]:
    """Volumes in mm³, and the figures that not every evaluation asks for."""
    metrics = [case.overall if class_name is None else case.classes.get(class_name, ClassMetrics()) for case in cases]
    voxel = [case.voxel_volume for case in cases]
    result: dict[str, Any] = {
        "volume_agreement": volume_agreement(
            [size * part.truth_voxels for size, part in zip(voxel, metrics, strict=True)],
            [size * part.prediction_voxels for size, part in zip(voxel, metrics, strict=True)],
        )
    }
    if not any(case.figures for case in cases):
        return result
    # A case without the class on either side says nothing of it; over all classes it is right to be empty.
    figures = [
        case.figures[class_name or "all"]
        for case, part in zip(cases, metrics, strict=True)
        if case.figures and (class_name is None or not part.is_empty)
    ]
    present = [
        case.figures[class_name or "all"]
        for case, part in zip(cases, metrics, strict=True)
        if case.figures and part.has_lesions
    ]
    pooled = sum((entry.lesionwise for entry in figures), start=LesionwiseCounts())
    return result | {
        **{
            name + suffix: _mean([value for entry in entries if (value := getattr(entry, name)) is not None])
            for name in SURFACE_FIGURES
            for suffix, entries in (("", figures), ("_with_lesions", present))
        },
        "cc_dice": _mean([entry.cc_dice for entry in figures]),
        "lesionwise": {
            "dice": pooled.dice if figures else None,
            "hd95_mm": pooled.hd95_mm if figures else None,
            "truth": pooled.truth,
            "missed": pooled.missed,
            "false_positives": pooled.false_positives,
            "dice_mean_over_cases": _mean([entry.lesionwise.dice for entry in figures]),
        },
    }


def _scores(cases: Sequence[CaseMetrics], class_names: Sequence[str]) -> dict[str, Any] | None:
    if not cases or any("all" not in case.scored for case in cases):
        return None
    # A case without any lesion of a class on either side is a scan of that class all the same.
    nothing = [ScoredCase(case.case_id, *(np.zeros(0) for _ in range(3))) for case in cases]
    groups = {
        name: {
            criterion: [
                case.scored[name][criterion] if name in case.scored else empty
                for case, empty in zip(cases, nothing, strict=True)
            ]
            for criterion in CRITERIA
        }
        for name in ("all", *class_names)
    }
    return score_summary(groups)


def _truths(cases: Sequence[CaseMetrics], class_name: str | None) -> list[LesionRecord]:
    return [
        lesion
        for case in cases
        for lesion in case.lesions
        if lesion.kind == "truth" and class_name in (None, lesion.class_name)
    ]


def _group(
    metrics: Sequence[ClassMetrics],
    lesions: Sequence[LesionRecord],
    counted: Sequence[ClassMetrics],
    patients: Mapping[str, str],
) -> dict[str, Any]:
    """Figures of all classes or of one; means over cases are those of ``counted``, a part of ``metrics``."""
    total = sum(metrics, start=ClassMetrics())
    with_lesions = [case for case in metrics if case.has_lesions]
    lesion_free = [case for case in metrics if not case.has_lesions]
    return {
        "dice": {
            "mean": _mean([case.dice for case in counted]),
            "cases": len(counted),
            "mean_with_lesions": _mean([case.dice for case in with_lesions]),
            "pooled": total.dice if metrics else None,
            "cases_with_lesions": len(with_lesions),
            "empty_cases": sum(case.is_empty for case in metrics),
        },
        "lesions": {name: _detection(counted, total, name) for name in CRITERIA},
        "false_positives": {
            **_false_positives(metrics),
            "lesion_free": {
                **_false_positives(lesion_free),
                "scans_without_false_positives": sum(case.prediction_voxels == 0 for case in lesion_free),
            },
        },
        "panoptic": {
            **_rates(total.panoptic.to_dict(), counted, ("pq", "sq", "rq")),
            "mean_over_cases": {
                name: _mean([getattr(case.panoptic, name) for case in counted]) for name in ("pq", "sq", "rq")
            },
        },
        "recall_by_size": {
            "voxels": recall_by_size(lesions, lambda lesion: lesion.voxels, VOXEL_EDGES, "voxels", patients),
            "mm3": recall_by_size(lesions, lambda lesion: lesion.volume_mm3, VOLUME_EDGES, "mm³", patients),
            "quantile": recall_by_quantile(lesions, patients=patients),
        },
    }


def _detection(counted: Sequence[ClassMetrics], total: ClassMetrics, criterion: str) -> dict[str, Any]:
    counts = [case.detection[criterion] for case in counted]
    return {
        **_rates(total.detection[criterion].to_dict(), counted, ("recall", "precision", "f1")),
        "mean_over_cases": {
            "recall": _mean([case.recall for case in counts if case.truth]),
            "precision": _mean([case.precision for case in counts if case.predictions]),
            "f1": _mean([case.f1 for case in counts]),
        },
    }


def _rates(
    figures: Mapping[str, float], metrics: Sequence[ClassMetrics], names: Sequence[str]
) -> dict[str, float | None]:
    """The ``figures``; without a case those of these names are ``None``, as nobody was right about anything."""
    return {**figures} if metrics else {**figures, **dict.fromkeys(names)}


def _false_positives(metrics: Sequence[ClassMetrics]) -> dict[str, Any]:
    result: dict[str, Any] = {"scans": len(metrics)}
    for name in CRITERIA:
        total = sum(case.detection[name].false_positives for case in metrics)
        result[name] = {"total": total, "per_scan": total / len(metrics) if metrics else None}
    return result


def _class_mean(groups: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    present = [group for group in groups if group["dice"]["cases_with_lesions"]]
    result: dict[str, float | None] = {
        "classes": len(present),
        "dice": _mean([group["dice"]["mean"] for group in present]),
        "dice_with_lesions": _mean([group["dice"]["mean_with_lesions"] for group in present]),
    }
    for name in (*SURFACE_FIGURES, "cc_dice"):
        if any(group.get(name) is not None for group in present):
            result[name] = _mean([group[name] for group in present if group[name] is not None])
    for name in CRITERIA:
        result[f"f1_{name}"] = _mean([group["lesions"][name]["f1"] for group in present])
    result["pq"] = _mean([group["panoptic"]["pq"] for group in present])
    return result


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def recall_by_size(
    lesions: Sequence[LesionRecord],
    size_of: Callable[[LesionRecord], float],
    edges: Sequence[float],
    unit: str,
    patients: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Recall of true lesions in bins of size, half-open: a lesion as large as an edge belongs to the upper bin.

    Parameters
    ----------
    lesions : sequence of LesionRecord
        True lesions.
    size_of : callable
        Size of a lesion.
    edges : sequence of float
        Ascending inner limits; the first bin begins at 0 and the last has no end.
    unit : str
        For the names of the bins.
    patients : dict of str to str, optional
        Patient of each case. By default each case is a patient.

    Returns
    -------
    list of dict
        One row per bin: ``bin`` (its name), ``from``, ``below`` (``None``: no end), ``lesions``, the number and the
        share found under each criterion (``found_iou_0.1``, ``recall_iou_0.1`` and so on; the share is ``None`` in an
        empty bin), the 95 % interval of the share by patients (``low_iou_0.1``, ``high_iou_0.1`` and so on) and the
        mean ``dice`` with the best overlapping prediction (0 for a missed lesion).

    Examples
    --------
    >>> [row["bin"] for row in recall_by_size([], lambda lesion: lesion.voxels, (15, 50), "voxels")]
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
        rows.append({"bin": name, "from": low, "below": high, **_found(members, patients or {})})
    return rows


def recall_by_quantile(
    lesions: Sequence[LesionRecord], parts: int = 4, patients: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Recall of true lesions in ``parts`` equal shares by volume, smallest first; rows as :func:`recall_by_size`.

    Lesions of equal volume are never torn apart, so shares are unequal where many lesions have the same volume, and
    there are fewer of them where all have.
    """
    if not lesions:
        return []
    volumes = np.array([lesion.volume_mm3 for lesion in lesions])
    # The largest lesion of each share but the last: of four lesions, every one is a quarter.
    inner = np.unique(np.quantile(volumes, np.arange(1, parts) / parts, method="inverted_cdf"))
    rows = []
    for part in range(len(inner) + 1):
        inside = np.searchsorted(inner, volumes, side="left") == part
        if not inside.any():
            continue
        members = [lesion for lesion, chosen in zip(lesions, inside, strict=True) if chosen]
        low, high = float(volumes[inside].min()), float(volumes[inside].max())
        name = f"{_number(low)} mm³" if low == high else f"{_number(low)} to {_number(high)} mm³"
        rows.append({"bin": name, "from": low, "to": high, **_found(members, patients or {})})
    return rows


def _found(lesions: Sequence[LesionRecord], patients: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"lesions": len(lesions)}
    owners = [patients.get(lesion.case_id, lesion.case_id) for lesion in lesions]
    for name in CRITERIA:
        found = [float(lesion.matched[name]) for lesion in lesions]
        around = pooled_share_interval(found, np.ones(len(found)), owners)
        row[f"found_{name}"] = sum(lesion.matched[name] for lesion in lesions)
        row[f"recall_{name}"] = _mean(found)
        row[f"low_{name}"], row[f"high_{name}"] = around.low, around.high
    row["dice"] = _mean([lesion.dice for lesion in lesions])
    return row


def _number(value: float) -> str:
    """Short, with thin groups of thousands: 0.35, 12, 1 500."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}".replace(",", " ")
