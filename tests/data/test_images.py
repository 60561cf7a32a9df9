from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import (
    file_ending,
    read_channels,
    read_geometry,
    read_image,
    read_label_array,
    strip_ending,
    write_image,
)
from tests.data.formats.dicom.builders import SeriesBuilder

SHAPE = (3, 4, 5)
ARRAY = np.arange(60, dtype=np.int16).reshape(SHAPE) - 30
GEOMETRIC = [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"]
SHEAR = np.array([[2, 0.4, 0, 5], [0, 1.5, 0.2, 6], [0, 0, 3, 7], [0, 0, 0, 1]])


def write_oblique(path: Path, seed: int = 0) -> SimpleITK.Image:
    """Write ARRAY through SimpleITK on an oblique grid and read its header as SimpleITK does."""
    rng = np.random.default_rng(seed)
    image = SimpleITK.GetImageFromArray(ARRAY)
    image.SetSpacing(rng.uniform(0.3, 5, 3).tolist())
    image.SetOrigin(rng.uniform(-300, 300, 3).tolist())
    image.SetDirection(Rotation.random(rng=rng).as_matrix().ravel().tolist())
    SimpleITK.WriteImage(image, str(path))
    return SimpleITK.ReadImage(str(path))


def as_stored(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    """Return an image in the axis order of its file."""
    return geometry.stored_order.to_stored(array), geometry.as_stored()


def place(image: SimpleITK.Image) -> tuple[tuple[float, ...], ...]:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("ending", GEOMETRIC)
def test_reading_gives_voxels_data_type_and_geometry_of_the_file(tmp_path: Path, ending: str) -> None:
    expected = write_oblique(tmp_path / f"a{ending}")
    array, geometry = as_stored(*read_image(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(array, ARRAY)
    assert array.dtype == np.int16
    assert geometry.shape == SHAPE
    # NIfTI stores single precision. SimpleITK and nibabel convert it with different last digits.
    tolerance = 3e-7 if ending.startswith(".nii") else 0
    np.testing.assert_allclose(geometry.spacing, expected.GetSpacing()[::-1], rtol=tolerance)
    np.testing.assert_allclose(geometry.origin, expected.GetOrigin(), rtol=tolerance)
    np.testing.assert_allclose(geometry.direction, expected.GetDirection(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("ending", GEOMETRIC)
@pytest.mark.parametrize("seed", range(6))
def test_a_result_has_the_geometry_of_its_input_to_the_bit(tmp_path: Path, ending: str, seed: int) -> None:
    # SimpleITK alone changes the last digits of the direction in most oblique NIfTI and NRRD files.
    expected = write_oblique(tmp_path / f"a{ending}", seed)
    _, geometry = read_image(tmp_path / f"a{ending}")
    mask = (ARRAY > 0).astype(np.uint8)
    write_image(geometry.stored_order.to_canonical(mask), geometry, tmp_path / f"b{ending}")
    result = SimpleITK.ReadImage(str(tmp_path / f"b{ending}"))
    assert place(result) == place(expected)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(result), mask)
    assert result.GetPixelID() == SimpleITK.sitkUInt8


def test_nifti_forms_and_units_are_copied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, np.diag([-2.0, 2.0, 3.0, 1.0]))
    image.set_sform(image.affine, code=4)
    image.set_qform(image.affine, code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2.0, 1.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    _, geometry = read_image(tmp_path / "a.nii.gz")
    write_image(np.ones(geometry.shape, np.uint8), geometry, tmp_path / "b.nii.gz")
    old, new = nibabel.load(tmp_path / "a.nii.gz").header, nibabel.load(tmp_path / "b.nii.gz").header
    for name in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "srow_x", "srow_y", "xyzt_units"):
        np.testing.assert_array_equal(old[name], new[name])
    np.testing.assert_array_equal(old["pixdim"][:4], new["pixdim"][:4])


def test_the_scaling_of_the_input_is_not_applied_to_the_result(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    _, geometry = read_image(tmp_path / "a.nii")
    mask = np.full(geometry.shape, 3, np.uint8)
    write_image(mask, geometry, tmp_path / "b.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii")[0], mask)


def test_a_big_endian_nifti_keeps_its_geometry(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, np.diag([2.0, 2.0, 3.0, 1.0]), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "a.nii")
    array, geometry = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(as_stored(array, geometry)[0], ARRAY.transpose(2, 1, 0))
    write_image(array, geometry, tmp_path / "b.nii")
    assert read_image(tmp_path / "b.nii")[1] == geometry


def test_a_nifti_2_file_can_be_read_and_written_back(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(ARRAY, np.diag([2.0, 0.7, 3.1, 1.0])), tmp_path / "a.nii.gz")
    array, geometry = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(as_stored(array, geometry)[0], ARRAY.transpose(2, 1, 0))
    assert geometry.spacing == (3.1, 0.7, 2.0)
    write_image(array, geometry, tmp_path / "b.nii.gz")
    assert read_image(tmp_path / "b.nii.gz")[1] == geometry


def test_a_sheared_nifti_is_read_with_its_affine_and_written_back_exactly(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY, SHEAR), tmp_path / "a.nii.gz")
    array, geometry = read_image(tmp_path / "a.nii.gz")
    stored, stored_geometry = as_stored(array, geometry)
    np.testing.assert_array_equal(stored, ARRAY.transpose(2, 1, 0))
    # Voxel (x, y, z) = (1, 2, 0) by hand, from RAS to LPS.
    world = np.diag([-1, -1, 1, 1]) @ nibabel.load(tmp_path / "a.nii.gz").affine @ [1, 2, 0, 1]
    np.testing.assert_allclose(stored_geometry.voxel_edges_to_world([[0.5, 2.5, 1.5]])[0], world[:3])
    place_of_it = np.argwhere(array == stored[0, 2, 1])[0] + 0.5
    np.testing.assert_allclose(geometry.voxel_edges_to_world([place_of_it])[0], world[:3])
    write_image(array, geometry, tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(
        nibabel.load(tmp_path / "b.nii.gz").affine, nibabel.load(tmp_path / "a.nii.gz").affine
    )
    assert read_geometry(tmp_path / "b.nii.gz") == geometry


def test_a_sheared_grid_without_header_is_written_from_its_affine(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY, SHEAR), tmp_path / "a.nii.gz")
    geometry = dataclasses.replace(read_geometry(tmp_path / "a.nii.gz").as_stored(), native_header=None)
    write_image(np.ones(geometry.shape, np.uint8), geometry, tmp_path / "b.nii.gz")
    assert read_geometry(tmp_path / "b.nii.gz").as_stored() == geometry


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])
def test_a_sheared_grid_survives_in_every_format(tmp_path: Path, ending: str) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY, SHEAR), tmp_path / "a.nii.gz")
    array, geometry = read_image(tmp_path / "a.nii.gz")
    write_image(array, geometry, tmp_path / f"b{ending}")
    again, other = read_image(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(again, array)
    np.testing.assert_allclose(other.affine, geometry.affine, rtol=0, atol=1e-12)
    write_image(again, other, tmp_path / f"c{ending}")
    assert read_geometry(tmp_path / f"c{ending}") == other


def test_a_copied_header_does_not_replace_a_changed_geometry(tmp_path: Path) -> None:
    write_oblique(tmp_path / "a.nii.gz")
    geometry = dataclasses.replace(read_geometry(tmp_path / "a.nii.gz"), spacing=(9.0, 8.0, 7.0))
    write_image(np.zeros(geometry.shape, np.uint8), geometry, tmp_path / "b.nii.gz")
    assert read_geometry(tmp_path / "b.nii.gz").spacing == (9.0, 8.0, 7.0)


@pytest.mark.parametrize("ending", GEOMETRIC)
def test_another_format_keeps_the_geometry_within_rounding(tmp_path: Path, ending: str) -> None:
    write_oblique(tmp_path / "a.mha")
    array, geometry = read_image(tmp_path / "a.mha")
    write_image(array, geometry, tmp_path / f"b{ending}")
    again, other = read_image(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(again, array)
    assert geometry.difference(other) == []


@pytest.mark.parametrize("ending", [*GEOMETRIC, ".npy"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "int64", "float32", "float64"])
def test_data_types_are_kept(tmp_path: Path, ending: str, dtype: str) -> None:
    array = np.array([[[0, 1, np.iinfo(dtype).max if dtype[0] in "ui" else 0.5]]], dtype)
    write_image(array, Geometry((1, 1, 3)), tmp_path / f"a{ending}")
    again, _ = read_image(tmp_path / f"a{ending}")
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


def test_bool_and_half_precision_become_types_of_the_formats(tmp_path: Path) -> None:
    write_image(np.ones((1, 1, 1), bool), Geometry((1, 1, 1)), tmp_path / "a.nii.gz")
    write_image(np.full((1, 1, 1), 0.5, np.float16), Geometry((1, 1, 1)), tmp_path / "b.nii.gz")
    assert read_image(tmp_path / "a.nii.gz")[0].dtype == np.uint8
    assert read_image(tmp_path / "b.nii.gz")[0].dtype == np.float32


@pytest.mark.parametrize("ending", [*GEOMETRIC, ".npy"])
def test_names_may_have_spaces_and_unicode_and_no_temporary_file_remains(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "größe 1"
    write_image(ARRAY, Geometry(SHAPE), folder / f"Fall é 1{ending}")
    np.testing.assert_array_equal(read_image(folder / f"Fall é 1{ending}")[0], ARRAY)
    names = {f"Fall é 1{ending}"} | ({"Fall é 1.zraw"} if ending == ".mhd" else set())
    assert {entry.name for entry in folder.iterdir()} == names


def test_mhd_can_be_written_twice(tmp_path: Path) -> None:
    for array in (ARRAY, ARRAY[::-1] * 0 + 5):
        write_image(array, Geometry(SHAPE), tmp_path / "a.mhd")
        np.testing.assert_array_equal(read_image(tmp_path / "a.mhd")[0], array)


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        write_image(ARRAY, Geometry((3, 4, 6)), tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ending", [*GEOMETRIC, ".npy"])
def test_the_header_alone_gives_the_same_geometry(tmp_path: Path, ending: str) -> None:
    if ending == ".npy":
        np.save(tmp_path / "a.npy", ARRAY)
    else:
        write_oblique(tmp_path / f"a{ending}")
    assert read_geometry(tmp_path / f"a{ending}") == read_image(tmp_path / f"a{ending}")[1]


def test_npy_has_spacing_1_or_the_given_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    assert read_image(tmp_path / "a.npy")[1] == Geometry(SHAPE)
    assert read_image(ImageSource(tmp_path / "a.npy", (3.0, 2.0, 1.0)))[1] == Geometry(SHAPE, (3.0, 2.0, 1.0))


def test_npy_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.npy")
    assert caught.value.file == tmp_path / "a.npy"


def test_a_missing_file_and_an_unknown_format_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.nii.gz")
    assert caught.value.file == tmp_path / "a.nii.gz" and caught.value.remedy == "check the path"
    (tmp_path / "a.txt").touch()
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.txt")
    assert caught.value.file == tmp_path / "a.txt" and ".nii.gz" in str(caught.value.expected)
    with pytest.raises(DetSeg3DError) as caught:
        write_image(ARRAY, Geometry(SHAPE), tmp_path / "a.png")
    assert caught.value.file == tmp_path / "a.png"


@pytest.mark.parametrize("ending", [*GEOMETRIC, ".npy"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"a{ending}").write_bytes(content)
    for function in (read_image, read_geometry):
        with pytest.raises(DetSeg3DError) as caught:
            function(tmp_path / f"a{ending}")
        assert caught.value.file == tmp_path / f"a{ending}"


def test_a_truncated_nifti_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_image(rng.integers(0, 255, (20, 20, 20)).astype(np.uint8), Geometry((20, 20, 20)), tmp_path / "a.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.nii.gz")
    assert caught.value.file == tmp_path / "a.nii.gz"
    (tmp_path / "b.nii").write_bytes(gzip.decompress(whole)[:4000])
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "b.nii")
    assert caught.value.file == tmp_path / "b.nii"


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".npy"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 5)])
def test_2d_and_4d_images_are_refused(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    if ending == ".npy":
        np.save(tmp_path / "a.npy", array)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=False), str(tmp_path / f"a{ending}"))
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / f"a{ending}")
    assert caught.value.file == tmp_path / f"a{ending}" and str(caught.value.value).startswith(f"{len(shape)}D")


