"""How much memory the prediction of one scan takes."""

from __future__ import annotations

import math

import torch

from detseg3d.execution.device import autocast_dtype
from detseg3d.planning.memory import BYTES_PER_VALUE, LABEL_BYTES, inference_bytes, stage2_inference_bytes
from detseg3d.planning.plans import InferencePlan, Plans
from detseg3d.preprocessing.preprocessor import CaseTransform

__all__ = ["prediction_bytes"]

# Measured peaks of scans 7 and 17 times as large as planned were 1.03 and 0.93 of the formula (float32, one CPU core).
_MARGIN = 1.1


def prediction_bytes(
    plans: Plans, transform: CaseTransform, device: torch.device, inference: InferencePlan | None = None
) -> float:
    """Peak memory of predicting a scan above the scan itself, in bytes of the machine, not of an accelerator.

    Stage 2 is counted as if it ran while Stage 1's maps are kept, with as many candidates as the plan allows in a scan
    of this volume: most scans need less.

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
    size = BYTES_PER_VALUE if autocast_dtype(device) is not None else 4
    candidates = (inference or plans.inference).candidate_limit(transform.fine_volume)
    maps, outlines = stage2_inference_bytes(
        plans.stage2, plans.roi.size, plans.inference.roi_batch_size, candidates, size
    )
    if device.type != "cpu":
        return _MARGIN * (fine * (plans.num_channels * 4 + LABEL_BYTES) + masks + outlines)
    shape = [math.ceil(n / scale - 1e-6) for n, scale in zip(transform.fine_shape, plans.detection_scale, strict=True)]
    needed = inference_bytes(plans.stage1, shape, fine, plans.num_channels, plans.num_classes, size)
    return _MARGIN * (needed + max(0, masks) + maps + outlines)
