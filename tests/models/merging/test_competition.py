from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.core.tiles import tile_boxes
from detseg3d.models.merging import competition
from detseg3d.models.merging.competition import Competition
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction, paste_predictions
from tests.consolidation.factory import random_candidates


def owners(seed: int, classes: int = 1, maps: np.ndarray | None = None) -> np.ndarray:
    candidates = random_candidates(seed, classes=classes)
    owner = np.zeros(candidates.shape, np.uint16)
    rois = paste_predictions(candidates.predictions, candidates.shape)
    scores = np.random.default_rng(seed).uniform(0.1, 1, len(candidates))
    run = Competition(owner, rois, candidates.detections, scores, 0.5)
    run.assign_all(maps)
    run.drop_duplicates()
    return owner


def brute_force(seed: int, classes: int) -> np.ndarray:
    """Voxel by voxel, before duplicates are dropped."""
    candidates = random_candidates(seed, classes=classes)
    rois = paste_predictions(candidates.predictions, candidates.shape)
    scores = np.random.default_rng(seed).uniform(0.1, 1, len(candidates))
    owner = np.zeros(candidates.shape, np.uint16)
    for voxel in np.ndindex(*candidates.shape):
        claims = []
        for roi in rois:
            place = tuple(v - axis.start for v, axis in zip(voxel, roi.region, strict=True))
            if all(axis.start <= v < axis.stop for v, axis in zip(voxel, roi.region, strict=True)):
                weight = scores[roi.candidate] * np.prod([p[i] for p, i in zip(roi.profiles, place, strict=True)])
                claims.append((weight, float(roi.probability[place]), roi.candidate))
        best = 0.0
        for label in sorted({int(candidates.detections.classes[candidate]) for *_, candidate in claims}):
            mine = [claim for claim in claims if candidates.detections.classes[claim[2]] == label]
            mean = sum(w * p for w, p, _ in mine) / sum(w for w, _, _ in mine)
            strength, candidate = max((w * p, -c) for w, p, c in mine)
            if mean >= 0.5 and strength > best:
                best, owner[voxel] = strength, 1 - candidate
    return owner


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_every_voxel_goes_to_the_strongest_claim(seed: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Competition, "drop_duplicates", lambda self: None)
    # Where a mean is the threshold itself, or two claims are equal, rounding decides.
    assert (owners(seed, classes) != brute_force(seed, classes)).sum() <= 2


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_processing_a_volume_in_slabs_gives_the_same_as_the_whole_volume(
    seed: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, sliced = (np.zeros((classes, *random_candidates(seed).shape), np.float16) for _ in range(2))
    whole = owners(seed, classes, maps)
    assert all(map_of_class.any() for map_of_class in maps)
    monkeypatch.setattr(competition, "_SLAB_VOXELS", 200)
    np.testing.assert_array_equal(owners(seed, classes, sliced), whole)
    np.testing.assert_array_equal(sliced, maps)


def column(candidate: int, start: int, probability: list[float]) -> RoiPrediction:
    """An RoI one voxel thick along y and x whose samples are voxels of z."""
    roi = np.array([start, 0, 0, start + len(probability), 1, 1], np.float64)
    return RoiPrediction(roi, candidate, torch.tensor(probability).half()[:, None, None], 1.0)


def competition_of(predictions: list[RoiPrediction], scores: list[float], boxes: list[Any], length: int) -> Competition:
    found = Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.zeros(len(scores), np.int64))
    owner = np.zeros((length, 1, 1), np.uint16)
    return Competition(owner, paste_predictions(predictions, owner.shape), found, np.array(scores), 0.5)


