from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detseg3d.synthetic.random_scans.anatomy import Anatomy
from detseg3d.synthetic.random_scans.canvas import Canvas, Volume
from detseg3d.synthetic.random_scans.lesions import LesionStyle, draw_lesions, label_of

SHAPE = (48, 48, 48)
PLAIN = LesionStyle(
    hosts=(1,),
    diameter=8,
    spread=0.1,
    count=4,
    sign=1,
    contrast=4,
    fade=0.2,
    roughness=0.05,
    confluence=0,
    ring=0,
    confined=1,
)


def flat_anatomy() -> Anatomy:
    """Region 1 on one side, region 2 on the other side, air at the end."""
    regions = np.full(SHAPE, 1, np.uint8)
    regions[:, :, 24:] = 2
    regions[:, :, 42:] = 0
    return Anatomy(regions, (1, 2))


def draw(style: LesionStyle, seed: int = 0) -> tuple[Volume, Volume]:
    """The image with lesions minus the flat image without, and the weights of the lesions."""
    random = np.random.default_rng(seed)
    before = random.normal(0.5, 0.02, SHAPE).astype(np.float32)
    image = before.copy()
    weights = draw_lesions(Canvas(SHAPE, random), image, flat_anatomy(), style, 0.02)
    return image - before, weights


def test_bright_lesions_are_brighter_than_their_surroundings() -> None:
    change, weights = draw(PLAIN)
    label = label_of(weights) > 0
    assert label.any()
    assert float(change[label].mean()) > 0.05
    assert not change[weights == 0].any()


def test_dark_lesions_are_darker_than_their_surroundings() -> None:
    change, weights = draw(replace(PLAIN, sign=-1))
    assert float(change[label_of(weights) > 0].mean()) < -0.05


def test_confined_lesions_stay_in_their_region() -> None:
    _, weights = draw(replace(PLAIN, diameter=16, count=8, confined=1))
    assert not weights[:, :, 24:].any()


def test_other_lesions_cross_into_tissue_but_not_into_air() -> None:
    crossing = [draw(replace(PLAIN, diameter=16, count=8, confined=0, hosts=(1, 2)), seed)[1] for seed in range(4)]
    assert any(weights[:, :, 22:24].any() and weights[:, :, 24:26].any() for weights in crossing)
    assert not any(weights[:, :, 42:].any() for weights in crossing)


def test_lesions_leave_most_of_their_region_free() -> None:
    _, weights = draw(replace(PLAIN, diameter=20, count=40))
    assert 0 < label_of(weights).sum() < 0.3 * 48 * 48 * 24


def test_a_diffuse_lesion_fades_over_many_voxels() -> None:
    def edge(style: LesionStyle) -> float:
        _, weights = draw(style)
        return float(((weights > 0.05) & (weights < 0.95)).sum() / label_of(weights).sum())

    assert edge(replace(PLAIN, diameter=14, count=1, fade=1.2)) > 2 * edge(replace(PLAIN, diameter=14, count=1))


def test_the_label_begins_at_half_of_the_weight() -> None:
    assert label_of(np.array([[[0.0, 0.49, 0.5, 1.0]]], np.float32)).tolist() == [[[0, 0, 1, 1]]]


def test_drawn_styles_differ_in_sign_size_and_form() -> None:
    random = np.random.default_rng(0)
    styles = [LesionStyle.draw(flat_anatomy(), random) for _ in range(100)]
    assert {style.sign for style in styles} == {-1, 0, 1}
    assert min(style.diameter for style in styles) < 4 and max(style.diameter for style in styles) > 12
    assert any(style.confluence for style in styles) and any(style.ring for style in styles)
    assert all(set(style.hosts) <= {1, 2} for style in styles)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_seed_gives_the_same_lesions(seed: int) -> None:
    assert np.array_equal(draw(PLAIN, seed)[1], draw(PLAIN, seed)[1])
