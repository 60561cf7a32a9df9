"""The part of a two-stage network that its plans decide, and the functions that inference needs of the rest.

:mod:`detseg3d.models.ensemble` runs any network of this kind: the networks of PyTorch
(:class:`detseg3d.models.detseg.DetSeg3D`), and exported networks (:class:`detseg3d.deploy.network.ExportedNetwork`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from detseg3d.core.arrays import Triple
from detseg3d.core.boxes import as_boxes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.core.roi import box_indicator, crop_features, crop_rois
from detseg3d.core.tiles import tile_boxes
from detseg3d.models.merging.components import ComponentRule, DenseComponents
from detseg3d.models.networks.detector import DetectorOutput
from detseg3d.models.networks.segmenter import SegmenterOutput
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan

__all__ = ["TwoStageNetwork"]


class TwoStageNetwork(ABC):
    """Grids, crops and RoIs of a plan. Subclasses add both stages.

    Attributes
    ----------
    plans : Plans
    """

    plans: Plans
    memory_factor: ClassVar[float] = 1.0
    """Memory of a prediction with this kind of network, divided by the memory with PyTorch."""

    @property
    def cell_sizes(self) -> tuple[tuple[float, float, float], ...]:
        """Fine voxels per cell ``(z, y, x)`` of each level."""
        return self.plans.cell_sizes()

    @property
    def minimum_extent(self) -> tuple[float, ...]:
        """Smallest extent ``(z, y, x)`` of an RoI in fine voxels."""
        roi = self.plans.roi
        return tuple(
            extent / spacing for extent, spacing in zip(roi.minimum_extent, self.plans.fine_spacing, strict=True)
        )

    @property
    def total_stride(self) -> Triple:
        """Detection voxels ``(z, y, x)`` per cell of the coarsest stage. Volumes are padded to a multiple of it."""
        return self.plans.stage1.cumulative_stride(len(self.plans.stage1.strides) - 1)

    @property
    def feature_size(self) -> Triple:
        """Samples ``(z, y, x)`` of the Stage 1 features in an RoI."""
        return self.plans.stage2.feature_size(self.plans.roi.size)

    # -- What a subclass runs -----------------------------------------------------------------------------------

    @abstractmethod
    def ready_on(self, device: torch.device) -> TwoStageNetwork:
        """Prepare the network for inference on ``device``; return it."""

    @abstractmethod
    def precision_on(self, device: torch.device) -> Precision:
        """Return the precision of the feature maps on ``device``; never ``AUTO``."""

    @abstractmethod
    def detect(self, image: torch.Tensor) -> DetectorOutput:
        """Run Stage 1 on ``(B, C, Z, Y, X)`` on the detection grid, padded (:meth:`to_detection_grid`)."""

    @property
    def runs_in_slabs(self) -> bool:
        """True if :meth:`detect_in_slabs` works."""
        return False

    def detect_in_slabs(self, image: torch.Tensor, slabs: int) -> DetectorOutput:
        """Run Stage 1 on one volume ``(1, C, Z, Y, X)`` like :meth:`detect`, with less memory.

        Parameters
        ----------
        image : Tensor, shape ``(1, C, Z, Y, X)``
            On the detection grid, padded.
        slabs : int
            Number of slabs of the largest feature map.

        Raises
        ------
        DetSeg3DError
            If :attr:`runs_in_slabs` is false.
        """
        raise DetSeg3DError(
            "this network cannot run in slabs",
            value=f"{type(self).__name__}, {slabs} slabs of a volume of {tuple(image.shape[2:])} voxels",
            remedy="use a machine with more memory",
        )

    @abstractmethod
    def roi_features(self, features: torch.Tensor) -> torch.Tensor | None:
        """Project features ``(B, F, z, y, x)`` of Stage 1 for Stage 2; ``None`` if the plan shares no features."""

    @abstractmethod
    def segment(
        self,
        crops: torch.Tensor,
        features: torch.Tensor | None,
        classes: torch.Tensor,
        context: torch.Tensor | None = None,
    ) -> SegmenterOutput:
        """Run Stage 2 on RoIs; see :meth:`detseg3d.models.detseg.DetSeg3D.segment`."""

    # -- Stage 1 ------------------------------------------------------------------------------------------------

    def to_detection_grid(self, image: torch.Tensor) -> torch.Tensor:
        """Resample ``(B, C, Z, Y, X)`` from the fine to the detection grid and pad it to the total stride.

        The padding is at the end of each axis. It is zero, the mean of a normalised channel.
        """
        scale = self.plans.detection_scale
        if any(abs(s - 1) > 1e-6 for s in scale):
            shape = [max(1, math.ceil(n / s - 1e-6)) for n, s in zip(image.shape[2:], scale, strict=True)]
            end = [n * s for n, s in zip(shape, scale, strict=True)]
            size = (shape[0], shape[1], shape[2])
            # The fine volume is cropped as one RoI that shows all of it.
            image = torch.stack([crop_rois(volume, [[0, 0, 0, *end]], size)[0] for volume in image])
        return self.pad_to_stride(image)

    def pad_to_stride(self, image: torch.Tensor) -> torch.Tensor:
        """Pad ``(B, C, Z, Y, X)`` with zeros at the end of each axis, to the total stride of the detector."""
        padding: list[int] = []
        for length, stride in zip(reversed(image.shape[2:]), reversed(self.total_stride), strict=True):
            padding += [0, -length % stride]
        return functional.pad(image, padding) if any(padding) else image

    def dense_components(
        self, probability: torch.Tensor, shape: Sequence[int], inference: InferencePlan
    ) -> DenseComponents:
        """Find the components of the dense map that may become candidates.

        Parameters
        ----------
        probability : Tensor of float32, shape ``(K, z, y, x)``
            On the CPU.
        shape : sequence of 3 ints
            Shape ``(z, y, x)`` of the volume on the fine grid.
        inference : InferencePlan
            Threshold and smallest volume of the components.

        Returns
        -------
        DenseComponents
            None if the plan asks for no components.
        """
        minimum = inference.dense_minimum_mm3
        return DenseComponents.none() if minimum is None else self.components_from(minimum, probability, shape)

    def components_from(self, minimum_mm3: float, probability: torch.Tensor, shape: Sequence[int]) -> DenseComponents:
        """Find the components of at least ``minimum_mm3`` mm³; see :meth:`dense_components`."""
        rule = ComponentRule(self.plans.inference.dense_threshold, minimum_mm3 / math.prod(self.plans.fine_spacing))
        return DenseComponents.find(probability, self.cell_sizes[self.plans.stage1.dense_level], shape, rule)

    # -- Stage 2 ------------------------------------------------------------------------------------------------

    def tiles(self, boxes: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return the RoIs of boxes by the plan's rule; see :func:`detseg3d.core.tiles.tile_boxes`."""
        roi = self.plans.roi
        return tile_boxes(boxes, roi.margin, self.minimum_extent, roi.size, roi.max_scale)

    def crop_inputs(self, image: torch.Tensor, boxes: npt.ArrayLike, rois: npt.ArrayLike) -> torch.Tensor:
        """Crop one fine volume ``(C, Z, Y, X)`` to RoIs and append the box indicator.

        Parameters
        ----------
        image : Tensor, shape ``(C, Z, Y, X)``
        boxes, rois : array_like, shape ``(N, 6)``
            Boxes and their RoIs in fine voxel edges.

        Returns
        -------
        Tensor, shape ``(N, C + 1, z, y, x)``
            ``z y x`` is the RoI size of the plan.
        """
        size = self.plans.roi.size
        crops = crop_rois(image, rois, size)
        return torch.cat([crops, box_indicator(boxes, rois, size).to(crops)], dim=1)

    def crop_features(self, features: torch.Tensor, rois: npt.ArrayLike) -> torch.Tensor:
        """Crop the features of one volume, ``(F, z, y, x)`` from :meth:`roi_features`, to RoIs in fine voxel edges."""
        cells = as_boxes(rois) / np.tile(np.asarray(self.cell_sizes[0]), 2)
        size = self.feature_size
        return crop_features(features, torch.from_numpy(cells.astype(np.float32)), size)
