from __future__ import annotations

import datetime as dt
from dataclasses import replace

from matplotlib.figure import Figure

from detseg3d.follow.compare import follow_time_points
from detseg3d.reporting.pictures.follow_up import draw_comparison, numbers_text, size_text
from tests.follow.test_compare import ALIGNED, follow_three


def texts(figure: Figure) -> list[str]:
    return [text.get_text().strip() for axes in figure.axes for text in axes.texts]


def test_each_change_is_drawn_in_both_scans_with_its_numbers_and_its_state() -> None:
    result = follow_three()
    shown = texts(draw_comparison(result, 1))
    for word in ("STABLE", "ENLARGED", "NEW", "lesion 2 → 4", "lesion – → 5"):
        assert word in shown
    images = [image for axes in draw_comparison(result, 1).axes for image in axes.images]
    assert len(images) == 2 + 2 * 3


def test_a_known_date_stands_above_its_scan() -> None:
    scans = [
        replace(scan, date=dt.date(2024, 1, day)) for scan, day in zip(follow_three().scans, (1, 2, 3), strict=True)
    ]
    shown = texts(draw_comparison(follow_time_points(scans, ALIGNED), 1))
    assert sum("(2024-01-02)" in text for text in shown) == 1
    assert sum("(2024-01-03)" in text for text in shown) == 1


def test_the_sides_of_the_patient_are_named() -> None:
    shown = texts(draw_comparison(follow_three(), 0))
    for letter in "RLAP":
        assert shown.count(letter) == 4  # two overviews and the two tiles of one change


def test_new_lesions_come_first_and_the_number_of_changes_is_limited() -> None:
    shown = texts(draw_comparison(follow_three(), 1, maximum=1))
    assert "NEW" in shown
    assert "STABLE" not in shown
    assert any("1 of 3 changes shown" in text for text in shown)


def test_sizes_are_written_with_their_change() -> None:
    changes = follow_three().comparisons[1].changes
    assert [size_text(change) for change in changes] == [
        "72 mm³ → 72 mm³ (+0 %)",
        "72 mm³ → 144 mm³ (+100 %)",
        "– → 32 mm³",
    ]
    assert numbers_text((3, 4)) == "3 + 4"


def test_both_sizes_of_a_change_have_one_unit() -> None:
    change = follow_three().comparisons[1].changes[1]
    assert change.size_earlier is not None and change.size_later is not None
    large = replace(change, size_later=replace(change.size_later, volume_mm3=12_340.0))
    assert size_text(large).startswith("0.1 ml → 12.3 ml")