def test_colour_images_are_refused(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.mha")
    assert caught.value.file == tmp_path / "a.mha" and "3 values a voxel" in str(caught.value.value)


def test_a_fourth_axis_of_length_1_is_dropped(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(ARRAY[..., None], np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "a.nii.gz")
    array, geometry = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(as_stored(array, geometry)[0], ARRAY.transpose(2, 1, 0))
    assert geometry.spacing == (3.0, 2.0, 2.0)
    write_image(array, geometry, tmp_path / "b.nii.gz")
    assert SimpleITK.ReadImage(str(tmp_path / "b.nii.gz")).GetSize() == SHAPE


def test_channels_are_stacked_in_order(tmp_path: Path) -> None:
    for channel in range(2):
        write_image(ARRAY + channel, Geometry(SHAPE), tmp_path / f"a_{channel:04d}.nii.gz")
    images, geometry = read_channels([tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"])
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, np.stack([ARRAY, ARRAY + 1]))
    assert geometry == Geometry(SHAPE)


def test_a_channel_on_another_grid_is_refused(tmp_path: Path) -> None:
    write_image(ARRAY, Geometry(SHAPE), tmp_path / "a_0000.mha")
    write_image(ARRAY, Geometry(SHAPE, (1.0, 1.0, 2.0)), tmp_path / "a_0001.mha")
    with pytest.raises(DetSeg3DError) as caught:
        read_channels([tmp_path / "a_0000.mha", tmp_path / "a_0001.mha"])
    assert caught.value.file == tmp_path / "a_0001.mha" and caught.value.expected == "the grid of a_0000.mha"


def test_a_channel_shifted_by_rounding_passes(tmp_path: Path) -> None:
    write_image(ARRAY, Geometry(SHAPE), tmp_path / "a_0000.mha")
    write_image(ARRAY, Geometry(SHAPE, origin=(1e-8, 0.0, 0.0)), tmp_path / "a_0001.mha")
    assert read_channels([tmp_path / "a_0000.mha", tmp_path / "a_0001.mha"])[0].shape == (2, *SHAPE)


def test_float_labels_near_whole_numbers_are_rounded(tmp_path: Path) -> None:
    write_image(np.array([[[0, 0.9999, 2.0005]]], np.float32), Geometry((1, 1, 3)), tmp_path / "a.nii.gz")
    label, _ = read_label_array(tmp_path / "a.nii.gz")
    assert label.dtype == np.int32
    assert label[0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [0.5, 0.99, np.nan, np.inf])
def test_float_labels_far_from_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    write_image(np.array([[[0, value, 1]]], np.float32), Geometry((1, 1, 3)), tmp_path / "a.nii.gz")
    with pytest.raises(DetSeg3DError) as caught:
        read_label_array(tmp_path / "a.nii.gz")
    assert caught.value.file == tmp_path / "a.nii.gz" and caught.value.value is not None


def test_integer_labels_keep_their_type_and_instance_numbers_beyond_16_bits(tmp_path: Path) -> None:
    write_image(np.array([[[0, 70000]]], np.uint32), Geometry((1, 1, 2)), tmp_path / "a.nii.gz")
    label, _ = read_label_array(tmp_path / "a.nii.gz")
    assert label.dtype == np.uint32
    assert int(label.max()) == 70000


@pytest.mark.parametrize(
    ("name", "stem", "ending"),
    [
        ("a.b_0000.nii.gz", "a.b_0000", ".nii.gz"),
        ("x/A.NII.GZ", "A", ".nii.gz"),
        ("a.nii", "a", ".nii"),
        ("a.txt", "a.txt", None),
        (".nii.gz", ".nii.gz", None),
    ],
)
def test_endings(name: str, stem: str, ending: str | None) -> None:
    assert strip_ending(name) == stem
    assert file_ending(name) == ending


@pytest.mark.parametrize("ending", [*GEOMETRIC, ".npy"])
def test_nan_and_infinity_are_read_as_they_are(tmp_path: Path, ending: str) -> None:
    # SimpleITK silently reads them as 0 from uncompressed NIfTI files.
    array = np.array([[[np.nan, np.inf, 1]]], np.float32)
    write_image(array, Geometry((1, 1, 3)), tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}")[0], array)


def test_voxels_are_in_memory_and_survive_the_file(tmp_path: Path) -> None:
    write_image(ARRAY, Geometry(SHAPE), tmp_path / "a.nii")
    array, _ = read_image(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes(b"")
    np.testing.assert_array_equal(array, ARRAY)
    assert type(array) is np.ndarray


def test_scaled_integers_are_read_as_scaled_values(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.array([[[1, 2, 3]]], np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([2.0, -1024.0], np.float32).tobytes()  # nibabel resets the scaling when it writes
    raw[352:358] = np.array([1, 2, 3], np.int16).tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    array, _ = read_image(tmp_path / "a.nii")
    assert array.dtype == np.float32
    assert array.ravel().tolist() == [-1022.0, -1020.0, -1018.0]


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("seed", range(3))
def test_a_spacing_in_single_precision_is_read_as_the_intended_decimal(tmp_path: Path, ending: str, seed: int) -> None:
    spacing = (1.2, 0.7, 3.3)
    image = SimpleITK.GetImageFromArray(ARRAY)
    image.SetSpacing([float(np.float32(length)) for length in spacing])  # as SimpleITK reads it from NIfTI
    if seed:
        image.SetDirection(Rotation.random(rng=np.random.default_rng(seed)).as_matrix().ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
    geometry = read_geometry(tmp_path / f"a{ending}")
    assert geometry.as_stored().spacing == spacing[::-1]
    write_image(np.ones(geometry.shape, np.uint8), geometry, tmp_path / f"b{ending}")
    again, given = (SimpleITK.ReadImage(str(tmp_path / f"{name}{ending}")) for name in "ba")
    assert place(again) == place(given)


def test_dicom_channels_of_different_patients_are_refused(tmp_path: Path) -> None:
    for name, patient in (("a", "1"), ("b", "2"), ("c", "1")):
        tags = {"PatientID": patient}
        SeriesBuilder(np.ones((3, 4, 5), np.int16), name=name, extra=tags).write(tmp_path / name)
    with pytest.raises(DetSeg3DError) as error:
        read_channels([tmp_path / "a", tmp_path / "b"])
    assert error.value.file == tmp_path / "b" and str(tmp_path / "a") in str(error.value.value)
    read_channels([tmp_path / "a", tmp_path / "c"])
