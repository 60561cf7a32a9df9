"""Shifted validation scans: their selection and their files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from detseg3d.consolidation.shifted_scans import (
    ShiftedRecord,
    ShiftedScan,
    choose_pairs,
    load_truth,
    read_shifted_record,
    save_truth,
    validation_shifts,
    write_shifted_record,
)
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import PredictionFolder
from detseg3d.planning.appearance.comparison import Difference
from detseg3d.planning.appearance.measures import Kind
from tests.consolidation.factory import make_truth

SHIFTS = validation_shifts(["FLAIR"])


def test_every_scan_and_every_shift_is_used_about_equally_often() -> None:
    cases = [f"case{number}" for number in range(8)]
    pairs = choose_pairs(cases, cases, SHIFTS, 24)
    assert len({(pair.case_id, pair.shift.name) for pair in pairs}) == 24
    assert set(Counter(pair.case_id for pair in pairs).values()) == {3}
    counts = Counter(pair.shift.name for pair in pairs)
    assert len(counts) == len(SHIFTS) and max(counts.values()) - min(counts.values()) <= 1


def test_every_patient_gives_one_scan_before_any_gives_two() -> None:
    pairs = choose_pairs(["a1", "a2", "a3", "b1"], ["a", "a", "a", "b"], SHIFTS, 2)
    assert [pair.case_id for pair in pairs] == ["a1", "b1"]


def test_no_pair_occurs_twice_if_more_are_requested_than_exist() -> None:
    pairs = choose_pairs(["a"], ["a"], SHIFTS, 100)
    assert [pair.shift for pair in pairs] == list(SHIFTS)


def test_shifted_scans_of_a_case_do_not_depend_on_the_other_cases() -> None:
    (first,), (second, _) = (choose_pairs(cases, cases, SHIFTS[:1], 9) for cases in (["a"], ["a", "b"]))
    assert first == second and first.seed == second.seed


def test_true_lesions_return_as_they_were_stored(tmp_path: Path) -> None:
    truth = make_truth((1, 2, 3, 4, 5, 6), (10, 2, 3, 12, 9, 8), classes=(0, 2), spacing=(3.0, 1.0, 0.5))
    save_truth(truth, tmp_path / "truth.npz")
    loaded = load_truth(tmp_path / "truth.npz")
    assert loaded == truth
    np.testing.assert_array_equal(loaded.instances(), truth.instances())


def test_a_scan_without_lesions_is_stored(tmp_path: Path) -> None:
    save_truth(make_truth(), tmp_path / "truth.npz")
    assert load_truth(tmp_path / "truth.npz") == make_truth()


def test_damaged_true_lesions_are_named(tmp_path: Path) -> None:
    (tmp_path / "truth.npz").write_bytes(b"no archive")
    with pytest.raises(DetSeg3DError) as caught:
        load_truth(tmp_path / "truth.npz")
    assert caught.value.file == tmp_path / "truth.npz"


def test_the_record_returns_as_it_was_written(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path)
    assert read_shifted_record(folder) is None
    scan = ShiftedScan("case1", "noise", (Difference(Kind.NOISE, True, 1.5),))
    record = ShiftedRecord("digest", "medium", (scan,))
    write_shifted_record(record, folder)
    assert read_shifted_record(folder) == record


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path)
    folder.shifted_scans.write_text("{}", encoding="utf-8")
    with pytest.raises(DetSeg3DError) as caught:
        read_shifted_record(folder)
    assert caught.value.file == folder.shifted_scans
