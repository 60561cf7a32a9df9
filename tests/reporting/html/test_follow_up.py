from __future__ import annotations

import base64
import datetime as dt
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detseg3d.data.image import Image
from detseg3d.follow.compare import follow_time_points
from detseg3d.follow.result import FollowUp
from detseg3d.follow.thresholds import ChangeThresholds
from detseg3d.reporting.html.follow_up import describe_thresholds, write_follow_up_page
from detseg3d.reporting.pictures.state_colors import STATE_COLORS
from tests.follow.maps import SHAPE, time_point
from tests.follow.test_compare import ALIGNED, follow_three


def with_images(result: FollowUp) -> FollowUp:
    random = np.random.default_rng(0)
    scans = [
        replace(scan, image=Image(random.integers(1, 100, SHAPE).astype(np.int16), scan.geometry))
        for scan in result.scans
    ]
    return follow_time_points(scans, ALIGNED, "<b>case</b>")


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_follow_up_page(tmp_path / "page.html", with_images(follow_three()))
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def data(page: str, key: int) -> dict:  # type: ignore[type-arg]
    found = re.search(rf'id="follow-data-{key}">(.*?)</script>', page)
    assert found is not None
    return json.loads(found.group(1))  # type: ignore[no-any-return]


def test_each_pair_of_scans_has_two_linked_pictures(page: str) -> None:
    assert page.count("data-panes") - page.count("[data-panes]") == 4
    for key in (1, 2):
        assert [set(scan["volumes"]) for scan in data(page, key)["scans"]] == [{"image", "prediction"}] * 2


def test_the_embedded_maps_have_the_numbers_of_the_files(page: str) -> None:
    settings = data(page, 2)
    entry = settings["scans"][1]["volumes"]["prediction"]
    found = re.search(rf'id="{entry["id"]}">(.*?)</script>', page)
    assert found is not None
    labels = np.frombuffer(gzip.decompress(base64.b64decode(found.group(1))), entry["type"]).reshape(settings["shape"])
    assert sorted(np.unique(labels).tolist()) == [0, 3, 4, 5]
    box = np.argwhere(labels == 5)
    assert (box.max(axis=0) - box.min(axis=0) + 1).tolist() == [2, 4, 4]


def test_each_lesion_has_the_colour_of_its_state(page: str) -> None:
    changes = follow_three().comparisons[1].changes
    expected = {str(number): STATE_COLORS[change.state] for change in changes for number in change.later}
    assert data(page, 2)["scans"][1]["lesionColors"] == expected


def test_a_row_points_to_its_lesion(page: str) -> None:
    found = re.search(r'data-point="([^"]*)" data-earlier="" data-later="5"', page)
    assert found is not None
    # The new lesion has the centre (3, 22, 22) in voxel edges of the uncropped map.
    assert [float(value) for value in found.group(1).split()] == [3.0, 22.0, 22.0]


def test_states_are_written_as_words_and_names_are_escaped(page: str) -> None:
    for word in ("split, shrunk", "enlarged", "new"):
        assert f">{word}</span>" in page
    assert "<b>case</b>" not in page


def test_three_scans_have_a_table_of_all_scans_with_states_numbers_and_sums(page: str) -> None:
    table = page[page.index('id="tracks"') :]
    first, second = (
        re.sub(r"<[^>]+>|\s+", " ", row).split() for row in re.findall(r"<tr><th.*?</tr>", table, re.S)[:2]
    )
    # The lesion splits into the lesions 1 and 2. Then one part grows, and the other part is stable.
    assert first[:13] == ["1", "216", "(1)", "split", "144", "(1", "+", "2)", "enlarged", "stable", "216", "(3", "+"]
    assert second[-5:] == ["new", "32", "(5)", "–", "–"]
    (footer,) = re.findall(r"<tfoot>(.*?)</tfoot>", table, re.S)
    assert re.findall(r"(\d+) <span", footer) == ["216", "144", "248"]
    assert "3 lesions" in footer


def test_two_scans_have_no_table_of_all_scans(tmp_path: Path) -> None:
    write_follow_up_page(tmp_path / "page.html", follow_time_points(follow_three().scans[:2], ALIGNED))
    assert 'id="tracks"' not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_dates_intervals_and_doubling_times_are_shown(tmp_path: Path) -> None:
    days = (dt.date(2023, 12, 31), dt.date(2024, 1, 1), dt.date(2024, 1, 11))
    scans = [replace(scan, date=date) for scan, date in zip(follow_three().scans, days, strict=True)]
    write_follow_up_page(tmp_path / "page.html", follow_time_points(scans, ALIGNED))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "scan (2023-12-31)" in text
    assert "The scans are 10 days apart." in text
    assert re.search(r'data-value="10.0">10<', text) is not None


def test_without_dates_the_page_states_no_growth_per_time(page: str) -> None:
    assert "apart" not in page
    assert "doubling time (days)" not in page


def test_two_scans_of_one_day_have_a_warning(tmp_path: Path) -> None:
    scans = [replace(scan, date=dt.date(2024, 1, 1)) for scan in follow_three().scans]
    write_follow_up_page(tmp_path / "page.html", follow_time_points(scans, ALIGNED))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("the same date") == 2
    assert "doubling time (days)" not in text


def test_a_page_without_scans_has_the_table_only(tmp_path: Path) -> None:
    write_follow_up_page(tmp_path / "page.html", follow_three())
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "data-panes></div>" not in text
    assert "The scans were not given" in text


def test_scans_without_lesions_have_a_page(tmp_path: Path) -> None:
    write_follow_up_page(tmp_path / "page.html", with_images(follow_time_points([time_point({})] * 2, ALIGNED)))
    assert "Neither scan has a lesion" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_large_pages_are_made_coarser(tmp_path: Path) -> None:
    write_follow_up_page(tmp_path / "page.html", with_images(follow_three()), max_bytes=1000)
    assert "grey levels" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_thresholds_are_explained() -> None:
    assert "25 %" in describe_thresholds(ChangeThresholds.volumetric())
    assert "20 % and 5 mm" in describe_thresholds(ChangeThresholds.recist())
