from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.pipeline.follow_dates import GivenDates, read_dates

FIRST, SECOND = dt.date(2023, 2, 28), dt.date(2024, 5, 31)


def table(folder: Path, text: str) -> list[str]:
    (folder / "dates.csv").write_text(text, encoding="utf-8")
    return [str(folder / "dates.csv")]


def test_dates_on_the_command_line_are_those_of_the_only_patient() -> None:
    dates = read_dates(["2023-02-28", "2024-05-31"], 2)
    dates.check_patients(["any"])
    assert dates.of("any", 2) == (FIRST, SECOND)


def test_a_table_gives_the_dates_of_each_patient(tmp_path: Path) -> None:
    dates = read_dates(table(tmp_path, "patient,first,second\na,2023-02-28,2024-05-31\nb,,2024-05-31\n"), 2)
    dates.check_patients(["a", "b", "c"])
    assert [dates.of(name, 2) for name in "abc"] == [(FIRST, SECOND), (None, SECOND), (None, None)]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["2023-02-28"], "1 dates, 2 time points"),
        (["2023-02-28", "2023-02-29"], "2023-02-29"),
        (["2023-02-28", "28.02.2024"], "28.02.2024"),
        (["2023-02-28", "20240228"], "20240228"),
        (["2023-02-28", "2023-W01-1"], "2023-W01-1"),
    ],
)
def test_wrong_dates_are_refused(words: list[str], value: str) -> None:
    with pytest.raises(DetSeg3DError) as error:
        read_dates(words, 2)
    assert error.value.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "patient,first,second\n",
        "patient,first,second\na,2023-02-28\n",
        "patient,first,second\na,2023-02-28,2024-05-31\na,2023-02-28,2024-05-31\n",
        "patient,first,second\na,2023-02-28,tomorrow\n",
        "patient,first,second\n,2023-02-28,2024-05-31\n",
    ],
)
def test_a_wrong_table_of_dates_is_named(tmp_path: Path, text: str) -> None:
    words = table(tmp_path, text)
    with pytest.raises(DetSeg3DError) as error:
        read_dates(words, 2)
    assert error.value.file == tmp_path / "dates.csv"


def test_a_missing_table_of_dates_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        read_dates([str(tmp_path / "none.csv")], 2)
    assert error.value.file == tmp_path / "none.csv"


def test_dates_of_the_command_line_fit_only_one_patient() -> None:
    with pytest.raises(DetSeg3DError) as error:
        GivenDates(only=(FIRST, SECOND)).check_patients(["a", "b"])
    assert error.value.value == "2 patients"


def test_dates_of_an_unknown_patient_are_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        GivenDates(by_patient={"a": (FIRST, SECOND), "B": (FIRST, SECOND)}).check_patients(["a", "b"])
    assert error.value.value == ["B"]
