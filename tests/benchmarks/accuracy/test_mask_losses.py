"""The mask losses of the comparison: oracles by hand on a line of samples."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.accuracy.mask_losses import blob_dice_ce, component_dice_ce


def _line(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, None, None]


def test_a_perfect_mask_costs_nothing() -> None:
    target, weight = _line(1, 1, 0, 0), _line(1, 1, 1, 1)
    logits = 40 * (2 * target - 1)
    assert float(blob_dice_ce(logits, target, weight)) == pytest.approx(0, abs=1e-6)
    assert float(component_dice_ce(logits, target, weight)) == pytest.approx(0, abs=1e-6)


def test_the_dice_part_has_no_squares_in_its_denominator() -> None:
    target, weight = _line(1, 0), _line(1, 1)
    # All probabilities are 0.5: the overlap is 0.5, the volumes are 1 and 1.
    expected = math.log(2) + 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert float(blob_dice_ce(_line(0, 0), target, weight)) == pytest.approx(expected, rel=1e-5)


def test_an_error_nearer_to_another_lesion_costs_nothing_per_component() -> None:
    # The own lesion is sample 0, another lesion is sample 5. The error at sample 4 is nearer to the other lesion.
    target, weight = _line(1, 0, 0, 0, 0, 0), _line(1, 1, 1, 1, 1, 0)
    logits = _line(40, -40, -40, -40, 40, -40)
    assert float(component_dice_ce(logits, target, weight)) == pytest.approx(0, abs=1e-6)
    assert float(blob_dice_ce(logits, target, weight)) > 1


def test_an_roi_without_a_lesion_counts_all_its_samples() -> None:
    target, weight = _line(0, 0, 0), _line(1, 1, 0)
    logits = _line(0, 0, 9)
    assert float(component_dice_ce(logits, target, weight)) == pytest.approx(math.log(2), rel=1e-5)
