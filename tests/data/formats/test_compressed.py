from __future__ import annotations

import bz2
import gzip
import io
import itertools
import random
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.data.formats import compressed
from detseg3d.data.formats.compressed import SLACK_BYTES, Encoding, open_stream, read_stream

BYTE = np.dtype(np.uint8)
COMPRESS: dict[Encoding, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
}
PACKED: list[Encoding] = ["gzip", "zlib", "bzip2"]


@pytest.fixture(autouse=True, scope="module", params=["zlib", "isal.isal_zlib"])
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both libraries that unpack gzip and zlib data: every test runs with each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "inflate_library", pytest.importorskip(request.param))
        yield request.param


def noise(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8).tobytes()


def read(data: bytes, encoding: Encoding, count: int, **options: Any) -> bytes:
    return read_stream(open_stream(io.BytesIO(data), encoding), BYTE, count, **options).tobytes()


@pytest.mark.parametrize("encoding", COMPRESS)
@given(data=st.binary(max_size=3000), skip=st.integers(0, 100), behind=st.integers(0, 100))
def test_the_requested_bytes_are_returned(encoding: Encoding, data: bytes, skip: int, behind: int) -> None:
    packed = COMPRESS[encoding](bytes(skip) + data + bytes(behind))
    assert read(packed, encoding, len(data), skip=skip) == data


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
@given(cuts=st.lists(st.integers(0, 5000), max_size=6), padding=st.sampled_from((0, 1, 512)))
def test_several_members_are_read_as_one(encoding: Encoding, cuts: Sequence[int], padding: int) -> None:
    data = noise(5000)
    places = [0, *sorted(cuts), 5000]
    parts = [COMPRESS[encoding](data[a:b]) for a, b in itertools.pairwise(places)]
    assert read(b"".join(parts) + bytes(padding), encoding, 5000) == data


@pytest.mark.parametrize("encoding", COMPRESS)
def test_more_than_a_block_is_read(encoding: Encoding) -> None:
    data = noise(3 << 20) + bytes(3 << 20)
    assert read(COMPRESS[encoding](data), encoding, len(data)) == data


@pytest.mark.parametrize("encoding", COMPRESS)
def test_too_few_bytes_are_an_error(encoding: Encoding) -> None:
    packed = COMPRESS[encoding](noise(1000))
    for data, count in ((packed, 1001), (packed[:-1], 1000), (packed[: len(packed) // 2], 1000), (b"", 1)):
        with pytest.raises((EOFError, ValueError, OSError, zlib.error)):
            read(data, encoding, count)


@pytest.mark.parametrize("encoding", PACKED)
def test_no_changed_bit_gives_other_bytes(encoding: Encoding) -> None:
    data = noise(300) + bytes(300)
    packed = COMPRESS[encoding](data)
    refused = 0
    for place in range(len(packed)):
        for bit in range(8):
            changed = bytearray(packed)
            changed[place] ^= 1 << bit
            try:
                assert read(bytes(changed), encoding, 600) == data
            except (EOFError, ValueError, OSError, zlib.error):
                refused += 1
    assert refused > 7 * len(packed)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_few_bytes_after_the_voxels_are_ignored_and_more_are_refused(encoding: Encoding) -> None:
    data = noise(500)
    assert read(COMPRESS[encoding](data + bytes(SLACK_BYTES)), encoding, 500) == data
    assert read(COMPRESS[encoding](data) + b"x" * SLACK_BYTES, encoding, 500) == data
    for packed in (
        COMPRESS[encoding](data + bytes(SLACK_BYTES + 1)),
        COMPRESS[encoding](data) + b"x" * (SLACK_BYTES + 1),
    ):
        with pytest.raises(ValueError, match="follow the voxels"):
            read(packed, encoding, 500)


def test_raw_bytes_may_share_their_file_with_others() -> None:
    assert read(b"ab" + bytes(1 << 20), "raw", 2, alone=False) == b"ab"


@pytest.mark.parametrize("encoding", PACKED)
def test_work_and_memory_are_limited_by_the_requested_bytes(encoding: Encoding) -> None:
    bomb = COMPRESS[encoding](bytes(1 << 27))
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ValueError, match="follow the voxels"):
        read(bomb, encoding, 1000)
    assert time.process_time() - start < 0.5
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_many_empty_members_are_an_error() -> None:
    data = noise(500)
    assert read(gzip.compress(b"") * 900 + gzip.compress(data), "gzip", 500) == data
    with pytest.raises(ValueError, match="hold almost no bytes"):
        read(gzip.compress(b"") * 1100 + gzip.compress(data), "gzip", 500)


def test_many_members_of_usual_size_are_read() -> None:
    data = noise(4 << 20)
    parts = [zlib.compressobj(0, zlib.DEFLATED, 31) for _ in range(0, len(data), 2048)]
    packed = [p.compress(data[2048 * i : 2048 * (i + 1)]) + p.flush() for i, p in enumerate(parts)]
    assert len(packed) > 2000
    assert read(b"".join(packed), "gzip", len(data)) == data


@pytest.mark.parametrize("encoding", ["raw", "gzip", "zlib"])
def test_a_stated_size_larger_than_the_file_takes_no_memory(encoding: Encoding) -> None:
    tracemalloc.start()
    with pytest.raises(EOFError, match="claims more voxels"):
        read(COMPRESS[encoding](b"little"), encoding, 1 << 40)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("code", ["<u2", ">u2", ">f8", "<f4", ">i8"])
def test_numbers_have_the_byte_order_of_the_machine(code: str) -> None:
    numbers = np.arange(7).astype(code)
    result = read_stream(open_stream(io.BytesIO(numbers.tobytes()), "raw"), np.dtype(code), 7)
    assert result.dtype.isnative and result.tolist() == numbers.tolist()


@pytest.mark.parametrize("encoding", PACKED)
def test_the_position_after_a_member_is_known(encoding: Encoding) -> None:
    packed = COMPRESS[encoding](noise(100))
    stream = open_stream(io.BytesIO(packed + b"behind"), encoding)
    read_stream(stream, BYTE, 100)
    assert stream.position() == len(packed)


def test_random_bytes_are_never_read_as_voxels() -> None:
    source = random.Random(0)
    for encoding in PACKED:
        for _ in range(200):
            with pytest.raises((EOFError, ValueError, OSError, zlib.error)):
                read(source.randbytes(100), encoding, 10)


def test_a_wrong_checksum_or_length_is_an_error() -> None:
    packed = gzip.compress(noise(1000))
    for place in (-8, -4):  # of the checksum and of the length
        changed = bytearray(packed)
        changed[place] ^= 1
        with pytest.raises((OSError, zlib.error)):
            read(bytes(changed), "gzip", 1000)


def test_the_fast_library_is_used_if_it_is_installed(library: str) -> None:
    fast = pytest.importorskip("isal.isal_zlib")
    script = "from detseg3d.data.formats import compressed; print(compressed.inflate_library.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == fast.__name__
