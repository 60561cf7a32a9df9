from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.survey.fingerprints import describe, draw_fingerprint
from benchmarks.survey.kinds import KINDS
from benchmarks.survey.model import Counts, Kind, LesionClass, Placement, Scans, Sizes

KIND = Kind(
    "test",
    "test",
    "test",
    30,
    (Scans((2, 1, 1), (40, 100, 80), body=(1, 0.8, 0.5)),),
    (
        LesionClass("lesion", Counts(5, 0.4, 0.2), Sizes(10, 0.4, 4, 30)),
        LesionClass("core", Counts(1), Sizes(0.5, 0, 0.5, 0.5), placement=Placement.NESTED, host="lesion"),
    ),
)


def lesions(label: int) -> list[dict[str, object]]:
    cases = draw_fingerprint(KIND).scans
    return [lesion for case in cases for lesion in case.lesions if lesion.class_index == label]


def test_there_are_sixty_kinds_and_more_with_names_of_their_own() -> None:
    assert len(KINDS) >= 60
    assert max(Counter(kind.name for kind in KINDS).values()) == 1


def test_a_fingerprint_is_the_same_each_time() -> None:
    assert draw_fingerprint(KIND) == draw_fingerprint(KIND)


def test_lesions_lie_within_the_body_on_whole_voxels() -> None:
    for case in draw_fingerprint(KIND).scans:
        assert case.cropped_shape == (40, 80, 40) and case.crop_box == (0, 10, 20, 40, 90, 60)
        for lesion in case.lesions:
            edges, center = np.array(lesion.extents_mm), np.array(lesion.center_mm)
            assert np.all(center - edges / 2 >= -1e-9) and np.all(
                center + edges / 2 <= (80 + 1e-9, 80 + 1e-9, 40 + 1e-9)
            )
            voxels = (center - edges / 2) / (2, 1, 1)
            assert np.allclose(voxels, voxels.round())


def test_ellipsoids_of_one_class_do_not_touch() -> None:
    for case in draw_fingerprint(KIND).scans:
        outer = [lesion for lesion in case.lesions if lesion.class_index == 0]
        centers = np.array([lesion.center_mm for lesion in outer]).reshape(-1, 3)
        edges = np.array([lesion.extents_mm for lesion in outer]).reshape(-1, 3)
        for row in range(len(outer)):
            others = np.arange(len(outer)) != row
            distance = np.square((centers[others] - centers[row]) / ((edges[others] + edges[row]) / 2)).sum(axis=1)
            assert np.all(distance > 1)


def test_nested_lesions_have_a_share_of_the_size_of_their_hosts() -> None:
    hosts, cores = lesions(0), lesions(1)
    assert len(hosts) == len(cores) > 0
    ratio = np.median([lesion.diameter_mm for lesion in cores]) / np.median([h.diameter_mm for h in hosts])
    assert ratio == pytest.approx(0.5, abs=0.1)


def test_another_unit_multiplies_lengths_and_nothing_else() -> None:
    usual, scaled = draw_fingerprint(KIND), draw_fingerprint(KIND, 1000)
    for before, after in zip(usual.scans, scaled.scans, strict=True):
        assert after.shape == before.shape
        assert np.allclose(after.spacing, np.array(before.spacing) * 1000)
        for small, large in zip(before.lesions, after.lesions, strict=True):
            assert large.volume_mm3 == pytest.approx(small.volume_mm3 * 1e9)
            assert large.voxels == small.voxels


def test_sizes_counts_and_negatives_are_those_that_were_stated() -> None:
    many = Kind("many", "", "", 400, (Scans((1, 1, 1), (200, 200, 200)),), KIND.classes[:1])
    cases = draw_fingerprint(many).scans
    counts = np.array([len(case.lesions) for case in cases])
    assert np.mean(counts == 0) == pytest.approx(0.2, abs=0.06)
    assert np.median(counts[counts > 0]) == pytest.approx(5, abs=1)
    longest = [max(lesion.extents_mm) for case in cases for lesion in case.lesions]
    assert np.median(longest) == pytest.approx(10, rel=0.1)


def test_a_description_names_channels_and_classes() -> None:
    dataset = describe(KIND)
    assert dataset.class_names == ("lesion", "core") and len(dataset.channel_names) == 1


@pytest.mark.parametrize("placement", [Placement.PACKED, Placement.COLUMN, Placement.ARCH, Placement.CLUSTERED])
def test_each_placement_keeps_lesions_in_the_volume(placement: Placement) -> None:
    lesion = LesionClass("lesion", Counts(12), Sizes(8, 0.1, 5, 12), placement=placement, step=9)
    kind = Kind("placed", "", "", 3, (Scans((1, 1, 1), (150, 120, 120)),), (lesion,))
    found = [lesion for case in draw_fingerprint(kind).scans for lesion in case.lesions]
    assert len(found) >= 30
    assert all(c - e / 2 + 1e-9 > 0 and c + e / 2 <= n for lesion in found
               for c, e, n in zip(lesion.center_mm, lesion.extents_mm, (150, 120, 120), strict=True))  # fmt: skip
