from __future__ import annotations

import base64
import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import IDENTITY_DIRECTION, Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import write_image
from detseg3d.reporting.html import volumes as report_volumes
from detseg3d.reporting.html.case_files import CaseFiles
from detseg3d.reporting.html.volumes import (
    FileOrders,
    ViewerVolumes,
    fit_volumes,
    load_volumes,
    window_presets,
)
from tests.reporting.html.factory import case_files, save_case

UPSIDE_DOWN = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def save(root: Path, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, **options: Any) -> CaseFiles:
    save_case(root, "a", image, truth.astype(np.uint8), prediction.astype(np.uint16), **options)
    return case_files(root, "a")


def orders(shape: tuple[int, int, int]) -> FileOrders:
    return FileOrders(StoredOrder(shape), StoredOrder(shape), StoredOrder(shape))


def volumes(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> ViewerVolumes:
    """Return noise, which cannot be compressed, with two lesions of one voxel."""
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    truth = np.zeros(shape, np.uint8)
    truth[0, 0, 0], truth[-1, -1, -1] = 1, 2
    return ViewerVolumes(image, truth, None, spacing, orders(shape), (0, 0, 0), (0.0, 1.0))


def decode(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), kind)


def test_volumes_are_cropped_to_the_body_and_the_lesions(tmp_path: Path) -> None:
    image, truth = np.zeros((12, 20, 24), np.float32), np.zeros((12, 20, 24))
    image[4:8, 5:10, 6:12] = np.random.default_rng(0).normal(100, 10, (4, 5, 6))
    truth[5, 6, 20] = 1  # outside the body
    shown = load_volumes(save(tmp_path, image, truth, np.zeros_like(truth)))
    assert shown.offset == (2, 3, 4)  # two voxels of margin
    assert shown.image.shape == (8, 9, 19)
    assert shown.truth is not None and np.argwhere(shown.truth).tolist() == [[3, 3, 16]]


def test_intensities_become_grey_levels_from_black_to_white(tmp_path: Path) -> None:
    image = np.linspace(-1000, 1000, 1000, dtype=np.float32).reshape(10, 10, 10)
    shown = load_volumes(save(tmp_path, image, np.zeros_like(image), np.zeros_like(image)))
    low, high = shown.window
    assert (shown.image.min(), shown.image.max()) == (0, 255)
    middle = np.abs(image - (low + high) / 2).argmin()
    assert abs(int(shown.image.ravel()[middle]) - 127) <= 1


def test_a_volume_is_turned_to_the_radiological_view(tmp_path: Path) -> None:
    image, truth = np.full((6, 8, 8), 100, np.float32), np.zeros((6, 8, 8))
    image[1:5], truth[1, 2, 3] = 120, 1
    shown = load_volumes(save(tmp_path, image, truth, np.zeros_like(truth), direction=UPSIDE_DOWN))
    assert shown.truth is not None and np.argwhere(shown.truth).tolist() == [[4, 2, 3]]
    assert shown.place((1.5, 2.5, 3.5)) == [4.5, 2.5, 3.5]
    assert shown.place_box((1, 2, 3, 2, 3, 4)) == [4, 2, 3, 5, 3, 4]


def test_positions_are_converted_to_a_coarser_and_cropped_volume() -> None:
    whole = volumes((8, 8, 8))
    coarse = ViewerVolumes(
        whole.image, None, None, (1.0, 1.0, 1.0), orders((9, 9, 9)), (1, 2, 3), (0.0, 1.0), factor=(1, 2, 4)
    )
    assert coarse.place((5.0, 4.0, 5.0)) == [4.0, 1.0, 0.5]


def test_the_page_contains_the_voxels_of_each_layer() -> None:
    shown = volumes((3, 4, 5))
    many = replace(shown, truth=np.arange(60, dtype=">u2").reshape(3, 4, 5))
    assert np.array_equal(decode(many.encoded["image"], "u1").reshape(3, 4, 5), shown.image)
    assert decode(many.encoded["truth"], "<u2").tolist() == list(range(60))
    assert list(many.encoded) == ["image", "truth"]


def test_only_a_ct_scan_has_the_windows_of_ct() -> None:
    scan = np.linspace(-1000, 900, 8, dtype=np.float32).reshape(2, 2, 2)
    presets = {preset.name: preset for preset in window_presets(scan, (-1000.0, 900.0))}
    assert list(presets) == ["Full range", "Soft tissue", "Lung", "Bone"]
    soft = presets["Soft tissue"]
    hounsfield = [level / 255 * 1900 - 1000 for level in (soft.black, soft.white)]
    assert hounsfield == pytest.approx([-160, 240], abs=4)
    assert [preset.name for preset in window_presets(scan + 1000, (0.0, 1900.0))] == ["Full range"]


def test_a_window_of_few_grey_levels_is_not_offered() -> None:
    scan = np.array([[[-1000.0, 30_000.0]]], np.float32)
    assert [preset.name for preset in window_presets(scan, (-1000.0, 30_000.0))] == ["Full range"]


