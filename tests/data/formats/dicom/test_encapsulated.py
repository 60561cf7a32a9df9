from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom import encapsulated
from detseg3d.data.formats.dicom.encapsulated import FrameDecoder
from detseg3d.data.formats.dicom.headers import DicomHeader, read_header
from tests.data.formats.dicom.builders import SeriesBuilder, save

ARRAY = np.random.default_rng(0).integers(0, 3000, (2, 20, 30)).astype(np.int16)


@pytest.fixture
def header(tmp_path: Path) -> DicomHeader:
    dataset = SeriesBuilder(ARRAY).slice(0)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False, encoding_plugin="pyjpegls")
    return read_header(save(dataset, tmp_path / "a.dcm"))


def test_frames_are_decoded_by_one_process(header: DicomHeader) -> None:
    with FrameDecoder() as decoder:
        for _ in range(3):
            (frame,) = decoder.frames(header, [0])
            np.testing.assert_array_equal(frame, ARRAY[0])


@pytest.mark.parametrize("child", ["import os; os.abort()", "import sys; sys.stdout.write('{')", "1 / 0"])
def test_a_decoder_that_ends_is_an_error_of_its_file(
    header: DicomHeader, monkeypatch: pytest.MonkeyPatch, child: str
) -> None:
    monkeypatch.setattr(encapsulated, "_CHILD", child)
    with FrameDecoder() as decoder, pytest.raises(DetSeg3DError) as caught:
        list(decoder.frames(header, [0]))
    assert caught.value.file == header.path
    monkeypatch.undo()
    with FrameDecoder() as decoder:
        assert len(list(decoder.frames(header, [0]))) == 1


def test_a_decoder_that_runs_forever_is_an_error_of_its_file(
    header: DicomHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encapsulated, "_CHILD", "import time; time.sleep(100)")
    begin = time.monotonic()
    with FrameDecoder(seconds_per_frame=0.5) as decoder, pytest.raises(DetSeg3DError) as caught:
        list(decoder.frames(header, [0]))
    assert caught.value.file == header.path
    assert time.monotonic() - begin < 50
