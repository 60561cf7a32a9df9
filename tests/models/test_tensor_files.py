"""Headers of safetensors files: those that are read, and those that are refused before memory is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.weights import MAX_HEADER_BYTES, TensorEntry, open_tensors

F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
ENTRY = json.dumps(F32).encode()


def write(path: Path, header: Any, data: bytes = bytes(24), length: int | None = None) -> Path:
    """Write a file by hand; a header that is not bytes becomes JSON, and ``length`` may be a wrong length."""
    block = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(block) if length is None else length).to_bytes(8, "little") + block + data)
    return path


def entries(path: Path) -> dict[str, TensorEntry]:
    with open_tensors(path) as file:
        return file.entries


def is_refused(path: Path) -> bool:
    with pytest.raises(DetSeg3DError) as caught:
        entries(path)
    return caught.value.file == path and caught.value.expected == "a complete safetensors file"


def test_types_and_shapes_are_read_as_the_library_wrote_them(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(2, 3),
        "b": torch.zeros(4, dtype=torch.bfloat16),
        "scalar": torch.tensor(1, dtype=torch.int64),
        "nothing": torch.zeros(0, 5),
    }
    save_file(tensors, str(tmp_path / "w"), metadata={"dataset": "x"})
    with open_tensors(tmp_path / "w") as file:
        assert file.metadata == {"dataset": "x"}
        assert file.entries == {
            "a": TensorEntry("F32", (2, 3)),
            "b": TensorEntry("BF16", (4,)),
            "scalar": TensorEntry("I64", ()),
            "nothing": TensorEntry("F32", (0, 5)),
        }
        assert torch.equal(file.read("a"), tensors["a"])


def test_a_file_by_hand_is_read(tmp_path: Path) -> None:
    assert entries(write(tmp_path / "w", {"a": F32})) == {"a": TensorEntry("F32", (2, 3))}


@pytest.mark.parametrize("data", [b"", b"1234567", bytes(8)])
def test_a_file_too_short_for_a_header_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    assert is_refused(tmp_path / "w")


@pytest.mark.parametrize("length", [2**63, MAX_HEADER_BYTES + 1, 10_000])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    assert is_refused(write(tmp_path / "w", {"a": F32}, length=length))


def test_a_header_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The header would be valid, because JSON may be padded with spaces."""
    assert is_refused(write(tmp_path / "w", json.dumps({"a": F32}).encode().ljust(MAX_HEADER_BYTES + 1)))
    assert entries(write(tmp_path / "w", json.dumps({"a": F32}).encode().ljust(MAX_HEADER_BYTES)))


@pytest.mark.parametrize(
    "entry",
    [
        {**F32, "shape": [2, 10**15]},
        {**F32, "shape": [-2, -3]},
        {**F32, "shape": [2.0, 3]},
        {**F32, "shape": [True, 6]},
        {**F32, "dtype": "OBJECT"},
        {**F32, "dtype": ["F32"]},
        {**F32, "data_offsets": [0, "24"]},
        {**F32, "data_offsets": [0, 24, 48]},
        {**F32, "data_offsets": [-24, 0]},
        {**F32, "data_offsets": [4, 28]},
        {"dtype": "F32", "shape": [2, 3]},
        [],
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, entry: Any) -> None:
    assert is_refused(write(tmp_path / "w", {"a": entry}))


def test_tensors_that_share_bytes_or_leave_gaps_are_refused(tmp_path: Path) -> None:
    assert is_refused(write(tmp_path / "w", {"a": F32, "b": F32}))
    assert is_refused(write(tmp_path / "w", {"a": F32, "b": {**F32, "data_offsets": [48, 72]}}, bytes(72)))


@pytest.mark.parametrize("size", [0, 20, 28])
def test_the_data_must_be_as_long_as_the_header_states(tmp_path: Path, size: int) -> None:
    assert is_refused(write(tmp_path / "w", {"a": F32}, bytes(size)))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"__metadata__": {"x": 1}, "a": ' + ENTRY + b"}",
        b'{"__metadata__": {"x": "1"}, "__metadata__": {"x": "2"}, "a": ' + ENTRY + b"}",
        b'{"__metadata__": ' + b'{"x": ' * 1000 + b"1" + b"}" * 1001,
    ],
)
def test_a_header_that_is_not_valid_is_refused(tmp_path: Path, header: bytes) -> None:
    assert is_refused(write(tmp_path / "w", header))


def test_of_a_name_that_stands_twice_the_last_entry_counts_everywhere(tmp_path: Path) -> None:
    """The entry that is compared with the network is the entry that is read, so a second entry hides nothing."""
    flat = json.dumps({**F32, "shape": [6]}).encode()
    with open_tensors(write(tmp_path / "w", b'{"a": ' + ENTRY + b', "a": ' + flat + b"}")) as file:
        assert file.entries == {"a": TensorEntry("F32", (6,))} and file.read("a").shape == (6,)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        entries(tmp_path / "gone")
    assert caught.value.file == tmp_path / "gone"


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_damage_is_refused_or_leaves_a_header_that_fits_the_file(
    tmp_path_factory: pytest.TempPathFactory, position: int, damage: bytes
) -> None:
    content = bytearray(save({"a": torch.zeros(2, 3), "b": torch.zeros(5)}))
    content[position : position + len(damage)] = damage
    path = tmp_path_factory.mktemp("damage") / "w"
    path.write_bytes(content)
    try:
        found = entries(path)
    except DetSeg3DError:
        return
    sizes = {"F32": 4, "I32": 4, "U32": 4, "F16": 2, "I16": 2, "U16": 2, "F64": 8, "I64": 8, "U64": 8, "U8": 1, "I8": 1}
    stated = sum(torch.Size(entry.shape).numel() * sizes[entry.dtype] for entry in found.values())
    header = int.from_bytes(content[:8], "little")
    assert stated == len(content) - 8 - header
