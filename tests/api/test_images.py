from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from detseg3d.api.images import as_channels, as_image
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import write_image

VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def test_an_array_with_its_spacing_becomes_an_image() -> None:
    image = as_image(VOXELS, spacing=(3, 1, 0.5))
    assert image.array is VOXELS and image.geometry == Geometry((2, 3, 4), (3.0, 1.0, 0.5))


def test_paths_simpleitk_and_nibabel_give_the_same_image(tmp_path: Path) -> None:
    geometry = Geometry((2, 3, 4), (3.0, 1.0, 0.5), (1.0, 2.0, 3.0))
    path = tmp_path / "scan.nii.gz"
    write_image(VOXELS, geometry, path)
    sources = [path, str(path), ImageSource(path), SimpleITK.ReadImage(str(path)), nibabel.load(path)]
    for image in map(as_image, sources):
        assert np.array_equal(image.array, VOXELS) and not image.geometry.difference(geometry)


def test_an_image_is_returned_unchanged() -> None:
    image = Image(VOXELS, Geometry((2, 3, 4)))
    assert as_image(image) is image


def test_a_npy_file_takes_the_spacing(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", VOXELS)
    assert as_image(tmp_path / "scan.npy", spacing=(3, 1, 1)).spacing == (3.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("image", "spacing"),
    [
        (VOXELS, None),
        (VOXELS[0], (1, 1, 1)),
        (VOXELS, (1, 1)),
        (VOXELS, (1, 0, 1)),
        (VOXELS, (1, float("nan"), 1)),
        (Image(VOXELS, Geometry((2, 3, 4))), (1, 1, 1)),
        ({"scan": VOXELS}, None),
        ([[1, 2], [3, 4]], None),
    ],
    ids=["no spacing", "2D", "two numbers", "zero", "nan", "second spacing", "dict", "nested list"],
)
def test_other_inputs_are_refused_with_the_expected_inputs(image: object, spacing: object) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        as_image(image, spacing)  # type: ignore[arg-type]
    assert caught.value.expected is not None


@pytest.mark.parametrize("channels", [VOXELS, VOXELS[None], [VOXELS]], ids=["3D", "4D", "list"])
def test_one_channel_has_four_axes(channels: np.ndarray) -> None:
    array, geometry = as_channels(channels, spacing=(1, 1, 1))
    assert array.shape == (1, 2, 3, 4) and array.dtype == np.float32 and geometry.shape == (2, 3, 4)


def test_channels_of_different_libraries_are_stacked_in_order() -> None:
    second = SimpleITK.GetImageFromArray(VOXELS + 100)
    array, _ = as_channels([Image(VOXELS, Geometry((2, 3, 4))), second])
    assert np.array_equal(array, np.stack([VOXELS, VOXELS + 100]))


def test_a_channel_on_another_grid_is_refused() -> None:
    with pytest.raises(DetSeg3DError):
        as_channels([Image(VOXELS, Geometry((2, 3, 4))), Image(VOXELS, Geometry((2, 3, 4), (2.0, 1.0, 1.0)))])


def test_a_scan_without_channels_is_refused() -> None:
    with pytest.raises(DetSeg3DError):
        as_channels([])
