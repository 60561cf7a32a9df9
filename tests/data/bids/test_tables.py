from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.names import BidsFile, parse_bids_name
from detseg3d.data.bids.tables import read_class_names
from tests.data.bids.builders import add_mask


def segmentation(root: Path, name: str) -> BidsFile:
    path = add_mask(root, name)
    parsed = parse_bids_name(path)
    assert parsed is not None
    return BidsFile(path, parsed)


def test_a_table_beside_a_segmentation_names_its_values(tmp_path: Path) -> None:
    file = segmentation(tmp_path, "sub-1_desc-x_dseg")
    file.path.with_name("sub-1_desc-x_dseg.tsv").write_text(
        "index\tname\n0\tback\n2\tcyst\n1\ttumour\n", encoding="utf-8"
    )
    assert read_class_names([file], tmp_path) == {"cyst": 2, "tumour": 1}


def test_a_table_in_a_higher_folder_is_inherited_by_matching_segmentations(tmp_path: Path) -> None:
    file, other = segmentation(tmp_path, "sub-1_desc-x_dseg"), segmentation(tmp_path, "sub-1_desc-y_dseg")
    (tmp_path / "desc-x_dseg.tsv").write_text("name\tindex\ncyst\t1\n", encoding="utf-8")
    assert read_class_names([file], tmp_path) == {"cyst": 1}
    assert read_class_names([other], tmp_path) is None
    (tmp_path / "dseg.tsv").write_text("name\tindex\nlesion\t1\n", encoding="utf-8")
    assert read_class_names([other], tmp_path) == {"lesion": 1}


def test_a_binary_mask_has_no_table(tmp_path: Path) -> None:
    file = segmentation(tmp_path, "sub-1_mask")
    (tmp_path / "dseg.tsv").write_text("name\tindex\ncyst\t1\n", encoding="utf-8")
    assert read_class_names([file], tmp_path) is None


@pytest.mark.parametrize("second", ["1\ttumour", "2\tcyst"])
def test_tables_that_contradict_each_other_are_refused(tmp_path: Path, second: str) -> None:
    files = [segmentation(tmp_path, f"sub-{number}_dseg") for number in (1, 2)]
    for file, row in zip(files, ("1\tcyst", second), strict=True):
        file.path.with_name(f"sub-{file.name.subject}_dseg.tsv").write_text(f"index\tname\n{row}\n", encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        read_class_names(files, tmp_path)
    assert error.value.file is not None and error.value.file.name == "sub-2_dseg.tsv"


@pytest.mark.parametrize("text", ["index\n1\n", "index\tname\none\tcyst\n", "index,name\n1,cyst\n", "index\tname\n1\n"])
def test_a_table_without_index_and_name_is_refused(tmp_path: Path, text: str) -> None:
    file = segmentation(tmp_path, "sub-1_dseg")
    table = file.path.with_name("sub-1_dseg.tsv")
    table.write_text(text, encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        read_class_names([file], tmp_path)
    assert error.value.file == table
