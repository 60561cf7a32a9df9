"""Print reports of patients with Chromium, and count the sheets."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.measures.measure import measure_lesions
from detseg3d.reporting.html.patient import PatientReport, ReportedLesion, write_patient_report
from tests.integration.browser import CHROMIUM, browse

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

SHAPE = (40, 48, 48)


def report(lesion_count: int) -> PatientReport:
    """Return the report of a scan with lesions of 8 voxels on a regular grid, in two classes."""
    geometry = Geometry(SHAPE, (3.0, 1.0, 1.0))
    instances = np.zeros(SHAPE, np.uint16)
    places = [(z, y, x) for z in range(1, 38, 4) for y in range(1, 45, 6) for x in range(1, 45, 6)]
    for number, (z, y, x) in enumerate(places[:lesion_count], start=1):
        instances[z : z + 2, y : y + 2, x : x + 2] = number
    numbers = list(range(1, lesion_count + 1))
    measured = measure_lesions(instances, numbers, geometry)
    lesions = tuple(
        ReportedLesion(number, ("cyst", "metastasis")[number % 2], 1 - number / 1000, measures)
        for number, measures in zip(numbers, measured, strict=True)
    )
    image = np.random.default_rng(0).normal(100, 5, SHAPE).astype(np.float32)
    return PatientReport("case", lesions, Image(instances, geometry), Image(image, geometry))


@pytest.mark.parametrize(("lesion_count", "sheets"), [(0, 1), (3, 1), (300, 2)])
def test_the_page_prints_to_one_or_two_sheets(tmp_path: Path, lesion_count: int, sheets: int) -> None:
    page = write_patient_report(tmp_path / "page.html", report(lesion_count))
    pdf = tmp_path / "page.pdf"
    browse(page, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) == sheets
    html = page.read_text(encoding="utf-8")
    if lesion_count == 300:
        assert "294 lesions of 300 have no picture" in html
        # Each lesion is in the list; the lesions with pictures are also in the table and above their pictures.
        assert len(re.findall(r'class="badge"', html)) == 300 + 6 + 6
