"""The thresholds, their fields, and how reports show them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from detseg3d.planning.sections import InferencePlan
from detseg3d.planning.thresholds import NO_GROWTH, THRESHOLD_FIELDS, ThresholdField, Thresholds

FIELDS = {field.name: field for field in THRESHOLD_FIELDS}


def test_there_is_one_field_for_each_threshold() -> None:
    assert list(FIELDS) == list(Thresholds.model_fields) == list(Thresholds().values())
    assert len(FIELDS) == 8


@pytest.mark.parametrize("field", THRESHOLD_FIELDS, ids=lambda field: field.name)
def test_every_field_has_a_label_a_description_and_a_default_in_its_range(field: ThresholdField) -> None:
    assert field.label and field.description
    assert field.default == field.value(Thresholds())
    for value, allowed in ((field.lowest, True), (field.lowest - 0.01, False), (field.highest, True)):
        if value is None:
            continue
        if allowed:
            assert field.value(Thresholds(**{field.name: value})) == value
        else:
            with pytest.raises(ValidationError):
                Thresholds(**{field.name: value})
    if field.highest is not None:
        with pytest.raises(ValidationError):
            Thresholds(**{field.name: field.highest + 0.01})


def test_a_label_names_the_unit_of_values_that_are_not_fractions() -> None:
    assert FIELDS["minimum_volume_mm3"].label_with_unit == "smallest lesion (mm³)"
    assert FIELDS["score_threshold"].label_with_unit == FIELDS["score_threshold"].label


@pytest.mark.parametrize(("growth", "shown"), [(0.3, 0.3), (0.5, None), (1.0, None)])
def test_a_report_shows_the_growth_threshold_only_if_it_has_an_effect(growth: float, shown: float | None) -> None:
    inference = InferencePlan(join_touching=True, score_threshold=0.5, growth_threshold=growth)
    assert FIELDS["growth_threshold"].shown(inference.thresholds) == shown
    assert inference.thresholds.growth_threshold == growth


def test_no_lesion_is_extended_if_masks_are_not_joined() -> None:
    thresholds = InferencePlan(join_touching=False, score_threshold=0.5, growth_threshold=0.3).thresholds
    assert thresholds.growth_threshold == NO_GROWTH
    assert not thresholds.has_growth


def test_thresholds_are_described_in_one_line_without_thresholds_that_have_no_effect() -> None:
    changes: dict[str, Any] = {"score_threshold": 0.7, "growth_threshold": NO_GROWTH, "minimum_volume_mm3": 4.5}
    assert Thresholds(**changes).describe() == (
        "candidate_threshold 0.1, score_threshold 0.7, mask_threshold 0.5, suppression_distance 0.5, "
        "suppression_iou 0.3, minimum_volume_mm3 4.5"
    )


def test_equal_thresholds_have_the_same_hash() -> None:
    assert len({Thresholds(), Thresholds().evolve(mask_threshold=0.4), Thresholds(mask_threshold=0.4)}) == 2


def test_an_unknown_threshold_is_refused() -> None:
    with pytest.raises(ValidationError):
        Thresholds(mask_treshold=0.5)
