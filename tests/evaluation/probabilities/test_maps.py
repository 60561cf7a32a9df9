from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.evaluation.probabilities.maps import ProbabilityMap, probability_files, read_probability_map

SHAPE = (3, 4, 5)
GEOMETRY = Geometry(SHAPE, (2.0, 1.0, 1.0))


def softmax(classes: int, seed: int = 0, dtype: Any = np.float16) -> npt.NDArray[Any]:
    """Return channels that add up to 1, as the output of a network."""
    values = np.exp(3 * np.random.default_rng(seed).normal(size=(classes, *SHAPE)))
    return (values / values.sum(axis=0)).astype(dtype)


def save(path: Path, key: str = "probabilities", **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key if name == "values" else name: array for name, array in arrays.items()})
    return path


def read(file: Path, classes: tuple[int, ...] | None = None) -> ProbabilityMap:
    return read_probability_map(file, GEOMETRY, "label.nii.gz", classes)


@pytest.mark.parametrize("key", ["probabilities", "softmax"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_the_second_of_two_channels_is_the_lesion(tmp_path: Path, key: str, dtype: Any) -> None:
    values = softmax(2, dtype=dtype)
    result = read(save(tmp_path / "a.npz", key, values=values), (1,))
    assert result.classes is None
    assert result.class_values == (1,)
    assert result.probability.dtype == np.float32
    np.testing.assert_array_equal(result.probability, values[1].astype(np.float32))


def test_each_voxel_keeps_the_most_probable_of_several_lesion_classes(tmp_path: Path) -> None:
    values = softmax(4)
    result = read(save(tmp_path / "a.npz", values=values), (1, 2, 3))
    assert result.classes is not None
    np.testing.assert_array_equal(result.probability, values[1:].max(axis=0).astype(np.float32))
    np.testing.assert_array_equal(result.classes, values[1:].argmax(axis=0))


def test_channels_follow_the_label_values_and_not_the_order_of_the_classes(tmp_path: Path) -> None:
    values = np.zeros((3, *SHAPE), np.float16)
    values[0], values[1, 0, 0, 0], values[2, 0, 0, 1] = 1, 1, 1
    values[0, 0, 0, :2] = 0
    result = read(save(tmp_path / "a.npz", values=values), (7, 3))
    assert result.classes is not None
    assert result.class_values == (7, 3)
    assert result.classes[0, 0, :2].tolist() == [1, 0]  # channel 1 is value 3, channel 2 is value 7


def test_the_first_channel_counts_if_classes_are_equally_probable(tmp_path: Path) -> None:
    values = np.full((3, *SHAPE), 0.25, np.float16)
    values[0] = 0.5
    result = read(save(tmp_path / "a.npz", values=values), (2, 1))
    assert result.classes is not None
    assert np.unique(result.classes).tolist() == [1]  # the first lesion channel is label value 1


def test_the_channels_give_the_number_of_unknown_classes(tmp_path: Path) -> None:
    assert read(save(tmp_path / "a.npz", values=softmax(3))).class_values == (1, 2)


def test_an_array_in_fortran_order_is_read(tmp_path: Path) -> None:
    values = softmax(3)
    plain = read(save(tmp_path / "a.npz", values=values))
    turned = read(save(tmp_path / "b.npz", values=np.asfortranarray(values)))
    np.testing.assert_array_equal(turned.probability, plain.probability)
    np.testing.assert_array_equal(turned.classes, plain.classes)


def test_voxels_outside_the_crop_of_nnunet_have_no_class(tmp_path: Path) -> None:
    values = softmax(2)
    values[:, 0] = 0
    assert not read(save(tmp_path / "a.npz", values=values)).probability[0].any()


def test_maps_of_detseg3d_have_no_background(tmp_path: Path) -> None:
    (tmp_path / "rois").mkdir()
    values = np.random.default_rng(0).uniform(0, 1, (2, *SHAPE)).astype(np.float16)
    result = read(save(tmp_path / "probabilities" / "a.npz", values=values), (1, 2))
    np.testing.assert_array_equal(result.probability, values.max(axis=0).astype(np.float32))
    single = read(save(tmp_path / "probabilities" / "b.npz", values=values[:1]), (1,))
    np.testing.assert_array_equal(single.probability, values[0].astype(np.float32))


def test_an_image_is_the_probability_of_the_single_class(tmp_path: Path) -> None:
    values = softmax(2, dtype=np.float32)[1]
    write_image(values, GEOMETRY, tmp_path / "a.nii.gz")
    np.save(tmp_path / "b.npy", values)
    for file in ("a.nii.gz", "b.npy"):
        result = read(tmp_path / file, (4,))
        np.testing.assert_array_equal(result.probability, values)
        assert result.class_values == (4,)


def test_an_image_on_another_grid_than_the_label_is_refused(tmp_path: Path) -> None:
    write_image(softmax(2, dtype=np.float32)[1], Geometry(SHAPE, (2.0, 1.0, 1.5)), tmp_path / "a.nii.gz")
    with pytest.raises(DetSeg3DError, match=r"not on the same grid: spacing"):
        read(tmp_path / "a.nii.gz")


def test_an_image_cannot_contain_several_classes(tmp_path: Path) -> None:
    write_image(softmax(2, dtype=np.float32)[1], GEOMETRY, tmp_path / "a.nii.gz")
    with pytest.raises(DetSeg3DError, match="an image contains the probability of one class"):
        read(tmp_path / "a.nii.gz", (1, 2))


def changed(value: float, dtype: Any = np.float32) -> npt.NDArray[Any]:
    values = softmax(2, dtype=dtype)
    values[1, 0, 0, 0] = value
    values[0, 0, 0, 0] = 1 - value
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((softmax(2) * 255).astype(np.uint8), "whole numbers instead of probabilities"),
        (softmax(2) > 0.5, "whole numbers instead of probabilities"),
        (changed(1.5), "values that are not probabilities"),
        (changed(-0.5), "values that are not probabilities"),
        (changed(np.nan), "values that are not probabilities"),
        (changed(np.inf), "values that are not probabilities"),
        (changed(1e300, np.float64), "values that are not probabilities"),
        (softmax(2)[0], "wrong shape"),
        (softmax(2)[:, :2], "different sizes"),
        (softmax(3), r"the number of channels does not fit the classes"),
        (np.repeat(softmax(2)[1:], 2, axis=0), "do not add up to 1"),
        (np.array([None]), "Python objects"),
    ],
)
def test_arrays_that_are_not_probabilities_of_the_classes_are_refused(
    tmp_path: Path, values: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(DetSeg3DError, match=message) as caught:
        read(save(tmp_path / "a.npz", values=values), (1,))
    assert caught.value.file == tmp_path / "a.npz"


@pytest.mark.parametrize("values", [(softmax(2)[1] * 100).astype(np.uint8), softmax(2, dtype=np.float32)[1] * 100])
def test_percentages_in_an_image_are_refused(tmp_path: Path, values: npt.NDArray[Any]) -> None:
    write_image(values, GEOMETRY, tmp_path / "a.nii.gz")
    with pytest.raises(DetSeg3DError, match=r"whole numbers|not probabilities"):
        read(tmp_path / "a.nii.gz")


def test_rounding_beyond_1_is_cut_off(tmp_path: Path) -> None:
    result = read(save(tmp_path / "a.npz", values=changed(1.0005)))
    assert result.probability.max() == 1


def test_axes_in_another_order_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="the order of the axes must be z y x"):
        read(save(tmp_path / "a.npz", values=softmax(2).transpose(0, 3, 2, 1)))


