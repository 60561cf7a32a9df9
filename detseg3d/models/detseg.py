"""The two-stage network: detector and segmenter, their losses, and the segmentation of one volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.core.roi import inside_volume
from detseg3d.models.ensemble import DetectOptions, TwoStageOutput, detect
from detseg3d.models.merging.decode import Detections, decode, dense_levels, suppression_of
from detseg3d.models.merging.merge import merge_rois, roi_info
from detseg3d.models.networks.blocks import Conv3d
from detseg3d.models.networks.detector import Detector, DetectorOutput
from detseg3d.models.networks.segmenter import Segmenter, SegmenterOutput
from detseg3d.models.networks.slabs import detect_in_slabs, runs_in_slabs
from detseg3d.models.objectives.dense import DenseTargets, dense_loss, dense_targets
from detseg3d.models.objectives.losses import detection_losses, roi_mask_loss, roi_score_loss
from detseg3d.models.objectives.roi_batch import RoiBatch, instance_crops
from detseg3d.models.objectives.roi_sampling import RoiRule, RoiSample, sample_boxes
from detseg3d.models.objectives.targets import VolumeTargets, assign_levels, level_targets
from detseg3d.models.two_stage import TwoStageNetwork
from detseg3d.planning.plans import Plans
from detseg3d.planning.rules.rois import rois_of_window
from detseg3d.system.device import precision_in_use

__all__ = ["DetSeg3D", "Losses"]

# Lowest score of a proposal in training, far below any threshold of inference. Early in the training all scores are
# low, and even these proposals are better negatives than plain background.
_PROPOSAL_FLOOR = 0.02
_PROPOSALS_PER_VOLUME = 100


MaskLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Losses(NamedTuple):
    """The terms of the loss, each a scalar tensor of float32.

    Attributes
    ----------
    heatmap, size, offset : Tensor
        Stage 1: focal loss of the heatmaps, L1 loss of box sizes and centre offsets.
    dense : Tensor
        Stage 1: loss of the dense map; 0 if the plan has no dense map.
    segmentation, roi_score : Tensor
        Stage 2: loss of the masks and of the RoI scores.
    """

    heatmap: torch.Tensor
    size: torch.Tensor
    offset: torch.Tensor
    dense: torch.Tensor
    segmentation: torch.Tensor
    roi_score: torch.Tensor

    def total(self, mask_loss_weight: float, score_loss_weight: float) -> torch.Tensor:
        """Return the weighted sum of all terms: detection + weight · segmentation + weight · RoI score."""
        detection = self.heatmap + self.size + self.offset + self.dense
        return detection + mask_loss_weight * self.segmentation + score_loss_weight * self.roi_score


class DetSeg3D(nn.Module, TwoStageNetwork):
    """The two-stage network of a plan.

    Parameters
    ----------
    plans : Plans
    mask_loss : callable, optional
        Function from logits, target and weight, each ``(N, z, y, x)``, to the loss of each mask, ``(N,)``; by default
        :func:`~detseg3d.models.objectives.losses.roi_mask_loss`.

    Examples
    --------
    >>> model = DetSeg3D(plans)                                    # doctest: +SKIP
    >>> out = model(torch.zeros(1, 1, 64, 64, 64), mode="test")    # doctest: +SKIP
    >>> out["full_segmentation"].shape, out["roi_info"]            # doctest: +SKIP
    (torch.Size([64, 64, 64]), [])
    """

    def __init__(self, plans: Plans, mask_loss: MaskLoss = roi_mask_loss) -> None:
        super().__init__()
        self.plans = plans
        self.mask_loss = mask_loss
        self.detector = Detector(plans.stage1, plans.num_channels, plans.num_classes)
        features = plans.stage2.feature_channels
        self.project = Conv3d(plans.stage1.fpn_channels, features, 1) if features else None
        self.segmenter = Segmenter(plans.stage2, plans.num_channels, plans.num_classes, plans.stage1.channels[-1])
        # Channels-last makes bfloat16 convolutions 2 to 4 times as fast on a CPU (docs/concepts).
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def ready_on(self, device: torch.device) -> DetSeg3D:
        """Move the network to ``device`` and put it into evaluation mode; return it."""
        return self.to(device).eval()

    def precision_on(self, device: torch.device) -> Precision:
        """Return the precision of the feature maps on ``device``; never ``AUTO``."""
        return precision_in_use(device)

    # -- Stage 1 ------------------------------------------------------------------------------------------------

    def detect(self, image: torch.Tensor) -> DetectorOutput:
        """Run Stage 1 on ``(B, C, Z, Y, X)`` on the detection grid, padded (:meth:`to_detection_grid`)."""
        output: DetectorOutput = self.detector(image)
        return output

    @property
    def runs_in_slabs(self) -> bool:
        """False if a subclass changes Stage 1, because its layers may then need more than a slab of their input."""
        return type(self).detect is DetSeg3D.detect and runs_in_slabs(self.detector)

    def detect_in_slabs(self, image: torch.Tensor, slabs: int) -> DetectorOutput:
        """Run Stage 1 in slabs; see :func:`detseg3d.models.networks.slabs.detect_in_slabs`."""
        if not self.runs_in_slabs:
            return super().detect_in_slabs(image, slabs)
        return detect_in_slabs(self.detector, image, slabs)

    def roi_features(self, features: torch.Tensor) -> torch.Tensor | None:
        """Project features ``(B, F, z, y, x)`` of Stage 1 for Stage 2; ``None`` if the plan shares no features."""
        return None if self.project is None else self.project(features)

    # -- Stage 2 ------------------------------------------------------------------------------------------------

    def segment(
        self,
        crops: torch.Tensor,
        features: torch.Tensor | None,
        classes: torch.Tensor,
        context: torch.Tensor | None = None,
    ) -> SegmenterOutput:
        """Run Stage 2 on RoIs.

        Parameters
        ----------
        crops : Tensor, shape ``(N, C + 1, z, y, x)``
            From :meth:`crop_inputs`.
        features : Tensor, shape ``(N, F, z', y', x')``, or None
            From :meth:`crop_features`.
        classes : Tensor of int64, shape ``(N,)``
        context : Tensor, shape ``(N or 1, F, z'', y'', x'')``, optional
            Coarsest Stage 1 map of each RoI's volume, or one map for all RoIs. Used only with context attention.

        Returns
        -------
        SegmenterOutput
            Logits for the class of each RoI: mask ``(N, z, y, x)``, score ``(N,)``.
        """
        if not self.plans.stage2.context_attention:
            return self._own_class(self.segmenter(crops, features), classes)
        assert context is not None, "the plan asks for context attention"
        if len(context) == 1:
            context = context.expand(len(crops), -1, -1, -1, -1)
        return self._own_class(self.segmenter(crops, features, context), classes)

    @staticmethod
    def _own_class(output: SegmenterOutput, classes: torch.Tensor) -> SegmenterOutput:
        row = torch.arange(len(classes), device=output.mask.device)
        classes = classes.to(output.mask.device)
        return SegmenterOutput(output.mask[row, classes], output.score[row, classes])

    # -- Training -----------------------------------------------------------------------------------------------

    def losses(
        self,
        image: torch.Tensor,
        targets: Sequence[VolumeTargets],
        random: np.random.Generator,
        positives: float | None = None,
    ) -> Losses:
        """Compute the losses of a batch of windows or volumes.

        Parameters
        ----------
        image : Tensor of float32, shape ``(B, C, Z, Y, X)``
            Normalised, on the fine grid.
        targets : sequence of ``B`` VolumeTargets
        random : numpy Generator
            Draws the RoIs.
        positives : float, optional
            Divisor of the detection losses; by default the number of lesions in this batch, at least 1. The training
            passes the average number of lesions in a batch, so that each lesion has the same weight in windows with few
            and with many lesions.

        Returns
        -------
        Losses
        """
        output = self.detect(self.to_detection_grid(image))
        training = self.plans.training
        detection = detection_losses(output.levels, self._level_targets(output, targets), positives)
        dense = self._dense_loss(output.dense, targets, detection.heatmap)
        with torch.no_grad():
            samples = [
                self._sample(output, volume, target, image.shape[2:], random) for volume, target in enumerate(targets)
            ]
            batch = self._crop_batch(image, targets, samples, random)
        features = self.roi_features(output.features)
        cropped = None
        if features is not None:
            cropped = torch.cat([self.crop_features(features[i], rois) for i, rois in enumerate(batch.rois)])
        context = None
        if self.plans.stage2.context_attention and output.context is not None:
            counts = torch.tensor([len(rois) for rois in batch.rois], device=image.device)
            context = output.context.repeat_interleave(counts, dim=0)
        result = self.segment(batch.crops, cropped, batch.classes, context)
        share = torch.where(batch.positive > 0, 1.0, training.empty_roi_weight)
        segmentation = (self.mask_loss(result.mask, batch.target, batch.weight) * share).mean()
        return Losses(*detection, dense, segmentation, roi_score_loss(result.score, batch.positive))

    def _dense_loss(
        self, logits: torch.Tensor | None, targets: Sequence[VolumeTargets], like: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of the dense map, or a zero ``like`` another loss if there is no dense map."""
        if logits is None:
            return torch.zeros_like(like)
        cell_size = self.cell_sizes[self.plans.stage1.dense_level]
        wanted = dense_targets(targets, self.plans.num_classes, logits.shape[2:], cell_size)
        device = logits.device
        return dense_loss(logits, DenseTargets(wanted.occupancy.to(device), wanted.weight.to(device)))

    def _level_targets(self, output: DetectorOutput, targets: Sequence[VolumeTargets]) -> list[Any]:
        levels = [
            assign_levels(target.boxes, self.plans.fine_spacing, self.plans.stage1.level_max_sizes)
            for target in targets
        ]
        return [
            level_targets(
                [target.boxes[chosen == index] for target, chosen in zip(targets, levels, strict=True)],
                [target.classes[chosen == index] for target, chosen in zip(targets, levels, strict=True)],
                self.plans.num_classes,
                level.heatmap.shape[2:],
                self.cell_sizes[index],
                self.plans.stage1.boxes_per_class,
            )
            for index, level in enumerate(output.levels)
        ]

    def _sample(
        self,
        output: DetectorOutput,
        volume: int,
        target: VolumeTargets,
        shape: Sequence[int],
        random: np.random.Generator,
    ) -> RoiSample:
        training = self.plans.training
        proposals = decode(
            dense_levels(output.levels, volume),
            self.cell_sizes,
            shape,
            _PROPOSAL_FLOOR,
            suppression_of(self.plans.inference, _PROPOSALS_PER_VOLUME),
        )
        detection_voxels = math.prod(shape) / math.prod(self.plans.detection_scale)
        # The components above the usual minimum are too rare in training windows to learn from.
        smallest = self.plans.inference.smallest_component_mm3
        if output.dense is not None and smallest is not None:
            # Boxes that are too weak for a hard negative do not cover a component. So Stage 2 learns to judge
            # components that have no box of Stage 1.
            probability = output.dense[volume].float().sigmoid().cpu()
            components = self.components_from(smallest, probability, shape)
            strong = proposals[proposals.scores >= training.hard_negative_threshold]
            proposals = Detections.joined([proposals, components.select(~components.covered_by(strong)).detections])
            proposals = proposals[np.argsort(-proposals.scores, kind="stable")]
        rule = RoiRule(
            rois_of_window(training, self.plans.roi.size, detection_voxels),
            training.hard_negative_threshold,
            self.minimum_extent,
            self.plans.num_classes,
            training.positive_roi_fraction,
        )
        return sample_boxes(target, proposals, rule, random)

    def _crop_batch(
        self,
        image: torch.Tensor,
        targets: Sequence[VolumeTargets],
        samples: Sequence[RoiSample],
        random: np.random.Generator,
    ) -> RoiBatch:
        crops, masks, weights, rois_of = [], [], [], []
        size = self.plans.roi.size
        for volume, (target, sample) in enumerate(zip(targets, samples, strict=True)):
            tiles, parents = self.tiles(sample.boxes)
            # If several RoIs cover a box, one of them is drawn at random, so that each lesion counts once in the mean.
            chosen = [int(random.choice(np.flatnonzero(parents == index))) for index in range(len(sample))]
            rois = tiles[chosen].reshape(-1, 6)
            crops.append(self.crop_inputs(image[volume], sample.boxes, rois))
            inside = inside_volume(rois, image.shape[2:], size)[:, 0]
            mine, others = instance_crops(target, sample, rois, size)
            masks.append(mine)
            weights.append((1 - others) * inside)
            rois_of.append(rois)
        device = image.device
        return RoiBatch(
            torch.cat(crops),
            torch.cat(masks).to(device),
            torch.cat(weights).to(device),
            torch.from_numpy(np.concatenate([sample.classes for sample in samples])).to(device),
            # An RoI at the border of a large box may show nothing of its lesion. Then it counts as empty.
            (torch.cat(masks).flatten(1).amax(dim=1) > 0).float().to(device),
            rois_of,
        )

    # -- Both ---------------------------------------------------------------------------------------------------

    def infer(self, image: torch.Tensor) -> TwoStageOutput:
        """Run both stages on one fine volume ``(C, Z, Y, X)``, without mirrored copies.

        Returns
        -------
        TwoStageOutput
            See :func:`detseg3d.models.ensemble.detect`.
        """
        return detect([self], image, DetectOptions(self.plans.inference, device=image.device))

    def forward(
        self,
        image: torch.Tensor,
        mode: str = "test",
        targets: Sequence[VolumeTargets] | None = None,
        random: np.random.Generator | None = None,
    ) -> Any:
        """Compute the losses (``mode="train"``) or the segmentation of one volume (``mode="test"``).

        Parameters
        ----------
        image : Tensor of float32, shape ``(B, C, Z, Y, X)``
            Normalised, on the fine grid of the plan; ``B`` is 1 for ``mode="test"``.
        mode : {"train", "test"}
        targets : sequence of VolumeTargets, for ``mode="train"``
        random : numpy Generator, for ``mode="train"``
            By default a generator with seed 0.

        Returns
        -------
        Losses, or dict
            ``full_segmentation``: Tensor of uint8 (uint16 for labels beyond 255) ``(Z, Y, X)``, values of
            ``plans.class_labels``. ``instances``: Tensor of int32 ``(Z, Y, X)``. ``roi_info``: list of dicts, one per
            lesion (id, class, label, scores, box ``z0 y0 x0 z1 y1 x1`` in voxel edges, voxels), best score first.

        Raises
        ------
        DetSeg3DError
            If the mode is unknown, the targets are missing, or the shape does not fit the plan.
        """
        if image.ndim != 5 or image.shape[1] != self.plans.num_channels:
            raise DetSeg3DError(
                "the image does not fit the model",
                value=tuple(image.shape),
                expected=f"(B, {self.plans.num_channels}, Z, Y, X)",
            )
        if mode == "train":
            if targets is None or len(targets) != len(image):
                raise DetSeg3DError("mode 'train' needs the targets of every volume of the batch")
            return self.losses(image, targets, random if random is not None else np.random.default_rng(0))
        if mode != "test":
            raise DetSeg3DError("unknown mode", value=mode, expected="'train' or 'test'")
        if len(image) != 1:
            raise DetSeg3DError("mode 'test' takes one volume at a time", value=len(image), expected="a batch of 1")
        output = self.infer(image[0])
        merged = merge_rois(output.candidates, output.rois.predictions, image.shape[2:], self.plans)
        return {
            "full_segmentation": torch.from_numpy(merged.semantic),
            "instances": torch.from_numpy(merged.instances.astype(np.int32)),
            "roi_info": roi_info(merged, self.plans),
        }
