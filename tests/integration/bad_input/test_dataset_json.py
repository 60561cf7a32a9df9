"""dataset.json, broken in every field, as planning meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg3d.cli import plan_and_preprocess
from detseg3d.system.json_files import write_json
from tests.integration.bad_input.images import plain
from tests.integration.bad_input.labels import LABEL
from tests.integration.bad_input.running import run

GOOD: dict[str, Any] = {
    "channel_names": {"0": "T1"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
GONE = object()
CHANNELS, VALUES = '"channel_names" does not number the channels from 0', "the labels are not different whole numbers"
JSON = "the file is not valid JSON"


def changed(**changes: Any) -> bytes:
    data = {key: value for key, value in {**GOOD, **changes}.items() if value is not GONE}
    return json.dumps(data).encode()


def nested(depth: int) -> bytes:
    return changed(note=0).replace(b'"note": 0', b'"note": ' + b"[" * depth + b"]" * depth)


DOCUMENTS: list[tuple[str, bytes, str]] = [
    ("empty", b"", JSON),
    ("not JSON", b"channel_names: T1", JSON),
    ("truncated", changed()[:-9], JSON),
    ("not UTF-8", b"\xff\xfe" + changed(), "the file cannot be read"),
    ("a list", b"[]", "dataset.json does not hold an object"),
    ("null", b"null", "dataset.json does not hold an object"),
    ("nested 200 deep", nested(200), "the file is nested deeper than 100 levels"),
    ("nested 100 000 deep", nested(100_000), JSON),
    ("NaN anywhere", changed(note=float("nan")), JSON),
    ("a number of 5000 digits", changed(note=0).replace(b'"note": 0', b'"note": ' + b"9" * 5000), JSON),
    ("a key twice", changed()[:-1] + b', "labels": {"background": 0}}', JSON),
    ("a key twice in an object within", changed(note={"x": 1}).replace(b'"x": 1', b'"x": 1, "x": 2'), JSON),
    (
        "1001 channels",
        changed(channel_names={str(i): "T1" for i in range(1001)}),
        '"channel_names" has too many entries',
    ),
    ("100 000 labels", changed(labels={f"a{i}": i for i in range(100_000)}), '"labels" has too many entries'),
    ("a label that is a lone surrogate", changed(labels={"background": 0, "\ud800": 1}), "a name has lone surrogates"),
    ("a channel that is a lone surrogate", changed(channel_names={"0": "\udcff"}), "a name has lone surrogates"),
    ("no channel_names", changed(channel_names=GONE), CHANNELS),
    ("0 channels", changed(channel_names={}), CHANNELS),
    ("channels from 1", changed(channel_names={"1": "T1"}), CHANNELS),
    ("channel_names a text", changed(channel_names="T1"), CHANNELS),
    ("no labels", changed(labels=GONE), '"labels" is missing or not an object'),
    ("labels a list", changed(labels=["background", "lesion"]), '"labels" is missing or not an object'),
    ("labels without background", changed(labels={"lesion": 1}), VALUES),
    ("labels without lesion", changed(labels={"background": 0}), VALUES),
    ("labels with one value twice", changed(labels={"background": 0, "a": 1, "b": 1}), VALUES),
    ("labels of 0.5", changed(labels={"background": 0, "a": 0.5}), VALUES),
    ("labels of true", changed(labels={"background": 0, "a": True}), VALUES),
    ("negative labels", changed(labels={"background": 0, "a": -1}), VALUES),
    ("labels of null", changed(labels={"background": 0, "a": None}), VALUES),
    ("labels of objects", changed(labels={"background": 0, "a": {}}), VALUES),
    ("regions", changed(labels={"background": 0, "a": [1, 2]}), "region-based labels"),
    ("ignore label", changed(labels={"background": 0, "a": 1, "ignore": 2}), 'an "ignore" label is not supported'),
    ("no file_ending", changed(file_ending=GONE), '"file_ending" is missing'),
    ("file_ending unknown", changed(file_ending=".tif"), '"file_ending" is not supported'),
    ("file_ending a list", changed(file_ending=[".nii.gz"]), '"file_ending" is not supported'),
    ("file_ending of other files", changed(file_ending=".mha"), "there is no image in the folder"),
    ("instances a text", changed(instances="yes"), '"instances" must be true or false'),
    (
        "default_spacing of zero",
        changed(default_spacing=[0, 1, 1]),
        '"default_spacing" does not hold three positive numbers',
    ),
    ("patients a list", changed(patients=[1]), '"patients" does not map cases to patients'),
    ("patients of null", changed(patients={"a": None}), '"patients" does not map cases to patients'),
    ("dataset a list", changed(dataset=["a"]), '"dataset" has another form'),
    ("dataset empty", changed(dataset={}), '"dataset" lists no case'),
    (
        "dataset that leaves the folder",
        changed(dataset={"../a": {"images": ["x"], "label": "x"}}),
        "the case id cannot",
    ),
    (
        "dataset without images",
        changed(dataset={"a": {"images": [], "label": "x"}}),
        '"dataset" has another form',
    ),
    ("dataset with a text for images", changed(dataset={"a": {"images": "x", "label": "x"}}), '"dataset" has another'),
]


def plan(root: Path) -> Any:
    words = ["-d", "1", "--raw", root / "raw", "--preprocessed", root / "pp", "-np", "0", "--no_progress", "--no_pp"]
    return run(plan_and_preprocess.main, words)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "Dataset001_Bad"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    plain(folder / "imagesTr" / "a_0000.nii.gz")
    plain(folder / "labelsTr" / "a.nii.gz", LABEL)
    return folder


@pytest.mark.parametrize(("name", "content", "outcome"), DOCUMENTS, ids=[row[0] for row in DOCUMENTS])
def test_a_broken_description_is_one_clear_error(
    folder: Path, tmp_path: Path, name: str, content: bytes, outcome: str
) -> None:
    (folder / "dataset.json").write_bytes(content)
    done = plan(tmp_path)
    assert done.code == 1 and done.error.startswith(outcome), done.error
    assert str(folder) in done.error or "'../a'" in done.error


@pytest.mark.parametrize(
    "content",
    [changed(), b"\xef\xbb\xbf" + changed(), changed(numTraining=99, unknown=[{"a": None}]), nested(90)],
    ids=["plain", "byte order mark", "unknown keys", "nested 90 deep"],
)
def test_an_odd_description_is_understood(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "dataset.json").write_bytes(content)
    assert plan(tmp_path).code == 0


def test_no_description_and_a_folder_in_its_place(folder: Path, tmp_path: Path) -> None:
    assert plan(tmp_path).error.startswith("the file does not exist")
    (folder / "dataset.json").mkdir()
    assert plan(tmp_path).error.startswith("the path is not a regular file")


def test_a_link_that_leads_to_itself(folder: Path, tmp_path: Path) -> None:
    (folder / "dataset.json").symlink_to("dataset.json")
    done = plan(tmp_path)
    assert done.code == 1 and str(folder / "dataset.json") in done.error


def test_one_bad_data_set_does_not_cost_the_others(folder: Path, tmp_path: Path) -> None:
    (folder / "dataset.json").write_bytes(b"{")
    good = folder.with_name("Dataset002_Good")
    for part in ("imagesTr", "labelsTr"):
        (good / part).parent.mkdir(exist_ok=True)
        (good / part).symlink_to(folder / part)
    write_json(GOOD, good / "dataset.json")
    words = ["-d", "1", "2", "--raw", tmp_path / "raw", "--preprocessed", tmp_path / "pp", "-np", "0", "--no_pp"]
    done = run(plan_and_preprocess.main, words)
    assert done.code == 1 and "1 of 2 data sets failed: Dataset001_Bad" in done.err
    assert (tmp_path / "pp" / "Dataset002_Good" / "plans.json").is_file()