@pytest.mark.parametrize(("highest", "kind"), [(255, np.uint8), (256, np.uint16), (70_000, np.uint8)])
def test_label_maps_take_as_few_bits_as_they_need(tmp_path: Path, highest: int, kind: type) -> None:
    label = np.zeros((4, 6, 6), np.uint32)
    label[1, 2, 2], label[2, 4, 4] = 7, highest
    write_image(np.ones(label.shape, np.float32), Geometry(label.shape), tmp_path / "a.nii.gz")
    write_image(label, Geometry(label.shape), tmp_path / "label.nii.gz")
    shown = load_volumes(CaseFiles("a", ImageSource(tmp_path / "a.nii.gz"), tmp_path / "label.nii.gz"))
    assert shown.truth is not None and shown.truth.dtype == kind
    assert np.array_equal(shown.truth != 0, label != 0) and len(np.unique(shown.truth)) == 3


def test_volumes_that_fit_are_not_changed() -> None:
    whole = volumes((16, 16, 16))
    assert fit_volumes([whole], whole.size) == [whole] and whole.reduced == ""


def test_grey_levels_are_reduced_before_voxels() -> None:
    whole = volumes((48, 48, 48))
    (fewer,) = fit_volumes([whole], whole.size - 1)
    assert fewer.image.shape == whole.image.shape and len(np.unique(fewer.image)) == 64
    assert np.abs(fewer.image.astype(int) - whole.image).max() <= 2
    assert fewer.reduced == "64 grey levels"


def test_thick_slices_and_small_lesions_are_kept() -> None:
    whole = volumes((30, 64, 64), (5.0, 1.0, 1.0))
    (coarse,) = fit_volumes([whole], whole.size // 4)
    assert (coarse.factor, coarse.spacing, coarse.image.shape) == ((1, 2, 2), (5.0, 2.0, 2.0), (30, 32, 32))
    assert coarse.truth is not None and set(np.unique(coarse.truth)) == {0, 1, 2}
    assert "1 × 2 × 2 voxels" in coarse.reduced


def test_a_coarse_voxel_is_the_mean_of_its_voxels() -> None:
    whole = volumes((48, 48, 50))
    (coarse,) = fit_volumes([whole], whole.size // 6)
    levels = whole.image // 4 * 4 + 2
    assert coarse.image[3, 4, 5] == np.rint(levels[6:8, 8:10, 10:12].mean())


def test_the_last_case_is_left_out_if_even_coarse_volumes_do_not_fit() -> None:
    first, second = volumes((24, 24, 24)), volumes((25, 24, 24))
    kept = fit_volumes([first, second], 18_000)
    assert len(kept) == 1 and kept[0].image.shape == (24, 24, 24)
    assert fit_volumes([first], 10) == []


@given(st.integers(2_000, 90_000))
@settings(max_examples=25, deadline=None)
def test_the_kept_volumes_never_exceed_the_budget(budget: int) -> None:
    kept = fit_volumes([volumes((50, 20, 30), (1.0, 1.2, 3.0)), volumes((12, 50, 50))], budget)
    assert sum(entry.size for entry in kept) <= budget


def test_a_huge_scan_is_coarser_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_volumes, "_MAX_VOXELS", 1000)
    image = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    shown = load_volumes(save(tmp_path, image, np.zeros_like(image), np.zeros_like(image)))
    assert (shown.image.shape, shown.factor) == ((12, 6, 6), (1, 2, 2))  # the slices are thick


def test_a_label_on_another_grid_is_refused(tmp_path: Path) -> None:
    image = np.ones((4, 6, 6), np.float32)
    case = save(tmp_path, image, np.zeros_like(image), np.zeros_like(image))
    write_image(np.zeros((4, 6, 7), np.uint8), Geometry((4, 6, 7)), tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DetSeg3DError) as error:
        load_volumes(case)
    assert error.value.file == case.truth


def test_boxes_and_centres_are_found_in_files_with_different_axis_orders(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(100, 9, (6, 8, 10)).astype(np.float32)
    lesion = np.zeros(image.shape, np.uint8)
    lesion[1:3, 2:4, 5:8] = 1
    around = {"image": IDENTITY_DIRECTION, "truth": UPSIDE_DOWN, "prediction": (-1.0, 0, 0, 0, 0, 1.0, 0, 1.0, 0)}
    orders = {}
    for name, direction in around.items():
        order = StoredOrder.of_direction(direction, image.shape)
        shape = order.to_stored(image).shape
        place = Geometry(shape, direction=direction)
        origin = tuple(-place.voxel_edges_to_world([[size / 2 for size in shape]])[0])
        canonical = Geometry(shape, origin=origin, direction=direction).canonical()
        write_image(image if name == "image" else lesion, canonical, tmp_path / f"{name}.nii.gz")
        orders[name] = canonical.stored_order
    image_file = ImageSource(tmp_path / "image.nii.gz")
    shown = load_volumes(CaseFiles("a", image_file, tmp_path / "truth.nii.gz", tmp_path / "prediction.nii.gz"))
    assert shown.offset == (0, 0, 0)
    np.testing.assert_array_equal(shown.truth, lesion)
    np.testing.assert_array_equal(shown.prediction, lesion)
    box = (1.0, 2.0, 5.0, 3.0, 4.0, 8.0)
    assert tuple(shown.place_box(orders["prediction"].box_to_stored(box))) == box
    assert tuple(shown.place(orders["truth"].point_to_stored((2.0, 3.0, 6.5)))) == (2.0, 3.0, 6.5)
