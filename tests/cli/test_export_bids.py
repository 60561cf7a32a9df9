from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import export_bids
from tests.exports.results import GEOMETRIES, two_lesions, write_results


def test_all_cases_of_a_folder_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case_id in ("sub-1", "sub-2_ses-1"):
        write_results(tmp_path / "results", GEOMETRIES["oblique"], two_lesions((8, 9, 10)), case_id)
        (tmp_path / f"results/{case_id}.nii.gz").write_bytes(
            (tmp_path / f"results/instances/{case_id}.nii.gz").read_bytes()
        )
    assert export_bids.main(["-i", str(tmp_path / "results"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/dataset_description.json").is_file()
    for name in ("sub-1/anat/sub-1", "sub-2/ses-1/anat/sub-2_ses-1"):
        for ending in ("label-lesion_mask.nii.gz", "desc-lesions_dseg.tsv", "desc-classes_dseg.nii.gz"):
            assert (tmp_path / f"out/{name}_{ending}").is_file()
    assert "2 of 2" in capsys.readouterr().out


def test_a_case_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case_id in ("scan", "sub-1", "sub-2_FLAIR", "sub-2_T1w"):
        write_results(tmp_path / "results", GEOMETRIES["axial"], two_lesions((8, 9, 10)) // 2, case_id)
    assert export_bids.main(["-i", str(tmp_path / "results"), "-o", str(tmp_path / "out")]) == 1
    assert [path.name for path in (tmp_path / "out").glob("sub-*")] == ["sub-1"]
    assert "failed: scan, sub-2_FLAIR, sub-2_T1w" in capsys.readouterr().err


def test_the_folder_of_the_raw_data_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "results", GEOMETRIES["axial"], two_lesions((8, 9, 10)), "sub-1")
    (tmp_path / "study/sub-1").mkdir(parents=True)
    assert export_bids.main(["-i", str(tmp_path / "results"), "-o", str(tmp_path / "study")]) == 1
    assert "another BIDS data set" in capsys.readouterr().err
    assert list((tmp_path / "study").rglob("*.nii.gz")) == []


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_bids.main(["-i", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert str(tmp_path) in capsys.readouterr().err
