"""The figures of a report: their names, where they stand in a result, and what they mean in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detseg3d.evaluation.remarks import measured
from detseg3d.reporting.html.formatting import interval

__all__ = ["CRITERION_NAMES", "FIGURES", "GROUPS", "Estimate", "Evaluated", "Figure", "dig", "estimate"]

CRITERION_NAMES = {"iou_0.1": "IoU ≥ 0.1", "any": "any overlap", "iou_0.5": "IoU ≥ 0.5"}


@dataclass(frozen=True)
class Figure:
    """One headline figure.

    Attributes
    ----------
    key : str
        In ``result["intervals"]``; see :func:`~detseg3d.evaluation.intervals.weighted_figures`.
    name : str
    group : str
        One of :data:`GROUPS`.
    meaning : str
        What it says, in one line, for people who read scans.
    path : tuple of str
        Where its value stands in ``result["summary"]``.
    digits : int
        After the point.
    share : bool
        Between 0 and 1.
    needs : str
        What must exist for the figure to say anything: ``truth``, ``predictions``, ``either`` or nothing. The
        definitions give 0 or 1 without; a reader would take that for a measurement.
    lower_is_better : bool or None
        ``None``: neither direction is better.
    """

    key: str
    name: str
    group: str
    meaning: str
    path: tuple[str, ...]
    digits: int = 2
    share: bool = True
    needs: str = ""
    lower_is_better: bool | None = False


@dataclass(frozen=True)
class Evaluated:
    """The result of one system, or of several on the same cases.

    Attributes
    ----------
    results : dict of str to dict
        What :func:`~detseg3d.evaluation.folders.evaluate_folders` returned, by the name of the system; the name is
        empty if there is but one.
    comparisons : sequence of dict
        ``first``, ``second`` and ``figures``, see :func:`~detseg3d.evaluation.intervals.paired_comparison`.
    """

    results: Mapping[str, Mapping[str, Any]]
    comparisons: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Evaluated:
        """From either form of a result."""
        if "systems" in result:
            return cls(result["systems"], result.get("comparisons") or ())
        return cls({"": result})

    @property
    def several(self) -> bool:
        """Whether there is more than one system."""
        return len(self.results) > 1

    @property
    def first(self) -> Mapping[str, Any]:
        """The result of the first system."""
        return next(iter(self.results.values()))


@dataclass(frozen=True)
class Estimate:
    """A metric of one system, its interval, and its number of scans; all ``None`` if the metric is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    scans: int | None = None

    def interval(self, digits: int) -> str:
        """Return the interval as text; empty without a value."""
        return "" if self.value is None else interval(self.low, self.high, digits)


_FINDING, _BOTH, _OUTLINE, _RANKING = (
    "Finding lesions",
    "Finding and outlining",
    "Outlines and volumes",
    "Ranking by score",
)
GROUPS = (_FINDING, _BOTH, _OUTLINE, _RANKING)

