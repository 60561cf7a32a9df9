from __future__ import annotations

import pytest

from benchmarks.shift.conditions import CLEAN, Condition, conditions_of
from benchmarks.shift.options import OperatingPoint, parse
from benchmarks.shift.predicting import Choice
from detseg3d.core.errors import DetSeg3DError
from detseg3d.synthetic.shifts.catalogue import SHIFTS
from detseg3d.synthetic.shifts.shift import Shift, Strength


def test_the_clean_scans_come_first_and_then_each_shift_by_strength() -> None:
    names = [c.name for c in conditions_of(["FLAIR"], ["gamma", "blur"], [Strength.MILD, Strength.STRONG])]
    assert names == ["clean", "blur_mild", "blur_strong", "gamma_mild", "gamma_strong"]


def test_shifts_that_ct_does_not_have_are_left_out() -> None:
    assert [c.name for c in conditions_of(["CT"], ["gamma", "blur"], [Strength.MEDIUM])] == ["clean", "blur_medium"]
    assert len(conditions_of(["CT"], [], [Strength.MEDIUM])) == 1 + sum(shift.sensible_for_ct for shift in SHIFTS)


def test_an_unknown_shift_is_an_error() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        conditions_of(["FLAIR"], ["earthquake"], [Strength.MILD])
    assert caught.value.value == ["earthquake"]


def test_a_new_version_of_a_shift_has_folders_of_its_own() -> None:
    def same(scan: object, *_: object) -> object:
        return scan

    first, second = (Condition(Shift("a", "", same, version=version), Strength.MILD) for version in (1, 2))
    assert (first.folder, second.folder, CLEAN.folder) == ("a_mild", "a_mild_v2", "clean")
    assert first.name == second.name


def test_an_operating_point_is_a_word_or_a_score_threshold() -> None:
    assert OperatingPoint.of("robust").choice is Choice.ROBUST
    assert OperatingPoint.of("stored").stored and not OperatingPoint.of("plan").stored
    assert OperatingPoint.of("0.2").score_threshold == 0.2
    with pytest.raises(ValueError):
        OperatingPoint.of("best")


@pytest.mark.parametrize(
    "arguments",
    [["-o", "out"], ["--results", "r", "--preprocessed", "p"], ["--results", "r", "-o", "out"], ["--only_scans"]],
)
def test_missing_folders_end_the_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["101", "0", "--raw", "raw", *arguments])
