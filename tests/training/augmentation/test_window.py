from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from detseg3d.core.augmentation import Augmentation
from detseg3d.training.augmentation.affine import draw_affine, read_window
from detseg3d.training.augmentation.regions import Source, air_of
from detseg3d.training.augmentation.table import AugmentationTable, Change, table_of
from detseg3d.training.augmentation.window import augment_image

SHAPE = (20, 40, 36)
STRONG = table_of(Augmentation.STRONG)
EVERYTHING = replace(
    STRONG,
    untouched=0.0,
    **{
        entry.name: replace(getattr(STRONG, entry.name), probability=1.0)
        for entry in fields(STRONG)
        if isinstance(getattr(STRONG, entry.name), Change)
    },
)


def make_volume(channels: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).normal(size=(channels, *SHAPE))
    if kind == "constant":
        image[:] = 2
    if kind == "heavy tail":  # as the bladder in PET
        image = np.clip(np.exp(3 * image), 0, 60_000)
    instances = np.zeros(SHAPE, np.uint32)
    instances[8:12, 18:24, 14:20] = 7
    instances[10, 4, 4] = 70_001
    return image.astype(np.float16), instances


def draw(
    table: AugmentationTable,
    seed: int,
    window: tuple[int, int, int] = (16, 16, 16),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    volume: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image of a window, its augmented image, and the instance map."""
    stored, instances = volume or make_volume(2, "normal")
    random = np.random.default_rng(seed)
    half = np.asarray(window) / 2
    center = np.floor((10, 20, 18) - half) + half  # the corner of a window that is copied is a whole voxel
    affine = draw_affine(center, spacing, 1000, table, random)
    image, labels = read_window(stored, instances, affine, window)
    before = image.copy()
    result = augment_image(image, labels.copy(), Source(SHAPE, spacing, affine, air_of(stored)), table, random)
    return before, result, labels


@pytest.mark.parametrize("kind", ["normal", "constant", "heavy tail"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("window", "spacing"),
    [
        ((8, 8, 8), (1.0, 1.0, 1.0)),
        ((1, 24, 20), (6.0, 1.0, 1.0)),
        ((12, 30, 9), (5.0, 0.7, 0.7)),
        ((5, 6, 7), (3.3, 5.5, 5.5)),
        ((1, 1, 1), (1.0, 1.0, 1.0)),
    ],
)
def test_windows_of_every_kind_stay_finite(
    window: tuple[int, int, int], spacing: tuple[float, float, float], channels: int, kind: str
) -> None:
    volume = make_volume(channels, kind)
    for seed in range(3):
        _, result, _ = draw(EVERYTHING, seed, window, spacing, volume)
        assert result.shape == (channels, *window) and result.dtype == np.float32
        assert np.isfinite(result).all()


@pytest.mark.parametrize("table", [STRONG, EVERYTHING])
def test_the_same_seed_gives_the_same_window(table: AugmentationTable) -> None:
    for seed in range(4):
        first, second = draw(table, seed), draw(table, seed)
        np.testing.assert_array_equal(first[1], second[1])
        np.testing.assert_array_equal(first[2], second[2])
    assert not np.array_equal(draw(table, 0)[1], draw(table, 1)[1])


def test_the_global_generators_do_not_matter() -> None:
    np.random.seed(1)  # noqa: NPY002
    first = draw(EVERYTHING, 5)[1]
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(first, draw(EVERYTHING, 5)[1])


def test_without_augmentation_the_image_stays() -> None:
    for seed in range(8):
        before, result, _ = draw(table_of(Augmentation.NONE), seed)
        np.testing.assert_array_equal(before, result)


@pytest.mark.parametrize("amount", [Augmentation.STANDARD, Augmentation.STRONG])
def test_some_windows_change_and_some_do_not(amount: Augmentation) -> None:
    changed = [not np.array_equal(*draw(table_of(amount), seed)[:2]) for seed in range(60)]
    assert np.mean(changed) > 0.5
    assert amount is Augmentation.STRONG or not all(changed)


def test_untouched_windows_keep_their_image() -> None:
    untouched = [np.array_equal(*draw(replace(EVERYTHING, untouched=0.4), seed)[:2]) for seed in range(50)]
    assert 0.2 < np.mean(untouched) < 0.6


def test_no_lesion_vanishes() -> None:
    for seed in range(10):
        _, _, labels = draw(EVERYTHING, seed, (20, 64, 64))
        assert set(np.unique(labels).tolist()) == {0, 7, 70_001}


def test_channels_share_the_geometry() -> None:
    stored, instances = make_volume(1, "normal")
    volume = np.concatenate([stored, stored]), instances
    table = AugmentationTable(zoom=Change(1, 0.6, 1.7), rotation=30)
    _, result, _ = draw(table, 3, volume=volume)
    np.testing.assert_array_equal(result[0], result[1])
