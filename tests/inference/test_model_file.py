"""Model files may come from anybody: bad files are refused, and before which step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.inference.model_file import (
    MAX_MODEL_HEADER_BYTES,
    check_model_name,
    is_model_document,
    opened_model,
    unpack_model,
)
from detseg3d.models.detseg import DetSeg3D
from tests.shared_models import ModelContent, changed_model, edit, everything, read_content, with_absurd_plans

Change = Callable[[ModelContent], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to unpack into."""
    path = tmp_path / "unpacked"
    path.mkdir()
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a network with memory is made, or a tensor of the file is checked by its values."""
    make = DetSeg3D.__init__

    def watch(self: DetSeg3D, *arguments: Any) -> None:
        assert torch.get_default_device().type == "meta", "memory was taken for the network"
        make(self, *arguments)

    def read(*_: Any) -> None:
        raise AssertionError("the tensors were read")

    monkeypatch.setattr(DetSeg3D, "__init__", watch)
    monkeypatch.setattr("detseg3d.inference.model_file.check_values", read)


def refusal(path: Path, folder: Path) -> DetSeg3DError:
    with pytest.raises(DetSeg3DError) as caught:
        unpack_model(path, folder)
    assert caught.value.file == path and caught.value.remedy is not None
    return caught.value


# -- What is taken -----------------------------------------------------------------------------------------------------


def test_the_unpacked_folder_is_the_model(whole_model: Path, model_file: Path, folder: Path) -> None:
    assert unpack_model(model_file, folder).name == "Dataset001_Tiny"
    unpacked = everything(folder)
    assert all(is_model_document(name) or name.endswith("/model_final.safetensors") for name in unpacked)
    for name in ("fold_0/model_final.safetensors", "fold_1/plans.json", "operating_point.json"):
        assert unpacked[name] == (whole_model / name).read_bytes()


def test_a_file_with_another_checksum_but_the_same_rest_would_be_taken(model_file: Path, tmp_path: Path) -> None:
    """In the tests below, files are refused for their changed content, not for a wrong checksum."""
    same = changed_model(model_file, tmp_path / "same", edit("dataset.json", description="theirs"))
    (tmp_path / "unpacked").mkdir()
    assert unpack_model(same, tmp_path / "unpacked").name == "Dataset001_Tiny"


def test_an_opened_file_is_a_temporary_folder_and_an_opened_folder_is_the_folder(
    model_file: Path, whole_model: Path
) -> None:
    with opened_model(model_file) as opened:
        assert opened.name == "Dataset001_Tiny" and (opened / "fold_1" / "plans.json").is_file()
    assert not opened.exists()
    with opened_model(whole_model) as opened:
        assert opened == whole_model
    assert whole_model.is_dir()


# -- Documents ---------------------------------------------------------------------------------------------------------


def put(name: str, text: str) -> Change:
    return lambda content: content.documents.update({name: text})


def drop(name: str) -> Change:
    return lambda content: content.documents.pop(name)


NESTED = '{"a": ' * 100_000 + "1" + "}" * 100_000
DOCUMENTS: dict[str, Change] = {
    "absurd plans": with_absurd_plans,
    "no plans of a fold": drop("fold_1/plans.json"),
    "no appearance of a fold": drop("fold_1/appearance.json"),
    "plans of a fold without weights": lambda c: c.documents.update({"fold_2/plans.json": "{}"}),
    "a document that no model has": put("notes.json", "{}"),
    "a document outside the folder": put("../plans.json", "{}"),
    "a document of an absolute name": put("/tmp/plans.json", "{}"),
    "a document with a backslash": put("fold_0\\plans.json", "{}"),
    "code": put("fold_0/plans.py", "import os"),
    "plans that are not JSON": put("fold_0/plans.json", "import os"),
    "plans that are a list": put("fold_0/plans.json", "[]"),
    "plans with NaN": put("fold_0/plans.json", '{"version": NaN}'),
    "plans with a key twice": put("fold_0/plans.json", '{"version": 1, "version": 1}'),
    "plans nested a hundred thousand times": put("fold_0/plans.json", NESTED),
    "metrics that are not JSON": put("cross_validation/metrics.json", "{"),
    "an operating point with another entry": edit("operating_point.json", code="x"),
}


@pytest.mark.parametrize("change", DOCUMENTS.values(), ids=DOCUMENTS)
def test_wrong_documents_are_refused(model_file: Path, tmp_path: Path, folder: Path, change: Change) -> None:
    refusal(changed_model(model_file, tmp_path / "hostile", change), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile", "unpacked"]


@pytest.mark.parametrize(
    "description",
    [
        {"format": "other"},
        {"name": "../Dataset001_X"},
        {"name": "Theirs"},
        {"name": "Dataset001_a\x1b"},
        {"name": 7},
        {"made_with": "x" * 101},
        {"sha256": "0" * 64},
        {"sha256": "x"},
        {"more": 1},
    ],
)
def test_a_wrong_description_is_refused(
    model_file: Path, tmp_path: Path, folder: Path, description: dict[str, Any]
) -> None:
    refusal(read_content(model_file).write(tmp_path / "hostile", **description), folder)


def test_a_later_version_of_the_format_asks_for_an_update(model_file: Path, tmp_path: Path, folder: Path) -> None:
    error = refusal(read_content(model_file).write(tmp_path / "later", version=2), folder)
    assert (error.value, error.expected, error.remedy) == (2, "1", "update DetSeg3D")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"a": ' * 10_000, b"1" * 5000])
def test_metadata_that_are_not_a_description_are_refused(
    whole_model: Path, tmp_path: Path, folder: Path, text: bytes
) -> None:
    content = (whole_model / "fold_0" / "model_final.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {"detseg3d": text.decode("latin-1")}
    block = json.dumps(header).encode()
    (tmp_path / "hostile").write_bytes(len(block).to_bytes(8, "little") + block + content[8 + length :])
    refusal(tmp_path / "hostile", folder)


def test_weights_of_a_fold_are_not_a_model_file(whole_model: Path, folder: Path) -> None:
    refusal(whole_model / "fold_0" / "model_final.safetensors", folder)


# -- Tensors -----------------------------------------------------------------------------------------------------------


def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda content: content.tensors.update({n: change(t).clone() for n, t in content.tensors.items()})


def first(content: ModelContent) -> str:
    return min(content.tensors)


def rename_first(name: str) -> Change:
    return lambda content: content.tensors.update({name: content.tensors.pop(first(content))})


FITS_NOT: dict[str, Change] = {
    "no tensors": lambda content: content.tensors.clear(),
    "a tensor too few": lambda content: content.tensors.pop(first(content)),
    "a tensor too many": lambda content: content.tensors.update({"fold_0/more": torch.zeros(1)}),
    "a tensor of no fold": lambda content: content.tensors.update({"more": torch.zeros(1)}),
    "a tensor of a fold of another name": rename_first("fold_00/x"),
    "a tensor that leads out of its folder": rename_first("../fold_0/x"),
    "a fold without plans": rename_first("fold_7/x"),
    "another shape": each(lambda tensor: tensor[None]),
    "half precision": each(lambda tensor: tensor.half()),
    "double precision": each(lambda tensor: tensor.double()),
    "whole numbers": each(lambda tensor: tensor.int()),
    "plans of a large network": edit("fold_0/plans.json", stage1={"channels": [1024, 2048]}),
}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("change", FITS_NOT.values(), ids=FITS_NOT)
def test_tensors_that_do_not_fit_the_plans_are_refused_unread(
    model_file: Path, tmp_path: Path, folder: Path, change: Change
) -> None:
    refusal(changed_model(model_file, tmp_path / "hostile", change), folder)
    assert not list(folder.rglob("*.safetensors"))


SPOILED: dict[str, Change] = {
    "NaN": each(lambda tensor: tensor * float("nan")),
    "infinity": each(lambda tensor: tensor + float("inf")),
    "values that overflow": each(lambda tensor: tensor + 3e38),
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED)
def test_weights_that_no_network_can_work_with_are_refused(
    model_file: Path, tmp_path: Path, folder: Path, change: Change
) -> None:
    refusal(changed_model(model_file, tmp_path / "hostile", change), folder)
    assert not list(folder.rglob("*.safetensors"))


# -- Bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kept", [0, 5, 8, 100, 5000, -4])
def test_a_truncated_file_is_refused(model_file: Path, tmp_path: Path, folder: Path, kept: int) -> None:
    (tmp_path / "hostile").write_bytes(model_file.read_bytes()[:kept])
    refusal(tmp_path / "hostile", folder)


def test_a_changed_bit_of_a_weight_is_found(model_file: Path, tmp_path: Path, folder: Path) -> None:
    content = bytearray(model_file.read_bytes())
    content[-4] ^= 1  # the lowest bit of the last number
    (tmp_path / "damaged").write_bytes(content)
    refusal(tmp_path / "damaged", folder)


@pytest.mark.usefixtures("no_network")
def test_a_header_over_the_limit_is_refused_unread(model_file: Path, tmp_path: Path, folder: Path) -> None:
    content = model_file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    block = content[8 : 8 + length].ljust(MAX_MODEL_HEADER_BYTES + 1)
    (tmp_path / "hostile").write_bytes(len(block).to_bytes(8, "little") + block + content[8 + length :])
    refusal(tmp_path / "hostile", folder)


@pytest.mark.usefixtures("no_network")
def test_a_sparse_file_of_huge_weights_is_refused_unread(model_file: Path, tmp_path: Path, folder: Path) -> None:
    """A file may have holes: 4 TB of zeros take no space on the disk, but would take memory."""
    metadata = {**read_content(model_file).documents}
    content = model_file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata["detseg3d"] = header["__metadata__"]["detseg3d"]
    names = ("fold_0/a", "fold_1/a")
    tensors = {
        name: {"dtype": "F32", "shape": [2**20, 2**19], "data_offsets": [place * 2**41, (place + 1) * 2**41]}
        for place, name in enumerate(names)
    }
    block = json.dumps({"__metadata__": metadata, **tensors}).encode()
    path = tmp_path / "hostile"
    path.write_bytes(len(block).to_bytes(8, "little") + block)
    try:
        os.truncate(path, 8 + len(block) + 2**42)
    except OSError:
        pytest.skip("the file system has no files of that size")
    with pytest.raises(DetSeg3DError):
        unpack_model(path, folder)


def test_a_zip_file_of_an_earlier_version_asks_for_a_new_export(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    error = refusal(tmp_path / "model.zip", folder)
    assert error.remedy == "export the model again with detseg3d_export_model"


@pytest.mark.parametrize("content", [b"#!/bin/sh\nrm -rf ~\n", b"\x80\x04cos\nsystem\n", bytes(10_000)])
def test_other_files_are_refused(tmp_path: Path, folder: Path, content: bytes) -> None:
    (tmp_path / "hostile").write_bytes(content)
    refusal(tmp_path / "hostile", folder)


def test_a_missing_file_is_named(tmp_path: Path, folder: Path) -> None:
    assert refusal(tmp_path / "gone.safetensors", folder).remedy == "check the path"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_does_not_hang(tmp_path: Path, folder: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((DetSeg3DError, OSError)):
        unpack_model(tmp_path / "pipe", folder)


def test_a_model_larger_than_the_disk_is_refused_before_it_is_written(
    model_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = model_file.stat().st_size - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free))
    with pytest.raises(DetSeg3DError) as caught:
        unpack_model(model_file, folder)
    assert caught.value.file == folder.parent and everything(folder) == {}


# -- Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Dataset001_Tiny", "Dataset999_Läsionen im Kopf", "Dataset001_a.b-c"])
def test_usual_names_pass(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name", ["Tiny", "Dataset001_a/b", "Dataset001_a.", "Dataset001_a:b", "Dataset001_" + "x" * 200]
)
def test_names_that_a_system_forbids_are_refused(name: str) -> None:
    with pytest.raises(DetSeg3DError):
        check_model_name(name)
