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
    """Folders to compare, and the format of their files.

    Attributes
    ----------
    truth_folder : path
        Folder with one file per case, ``CASE.nii.gz`` or with another supported ending. The files are masks or instance
        maps.
    prediction_folder : path
        Folder with one file per case; endings may differ from the truth. If the folder has a subfolder ``instances``,
        as ``detseg3d_predict`` writes it, lesions come from the instance maps in this subfolder, and classes and scores
        from ``rois/CASE.json``. If only some cases have a RoI file, the cases without a RoI file are not evaluated and
        become problems. In all other folders, lesions are the 26-connected components of each class. If the options
        have ``components``, the predictions are probability maps, see
        :func:`~detseg3d.evaluation.probabilities.maps.probability_files`.
    label_format : LabelFormat, optional
        Meaning of the label values. By default, it is read from the dataset.json in or above ``truth_folder`` or in
        ``prediction_folder``; see :func:`~detseg3d.data.labels.read_label_format`.
    cases : sequence of str, optional
        Names of the cases to evaluate; by default all cases of ``truth_folder``.
    truth_files : dict of str to path, optional
        Label of each case, if the labels are not in ``truth_folder``. In this case, only the dataset.json of
        ``truth_folder`` is read.
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
        Number of bootstrap resamples of the patients; 0 gives no intervals.
    seed : int
        Seed of the bootstrap.
    components : ComponentRule or None
        Rule that makes lesions and scores from a probability map; ``None`` if the predictions are masks.
    """

    variants: MetricVariants | None = field(default_factory=MetricVariants)
    samples: int = 1000
    seed: int = 0
    components: ComponentRule | None = None
