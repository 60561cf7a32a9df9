"""Settings of the training command that replace values of the plans."""

from __future__ import annotations

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.overrides import TrainingOverrides, apply_overrides
from detseg3d.planning.plans import Plans


def test_overrides_replace_the_values_of_the_plan(tiny_plans: Plans) -> None:
    changed = apply_overrides(tiny_plans, TrainingOverrides(epochs=7, learning_rate=0.5))
    assert (changed.training.steps, changed.training.epochs, changed.training.learning_rate) == (28, 7, 0.5)
    assert changed.training.batch_size == tiny_plans.training.batch_size


def test_without_overrides_the_plans_stay(tiny_plans: Plans) -> None:
    assert apply_overrides(tiny_plans, TrainingOverrides()) == tiny_plans


def test_the_roi_size_is_an_override(tiny_plans: Plans) -> None:
    changed = apply_overrides(tiny_plans, TrainingOverrides(roi_size=24))
    assert changed.roi.size == (24, 24, 24) and changed.training == tiny_plans.training


def test_whole_volumes_replace_the_curriculum(tiny_plans: Plans) -> None:
    [phase] = apply_overrides(tiny_plans, TrainingOverrides(whole_volume=True)).training.curriculum
    assert (phase.fraction, phase.window) == (1.0, None)


@pytest.mark.parametrize(("disable", "axes"), [(True, ()), (False, (0, 1, 2))])
def test_mirrored_copies_may_be_left_out_for_good(tiny_plans: Plans, disable: bool, axes: tuple[int, ...]) -> None:
    usual = tiny_plans.evolve(inference={"mirror_axes": (0, 1, 2)})
    assert apply_overrides(usual, TrainingOverrides(disable_tta=disable)).inference.mirror_axes == axes


def test_axes_to_mirror_hold_for_training_and_inference(tiny_plans: Plans) -> None:
    changed = apply_overrides(
        tiny_plans.evolve(inference={"mirror_axes": (0, 1, 2)}), TrainingOverrides(mirror_axes=(2,))
    )
    assert changed.training.mirror_axes == changed.inference.mirror_axes == (2,)
    assert apply_overrides(tiny_plans.evolve(inference={"mirror_axes": ()}), TrainingOverrides(mirror_axes=(2,))) == (
        tiny_plans.evolve(training={"mirror_axes": (2,)}, inference={"mirror_axes": ()})
    )
    changed = apply_overrides(tiny_plans, TrainingOverrides(mirror_axes=(2,), disable_tta=True))
    assert (changed.training.mirror_axes, changed.inference.mirror_axes) == ((2,), ())


def test_bad_overrides_are_refused(tiny_plans: Plans) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        apply_overrides(tiny_plans, TrainingOverrides(epochs=0))
    assert "training.steps" in caught.value.problem


def test_epochs_are_turned_into_steps_and_validations_follow_the_length(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(training={"steps_per_epoch": 250, "val_every": 10})
    for overrides in (TrainingOverrides(epochs=40), TrainingOverrides(steps=10_000)):
        training = apply_overrides(plans, overrides).training
        assert (training.steps, training.epochs, training.val_every) == (10_000, 40, 4)
    assert apply_overrides(plans, TrainingOverrides(steps=10_000, val_every=7)).training.val_every == 7
    assert apply_overrides(plans, TrainingOverrides(learning_rate=0.1)).training.val_every == 10
