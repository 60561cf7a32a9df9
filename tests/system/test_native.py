from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.case_store import CaseStore
from detseg3d.data.images import read_image, read_label_array, write_image
from detseg3d.models.weights import load_weights, save_weights
from detseg3d.system.native import escape_name, native_path, unescape_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are text on other systems")

# Names as bytes: Latin-1, Shift JIS, a part of a UTF-8 letter, and arbitrary bytes.
NAMES = [b"m\xfcller", b"\x83\x51\x83\x6b", b"half \xc3", b"\xff\xfe\x80"]


@pytest.fixture(params=NAMES, ids=repr)
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    text = os.fsdecode(request.param)
    try:
        (tmp_path / text).touch()
    except OSError:
        pytest.skip("this file system takes only names that are text")
    (tmp_path / text).unlink()
    return text


@given(st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & set(b"/\\\0")))
def test_escaped_names_are_text_and_can_be_restored(name: bytes) -> None:
    text = name.decode("utf-8", "surrogateescape")
    escaped = escape_name(text)
    assert escaped.encode("utf-8").decode("utf-8") == escaped
    assert unescape_name(escaped) == text


@pytest.mark.parametrize("text", ["a b", "müller", "病例", "a.nii.gz"])
def test_names_that_are_text_stay_as_they_are(text: str) -> None:
    assert escape_name(text) == text
    assert native_path(f"folder/{text}") == f"folder/{text}"


def test_a_path_through_an_open_folder_leads_to_the_same_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.txt").write_text("there", encoding="utf-8")
    path = native_path(tmp_path / name / "a.txt")
    path.encode("utf-8")
    assert Path(path).read_text(encoding="utf-8") == "there"
    Path(native_path(tmp_path / name / "new.txt")).write_text("new", encoding="utf-8")
    assert (tmp_path / name / "new.txt").read_text(encoding="utf-8") == "new"


def test_a_folder_that_is_made_again_is_opened_again(tmp_path: Path, name: str) -> None:
    for content in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(content, encoding="utf-8")
        assert Path(native_path(tmp_path / name / "a")).read_text(encoding="utf-8") == content
        (tmp_path / name / "a").unlink()
        (tmp_path / name).rmdir()


def test_a_file_name_that_is_not_text_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        native_path(tmp_path / name)
    assert caught.value.file == tmp_path / name


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".npy"])
def test_volumes_are_written_under_any_name_in_any_folder(tmp_path: Path, name: str, ending: str) -> None:
    """SimpleITK ends the process for a name that is not UTF-8."""
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for path in (tmp_path / f"{name}{ending}", tmp_path / name / f"case{ending}", tmp_path / name / f"{name}{ending}"):
        write_image(array, Geometry(array.shape, (2.0, 1.0, 0.5)), path)
        assert path.is_file()
    assert np.array_equal(read_image(tmp_path / name / f"case{ending}")[0], array)
    left = [path.name for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert left == []


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".npy"])
def test_a_volume_whose_name_is_not_text_is_read_or_refused_by_name(tmp_path: Path, name: str, ending: str) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / f"{name}{ending}"
    write_image(array, Geometry(array.shape), path)
    try:
        found = read_label_array(path)[0]
    except DetSeg3DError as error:
        assert error.file == path
    else:
        assert np.array_equal(found, array)


def test_a_case_is_stored_under_any_name_in_any_folder(tmp_path: Path, name: str) -> None:
    store = CaseStore(tmp_path / name / "cases")
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    for case_id in (name, "case 1"):
        store.write(case_id, image, np.ones((4, 5, 6), np.uint8), {"preprocessing_hash": "x"})
    again = CaseStore(tmp_path / name / "cases")
    assert set(again.case_ids()) == {name, "case 1"}
    for case_id in (name, "case 1"):
        assert again.is_complete(case_id, "x")
        assert np.array_equal(again.open(case_id).image[:], image.astype(np.float16))


def test_weights_are_stored_in_any_folder(tmp_path: Path, name: str) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(first, tmp_path / name / "model_final.safetensors")
    load_weights(second, tmp_path / name / "model_final.safetensors")
    assert torch.equal(first.weight, second.weight)
