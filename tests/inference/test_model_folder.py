from __future__ import annotations

from detseg3d.inference.model_folder import same_network
from detseg3d.planning.plans import Plans


def test_folds_planned_before_the_spacing_of_arrays_was_kept_go_with_later_ones(tiny_plans: Plans) -> None:
    assert same_network(tiny_plans, tiny_plans.evolve(npy_spacing=(3.0, 1.0, 1.0)))
