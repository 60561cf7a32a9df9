"""Stage 2 in the true boxes, and the file of its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.consolidation.true_boxes import TrueBoxLesion, read_true_boxes, segment_true_boxes, write_true_boxes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.plans import Plans
from detseg3d.system.files import write_text
from tests.training.factory import LESIONS, write_case

SIZE = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> CaseStore:
    """Case ``a`` has three lesions, ``b`` two, ``healthy`` none."""
    store = CaseStore(tmp_path_factory.mktemp("store"))
    for case_id, lesions in (("a", LESIONS), ("b", LESIONS[:2]), ("healthy", ())):
        write_case(store, case_id, tiny_plans, lesions)
    return store


class Outliner:
    """Stands in for the predictor: fills the box with or without its first slice, and gives low scores."""

    def __init__(self, plans: Plans, whole_box: bool = False, blind_to: int = -1) -> None:
        self.plans, self.whole_box, self.blind_to = plans, whole_box, blind_to
        self.asked: list[Detections] = []

    def segment_boxes(self, image: torch.Tensor, detections: Detections) -> list[RoiPrediction]:
        self.asked.append(detections)
        rois = []
        for index, box in enumerate(detections.boxes):
            low = np.minimum(np.floor(box[:3]) - 3, np.asarray(image.shape[1:]) - SIZE).clip(0).astype(int)
            mask = torch.zeros(image.shape[1:], dtype=torch.float16)
            z0, y0, x0, z1, y1, x1 = (int(edge) for edge in box)
            mask[z0:z1, y0:y1, x0:x1] = 1
            if index == self.blind_to:
                mask[:] = 0
            if not self.whole_box:
                mask[z0] = 0  # a slice too few
            z, y, x = low.tolist()
            part = mask[z : z + SIZE, y : y + SIZE, x : x + SIZE]
            rois.append(RoiPrediction(np.concatenate([low, low + SIZE]).astype(np.float32), index, part, 0.01))
        return rois


def segment(plans: Plans, store: CaseStore, cases: Sequence[str], **settings: Any) -> list[TrueBoxLesion]:
    return segment_true_boxes(Outliner(plans, **settings), store, cases)  # type: ignore[arg-type]


def test_lesions_that_are_blocks_fill_their_true_boxes(tiny_plans: Plans, store: CaseStore) -> None:
    rows = segment(tiny_plans, store, ["a", "b"], whole_box=True)
    voxels = [4 * 4 * 4, 3 * 3 * 3, 1 * 1 * 1]
    expected = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
    assert rows == [TrueBoxLesion(case, number, voxels[number - 1], 1.0) for case, number in expected]


def test_what_is_missing_in_the_true_box_costs_dice(tiny_plans: Plans, store: CaseStore) -> None:
    rows = segment(tiny_plans, store, ["a"])
    # 3 of 4 slices, 2 of 3, none of 1.
    assert [row.dice for row in rows] == [pytest.approx(6 / 7), pytest.approx(4 / 5), 0.0]


def test_each_box_is_judged_by_its_own_segment(tiny_plans: Plans, store: CaseStore) -> None:
    """The first lesion has none, so that the lesions of the mask are numbered otherwise than the true ones."""
    assert [row.dice for row in segment(tiny_plans, store, ["a"], whole_box=True, blind_to=0)] == [0.0, 1.0, 1.0]


def test_the_outlines_are_asked_for_all_boxes_of_a_case_with_their_classes(tmp_path: Path, tiny_plans: Plans) -> None:
    two = tiny_plans.evolve(class_names=("cyst", "tumour"), class_labels=(1, 2))
    store = CaseStore(tmp_path)
    write_case(store, "a", two, classes=(0, 1, 0))
    outliner = Outliner(two, whole_box=True)
    assert [row.dice for row in segment_true_boxes(outliner, store, ["a"])] == [1.0] * 3  # type: ignore[arg-type]
    [asked] = outliner.asked
    assert asked.classes.tolist() == [0, 1, 0] and asked.boxes[0].tolist() == [4, 5, 6, 8, 9, 10]


def test_true_boxes_are_judged_apart_even_where_their_outlines_touch(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"join_touching": True})
    store = CaseStore(tmp_path)
    write_case(store, "a", plans, ((4, 4, 4, 12, 12, 12), (12, 12, 12, 15, 15, 15)))
    assert all(row.dice > 0.9 for row in segment(plans, store, ["a"], whole_box=True))


def test_healthy_scans_have_no_true_boxes(tiny_plans: Plans, store: CaseStore) -> None:
    assert segment(tiny_plans, store, ["healthy"]) == []


def test_cases_that_are_not_preprocessed_with_these_plans_are_left_out(
    tiny_plans: Plans, store: CaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert segment(tiny_plans.evolve(interpolation_order=3), store, ["a"]) == []
    assert "a is not preprocessed with these plans" in caplog.text
    assert segment(tiny_plans, store, ["nowhere"]) == []


def test_the_lesions_come_back_from_their_file(tmp_path: Path) -> None:
    lesions = [TrueBoxLesion("a", 1, 27, 0.5), TrueBoxLesion("b", 3, 8, 1.0)]
    write_true_boxes(lesions, tmp_path / "true_boxes.json")
    assert read_true_boxes(tmp_path / "true_boxes.json", "") == lesions


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"case": "a", "lesion": 1, "voxels": 2}]', '[{"case": 1}]'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    write_text(text, tmp_path / "true_boxes.json")
    with pytest.raises(DetSeg3DError) as caught:
        read_true_boxes(tmp_path / "true_boxes.json", "validate again")
    assert (caught.value.file, caught.value.remedy) == (tmp_path / "true_boxes.json", "validate again")
