from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.system.json_files import read_json, write_json

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(2, 70, 90, 75)).astype(np.float32)
INSTANCES = np.zeros(IMAGE.shape[1:], np.int32)
INSTANCES[10:20, 30:50, 60:75] = 3
PROPERTIES = {"preprocessing_hash": "abc", "shape": [70, 90, 75], "lesions": [{"id": 3, "box": [10.0] * 6}]}


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    store = CaseStore(tmp_path / "cases")
    store.write("Fall é 1", IMAGE, INSTANCES, PROPERTIES)
    return store


def test_a_window_of_64_equals_the_slice(store: CaseStore) -> None:
    case = store.open("Fall é 1")
    z, y, x = slice(3, 67), slice(20, 84), slice(11, 75)
    np.testing.assert_array_equal(case.image[:, z, y, x], IMAGE[:, z, y, x].astype(np.float16))
    np.testing.assert_array_equal(case.instances[z, y, x], INSTANCES[z, y, x])


def test_arrays_are_lazy_compressed_chunks_of_64(store: CaseStore) -> None:
    case = store.open("Fall é 1")
    assert case.image.shape == IMAGE.shape
    assert case.image.dtype == np.float16
    assert case.image.chunks == (2, 64, 64, 64)
    assert case.instances.dtype == np.uint8
    assert not isinstance(case.image, np.ndarray)
    assert (store.folder / "Fall é 1_instances.b2nd").stat().st_size < INSTANCES.size / 50


@pytest.mark.parametrize(("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")])
def test_instances_take_the_smallest_type_that_fits(tmp_path: Path, largest: int, dtype: str) -> None:
    store = CaseStore(tmp_path)
    instances = np.array([[[0, largest]]], np.int32)
    store.write("a", np.zeros((1, 1, 1, 2), np.float32), instances, {})
    case = store.open("a")
    assert case.instances.dtype == np.dtype(dtype)
    assert case.instances[0, 0].tolist() == [0, largest]


def test_properties_come_back_with_the_case_id(store: CaseStore) -> None:
    properties = store.properties("Fall é 1")
    assert {key: properties[key] for key in PROPERTIES} == PROPERTIES
    assert properties["case_id"] == "Fall é 1"
    assert store.open("Fall é 1").properties == properties


