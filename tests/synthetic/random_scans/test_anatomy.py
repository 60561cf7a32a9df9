from __future__ import annotations

import numpy as np
import pytest

from detseg3d.synthetic.random_scans.anatomy import AIR, Anatomy, draw_anatomy
from detseg3d.synthetic.random_scans.canvas import Canvas


def draw(seed: int) -> Anatomy:
    return draw_anatomy(Canvas((48, 56, 52), np.random.default_rng(seed)))


@pytest.fixture(scope="module")
def anatomies() -> list[Anatomy]:
    return [draw(seed) for seed in range(24)]


def test_the_same_seed_gives_the_same_anatomy() -> None:
    assert np.array_equal(draw(3).regions, draw(3).regions)
    assert not np.array_equal(draw(3).regions, draw(4).regions)


def test_every_anatomy_has_a_body_with_several_regions(anatomies: list[Anatomy]) -> None:
    for anatomy in anatomies:
        assert (anatomy.regions != AIR).mean() > 0.05
        assert len(np.unique(anatomy.regions)) >= 3


def test_lesions_have_a_region_to_lie_in(anatomies: list[Anatomy]) -> None:
    for anatomy in anatomies:
        assert AIR not in anatomy.hosts
        assert np.isin(anatomy.regions, anatomy.hosts).mean() > 0.01


def test_mimics_are_regions_without_lesions(anatomies: list[Anatomy]) -> None:
    for anatomy in anatomies:
        assert not set(anatomy.hosts) & set(anatomy.mimics)
    assert sum(np.isin(anatomy.regions, anatomy.mimics).any() for anatomy in anatomies) > 15


def test_the_count_covers_every_region(anatomies: list[Anatomy]) -> None:
    for anatomy in anatomies:
        assert anatomy.count > max(int(anatomy.regions.max()), *anatomy.hosts, *anatomy.mimics)


def test_some_scans_are_filled_by_tissue_and_others_have_air(anatomies: list[Anatomy]) -> None:
    fractions = [float((anatomy.regions == AIR).mean()) for anatomy in anatomies]
    assert min(fractions) < 0.05 and max(fractions) > 0.4