@pytest.mark.parametrize("block", [2**21, 3])
def test_a_duplicate_in_several_slices_is_dropped(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(competition, "_SLAB_VOXELS", block)
    strong, repeated = column(0, 0, [0] * 2 + [1] * 10 + [0] * 4), column(1, 4, [0] * 2 + [1] * 8 + [0] * 6)
    run = competition_of([strong, repeated], [0.9, 0.5], [[2, 0, 0, 12, 1, 1], [6, 0, 0, 14, 1, 1]], 20)
    run.assign_all(None)
    # The second has 2 of its 8 voxels left, those that the first does not claim.
    assert run.owner.ravel().tolist() == [0] * 2 + [1] * 10 + [2] * 2 + [0] * 6
    run.drop_duplicates()
    assert run.owner.ravel().tolist() == [0] * 2 + [1] * 10 + [0] * 8


def test_a_duplicate_with_several_rois_is_dropped_like_a_duplicate_with_one_roi() -> None:
    """The duplicate keeps 4 of its 20 voxels. Each of its three RoIs shows at most 8 of them."""
    strong = column(0, 0, [0] * 4 + [1] * 16)
    repeated = [column(1, start, [1] * 8) for start in (4, 10, 16)]  # as a box of 20 is divided: a quarter overlaps
    run = competition_of([strong, *repeated], [0.9, 0.1], [[4, 0, 0, 20, 1, 1], [4, 0, 0, 24, 1, 1]], 30)
    run.assign_all(None)
    assert run.owner.ravel().tolist() == [0] * 4 + [1] * 16 + [2] * 4 + [0] * 6
    run.drop_duplicates()
    assert run.owner.ravel().tolist() == [0] * 4 + [1] * 16 + [0] * 10


@pytest.mark.parametrize("size", [(8, 8, 8), (6, 8, 10)])
def test_the_voxels_of_several_rois_are_counted_once(size: tuple[int, int, int]) -> None:
    box = np.array([2.0, 3, 4, 50, 40, 31], np.float32)
    rois, parents = tile_boxes(box[None], 0.1, (3, 3, 3), size, max_scale=1.0)
    assert len(rois) > 8 and not parents.any()
    full = [RoiPrediction(roi, 0, torch.ones(size).half(), 1.0) for roi in rois]
    assert competition._own_voxels(full, box, 0.5) == pytest.approx(48 * 37 * 27, rel=0.04)


def test_an_roi_outside_the_volume_has_no_voxel() -> None:
    inside = column(0, 0, [1, 1, 1])
    outside = RoiPrediction(np.array([9.0, 9, 9, 12, 12, 12]), 1, torch.ones(3, 3, 3).half(), 1.0)
    boxes = [inside.roi, outside.roi]
    run = competition_of([inside, outside], [0.5, 0.9], boxes, 6)
    run.assign_all(None)
    assert run.owner.ravel().tolist() == [1, 1, 1, 0, 0, 0]
    run = competition_of([outside._replace(candidate=0)], [0.9], boxes[1:], 6)
    run.assign_all(None)
    assert not run.owner.any()


# -- Lesions finer than the voxels -------------------------------------------------------------------------------------


def fine_lesion(box: list[float], certainty: float = 0.95, candidate: int = 0) -> RoiPrediction:
    """An RoI of 6×6×6 voxels with four samples per voxel along each axis, certain only in ``box`` (voxels)."""
    places = (np.arange(24) + 0.5) / 4
    inside = [(places >= box[axis]) & (places < box[axis + 3]) for axis in range(3)]
    cube = certainty * (inside[0][:, None, None] & inside[1][:, None] & inside[2])
    return RoiPrediction(np.array([0.0, 0, 0, 6, 6, 6]), candidate, torch.from_numpy(cube).half(), 0.9)


def owned(predictions: list[RoiPrediction], boxes: list[list[float]], threshold: float = 0.5) -> list[list[int]]:
    found = Detections(
        np.array(boxes, np.float32), np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), np.int64)
    )
    owner = np.zeros((6, 6, 6), np.uint16)
    run = Competition(owner, paste_predictions(predictions, owner.shape), found, np.full(len(boxes), 0.9), threshold)
    run.assign_all(None)
    run.drop_duplicates()
    return np.argwhere(owner > 0).tolist()


@pytest.mark.parametrize(
    ("box", "voxel"),
    [
        ([2.25, 2.25, 2.25, 2.75, 2.75, 2.75], [2, 2, 2]),  # an eighth of a voxel
        ([2.75, 3.25, 4.25, 3.25, 3.75, 4.75], [2, 3, 4]),  # across a face: of two voxels as good, the first
        ([2.5, 3.25, 4.25, 3.25, 3.75, 4.75], [2, 3, 4]),
        ([1.75, 3.25, 4.25, 2.75, 3.75, 4.75], [2, 3, 4]),
        ([0.0, 0.0, 5.5, 0.5, 0.5, 6.0], [0, 0, 5]),  # in a corner of the volume
    ],
)
def test_a_lesion_finer_than_the_voxels_keeps_the_voxel_that_the_lesion_covers_most(
    box: list[float], voxel: list[int]
) -> None:
    assert owned([fine_lesion(box)], [box]) == [voxel]


def test_a_lesion_that_no_sample_is_certain_of_leaves_nothing() -> None:
    box = [2.25, 2.25, 2.25, 2.75, 2.75, 2.75]
    assert owned([fine_lesion(box, 0.45)], [box]) == []
    assert owned([fine_lesion(box, 0.6)], [box], threshold=0.7) == []


def test_a_fine_lesion_keeps_no_voxel_outside_the_detected_box() -> None:
    # The RoI shows a neighbour, which has its own candidate.
    assert owned([fine_lesion([4.25, 4.25, 4.25, 4.75, 4.75, 4.75])], [[1, 1, 1, 2, 2, 2]]) == []


def test_a_lesion_that_has_voxels_gets_no_further_voxel() -> None:
    box = [2.0, 2, 2, 4, 4, 4]
    assert len(owned([fine_lesion(box)], [box])) == 8
