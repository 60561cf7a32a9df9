"""Catalogue of the metrics: name, unit, direction, definition and source of each.

The Markdown tables, the HTML report, the CSV files and the page on metrics in the documentation use this list, so that
a metric has the same name and meaning everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detseg3d.core.enums import StringEnum
from detseg3d.evaluation.intervals import MetricEstimate
from detseg3d.evaluation.metrics import Criterion
from detseg3d.evaluation.result import EvaluationResult, Group, OutlineSummary, Summary

__all__ = ["CATALOGUE", "Better", "MetricGroup", "MetricSpec", "Needs", "estimate_of", "metric_spec", "shown_metrics"]


class MetricGroup(StringEnum):
    """Groups of metrics in a report, in the order in which they are shown."""

    FINDING = "Finding lesions"
    BOTH = "Finding and outlining"
    OUTLINE = "Outlines and volumes"
    RANKING = "Ranking by score"


class Better(StringEnum):
    """Direction in which a metric improves."""

    HIGHER = "higher"
    LOWER = "lower"
    NEAR_ZERO = "near 0"


class Needs(StringEnum):
    """Lesions that must exist for a metric to be measured.

    Without these lesions, the definition of the metric gives 0 or 1. A reader would mistake this value for a
    measurement.
    """

    NOTHING = "nothing"
    TRUTH = "true lesions"
    PREDICTIONS = "predicted lesions"
    EITHER = "true or predicted lesions"

    def are_met(self, group: Group) -> bool:
        """Return True if a metric with this need was measured in a group, and False if its value is a convention."""
        if self is Needs.TRUTH:
            return group.true_lesions > 0
        if self is Needs.PREDICTIONS:
            return group.predicted_lesions > 0
        return self is Needs.NOTHING or group.true_lesions + group.predicted_lesions > 0


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes
    ----------
    key : str
        Name in files and in :attr:`~detseg3d.evaluation.result.EvaluationResult.estimates`.
    label : str
        Name in texts.
    group : MetricGroup
        Group of the metric in a report.
    definition : str
        Meaning of the metric in one or two sentences.
    source : str
        Publication or program that defines the metric; empty if there is no source.
    value_in : callable
        Function that reads the value from a :class:`~detseg3d.evaluation.result.Summary`; ``None`` if the metric was
        not computed.
    unit : str
        Unit; empty for a share between 0 and 1.
    digits : int
        Digits after the point in a report.
    better : Better
        Direction in which the metric improves.
    best, worst : float or None
        Ends of the scale; ``None`` if there is no limit.
    needs : Needs
        Lesions that the metric needs.
    is_shown : bool
        True if tables show the metric. The JSON file has all metrics.
    """

    key: str
    label: str
    group: MetricGroup
    definition: str
    source: str
    value_in: Callable[[Summary], float | None]
    unit: str = ""
    digits: int = 2
    better: Better = Better.HIGHER
    best: float | None = 1.0
    worst: float | None = 0.0
    needs: Needs = Needs.NOTHING
    is_shown: bool = True

    @property
    def label_with_unit(self) -> str:
        """Name in texts, with the unit if the name does not contain it."""
        return f"{self.label} ({self.unit})" if self.unit.startswith("mm") else self.label

    @property
    def is_share(self) -> bool:
        """True if the scale of the metric is 0 to 1."""
        return (self.best, self.worst) == (1.0, 0.0)


_ONE_TO_ONE = "Each true lesion needs its own prediction with this overlap."
_DETECTION_SOURCE = "Maier-Hein et al. (2024), Metrics reloaded, Nature Methods 21."
_MATCHING_SOURCE = (
    "One-to-one matching by the Hungarian method: Kuhn (1955), Naval Research Logistics Quarterly 2. Definition: "
    + _DETECTION_SOURCE
)
_FROC_SOURCE = "Bunch et al. (1977), SPIE 127; Setio et al. (2017), LUNA16, Medical Image Analysis 42."
_AP_SOURCE = "Everingham et al. (2010), The PASCAL Visual Object Classes Challenge, IJCV 88 (all points of the curve)."
_PQ_SOURCE = "Kirillov et al. (2019), Panoptic Segmentation, CVPR."
_DICE_SOURCE = "Dice (1945), Measures of the amount of ecologic association between species, Ecology 26."
_NSD_SOURCE = "Nikolov et al. (2021), Journal of Medical Internet Research 23(7)."
_HD95_SOURCE = (
    "Huttenlocher et al. (1993), IEEE TPAMI 15(9), with the 95th percentile of each direction as in Maier-Hein et al. "
    "(2024), Metrics reloaded, Nature Methods 21."
)
_ASSD_SOURCE = "Maier-Hein et al. (2024), Metrics reloaded, Nature Methods 21."
_AREA_SOURCE = "Nikolov et al. (2021), and their library surface-distance."
_WITH_LESIONS = " Mean over the scans with lesions in the truth."


