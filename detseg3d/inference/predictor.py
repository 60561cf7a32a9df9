"""The predictor: a trained model that turns scans into masks and boxes, from memory or folder to folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import RawCase, list_inputs
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending, read_channels, read_geometry, write_image
from detseg3d.inference.candidates import Candidates, loose_suppression
from detseg3d.inference.candidates import save_candidates as write_candidates
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.memory import prediction_bytes
from detseg3d.inference.model_folder import (
    fold_folders,
    load_reference,
    restrict_mirroring,
    same_network,
)
from detseg3d.inference.no_lesions import CaseOutcome, explain_no_lesions
from detseg3d.inference.operating_point import apply_operating_point
from detseg3d.inference.result import (
    CasePrediction,
    check_input_stays,
    check_inputs_stay,
    describe_case,
    is_exported,
    write_case,
    write_tables,
)
from detseg3d.models.custom import check_network_is_named
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.ensemble import DetectOptions, GridImages, detect, segment_rois
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.weights import check_weights, load_weights
from detseg3d.planning.appearance.comparison import Similarity
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.appearance.training import TrainingAppearance
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.preprocessing.case import CaseTransform, preprocess_case
from detseg3d.system.device import precision_in_use, resolve_device
from detseg3d.system.files import check_writable, remove_files
from detseg3d.system.memory import is_out_of_memory, out_of_memory, require_memory
from detseg3d.system.signals import raise_if_interrupted
from detseg3d.system.workers import is_bar_shown, release_frames

__all__ = ["Predictor"]

logger = logging.getLogger(__name__)

_TOO_LARGE = "crop the scan, use a machine with more memory, or raise --memory_gb if this one has it"


class Predictor:
    """One or several trained folds, ready to predict.

    Parameters
    ----------
    models : sequence of DetSeg3D
        With equal plans; put into evaluation mode on ``device``.
    plans : Plans
        Its ``inference`` section holds the thresholds that are used.
    device : torch.device
    use_mirroring : bool
        Average Stage 1 over the flips that the plan names.
    memory_gb : float, optional
        Memory that a scan may take, itself included; by default what is free.
    reference : TrainingAppearance, optional
        What the training scans look like. Without it, no scan is compared with them.

    Examples
    --------
    >>> predictor = Predictor.from_model_folder("results/Dataset101_SynthMS", folds=(0, 1))   # doctest: +SKIP
    >>> result = predictor.predict_array(scan, spacing=(1.0, 1.0, 1.0))                       # doctest: +SKIP
    >>> result.lesions[0]["score"], result.instances.max()                                    # doctest: +SKIP
    """

    def __init__(
        self,
        models: Sequence[DetSeg3D],
        plans: Plans,
        device: torch.device,
        use_mirroring: bool = True,
        memory_gb: float | None = None,
        reference: TrainingAppearance | None = None,
    ) -> None:
        if not models:
            raise ValueError("a predictor needs at least one model")
        self.models = [model.to(device).eval() for model in models]
        self.plans = plans
        self.device = device
        self.mirror_axes = plans.inference.mirror_axes if use_mirroring else ()
        self.memory_gb = memory_gb
        self.reference = reference

    @classmethod
    def from_model_folder(
        cls,
        folder: str | Path,
        folds: Sequence[str | int] | None = None,
        checkpoint: str = "final",
        device: str | None = None,
        use_mirroring: bool = True,
        candidate_threshold: float | None = None,
        score_threshold: float | None = None,
        use_operating_point: bool = True,
        build_model: Callable[[Plans], DetSeg3D] = DetSeg3D,
        memory_gb: float | None = None,
    ) -> Predictor:
        """Load the folds of a results folder.

        Parameters
        ----------
        folder : path
            ``results/DatasetXXX_Name``, with ``fold_0``, ``fold_1``, …
        folds : sequence, optional
            Default: all that are there.
        checkpoint : {"final", "best"}
        device : str, optional
        use_mirroring : bool
        candidate_threshold, score_threshold : float, optional
            Instead of the operating point's or the plan's. With a score threshold there is no scan threshold.
        use_operating_point : bool
            Use the thresholds and the calibration that ``detseg3d_consolidate`` stored with the model, if it did.
        build_model : callable, optional
            Makes the network of a plan, if it was trained with another than :class:`DetSeg3D`.
        memory_gb : float, optional
            Memory that a scan may take, itself included; by default what is free.

        Raises
        ------
        DetSeg3DError
            If a fold, its weights or the description of its training scans are not there, the weights are not those of
            the plans, or the folds were trained with different plans.
        """
        folder = Path(folder)
        target = resolve_device(device)
        chosen = fold_folders(folder, folds, checkpoint)
        plans = load_plans(chosen[0].plans)
        thresholds = {"candidate_threshold": candidate_threshold, "score_threshold": score_threshold}
        if score_threshold is not None:
            thresholds["scan_threshold"] = 0.0  # whoever says what a lesion is means it in every scan
        models, trained_with, references = [], [], []
        for fold in chosen:
            own = load_plans(fold.plans)
            if not same_network(own, plans):
                raise DetSeg3DError(
                    "the folds were trained with different plans",
                    file=fold.plans,
                    remedy=f"predict with fewer folds (-f), or train this one with the plans of {chosen[0].path.name}",
                )
            if build_model is DetSeg3D:
                check_network_is_named(own)
            # Before a network of that size is made.
            check_weights(own, fold.weights(checkpoint), build_model)
            model = build_model(own)
            load_weights(model, fold.weights(checkpoint))
            models.append(model)
            trained_with.append(own)
            references.append(load_reference(fold, own))
        plans = restrict_mirroring(plans, trained_with)
        if use_operating_point:
            weights = {fold.path.name: fold.weights(checkpoint) for fold in chosen}
            plans = apply_operating_point(plans, folder, weights, use_mirroring)
        plans = plans.evolve(inference={name: value for name, value in thresholds.items() if value is not None})
        trained_in = sorted({str(own.training.precision_used or "unknown") for own in trained_with})
        logger.info(
            "model: %s, %s; trained in %s, predicts in %s",
            folder.name,
            ", ".join(fold.path.name for fold in chosen),
            " and ".join(trained_in),
            precision_in_use(target),
        )
        return cls(models, plans, target, use_mirroring, memory_gb, TrainingAppearance.pooled(references))

    def predict_array(
        self, array: npt.NDArray[Any], spacing: Sequence[float], keep_probabilities: bool = False
    ) -> CasePrediction:
        """Predict a scan held in memory.

        Parameters
        ----------
        array : ndarray, shape ``(C, Z, Y, X)``, or ``(Z, Y, X)`` for one channel
            As it came from the scanner; preprocessing is the predictor's affair.
            Its axes are canonical: z runs towards Superior, y towards Posterior, x towards Left, as
            :func:`detseg3d.data.images.read_image` gives them.
        spacing : sequence of 3 floats
            mm ``(z, y, x)``.
        keep_probabilities : bool

        Returns
        -------
        CasePrediction
            On the grid of ``array``; world coordinates have their origin at the first voxel. Its ``similarity`` says
            whether the scan is unlike the training scans; a warning is logged, too.
        """
        images = np.asarray(array, dtype=np.float32)
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4:
            raise DetSeg3DError("a scan must have 3 or 4 axes", value=np.shape(array), expected="(C, Z, Y, X)")
        z, y, x = (float(value) for value in spacing)
        depth, height, width = images.shape[1:]
        return self.predict_case(images, Geometry((depth, height, width), (z, y, x)), keep_probabilities)

    def predict_case(
        self, images: npt.NDArray[np.float32], geometry: Geometry, keep_probabilities: bool = False
    ) -> CasePrediction:
        """Predict a scan ``(C, Z, Y, X)`` in canonical order that lies at ``geometry``."""
        candidates = self.find_candidates(images, geometry)
        result = self.describe(candidates, geometry, keep_probabilities, self.compare(images, geometry))
        self._warn_of_limit(result, "the scan")
        return result

    def compare(self, images: npt.NDArray[np.float32], geometry: Geometry, name: str = "the scan") -> Similarity | None:
        """Compare a scan with the training scans; a scan that is unlike them is logged as a warning.

        Parameters
        ----------
        images : ndarray of float32, shape ``(C, Z, Y, X)``
            All finite, with the channels of the plans.
        geometry : Geometry
        name : str
            Of the scan, for the warning.

        Returns
        -------
        Similarity or None
            ``None`` if the predictor has no reference.
        """
        if self.reference is None:
            return None
        similarity = self.reference.compare(measure_appearance(images, geometry))
        if similarity.unlike:
            logger.warning("%s is unlike the training scans: %s", name, similarity.summary())
        return similarity

    def describe(
        self,
        candidates: Candidates,
        geometry: Geometry,
        keep_probabilities: bool = False,
        similarity: Similarity | None = None,
    ) -> CasePrediction:
        """Masks, lesions and their numbers from the candidates of a scan, by the plan's thresholds.

        ``similarity``, of the scan with the training scans, becomes a part of the result.

        Raises
        ------
        DetSeg3DError
            If there is no memory for the probabilities.
        """
        if keep_probabilities:  # of the scan, and twice of the lesions that are merged together
            require_memory(6 * self.plans.num_classes * math.prod(geometry.shape), "keeping probabilities")
        plans = candidates.calibrated(self.plans)
        merged = candidates.merge(plans, keep_probabilities)
        return describe_case(merged, candidates.found, geometry, plans, similarity, candidates.limit)

    def find_candidates(self, images: npt.NDArray[np.float32], geometry: Geometry, loose: bool = False) -> Candidates:
        """Both stages on a scan ``(C, Z, Y, X)``: all candidates above the detection threshold, with their RoI masks.

        Parameters
        ----------
        images : ndarray of float32, shape ``(C, Z, Y, X)``
        geometry : Geometry
        loose : bool
            Keep more of the duplicates, and twice as many candidates, for a search over suppression settings.

        Raises
        ------
        DetSeg3DError
            If the scan cannot be used, or is too large for the memory.
        """
        inference = loose_suppression(self.plans.inference) if loose else self.plans.inference
        case = preprocess_case(
            images, geometry.spacing, self.plans, admit=lambda transform: self._admit(transform, inference)
        )
        for channel in case.degenerate:
            name = self.plans.channel_names[channel.channel]
            logger.warning("channel %s says nothing to the network after normalisation: %s", name, channel.reason)
        image, transform = torch.from_numpy(case.image), case.transform
        del case
        limit = inference.candidate_limit(transform.fine_volume)
        output = detect(self.models, image, self._detect_options(inference, limit))
        del image
        # Straight onto the input's own grid: a mask is interpolated once on its way back, never twice.
        placed = [
            prediction._replace(roi=transform.boxes_to_original(prediction.roi[None])[0])
            for prediction in output.rois.predictions
        ]
        boxes = transform.boxes_to_original(output.candidates.boxes)
        candidates = Candidates(
            Detections(boxes, output.candidates.scores, output.candidates.classes),
            placed,
            geometry.shape,
            geometry.spacing,
            output.highest_probability,
            self.plans.inference.candidate_limit(transform.fine_volume),
        )
        members = output.rois.members
        return candidates if members is None else candidates.of_several(members, self.plans.inference)

    def _admit(self, transform: CaseTransform, inference: InferencePlan) -> None:
        """Raise if a scan on the fine grid is too large for the memory; the scan itself has been read."""
        in_memory = math.prod(transform.original_shape) * self.plans.num_channels * 4
        needed = prediction_bytes(self.plans, transform, self.device, inference)
        require_memory(
            needed if self.memory_gb is None else needed + in_memory,
            f"predicting this scan, {'×'.join(map(str, transform.fine_shape))} voxels of the fine grid,",
            allowed_gb=self.memory_gb,
            remedy=_TOO_LARGE,
        )

    def _admit_file(self, image: ImageSource) -> None:
        """Raise if a scan is too large even to be read; a folder of DICOM is read twice as fast if it is not asked."""
        if image.path.is_file():
            shape = read_geometry(image).shape
            require_memory(
                math.prod(shape) * 4 * (self.plans.num_channels + 1),
                f"reading this scan of {'×'.join(map(str, shape))} voxels",
                allowed_gb=self.memory_gb,
                remedy=_TOO_LARGE,
            )

    def segment_boxes(self, image: torch.Tensor, boxes: Detections) -> list[RoiPrediction]:
        """Run Stage 2 on given boxes of a preprocessed volume, averaged over networks and mirrored copies.

        Parameters
        ----------
        image : Tensor of float32, shape ``(C, Z, Y, X)``
            Normalised, on the fine grid.
        boxes : Detections
            Boxes in fine voxel edges.

        Returns
        -------
        list of RoiPrediction
            On the fine grid.
        """
        images = GridImages.of(self.models[0], image, self.device)
        return segment_rois(self.models, images, boxes, self._detect_options(self.plans.inference)).predictions

    def _detect_options(self, inference: InferencePlan, limit: int | None = None) -> DetectOptions:
        return DetectOptions(inference, tuple(self.mirror_axes), self.device, limit)

    def predict_files(
        self,
        cases: Sequence[RawCase],
        output_folder: str | Path,
        *,
        ending: str | None = None,
        options: InputOptions | None = None,
        continue_prediction: bool = False,
        save_probabilities: bool = False,
        save_candidates: bool = False,
        show_progress: bool = True,
    ) -> dict[str, str]:
        """Predict cases and write each result; a case that fails is reported and the others go on.

        A case whose result would take the place of its scan fails, and the scan stays.

        Parameters
        ----------
        cases : sequence of RawCase
            From :func:`detseg3d.data.dataset.list_cases`.
        output_folder : path
        ending : str, optional
            Format of the results; by default each case's own (``.nii.gz`` for DICOM).
        options : InputOptions, optional
            How images are read.
        continue_prediction : bool
            Skip cases whose result is complete.
        save_probabilities : bool
            Also write ``probabilities/CASE.npz``.
        save_candidates : bool
            Also write ``candidates/CASE.npz``, from which thresholds can be chosen later.
        show_progress : bool

        Returns
        -------
        dict
            Case id to message, for the cases that failed.

        Raises
        ------
        DetSeg3DError
            If nothing can be written to ``output_folder``, or not the tables of lesions and cases.
        """
        folder = Path(output_folder)
        if cases:
            check_writable(folder)
        options = options or InputOptions()
        failures: dict[str, str] = {}
        outcomes: dict[str, CaseOutcome] = {}
        bar = tqdm(cases, desc="predicting", unit="case", disable=not is_bar_shown(show_progress))
        for case in bar:
            own_ending = ending or file_ending(case.images[0].path) or ".nii.gz"
            wanted = [PredictionFolder(folder).candidates(case.case_id)] if save_candidates else []
            if (
                continue_prediction
                and is_exported(folder, case.case_id, own_ending, save_probabilities)
                and all(path.is_file() for path in wanted)
            ):
                logger.info("%s: there already", case.case_id)
                continue
            try:
                check_inputs_stay([image.path for image in case.images], case.case_id, folder, own_ending)
                outcome = self._predict_file(case, folder, own_ending, options, save_probabilities, save_candidates)
            except DetSeg3DError as error:
                raise_if_interrupted()
                failures[case.case_id] = str(error)
            except Exception as error:
                raise_if_interrupted()
                # A scan nobody foresaw must not cost the results of the others.
                logger.debug("%s failed", case.case_id, exc_info=True)
                failures[case.case_id] = _reason(error)
                release_frames(error)
            else:
                outcomes[case.case_id] = outcome
                logger.info("%s: %d lesion(s)", case.case_id, outcome.lesions)
        for case_id, message in failures.items():
            logger.error("%s failed: %s", case_id, message)
        if len(outcomes) + len(failures) == len(cases):
            self._warn_without_lesions(outcomes)
        if folder.exists():
            write_tables(folder)
        return failures

    def predict_file(self, case: RawCase, file: str | Path, options: InputOptions | None = None) -> CasePrediction:
        """Predict one case and write its semantic mask to ``file``, and nothing else.

        Parameters
        ----------
        case : RawCase
        file : path
            Its ending names the format; it need not be that of the scan.
        options : InputOptions, optional
            How images are read.

        Raises
        ------
        DetSeg3DError
            If the scan cannot be used, is too large for the memory or would be replaced, or if the file cannot be
            written.
        """
        path = Path(file)
        check_input_stays([image.path for image in case.images], path)
        check_writable(path.parent)
        try:
            images, geometry = self._read(case, options or InputOptions())
            candidates = self.find_candidates(images, geometry)
            similarity = self.compare(images, geometry, case.case_id)
            result = self.describe(candidates, geometry, similarity=similarity)
            write_image(result.semantic, result.geometry, path)
        except DetSeg3DError:
            raise_if_interrupted()
            raise
        except Exception as error:
            raise_if_interrupted()
            raise DetSeg3DError(f"this scan cannot be predicted: {_reason(error)}", file=case.images[0].path) from error
        logger.info("%s: %d lesion(s)", case.case_id, len(result.lesions))
        self._warn_of_limit(result, case.case_id)
        self._warn_without_lesions({case.case_id: _outcome(result, candidates)})
        return result

    def _warn_of_limit(self, result: CasePrediction, name: str) -> None:
        """Log a warning if the scan has as many candidates as the plan allows."""
        if result.limit_reached:
            logger.warning(
                "%s reaches the limit of %d candidates: weaker candidates were left out, and lesions may be missing. "
                "To allow more, raise %s in the plans.json of the model's folds",
                name,
                result.candidate_limit,
                limiting_setting(self.plans.inference, result.candidate_limit),
            )

    def _warn_without_lesions(self, outcomes: Mapping[str, CaseOutcome]) -> None:
        message = explain_no_lesions(outcomes, self.plans.inference)
        if message is not None:
            logger.warning("%s", message)

    def _read(self, case: RawCase, options: InputOptions) -> tuple[npt.NDArray[np.float32], Geometry]:
        """The channels of a case and their place, if the memory allows it."""
        images = options.apply(case.images, self.plans)
        self._admit_file(images[0])
        return read_channels(images)

    def _predict_file(
        self,
        case: RawCase,
        folder: Path,
        ending: str,
        options: InputOptions,
        save_probabilities: bool,
        save_candidates: bool,
    ) -> CaseOutcome:
        """Write the result of one case. The memory that the case took is free when this returns."""
        images, geometry = self._read(case, options)
        candidates = self.find_candidates(images, geometry, loose=save_candidates)
        similarity = self.compare(images, geometry, case.case_id)
        if save_candidates:
            write_candidates(candidates, PredictionFolder(folder).candidates(case.case_id))
            candidates = candidates.admitted(self.plans.inference)
        else:
            # An earlier prediction, perhaps by another model, may have left candidates.
            remove_files(PredictionFolder(folder).candidates(case.case_id))
        result = self.describe(candidates, geometry, save_probabilities, similarity)
        self._warn_of_limit(result, case.case_id)
        write_case(result, case.case_id, folder, ending)
        return _outcome(result, candidates)

    def list_inputs(self, source: str | Path, series: Sequence[str] = ()) -> tuple[RawCase, ...]:
        """The cases of an input folder, or of a single image file.

        Parameters
        ----------
        source : path
        series : sequence of str, optional
            Series that are chosen in DICOM folders. The subfolders of one study are then one case. If there is a
            series for each of several channels, all channels of a case are read from one folder.

        Raises
        ------
        DetSeg3DError
            If there is none, or channels are missing.
        """
        return list_inputs(source, self.plans.num_channels, series)


def limiting_setting(inference: InferencePlan, limit: int | None) -> str:
    """The setting of the plan that decides the limit of candidates of a scan.

    Examples
    --------
    >>> plan = InferencePlan(candidate_density=1e-3, min_candidates=100, max_candidates=5000)
    >>> [limiting_setting(plan, plan.candidate_limit(volume)) for volume in (1e4, 1e6, 1e8)]
    ['inference.min_candidates', 'inference.candidate_density', 'inference.max_candidates']
    """
    if limit == inference.max_candidates:
        return "inference.max_candidates"
    return "inference.min_candidates" if limit == inference.min_candidates else "inference.candidate_density"


def _reason(error: Exception) -> str:
    """What to say of an error that nobody foresaw."""
    return str(out_of_memory(error)) if is_out_of_memory(error) else f"{type(error).__name__}: {error}"


def _outcome(result: CasePrediction, candidates: Candidates) -> CaseOutcome:
    scores = [candidate["score"] for candidate in result.candidates]
    return CaseOutcome(len(result.lesions), candidates.highest_detection, max(scores, default=None))
