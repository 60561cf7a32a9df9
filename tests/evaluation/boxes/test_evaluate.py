from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.data.labels import LabelFormat
from detseg3d.evaluation.boxes.evaluate import (
    BoxCounts,
    BoxCriterion,
    BoxEvaluation,
    BoxInput,
    evaluate_boxes,
    true_boxes,
)
from detseg3d.evaluation.scores.froc import ScoreSummary
from detseg3d.reporting.text.boxes import format_box_evaluation
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run

SHAPE = (8, 20, 20)
LESIONS = [(1, 2, 2, 4, 6, 6), (4, 10, 10, 7, 14, 14)]


def save_label(folder: Path, name: str, boxes: list[tuple[int, ...]], values: tuple[int, ...] = (1, 1)) -> None:
    array = np.zeros(SHAPE, np.uint8)
    for (z0, y0, x0, z1, y1, x1), value in zip(boxes, values, strict=False):
        array[z0:z1, y0:y1, x0:x1] = value
    write_image(array, Geometry(SHAPE, (3.0, 1.0, 1.0)), folder / "labels" / f"{name}.nii.gz")


def save_boxes(path: Path, rows: list[str], header: str = "case,z0,y0,x0,z1,y1,x1,score") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(case: str, box: tuple[float, ...], *rest: Any) -> str:
    return ",".join(str(value) for value in (case, *box, *rest))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write boxes of ``a``, ``b`` and ``c`` with 2, 1 and 0 lesions: each lesion is found, and 3 boxes are wrong."""
    write_json({"labels": {"background": 0, "lesion": 1}}, tmp_path / "dataset.json")
    save_label(tmp_path, "a", LESIONS)
    save_label(tmp_path, "b", LESIONS[:1])
    save_label(tmp_path, "c", [])
    save_boxes(
        tmp_path / "boxes.csv",
        [
            row("a", LESIONS[0], 0.9),
            row("a", (4, 10, 12, 7, 14, 16), 0.6),  # half of the second lesion: IoU 1/3, centre on its upper face
            row("b", (1, 2, 2, 4, 6, 6), 0.8),
            row("b", (1, 2, 3, 4, 6, 6), 0.7),  # once more on the same lesion
            row("c", (0, 0, 0, 2, 2, 2), 0.5),
            row("c", (5, 5, 5, 8, 8, 8), 0.3),
        ],
    )
    return tmp_path


def evaluate(folder: Path, cases: list[str] | None = None, **options: Any) -> BoxEvaluation:
    given = BoxInput(folder / "labels", folder / "boxes.csv", cases=cases)
    return evaluate_boxes(given, **{"samples": 50, "run": Run(show_progress=False), **options})


def scores_of(folder: Path, criterion: BoxCriterion) -> ScoreSummary:
    return evaluate(folder).summary.scores[criterion]


def problems(result: BoxEvaluation) -> dict[str, str]:
    return {problem.case_id: problem.problem for problem in result.problems}


@pytest.mark.parametrize("processes", [0, 1])
def test_the_metrics_equal_a_count_by_hand(folder: Path, processes: int) -> None:
    result = evaluate(folder, run=Run(processes))
    summary = result.summary
    assert (summary.cases, summary.lesions, summary.boxes) == (3, 3, 6)
    assert (summary.lesion_free_scans, summary.boxes_in_lesion_free_scans) == (1, 2)
    scores = summary.scores
    iou_01 = scores[BoxCriterion.IOU_01]
    # IoU 0.1: hits at 0.9, 0.8 and 0.6, false at 0.7, 0.5 and 0.3. Precision 1, 1, 2/3, 3/4.
    assert iou_01.average_precision == pytest.approx((1 + 1 + 3 / 4) / 3)
    # IoU 0.5 loses the shifted box.
    assert scores[BoxCriterion.IOU_05].average_precision == pytest.approx(2 / 3)
    # By centre the shifted box misses, too, and the second one on a lesion does not count.
    assert scores[BoxCriterion.CENTER].average_precision == pytest.approx(2 / 3)
    assert [point.recall for point in iou_01.froc] == pytest.approx([2 / 3, 2 / 3, 1, 1, 1, 1, 1])
    assert iou_01.cpm == pytest.approx((2 * 2 / 3 + 5) / 7)
    assert iou_01.mean_average_precision == iou_01.average_precision
    assert result.problems == result.warnings == ()
    assert BoxEvaluation.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_each_case_has_its_counts(folder: Path) -> None:
    a, b, c = evaluate(folder).cases
    assert (a.case_id, a.truth, a.boxes) == ("a", 2, 2)
    assert a.criteria[BoxCriterion.IOU_01] == BoxCounts(2, 2, 0)
    assert a.criteria[BoxCriterion.CENTER] == BoxCounts(1, 1, 1)
    assert b.criteria[BoxCriterion.IOU_05] == BoxCounts(1, 1, 1)
    assert b.criteria[BoxCriterion.CENTER] == BoxCounts(1, 1, 0)
    assert c.criteria[BoxCriterion.CENTER] == BoxCounts(0, 0, 2)


def test_a_lesion_free_case_without_boxes_only_changes_false_positives_per_scan(folder: Path) -> None:
    before = evaluate(folder).summary.scores
    save_label(folder, "d", [])
    after = evaluate(folder).summary
    assert after.cases_without_boxes == ("d",)
    for name in BoxCriterion:
        assert after.scores[name].average_precision == before[name].average_precision
        fewer = np.array(before[name].froc_curve.fp_per_scan) * 3 / 4
        assert after.scores[name].froc_curve.fp_per_scan == pytest.approx(fewer.tolist())


def test_intervals_contain_the_metrics(folder: Path) -> None:
    summary = evaluate(folder).summary
    for name in BoxCriterion:
        around = summary.intervals[name].average_precision
        assert around.low is not None and around.high is not None
        assert around.low <= summary.scores[name].average_precision <= around.high
    result = evaluate(folder, groups=dict.fromkeys("abc", "one patient"))
    alone = result.summary.intervals[BoxCriterion.IOU_01].average_precision
    # One patient: every resample is the same, and other patients may have anything.
    assert alone.patients == 1 and alone.low is not None and alone.high is not None
    assert alone.low < 0.025 < 0.97 < alone.high


def test_perfect_boxes_give_1_everywhere(folder: Path) -> None:
    rows = [row("a", LESIONS[0], 0.2), row("a", LESIONS[1], 0.1), row("b", LESIONS[0], 0.3)]
    save_boxes(folder / "boxes.csv", rows)
    for scores in evaluate(folder).summary.scores.values():
        assert (scores.average_precision, scores.cpm, scores.mean_average_precision) == (1, 1, 1)


def test_boxes_of_another_class_find_nothing(folder: Path) -> None:
    write_json({"labels": {"background": 0, "core": 1, "rim": 2, "never": 3}}, folder / "dataset.json")
    save_label(folder, "a", LESIONS, (1, 2))
    rows = [row("a", LESIONS[0], 0.9, "core"), row("a", LESIONS[1], 0.8, "core"), row("b", LESIONS[0], 0.7, 1)]
    save_boxes(folder / "boxes.csv", rows, "case,z0,y0,x0,z1,y1,x1,score,class")
    scores = scores_of(folder, BoxCriterion.IOU_05)
    assert scores.classes["core"].average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert scores.classes["rim"].average_precision == 0
    # All together: hits at 0.9 and 0.7, false at 0.8.
    assert scores.average_precision == pytest.approx((1 + 2 / 3) / 3)
    # The class that never occurs is not averaged in.
    assert scores.mean_average_precision == pytest.approx((1 + 2 / 3) / 4)
    assert "AP by class" in format_box_evaluation(evaluate(folder))


def test_several_classes_need_a_column(folder: Path) -> None:
    save_label(folder, "a", LESIONS, (1, 2))
    write_json({"labels": {"background": 0, "core": 1, "rim": 2}}, folder / "dataset.json")
    with pytest.raises(DetSeg3DError, match="some boxes have no class"):
        evaluate(folder)


def test_without_dataset_json_classes_are_label_values(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    assert scores_of(folder, BoxCriterion.IOU_01).classes.keys() == {"label 1"}
    save_boxes(folder / "boxes.csv", [row("a", LESIONS[0], 0.9, 2)], "case,z0,y0,x0,z1,y1,x1,score,class")
    with pytest.raises(DetSeg3DError, match="no class in common"):
        evaluate(folder)


def test_without_dataset_json_the_only_class_has_the_name_of_the_only_value(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    header, named = "case,z0,y0,x0,z1,y1,x1,score,class", row("a", LESIONS[0], 0.9, "nodule")
    save_boxes(folder / "boxes.csv", [named], header)
    scores = scores_of(folder, BoxCriterion.IOU_05)
    assert scores.classes.keys() == {"label 1"} and scores.average_precision > 0
    save_boxes(folder / "boxes.csv", [named, row("a", LESIONS[0], 0.8, "cyst")], header)
    with pytest.raises(DetSeg3DError, match="no class in common"):
        evaluate(folder)


def test_touching_lesions_of_an_instance_map_are_two(folder: Path) -> None:
    write_json({"labels": {"background": 0, "lesion": 1}, "instances": True}, folder / "dataset.json")
    save_label(folder, "b", [LESIONS[0], (1, 2, 6, 4, 6, 9)], (7, 9))
    assert evaluate(folder).cases[1].truth == 2
    (folder / "dataset.json").unlink()
    np.savez(
        folder / "nndet_boxes.npz", pred_boxes=[[0, 1, 4, 6, 1, 6]], pred_scores=[0.5], pred_labels=[0]
    )  # read as a folder, so the case is `nndet`
    save_label(folder, "nndet", LESIONS[:1])
    result = evaluate_boxes(BoxInput(folder / "labels", folder, LabelFormat(truth_instances=True)), samples=0)
    assert result.summary.scores[BoxCriterion.IOU_05].average_precision == 1


def test_true_boxes_are_tight_and_half_open(folder: Path) -> None:
    boxes, shape = true_boxes(folder / "labels" / "a.nii.gz", LabelFormat())
    assert boxes.boxes.tolist() == [list(map(float, box)) for box in LESIONS]
    assert (shape, boxes.classes) == (SHAPE, ("label 1", "label 1"))


def test_cases_of_only_one_side_are_named_and_the_others_are_evaluated(folder: Path) -> None:
    save_boxes(folder / "boxes.csv", [row("a", LESIONS[0], 0.9), row("other", LESIONS[0], 0.9)])
    result = evaluate(folder)
    assert problems(result) == {"other": f"a prediction, but no label in {folder / 'labels'}"}
    assert result.summary.cases_without_boxes == ("b", "c")
    assert "does not mention these cases, so they have no boxes: 2 (b, c)" in format_box_evaluation(result)


def test_a_table_with_other_case_names_is_refused(folder: Path) -> None:
    save_boxes(folder / "boxes.csv", [row("a_0000", LESIONS[0], 0.9)])
    with pytest.raises(DetSeg3DError, match="no case in common"):
        evaluate(folder)


def test_an_empty_table_is_a_detector_without_boxes(folder: Path) -> None:
    save_boxes(folder / "boxes.csv", [])
    summary = evaluate(folder).summary
    assert (summary.cases, summary.scores[BoxCriterion.IOU_01].average_precision) == (3, 0)


def test_with_a_file_per_case_a_missing_file_is_a_missing_case(folder: Path) -> None:
    for name in "ab":
        save_boxes(folder / "each" / f"{name}.csv", [row(name, LESIONS[0], 0.9)])
    result = evaluate_boxes(BoxInput(folder / "labels", folder / "each"), samples=0)
    assert problems(result) == {"c": f"no prediction in {folder / 'each'}"}
    assert result.summary.cases == 2


def test_a_label_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "labels" / "a.nii.gz").write_bytes(b"nothing")
    result = evaluate(folder)
    assert "a.nii.gz" in problems(result)["a"]
    assert [case.case_id for case in result.cases] == ["b", "c"]
    for name in "bc":
        (folder / "labels" / f"{name}.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DetSeg3DError, match="no case could be evaluated; the first problem"):
        evaluate(folder)


def test_only_the_requested_cases_are_evaluated(folder: Path) -> None:
    result = evaluate(folder, cases=["b", "ghost"])
    assert [case.case_id for case in result.cases] == ["b"]
    assert problems(result) == {"ghost": f"no label in {folder / 'labels'}"}


def test_the_truth_may_be_a_table_of_boxes_with_a_line_for_each_lesion_free_case(folder: Path) -> None:
    rows = [row("a", LESIONS[0]), row("a", LESIONS[1]), row("b", LESIONS[0])]
    truth = save_boxes(folder / "truth.csv", [*rows, "c,,,,,,"], "case,z0,y0,x0,z1,y1,x1")
    result = evaluate_boxes(BoxInput(truth, folder / "boxes.csv"), samples=50)
    expected = evaluate(folder).summary
    assert result.summary.scores == expected.scores
    assert result.summary.intervals == expected.intervals
    save_boxes(truth, rows, "case,z0,y0,x0,z1,y1,x1")
    assert "needs a line with only its name" in problems(evaluate_boxes(BoxInput(truth, folder / "boxes.csv")))["c"]


def test_boxes_outside_the_scan_give_a_warning(folder: Path) -> None:
    swapped: npt.NDArray[np.int64] = np.array(LESIONS)[:, [2, 1, 0, 5, 4, 3]]
    save_boxes(folder / "boxes.csv", [row("a", tuple(box), 0.9) for box in swapped.tolist()])
    result = evaluate(folder)
    assert result.warnings[0].case_id == "a"
    assert "1 of 2 boxes lie outside the scan of 8 20 20 voxels" in result.warnings[0].problem
    assert "Warnings: 1" in format_box_evaluation(result)


def test_a_box_that_only_touches_the_scan_is_outside(folder: Path) -> None:
    touching = [(8, 0, 0, 9, 2, 2), (-2, 0, 0, 0, 2, 2)]
    inside = [(7.9, 0, 0, 9, 2, 2), (-2, 0, 0, 0.1, 2, 2)]
    save_boxes(folder / "boxes.csv", [row("a", box, 0.5) for box in (*touching, *inside)])
    assert "2 of 4 boxes lie outside" in evaluate(folder).warnings[0].problem


def test_the_tables_contain_the_metrics(folder: Path) -> None:
    result = evaluate(folder)
    text = format_box_evaluation(result)
    for name in BoxCriterion:
        assert f"{result.summary.scores[name].cpm:.3f}" in text
    assert "3 cases with 3 lesions and 6 boxes; cases without lesions: 1" in text
    assert "bootstrap over 3 patients. " in text
    assert "Not evaluated" not in text


def test_without_a_true_lesion_the_tables_have_dashes(tmp_path: Path) -> None:
    truth = save_boxes(tmp_path / "truth.csv", ["a,,,,,,", "b,,,,,,"], "case,z0,y0,x0,z1,y1,x1")
    boxes = save_boxes(tmp_path / "boxes.csv", [row("a", (0, 0, 0, 2, 2, 2), 0.9)])
    result = evaluate_boxes(BoxInput(truth, boxes), samples=20)
    assert result.summary.lesions_by_class == {"lesion": 0}
    lines = format_box_evaluation(result).splitlines()
    table = [line for line in lines if line.startswith(("| IoU", "| centre"))]
    assert len(table) == 6
    assert all(cell.strip() == "–" for line in table for cell in line.strip("|").split("|")[1:])


def test_without_resamples_the_metrics_have_no_intervals(folder: Path) -> None:
    text = format_box_evaluation(evaluate(folder, samples=0))
    assert "bootstrap" not in text
    headline = next(line for line in text.splitlines() if line.startswith("| IoU ≥ 0.1"))
    cells = [cell.strip() for cell in headline.strip("|").split("|")]
    assert cells[2] == cells[5] == "–"
    assert float(cells[1]) > 0


def test_a_class_without_a_true_lesion_has_a_dash(folder: Path) -> None:
    write_json({"labels": {"background": 0, "lesion": 1, "other": 2}}, folder / "dataset.json")
    rows = [row("a", LESIONS[0], 0.9, "lesion"), row("a", LESIONS[1], 0.5, "other")]
    save_boxes(folder / "boxes.csv", rows, "case,z0,y0,x0,z1,y1,x1,score,class")
    text = format_box_evaluation(evaluate(folder))
    other = next(line for line in text.splitlines() if line.startswith("| other"))
    assert [cell.strip() for cell in other.strip("|").split("|")[1:]] == ["–", "–", "–"]


def test_a_label_stored_with_255_is_named_and_the_others_are_evaluated(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    save_label(folder, "b", LESIONS[:1], (255,))
    save_label(folder, "d", LESIONS[:1])
    result = evaluate(folder)
    assert [problem.case_id for problem in result.problems] == ["b"]
    assert "255" in result.problems[0].problem
    assert [case.case_id for case in result.cases] == ["a", "c", "d"]


def test_labels_that_are_instance_maps_are_refused_with_the_flag(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    bars = [(0, 0, 3 * place, 1, 1, 3 * place + 1) for place in range(6)]
    save_label(folder, "a", bars, (1, 2, 3, 4, 5, 6))
    save_label(folder, "b", bars[:3], (1, 2, 3))
    with pytest.raises(DetSeg3DError) as caught:
        evaluate(folder)
    assert "--instances truth" in str(caught.value.remedy)


def test_names_of_boxes_and_labels_in_different_normal_forms_match(folder: Path) -> None:
    save_label(folder, "\u00fc", LESIONS[:1])
    rows = [row("u\u0308", LESIONS[0], 0.9), row("a", LESIONS[0], 0.9)]
    save_boxes(folder / "boxes.csv", rows)
    result = evaluate(folder, groups={"u\u0308": "a"})
    assert "\u00fc" in [case.case_id for case in result.cases] and result.problems == ()
    assert result.summary.cases_without_boxes == ("b", "c")
    assert result.summary.patients == 3
