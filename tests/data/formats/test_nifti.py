from __future__ import annotations

import logging
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_channels, read_geometry, write_image

ARRAY = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
BASE = np.array([[-1.0, 0, 0, 10], [0, -1, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]])
MOVED = BASE + np.array([[0, 0, 0, 30], [0, 0, 0, -20], [0, 0, 0, 10], [0, 0, 0, 0]])
DOUBLE = BASE @ np.diag([2.0, 2.0, 2.0, 1.0])
MIRRORED = np.diag([-1.0, 1.0, 1.0, 1.0]) @ BASE


def save(
    path: Path,
    qform: tuple[int, np.ndarray],
    sform: tuple[int, np.ndarray],
    pixdim: tuple[float, ...] | None = None,
    header_class: type = nibabel.Nifti1Header,
) -> Path:
    header = header_class()
    header.set_data_dtype(ARRAY.dtype)
    header.set_data_shape(ARRAY.shape)
    header.set_qform(qform[1], qform[0])
    header.set_sform(sform[1], sform[0])
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    image_class = nibabel.Nifti2Image if header_class is nibabel.Nifti2Header else nibabel.Nifti1Image
    nibabel.save(image_class(ARRAY, None, header), path)
    return path


def affine_of(geometry: Geometry) -> np.ndarray:
    """Return the affine to RAS, as nibabel computes it."""
    matrix, offset = geometry.as_stored().index_to_world()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, offset
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@pytest.mark.parametrize("header_class", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 4), (4, 2), (5, 5)])
@pytest.mark.parametrize("other", [BASE, MOVED, DOUBLE, MIRRORED])
def test_the_geometry_is_that_of_nibabel_for_all_codes(
    tmp_path: Path, header_class: type, codes: tuple[int, int], other: np.ndarray
) -> None:
    path = save(tmp_path / "a.nii.gz", (codes[0], BASE), (codes[1], other), header_class=header_class)
    np.testing.assert_allclose(affine_of(read_geometry(path)), nibabel.load(path).affine, atol=1e-6)


@pytest.mark.parametrize(
    ("qform", "sform", "pixdim", "words"),
    [
        ((1, BASE), (2, MOVED), None, ["sform", "qform", "origin"]),
        ((1, BASE), (4, MIRRORED), None, ["sform", "qform", "direction"]),
        ((1, BASE), (1, DOUBLE), None, ["sform", "qform", "spacing (z, y, x) 4 2 2 against 2 1 1"]),
        ((0, BASE), (1, DOUBLE), (1, 1, 2), ["sform", "pixdim", "spacing (z, y, x) 4 2 2 against 2 1 1"]),
    ],
)
def test_a_file_that_contradicts_itself_gives_one_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    qform: tuple[int, np.ndarray],
    sform: tuple[int, np.ndarray],
    pixdim: tuple[float, ...] | None,
    words: list[str],
) -> None:
    path = save(tmp_path / "a.nii", qform, sform, pixdim)
    with caplog.at_level(logging.WARNING, "detseg3d"):
        for _ in range(3):
            geometry = read_geometry(path)
    assert len(caplog.messages) == 1
    for word in [*words, str(path)]:
        assert word in caplog.messages[0]
    assert geometry.caveat in caplog.messages[0]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (0.7, 1.3, 5.5), (0.4871, 0.4871, 3.3)])
@pytest.mark.parametrize("seed", range(4))
def test_two_transforms_that_differ_by_rounding_give_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spacing: tuple[float, ...], seed: int
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix() * spacing
    affine[:3, 3] = 100.1, -250.7, 33.3
    path = save(tmp_path / "a.nii", (1, affine), (1, affine))
    with caplog.at_level(logging.WARNING, "detseg3d"):
        geometry = read_geometry(path)
    assert caplog.messages == [] and geometry.caveat == ""