def test_the_crop_of_nnunet_v1_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="nnU-Net v1 writes the cropped volume"):
        read(save(tmp_path / "a.npz", "softmax", values=softmax(2)[:, :2]))


def test_an_npz_with_other_arrays_is_refused_by_their_names(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"no probabilities\n.*\n.*'data', 'seg'"):
        read(save(tmp_path / "a.npz", data=np.zeros(1), seg=np.zeros(1)))


@pytest.mark.parametrize("kept", [0, 10, 100, 400])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    file = save(tmp_path / "a.npz", values=softmax(2))
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read(file)


def test_damaged_contents_are_noticed(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", values=softmax(2))
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(DetSeg3DError, match=r"cannot be read|not probabilities"):
        read(file)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trap_was_sprung"),)


def test_the_pickle_beside_a_map_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.npz", values=softmax(2))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Trap()))
    save(tmp_path / "b.npz", values=np.array([Trap()]))
    for file in probability_files(tmp_path, []).values():
        if file.name == "a.npz":
            read(file)
        else:
            with pytest.raises(DetSeg3DError, match="Python objects"):
                read(file)
    assert not (tmp_path / "trap_was_sprung").exists()


def test_the_masks_beside_the_maps_of_nnunet_are_ignored(tmp_path: Path) -> None:
    save(tmp_path / "case.1.npz", values=softmax(2))
    for name in ("case.1.nii.gz", "case.1.pkl", ".case.2.npz", "dataset.json"):
        (tmp_path / name).touch()
    assert probability_files(tmp_path, []) == {"case.1": tmp_path / "case.1.npz"}


def test_maps_of_detseg3d_are_found_in_their_folder_and_otherwise_images(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    assert list(probability_files(tmp_path, [])) == ["a"]
    save(tmp_path / "probabilities" / "b.npz", values=softmax(2))
    assert probability_files(tmp_path, []) == {"b": tmp_path / "probabilities" / "b.npz"}


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").touch()
    with pytest.raises(DetSeg3DError, match="no probability maps in the folder"):
        probability_files(tmp_path, [])
