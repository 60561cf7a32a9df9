from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from detseg3d.core.augmentation import Augmentation
from detseg3d.training.augmentation.table import AugmentationTable, Change, table_of


def changes(table: AugmentationTable) -> dict[str, Change]:
    values = {entry.name: getattr(table, entry.name) for entry in fields(table)}
    return {name: value for name, value in values.items() if isinstance(value, Change)}


def test_nothing_changes_without_augmentation() -> None:
    assert table_of(Augmentation.NONE) == AugmentationTable()
    assert all(change.probability == 0 for change in changes(AugmentationTable()).values())


def test_more_augmentation_makes_each_change_more_frequent_or_equally_frequent() -> None:
    standard, strong = changes(table_of(Augmentation.STANDARD)), changes(table_of(Augmentation.STRONG))
    assert all(standard[name].probability <= strong[name].probability for name in standard)
    assert all(0 < change.probability < 1 for change in strong.values())


@pytest.mark.parametrize("amount", list(Augmentation))
def test_the_ranges_are_not_reversed(amount: Augmentation) -> None:
    assert all(change.low <= change.high for change in changes(table_of(amount)).values())


def test_only_the_last_of_several_phases_has_fewer_changes() -> None:
    table = AugmentationTable(blur=Change(0.4, 1, 2), noise=Change(0.2, 0, 1), rotation=9, ending=0.5)
    assert table.of_phase(0, 1) == table.of_phase(1, 3) == table
    last = table.of_phase(2, 3)
    assert (last.blur, last.noise, last.rotation) == (Change(0.2, 1, 2), Change(0.1, 0, 1), 9)


def test_changes_happen_as_often_as_their_probability() -> None:
    random = np.random.default_rng(0)
    assert 0.25 < np.mean([Change(0.3).happens(random) for _ in range(1000)]) < 0.35


def test_factors_halve_as_often_as_they_double() -> None:
    random = np.random.default_rng(0)
    drawn = np.array([Change(1, 0.5, 2).factor(random) for _ in range(1000)])
    assert 0.45 < np.mean(drawn < 1) < 0.55
    assert drawn.min() >= 0.5 and drawn.max() <= 2


def test_ct_is_never_inverted() -> None:
    strong = table_of(Augmentation.STRONG)
    assert strong.inversion.probability > 0
    assert strong.without_inversion() == replace(strong, inversion=Change())