def test_a_sheared_sform_does_not_contradict_the_qform_that_cannot_hold_it(tmp_path: Path) -> None:
    sheared = np.array([[2, 0.4, 0, 5], [0, 1.5, 0.2, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    geometry = read_geometry(save(tmp_path / "a.nii", (1, sheared), (1, sheared)))
    assert geometry.affine is not None and geometry.caveat == ""


def test_codes_of_zero_are_named_if_grids_differ(tmp_path: Path) -> None:
    none = save(tmp_path / "none.nii.gz", (0, BASE), (0, BASE))
    placed = save(tmp_path / "placed.nii.gz", (1, MOVED), (1, MOVED))
    for pair in ([none, placed], [placed, none]):
        with pytest.raises(DetSeg3DError, match="qform_code and sform_code are 0"):
            read_channels(pair)


def test_codes_of_zero_alone_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "detseg3d"):
        read_geometry(save(tmp_path / "a.nii.gz", (0, BASE), (0, BASE)))
    assert caplog.messages == []


def test_a_label_saved_with_the_affine_that_nibabel_gives_lies_on_its_image(tmp_path: Path) -> None:
    image = save(tmp_path / "a.nii.gz", (0, BASE), (0, BASE))
    nibabel.save(nibabel.Nifti1Image(ARRAY, nibabel.load(image).affine), tmp_path / "label.nii.gz")
    assert read_geometry(image).difference(read_geometry(tmp_path / "label.nii.gz")) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spacing=st.tuples(*[st.integers(1, 12_000).map(lambda thousandths: thousandths / 1000)] * 3),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["qform", "sform", "both", "pixdim wrong"]),
    straight=st.booleans(),
)
def test_a_spacing_is_the_intended_decimal_number(
    tmp_path: Path, spacing: tuple[float, float, float], seed: int, kind: str, straight: bool
) -> None:
    affine = np.eye(4)
    rotation = np.eye(3) if straight else Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    affine[:3, :3] = rotation * spacing[::-1]
    codes = {"qform": (1, 0), "sform": (0, 1)}.get(kind, (1, 1))
    pixdim = (9.0, 9.0, 9.0) if kind == "pixdim wrong" else spacing[::-1]
    path = save(tmp_path / "a.nii", (codes[0], affine), (codes[1], affine), pixdim)
    geometry = read_geometry(path)
    assert geometry.as_stored().spacing == spacing
    write_image(np.ones(geometry.shape, np.uint8), geometry, tmp_path / "b.nii")
    for name in ("pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
        old, new = (nibabel.load(tmp_path / file).header[name] for file in ("a.nii", "b.nii"))
        np.testing.assert_array_equal(np.ravel(old)[:4], np.ravel(new)[:4])


@pytest.mark.parametrize(("unit", "length", "millimetres"), [("micron", 0.7, 0.0007), ("meter", 0.0012, 1.2)])
def test_units_change_the_decimal_and_not_its_digits(
    tmp_path: Path, unit: str, length: float, millimetres: float
) -> None:
    image = nibabel.Nifti1Image(ARRAY, np.diag([length, length, length, 1.0]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_geometry(tmp_path / "a.nii").spacing == (millimetres,) * 3


def test_equal_masks_give_equal_files_under_any_name(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(np.ones((2, 3, 4), np.uint8), Geometry((2, 3, 4)), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_axis_longer_than_nifti_1_allows_is_written_as_nifti_2(tmp_path: Path) -> None:
    write_image(np.ones((1, 1, 40_000), np.uint8), Geometry((1, 1, 40_000), (1.5, 1.0, 0.1)), tmp_path / "a.nii.gz")
    assert read_geometry(tmp_path / "a.nii.gz") == Geometry((1, 1, 40_000), (1.5, 1.0, 0.1))


def test_a_big_endian_header_with_a_contradiction_is_copied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", (1, BASE), (2, MOVED))
    header = nibabel.load(path).header.as_byteswapped(">")
    nibabel.save(nibabel.Nifti1Image(ARRAY, None, header), tmp_path / "big.nii")
    write_image(np.ones(ARRAY.shape[::-1], np.uint8), read_geometry(tmp_path / "big.nii"), tmp_path / "b.nii")
    old, new = nibabel.load(tmp_path / "big.nii"), nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(old.header.get_qform(), new.header.get_qform())
    np.testing.assert_array_equal(old.affine, new.affine)


def test_the_warning_of_a_copied_file_names_the_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = save(tmp_path / "a.nii", (1, BASE), (2, MOVED))
    shutil.copy(first, tmp_path / "b.nii")
    with caplog.at_level(logging.WARNING, "detseg3d"):
        read_geometry(first), read_geometry(tmp_path / "b.nii")
    assert ["a.nii" in message for message in caplog.messages] == [True, False]
