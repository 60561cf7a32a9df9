from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.boxes.files import BoxFolder, find_class_name, read_box_table, read_boxes
from detseg3d.system.json_files import write_json

HEADER = "case,z0,y0,x0,z1,y1,x1,score"
BOX = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
NNDETECTION: dict[str, Any] = {"pred_boxes": [[0, 1, 4, 5, 2, 6]], "pred_scores": [0.5], "pred_labels": [0]}


def table(folder: Path, *lines: str, name: str = "boxes.csv") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_table_of_all_cases(tmp_path: Path) -> None:
    cases = read_box_table(table(tmp_path, HEADER, "a,1,2,3,4,5,6,0.5", "b,0,0,0,1.5,1,1,-3e1", "a,7,7,7,8,8,8,1"))
    assert cases["a"].boxes.tolist() == [BOX, [7, 7, 7, 8, 8, 8]]
    assert cases["b"].boxes.tolist() == [[0, 0, 0, 1.5, 1, 1]]
    assert cases["a"].scores is not None
    assert cases["a"].scores.tolist() == [0.5, 1.0]
    assert cases["a"].classes is None


def test_columns_can_have_any_order_capitals_and_spaces_and_other_columns_are_ignored(tmp_path: Path) -> None:
    file = table(tmp_path, "score, X1 ,x0,id,y1,y0,z1,z0,Case", " 0.5,6,3,99,5, 2,4,1 , a ", "")
    assert read_box_table(file)["a"].boxes.tolist() == [BOX]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_a_byte_order_mark_are_understood(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "boxes.csv"
    text = f"{HEADER}\r\na,1,2,3,4,5,6,0.5\r\n".replace(",", separator)
    file.write_bytes(text.encode("utf-8-sig"))
    assert read_box_table(file)["a"].boxes.tolist() == [BOX]


def test_a_line_with_only_a_case_means_that_it_has_no_boxes(tmp_path: Path) -> None:
    cases = read_box_table(table(tmp_path, HEADER, "a,,,,,,,", "b", "c,1,2,3,4,5,6,0.5"))
    assert [len(boxes) for boxes in cases.values()] == [0, 0, 1]


def test_true_boxes_need_no_score(tmp_path: Path) -> None:
    file = table(tmp_path, "case,z0,y0,x0,z1,y1,x1", "a,1,2,3,4,5,6")
    assert read_box_table(file, with_scores=False)["a"].scores is None
    empty = table(tmp_path, HEADER, "a,1,2,3,4,5,6,", name="b.csv")
    assert read_box_table(empty, with_scores=False)["a"].scores is None
    with pytest.raises(DetSeg3DError, match=r"lacks the column\(s\) score"):
        read_box_table(file)


def test_classes_are_names_or_label_values(tmp_path: Path) -> None:
    lines = [HEADER + ",class", "a,1,2,3,4,5,6,0.5,rim", "a,1,2,3,4,5,6,0.5,1"]
    assert read_box_table(table(tmp_path, *lines), {"core": 1, "rim": 2})["a"].classes == ("rim", "core")
    assert read_box_table(table(tmp_path, *lines))["a"].classes == ("rim", "label 1")
    assert find_class_name("3", {"core": 1}) is None


def test_one_error_names_all_wrong_values_with_line_and_column(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        HEADER + ",class",
        "a,1,2,3,4,5,6,0.5,core",
        "a,1,2,3,4,x,6,0.5,core",
        "b,1,2,3,4,5,3,nan,core",
        ",1,2,3,4,5,6,,core",
        "c,1,2,3,4,5,6,0.5,shell",
        "d,1,2",
    )
    with pytest.raises(DetSeg3DError) as caught:
        read_box_table(file, {"core": 1})
    message = str(caught.value)
    for text in (
        "line 3, column y1: 'x' is not a number",
        "line 4, column score: 'nan' is not a number",
        "line 4, column x1: 3 is not greater than x0, 3",
        "line 5, column case: the cell is empty",
        "line 5, column score: the cell is empty",
        "line 6, column class: 'shell' is not a class; the classes are core",
        "line 7, column x0: the cell is empty",
    ):
        assert text in message
    assert "line 2," not in message
    assert str(file) in message


def test_an_error_with_many_wrong_values_shows_the_first_twenty(tmp_path: Path) -> None:
    file = table(tmp_path, HEADER, *["a,1,2,3,4,5,6,bad"] * 50)
    with pytest.raises(DetSeg3DError, match=r"50 wrong value\(s\)(.|\n)*line 21, (.|\n)*and 30 more") as caught:
        read_box_table(file)
    assert "line 22," not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("case,z0,y0,x0,z1,score", r"lacks the column\(s\) y1, x1"),
        ("case,z0,z0,y0,x0,z1,y1,x1,score", r"repeats the column\(s\) z0"),
        ("", "lacks the column"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DetSeg3DError, match=message):
        read_box_table(table(tmp_path, header))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_bytes(b"\xff\xfe\x00c")
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read_boxes(tmp_path / "boxes.csv")


def boxes_of(result: BoxFolder) -> dict[str, list[list[float]]]:
    return {case: boxes.boxes.tolist() for case, boxes in result.cases.items()}


def test_boxes_from_one_file_are_marked(tmp_path: Path) -> None:
    result = read_boxes(table(tmp_path, HEADER, "a,1,2,3,4,5,6,0.5"))
    assert (result.one_file, boxes_of(result)) == (True, {"a": [BOX]})


def test_a_table_per_case_needs_no_column_case(tmp_path: Path) -> None:
    table(tmp_path, HEADER.removeprefix("case,"), "1,2,3,4,5,6,0.5", name="a.csv")
    table(tmp_path, HEADER, "b,1,2,3,4,5,6,0.5", name="b.csv")
    table(tmp_path, HEADER, name="c.csv")
    result = read_boxes(tmp_path)
    assert (result.one_file, boxes_of(result)) == (False, {"a": [BOX], "b": [BOX], "c": []})


def test_a_table_that_names_another_case_is_a_problem_of_its_case(tmp_path: Path) -> None:
    table(tmp_path, HEADER, "b,1,2,3,4,5,6,0.5", name="a.csv")
    table(tmp_path, HEADER, "b,1,2,3,4,5,6,0.5", name="b.csv")
    result = read_boxes(tmp_path)
    assert list(result.cases) == ["b"]
    assert "line 2, column case: the case is 'b', but the file belongs to 'a'" in result.problems[0].problem


def test_if_no_file_can_be_read_the_reason_is_given(tmp_path: Path) -> None:
    table(tmp_path, "nothing", name="a.csv")
    table(tmp_path, "nothing", name="b.csv")
    with pytest.raises(DetSeg3DError, match=r"none of the 2 file\(s\) of boxes can be read; the first .* lacks"):
        read_boxes(tmp_path)


def test_nndetection_counts_classes_from_0_in_the_order_of_the_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a_boxes.npz", **NNDETECTION)
    write_json({**NNDETECTION, "pred_labels": [1]}, tmp_path / "b_boxes.json")
    result = read_boxes(tmp_path, {"rim": 2, "core": 1})
    assert boxes_of(result) == {"a": [BOX], "b": [BOX]}
    assert [boxes.classes for boxes in result.cases.values()] == [("core",), ("rim",)]
    assert [boxes.classes for boxes in read_boxes(tmp_path).cases.values()] == [("label 1",), ("label 2",)]
    few = read_boxes(tmp_path, {"core": 1})
    assert list(few.cases) == ["a"]
    assert "unknown class" in few.problems[0].problem


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trap_was_sprung"),)


def test_pickles_are_refused_unopened_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_boxes.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DetSeg3DError, match=r"not read(.|\n)*trust(.|\n)*numpy\.savez"):
        read_boxes(tmp_path)
    assert not (tmp_path / "trap_was_sprung").exists()
    np.savez(tmp_path / "b_boxes.npz", **NNDETECTION)
    assert list(read_boxes(tmp_path).cases) == ["b"]
    assert not (tmp_path / "trap_was_sprung").exists()


