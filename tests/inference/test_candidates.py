from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.neighbours import split_groups
from detseg3d.evaluation.scores.calibration import apply_calibration
from detseg3d.inference import candidates as candidates_module
from detseg3d.inference.candidates import (
    Candidates,
    load_candidates,
    loose_suppression,
    save_candidates,
)
from detseg3d.models.ensemble import MemberScores
from detseg3d.models.merging.merge import Lesion, Merged
from detseg3d.models.merging.scores import lowest_score
from detseg3d.planning.plans import Plans
from tests.consolidation.factory import SHAPE, Blob, make_candidates, random_candidates

TWO = (Blob((2, 3, 4, 5, 6, 7), 0.75, 0.5), Blob((14, 14, 14, 18, 17, 16), 0.25, 1.0, of_class=1))
NONE = make_candidates([])


# -- On disk -----------------------------------------------------------------------------------------------------------


def assert_equal(first: Candidates, second: Candidates) -> None:
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(first.detections, name), getattr(second.detections, name))
    assert (first.shape, first.spacing) == (second.shape, second.spacing)
    for mine, other in zip(first.predictions, second.predictions, strict=True):
        np.testing.assert_array_equal(mine.roi, other.roi)
        assert (mine.candidate, mine.score) == (other.candidate, other.score)
        assert mine.probability.dtype == other.probability.dtype == torch.float16


def test_stored_candidates_are_read_unchanged(tmp_path: Path) -> None:
    candidates = make_candidates(TWO, spacing=(3.0, 0.7, 0.7000001))
    save_candidates(candidates, tmp_path / "a.npz")
    again = load_candidates(tmp_path / "a.npz")
    assert_equal(again, candidates)
    assert again.detections.boxes.dtype == np.float32 and again.detections.classes.dtype == np.int64
    for mine, other in zip(again.predictions, candidates.predictions, strict=True):
        assert torch.equal(mine.probability, other.probability)  # of zeros and ones


def test_probabilities_are_rounded_to_a_255th(tmp_path: Path) -> None:
    candidates = random_candidates(0)
    save_candidates(candidates, tmp_path / "a.npz")
    again = load_candidates(tmp_path / "a.npz")
    assert_equal(again, candidates)
    for mine, other in zip(again.predictions, candidates.predictions, strict=True):
        assert (mine.probability.float() - other.probability.float()).abs().max() < 0.5 / 255 + 1e-3


def test_storing_again_loses_nothing_more(tmp_path: Path) -> None:
    save_candidates(random_candidates(0), tmp_path / "a.npz")
    once = load_candidates(tmp_path / "a.npz")
    save_candidates(once, tmp_path / "b.npz")
    for mine, other in zip(load_candidates(tmp_path / "b.npz").predictions, once.predictions, strict=True):
        assert torch.equal(mine.probability, other.probability)


def test_a_scan_without_candidates_is_stored(tmp_path: Path) -> None:
    save_candidates(NONE, tmp_path / "a.npz")
    again = load_candidates(tmp_path / "a.npz")
    assert len(again) == 0 and again.predictions == [] and again.shape == SHAPE
    assert again.detections.boxes.shape == (0, 6)


def test_a_probability_beyond_one_does_not_wrap_round(tmp_path: Path) -> None:
    [prediction] = make_candidates([TWO[0]._replace(probability=1.01)]).predictions
    save_candidates(
        Candidates(make_candidates([TWO[0]]).detections, [prediction], SHAPE, (1, 1, 1)), tmp_path / "a.npz"
    )
    assert load_candidates(tmp_path / "a.npz").predictions[0].probability.max() == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def corrupt(path: Path) -> None:
    """Some bytes of the compressed masks, which come last."""
    data = bytearray(path.read_bytes())
    place = data.rindex(b"masks.npy", 0, data.rindex(b"masks.npy")) + 40
    data[place : place + 30] = bytes(30)
    path.write_bytes(data)


def write_text(path: Path) -> None:
    path.write_text("not an archive", encoding="utf-8")


def write_array(path: Path) -> None:
    with path.open("wb") as handle:
        np.save(handle, np.zeros(3))