def _in_detection(name: str, criterion: Criterion) -> Callable[[Summary], float | None]:
    def read(summary: Summary) -> float | None:
        value: float | None = getattr(summary.overall.detection[criterion], name)
        return value

    return read


def _in_scores(name: str, criterion: Criterion) -> Callable[[Summary], float | None]:
    def read(summary: Summary) -> float | None:
        return None if summary.scores is None else float(getattr(summary.scores[criterion], name))

    return read


def _in_outlines(read: Callable[[OutlineSummary], float | None]) -> Callable[[Summary], float | None]:
    return lambda summary: None if summary.overall.outlines is None else read(summary.overall.outlines)


def _in_means(name: str, with_lesions: bool) -> Callable[[Summary], float | None]:
    def read(outlines: OutlineSummary) -> float | None:
        value: float | None = getattr(outlines.mean_with_lesions if with_lesions else outlines.mean, name)
        return value

    return _in_outlines(read)


def _detection_specs(criterion: Criterion) -> list[MetricSpec]:
    """Return F1, recall, precision and false positives per scan under one criterion."""
    is_any = criterion is Criterion.ANY
    is_half = criterion is Criterion.IOU_05
    group = MetricGroup.BOTH if is_half else MetricGroup.FINDING
    overlap = "shares at least one voxel with it" if is_any else f"matches it one-to-one with an {criterion.label}"
    if is_any:
        note = "Masks that are too large raise this metric."
    elif is_half:
        note = f"{_ONE_TO_ONE} The outline must be about right, which is strict for lesions of a few voxels."
    else:
        note = _ONE_TO_ONE
    source = _DETECTION_SOURCE if is_any else _MATCHING_SOURCE
    return [
        MetricSpec(
            f"f1_{criterion}",
            f"Lesion F1 at {criterion.label}",
            group,
            f"Harmonic mean of lesion recall and lesion precision, pooled over all lesions. {note}",
            source,
            _in_detection("f1", criterion),
            needs=Needs.EITHER,
        ),
        MetricSpec(
            f"recall_{criterion}",
            f"Lesion recall at {criterion.label}",
            group,
            f"Share of the true lesions that are found. A lesion is found if a prediction {overlap}. Also called "
            "sensitivity.",
            source,
            _in_detection("recall", criterion),
            needs=Needs.TRUTH,
            is_shown=not is_half,
        ),
        MetricSpec(
            f"precision_{criterion}",
            f"Lesion precision at {criterion.label}",
            group,
            "Share of the predicted lesions that find a true lesion.",
            source,
            _in_detection("precision", criterion),
            needs=Needs.PREDICTIONS,
            is_shown=not is_half,
        ),
        MetricSpec(
            f"fp_per_scan_{criterion}",
            f"False positives per scan at {criterion.label}",
            group,
            "Number of predicted lesions that find no true lesion, divided by the number of scans.",
            source,
            _in_detection("false_positives_per_scan", criterion),
            unit="per scan",
            better=Better.LOWER,
            best=0.0,
            worst=None,
            is_shown=not is_half,
        ),
    ]


def _score_specs(criterion: Criterion) -> list[MetricSpec]:
    """Return average precision and CPM under one criterion."""
    return [
        MetricSpec(
            f"ap_{criterion}",
            f"Average precision at {criterion.label}",
            MetricGroup.RANKING,
            "Area under the precision–recall curve. It is high if true lesions have higher scores than false "
            "positives.",
            _AP_SOURCE,
            _in_scores("average_precision", criterion),
            needs=Needs.TRUTH,
        ),
        MetricSpec(
            f"cpm_{criterion}",
            f"CPM at {criterion.label}",
            MetricGroup.RANKING,
            "Mean recall at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan.",
            _FROC_SOURCE,
            _in_scores("cpm", criterion),
            needs=Needs.TRUTH,
            is_shown=criterion is not Criterion.IOU_05,
        ),
    ]


