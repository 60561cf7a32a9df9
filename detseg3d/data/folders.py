"""Names of the files inside the folders that DetSeg3D reads and writes.

Each class stands for one kind of folder. It computes paths only: no method reads, writes or checks a file.
No other module spells out these names, so a name is changed in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "EvaluationFolder",
    "FoldFolder",
    "FollowUpFolder",
    "ModelFolder",
    "PredictionFolder",
    "PreparedFolder",
    "RawFolder",
]

_FOLD_PREFIX = "fold_"
_ALL_CASES = "all"


@dataclass(frozen=True)
class RawFolder:
    """Folder ``DatasetXXX_Name`` of a raw data set, in nnU-Net's layout.

    Parameters
    ----------
    path : Path
    """

    path: Path

    @property
    def dataset_json(self) -> Path:
        """Description of the data set."""
        return self.path / "dataset.json"

    @property
    def training_images(self) -> Path:
        """Folder of the training images."""
        return self.path / "imagesTr"

    @property
    def training_labels(self) -> Path:
        """Folder of the training labels."""
        return self.path / "labelsTr"

    @property
    def test_images(self) -> Path:
        """Folder of the test images."""
        return self.path / "imagesTs"

    @property
    def test_labels(self) -> Path:
        """Folder of the test labels."""
        return self.path / "labelsTs"


@dataclass(frozen=True)
class PreparedFolder:
    """Folder ``DatasetXXX_Name`` of a planned and preprocessed data set.

    Parameters
    ----------
    path : Path
    """

    path: Path

    @property
    def dataset_json(self) -> Path:
        """Description of the data set."""
        return self.path / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """Measured properties of the data set."""
        return self.path / "dataset_fingerprint.json"

    @property
    def measurements(self) -> Path:
        """Folder of the measurements of single cases, until the fingerprint is complete."""
        return self.path / "measurements"

    @property
    def plans(self) -> Path:
        """Decisions of the planner."""
        return self.path / "plans.json"

    @property
    def splits(self) -> Path:
        """Training and validation cases of each fold."""
        return self.path / "splits_final.json"

    @property
    def replaced_splits(self) -> Path:
        """Splits that name missing cases and were therefore replaced."""
        return self.path / "splits_final.old.json"

    @property
    def cases(self) -> Path:
        """Folder of the preprocessed cases, a :class:`~detseg3d.data.case_store.CaseStore`."""
        return self.path / "cases"

    @property
    def cases_lock(self) -> Path:
        """Lock file of the processes that use or replace the preprocessed cases."""
        return self.path / ".cases.lock"

    @property
    def preparing_lock(self) -> Path:
        """Lock file of the process that prepares the data set."""
        return self.path / ".preparing.lock"


@dataclass(frozen=True)
class PredictionFolder:
    """Folder of predicted cases: masks, instance maps, lesions, scores.

    Parameters
    ----------
    path : Path

    Examples
    --------
    >>> PredictionFolder(Path("out")).instances("case1", ".nii.gz").as_posix()
    'out/instances/case1.nii.gz'
    """

    path: Path

    @classmethod
    def holding_instances(cls, file: Path) -> PredictionFolder | None:
        """Return the prediction folder of an instance map, or ``None`` if the file is not in ``instances``."""
        folder = cls(file.parent.parent)
        return folder if file.parent == folder.instances_folder else None

    @classmethod
    def holding_probabilities(cls, file: Path) -> PredictionFolder | None:
        """Return the prediction folder of a probability map, or ``None`` if the file is not in ``probabilities``."""
        folder = cls(file.parent.parent)
        return folder if file.parent == folder.probabilities_folder else None

    @property
    def instances_folder(self) -> Path:
        """Folder of the instance maps."""
        return self.path / "instances"

    @property
    def records_folder(self) -> Path:
        """Folder of the records, ``CASE.json``: lesions with boxes, classes and scores."""
        return self.path / "rois"

    @property
    def probabilities_folder(self) -> Path:
        """Folder of the probability maps, ``CASE.npz``."""
        return self.path / "probabilities"

    @property
    def candidates_folder(self) -> Path:
        """Folder of the stored candidates, ``CASE.npz``."""
        return self.path / "candidates"

    @property
    def dicom_folder(self) -> Path:
        """Folder of the DICOM objects, ``CASE.seg.dcm``, ``CASE.sr.dcm`` and ``CASE.rtstruct.dcm``."""
        return self.path / "dicom"

    @property
    def case_folders(self) -> tuple[Path, ...]:
        """All folders that hold files named after cases."""
        folders = (self.instances_folder, self.records_folder, self.probabilities_folder, self.candidates_folder)
        return (self.path, *folders)

    def mask(self, case_id: str, ending: str) -> Path:
        """Return the path of the semantic mask of a case; ``ending`` includes the dot."""
        return self.path / f"{case_id}{ending}"

    def instances(self, case_id: str, ending: str) -> Path:
        """Return the path of the instance map of a case; ``ending`` includes the dot."""
        return self.instances_folder / f"{case_id}{ending}"

    def instance_classes(self, case_id: str) -> Path:
        """Return the path of the classes of the lesions of an instance map."""
        return self.instances_folder / f"{case_id}.json"

    def record(self, case_id: str) -> Path:
        """Return the path of the record of a case: its lesions with boxes, classes and scores."""
        return self.records_folder / f"{case_id}.json"

    def probabilities(self, case_id: str) -> Path:
        """Return the path of the probability maps of a case."""
        return self.probabilities_folder / f"{case_id}.npz"

    def candidates(self, case_id: str) -> Path:
        """Return the path of the stored candidates of a case."""
        return self.candidates_folder / f"{case_id}.npz"

    def slicer_segmentation(self, case_id: str) -> Path:
        """Return the path of the segmentation of a case for 3D Slicer."""
        return self.path / "slicer" / f"{case_id}.seg.nrrd"

    def slicer_markups(self, case_id: str) -> Path:
        """Return the path of the markups of a case for 3D Slicer."""
        return self.path / "slicer" / f"{case_id}.mrk.json"

    def itksnap_labels(self, case_id: str) -> Path:
        """Return the path of the label descriptions of a case for ITK-SNAP."""
        return self.path / "itksnap" / f"{case_id}.txt"

    def prompts(self, case_id: str) -> Path:
        """Return the path of the prompts of a case for interactive segmentation."""
        return self.path / "prompts" / f"{case_id}.json"

    def viewer_files(self, case_id: str) -> tuple[Path, ...]:
        """Return the paths of all files of a case for viewers and interactive segmentation."""
        slicer = (self.slicer_segmentation(case_id), self.slicer_markups(case_id))
        return (*slicer, self.itksnap_labels(case_id), self.prompts(case_id))

    @property
    def lesion_table(self) -> Path:
        """Table with one row per predicted lesion."""
        return self.path / "lesions.csv"

    @property
    def case_table(self) -> Path:
        """Table with one row per predicted case."""
        return self.path / "cases.csv"

    @property
    def summary(self) -> Path:
        """Evaluation of the validation cases of a fold."""
        return self.path / "summary.json"

    @property
    def true_boxes(self) -> Path:
        """Dice of Stage 2 on the true boxes of the validation cases of a fold."""
        return self.path / "true_boxes.json"

    @property
    def shifted_scans(self) -> Path:
        """List of the shifted validation scans of a fold."""
        return self.path / "shifted_scans.json"

    @property
    def shifted_scans_folder(self) -> Path:
        """Folder with the stored candidates and the true lesions of the shifted validation scans of a fold."""
        return self.path / "shifted_scans"


@dataclass(frozen=True)
class EvaluationFolder:
    """Folder of the results of an evaluation.

    Parameters
    ----------
    path : Path
    """

    path: Path

    @property
    def metrics(self) -> Path:
        """Result of the evaluation as JSON."""
        return self.path / "metrics.json"

    @property
    def case_table(self) -> Path:
        """Table with one row per evaluated case."""
        return self.path / "metrics.csv"

    @property
    def lesion_table(self) -> Path:
        """Table with one row per true and per predicted lesion."""
        return self.path / "lesions.csv"

    @property
    def text(self) -> Path:
        """Result of the evaluation as Markdown."""
        return self.path / "metrics.md"

    @property
    def report(self) -> Path:
        """Report for a web browser."""
        return self.path / "report.html"

    @property
    def sweep(self) -> Path:
        """Result of a sweep of thresholds over probability maps."""
        return self.path / "sweep.json"

    @property
    def consolidation(self) -> Path:
        """Result of a consolidation."""
        return self.path / "consolidation.json"


@dataclass(frozen=True)
class FollowUpFolder:
    """Folder of the results of a follow-up.

    Parameters
    ----------
    path : Path

    Examples
    --------
    >>> FollowUpFolder(Path("out")).transform("case1", 1).as_posix()
    'out/transforms/case1_1_to_2.tfm'
    """

    path: Path

    @property
    def change_table(self) -> Path:
        """Table with one row per change of a lesion."""
        return self.path / "changes.csv"

    @property
    def track_table(self) -> Path:
        """Table with one row per lesion and scan."""
        return self.path / "tracks.csv"

    @property
    def comparison_table(self) -> Path:
        """Table with one row per pair of scans."""
        return self.path / "comparisons.csv"

    def record(self, case_id: str) -> Path:
        """Return the path of the result of a patient as JSON."""
        return self.path / "follow_up" / f"{case_id}.json"

    def page(self, case_id: str) -> Path:
        """Return the path of the page of a patient for a web browser."""
        return self.path / f"{case_id}.html"

    def picture(self, case_id: str, scan: int) -> Path:
        """Return the path of the picture of a scan, numbered from 1, and the next scan."""
        return self.path / "pictures" / f"{case_id}_{scan}_to_{scan + 1}.png"

    def transform(self, case_id: str, scan: int) -> Path:
        """Return the path of the motion from a scan, numbered from 1, to the next scan."""
        return self.path / "transforms" / f"{case_id}_{scan}_to_{scan + 1}.tfm"

    @property
    def dicom_folder(self) -> Path:
        """Folder of the DICOM objects of each later scan, such as ``CASE_2.seg.dcm`` and ``CASE_2.sr.dcm``."""
        return self.path / "dicom"


@dataclass(frozen=True)
class FoldFolder:
    """Folder ``fold_NAME`` of one fold of a trained model.

    Parameters
    ----------
    path : Path

    Examples
    --------
    >>> FoldFolder(Path("results/Dataset001_Example/fold_2")).name
    '2'
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the fold: its number, or ``all`` for the model that was trained on every case."""
        return self.path.name.removeprefix(_FOLD_PREFIX)

    @property
    def trains_all_cases(self) -> bool:
        """True if this fold was trained on every case."""
        return self.name == _ALL_CASES

    @property
    def plans(self) -> Path:
        """Plans that the fold was trained with."""
        return self.path / "plans.json"

    @property
    def checkpoint(self) -> Path:
        """State of the training, from which it can be resumed."""
        return self.path / "checkpoint_latest.pt"

    @property
    def log(self) -> Path:
        """Log of the training, one JSON record a line."""
        return self.path / "training_log.jsonl"

    @property
    def curves(self) -> Path:
        """Picture of the learning curves."""
        return self.path / "progress.png"

    @property
    def appearance(self) -> Path:
        """Appearance of the training scans, with which new scans are compared."""
        return self.path / "appearance.json"

    @property
    def final_weights(self) -> Path:
        """Weights at the end of the training."""
        return self.weights("final")

    @property
    def best_weights(self) -> Path:
        """Weights of the best validation during the training."""
        return self.weights("best")

    def weights(self, checkpoint: str) -> Path:
        """Return the path of the weights.

        ``checkpoint`` is ``final`` or ``best``; or, for exported networks, the name of their format.
        """
        return self.path / f"model_{checkpoint}.safetensors"

    @property
    def validation(self) -> PredictionFolder:
        """Predictions of the validation cases."""
        return PredictionFolder(self.path / "validation")


@dataclass(frozen=True)
class ModelFolder:
    """Folder ``DatasetXXX_Name`` of a trained model: its folds and the files that all folds share.

    Parameters
    ----------
    path : Path

    Examples
    --------
    >>> ModelFolder(Path("results/Dataset001_Example")).fold("2").final_weights.as_posix()
    'results/Dataset001_Example/fold_2/model_final.safetensors'
    """

    path: Path

    @property
    def dataset_json(self) -> Path:
        """Description of the data set."""
        return self.path / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """Measured properties of the data set."""
        return self.path / "dataset_fingerprint.json"

    @property
    def plans(self) -> Path:
        """Plans of the data set at the time of the training."""
        return self.path / "plans.json"

    @property
    def operating_point(self) -> Path:
        """Thresholds and calibration chosen by cross-validation."""
        return self.path / "operating_point.json"

    @property
    def cross_validation(self) -> PredictionFolder:
        """Predictions of the validation cases of all folds at the operating point."""
        return PredictionFolder(self.path / "cross_validation")

    @property
    def cross_validation_evaluation(self) -> EvaluationFolder:
        """Evaluation of :attr:`cross_validation`, in the same folder."""
        return EvaluationFolder(self.cross_validation.path)

    def fold(self, name: str | int) -> FoldFolder:
        """Return the folder of a fold; ``name`` is its number or ``all``."""
        return FoldFolder(self.path / f"{_FOLD_PREFIX}{name}")

    def replacement(self, name: str | int) -> FoldFolder:
        """Return the folder of a new training that replaces a fold when it is complete.

        :meth:`folds` does not list this folder.
        """
        return FoldFolder(self.path / f"new_{_FOLD_PREFIX}{name}")

    def fold_lock(self, name: str | int) -> Path:
        """Return the lock file of the process that trains or validates a fold.

        The file lies beside the folder of the fold, because a new training may replace that folder.
        """
        return self.path / f".{_FOLD_PREFIX}{name}.lock"

    def folds(self) -> list[FoldFolder]:
        """Return the existing folders of folds, sorted by the names of the folders."""
        return [FoldFolder(path) for path in sorted(self.path.glob(f"{_FOLD_PREFIX}*")) if path.is_dir()]
