from __future__ import annotations

import csv
import datetime as dt
from dataclasses import replace

from detseg3d.follow.compare import follow_time_points
from detseg3d.follow.tables import change_table, comparison_table, track_table
from tests.follow.test_compare import ALIGNED, follow_three


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


def test_dates_are_written_with_the_days_between_them() -> None:
    days = (dt.date(2023, 12, 31), None, dt.date(2024, 3, 1))
    scans = [replace(scan, date=date) for scan, date in zip(follow_three().scans, days, strict=True)]
    track = rows(track_table([follow_time_points(scans, ALIGNED)]))[:3]
    assert [(row["date"], row["days_since_first_scan"]) for row in track] == [
        ("2023-12-31", "0"),
        ("", ""),
        ("2024-03-01", "61"),
    ]
    pair = follow_time_points([scans[0], scans[2]], ALIGNED)
    assert comparison_table([pair]).splitlines()[1].split(",")[3] == "61"
    assert {row["interval_days"] for row in rows(change_table([pair]))} == {"61"}


def test_the_doubling_time_of_an_enlarged_lesion_is_in_its_row() -> None:
    scans = [
        replace(scan, date=dt.date(2024, 1, day)) for scan, day in zip(follow_three().scans, (1, 2, 12), strict=True)
    ]
    table = rows(change_table([follow_time_points(scans, ALIGNED)]))
    # Only the part that grew to twice its size in 10 days is enlarged.
    assert [row["doubling_time_days"] for row in table] == ["", "", "10", ""]


def test_each_pair_of_scans_has_a_row_with_its_counts() -> None:
    table = rows(comparison_table([follow_three()]))
    assert [(row["split"], row["new"], row["registration"]) for row in table] == [
        ("1", "0", "none"),
        ("0", "1", "none"),
    ]
    assert table[0]["volume_earlier_mm3"] == "216"
