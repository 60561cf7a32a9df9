"""Memory that the prediction of one scan takes."""

from __future__ import annotations

import math

import torch

from detseg3d.core.precision import Precision
from detseg3d.planning.memory import (
    BASE_INFERENCE,
    KEPT_OF_THE_OTHER_STAGE,
    LABEL_BYTES,
    NetworkPlan,
    Region,
    inference_bytes,
    stage2_inference_bytes,
)
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.preprocessing.case import CaseTransform
from detseg3d.system.device import precision_in_use

__all__ = ["network_bytes", "prediction_bytes"]

# For scans 7 and 17 times as large as planned, the measured peak was 1.03 and 0.93 of the formula (float32, one CPU
# core).
_MARGIN = 1.1


def prediction_bytes(
    plans: Plans, transform: CaseTransform, device: torch.device, inference: InferencePlan | None = None
) -> float:
    """Estimate the peak memory of predicting a scan, in bytes, not counting the scan itself.

    This is main memory, not memory of an accelerator. The estimate assumes as many candidates as the plan allows, so
    most scans need less.

    Parameters
    ----------
    plans : Plans
    transform : CaseTransform
        Grids of the scan, which may be far larger than the training scans.
    device : torch.device
        An accelerator holds the feature maps in its own memory, and raises an error if that memory is exhausted.
    inference : InferencePlan, optional
        Section that decides the limit of candidates; by default the section of ``plans``.

    Returns
    -------
    float
    """
    fine, original = math.prod(transform.fine_shape), math.prod(transform.original_shape)
    # Masks are made on the grid of the scan, which may be larger or smaller than the fine grid.
    masks = (original - fine) * LABEL_BYTES
    precision = precision_in_use(device)
    candidates = (inference or plans.inference).candidate_limit(transform.fine_volume)
    if device.type != "cpu":
        _, outlines = _stage2_bytes(plans, candidates, precision)
        return _MARGIN * (fine * (plans.num_channels * 4 + LABEL_BYTES) + masks + outlines)
    shape = [math.ceil(n / scale - 1e-6) for n, scale in zip(transform.fine_shape, plans.detection_scale, strict=True)]
    return _MARGIN * (network_bytes(plans, Region(shape, fine), candidates, precision) + max(0, masks))


def network_bytes(plans: Plans, region: Region, candidates: int, precision: Precision) -> float:
    """Estimate the peak memory of both stages on a whole volume, in bytes, not counting the volume itself.

    Parameters
    ----------
    plans : Plans
    region : Region
        The volume.
    candidates : int
        Number of candidates that Stage 2 segments.
    precision : Precision
        Precision of the feature maps.

    Returns
    -------
    float
    """
    maps, outlines = _stage2_bytes(plans, candidates, precision)
    smaller, larger = sorted((inference_bytes(NetworkPlan.of(plans, precision), region), maps))
    return BASE_INFERENCE + larger + KEPT_OF_THE_OTHER_STAGE * smaller + outlines


def _stage2_bytes(plans: Plans, candidates: int, precision: Precision) -> tuple[float, float]:
    return stage2_inference_bytes(plans.stage2, plans.roi.size, plans.inference.roi_batch_size, candidates, precision)
