from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.splits import (
    folds_without_lesions,
    load_splits,
    make_holdout_split,
    make_splits,
    warn_of_folds_without_lesions,
)
from detseg3d.system.json_files import write_json


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[list[str], dict[str, str], dict[str, float]]:
    count = draw(st.integers(2, 40))
    cases = [f"case{index}" for index in range(count)]
    patients = {case: f"p{draw(st.integers(0, count - 1))}" for case in cases}
    patients[cases[0]], patients[cases[1]] = "first", "second"
    return cases, patients, {case: draw(st.floats(0, 100)) for case in cases}


@given(data_sets(), st.integers(0, 5), st.integers(2, 6))
def test_each_case_is_validated_once_and_no_patient_is_split(
    data: tuple[list[str], dict[str, str], dict[str, float]], seed: int, folds: int
) -> None:
    cases, patients, loads = data
    splits = make_splits(cases, patients, loads, seed, folds)
    assert sorted(case for split in splits for case in split.validation) == sorted(cases)
    for split in splits:
        assert split.train
        assert split.validation
        assert sorted([*split.train, *split.validation]) == sorted(cases)
        assert not {patients[case] for case in split.train} & {patients[case] for case in split.validation}


@given(data_sets(), st.integers(0, 5), st.floats(0.05, 0.95))
def test_holdout_leaves_something_on_both_sides_and_splits_no_patient(
    data: tuple[list[str], dict[str, str], dict[str, float]], seed: int, share: float
) -> None:
    cases, patients, loads = data
    [split] = make_holdout_split(cases, patients, loads, share, seed)
    assert split.train
    assert split.validation
    assert sorted([*split.train, *split.validation]) == sorted(cases)
    assert not {patients[case] for case in split.train} & {patients[case] for case in split.validation}


@given(st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 5))
def test_holdout_has_the_requested_fraction(count: int, share: float, seed: int) -> None:
    [split] = make_holdout_split([str(i) for i in range(count)], {}, {str(i): i % 7 for i in range(count)}, share, seed)
    assert len(split.validation) == min(count - 1, max(1, round(share * count)))


def test_folds_have_equal_sizes_and_similar_loads() -> None:
    cases = [f"case{index:02d}" for index in range(40)]
    loads = {case: float(index) for index, case in enumerate(cases)}
    splits = make_splits(cases, {}, loads)
    means = [np.mean([loads[case] for case in split.validation]) for split in splits]
    assert [len(split.validation) for split in splits] == [8] * 5
    assert max(means) - min(means) < 3  # at random it would be about 10


def test_cases_without_lesions_are_spread() -> None:
    cases = [f"case{index:02d}" for index in range(40)]
    loads = {case: 0.0 if index < 5 else 10.0 for index, case in enumerate(cases)}
    for seed in range(10):
        assert [
            sum(loads[case] == 0 for case in split.validation) for split in make_splits(cases, {}, loads, seed)
        ] == [1] * 5


def test_holdout_samples_all_loads() -> None:
    cases = [f"case{index:02d}" for index in range(40)]
    loads = {case: float(index) for index, case in enumerate(cases)}
    for seed in range(10):
        [split] = make_holdout_split(cases, {}, loads, 0.2, seed)
        assert np.mean([loads[case] for case in split.validation]) == pytest.approx(19.5, abs=3)


def test_uneven_patients_give_even_folds() -> None:
    patients = {f"case{index}": f"p{min(index, 25) // 5 if index < 25 else index}" for index in range(30)}
    sizes = [len(split.validation) for split in make_splits(list(patients), patients, {}, 0)]
    assert max(sizes) - min(sizes) <= 2


def test_same_seed_same_folds_other_seed_other_folds_order_of_cases_no_matter() -> None:
    cases = [f"case{index}" for index in range(20)]
    assert make_splits(cases, {}, {}, 1) == make_splits(cases[::-1], {}, {}, 1)
    assert make_splits(cases, {}, {}, 1) != make_splits(cases, {}, {}, 2)


def test_fewer_cases_than_folds_give_leave_one_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        splits = make_splits(list("abcd"), {}, {})
    assert [len(split.validation) for split in splits] == [1] * 4
    assert "4 folds instead of 5: there are only 4 patients" in caplog.text


