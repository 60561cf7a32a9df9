from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.exports.viewers.export import ViewerFormat, export_for_viewers
from tests.exports.results import GEOMETRIES, two_lesions, write_results

LINE = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"\s*')


def read_labels(path: Path) -> dict[int, tuple[tuple[int, ...], float, str]]:
    """Read a label description file as ITK-SNAP does: comments begin with #, the name is in quotation marks."""
    labels = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = LINE.fullmatch(line)
        assert match is not None, line
        number, red, green, blue = (int(value) for value in match.groups()[:4])
        assert max(red, green, blue) <= 255
        labels[number] = ((red, green, blue), float(match[5]), match[8])
    return labels


def test_each_lesion_has_a_label_with_its_number(tmp_path: Path) -> None:
    write_results(tmp_path, GEOMETRIES["axial"], two_lesions((8, 9, 10)))
    export_for_viewers(tmp_path, "a", [ViewerFormat.ITKSNAP])
    labels = read_labels(tmp_path / "itksnap" / "a.txt")
    assert list(labels) == [0, 1, 2]
    assert labels[0] == ((0, 0, 0), 0.0, "Clear Label")
    assert [labels[number][2] for number in (1, 2)] == ["1 kind 1, score 0.900", "2 kind 2, score 0.800"]
    assert labels[1][0] != labels[2][0] and labels[1][1] == 1


def test_quotation_marks_and_line_breaks_do_not_break_the_file(tmp_path: Path) -> None:
    record = write_results(tmp_path, GEOMETRIES["axial"], two_lesions((8, 9, 10)))
    record["lesions"][0]["class"] = 'a "b"\n3 0 0 0 1 1 1 "c"'
    (tmp_path / "rois" / "a.json").write_text(json.dumps(record), encoding="utf-8")
    export_for_viewers(tmp_path, "a", [ViewerFormat.ITKSNAP])
    assert list(read_labels(tmp_path / "itksnap" / "a.txt")) == [0, 1, 2]


def test_without_lesions_only_the_clear_label_is_written(tmp_path: Path) -> None:
    write_results(tmp_path, GEOMETRIES["axial"], np.zeros((8, 9, 10), np.uint16))
    export_for_viewers(tmp_path, "a", [ViewerFormat.ITKSNAP])
    assert list(read_labels(tmp_path / "itksnap" / "a.txt")) == [0]


def test_a_number_that_itk_snap_cannot_show_is_refused(tmp_path: Path) -> None:
    instances = np.zeros((8, 9, 10), np.uint32)
    instances[1, 1, 1] = 65_536
    write_results(tmp_path, GEOMETRIES["axial"], instances)
    with pytest.raises(DetSeg3DError) as error:
        export_for_viewers(tmp_path, "a", [ViewerFormat.ITKSNAP])
    assert error.value.value == 65_536
