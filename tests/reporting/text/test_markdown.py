from __future__ import annotations

from detseg3d.reporting.text.markdown import markdown_table


def test_bars_in_cells_do_not_break_the_table() -> None:
    assert markdown_table(("a",), [("x|y",)]).splitlines()[-1] == "| x\\|y |"
