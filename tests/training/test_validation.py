from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from torch import nn

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.data.case_store import CaseStore
from detseg3d.evaluation.metrics import DetectionCounts
from detseg3d.models.ensemble import SegmentedRois, TwoStageOutput
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.plans import Plans
from detseg3d.training.validation import (
    ValidationResult,
    cases_to_validate,
    stage1_hits,
    validate,
)
from tests.training.factory import LESIONS, write_case

CPU = torch.device("cpu")
SIZE = 16


class Oracle(nn.Module):
    """Stands in for the network: finds the lesions of the case whose image it is given, but for those it is to miss."""

    def __init__(
        self,
        store: CaseStore,
        miss: Sequence[int] = (),
        wrong: int = 0,
        swap_classes: bool = False,
        grow: int = 0,
        wrong_in_healthy: int = 0,
    ) -> None:
        super().__init__()
        self.wrong_in_healthy = wrong_in_healthy
        self.known = [store.open(case_id) for case_id in store.case_ids()]
        self.miss, self.wrong, self.swap_classes, self.grow = miss, wrong, swap_classes, grow
        self.modes: list[bool] = []

    def infer(self, image: torch.Tensor) -> TwoStageOutput:
        self.modes.append(self.training)
        [case] = [case for case in self.known if np.array_equal(case.image[:], image.numpy())]
        instances = case.instances[:]
        ids, boxes = boxes_from_instances(instances)
        classes = {lesion["id"]: lesion["class"] for lesion in case.properties["lesions"]}
        found_boxes, found_classes, rois = [], [], []
        for number, box in zip(ids, boxes, strict=True):
            if number in self.miss:
                continue
            low = np.minimum(np.floor(box[:3]) - 3, np.asarray(instances.shape) - SIZE).clip(0).astype(int)
            region = tuple(slice(a, a + SIZE) for a in low)
            inside = instances[region] == number
            if self.grow:
                inside = binary_dilation(inside, iterations=self.grow)
            mask = torch.from_numpy(inside.astype(np.float16))
            rois.append(RoiPrediction(np.concatenate([low, low + SIZE]).astype(np.float32), len(rois), mask, 1.0))
            found_boxes.append(box)
            found_classes.append(1 - classes[number] if self.swap_classes else classes[number])
        for _ in range(
            self.wrong if ids.size else self.wrong + self.wrong_in_healthy
        ):  # a block in the corner, where no lesion is
            mask = torch.zeros((SIZE,) * 3, dtype=torch.float16)
            mask[6:9, 6:9, 6:9] = 1
            rois.append(RoiPrediction(np.array([-6, -6, -6, 10, 10, 10], np.float32), len(rois), mask, 1.0))
            found_boxes.append(np.array([0, 0, 0, 3, 3, 3], np.float32))
            found_classes.append(0)
        count = len(found_boxes)
        detections = Detections(
            np.array(found_boxes, np.float32).reshape(count, 6),
            np.ones(count, np.float32),
            np.array(found_classes, int),
        )
        return TwoStageOutput(detections, SegmentedRois(rois), 1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> CaseStore:
    store = CaseStore(tmp_path_factory.mktemp("store"))
    write_case(store, "a", tiny_plans, seed=0)
    write_case(store, "b", tiny_plans, lesions=LESIONS[:2], seed=1)
    write_case(store, "healthy", tiny_plans, lesions=(), seed=2)
    return store


def judge(model: Any, plans: Plans, store: CaseStore, cases: Sequence[str] = ("a", "b", "healthy")) -> ValidationResult:
    return validate(model, plans, store, cases, CPU)


def test_a_perfect_network_scores_one(tiny_plans: Plans, store: CaseStore) -> None:
    every = DetectionCounts(5, 5, 5, 5)
    assert judge(Oracle(store), tiny_plans, store) == ValidationResult(every, every, 1.0, 1.0)


def test_missed_lesions_cost_recall_in_both_stages(tiny_plans: Plans, store: CaseStore) -> None:
    result = judge(Oracle(store, miss=(1,)), tiny_plans, store)  # 2 of 5
    assert (result.matched, result.stage1_recall) == (DetectionCounts(5, 3, 3, 3), pytest.approx(0.6))
    assert result.metrics()["f1_iou_0.1"] == pytest.approx(2 * 0.6 / 1.6)


def test_false_positives_cost_precision(tiny_plans: Plans, store: CaseStore) -> None:
    result = judge(Oracle(store, wrong=1), tiny_plans, store)  # one in each of 3 scans beside 5 lesions
    assert (result.matched.recall, result.matched.precision) == (1.0, pytest.approx(5 / 8))


def test_masks_that_are_too_large_lose_the_main_figure_and_keep_that_of_any_overlap(
    tiny_plans: Plans, store: CaseStore
) -> None:
    result = judge(Oracle(store, grow=5), tiny_plans, store)
    assert result.touched.recall == 1.0
    assert result.matched.f1 < 0.5


@pytest.mark.parametrize(
    ("kinds", "most", "chosen"),
    [
        ("--LL-", 3, "cab"),  # three of five are lesion-free: two of three
        ("LLLLLLLLL-", 8, "abcdefgj"),  # a tenth is less than one of eight: one all the same
        ("L---------", 8, "abcdefgh"),  # nine tenths: seven of eight, and the only one with lesions
        ("L-L-", 8, "acbd"),
        ("LLL", 2, "ab"),
        ("---", 2, "ab"),
        ("L-", 1, "a"),
        ("", 8, ""),
    ],
)
def test_lesion_free_cases_are_validated_by_their_share(
    tmp_path: Path, tiny_plans: Plans, kinds: str, most: int, chosen: str
) -> None:
    """``L`` has lesions."""
    store = CaseStore(tmp_path)
    names = "abcdefghij"[: len(kinds)]
    for case_id, kind in zip(names, kinds, strict=True):
        write_case(store, case_id, tiny_plans, lesions=LESIONS if kind == "L" else ())
    assert "".join(cases_to_validate(store, list(names), most)) == chosen


def test_false_positives_of_lesion_free_cases_decide_which_network_is_best(tmp_path: Path, tiny_plans: Plans) -> None:
    """Nine scans with lesions would leave no room for the tenth, in which alone the two networks differ."""
    store = CaseStore(tmp_path)
    for number in range(9):
        write_case(store, f"lesions{number}", tiny_plans, lesions=LESIONS[:1], seed=number)
    write_case(store, "healthy", tiny_plans, lesions=(), seed=99)
    cases = cases_to_validate(store, store.case_ids(), 8)
    quiet, loud = Oracle(store), Oracle(store, wrong_in_healthy=2)
    assert judge(quiet, tiny_plans, store, cases).matched.f1 > judge(loud, tiny_plans, store, cases).matched.f1


def test_only_the_cases_named_are_judged(tiny_plans: Plans, store: CaseStore) -> None:
    assert judge(Oracle(store, miss=(3,)), tiny_plans, store, ["b"]).matched.recall == 1.0  # "b" has no third lesion


@pytest.mark.parametrize("wrong", [0, 1])
def test_healthy_scans_alone_have_no_figures_but_false_positives(
    tiny_plans: Plans, store: CaseStore, wrong: int
) -> None:
    result = judge(Oracle(store, wrong=wrong), tiny_plans, store, ["healthy"])
    none = DetectionCounts(0, 0, wrong, 0)
    assert result == ValidationResult(none, none, None, None)
    assert "lesion F1 –" in result.describe() and "1.000" not in result.describe()
    assert result.metrics()["precision_iou_0.1"] == (0.0 if wrong else None)
    json.dumps(result.metrics(), allow_nan=False)


def test_a_lesion_of_another_class_is_not_the_lesion(tmp_path: Path, tiny_plans: Plans) -> None:
    two = tiny_plans.evolve(class_names=("cyst", "tumour"), class_labels=(1, 2))
    store = CaseStore(tmp_path)
    write_case(store, "a", two, classes=(0, 1, 0))
    assert judge(Oracle(store), two, store, ["a"]).matched.f1 == 1.0
    swapped = judge(Oracle(store, swap_classes=True), two, store, ["a"])
    assert (swapped.matched.f1, swapped.stage1_recall) == (0.0, 0.0)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_judged_in_evaluation_mode_and_put_back(
    tiny_plans: Plans, store: CaseStore, training: bool
) -> None:
    model = Oracle(store).train(training)
    judge(model, tiny_plans, store)
    assert model.modes == [False] * 3 and model.training == training


def make_detections(*boxes: Sequence[float], classes: Sequence[int] | None = None) -> Detections:
    of_class = np.array([0] * len(boxes) if classes is None else classes, np.int64)
    return Detections(np.array(boxes, np.float32).reshape(-1, 6), np.ones(len(boxes), np.float32), of_class)


INSTANCES = np.zeros((20, 20, 20), np.uint8)
INSTANCES[2:6, 2:6, 2:6] = 1
INSTANCES[12:14, 12:14, 12:14] = 2


@pytest.mark.parametrize(
    ("found", "hits"),
    [
        (make_detections(), 0),
        (make_detections((2, 2, 2, 6, 6, 6)), 1),
        (make_detections((2, 2, 2, 6, 6, 6), (3, 2, 2, 6, 6, 6)), 1),  # two candidates for one lesion
        (make_detections((2, 2, 2, 6, 6, 6), (12, 12, 12, 14, 14, 14)), 2),
        (make_detections((2, 2, 2, 6, 6, 6), classes=[1]), 0),
        (make_detections((0, 10, 0, 4, 14, 4)), 0),
    ],
)
def test_stage1_hits(found: Detections, hits: int) -> None:
    assert stage1_hits(found, INSTANCES, np.zeros(3, np.int64)) == (hits, 2)
