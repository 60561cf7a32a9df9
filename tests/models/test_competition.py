from __future__ import annotations

import numpy as np
import pytest

from detseg3d.models import competition
from detseg3d.models.competition import Competition
from detseg3d.models.paste import paste_predictions
from tests.consolidation.factory import random_candidates


def owners(seed: int, maps: np.ndarray | None = None) -> np.ndarray:
    candidates = random_candidates(seed)
    owner = np.zeros(candidates.shape, np.uint16)
    rois = paste_predictions(candidates.predictions, candidates.shape)
    scores = np.random.default_rng(seed).uniform(0.1, 1, len(candidates))
    run = Competition(owner, rois, candidates.found, scores, 0.5)
    run.assign_all(maps)
    run.drop_duplicates()
    return owner


def brute_force(seed: int) -> np.ndarray:
    """Voxel by voxel, before duplicates are dropped."""
    candidates = random_candidates(seed)
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
        for label in sorted({int(candidates.found.classes[candidate]) for *_, candidate in claims}):
            mine = [claim for claim in claims if candidates.found.classes[claim[2]] == label]
            mean = sum(w * p for w, p, _ in mine) / sum(w for w, _, _ in mine)
            strength, candidate = max((w * p, -c) for w, p, c in mine)
            if mean >= 0.5 and strength > best:
                best, owner[voxel] = strength, 1 - candidate
    return owner


@pytest.mark.parametrize("seed", range(4))
def test_every_voxel_goes_to_the_strongest_claim(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Competition, "drop_duplicates", lambda self: None)
    # Where a mean is the threshold itself, or two claims are equal, rounding decides.
    assert (owners(seed) != brute_force(seed)).mean() < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_slices_of_a_volume_give_what_the_whole_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, sliced = (np.zeros((2, *random_candidates(seed).shape), np.float16) for _ in range(2))
    whole = owners(seed, maps)
    assert whole.any()
    monkeypatch.setattr(competition, "_BLOCK_VOXELS", 200)
    np.testing.assert_array_equal(owners(seed, sliced), whole)
    np.testing.assert_array_equal(sliced, maps)