def rois(folder: Path, *lesions: dict[str, Any]) -> Path:
    write_json({"case_id": "a", "lesions": list(lesions)}, folder / "rois" / "a.json")
    return folder


def test_roi_files_are_read_before_the_table_of_lesions(tmp_path: Path) -> None:
    rois(tmp_path, {"id": 1, "label": 2, "score": 0.5, "box": BOX})
    table(tmp_path, "case,id", "a,1", name="lesions.csv")
    result = read_boxes(tmp_path, {"core": 1, "rim": 2})
    assert boxes_of(result) == {"a": [BOX]}
    assert result.cases["a"].classes == ("rim",)


def test_the_table_of_lesions_that_predict_writes_is_a_table_of_boxes(tmp_path: Path) -> None:
    header = "case,id,class,score,volume_mm3,diameter_mm,voxels,z0,y0,x0,z1,y1,x1,center_x_mm,center_y_mm,center_z_mm"
    file = table(tmp_path, header, "a,1,lesion,0.9,27,3.722,27,1,2,3,4,5,6,4.5,3.5,2.5", name="lesions.csv")
    assert boxes_of(read_boxes(file, {"lesion": 1})) == {"a": [BOX]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, "no box or no score"),
        ({"box": None}, "no box or no score"),
        ({"label": 7}, "unknown class"),
        ({"box": [4, 2, 3, 1, 5, 6]}, "contains a wrong edge"),
        ({"box": BOX[:4]}, "differs from what detseg3d_predict writes"),
    ],
)
def test_a_wrong_roi_file_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rois(tmp_path, {"id": 1, "label": 1, "score": 0.5, "box": BOX, **change})
    with pytest.raises(DetSeg3DError, match=message):
        read_boxes(tmp_path, {"lesion": 1})


def test_a_path_without_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="no such CSV file or folder"):
        read_boxes(tmp_path / "nowhere.csv")
    with pytest.raises(DetSeg3DError, match="no boxes in the folder"):
        read_boxes(tmp_path)
