from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from detseg3d.core.errors import DetSeg3DError
from detseg3d.synthetic.random_scans.scan import RandomScan, simulate_random_scan

SHAPE = (48, 56, 52)


@pytest.fixture(scope="module")
def scans() -> list[RandomScan]:
    return [simulate_random_scan(SHAPE, (seed,)) for seed in range(30)]


def separability(scan: RandomScan) -> float:
    """Return the largest Dice that a threshold reaches, on bright or on dark voxels."""
    label = scan.label.ravel() > 0
    best = 0.0
    for image in (scan.image.ravel(), -scan.image.ravel()):
        order = np.argsort(-image.astype(np.int32), kind="stable")
        hits = np.cumsum(label[order])
        best = max(best, float((2 * hits / (np.arange(1, len(hits) + 1) + label.sum())).max()))
    return best


def test_the_same_seed_gives_the_same_scan() -> None:
    first, again, other = (simulate_random_scan(SHAPE, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.label, again.label)
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_image_and_label_share_a_grid(scans: list[RandomScan]) -> None:
    for scan in scans:
        assert scan.image.shape == scan.label.shape
        assert scan.image.dtype == np.int16 and scan.label.dtype == np.uint8
        assert set(np.unique(scan.label)) <= {0, 1}


def test_scans_have_different_spacings_and_slice_thicknesses(scans: list[RandomScan]) -> None:
    ratios = [max(scan.spacing) / min(scan.spacing) for scan in scans]
    assert min(ratios) == 1 and max(ratios) > 2
    assert len({round(min(scan.spacing), 2) for scan in scans}) > 10


def test_lesions_span_three_decades(scans: list[RandomScan]) -> None:
    volumes = np.concatenate(
        [
            np.bincount(ndimage.label(scan.label, np.ones((3, 3, 3)))[0].ravel())[1:] * np.prod(scan.spacing)
            for scan in scans
        ]
    )
    assert volumes.min() < 10 and volumes.max() > 3000


def test_a_few_scans_have_no_lesion(scans: list[RandomScan]) -> None:
    assert 0 < sum(not scan.label.any() for scan in scans) < 8


def test_a_threshold_does_not_find_the_lesions(scans: list[RandomScan]) -> None:
    assert np.mean([separability(scan) for scan in scans if scan.label.any()]) < 0.4


def test_a_window_takes_well_under_a_fifth_of_a_second() -> None:
    started = time.process_time()
    for seed in range(5):
        simulate_random_scan((64, 64, 64), (seed,))
    assert time.process_time() - started < 5 * 0.2


def test_the_smallest_volumes_can_be_simulated() -> None:
    for seed in range(20):
        assert simulate_random_scan((16, 16, 17), (seed,)).image.size


def test_a_tiny_volume_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        simulate_random_scan((15, 40, 40), (0,))
    assert error.value.value == (15, 40, 40)
