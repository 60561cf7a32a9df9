from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import export_viewers
from tests.exports.results import GEOMETRIES, two_lesions, write_results


def test_all_cases_of_a_folder_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case_id in ("a", "b.c"):
        write_results(tmp_path, GEOMETRIES["oblique"], two_lesions((8, 9, 10)), case_id)
    assert export_viewers.main(["-i", str(tmp_path), "--also", "slicer,itksnap,prompts"]) == 0
    names = ("slicer/{}.seg.nrrd", "slicer/{}.mrk.json", "itksnap/{}.txt", "prompts/{}.json")
    assert all((tmp_path / name.format(case_id)).is_file() for name in names for case_id in ("a", "b.c"))
    assert "2 of 2" in capsys.readouterr().out


def test_a_case_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case_id in ("a", "b"):
        write_results(tmp_path, GEOMETRIES["axial"], two_lesions((8, 9, 10)), case_id)
    (tmp_path / "instances" / "a.nii.gz").unlink()
    assert export_viewers.main(["-i", str(tmp_path), "--also", "prompts"]) == 1
    assert (tmp_path / "prompts" / "b.json").is_file() and not (tmp_path / "prompts" / "a.json").exists()
    assert "a failed" in capsys.readouterr().err


@pytest.mark.parametrize("formats", ["", "dicom", "slicer,ohif"])
def test_another_format_is_refused_before_anything_is_written(
    tmp_path: Path, formats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path, GEOMETRIES["axial"], two_lesions((8, 9, 10)))
    assert export_viewers.main(["-i", str(tmp_path), "--also", formats]) == 1
    assert "slicer,itksnap,prompts" in capsys.readouterr().err
    assert not (tmp_path / "slicer").exists()


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_viewers.main(["-i", str(tmp_path), "--also", "slicer"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
