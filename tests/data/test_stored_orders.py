"""One scan stored in all 48 orders and directions of its axes: each file gives the same canonical volume."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from detseg3d.core.geometry import Geometry
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_channels, read_geometry, read_image, read_label_array, write_image

ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
VOLUME = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)  # x, y, z
SPACING = np.array([0.7, 1.2, 3.3])
SHEARED = np.array([[0.7, 0.1, 0.0], [0.0, 1.2, 0.4], [0.05, 0.0, 3.3]])
MATRICES = {
    "straight": np.diag(SPACING),
    "oblique": Rotation.from_euler("xyz", [20, -35, 10], degrees=True).as_matrix() * SPACING,
    "45 degrees": Rotation.from_euler("x", 45, degrees=True).as_matrix() * SPACING,
    "45 degrees twice": Rotation.from_euler("zy", [45, 45], degrees=True).as_matrix() * SPACING,
    "sheared": SHEARED,
    "sheared at 45 degrees": Rotation.from_euler("z", 45, degrees=True).as_matrix() @ SHEARED,
}


def in_order(matrix: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scan with its axes in this order and direction, by nibabel: array ``(x, y, z)`` and affine to RAS."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, (-50.3, 20.7, 110.1)
    turn = np.zeros((4, 4))
    array = VOLUME.transpose(order)
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        if sign < 0:
            turn[old, 3] = VOLUME.shape[old] - 1
            array = np.flip(array, new)
    turn[3, 3] = 1
    return np.ascontiguousarray(array), affine @ turn


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray, qform: bool) -> None:
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=0 if qform else 2)
    image.set_qform(affine, code=1 if qform else 0)
    nibabel.save(image, path)


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for name in MATRICES for form in ("sform", "qform") if form == "sform" or "sheared" not in name],
)
def test_48_nifti_files_of_one_scan_are_one_volume_and_are_written_as_they_were(
    tmp_path: Path, name: str, form: str
) -> None:
    volumes, spacings = set(), set()
    first = None
    for order, signs in ORDERS:
        array, affine = in_order(MATRICES[name], order, signs)
        save_nifti(tmp_path / "a.nii", array, affine, form == "qform")
        canonical, geometry = read_image(tmp_path / "a.nii")
        assert canonical.flags.c_contiguous
        volumes.add((canonical.shape, canonical.tobytes()))
        spacings.add(geometry.spacing)
        first = first or geometry
        assert first.difference(geometry) == []
        write_image(canonical, geometry, tmp_path / "b.nii")
        old, new = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "b.nii")
        np.testing.assert_array_equal(np.asarray(old.dataobj), np.asarray(new.dataobj))
        np.testing.assert_array_equal(old.affine, new.affine)
        for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "pixdim"):
            np.testing.assert_array_equal(old.header[field], new.header[field])
    assert len(volumes) == len(spacings) == 1
    assert first is not None
    if name in ("straight", "oblique"):  # along the diagonal of the matrix, by hand: z y x
        assert first.spacing == (3.3, 1.2, 0.7)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("name", ["straight", "oblique", "45 degrees"])
def test_48_files_of_other_formats_are_the_volume_of_the_nifti_file(tmp_path: Path, ending: str, name: str) -> None:
    array, affine = in_order(MATRICES[name], (0, 1, 2), (1, 1, 1))
    save_nifti(tmp_path / "a.nii", array, affine, False)
    expected, expected_geometry = read_image(tmp_path / "a.nii")
    for order, signs in ORDERS:
        array, affine = in_order(MATRICES[name], order, signs)
        matrix = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)[:3]
        spacing = np.linalg.norm(matrix[:, :3], axis=0)
        image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(matrix[:, 3].tolist())
        image.SetDirection((matrix[:, :3] / spacing).ravel().tolist())
        SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
        volume, geometry = read_image(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(volume, expected)
        assert expected_geometry.difference(geometry) == []
        write_image(volume, geometry, tmp_path / f"b{ending}")
        again = SimpleITK.ReadImage(str(tmp_path / f"b{ending}"))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again), array.transpose(2, 1, 0))
        given = SimpleITK.ReadImage(str(tmp_path / f"a{ending}"))
        assert (again.GetOrigin(), again.GetDirection()) == (given.GetOrigin(), given.GetDirection())


def test_a_header_without_a_geometry_keeps_its_codes(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME, None)
    image.header.set_zooms(SPACING)
    nibabel.save(image, tmp_path / "a.nii")
    volume, geometry = read_image(tmp_path / "a.nii")
    write_image(volume, geometry, tmp_path / "b.nii")
    header = nibabel.load(tmp_path / "b.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "b.nii").dataobj), VOLUME)


def test_channels_and_labels_may_be_stored_in_different_orders(tmp_path: Path) -> None:
    files = []
    for channel, (order, signs) in enumerate((ORDERS[0], ORDERS[17], ORDERS[42])):
        array, affine = in_order(MATRICES["oblique"], order, signs)
        save_nifti(tmp_path / f"a_{channel:04d}.nii", array, affine, False)
        files.append(tmp_path / f"a_{channel:04d}.nii")
    images, geometry = read_channels(files)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])
    label, label_geometry = read_label_array(files[1])
    np.testing.assert_array_equal(label, images[0])
    assert geometry.difference(label_geometry) == []


def test_read_geometry_is_that_of_the_volume(tmp_path: Path) -> None:
    for order, signs in ORDERS[::7]:
        save_nifti(tmp_path / "a.nii", *in_order(MATRICES["oblique"], order, signs), False)
        volume, geometry = read_image(tmp_path / "a.nii")
        assert read_geometry(tmp_path / "a.nii") == geometry and geometry.shape == volume.shape


@pytest.mark.parametrize("index", range(0, 48, 5))
def test_an_array_has_the_axis_order_of_the_file_beside_it(tmp_path: Path, index: int) -> None:
    array, affine = in_order(MATRICES["oblique"], *ORDERS[index])
    save_nifti(tmp_path / "a.nii", array, affine, False)
    np.save(tmp_path / "a.npy", array.transpose(2, 1, 0))  # as SimpleITK gives it
    volume, geometry = read_image(tmp_path / "a.nii")
    stored_spacing = geometry.as_stored().spacing
    turned, own = read_image(ImageSource(tmp_path / "a.npy", stored_spacing).oriented_like(geometry))
    np.testing.assert_array_equal(turned, volume)
    assert own.spacing == geometry.spacing
    write_image(turned, geometry, tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), array.transpose(2, 1, 0))


def test_an_array_alone_is_in_canonical_order(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    volume, geometry = read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(volume, VOLUME)
    beside = ImageSource(tmp_path / "a.npy").oriented_like(Geometry((1, 1, 1)))
    np.testing.assert_array_equal(read_image(beside)[0], VOLUME)
    assert geometry.stored_order.is_canonical