def test_a_case_without_label_has_no_instances(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.write("a", IMAGE[:1], None, {"preprocessing_hash": "x"})
    assert store.open("a").instances is None
    assert store.is_complete("a", "x")


def test_values_beyond_half_precision_are_clipped_not_infinite(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.write("a", np.array([[[[1e6, -1e6, 1.5]]]], np.float32), None, {})
    assert store.open("a").image[0, 0, 0].tolist() == [65504.0, -65504.0, 1.5]


def test_a_complete_case_has_all_files_and_the_hash_of_the_plans(store: CaseStore) -> None:
    assert store.is_complete("Fall é 1", "abc")
    assert not store.is_complete("Fall é 1", "other")
    assert not store.is_complete("another", "abc")
    (store.folder / "Fall é 1_image.b2nd").unlink()
    assert not store.is_complete("Fall é 1", "abc")


def test_an_interrupted_rewrite_leaves_the_earlier_case_whole(
    store: CaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("detseg3d.data.case_store._smallest_unsigned", die)
    with pytest.raises(KeyboardInterrupt):
        store.write("Fall é 1", IMAGE + 1, INSTANCES, PROPERTIES)
    assert store.is_complete("Fall é 1", "abc")
    np.testing.assert_array_equal(store.open("Fall é 1").image[:], IMAGE.astype(np.float16))
    assert len(list(store.folder.iterdir())) == 3


def test_a_damaged_record_is_not_complete(store: CaseStore) -> None:
    (store.folder / "Fall é 1.json").write_text("{", encoding="utf-8")
    assert not store.is_complete("Fall é 1", "abc")
    with pytest.raises(DetSeg3DError, match="not valid JSON"):
        store.open("Fall é 1")


def test_case_ids_are_sorted_and_unfinished_files_do_not_count(store: CaseStore) -> None:
    store.write("B", IMAGE[:1, :4, :4, :4], None, {})
    (store.folder / ".1234.partial.C.json").touch()
    (store.folder / "D_image.b2nd").touch()
    assert store.case_ids() == ["B", "Fall é 1"]
    assert CaseStore(store.folder / "nowhere").case_ids() == []


def test_removing_a_case_deletes_all_its_files(store: CaseStore) -> None:
    store.remove("Fall é 1")
    assert list(store.folder.iterdir()) == []
    store.remove("Fall é 1")


def test_a_missing_case_names_the_command_to_run(store: CaseStore) -> None:
    with pytest.raises(DetSeg3DError, match=r"'x' is not preprocessed(.|\n)*detseg3d_plan_and_preprocess"):
        store.open("x")


def test_a_damaged_array_is_an_error_that_names_it(store: CaseStore) -> None:
    (store.folder / "Fall é 1_image.b2nd").write_bytes(b"nonsense")
    with pytest.raises(DetSeg3DError, match=r"cannot be read(.|\n)*Fall é 1_image"):
        store.open("Fall é 1")


@pytest.mark.parametrize("case_id", ["../x", "a/b", "..", ""])
def test_no_case_id_leaves_the_folder(store: CaseStore, case_id: str) -> None:
    for function in (store.open, store.properties, store.remove, lambda name: store.write(name, IMAGE, None, {})):
        with pytest.raises(DetSeg3DError, match="cannot be a file name"):
            function(case_id)


def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found"):
        CaseStore(tmp_path).write("a", IMAGE, INSTANCES[1:], {})
    with pytest.raises(ValueError, match="NaN or infinite"):
        CaseStore(tmp_path).write("a", np.full((1, 2, 2, 2), np.nan, np.float32), None, {})
    with pytest.raises(ValueError, match="negative values"):
        CaseStore(tmp_path).write("a", np.zeros((1, 1, 1, 1), np.float32), np.full((1, 1, 1), -1), {})
    assert CaseStore(tmp_path).case_ids() == []


LESION = {"id": 2, "class": 0, "box": [0.0, 0, 0, 1, 2, 3]}
RECORD = {"shape": [3, 4, 5], "lesions": [LESION]}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"shape": [3, 4, 5]},
        {**RECORD, "shape": [3, 4]},
        {**RECORD, "shape": [3, 4, 0]},
        {**RECORD, "shape": "345"},
        {**RECORD, "lesions": {}},
        *({**RECORD, "lesions": [{**LESION, **bad}]} for bad in ({"id": 61}, {"id": 0}, {"id": True})),
        *({**RECORD, "lesions": [{**LESION, **bad}]} for bad in ({"class": -1}, {"class": 1 << 40})),
        *({**RECORD, "lesions": [{**LESION, **bad}]} for bad in ({"box": [1]}, {"box": ["a"] * 6})),
        {**RECORD, "lesions": [None]},
    ],
)
def test_a_record_that_is_not_as_it_was_written_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    store = CaseStore(tmp_path)
    write_json(change, tmp_path / "a.json")
    with pytest.raises(DetSeg3DError, match=r"(?s)the record of the case is damaged.*a\.json"):
        store.shape_and_lesions("a")


def test_shape_and_lesions_come_from_the_record(tmp_path: Path) -> None:
    write_json(RECORD, tmp_path / "a.json")
    assert CaseStore(tmp_path).shape_and_lesions("a") == ((3, 4, 5), RECORD["lesions"])


def test_the_number_of_threads_is_not_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """blosc2 would store the number of threads of the machine, and the same case would give different files."""
    stored = []
    for threads in (1, 3):
        monkeypatch.setattr(blosc2, "nthreads", threads)
        store = CaseStore(tmp_path / str(threads))
        store.write("a", IMAGE, INSTANCES, PROPERTIES)
        stored.append([path.read_bytes() for path in sorted(store.folder.iterdir())])
    assert stored[0] == stored[1]


