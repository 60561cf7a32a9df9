from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.synthetic.shifts.catalogue import SHIFTS
from detseg3d.synthetic.shifts.shift import Shift

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "shift_benchmark.md"


@pytest.mark.parametrize("shift", [s for s in SHIFTS if s.name[-2:] not in ("_y", "_x")], ids=lambda shift: shift.name)
def test_the_page_describes_every_shift_and_its_form_for_ct(shift: Shift) -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{shift.name}`")]
    assert len(rows) == 1
    assert rows[0].endswith("| left out |") != shift.sensible_for_ct