FIGURES = (
    Figure(
        "f1_iou_0.1",
        "Lesion F1 at IoU ≥ 0.1",
        _FINDING,
        "Recall and precision in one: their harmonic mean. Each true lesion needs a prediction of its own that covers "
        "roughly the same place.",
        ("lesions", "iou_0.1", "f1"),
        needs="either",
    ),
    Figure(
        "recall_iou_0.1",
        "Recall (sensitivity) at IoU ≥ 0.1",
        _FINDING,
        "Share of the true lesions that have such a prediction.",
        ("lesions", "iou_0.1", "recall"),
        needs="truth",
    ),
    Figure(
        "precision_iou_0.1",
        "Precision at IoU ≥ 0.1",
        _FINDING,
        "Share of the predicted lesions that belong to a true one.",
        ("lesions", "iou_0.1", "precision"),
        needs="predictions",
    ),
    Figure(
        "fp_per_scan_iou_0.1",
        "False positives per scan at IoU ≥ 0.1",
        _FINDING,
        "Predicted lesions that belong to no true one, per scan. Lower is better.",
        ("false_positives", "iou_0.1", "per_scan"),
        share=False,
        lower_is_better=True,
    ),
    Figure(
        "fp_per_lesion_free_scan",
        "False positives per lesion-free scan",
        _FINDING,
        "The same, counted only on scans without any true lesion. Lower is better.",
        ("false_positives", "lesion_free", "iou_0.1", "per_scan"),
        share=False,
        lower_is_better=True,
    ),
    Figure(
        "f1_any",
        "Lesion F1 at any overlap",
        _FINDING,
        "A lesion counts as found if a prediction touches it in one voxel. Masks that are too large raise this figure.",
        ("lesions", "any", "f1"),
        needs="either",
    ),
    Figure(
        "recall_any",
        "Recall at any overlap",
        _FINDING,
        "Share of the true lesions that a prediction touches in at least one voxel.",
        ("lesions", "any", "recall"),
        needs="truth",
    ),
    Figure(
        "precision_any",
        "Precision at any overlap",
        _FINDING,
        "Share of the predicted lesions that touch a true one.",
        ("lesions", "any", "precision"),
        needs="predictions",
    ),
    Figure(
        "fp_per_scan_any",
        "False positives per scan at any overlap",
        _FINDING,
        "Predicted lesions that touch no true one, per scan. Lower is better.",
        ("false_positives", "any", "per_scan"),
        share=False,
        lower_is_better=True,
    ),
    Figure(
        "f1_iou_0.5",
        "Lesion F1 at IoU ≥ 0.5",
        _BOTH,
        "Likewise, and the outline must be about right. Strict for lesions of a few voxels.",
        ("lesions", "iou_0.5", "f1"),
        needs="either",
    ),
    Figure(
        "pq",
        "Panoptic quality",
        _BOTH,
        "F1 of the matches with IoU above 0.5, times their mean IoU.",
        ("panoptic", "pq"),
        needs="either",
    ),
    Figure(
        "lesionwise_dice",
        "Lesion-wise Dice",
        _BOTH,
        "Mean Dice over lesions; a missed lesion and a false positive count 0. As BraTS has it: lesions are components "
        "of the dilated mask, whatever its instances.",
        ("lesionwise", "dice"),
    ),
    Figure(
        "cc_dice",
        "CC-Dice",
        _BOTH,
        "Dice in the surroundings of each true lesion, averaged: a small lesion counts as much as a large one.",
        ("cc_dice",),
    ),
    Figure(
        "dice",
        "Dice",
        _OUTLINE,
        "Voxel overlap per scan, averaged; a lesion-free scan without a prediction counts 1.",
        ("dice", "mean"),
        needs="either",
    ),
    Figure(
        "dice_with_lesions",
        "Dice, scans with lesions",
        _OUTLINE,
        "The same without the lesion-free scans.",
        ("dice", "mean_with_lesions"),
        needs="truth",
    ),
    Figure(
        "nsd", "Surface Dice (NSD)", _OUTLINE, "Share of the two surfaces that agree within the tolerance.", ("nsd",)
    ),
    Figure(
        "nsd_with_lesions",
        "Surface Dice, scans with lesions",
        _OUTLINE,
        "The same without the lesion-free scans.",
        ("nsd_with_lesions",),
    ),
    Figure(
        "hd95_mm",
        "HD95 (mm)",
        _OUTLINE,
        "95th percentile of the distance between the surfaces; the volume's diagonal where one side is empty, 0 where "
        "both are. Lower is better.",
        ("hd95_mm",),
        digits=1,
        share=False,
        lower_is_better=True,
    ),
    Figure(
        "hd95_mm_with_lesions",
        "HD95 (mm), scans with lesions",
        _OUTLINE,
        "The same without the lesion-free scans, where one false positive costs the diagonal. Lower is better.",
        ("hd95_mm_with_lesions",),
        digits=1,
        share=False,
        lower_is_better=True,
    ),
    Figure(
        "assd_mm",
        "ASSD (mm)",
        _OUTLINE,
        "Mean distance between the surfaces; empty sides as for HD95. Lower is better.",
        ("assd_mm",),
        digits=1,
        share=False,
        lower_is_better=True,
    ),
    Figure(
        "nsd_area",
        "Surface Dice, by area",
        _OUTLINE,
        "Surface Dice where every piece of surface counts by its area, as in the library surface-distance.",
        ("nsd_area",),
    ),
    Figure(
        "hd95_area_mm",
        "HD95 (mm), by area",
        _OUTLINE,
        "HD95 where every piece of surface counts by its area. Lower is better.",
        ("hd95_area_mm",),
        digits=1,
        share=False,
        lower_is_better=True,
    ),
    Figure(
        "volume_concordance",
        "Volume agreement",
        _OUTLINE,
        "Lin's concordance of predicted and true lesion volume per scan; 1 means equal volumes.",
        ("volume_agreement", "concordance"),
        share=False,
    ),
    Figure(
        "volume_bias",
        "Volume bias (mm³)",
        _OUTLINE,
        "Predicted minus true lesion volume per scan, on average. Nearer to 0 is better.",
        ("volume_agreement", "bias_mm3"),
        digits=0,
        share=False,
        lower_is_better=None,
    ),
    Figure(
        "ap_iou_0.1",
        "Average precision at IoU ≥ 0.1",
        _RANKING,
        "Area under the precision–recall curve: do true lesions have higher scores than false ones?",
        ("scores", "iou_0.1", "average_precision"),
        needs="truth",
    ),
    Figure(
        "ap_any",
        "Average precision at any overlap",
        _RANKING,
        "The same, where a prediction is right if it touches a lesion.",
        ("scores", "any", "average_precision"),
        needs="truth",
    ),
    Figure(
        "cpm_iou_0.1",
        "CPM at IoU ≥ 0.1",
        _RANKING,
        "Mean recall at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan (LUNA16).",
        ("scores", "iou_0.1", "cpm"),
        needs="truth",
    ),
    Figure(
        "cpm_any",
        "CPM at any overlap",
        _RANKING,
        "The same at any overlap.",
        ("scores", "any", "cpm"),
        needs="truth",
    ),
)


def estimate(result: Mapping[str, Any], figure: Figure) -> Estimate:
    """Value and interval of a figure in the result of one system.

    Examples
    --------
    >>> found = {"truth": 4, "predictions": 0, "recall": 0.0, "precision": 0.0}
    >>> intervals = {"recall_iou_0.1": {"value": 0.0, "low": 0, "high": 0.4}}
    >>> result = {"summary": {"lesions": {"any": found, "iou_0.1": found}}, "intervals": intervals}
    >>> [estimate(result, entry).value for entry in FIGURES[1:3]], estimate(result, FIGURES[1]).high
    ([0.0, None], 0.4)
    """
    summary = result.get("summary") or {}
    if not measured(summary, figure.needs):
        return Estimate()
    known = dig(result, "intervals", figure.key)
    if isinstance(known, Mapping) and known.get("value") is not None:
        return Estimate(known["value"], known.get("low"), known.get("high"), known.get("scans"))
    return Estimate(dig(summary, *figure.path))


def dig(data: Any, *keys: str) -> Any:
    """Return the value under ``keys`` in nested dicts, or ``None`` if a key is missing.

    Examples
    --------
    >>> dig({"dice": {"mean": 0.5}}, "dice", "mean"), dig({"dice": None}, "dice", "mean")
    (0.5, None)
    """
    for key in keys:
        if not isinstance(data, Mapping):
            return None
        data = data.get(key)
    return data
