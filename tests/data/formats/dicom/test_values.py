from __future__ import annotations

import logging
import warnings
import zlib
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.images import read_geometry, read_image
from tests.data.formats.dicom.builders import SECONDARY_CAPTURE, SeriesBuilder, enhanced, save

ARRAY = np.random.default_rng(0).integers(-1000, 3000, (4, 41, 35)).astype(np.int16)
BYTES = np.random.default_rng(1).integers(0, 255, (4, 41, 35)).astype(np.uint8)
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
LOSSLESS = [RLELossless, JPEGLSLossless, JPEG2000Lossless]


def compress(dataset: Any, syntax: str) -> None:
    plugins = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}
    dataset.compress(syntax, generate_instance_uid=False, encoding_plugin=plugins[syntax])


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
@pytest.mark.parametrize("array", [ARRAY, ARRAY.astype(np.int32) * 1000, BYTES], ids=["int16", "int32", "uint8"])
def test_uncompressed_transfer_syntaxes_are_read(tmp_path: Path, syntax: str, array: Any) -> None:
    SeriesBuilder(array, transfer_syntax=syntax).write(tmp_path)
    found, geometry = read_image(tmp_path)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert read_geometry(tmp_path) == geometry


def test_bytes_of_big_endian_words_are_swapped_back(tmp_path: Path) -> None:
    builder = SeriesBuilder(BYTES, transfer_syntax=ExplicitVRBigEndian)
    for index in range(4):
        dataset = builder.slice(index)
        odd = dataset.PixelData + b"\0" * (len(dataset.PixelData) % 2)
        dataset.PixelData = np.frombuffer(odd, "<u2").astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
        save(dataset, tmp_path / f"{index}.dcm")
    np.testing.assert_array_equal(read_image(tmp_path)[0], BYTES)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
@pytest.mark.parametrize("array", [ARRAY, BYTES, np.abs(ARRAY).astype(np.uint16)], ids=["int16", "uint8", "uint16"])
def test_compressed_transfer_syntaxes_are_read(tmp_path: Path, syntax: str, array: Any) -> None:
    builder = SeriesBuilder(array, extra={"RescaleSlope": 1, "RescaleIntercept": 0})
    for index in range(4):
        dataset = builder.slice(index)
        compress(dataset, syntax)
        save(dataset, tmp_path / f"{index}.dcm")
    found, _ = read_image(tmp_path)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.name)
def test_compressed_frames_of_one_object_in_any_order(tmp_path: Path, syntax: str) -> None:
    order = [2, 0, 3, 1]
    dataset = enhanced(ARRAY[order], [(0, 0, 2.5 * index) for index in order])
    compress(dataset, syntax)
    save(dataset, tmp_path / "a")
    np.testing.assert_array_equal(read_image(tmp_path / "a")[0], ARRAY)


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEGExtendedProcess2_4"])
def test_jpeg_of_gdcm(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    smooth = np.clip(np.add.outer(np.arange(4) * 40, np.add.outer(np.arange(16) * 90, np.arange(16) * 70)), 0, 4000)
    array = smooth.astype(np.uint16)
    builder = SeriesBuilder(array, extra={"BitsStored": 12, "HighBit": 11})
    for index in range(4):
        save(builder.slice(index), tmp_path / "plain" / f"{index}.dcm")
        reader = gdcm.ImageReader()
        reader.SetFileName(str(tmp_path / "plain" / f"{index}.dcm"))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
        change.SetInput(reader.GetImage())
        if not change.Change():
            pytest.skip("this GDCM does not write the compression")
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        (tmp_path / "jpeg").mkdir(exist_ok=True)
        writer.SetFileName(str(tmp_path / "jpeg" / f"{index}.dcm"))
        assert writer.Write()
    with caplog.at_level(logging.WARNING, "detseg3d"):
        found, _ = read_image(tmp_path / "jpeg")
    lossy = kind == "JPEGExtendedProcess2_4"
    np.testing.assert_allclose(found, array, atol=8 if lossy else 0)
    assert sum("with loss" in message for message in caplog.messages) == int(lossy), "one warning of the series"


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("MR_small_RLE.dcm", 0),
        ("MR_small_jp2klossless.dcm", 0),
        ("MR_small_jpeg_ls_lossless.dcm", 0),
        ("MR_small_bigendian.dcm", 0),
        ("MR_small_expb.dcm", 0),
        ("MR_small_implicit.dcm", 0),
        ("MR_small_padded.dcm", 0),
    ],
)
def test_scanner_files_that_come_with_pydicom(tmp_path: Path, name: str, tolerance: float) -> None:
    source = get_testdata_file("MR_small.dcm", download=False)
    other = get_testdata_file(name, download=False)
    assert isinstance(source, str)
    assert isinstance(other, str)
    (tmp_path / "one.dcm").write_bytes(Path(other).read_bytes())
    found, geometry = read_image(tmp_path)
    np.testing.assert_allclose(found[0], dcmread(source).pixel_array, atol=tolerance)
    assert geometry.shape == (1, 64, 64)


