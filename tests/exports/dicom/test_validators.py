"""Programs of others read the written objects. The tests are skipped if the programs are not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from detseg3d.exports.dicom.options import DicomOptions, SegmentationKind
from detseg3d.pipeline.export_dicom import export_dicom
from tests.exports.dicom.results import Results, make_source

# The program of 2022 knows neither label maps, which the standard has since 2023, nor reports that refer to them.
_CHECKED = ["seg", "sr", "rtstruct"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of the package dicom3tools")
@pytest.mark.parametrize("source", ["axial", "enhanced", "real CT"])
@pytest.mark.parametrize("name", _CHECKED)
@pytest.mark.parametrize("numbers", [(1, 2, 3), ()])
def test_a_validator_finds_no_error(source: str, name: str, numbers: tuple[int, ...], tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source(source, tmp_path / "source"), numbers=numbers).write()
    options = DicomOptions(SegmentationKind.BINARY, contours=True)
    assert export_dicom(results.folder, results.source, tmp_path / "out", options).failures == {}
    file = tmp_path / "out" / f"case.{name}.dcm"
    if not file.exists():
        assert not numbers and name != "sr"
        return
    found = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, check=False)
    errors = [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
    assert errors == []


@pytest.mark.skipif(shutil.which("tid1500reader") is None, reason="needs the programs of dcmqi")
def test_dcmqi_reads_the_report(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source")).write()
    assert export_dicom(results.folder, results.source, tmp_path / "out").failures == {}
    subprocess.run(
        [
            *("tid1500reader", "--inputDICOM", str(tmp_path / "out" / "case.sr.dcm")),
            *("--outputMetadata", str(tmp_path / "sr.json")),
        ],
        check=True,
        capture_output=True,
    )
    groups = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    assert [group["TrackingIdentifier"] for group in groups][::2] == ["Lesion 1", "Lesion 2", "Lesion 3"]