@pytest.mark.parametrize("make", [make_splits, make_holdout_split])
def test_a_single_patient_validates_on_itself_with_a_warning(make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        splits = make(["a", "b"], {"a": "p", "b": "p"}, {})
    assert [split.to_json() for split in splits] == [{"train": ["a", "b"], "val": ["a", "b"]}]
    assert "so scores mean nothing" in caplog.text


def test_a_case_listed_twice_is_an_error() -> None:
    with pytest.raises(DetSeg3DError, match=r"listed twice(.|\n)*\['a'\]"):
        make_splits(["a", "b", "a"], {}, {})


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_impossible_share_is_an_error(share: float) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        make_holdout_split(["a", "b"], {}, {}, share)
    assert (caught.value.value, caught.value.expected) == (share, "0 to 1")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([], "cannot be understood"),
        ([{"train": "ab", "val": []}], "cannot be understood"),
        ([{"train": [["a"]], "val": []}], "cannot be understood"),
        ([{"train": ["a"], "val": ["b"]}, {"train": [], "val": ["b"]}], "fold 1 has no training cases"),
        ([{"train": ["a", "b", "a"], "val": []}], 'fold 0 names cases twice in "train"'),
        ([{"train": ["a"], "val": ["b", "b"]}], 'fold 0 names cases twice in "val"'),
        ([{"train": ["a", "b"], "val": ["b", "c"]}], r"fold 0 has 1 case\(s\) both in training and in validation"),
    ],
)
def test_impossible_splits_are_refused(tmp_path: Path, splits: Any, message: str) -> None:
    write_json(splits, tmp_path / "splits_final.json")
    with pytest.raises(DetSeg3DError, match=message) as error:
        load_splits(tmp_path / "splits_final.json")
    assert error.value.file == tmp_path / "splits_final.json"


@pytest.mark.parametrize(
    "splits", [make_splits(["a", "b", "c"], {}, {}), make_splits(["a", "b"], {"a": "p", "b": "p"}, {})]
)
def test_splits_of_the_planner_can_be_read(tmp_path: Path, splits: Any) -> None:
    write_json([split.to_json() for split in splits], tmp_path / "splits_final.json")
    assert load_splits(tmp_path / "splits_final.json") == splits


# -- Lesions and classes in every fold ---------------------------------------------------------------------------------


@given(data_sets(), st.integers(0, 5), st.integers(2, 6), st.integers(0, 40))
def test_every_fold_validates_on_lesions_if_as_many_patients_have_some(
    data: tuple[list[str], dict[str, str], dict[str, float]], seed: int, folds: int, sick: int
) -> None:
    cases, patients, loads = data
    loads = {case: loads[case] + 1 if index < sick else 0.0 for index, case in enumerate(cases)}
    splits = make_splits(cases, patients, loads, seed, folds, {case: frozenset({0}) for case in cases[:sick]})
    count = len({patients[case] for case in cases[:sick]})
    without = folds_without_lesions([split.validation for split in splits], loads)
    assert len(without) == max(0, len(splits) - count)


@given(data_sets(), st.integers(0, 5), st.integers(0, 40), st.floats(0.1, 0.9))
def test_both_sides_of_a_holdout_have_lesions_if_two_patients_have_some(
    data: tuple[list[str], dict[str, str], dict[str, float]], seed: int, sick: int, share: float
) -> None:
    cases, patients, loads = data
    loads = {case: loads[case] + 1 if index < sick else 0.0 for index, case in enumerate(cases)}
    splits = make_holdout_split(cases, patients, loads, share, seed)
    if len({patients[case] for case in cases[:sick]}) >= 2:
        assert folds_without_lesions([split.validation for split in splits], loads) == []
        assert folds_without_lesions([split.train for split in splits], loads) == []


@given(st.integers(0, 30), st.integers(5, 9))
def test_a_rare_class_is_in_every_fold_if_enough_patients_have_it(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    cases = [f"case{index:02d}" for index in range(40)]
    rare = set(random.permutation(cases)[:count].tolist())
    classes = {case: frozenset({0, 1}) if case in rare else frozenset({0}) for case in cases}
    splits = make_splits(cases, {}, {case: float(random.random()) + 1 for case in cases}, seed, classes=classes)
    found = [sum(case in rare for case in split.validation) for split in splits]
    assert max(found) - min(found) <= 1
    assert [len(split.validation) for split in splits] == [8] * 5


def test_a_single_class_leaves_the_folds_as_they_are_dealt() -> None:
    cases = [f"case{index:02d}" for index in range(23)]
    loads = {case: float(index) for index, case in enumerate(cases)}
    one = {case: frozenset({0}) for case in cases[1:]}
    assert make_splits(cases, {}, loads, classes=one) == make_splits(cases, {}, loads)


def test_folds_without_lesions_are_named(caplog: pytest.LogCaptureFixture) -> None:
    cases = [f"case{index}" for index in range(6)]
    loads = {"case1": 2.0, "case4": 1.0, "case5": 1.0}
    splits = make_splits(cases, {}, loads)
    without = folds_without_lesions([split.validation for split in splits], loads)
    assert len(without) == 2
    with caplog.at_level(logging.WARNING):
        warn_of_folds_without_lesions(splits, loads)
    assert f"folds {without[0]}, {without[1]} validate on no lesion" in caplog.text


def test_a_fold_that_trains_on_no_lesion_is_named(caplog: pytest.LogCaptureFixture) -> None:
    splits = make_splits(list("abcdef"), {}, {"c": 1.0})
    with caplog.at_level(logging.WARNING):
        warn_of_folds_without_lesions(splits, {"c": 1.0})
    [fold] = [number for number, split in enumerate(splits) if split.validation == ("c",) or "c" in split.validation]
    assert f"fold {fold} trains on no lesion" in caplog.text


def test_a_set_without_any_lesion_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_folds_without_lesions(make_splits(list("abcdef"), {}, {}), dict.fromkeys("abcdef", 0.0))
    assert caplog.text == ""