def _surface_specs(spec: MetricSpec, shows_lesions: bool) -> list[MetricSpec]:
    """Return a surface metric as a mean over all scans, and as a mean over the scans with lesions."""
    with_lesions = MetricSpec(
        f"{spec.key}_with_lesions",
        f"{spec.label}, scans with lesions",
        spec.group,
        spec.definition + _WITH_LESIONS,
        spec.source,
        _in_means(spec.key, True),
        spec.unit,
        spec.digits,
        spec.better,
        spec.best,
        spec.worst,
        is_shown=shows_lesions,
    )
    return [spec, with_lesions]


def _distance(key: str, label: str, definition: str, source: str) -> MetricSpec:
    return MetricSpec(
        key,
        label,
        MetricGroup.OUTLINE,
        definition,
        source,
        _in_means(key, False),
        unit="mm",
        digits=1,
        better=Better.LOWER,
        best=0.0,
        worst=None,
    )


_EMPTY_SIDE = "It is the diagonal of the volume if only one side is empty, and 0 if both sides are empty."

CATALOGUE: tuple[MetricSpec, ...] = (
    *_detection_specs(Criterion.IOU_01),
    MetricSpec(
        "fp_per_lesion_free_scan",
        "False positives per lesion-free scan",
        MetricGroup.FINDING,
        "Number of predicted lesions in the scans without a true lesion, divided by the number of these scans.",
        "",
        lambda summary: summary.overall.lesion_free.per_scan,
        unit="per scan",
        better=Better.LOWER,
        best=0.0,
        worst=None,
    ),
    *_detection_specs(Criterion.ANY),
    *_detection_specs(Criterion.IOU_05),
    MetricSpec(
        "pq",
        "Panoptic quality",
        MetricGroup.BOTH,
        "Sum of the IoU of the matches, divided by matches + half of the misses + half of the false positives. Pairs "
        "with an IoU above 0.5 match. It is the F1 of the matches times their mean IoU.",
        _PQ_SOURCE,
        lambda summary: summary.overall.panoptic.pq,
        needs=Needs.EITHER,
    ),
    MetricSpec(
        "sq",
        "Segmentation quality",
        MetricGroup.BOTH,
        "Mean IoU of the matches of the panoptic quality.",
        _PQ_SOURCE,
        lambda summary: summary.overall.panoptic.sq,
        needs=Needs.EITHER,
        is_shown=False,
    ),
    MetricSpec(
        "rq",
        "Recognition quality",
        MetricGroup.BOTH,
        "F1 of the matches of the panoptic quality.",
        _PQ_SOURCE,
        lambda summary: summary.overall.panoptic.rq,
        needs=Needs.EITHER,
        is_shown=False,
    ),
    MetricSpec(
        "lesionwise_dice",
        "Lesion-wise Dice (BraTS)",
        MetricGroup.BOTH,
        "Mean Dice over lesions. A missed lesion and a false positive count 0. Lesions are the components of the "
        "dilated mask, also if the labels are instance maps.",
        "BraTS challenges since 2023, https://github.com/rachitsaluja/BraTS-2023-Metrics.",
        _in_outlines(lambda outlines: outlines.lesionwise.dice),
    ),
    MetricSpec(
        "cc_dice",
        "CC-Dice",
        MetricGroup.BOTH,
        "Dice in the surroundings of each true lesion, averaged over the lesions and then over the scans. A small "
        "lesion counts as much as a large one.",
        "Jaus et al. (2024), Every component counts, https://arxiv.org/abs/2410.18684.",
        _in_outlines(lambda outlines: outlines.cc_dice),
    ),
    MetricSpec(
        "dice",
        "Dice",
        MetricGroup.OUTLINE,
        "Voxel overlap of each scan, averaged over the scans. A scan without lesions and without a prediction "
        "counts 1.",
        _DICE_SOURCE,
        lambda summary: summary.overall.dice.mean,
        needs=Needs.EITHER,
    ),
    MetricSpec(
        "dice_with_lesions",
        "Dice, scans with lesions",
        MetricGroup.OUTLINE,
        "Voxel overlap of each scan." + _WITH_LESIONS,
        _DICE_SOURCE,
        lambda summary: summary.overall.dice.mean_with_lesions,
        needs=Needs.TRUTH,
    ),
    *_surface_specs(
        MetricSpec(
            "nsd",
            "Surface Dice (NSD)",
            MetricGroup.OUTLINE,
            "Share of both surfaces that lies within the tolerance of the other surface. Every surface voxel counts "
            "equally.",
            _NSD_SOURCE,
            _in_means("nsd", False),
        ),
        shows_lesions=True,
    ),
    *_surface_specs(
        _distance(
            "hd95_mm",
            "HD95",
            f"95th percentile of the distance between the surfaces, the larger of both directions. {_EMPTY_SIDE}",
            _HD95_SOURCE,
        ),
        shows_lesions=True,
    ),
    *_surface_specs(
        _distance(
            "assd_mm",
            "Average surface distance (ASSD)",
            f"Mean distance from the surface voxels of both masks to the other surface. {_EMPTY_SIDE}",
            _ASSD_SOURCE,
        ),
        shows_lesions=False,
    ),
    *_surface_specs(
        MetricSpec(
            "nsd_area",
            "Surface Dice, by area",
            MetricGroup.OUTLINE,
            "Surface Dice in which every piece of surface counts by its area.",
            _AREA_SOURCE,
            _in_means("nsd_area", False),
        ),
        shows_lesions=False,
    ),
    *_surface_specs(
        _distance(
            "hd95_area_mm",
            "HD95, by area",
            f"HD95 in which every piece of surface counts by its area. {_EMPTY_SIDE}",
            _AREA_SOURCE,
        ),
        shows_lesions=False,
    ),
    MetricSpec(
        "volume_concordance",
        "Volume agreement",
        MetricGroup.OUTLINE,
        "Concordance of predicted and true lesion volume per scan. It is 1 only if the volumes are equal.",
        "Lin (1989), A concordance correlation coefficient to evaluate reproducibility, Biometrics 45.",
        lambda summary: summary.overall.volume_agreement.concordance,
        worst=-1.0,
    ),
    MetricSpec(
        "volume_bias",
        "Volume bias",
        MetricGroup.OUTLINE,
        "Mean of predicted minus true lesion volume per scan.",
        "Bland and Altman (1986), Lancet 327.",
        lambda summary: summary.overall.volume_agreement.bias_mm3,
        unit="mm³",
        digits=0,
        better=Better.NEAR_ZERO,
        best=0.0,
        worst=None,
    ),
    *_score_specs(Criterion.IOU_01),
    *_score_specs(Criterion.ANY),
    *_score_specs(Criterion.IOU_05),
)
"""All metrics, in the order in which they are shown."""


def metric_spec(key: str) -> MetricSpec:
    """Return the metric with a key.

    Raises
    ------
    KeyError
        If the catalogue has no metric with this key.

    Examples
    --------
    >>> metric_spec("hd95_mm").unit
    'mm'
    """
    for spec in CATALOGUE:
        if spec.key == key:
            return spec
    raise KeyError(key)


def shown_metrics(group: MetricGroup | None = None) -> tuple[MetricSpec, ...]:
    """Return the metrics that tables show, of one group or of all groups."""
    return tuple(spec for spec in CATALOGUE if spec.is_shown and group in (None, spec.group))


def estimate_of(result: EvaluationResult, spec: MetricSpec) -> MetricEstimate:
    """Return value and interval of a metric. The value is ``None`` if the metric was not measured.

    Parameters
    ----------
    result : EvaluationResult
        Result that contains the metric.
    spec : MetricSpec
        Metric to read.
    """
    if not spec.needs.are_met(result.summary.overall):
        return MetricEstimate(None)
    estimate = result.estimates.get(spec.key)
    if estimate is not None and estimate.value is not None:
        return estimate
    return MetricEstimate(spec.value_in(result.summary))
