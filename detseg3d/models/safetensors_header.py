"""What a safetensors file says it holds, read without reading what it holds.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of the header, the header as JSON,
then the numbers. The header names each tensor with its type, shape and place. Here all of that is compared with the
size of the file before any memory is taken for a tensor.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import open_regular_file

__all__ = ["MOST_HEADER_BYTES", "TensorEntry", "read_safetensors_header"]

MOST_HEADER_BYTES: Final = 4 << 20
"""A network of some hundred tensors has some ten thousand bytes."""

_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_MOST_AXES = 16


class TensorEntry(NamedTuple):
    """Type (``F32``, ``F16``, …) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, by name.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, its header is no header, or what it promises is not exactly what the file has room
        for: places that overlap, leave gaps or lie outside, and sizes that do not follow from type and shape.
    """
    try:
        with open_regular_file(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            if size < 8:
                raise ValueError(f"it has {size} bytes, too few for a header")
            length = int.from_bytes(handle.read(8), "little")
            if length > min(size - 8, MOST_HEADER_BYTES):
                raise ValueError(f"it has {size} bytes and a header of {length}")
            header = json.loads(handle.read(length).decode("utf-8"), object_pairs_hook=_without_repetition)
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        entries = {name: _entry(name, value) for name, value in header.items() if name != "__metadata__"}
        _check_places([place for _, place in entries.values()], size - 8 - length)
    except (OSError, ValueError, RecursionError) as error:
        raise DetSeg3DError(
            f"the weights cannot be read: {error}",
            file=path,
            expected="a whole safetensors file",
            remedy="restore the file; it may be damaged, or of another kind",
        ) from error
    return {name: entry for name, (entry, _) in entries.items()}


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("its header names something twice")
    return data


def _entry(name: str, value: Any) -> tuple[TensorEntry, tuple[int, int]]:
    """A tensor and its place, begin and end, counted from the end of the header."""
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its header does not describe the tensor {name[:80]!r}") from error
    whole = isinstance(shape, list) and len(shape) <= _MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
    if not isinstance(dtype, str) or dtype not in _BYTES or not whole or type(begin) is not int or type(end) is not int:
        raise ValueError(f"the tensor {name[:80]!r} has an unknown type, shape or place")
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        raise ValueError(f"the tensor {name[:80]!r} of {dtype} {shape} has {end - begin} bytes")
    return TensorEntry(dtype, tuple(shape)), (begin, end)


def _check_places(places: Sequence[tuple[int, int]], room: int) -> None:
    """Side by side from the first byte to the last: nothing hidden between them, nothing beyond."""
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise ValueError("its tensors overlap or leave gaps")
        reached = end
    if reached != room:
        raise ValueError(f"its tensors have {reached} bytes, the file has {room}")
