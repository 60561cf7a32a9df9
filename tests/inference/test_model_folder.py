from __future__ import annotations

import pytest

from detseg3d.inference.model_folder import restrict_mirroring, same_network
from detseg3d.planning.plans import Plans


def test_folds_planned_before_the_spacing_of_arrays_was_kept_go_with_later_ones(tiny_plans: Plans) -> None:
    assert same_network(tiny_plans, tiny_plans.evolve(npy_spacing=(3.0, 1.0, 1.0)))


def test_copies_are_mirrored_as_all_folds_were_trained(tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    everywhere = tiny_plans.evolve(inference={"mirror_axes": (0, 1, 2)})
    across = tiny_plans.evolve(training={"mirror_axes": (2,)}, inference={"mirror_axes": (2,)})
    with caplog.at_level("WARNING", logger="detseg3d"):
        assert restrict_mirroring(everywhere, [everywhere, everywhere]) == everywhere
        assert restrict_mirroring(across, [across, everywhere]) == across
    assert not caplog.records
    assert restrict_mirroring(everywhere, [everywhere, across]).inference.mirror_axes == (2,)
    assert "not all trained on scans flipped along z y" in caplog.text
