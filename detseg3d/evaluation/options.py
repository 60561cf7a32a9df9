"""Input and options of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.data.labels import LabelFormat
from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.probabilities.components import ComponentRule
from detseg3d.system.json_records import JsonRecord

__all__ = ["EvaluationInput", "EvaluationOptions"]


@dataclass(frozen=True)
class EvaluationInput:
    """Folders that are compared, and how their files are read.

    Attributes
    ----------
    truth_folder : path
        ``CASE.nii.gz`` (or another supported ending) per case: semantic labels or instance maps.
    prediction_folder : path
        The same; endings may differ. If it has a subfolder ``instances``, as ``detseg3d_predict`` writes it, lesions
        come from the instance maps in this subfolder, and classes and scores from ``rois/CASE.json``. If some cases
        have such a RoI file and others do not, the others are problems. In all other folders lesions are the
        26-connected components of each class. If the options have ``components``, the predictions are probability maps,
        see :func:`~detseg3d.evaluation.probabilities.maps.probability_files`.
    label_format : LabelFormat, optional
        By default from the dataset.json in or above ``truth_folder`` or in ``prediction_folder``; see
        :func:`~detseg3d.data.labels.read_label_format`.
    cases : sequence of str, optional
        Evaluate these cases only; by default all of ``truth_folder``.
    truth_files : dict of str to path, optional
        Label of each case, if the labels are not files of ``truth_folder``. Only the dataset.json of ``truth_folder``
        is read then.
    """

    truth_folder: str | Path
    prediction_folder: str | Path
    label_format: LabelFormat | None = None
    cases: Sequence[str] | None = None
    truth_files: Mapping[str, Path] | None = None

    @property
    def folders(self) -> tuple[Path, Path]:
        """Folder of the labels and folder of the predictions."""
        return Path(self.truth_folder), Path(self.prediction_folder)


@dataclass(frozen=True)
class EvaluationOptions(JsonRecord):
    """Options of an evaluation.

    Attributes
    ----------
    variants : MetricVariants or None
        Variants of the surface, lesion-wise and component-wise metrics; ``None`` leaves these metrics out.
    samples : int
        Bootstrap resamples of the patients; 0 gives no intervals.
    seed : int
        Seed of the bootstrap.
    components : ComponentRule or None
        Set if the predictions are probability maps: how lesions and scores are made from a map.
    """

    variants: MetricVariants | None = field(default_factory=MetricVariants)
    samples: int = 1000
    seed: int = 0
    components: ComponentRule | None = None