@pytest.mark.parametrize("name", ["J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm", "CT_small.dcm", "examples_overlay.dcm"])
def test_odd_scanner_files_give_the_values_of_pydicom(tmp_path: Path, name: str) -> None:
    source = get_testdata_file(name, download=False)
    assert isinstance(source, str)
    (tmp_path / "one").write_bytes(Path(source).read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(source)
        expected = dataset.pixel_array.astype(np.float64) * float(dataset.get("RescaleSlope", 1))
    expected = expected + float(dataset.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(read_image(tmp_path)[0][0], expected)


def test_a_dose_of_a_planning_system_gives_grays_on_its_planes(tmp_path: Path) -> None:
    source = get_testdata_file("rtdose.dcm", download=False)
    assert isinstance(source, str)
    (tmp_path / "dose").write_bytes(Path(source).read_bytes())
    dataset = dcmread(source)
    found, geometry = read_image(tmp_path / "dose")
    expected = dataset.pixel_array.astype(np.float64) * float(dataset.DoseGridScaling)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    offsets = np.asarray(dataset.GridFrameOffsetVector, float)
    position = np.asarray(dataset.ImagePositionPatient, float)
    normal = np.cross(dataset.ImageOrientationPatient[:3], dataset.ImageOrientationPatient[3:])
    for z in (0, 14):
        place = position + offsets[z] * normal
        np.testing.assert_allclose(geometry.voxel_edges_to_world([(z + 0.5, 0.5, 0.5)])[0], place, atol=1e-4)


@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (10, 11)])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_beyond_the_stored_bits_are_ignored(tmp_path: Path, bits: int, high: int, signed: bool) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    values = np.random.default_rng(2).integers(low, low + (1 << bits), (4, 5, 6))
    shift = high - bits + 1
    noise = np.random.default_rng(3).integers(0, 1 << 16, values.shape)
    mask = ((1 << bits) - 1) << shift
    stored = ((values << shift) & mask | noise & ~mask & 0xFFFF).astype(np.uint16)
    tags = {"BitsStored": bits, "HighBit": high, "PixelRepresentation": int(signed)}
    SeriesBuilder(stored, extra=tags).write(tmp_path)
    np.testing.assert_array_equal(read_image(tmp_path)[0], values)


def test_monochrome1_does_not_change_the_values(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, extra={"PhotometricInterpretation": "MONOCHROME1"}).write(tmp_path)
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


def test_padding_values_are_unchanged(tmp_path: Path) -> None:
    padded = ARRAY.copy()
    padded[:, :3] = -2000
    SeriesBuilder(padded, extra={"PixelPaddingValue": -2000, "RescaleSlope": 1, "RescaleIntercept": -24}).write(
        tmp_path
    )
    np.testing.assert_array_equal(read_image(tmp_path)[0], padded - 24)


def test_real_numbers_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(4).normal(size=ARRAY.shape).astype(np.float32)
    dataset = enhanced(ARRAY, [(0, 0, 2.5 * index) for index in range(4)])
    del dataset.PixelData
    del dataset.PixelRepresentation
    dataset.FloatPixelData = values.tobytes()
    dataset.BitsAllocated = 32
    dataset.RealWorldValueMappingSequence = [pydicom.Dataset()]
    dataset.RealWorldValueMappingSequence[0].RealWorldValueSlope = 2.0
    dataset.RealWorldValueMappingSequence[0].RealWorldValueIntercept = 0.5
    save(dataset, tmp_path / "map.dcm")
    np.testing.assert_array_equal(read_image(tmp_path)[0], (values.astype(np.float64) * 2 + 0.5).astype(np.float32))


def error_of(path: Path) -> DetSeg3DError:
    with pytest.raises(DetSeg3DError) as caught:
        read_image(path)
    return caught.value


