"""How much memory the prediction of one scan takes."""

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

# Measured peaks of scans 7 and 17 times as large as planned were 1.03 and 0.93 of the formula (float32, one CPU core).
_MARGIN = 1.1


def prediction_bytes(
    plans: Plans, transform: CaseTransform, device: torch.device, inference: InferencePlan | None = None
) -> float:
    """Peak memory of predicting a scan above the scan itself, in bytes of the machine, not of an accelerator.

    There are as many candidates as the plan allows in a scan of this volume: most scans need less.

    Parameters
    ----------
    plans : Plans
    transform : CaseTransform
        Of the scan, which may be far larger than those the plans were made for.
    device : torch.device
        On an accelerator the feature maps lie in memory of its own, which raises an error where it runs out.
    inference : InferencePlan, optional
        For the limit of candidates; by default that of the plans.
    """
    fine, original = math.prod(transform.fine_shape), math.prod(transform.original_shape)
    # Masks are made on the scan's own grid, which may be larger or smaller than the fine one.
    masks = (original - fine) * LABEL_BYTES
    precision = precision_in_use(device)
    candidates = (inference or plans.inference).candidate_limit(transform.fine_volume)
    if device.type != "cpu":
        _, outlines = _stage2_bytes(plans, candidates, precision)
        return _MARGIN * (fine * (plans.num_channels * 4 + LABEL_BYTES) + masks + outlines)
    shape = [math.ceil(n / scale - 1e-6) for n, scale in zip(transform.fine_shape, plans.detection_scale, strict=True)]
    return _MARGIN * (network_bytes(plans, Region(shape, fine), candidates, precision) + max(0, masks))


def network_bytes(plans: Plans, region: Region, candidates: int, precision: Precision) -> float:
    """Peak memory of both stages on a whole volume above the volume itself, in bytes.

    Parameters
    ----------
    plans : Plans
    region : Region
        The volume.
    candidates : int
        That Stage 2 outlines.
    precision : Precision
        Of the feature maps.
    """
    maps, outlines = _stage2_bytes(plans, candidates, precision)
    smaller, larger = sorted((inference_bytes(NetworkPlan.of(plans, precision), region), maps))
    return BASE_INFERENCE + larger + KEPT_OF_THE_OTHER_STAGE * smaller + outlines


def _stage2_bytes(plans: Plans, candidates: int, precision: Precision) -> tuple[float, float]:
    return stage2_inference_bytes(plans.stage2, plans.roi.size, plans.inference.roi_batch_size, candidates, precision)
