from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_geometry
from detseg3d.exports.viewers.export import ViewerFormat, export_for_viewers, parse_formats
from tests.exports.results import GEOMETRIES, two_lesions, write_results


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("slicer", (ViewerFormat.SLICER,)),
        ("prompts,slicer,prompts", (ViewerFormat.PROMPTS, ViewerFormat.SLICER)),
        ("slicer, itksnap", (ViewerFormat.SLICER, ViewerFormat.ITKSNAP)),
    ],
)
def test_formats_are_read_from_a_list(text: str, formats: tuple[ViewerFormat, ...]) -> None:
    assert parse_formats(text) == formats


@pytest.mark.parametrize("text", ["", "ohif", "slicer,", "slicer;itksnap", "Slicer"])
def test_another_format_is_refused(text: str) -> None:
    with pytest.raises(DetSeg3DError) as error:
        parse_formats(text)
    assert error.value.value == text and error.value.expected is not None and "slicer" in error.value.expected


def test_only_the_requested_files_are_written(tmp_path: Path) -> None:
    write_results(tmp_path, GEOMETRIES["axial"], two_lesions((8, 9, 10)))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    written = export_for_viewers(tmp_path, "a", [ViewerFormat.ITKSNAP, ViewerFormat.PROMPTS])
    assert set(written) == {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {"itksnap/a.txt", "prompts/a.json"}


def test_a_case_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        export_for_viewers(tmp_path, "b", [ViewerFormat.PROMPTS])
    assert error.value.file == tmp_path / "rois" / "b.json"


def test_an_array_without_a_spacing_has_the_spacing_of_the_record(tmp_path: Path) -> None:
    geometry = Geometry((8, 9, 10), (3.0, 1.0, 0.5))
    record = write_results(tmp_path, geometry, two_lesions(geometry.shape))
    (tmp_path / "instances" / "a.nii.gz").unlink()
    np.save(tmp_path / "instances" / "a.npy", two_lesions(geometry.shape))
    (tmp_path / "rois" / "a.json").write_text(json.dumps({**record, "spacing": [3.0, 1.0, 0.5]}), encoding="utf-8")
    export_for_viewers(tmp_path, "a", [ViewerFormat.SLICER])
    assert read_geometry(tmp_path / "slicer" / "a.seg.nrrd").spacing == geometry.spacing
