from __future__ import annotations

import csv

from detseg3d.follow.tables import change_table, comparison_table, track_table
from tests.follow.test_compare import follow_three


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_each_change_has_a_row() -> None:
    table = rows(change_table([follow_three()]))
    assert [row["state"] for row in table] == ["split", "stable", "enlarged", "new"]
    assert (table[0]["numbers_earlier"], table[0]["numbers_later"]) == ("1", "1 2")
    assert (table[2]["volume_earlier_mm3"], table[2]["volume_change_percent"]) == ("72", "100")
    assert table[3]["volume_earlier_mm3"] == ""


def test_each_lesion_has_a_row_for_each_scan() -> None:
    table = rows(track_table([follow_three()]))
    assert [(row["track"], row["scan"], row["numbers"]) for row in table] == [
        ("1", "1", "1"),
        ("1", "2", "1 2"),
        ("1", "3", "3 4"),
        ("2", "1", ""),
        ("2", "2", ""),
        ("2", "3", "5"),
    ]
    assert [row["change_from_smallest_percent"] for row in table] == ["", "", "50", "", "", ""]


def test_each_pair_of_scans_has_a_row_with_its_counts() -> None:
    table = rows(comparison_table([follow_three()]))
    assert [(row["split"], row["new"], row["registration"]) for row in table] == [
        ("1", "0", "none"),
        ("0", "1", "none"),
    ]
    assert table[0]["volume_earlier_mm3"] == "216"
