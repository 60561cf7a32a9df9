from __future__ import annotations

from dataclasses import replace

import pytest

from detseg3d.planning.label_format import label_format_of
from detseg3d.planning.plans import Plans
from tests.planning.factory import make_dataset


@pytest.mark.parametrize("instances", [False, True])
def test_the_plans_decide_how_labels_are_read(tiny_plans: Plans, instances: bool) -> None:
    form = label_format_of(
        tiny_plans.evolve(instances=instances), replace(make_dataset(), default_spacing=(3.0, 1.0, 1.0))
    )
    assert form.classes == {"lesion": 1} and form.default_spacing == (3.0, 1.0, 1.0)
    assert (form.truth_instances, form.prediction_instances) == (instances, False)


def test_the_classes_are_those_of_the_plans(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(class_names=("core", "rim"), class_labels=(2, 5))
    assert label_format_of(plans, make_dataset()).classes == {"core": 2, "rim": 5}
