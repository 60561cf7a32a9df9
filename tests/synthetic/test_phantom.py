from __future__ import annotations

import cc3d
import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.synthetic.phantom import SyntheticCase, simulate_case


@pytest.fixture(scope="module")
def cases() -> list[SyntheticCase]:
    """The first cases of the default data set."""
    return [simulate_case(seed=(0, 0, index)) for index in range(8)]


def lesion_sizes(cases: list[SyntheticCase]) -> npt.NDArray[np.int64]:
    components = [cc3d.connected_components(case.label, connectivity=26) for case in cases]
    return np.concatenate([np.bincount(component.ravel())[1:] for component in components])


def test_the_same_seed_gives_the_same_case() -> None:
    first, again = (simulate_case((32, 32, 32), seed=(3, 4)) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)


def test_another_seed_gives_another_case() -> None:
    first, other = (simulate_case((32, 32, 32), seed=(3, seed)) for seed in (4, 5))
    assert not np.array_equal(first.image, other.image)


def test_a_healthy_case_has_an_empty_label() -> None:
    assert not simulate_case((32, 32, 32), lesions=False).label.any()


@pytest.mark.parametrize("seed", range(10))
def test_a_case_with_lesions_has_at_least_one(seed: int) -> None:
    assert simulate_case((20, 20, 20), seed=(seed,)).label.any()


def test_sizes_reach_from_one_voxel_to_large_and_most_are_small(cases: list[SyntheticCase]) -> None:
    sizes = lesion_sizes(cases)
    diameters = (6 * sizes / np.pi) ** (1 / 3)
    assert sizes.min() == 1
    assert diameters.max() > 25
    assert 3 < np.median(diameters) < 10


def test_there_are_several_lesions_a_case(cases: list[SyntheticCase]) -> None:
    assert 5 <= len(lesion_sizes(cases)) / len(cases) <= 20


def test_lesions_keep_two_voxels_apart(cases: list[SyntheticCase]) -> None:
    from scipy import ndimage

    for case in cases:
        components = cc3d.connected_components(case.label, connectivity=26).astype(np.int32)
        inside = components > 0
        largest = ndimage.maximum_filter(components, 5)
        smallest = ndimage.minimum_filter(np.where(inside, components, 10**6), 5)
        assert np.array_equal(largest[inside], components[inside])
        assert np.array_equal(smallest[inside], components[inside])


def test_lesions_are_brighter_than_their_surroundings(cases: list[SyntheticCase]) -> None:
    from scipy import ndimage

    brighter = []
    for case in cases:
        components = cc3d.connected_components(case.label, connectivity=26)
        for number in range(1, components.max() + 1):
            inside = components == number
            ring = ndimage.binary_dilation(inside, iterations=3) & ~ndimage.binary_dilation(inside, iterations=1)
            brighter.append(case.image[inside].mean() > np.median(case.image[ring]))
    assert np.mean(brighter) > 0.9


def test_lesions_lie_within_the_body(cases: list[SyntheticCase]) -> None:
    for case in cases:
        gain = np.percentile(case.image, 99)
        assert case.image[case.label > 0].min() > 0.1 * gain


def test_a_threshold_cannot_find_the_lesions(cases: list[SyntheticCase]) -> None:
    """Each image is normalised by its tissue, and the threshold with the best result is used."""
    images = [case.image / np.median(case.image[case.image > np.median(case.image)]) for case in cases]
    scores = []
    for threshold in np.arange(1.0, 2.4, 0.2):
        for smallest in (1, 10):
            counts = np.sum([_count(i > threshold, c.label, smallest) for i, c in zip(images, cases, strict=True)], 0)
            hits, false_positives, misses = counts
            scores.append(2 * hits / max(1, 2 * hits + false_positives + misses))
    assert max(scores) < 0.4


def _count(mask: npt.NDArray[np.bool_], label: npt.NDArray[np.uint8], smallest: int) -> tuple[int, int, int]:
    """Return the numbers of hits (intersection over union of at least 0.1), false positives and misses."""
    predicted = cc3d.dust(cc3d.connected_components(mask, connectivity=26), threshold=smallest, connectivity=26)
    truth = cc3d.connected_components(label, connectivity=26)
    both = (predicted > 0) & (truth > 0)
    pairs, shared = np.unique(np.stack([predicted[both], truth[both]]).astype(np.int64), axis=1, return_counts=True)
    predicted_sizes, truth_sizes = np.bincount(predicted.ravel()), np.bincount(truth.ravel())
    union = predicted_sizes[pairs[0]] + truth_sizes[pairs[1]] - shared
    good = pairs[:, shared / union >= 0.1]
    hits, used = len(set(good[1].tolist())), len(set(good[0].tolist()))
    return hits, int((predicted_sizes[1:] > 0).sum()) - used, int(truth.max()) - hits


def test_the_anatomy_follows_the_spacing() -> None:
    """Thick slices show the same body: it fills the field of view along every axis."""
    case = simulate_case((24, 64, 64), (4.0, 1.5, 1.5), seed=(1,))
    body = case.image > 0.2 * np.percentile(case.image, 99)
    extents = [np.ptp(np.nonzero(body.any(axis=tuple({0, 1, 2} - {axis})))[0]) + 1 for axis in range(3)]
    shares = np.array(extents) / body.shape
    assert shares.min() > 0.7


def test_a_case_takes_little_time() -> None:
    import time

    start = time.process_time()
    simulate_case()
    assert time.process_time() - start < 3  # usually 0.3 s; test machines are shared


def test_a_tiny_volume_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        simulate_case((8, 32, 32))
    assert (caught.value.value, caught.value.expected) == ((8, 32, 32), "at least 16 voxels per axis")


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_that_is_not_positive_is_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        simulate_case((32, 32, 32), spacing)
    assert (str(caught.value.value), caught.value.expected) == (str(spacing), "three numbers greater than 0")
