from __future__ import annotations

from tests.integration.bad_input.table import DICOM, FORMATS, HABITS, HOSTILE, ONE_BY_ONE, PAGE, render


def test_the_page_is_what_the_tests_try() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m tests.integration.bad_input.table"


def test_what_stands_on_the_page_without_a_table_has_its_test() -> None:
    for name, *_, module, function in [*ONE_BY_ONE, *HABITS, *DICOM, *HOSTILE, *FORMATS]:
        assert callable(getattr(module, function)), name
