from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.codes import ClassCodes, Code
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.dataset_json import MAX_NAMES, parse_channel_names, parse_codes, parse_labels
from detseg3d.system.json_files import write_json

FILE = Path("dataset.json")


def many(count: int) -> dict[str, Any]:
    labels = {"background": 0, **{f"class {i}": i for i in range(1, count)}}
    return {"channel_names": {str(i): f"channel {i}" for i in range(count)}, "labels": labels, "file_ending": ".nii.gz"}


@pytest.mark.parametrize("parse", [parse_channel_names, parse_labels])
def test_the_number_of_names_is_limited(parse: Callable[..., Any]) -> None:
    assert len(parse(many(MAX_NAMES), FILE)) == MAX_NAMES
    with pytest.raises(DetSeg3DError) as caught:
        parse(many(MAX_NAMES + 1), FILE)
    assert (caught.value.file, caught.value.value) == (FILE, "1001 entries")


@pytest.mark.parametrize("entry", ["labels", "channel_names", "modality"])
def test_a_million_names_are_an_error_at_once(tmp_path: Path, entry: str) -> None:
    content = {**many(2), entry: "the names"}
    if entry == "modality":
        del content["channel_names"]
    names = ",".join(f'"{i}":{i}' for i in range(1_000_000))
    (tmp_path / "dataset.json").write_text(json.dumps(content).replace('"the names"', f"{{{names}}}"), encoding="utf-8")
    started = time.process_time()
    with pytest.raises(DetSeg3DError) as caught:
        load_raw_dataset(tmp_path)
    assert time.process_time() - started < 10
    assert caught.value.file == tmp_path / "dataset.json"
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("name", ["\ud800", "lesion \udcff", "x" * 1001])
def test_names_with_lone_surrogates_are_refused(tmp_path: Path, name: str) -> None:
    contents: list[dict[str, Any]] = [
        {**many(2), "channel_names": {"0": name}},
        {**many(2), "labels": {"background": 0, name: 1}},
        {**many(2), "labels": {"0": "background", "1": name}},
    ]
    for content in contents:
        write_json(content, tmp_path / "dataset.json")
        with pytest.raises(DetSeg3DError) as caught:
            load_raw_dataset(tmp_path)
        assert caught.value.file == tmp_path / "dataset.json"


@pytest.mark.parametrize("name", ["病灶 é", "\U0001f9e0", "x" * 1000])
def test_names_of_all_scripts_are_accepted(name: str) -> None:
    assert parse_labels({"labels": {"background": 0, name: 1}}, FILE) == {"background": 0, name: 1}


def test_codes_of_a_class_have_a_finding_and_a_site() -> None:
    liver = ["10200004", "SCT", "Liver"]
    data = {"codes": {"cyst": {"finding": ["103552005", "SCT", "Cyst"], "site": liver}, "mass": {"site": liver}}}
    codes = parse_codes(data, ["mass", "cyst", "edema"], FILE)
    assert codes["cyst"] == ClassCodes(Code("103552005", "SCT", "Cyst"), Code(*liver))
    assert codes["mass"] == ClassCodes(None, Code(*liver))
    assert "edema" not in codes
    written = {"codes": {name: entry.to_json() for name, entry in codes.items()}}
    assert parse_codes(written, ["mass", "cyst"], FILE) == codes


@pytest.mark.parametrize(
    ("codes", "value"),
    [
        (["cyst"], ["cyst"]),
        ({"cyst": ["1", "SCT", "Cyst"]}, {"cyst": ["1", "SCT", "Cyst"]}),
        ({"other": {}}, ["other"]),
        ({"cyst": {"place": ["1", "SCT", "Liver"]}}, ["place"]),
        ({"cyst": {"finding": ["1", "SCT"]}}, ["1", "SCT"]),
        ({"cyst": {"finding": [1, "SCT", "Cyst"]}}, [1, "SCT", "Cyst"]),
        ({"cyst": {"finding": ["1" * 17, "SCT", "Cyst"]}}, ["1" * 17, "SCT", "Cyst"]),
        ({"cyst": {"site": ["1", "SCT", "a\\b"]}}, ["1", "SCT", "a\\b"]),
        ({"cyst": {"site": ["1", " ", "Liver"]}}, ["1", " ", "Liver"]),
    ],
)
def test_codes_that_cannot_be_written_are_errors(codes: Any, value: Any) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        parse_codes({"codes": codes}, ["cyst"], FILE)
    assert (caught.value.file, caught.value.value) == (FILE, value)
