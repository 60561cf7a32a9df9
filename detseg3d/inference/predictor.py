"""The predictor: a trained model that turns scans into lesions.

:mod:`detseg3d.inference.load` reads the model, and :mod:`detseg3d.pipeline.predict` predicts files.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.data.dataset import RawCase, list_inputs
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_channels, read_geometry
from detseg3d.evaluation.cross_validation import ShiftSummary
from detseg3d.inference.candidates import Candidates, loose_suppression
from detseg3d.inference.expectation import Expectation, expect_recall
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.load import load_model
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.memory import prediction_bytes, slabs_that_fit
from detseg3d.inference.result import Prediction, describe_case
from detseg3d.models.ensemble import DetectOptions, GridImages, detect, segment_rois
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.two_stage import TwoStageNetwork
from detseg3d.planning.appearance.comparison import Similarity
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.appearance.training import TrainingAppearance
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.planning.slabs import Passes
from detseg3d.preprocessing.case import CaseTransform, check_scan, preprocess_case
from detseg3d.system.memory import memory_limit, require_memory

__all__ = ["Predictor"]

logger = logging.getLogger(__name__)

_TOO_LARGE = "crop the scan, use a machine with more memory, or raise --memory_gb if this machine has it"


class Predictor:
    """One or several trained networks, ready to predict.

    Parameters
    ----------
    models : sequence of TwoStageNetwork
        Networks with equal plans. They are put into evaluation mode and moved to ``device``.
    plans : Plans
        The section ``inference`` holds the thresholds that are used.
    device : torch.device
    use_mirroring : bool
        Average over the mirrored copies that the plan names.
    memory_gb : float, optional
        Memory in GB that a scan may take, including the scan itself; by default the free memory.
    reference : TrainingAppearance, optional
        Appearance of the training scans. Without it, scans are not compared with the training scans.

    Attributes
    ----------
    shifts : ShiftSummary or None
        Metrics of shifted validation scans at the thresholds of ``plans``. Without them, the recall to expect on a scan
        that is unlike the training scans is unknown.
    identity : ModelIdentity
        Name of the model, and a digest of its weights if it was read from a folder.

    Examples
    --------
    >>> predictor = Predictor.from_model_folder("results/Dataset101_SynthMS", folds=(0, 1))   # doctest: +SKIP
    >>> prediction = predictor.predict_array(scan, spacing=(1.0, 1.0, 1.0))                   # doctest: +SKIP
    >>> prediction.lesions[0].score, prediction.instances.max()                               # doctest: +SKIP
    """

    def __init__(
        self,
        models: Sequence[TwoStageNetwork],
        plans: Plans,
        device: torch.device,
        use_mirroring: bool = True,
        memory_gb: float | None = None,
        reference: TrainingAppearance | None = None,
    ) -> None:
        if not models:
            raise ValueError("a predictor needs at least one model")
        self.models = [model.ready_on(device) for model in models]
        self.plans = plans
        self.device = device
        self.mirror_axes = plans.inference.mirror_axes if use_mirroring else ()
        self.memory_gb = memory_gb
        self.reference = reference
        self.shifts: ShiftSummary | None = None
        self.identity = ModelIdentity(plans.dataset_name)

    @classmethod
    def from_model_folder(
        cls, folder: str | Path, folds: Sequence[str | int] | None = None, options: LoadOptions | None = None
    ) -> Predictor:
        """Load the folds of a results folder.

        Parameters
        ----------
        folder : path
            ``results/DatasetXXX_Name``, with ``fold_0``, ``fold_1``, …
        folds : sequence, optional
            Names of the folds; by default all trained folds.
        options : LoadOptions, optional
            Weights, device, thresholds and network.

        Returns
        -------
        Predictor

        Raises
        ------
        DetSeg3DError
            For the reasons of :func:`~detseg3d.inference.load.load_model`.
        """
        options = options or LoadOptions()
        model = load_model(folder, folds, options)
        predictor = cls(
            model.networks, model.plans, model.device, options.use_mirroring, options.memory_gb, model.reference
        )
        predictor.shifts = model.shifts
        predictor.identity = model.identity
        return predictor

    def __repr__(self) -> str:
        return f"Predictor({self.plans.dataset_name}, {len(self.models)} network(s) on {self.device})"

    def predict_array(
        self, array: npt.NDArray[Any], spacing: Sequence[float], keep_probabilities: bool = False
    ) -> Prediction:
        """Predict a scan in memory.

        Parameters
        ----------
        array : ndarray, shape ``(C, Z, Y, X)``, or ``(Z, Y, X)`` for one channel
            Intensities as the scanner gave them; the predictor normalises and resamples. The axes are canonical: z
            towards Superior, y towards Posterior, x towards Left, as from :func:`detseg3d.data.images.read_image`.
        spacing : sequence of 3 floats
            Voxel size ``(z, y, x)`` in mm.
        keep_probabilities : bool
            Also return the probability maps of the classes.

        Returns
        -------
        Prediction
            On the grid of ``array``. World coordinates have their origin at the first voxel.

        Raises
        ------
        DetSeg3DError
            If the array has another number of axes or channels, holds values that are not finite, or is too large for
            the memory.
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
    ) -> Prediction:
        """Predict a scan ``(C, Z, Y, X)`` in canonical order that lies at ``geometry``."""
        similarity = self.compare(images, geometry)
        candidates = self.find_candidates(images, geometry, similarity)
        prediction = self.describe(candidates, geometry, keep_probabilities, similarity, images)
        self.warn_of_limit(prediction, "the scan")
        return replace(prediction, image=images[0])

    def compare(self, images: npt.NDArray[np.float32], geometry: Geometry, name: str = "the scan") -> Similarity | None:
        """Compare a scan with the training scans; if it is unlike them, log a warning with the recall to expect.

        Parameters
        ----------
        images : ndarray of float32, shape ``(C, Z, Y, X)``
        geometry : Geometry
        name : str
            Name of the scan, for the warning.

        Returns
        -------
        Similarity or None
            ``None`` if the predictor has no reference.

        Raises
        ------
        DetSeg3DError
            If the scan cannot be used (:func:`~detseg3d.preprocessing.case.check_scan`).
        """
        check_scan(images, geometry.spacing, self.plans)
        if self.reference is None:
            return None
        similarity = self.reference.compare(measure_appearance(images, geometry))
        if similarity.unlike:
            expected = expect_recall(similarity.differences, self.shifts).describe()
            logger.warning("%s is unlike the training scans: %s; %s", name, similarity.summary(), expected)
        return similarity

    def describe(
        self,
        candidates: Candidates,
        geometry: Geometry,
        keep_probabilities: bool = False,
        similarity: Similarity | None = None,
        images: npt.NDArray[np.float32] | None = None,
    ) -> Prediction:
        """Merge the candidates of a scan by the plan's thresholds and describe the lesions.

        Parameters
        ----------
        candidates : Candidates
            From :meth:`find_candidates`.
        geometry : Geometry
        keep_probabilities : bool
            Also return the probability maps of the classes.
        similarity : Similarity, optional
            From :meth:`compare`; it becomes part of the result.
        images : ndarray of float32, shape ``(C, Z, Y, X)``, optional
            The scan as it was read, in which the intensities of the lesions are measured.

        Returns
        -------
        Prediction

        Raises
        ------
        DetSeg3DError
            If the probabilities do not fit into the memory.
        """
        if keep_probabilities:  # maps of float16: of the scan, and twice of the lesions that are merged together
            require_memory(6 * self.plans.num_classes * math.prod(geometry.shape), "keeping probabilities")
        plans = candidates.calibrated(self.plans)
        merged = candidates.merge(plans, keep_probabilities)
        prediction = describe_case(merged, candidates, geometry, plans, similarity, images)
        return replace(prediction, expectation=self._expectation(similarity), model=self.identity)

    def _expectation(self, similarity: Similarity | None) -> Expectation | None:
        """Return the recall to expect on a scan that is unlike the training scans, otherwise ``None``."""
        if similarity is None or not similarity.unlike:
            return None
        return expect_recall(similarity.differences, self.shifts)

    def find_candidates(
        self,
        images: npt.NDArray[np.float32],
        geometry: Geometry,
        similarity: Similarity | None = None,
        loose: bool = False,
        outline_all: bool = False,
    ) -> Candidates:
        """Run both stages on a scan; return all candidates above the detection threshold with their RoI masks.

        Candidates that cannot influence the lesions have no RoI (:mod:`detseg3d.models.merging.influence`).

        Parameters
        ----------
        images : ndarray of float32, shape ``(C, Z, Y, X)``
        geometry : Geometry
        similarity : Similarity, optional
            From :meth:`compare`. If the scan is unlike the training scans, smaller components of the dense map become
            candidates.
        loose : bool
            Keep more duplicates and twice as many candidates, for a later search over suppression settings. All of them
            have RoIs.
        outline_all : bool
            Outline all candidates, for a later choice of other thresholds.

        Returns
        -------
        Candidates
            On the grid of the scan.

        Raises
        ------
        DetSeg3DError
            If the scan cannot be used, or is too large for the memory.
        """
        is_unlike = similarity is not None and similarity.unlike
        inference = self.plans.inference.for_unlike_scan() if is_unlike else self.plans.inference
        if inference != self.plans.inference:
            logger.info("components of the dense map from %g mm³ become candidates", inference.dense_minimum_mm3)
        if loose:
            inference = loose_suppression(inference)
        slabs = 1

        def admit(transform: CaseTransform) -> None:
            nonlocal slabs
            slabs = self._admit(transform, inference)

        case = preprocess_case(images, geometry.spacing, self.plans, admit=admit)
        for channel in case.degenerate:
            name = self.plans.channel_names[channel.channel]
            logger.warning("channel %s carries no information after normalisation: %s", name, channel.reason)
        image, transform = torch.from_numpy(case.image), case.transform
        del case
        limit = inference.candidate_limit(transform.fine_volume)
        reach = None if loose or outline_all else transform.scale
        options = replace(self._detect_options(inference, limit), slabs=slabs, reach=reach)
        output = detect(self.models, image, options)
        del image
        # RoIs are pasted on the grid of the input directly, so a mask is interpolated once and not twice.
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

    def _admit(self, transform: CaseTransform, inference: InferencePlan) -> int:
        """Return in how many slabs Stage 1 must run so that a scan, which has been read, fits into the memory.

        Raises
        ------
        DetSeg3DError
            If the scan does not even fit in slabs, or needs slabs but the networks cannot run in slabs.
        """
        in_memory = math.prod(transform.original_shape) * self.plans.num_channels * 4
        precision = self.models[0].precision_on(self.device)
        slabs, several = 1, len(self.models) > 1 or len(self.mirror_axes) > 0
        limit = memory_limit(self.memory_gb)
        if limit is not None and self.memory_gb is not None:
            limit -= in_memory
        if all(model.runs_in_slabs for model in self.models):
            slabs = slabs_that_fit(self.plans, transform, self.device, limit, inference, several)
        needed = prediction_bytes(self.plans, transform, self.device, inference, Passes(slabs, several), precision)
        needed *= max(model.memory_factor for model in self.models)
        if limit is not None and needed > limit:
            require_memory(
                needed if self.memory_gb is None else needed + in_memory,
                f"predicting this scan, {'×'.join(map(str, transform.fine_shape))} voxels of the fine grid,",
                allowed_gb=self.memory_gb,
                remedy=_TOO_LARGE,
            )
        if slabs > 1:
            logger.info(
                "the feature maps of %s voxels do not fit into the memory: Stage 1 runs in %d slabs and takes longer",
                "×".join(map(str, transform.fine_shape)),
                slabs,
            )
        return slabs

    def _admit_file(self, image: ImageSource) -> None:
        """Raise an error if a scan is too large to be read. DICOM folders are not checked, to save time."""
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

    def warn_of_limit(self, prediction: Prediction, name: str) -> None:
        """Log a warning if a scan, called ``name``, has as many candidates as the plan allows."""
        if prediction.limit_reached:
            logger.warning(
                "%s reaches the limit of %d candidates: weaker candidates were left out, and lesions may be missing. "
                "To allow more, raise %s in the plans.json of the model's folds",
                name,
                prediction.candidate_limit,
                limiting_setting(self.plans.inference, prediction.candidate_limit),
            )

    def read(self, case: RawCase, options: InputOptions) -> tuple[npt.NDArray[np.float32], Geometry]:
        """Read the channels of a case and their geometry.

        Returns
        -------
        images : ndarray of float32, shape ``(C, Z, Y, X)``
        geometry : Geometry

        Raises
        ------
        DetSeg3DError
            If the scan is too large for the memory, or a channel cannot be read.
        """
        images = options.apply(case.images, self.plans)
        self._admit_file(images[0])
        return read_channels(images)

    def list_inputs(self, source: str | Path, series: Sequence[str] = ()) -> tuple[RawCase, ...]:
        """List the cases of an input folder, or of a single image file.

        Parameters
        ----------
        source : path
        series : sequence of str, optional
            Series to read from DICOM folders. The subfolders of one study are then one case. If there is a series for
            each of several channels, all channels of a case are read from one folder.

        Returns
        -------
        tuple of RawCase

        Raises
        ------
        DetSeg3DError
            If there is no case, or channels are missing.
        """
        return list_inputs(source, self.plans.num_channels, series)


def limiting_setting(inference: InferencePlan, limit: int | None) -> str:
    """Return the name of the plan's setting that decides the limit of candidates of a scan.

    Examples
    --------
    >>> plan = InferencePlan(candidate_density=1e-3, min_candidates=100, max_candidates=5000)
    >>> [limiting_setting(plan, plan.candidate_limit(volume)) for volume in (1e4, 1e6, 1e8)]
    ['inference.min_candidates', 'inference.candidate_density', 'inference.max_candidates']
    """
    if limit == inference.max_candidates:
        return "inference.max_candidates"
    return "inference.min_candidates" if limit == inference.min_candidates else "inference.candidate_density"