@pytest.mark.parametrize(
    "damage", [truncate, corrupt, write_text, write_array, Path.unlink, lambda p: p.write_bytes(b"")]
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    path = tmp_path / "a.npz"
    save_candidates(random_candidates(0), path)
    damage(path)
    with pytest.raises(DetSeg3DError, match=r"(?s)stored candidates cannot be read.*a\.npz.*detseg3d_train .* --val"):
        load_candidates(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("boxes", np.zeros((2, 5)), r"\(2, 5\) boxes"),
        ("boxes", np.full((2, 6), np.nan), "not finite"),
        ("classes", np.zeros(3, int), r"\(3,\) classes for 2 scores"),
        ("rois", np.zeros((1, 6)), r"\(1, 6\) RoIs"),
        ("rois", np.zeros((2, 3)), r"\(2, 3\) RoIs"),
        ("owners", np.array([0]), "1 owners"),
        ("owners", np.array([0, 2]), "belongs to candidate 2 of 2"),
        ("owners", np.array([-1, 0]), "belongs to candidate"),
        ("roi_scores", np.array([0.5, np.inf]), "not finite"),
        ("masks", np.zeros((2, 4, 4), np.uint8), r"\(2, 4, 4\) masks"),
        ("masks", np.zeros((2, 4, 4, 4)), "masks of float64"),
        ("shape", np.array([4, 4]), "unpack"),
        ("spacing", np.zeros((3, 2)), "TypeError"),
        ("masks", None, "KeyError"),
        ("boxes", np.array([None]), "ValueError"),  # would have to be unpickled
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    save_candidates(make_candidates(TWO), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as data:
        arrays = {key: data[key] for key in data.files}
    arrays = {key: array for key, array in {**arrays, name: value}.items() if array is not None}
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(DetSeg3DError, match=rf"(?s)cannot be read .*{message}"):
        load_candidates(tmp_path / "b.npz")


# -- Which are admitted ------------------------------------------------------------------------------------------------


def test_selected_candidates_keep_their_rois() -> None:
    candidates = make_candidates([Blob((2, 2, 2, 4, 4, 4), 0.9, 0.1), Blob((9, 9, 9, 12, 12, 12), 0.8, 0.2), *TWO])
    part = candidates.select(np.array([3, 1]))
    assert part.detections.scores.tolist() == pytest.approx([0.25, 0.8])
    assert {(p.candidate, p.score) for p in part.predictions} == {(0, 1.0), (1, 0.2)}


def test_candidates_pass_by_threshold_and_suppression(tiny_plans: Plans) -> None:
    cube = (10, 10, 10, 14, 14, 14)
    blobs = [
        Blob(cube, 0.9, 1),
        Blob((10, 10, 11, 14, 14, 15), 0.8, 1),  # a quarter of its size away from the first, IoU 3/5
        Blob((10, 10, 13, 14, 14, 17), 0.7, 1),  # three quarters away, IoU 1/7
        Blob(cube, 0.6, 1, of_class=1),
        Blob((2, 2, 2, 5, 5, 5), 0.1, 1),
    ]
    candidates = make_candidates(blobs)

    def passing(**thresholds: float) -> list[int]:
        return candidates.passing(tiny_plans.evolve(inference=thresholds).inference).tolist()

    assert passing() == [0, 2, 3, 4]
    assert passing(candidate_threshold=0.65) == [0, 2]
    assert passing(suppression_distance=0.2, suppression_iou=0.61) == [0, 1, 2, 3, 4]
    assert passing(suppression_distance=0.2) == [0, 2, 3, 4]
    assert passing(suppression_iou=0.1) == [0, 3, 4]
    assert passing(suppression_distance=1) == [0, 3, 4]
    inference = tiny_plans.evolve(inference={"candidate_threshold": 0.65}).inference
    shuffled = candidates.select(np.array([4, 3, 1, 0, 2]))
    assert shuffled.passing(inference).tolist() == [3, 4]
    assert candidates.admitted(inference).detections.scores.tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize(("iou", "stored"), [(0.3, 0.5), (0.5, 0.5), (0.7, 0.7)])
def test_stored_candidates_are_suppressed_less(tiny_plans: Plans, iou: float, stored: float) -> None:
    plan = tiny_plans.evolve(inference={"suppression_distance": 0.8, "suppression_iou": iou}).inference
    loose = loose_suppression(plan)
    assert (loose.suppression_distance, loose.suppression_iou) == (0.4, stored)
    assert loose.candidate_limit(1e5) == 2 * plan.candidate_limit(1e5)
    changed = ("suppression_distance", "suppression_iou", "candidate_density", "min_candidates", "max_candidates")
    assert loose.model_copy(update={name: getattr(plan, name) for name in changed}) == plan


def test_a_limit_keeps_the_best_candidates(tiny_plans: Plans, tmp_path: Path) -> None:
    blobs = [Blob((2, 2, 2 + 6 * index, 4, 4, 4 + 6 * index), 0.9 - 0.1 * index, 1) for index in range(4)]
    limited = replace(make_candidates(blobs), limit=2)
    assert limited.passing(tiny_plans.inference).tolist() == [0, 1]
    save_candidates(limited, tmp_path / "a.npz")
    assert load_candidates(tmp_path / "a.npz").limit == 2
    save_candidates(make_candidates(blobs), tmp_path / "b.npz")
    assert load_candidates(tmp_path / "b.npz").limit is None


# -- Masks -------------------------------------------------------------------------------------------------------------


def test_rois_touch_that_share_voxels_or_lie_side_by_side() -> None:
    # RoIs of 10 voxels along x: 0–10, 10–20, 21–31; the fourth begins where the first does, elsewhere along z.
    blobs = [Blob((4, 4, x, 6, 6, x + 2), 0.9, 1) for x in (4, 14, 25)] + [Blob((15, 4, 4, 17, 6, 6), 0.8, 1)]
    near = make_candidates(blobs, shape=(32, 32, 32)).touching()
    expected = np.eye(4, dtype=bool)
    expected[0, 1] = expected[1, 0] = True
    np.testing.assert_array_equal(near.toarray(), expected)


def test_all_rois_of_a_candidate_count() -> None:
    candidates = make_candidates([Blob((4, 4, 4, 6, 6, 6), 0.9, 1), Blob((4, 4, 15, 6, 6, 17), 0.8, 1)])
    assert not candidates.touching().toarray()[0, 1]
    tile = candidates.predictions[0]._replace(roi=candidates.predictions[0].roi + np.float32([0, 0, 3.5, 0, 0, 3.5]))
    tiled = Candidates(candidates.detections, [*candidates.predictions, tile], SHAPE, (1, 1, 1))
    assert tiled.touching().toarray()[[0, 1], [1, 0]].all()


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("lesion", [0.0, 0.55])
def test_merging_group_by_group_gives_the_same_as_merging_all(
    tiny_plans: Plans, seed: int, classes: int, join: bool, lesion: float
) -> None:
    """To the voxel: which candidate owns it must not depend on RoIs that do not reach there.

    Except for lesions below the score threshold, which only the group has.
    """
    names = ["cyst", "tumour"][:classes]
    plans = tiny_plans.evolve(
        class_names=names,
        class_labels=[3, 7][:classes],
        inference={"score_threshold": lesion, "growth_threshold": 0.3, "join_touching": join},
    )
    candidates = random_candidates(seed, classes=classes, count=10, shape=(40, 30, 44))
    taking_part = np.flatnonzero(candidates.final_scores(plans.inference) >= lowest_score(plans.inference))
    groups = split_groups(taking_part, candidates.touching())
    assert len(groups) > 1
    together = np.zeros(candidates.shape, np.int64)
    lesions = []
    for members in groups:
        group = candidates.merge_group(members, plans)
        assert group is not None
        together[group.window] += owners(group.merged, lesion)
        lesions += [found for found in group.merged.lesions if found.score >= lesion]
    whole = candidates.merge(plans)
    np.testing.assert_array_equal(together, owners(whole, lesion))
    assert in_order(lesions) == in_order(whole.lesions)


def owners(merged: Merged, threshold: float) -> npt.NDArray[np.int64]:
    """The candidate of each voxel's lesion, from 1; 0 outside all lesions and in lesions with a lower score."""
    candidate_of = np.array([0, *(found.score >= threshold and found.candidate + 1 for found in merged.lesions)])
    return candidate_of[merged.instances]


def in_order(lesions: list[Lesion]) -> list[Lesion]:
    return sorted((replace(found, id=0) for found in lesions), key=lambda found: (found.candidate, found.box))


def test_the_memory_of_pasted_rois_is_limited(tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [Blob((4, 4, x, 6, 6, x + 2), 0.9, 1) for x in (4, 14, 25)]
    candidates = make_candidates(blobs, shape=(32, 32, 32))
    groups = [candidates.merge_group(np.array([index]), tiny_plans) for index in range(3)]
    monkeypatch.setattr(candidates_module, "_MAX_PASTED_BYTES", 2500)  # an RoI has 10³ voxels of 2 bytes
    fresh = make_candidates(blobs, shape=(32, 32, 32))
    for index, group in enumerate(groups):
        again = fresh.merge_group(np.array([index]), tiny_plans)
        assert group is not None and again is not None and group.merged.lesions == again.merged.lesions
    assert list(fresh._already_pasted.rois) == [0]


def test_lesions_are_numbered_by_score(tiny_plans: Plans) -> None:
    far = [Blob((4, 4, 4, 6, 6, 6), 0.9, 0.3), Blob((18, 18, 18, 21, 21, 21), 0.5, 0.9)]
    merged = make_candidates(far).merge(tiny_plans)
    assert [(lesion.id, lesion.candidate, lesion.voxels) for lesion in merged.lesions] == [(1, 1, 27), (2, 0, 8)]
    assert merged.lesions[1].box == (4, 4, 4, 6, 6, 6)
    assert (merged.instances[19, 19, 19], merged.instances[5, 5, 5]) == (1, 2)
    assert np.count_nonzero(merged.instances) == 35


def test_small_lesions_are_left_out_in_millimetres(tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    far = [Blob((4, 4, 4, 6, 6, 6), 0.9, 0.9), Blob((18, 18, 18, 21, 21, 21), 0.5, 0.9)]
    candidates = make_candidates(far, spacing=(2.0, 1.0, 0.25))
    with caplog.at_level("INFO"):
        assert len(candidates.merge(tiny_plans.evolve(inference={"minimum_volume_mm3": 4.0})).lesions) == 2
        assert caplog.text == ""
        merged = candidates.merge(tiny_plans.evolve(inference={"minimum_volume_mm3": 4.1}))
    assert [lesion.voxels for lesion in merged.lesions] == [27] and np.unique(merged.instances).tolist() == [0, 1]
    assert "1 lesion(s) smaller than 4.1 mm³ left out" in caplog.text


def test_no_candidates_give_an_empty_mask(tiny_plans: Plans) -> None:
    merged = NONE.merge(tiny_plans, keep_probabilities=True)
    assert merged.lesions == [] and merged.instances.shape == SHAPE and not merged.semantic.any()
    assert merged.probabilities is not None and not merged.probabilities.any()


def test_a_roi_outside_the_volume_gives_nothing(tiny_plans: Plans) -> None:
    outside = make_candidates([Blob((60, 60, 60, 63, 63, 63), 0.9, 0.9), Blob((4, 4, 4, 6, 6, 6), 0.8, 0.8)])
    assert [lesion.candidate for lesion in outside.merge(tiny_plans).lesions] == [1]


def test_a_candidate_without_a_roi_gives_nothing(tiny_plans: Plans) -> None:
    candidates = make_candidates([Blob((4, 4, 4, 6, 6, 6), 0.8, 0.8)])
    bare = Candidates(candidates.detections, [], SHAPE, (1, 1, 1))
    merged = bare.merge(tiny_plans.evolve(inference={"score_threshold": 0}))
    assert merged.lesions == [] and merged.scores.tolist() == [0]


def test_labels_beyond_255_fit(tiny_plans: Plans) -> None:
    merged = make_candidates([Blob((4, 4, 4, 6, 6, 6), 0.8, 0.8)]).merge(tiny_plans.evolve(class_labels=[700]))
    assert merged.semantic.max() == 700


# -- Several networks --------------------------------------------------------------------------------------------------


def test_candidates_know_how_far_several_networks_disagree(tiny_plans: Plans) -> None:
    candidates = make_candidates(TWO)
    members = MemberScores(np.array([[0.2, 0.5], [0.2, 0.8]]), np.array([[0.5, 0.9], [0.5, 0.9]]))
    several = candidates.of_several(members, tiny_plans.inference)
    assert several.detections is candidates.detections and several.networks == 2
    odds = np.log(np.sqrt([0.45, 0.72]) / (1 - np.sqrt([0.45, 0.72])))
    assert several.variance_between == pytest.approx(np.var(odds, ddof=1) / 2)  # none of the other candidate
    admitted = several.admitted(tiny_plans.inference)
    assert (admitted.variance_between, admitted.networks) == (several.variance_between, 2)


def test_the_calibration_goes_by_the_number_of_networks(tiny_plans: Plans) -> None:
    known = {"calibration_base_rate": 0.4, "calibration_variance": 1.0}
    plans = tiny_plans.evolve(inference={"calibration": ((0, 0), (0.5, 0.4), (0.8, 0.8), (1, 1)), **known})
    one = make_candidates(TWO)
    assert one.calibrated(plans) is plans
    five = replace(one, variance_between=0.5, networks=5)
    assert five.calibrated(tiny_plans) is tiny_plans, "without a calibration there is none of several"
    sharper = five.calibrated(plans).inference.calibration
    assert apply_calibration(sharper, [0.8])[0] > 0.8 and apply_calibration(sharper, [0.5])[0] == pytest.approx(0.4)
