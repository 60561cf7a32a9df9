from __future__ import annotations

import pickle
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError


def test_message_with_the_problem_alone_is_the_problem() -> None:
    assert str(DetSeg3DError("nothing works")) == "nothing works"


def test_message_names_file_value_expectation_and_remedy_on_separate_lines() -> None:
    error = DetSeg3DError("bad fold", file="a/b.json", value="7", expected="0 to 4", remedy="choose another")
    assert str(error).splitlines() == [
        "bad fold",
        "  file:     a/b.json",
        "  found:    '7'",
        "  expected: 0 to 4",
        "  remedy:   choose another",
    ]


def test_falsy_values_are_reported() -> None:
    assert "found:    0" in str(DetSeg3DError("bad", value=0))
    assert "found:    ''" in str(DetSeg3DError("bad", value=""))


def test_the_parts_of_the_message_are_attributes() -> None:
    error = DetSeg3DError("bad", file="x.txt", remedy="mend")
    assert (error.problem, error.file, error.value, error.expected, error.remedy) == (
        "bad",
        Path("x.txt"),
        None,
        None,
        "mend",
    )


def test_survives_pickling_so_that_workers_can_report_it() -> None:
    error = DetSeg3DError("bad", file="x.txt", value=3, remedy="mend")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.problem, copy.file, copy.value) == ("bad", Path("x.txt"), 3)


def test_a_very_long_value_is_shortened() -> None:
    error = DetSeg3DError("too many", value=list(range(1_000_000)))
    assert len(str(error)) < 3000 and "7888890 characters" in str(error)
    assert len(error.value) == 1_000_000
