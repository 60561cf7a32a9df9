from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_image, write_image
from detseg3d.data.simpleitk import from_simpleitk, to_simpleitk

ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def make_image(order: tuple[int, ...] = (0, 1, 2), signs: tuple[int, ...] = (1, 1, 1)) -> SimpleITK.Image:
    """Return a volume of different voxels with the axes x, y, z along the axes ``order`` of the patient."""
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((-10.0, 20.0, 30.5))
    direction = np.zeros((3, 3))
    for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
        direction[row, axis] = sign
    image.SetDirection(direction.ravel().tolist())
    return image


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_every_voxel_keeps_its_position_in_the_patient(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    image = make_image(order, signs)
    array, geometry = from_simpleitk(image)
    np.testing.assert_allclose(np.reshape(geometry.direction, (3, 3)), np.eye(3))
    for index in np.ndindex(array.shape):
        [world] = geometry.voxel_edges_to_world([np.add(index, 0.5)])
        assert image[image.TransformPhysicalPointToIndex(world.tolist())] == array[index]


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_an_image_is_restored_unchanged(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    image = make_image(order, signs)
    back = to_simpleitk(*from_simpleitk(image))
    assert back.GetSize() == image.GetSize() and back.GetPixelID() == image.GetPixelID()
    assert back.GetSpacing() == image.GetSpacing() and back.GetOrigin() == image.GetOrigin()
    assert back.GetDirection() == image.GetDirection()
    np.testing.assert_array_equal(SimpleITK.GetArrayViewFromImage(back), SimpleITK.GetArrayViewFromImage(image))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_an_image_in_memory_and_its_file_are_the_same_volume(tmp_path: Path, ending: str) -> None:
    image = make_image((2, 0, 1), (-1, 1, -1))
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"))
    array, geometry = from_simpleitk(image)
    from_file, place = read_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(array, from_file)
    assert geometry.difference(place) == []
    write_image(array, geometry, tmp_path / f"b{ending}")
    written = SimpleITK.ReadImage(str(tmp_path / f"b{ending}"))
    np.testing.assert_array_equal(SimpleITK.GetArrayViewFromImage(written), SimpleITK.GetArrayViewFromImage(image))
    np.testing.assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-6)


def test_the_array_is_a_copy() -> None:
    image = make_image()
    array, _ = from_simpleitk(image)
    array[:] = 0
    assert image[3, 2, 1] == 23


@pytest.mark.parametrize(
    "image",
    [
        SimpleITK.Image(4, 3, SimpleITK.sitkInt16),
        SimpleITK.Image([4, 3, 2, 2], SimpleITK.sitkInt16),
        SimpleITK.Image(4, 3, 2, SimpleITK.sitkVectorUInt8),
        SimpleITK.Image(4, 3, 2, SimpleITK.sitkComplexFloat32),
    ],
    ids=["2D", "4D", "colours", "complex"],
)
def test_other_images_are_refused(image: SimpleITK.Image) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        from_simpleitk(image)
    assert str(image.GetSize()) in caught.value.value


@pytest.mark.parametrize(("dtype", "stored"), [(bool, np.uint8), (np.float16, np.float32), (np.uint32, np.uint32)])
def test_types_missing_in_simpleitk_become_the_next_larger_type(dtype: type, stored: type) -> None:
    image = to_simpleitk(np.ones((2, 3, 4), dtype), Geometry((2, 3, 4)))
    assert SimpleITK.GetArrayViewFromImage(image).dtype == stored


def test_a_sheared_grid_is_refused() -> None:
    affine = (1.0, 0.2, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    with pytest.raises(DetSeg3DError) as caught:
        to_simpleitk(np.zeros((2, 3, 4), np.uint8), Geometry((2, 3, 4), affine=affine))
    assert caught.value.value == list(affine)