def test_a_case_is_read_whole_and_as_it_was_written(store: CaseStore) -> None:
    image, instances = store.read("Fall é 1")
    np.testing.assert_array_equal(image, IMAGE.astype(np.float16))
    np.testing.assert_array_equal(instances, INSTANCES)


FILES = ("Fall é 1.json", "Fall é 1_image.b2nd", "Fall é 1_instances.b2nd")


@pytest.mark.parametrize("kept", FILES)
def test_files_of_two_preprocessings_are_never_combined(store: CaseStore, kept: str) -> None:
    earlier = (store.folder / kept).read_bytes()
    store.write("Fall é 1", IMAGE + 1, INSTANCES, {**PROPERTIES, "preprocessing_hash": "other"})
    (store.folder / kept).write_bytes(earlier)
    with pytest.raises(DetSeg3DError) as caught:
        store.open("Fall é 1")
    assert caught.value.file == store.folder / FILES[0]


def test_an_array_that_is_replaced_while_it_is_open_is_an_error(store: CaseStore) -> None:
    case = store.open("Fall é 1")
    assert case.image[0, 0, 0, 0] == IMAGE.astype(np.float16)[0, 0, 0, 0]
    store.write("Fall é 1", IMAGE, INSTANCES + 1, PROPERTIES)
    for array, name in ((case.image, FILES[1]), (case.instances, FILES[2])):
        assert array is not None
        with pytest.raises(DetSeg3DError) as caught:
            array[:]
        assert caught.value.file == store.folder / name


def test_a_case_that_is_written_again_unchanged_has_the_same_digest(store: CaseStore) -> None:
    before = store.open("Fall é 1").digest
    store.write("Fall é 1", IMAGE, INSTANCES, PROPERTIES)
    assert store.open("Fall é 1").digest == before
    store.write("Fall é 1", IMAGE, INSTANCES, {**PROPERTIES, "lesions": []})
    assert store.open("Fall é 1").digest != before


@pytest.mark.parametrize("change", [{"lesions": []}, {"shape": [1, 2, 3]}, {"has_instances": False}, {"more": 1}])
def test_a_record_that_was_edited_is_damaged(store: CaseStore, change: dict[str, Any]) -> None:
    file = store.folder / FILES[0]
    write_json({**read_json(file), **change}, file)
    for read in (store.open, store.shape_and_lesions, store.read):
        with pytest.raises(DetSeg3DError) as caught:
            read("Fall é 1")
        assert caught.value.file == file


def test_cases_of_other_plans_are_refused_on_request(store: CaseStore) -> None:
    assert CaseStore(store.folder, "abc").open("Fall é 1").properties["preprocessing_hash"] == "abc"
    with pytest.raises(DetSeg3DError) as caught:
        CaseStore(store.folder, "def").shape_and_lesions("Fall é 1")
    assert (caught.value.value, caught.value.expected) == ("abc", "def")


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_array_is_an_error_or_gives_the_written_values(store: CaseStore, seed: int) -> None:
    random = np.random.default_rng(seed)
    file = store.folder / FILES[1 + seed % 2]
    data = bytearray(file.read_bytes())
    place = int(random.integers(len(data) if seed % 3 else 300))
    if seed % 5 == 0:
        del data[place:]
    elif seed % 5 == 1:
        data[place : place + 50] = bytes(50)
    else:
        data[place] ^= 1 << int(random.integers(8))
    file.write_bytes(data)
    try:
        image, instances = store.read("Fall é 1")
    except DetSeg3DError as error:
        assert error.file is not None and error.file.parent == store.folder
    else:
        np.testing.assert_array_equal(image, IMAGE.astype(np.float16))
        np.testing.assert_array_equal(instances, INSTANCES)
