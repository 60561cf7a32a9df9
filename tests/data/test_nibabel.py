from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_image
from detseg3d.data.nibabel import from_nibabel, to_nibabel

VOXELS = np.arange(24, dtype=np.int16).reshape(4, 3, 2)


def affine_of(axes: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    matrix = np.zeros((4, 4))
    for column, (axis, sign, spacing) in enumerate(zip(axes, signs, (0.5, 0.75, 2.0), strict=True)):
        matrix[axis, column] = sign * spacing
    matrix[:, 3] = (10, -20, 30, 1)
    return matrix


ORIENTATIONS = [
    affine_of(axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("affine", ORIENTATIONS, ids=lambda affine: "".join(nibabel.aff2axcodes(affine)))
def test_an_image_in_memory_equals_the_image_of_its_file(tmp_path: Path, affine: np.ndarray) -> None:
    source = nibabel.Nifti1Image(VOXELS, affine)
    nibabel.save(source, tmp_path / "scan.nii.gz")
    of_memory, of_file = from_nibabel(source), read_image(tmp_path / "scan.nii.gz")
    assert np.array_equal(of_memory.array, of_file.array) and of_memory.array.dtype == np.int16
    assert of_memory.geometry == of_file.geometry


@pytest.mark.parametrize("affine", ORIENTATIONS, ids=lambda affine: "".join(nibabel.aff2axcodes(affine)))
def test_a_volume_returns_to_the_voxel_order_and_affine_of_its_source(affine: np.ndarray) -> None:
    image = from_nibabel(nibabel.Nifti1Image(VOXELS, affine))
    back = to_nibabel(image.array, image.geometry)
    assert np.array_equal(np.asanyarray(back.dataobj), VOXELS)
    assert np.allclose(back.affine, affine)


def test_another_kind_of_image_keeps_its_position() -> None:
    source = nibabel.MGHImage(VOXELS.astype(np.float32), affine_of((0, 1, 2), (-1, 1, 1)))
    image = from_nibabel(source)
    assert image.spacing == pytest.approx((2.0, 0.75, 0.5))
    assert np.allclose(to_nibabel(image.array, image.geometry).affine, source.affine)


def test_trailing_axes_of_length_1_are_dropped() -> None:
    assert from_nibabel(nibabel.Nifti1Image(VOXELS[..., None], np.eye(4))).shape == (2, 3, 4)


@pytest.mark.parametrize(
    "source",
    [
        nibabel.Nifti1Image(np.zeros((4, 3, 2, 5), np.int16), np.eye(4)),
        nibabel.Nifti1Image(np.zeros((4, 3), np.int16), np.eye(4)),
        nibabel.Nifti1Image(np.zeros((4, 3, 2), np.complex64), np.eye(4)),
        nibabel.spatialimages.SpatialImage(VOXELS, np.zeros((4, 4))),
    ],
    ids=["4D", "2D", "complex", "singular"],
)
def test_images_that_are_not_scans_are_refused(source: nibabel.spatialimages.SpatialImage) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        from_nibabel(source)
    assert caught.value.expected is not None


def test_bool_and_half_precision_become_types_that_nifti_knows() -> None:
    geometry = Geometry((2, 3, 4))
    assert to_nibabel(np.zeros((2, 3, 4), bool), geometry).get_data_dtype() == np.uint8
    assert to_nibabel(np.zeros((2, 3, 4), np.float16), geometry).get_data_dtype() == np.float32