@pytest.mark.parametrize("index", [0, 2, 3])
@pytest.mark.parametrize("how", ["voxels", "half", "header", "preamble", "empty", "garbage", "text"])
@pytest.mark.parametrize("ending", [".dcm", "", ".1"])
def test_a_truncated_or_overwritten_slice_is_an_error_of_its_file(
    tmp_path: Path, how: str, index: int, ending: str
) -> None:
    SeriesBuilder(ARRAY).write(tmp_path, [f"IM{index}{ending}" for index in range(4)])
    file = tmp_path / f"IM{index}{ending}"
    content = file.read_bytes()
    lengths = {"voxels": len(content) - 3, "half": len(content) // 2, "header": 300, "preamble": 140, "empty": 0}
    if how in lengths:
        file.write_bytes(content[: lengths[how]])
    elif how == "text":
        file.write_text("404 not found", encoding="utf-8")
    else:
        file.write_bytes(np.random.default_rng(5).bytes(5000))
    assert error_of(tmp_path).file == file
    with pytest.raises(DetSeg3DError) as caught:
        read_geometry(tmp_path)
    assert caught.value.file == file


@pytest.mark.parametrize("tags", [{"Rows": 82}, {"Columns": 70}, {"BitsAllocated": 32}, {"NumberOfFrames": 2}])
@pytest.mark.parametrize("index", [0, 2])
def test_more_voxels_than_pixel_data_is_an_error(tmp_path: Path, tags: dict[str, int], index: int) -> None:
    builder = SeriesBuilder(ARRAY)
    builder.write(tmp_path, [f"{index}.dcm" for index in range(4)])
    save(builder.slice(index, **tags), tmp_path / f"{index}.dcm")
    assert error_of(tmp_path).file == tmp_path / f"{index}.dcm"


def test_bytes_after_the_pixel_data_are_not_read_as_voxels(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(4):
        dataset = builder.slice(index, Rows=82)
        dataset.DataSetTrailingPadding = b"\1" * 10_000
        save(dataset, tmp_path / f"{index}.dcm")
    assert error_of(tmp_path).file in set(tmp_path.iterdir())


def test_fewer_voxels_than_pixel_data_is_an_error(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, extra={"Rows": 30}).write(tmp_path)
    assert "pixel data has 2870 bytes" in error_of(tmp_path).problem


def test_zeros_after_the_voxels_are_padding(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(4):
        dataset = builder.slice(index)
        dataset.PixelData = dataset.PixelData + b"\0" * 64
        save(dataset, tmp_path / f"{index}.dcm")
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.name)
def test_a_truncated_compressed_frame_is_an_error(tmp_path: Path, syntax: str) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(4):
        dataset = builder.slice(index)
        compress(dataset, syntax)
        if index == 3:
            frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
            dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
        save(dataset, tmp_path / f"{index}.dcm")
    assert error_of(tmp_path).file == tmp_path / "3.dcm"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name)
def test_a_compressed_frame_of_another_shape_is_an_error(tmp_path: Path, syntax: str) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(4):
        dataset = builder.slice(index)
        compress(dataset, syntax)
        dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows  # the same number of voxels
        save(dataset, tmp_path / f"{index}.dcm")
    assert error_of(tmp_path).file in set(tmp_path.iterdir())


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.100", "1.2.3.4.5.6"]
)
def test_a_compression_without_decoder_is_named(tmp_path: Path, syntax: str) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(4):
        dataset = builder.slice(index)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([b"video" * 100])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        with open(tmp_path / f"{index}.dcm", "wb") as handle:
            handle.write(b"\0" * 128 + b"DICM")
            write_file_meta_info(handle, dataset.file_meta, enforce_standard=False)
            body = pydicom.Dataset(dataset)
            pydicom.filewriter.write_dataset(_explicit(handle), body)
    assert syntax in str(error_of(tmp_path).value)


def _explicit(handle: Any) -> Any:
    from pydicom.filebase import DicomFileLike

    target = DicomFileLike(handle)
    target.is_implicit_VR, target.is_little_endian = False, True
    return target


def test_a_small_deflated_file_is_not_inflated_beyond_its_stated_size(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY, transfer_syntax=DeflatedExplicitVRLittleEndian)
    builder.write(tmp_path, [f"{index}.dcm" for index in range(4)])
    content = (tmp_path / "2.dcm").read_bytes()
    end = 144 + int.from_bytes(content[140:144], "little")
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = zlib.decompress(content[end:], -zlib.MAX_WBITS)
    bomb = b"".join(compressor.compress(part) for part in [plain, *[b"\0" * (1 << 20)] * 200]) + compressor.flush()
    (tmp_path / "2.dcm").write_bytes(content[:end] + bomb)
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


def test_near_lossless_compression_gives_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(4):
        dataset = builder.slice(index)
        dataset.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
        save(dataset, tmp_path / f"{index}.dcm")
    with caplog.at_level(logging.WARNING, "detseg3d"):
        found, _ = read_image(tmp_path)
    np.testing.assert_allclose(found, ARRAY, atol=2)
    assert sum("with loss" in message for message in caplog.messages) == 1


def test_secondary_captures_with_positions_are_read(tmp_path: Path) -> None:
    SeriesBuilder(BYTES, sop_class=SECONDARY_CAPTURE).write(tmp_path)
    np.testing.assert_array_equal(read_image(tmp_path)[0], BYTES)
