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
from detseg3d.models.safetensors_header import MOST_HEADER_BYTES, TensorEntry, read_safetensors_header

F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path: Path, header: Any, data: bytes = bytes(24), length: int | None = None) -> Path:
    """A file by hand; ``header`` as JSON unless it is bytes, ``length`` as the header's length if it is to lie."""
    block = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(block) if length is None else length).to_bytes(8, "little") + block + data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DetSeg3DError, match="the weights cannot be read: ") as caught:
        read_safetensors_header(path)
    assert caught.value.file == path
    return caught.value.problem


def test_types_and_shapes_are_those_that_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(2, 3),
        "b": torch.zeros(4, dtype=torch.bfloat16),
        "scalar": torch.tensor(1, dtype=torch.int64),
        "nothing": torch.zeros(0, 5),
    }
    save_file(tensors, str(tmp_path / "w"), metadata={"dataset": "x"})
    assert read_safetensors_header(tmp_path / "w") == {
        "a": TensorEntry("F32", (2, 3)),
        "b": TensorEntry("BF16", (4,)),
        "scalar": TensorEntry("I64", ()),
        "nothing": TensorEntry("F32", (0, 5)),
    }


def test_a_file_by_hand_is_read(tmp_path: Path) -> None:
    assert read_safetensors_header(write(tmp_path / "w", {"a": F32})) == {"a": TensorEntry("F32", (2, 3))}


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "it has 0 bytes"), (b"1234567", "it has 7 bytes, too few for a header"), (bytes(8), "Expecting value")],
)
def test_a_file_too_short_for_a_header_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "w").write_bytes(data)
    assert message in refusal(tmp_path / "w")


@pytest.mark.parametrize("length", [2**63, MOST_HEADER_BYTES + 1, 10_000])
def test_a_header_that_claims_to_be_longer_than_the_file_is_not_read(tmp_path: Path, length: int) -> None:
    assert f"a header of {length}" in refusal(write(tmp_path / "w", {"a": F32}, length=length))


def test_a_header_over_the_limit_is_not_read_though_the_file_has_it(tmp_path: Path) -> None:
    path = write(tmp_path / "w", b" " * (MOST_HEADER_BYTES + 1), b"")
    assert f"a header of {MOST_HEADER_BYTES + 1}" in refusal(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**F32, "shape": [2, 10**15]}, "of F32 [2, 1000000000000000] has 24 bytes"),
        ({**F32, "shape": [-2, -3]}, "unknown type, shape or place"),
        ({**F32, "shape": [2.0, 3]}, "unknown type, shape or place"),
        ({**F32, "shape": [True, 6]}, "unknown type, shape or place"),
        ({**F32, "shape": [1] * 99}, "unknown type, shape or place"),
        ({**F32, "dtype": "OBJECT"}, "unknown type, shape or place"),
        ({**F32, "dtype": ["F32"]}, "unknown type, shape or place"),
        ({**F32, "data_offsets": [0, "24"]}, "unknown type, shape or place"),
        ({**F32, "data_offsets": [0, 24, 48]}, "does not describe the tensor 'a'"),
        ({**F32, "data_offsets": [-24, 0]}, "overlap or leave gaps"),
        ({**F32, "data_offsets": [4, 28]}, "overlap or leave gaps"),
        ({"dtype": "F32", "shape": [2, 3]}, "does not describe the tensor 'a'"),
        ([], "does not describe the tensor 'a'"),
    ],
)
def test_an_entry_that_lies_is_refused(tmp_path: Path, entry: Any, message: str) -> None:
    assert message in refusal(write(tmp_path / "w", {"a": entry}))


def test_tensors_that_share_their_place_are_refused(tmp_path: Path) -> None:
    assert "overlap" in refusal(write(tmp_path / "w", {"a": F32, "b": F32}))


@pytest.mark.parametrize("size", [0, 20, 28])
def test_the_data_must_be_as_long_as_the_header_says(tmp_path: Path, size: int) -> None:
    assert f"have 24 bytes, the file has {size}" in refusal(write(tmp_path / "w", {"a": F32}, bytes(size)))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[]", "no object"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe{}", "codec"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' + json.dumps(F32).encode() + b', "a": ' + json.dumps(F32).encode() + b"}", "names something twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", ""),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes, message: str) -> None:
    assert message in refusal(write(tmp_path / "w", header))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "gone")


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_damage_is_refused_or_leaves_a_header_that_fits_the_file(
    tmp_path_factory: pytest.TempPathFactory, position: int, damage: bytes
) -> None:
    content = bytearray(save({"a": torch.zeros(2, 3), "b": torch.zeros(5)}))
    content[position : position + len(damage)] = damage
    path = tmp_path_factory.mktemp("damage") / "w"
    path.write_bytes(content)
    try:
        entries = read_safetensors_header(path)
    except DetSeg3DError:
        return
    sizes = {"F32": 4, "I32": 4, "U32": 4, "F16": 2, "I16": 2, "U16": 2, "F64": 8, "I64": 8, "U64": 8, "U8": 1, "I8": 1}
    promised = sum(torch.Size(entry.shape).numel() * sizes[entry.dtype] for entry in entries.values())
    header = int.from_bytes(content[:8], "little")
    assert promised == len(content) - 8 - header
