"""Predicting files: from scans on disk to masks, boxes and tables on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from detseg3d.core.enums import StringEnum
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawCase
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.formats.dicom import is_dicom_file
from detseg3d.data.images import file_ending, write_image
from detseg3d.exports.bids.export import write_description
from detseg3d.exports.bids.names import name_of_case
from detseg3d.exports.dicom.options import DicomOptions, DicomPaths, is_written
from detseg3d.exports.viewers.export import ViewerFormat, export_for_viewers
from detseg3d.inference.candidates import Candidates
from detseg3d.inference.candidates import save_candidates as write_candidates
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.no_lesions import CaseOutcome, explain_no_lesions
from detseg3d.inference.prediction_files import (
    check_input_stays,
    check_inputs_stay,
    is_exported,
    write_case,
    write_tables,
)
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.pipeline.export_bids import export_bids
from detseg3d.pipeline.scan_reader import Scan, ScanReader
from detseg3d.planning.sections import InferencePlan
from detseg3d.system.case_call import release_frames
from detseg3d.system.files import check_writable, remove_files
from detseg3d.system.memory import is_out_of_memory, out_of_memory
from detseg3d.system.signals import raise_if_interrupted
from detseg3d.system.workers import is_bar_shown

__all__ = [
    "CasePredictor",
    "OutputOptions",
    "PredictionOutcomes",
    "PredictionStep",
    "check_output",
    "describe_failure",
    "finish_predictions",
    "predict_cases",
    "predict_file",
    "predict_or_skip",
    "warn_without_lesions",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputOptions:
    """What a prediction writes.

    Attributes
    ----------
    ending : str or None
        Format of the masks; by default the format of each case's scan (``.nii.gz`` for DICOM).
    continue_prediction : bool
        Skip cases whose result is complete.
    save_probabilities : bool
        Also write ``probabilities/CASE.npz``.
    save_candidates : bool
        Also write ``candidates/CASE.npz``, from which thresholds can be chosen later.
    viewer_formats : tuple of ViewerFormat
        Also write files for these programs, such as 3D Slicer.
    show_progress : bool
        Show a progress bar if the standard error output is a terminal.
    dicom : DicomOptions or None
        DICOM objects to write for scans that were read from DICOM, in the folder ``dicom``; by default none.
    dicom_is_required : bool
        A scan that was not read from DICOM fails. Otherwise it has no DICOM objects.
    bids_folder : Path or None
        Also write the results as a derivative of BIDS into this folder, when all cases are predicted.
    """

    ending: str | None = None
    continue_prediction: bool = False
    save_probabilities: bool = False
    save_candidates: bool = False
    viewer_formats: tuple[ViewerFormat, ...] = ()
    show_progress: bool = True
    dicom: DicomOptions | None = None
    dicom_is_required: bool = False
    bids_folder: Path | None = None


def predict_cases(
    predictor: Predictor,
    cases: Sequence[RawCase],
    output_folder: str | Path,
    inputs: InputOptions | None = None,
    output: OutputOptions | None = None,
) -> dict[str, str]:
    """Predict cases and write the result of each one. A case that fails is reported, and the others go on.

    A case fails if its result would replace its scan. The scan stays.

    Parameters
    ----------
    predictor : Predictor
    cases : sequence of RawCase
        From :meth:`~detseg3d.inference.predictor.Predictor.list_inputs`.
    output_folder : path
    inputs : InputOptions, optional
        How images are read.
    output : OutputOptions, optional
        What is written.

    Returns
    -------
    dict
        Error message of each case that failed, by case id.

    Raises
    ------
    DetSeg3DError
        If ``output_folder`` cannot be written, or the tables of lesions and cases cannot.
    """
    inputs, output = inputs or InputOptions(), output or OutputOptions()
    folder = Path(output_folder)
    check_output(folder, cases, output)
    failures: dict[str, str] = {}
    outcomes: dict[str, CaseOutcome] = {}
    bar = tqdm(cases, desc="predicting", unit="case", disable=not is_bar_shown(output.show_progress))
    incomplete = [case for case in cases if not _is_left_out(case, folder, output)]
    with ScanReader(predictor, incomplete, inputs) as reader:
        for case in bar:
            try:
                outcome = predict_or_skip(predictor, case, folder, inputs, output, reader)
            except Exception as error:
                raise_if_interrupted()
                failures[case.case_id] = describe_failure(case.case_id, error)
                release_frames(error)
            else:
                if outcome is not None:
                    outcomes[case.case_id] = outcome
    return finish_predictions(folder, cases, output, predictor.plans.inference, PredictionOutcomes(outcomes, failures))


@dataclass(frozen=True)
class PredictionOutcomes:
    """Outcomes of the cases of a prediction, by case id. A case that was complete already is in neither of them.

    Attributes
    ----------
    outcomes : mapping of str to CaseOutcome
        Cases that were predicted.
    failures : mapping of str to str
        Error message of each case that failed.
    """

    outcomes: Mapping[str, CaseOutcome]
    failures: Mapping[str, str]


def check_output(folder: Path, cases: Sequence[RawCase], output: OutputOptions) -> None:
    """Check that results can be written, before the prediction takes time.

    Raises
    ------
    DetSeg3DError
        If ``folder`` or the folder of BIDS cannot be written.
    """
    if cases:
        check_writable(folder)
    if cases and output.bids_folder is not None:
        check_writable(output.bids_folder)
        write_description(output.bids_folder)


class PredictionStep(StringEnum):
    """Step of the prediction of a scan that was read, in the order of the work."""

    SEARCHING = "searching"
    DESCRIBING = "describing"
    WRITING = "writing"


@dataclass(frozen=True)
class PredictedCase:
    """A case that was predicted and written.

    Attributes
    ----------
    prediction : Prediction
    outcome : CaseOutcome
        Numbers that explain why a case has no lesions.
    """

    prediction: Prediction
    outcome: CaseOutcome


@dataclass(frozen=True)
class CasePredictor:
    """A model, the folder of its results, and what is read and written for each case.

    Attributes
    ----------
    predictor : Predictor
    folder : Path
        Folder of the results.
    inputs : InputOptions
        How images are read.
    output : OutputOptions
        What is written.
    """

    predictor: Predictor
    folder: Path
    inputs: InputOptions
    output: OutputOptions

    def check(self, case: RawCase) -> None:
        """Check that the results of a case can be written, before the prediction takes time.

        Raises
        ------
        DetSeg3DError
            If a result would replace the scan, or a result that is required cannot be made from this scan.
        """
        check_inputs_stay([image.path for image in case.images], case.case_id, self.folder, _ending(case, self.output))
        _check_dicom(case, self.output)
        if self.output.bids_folder is not None:
            name_of_case(case.case_id)

    def predict(
        self, case: RawCase, scan: Scan, name: str, on_step: Callable[[PredictionStep], None] = lambda _step: None
    ) -> PredictedCase:
        """Predict and write a case that was read.

        Parameters
        ----------
        case : RawCase
        scan : Scan
            Images and geometry of the case.
        name : str
            Name of the scan in warnings.
        on_step : callable, optional
            Called at the beginning of each step.

        Returns
        -------
        PredictedCase

        Raises
        ------
        DetSeg3DError
            If the scan cannot be used, or a result cannot be written.
        """
        on_step(PredictionStep.SEARCHING)
        predictor, output, (images, geometry) = self.predictor, self.output, scan
        similarity = predictor.compare(images, geometry, name)
        candidates = predictor.find_candidates(images, geometry, similarity, loose=output.save_candidates)
        on_step(PredictionStep.DESCRIBING)
        stored = PredictionFolder(self.folder).candidates(case.case_id)
        if output.save_candidates:
            write_candidates(candidates, stored)
            candidates = candidates.admitted(predictor.plans.inference)
        else:
            # An earlier prediction, perhaps by another model, may have left candidates.
            remove_files(stored)
        prediction = predictor.describe(candidates, geometry, output.save_probabilities, similarity, images)
        predictor.warn_of_limit(prediction, name)
        on_step(PredictionStep.WRITING)
        write_case(prediction, case.case_id, self.folder, _ending(case, output))
        self._export_dicom(case)
        if output.viewer_formats:
            export_for_viewers(self.folder, case.case_id, output.viewer_formats)
        return PredictedCase(prediction, _outcome(prediction, candidates))

    def _export_dicom(self, case: RawCase) -> None:
        """Write the DICOM objects of a case, or remove those of an earlier prediction."""
        if self.output.dicom is None or not _is_dicom(case):
            remove_files(*DicomPaths(PredictionFolder(self.folder).dicom_folder, case.case_id).all)
            return
        from detseg3d.pipeline.export_dicom import export_case  # imported here, because highdicom imports slowly

        image = self.inputs.apply(case.images, self.predictor.plans)[0]
        try:
            export_case(self.folder, case.case_id, image.path, image.series, self.output.dicom)
        except DetSeg3DError as error:
            raise DetSeg3DError(
                f"the masks were written, but not the DICOM results: {error.problem}",
                file=error.file,
                value=error.value,
                expected=error.expected,
                remedy=f"{error.remedy or 'correct the DICOM series'}; detseg3d_predict --dicom_seg none writes only "
                "the masks",
            ) from error


def predict_or_skip(
    predictor: Predictor,
    case: RawCase,
    folder: Path,
    inputs: InputOptions,
    output: OutputOptions,
    reader: ScanReader | None = None,
) -> CaseOutcome | None:
    """Predict and write one case, or skip it if its result is complete and ``output`` asks to continue.

    With a ``reader``, the scan may have been read before.

    Returns
    -------
    CaseOutcome or None
        ``None`` if the case was skipped.

    Raises
    ------
    DetSeg3DError
        If the scan cannot be used or would be replaced, or a result cannot be written.
    """
    if _is_left_out(case, folder, output):
        logger.info("%s: complete already", case.case_id)
        if output.viewer_formats:
            export_for_viewers(folder, case.case_id, output.viewer_formats)
        return None
    case_predictor = CasePredictor(predictor, folder, inputs, output)
    case_predictor.check(case)
    scan = predictor.read(case, inputs) if reader is None else reader.read(case)
    outcome = case_predictor.predict(case, scan, case.case_id).outcome
    logger.info("%s: %d lesion(s)", case.case_id, outcome.lesions)
    return outcome


def describe_failure(case_id: str, error: Exception) -> str:
    """Return the error message of a case. An error that nobody foresaw must not lose the results of the other scans."""
    if isinstance(error, DetSeg3DError):
        return str(error)
    logger.debug("%s failed", case_id, exc_info=error)
    return _reason(error)


def finish_predictions(
    folder: Path,
    cases: Sequence[RawCase],
    output: OutputOptions,
    inference: InferencePlan,
    ended: PredictionOutcomes,
) -> dict[str, str]:
    """Report the failed cases, and write what describes all cases: the tables, and the derivative of BIDS.

    Parameters
    ----------
    folder : Path
    cases : sequence of RawCase
    output : OutputOptions
    inference : InferencePlan
        Thresholds that were used.
    ended : PredictionOutcomes

    Returns
    -------
    dict
        Error message of each case that failed, by case id.
    """
    failures = dict(ended.failures)
    for case_id, message in failures.items():
        logger.error("%s failed: %s", case_id, message)
    if len(ended.outcomes) + len(failures) == len(cases):
        warn_without_lesions(inference, ended.outcomes)
    if folder.exists():
        write_tables(folder)
    if output.bids_folder is not None:
        predicted = [case.case_id for case in cases if case.case_id not in failures]
        failures |= _export_bids(folder, output.bids_folder, predicted)
    return failures


def _export_bids(folder: Path, bids_folder: Path, cases: Sequence[str]) -> dict[str, str]:
    """Write the predicted cases as a derivative of BIDS; return the error message of each case that failed."""
    if not cases:
        return {}
    failed = export_bids(folder, bids_folder, cases).failures
    return {case_id: f"the masks were written, but not as BIDS: {error}" for case_id, error in failed.items()}


def predict_file(
    predictor: Predictor, case: RawCase, file: str | Path, inputs: InputOptions | None = None
) -> Prediction:
    """Predict one case and write its semantic mask to ``file``, and nothing else.

    Parameters
    ----------
    predictor : Predictor
    case : RawCase
    file : path
        Its ending decides the format, which may differ from that of the scan.
    inputs : InputOptions, optional
        How images are read.

    Raises
    ------
    DetSeg3DError
        If the scan cannot be used, is too large for the memory or would be replaced, or if the file cannot be written.
    """
    path = Path(file)
    check_input_stays([image.path for image in case.images], path)
    check_writable(path.parent)
    try:
        images, geometry = predictor.read(case, inputs or InputOptions())
        similarity = predictor.compare(images, geometry, case.case_id)
        candidates = predictor.find_candidates(images, geometry, similarity)
        prediction = predictor.describe(candidates, geometry, similarity=similarity)
        write_image(prediction.semantic, prediction.geometry, path)
    except DetSeg3DError:
        raise_if_interrupted()
        raise
    except Exception as error:
        raise_if_interrupted()
        raise DetSeg3DError(f"this scan cannot be predicted: {_reason(error)}", file=case.images[0].path) from error
    logger.info("%s: %d lesion(s)", case.case_id, len(prediction.lesions))
    predictor.warn_of_limit(prediction, case.case_id)
    warn_without_lesions(predictor.plans.inference, {case.case_id: _outcome(prediction, candidates)})
    return prediction


def _ending(case: RawCase, output: OutputOptions) -> str:
    """Return the format of the masks of a case."""
    return output.ending or file_ending(case.images[0].path) or ".nii.gz"


def _is_left_out(case: RawCase, folder: Path, output: OutputOptions) -> bool:
    """Return whether the result of a case is complete and ``output`` asks to continue."""
    if not output.continue_prediction:
        return False
    case_id, ending = case.case_id, _ending(case, output)
    has_candidates = not output.save_candidates or PredictionFolder(folder).candidates(case_id).is_file()
    if not has_candidates or not is_exported(folder, case_id, ending, output.save_probabilities):
        return False
    if output.dicom is None or not _is_dicom(case):
        return True
    return is_written(DicomPaths(PredictionFolder(folder).dicom_folder, case_id), output.dicom)


def _is_dicom(case: RawCase) -> bool:
    """Return whether the first channel of a case, on the grid of which the results lie, is DICOM."""
    path = case.images[0].path
    return path.is_dir() or (file_ending(path) is None and is_dicom_file(path))


def _check_dicom(case: RawCase, output: OutputOptions) -> None:
    """Check that DICOM objects can refer to the scan, before the prediction takes time."""
    if output.dicom is not None and output.dicom_is_required and not _is_dicom(case):
        raise DetSeg3DError(
            "DICOM results need a scan in DICOM format",
            file=case.images[0].path,
            expected="a folder of DICOM files",
            remedy="leave out --dicom_seg, --dicom_sr and --rtstruct, or predict and give the DICOM folder to "
            "detseg3d_export_dicom",
        )


def warn_without_lesions(inference: InferencePlan, outcomes: Mapping[str, CaseOutcome]) -> None:
    """Log a warning with the reason if no lesion was found in any of the cases.

    Parameters
    ----------
    inference : InferencePlan
        Thresholds that were used.
    outcomes : mapping of str to CaseOutcome
        Outcomes by case id.
    """
    message = explain_no_lesions(outcomes, inference)
    if message is not None:
        logger.warning("%s", message)


def _reason(error: Exception) -> str:
    """Describe an error that nobody foresaw."""
    return str(out_of_memory(error)) if is_out_of_memory(error) else f"{type(error).__name__}: {error}"


def _outcome(prediction: Prediction, candidates: Candidates) -> CaseOutcome:
    scores = [candidate.score for candidate in prediction.candidates]
    return CaseOutcome(len(prediction.lesions), candidates.highest_detection, max(scores, default=None))
