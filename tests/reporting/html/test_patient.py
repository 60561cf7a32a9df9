from __future__ import annotations

from pathlib import Path

import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.reporting.html.patient import PatientReport, write_patient_report


def test_the_name_of_a_case_is_text_on_the_page_and_in_its_style(tmp_path: Path) -> None:
    geometry = Geometry((4, 8, 8), (3.0, 1.0, 1.0))
    empty = Image(np.zeros((4, 8, 8), np.uint16), geometry)
    scan = Image(np.ones((4, 8, 8), np.float32), geometry)
    name = '"; } </style><script>alert(1)</script>'
    page = write_patient_report(tmp_path / "page.html", PatientReport(name, (), empty, scan))
    html = page.read_text(encoding="utf-8")
    assert "<script>alert" not in html and html.count("</style>") == 1
    assert "&lt;script&gt;alert(1)" in html
