"""Truth and predictions are compared in patient space, for every axis order of their files."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from detseg3d.core.orientation import StoredOrder
from detseg3d.data.images import read_geometry, read_image
from detseg3d.evaluation.boxes.evaluate import BoxCriterion, BoxInput, evaluate_boxes
from detseg3d.evaluation.options import EvaluationOptions
from detseg3d.evaluation.probabilities.components import ComponentRule
from detseg3d.evaluation.probabilities.maps import read_probability_map
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from tests.evaluations import evaluate_pair

ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
SPACING = np.array([0.5, 1.0, 2.0])  # x, y, z
PAIRS = [(0, 0), (0, 13), (22, 5), (47, 30), (8, 8)]

TRUTH = np.zeros((12, 10, 7), np.uint8)  # x, y, z
TRUTH[1:4, 2:5, 1:3], TRUTH[7:11, 5:9, 4:6] = 1, 1
FOUND = np.zeros_like(TRUTH)
FOUND[1:4, 2:5, 1:3], FOUND[8:11, 5:9, 3:5] = 1, 2


def stored(array: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the array ``(x, y, z)`` with its axes in one of the 48 orders, and its affine."""
    order, signs = ORDERS[index]
    turn = np.zeros((4, 4))
    turned = array.transpose(order)
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        if sign < 0:
            turn[old, 3] = array.shape[old] - 1
            turned = np.flip(turned, new)
    turn[3, 3] = 1
    return np.ascontiguousarray(turned), np.diag([*SPACING, 1.0]) @ turn


def save(path: Path, array: np.ndarray, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    turned, affine = stored(array, index)
    if path.suffix == ".npy":
        np.save(path, turned.transpose(2, 1, 0))
    else:
        nibabel.save(nibabel.Nifti1Image(turned, affine), path)


def boxes_of(array: np.ndarray, index: int) -> dict[int, list[float]]:
    """Return the boxes ``z0 y0 x0 z1 y1 x1`` of an instance map in voxels of the file with this axis order."""
    turned = stored(array, index)[0].transpose(2, 1, 0)
    found = {}
    for number in np.unique(turned)[1:].tolist():
        where = np.argwhere(turned == number)
        found[number] = [*where.min(axis=0).tolist(), *(where.max(axis=0) + 1).tolist()]
    return found


def save_rois(path: Path, index: int) -> None:
    turned, affine = stored(FOUND, index)
    direction = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    lesions = [
        {"id": number, "label": 1, "class": "lesion", "score": 0.9 - 0.1 * number, "box": box}
        for number, box in boxes_of(FOUND, index).items()
    ]
    axes = StoredOrder.of_direction(direction.ravel(), turned.shape[::-1]).axes
    write_json({"case_id": "a", "shape": list(turned.shape[::-1]), "axes": axes, "lesions": lesions}, path)


@pytest.mark.parametrize(("truth", "prediction"), PAIRS)
def test_masks_are_compared_in_the_patient(tmp_path: Path, truth: int, prediction: int) -> None:
    save(tmp_path / "truth/a.nii", TRUTH, truth)
    save(tmp_path / "pred/a.nii", (FOUND > 0).astype(np.uint8), prediction)
    result = evaluate_pair(tmp_path / "truth", tmp_path / "pred", run=Run(show_progress=False))
    expected = 2 * np.sum((TRUTH > 0) & (FOUND > 0)) / (np.sum(TRUTH > 0) + np.sum(FOUND > 0))
    assert result.problems == () and result.cases[0].dice == pytest.approx(expected)
    save(tmp_path / "truth0/a.nii", TRUTH, 0)
    save(tmp_path / "pred0/a.nii", (FOUND > 0).astype(np.uint8), 0)
    straight = evaluate_pair(tmp_path / "truth0", tmp_path / "pred0", run=Run(show_progress=False))
    assert result.summary == straight.summary


@pytest.mark.parametrize(("truth", "prediction"), PAIRS)
def test_centres_count_the_voxels_of_the_label_file(tmp_path: Path, truth: int, prediction: int) -> None:
    save(tmp_path / "truth/a.nii", TRUTH, truth)
    save(tmp_path / "pred/a.nii", (FOUND > 0).astype(np.uint8), prediction)
    lesions = evaluate_pair(tmp_path / "truth", tmp_path / "pred", run=Run(show_progress=False)).lesions
    found = sorted(lesion.center for lesion in lesions if lesion.is_true)
    parts = np.where(np.arange(12)[:, None, None] < 5, TRUTH, 2 * TRUTH)  # the two lesions apart
    turned = stored(parts, truth)[0].transpose(2, 1, 0)
    expected = sorted((np.argwhere(turned == number).mean(axis=0) + 0.5).tolist() for number in (1, 2))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("truth", [0, 13, 22])
def test_an_array_beside_a_file_has_the_order_of_that_file(tmp_path: Path, truth: int) -> None:
    mask = (FOUND > 0).astype(np.uint8)
    save(tmp_path / "nifti/a.nii", TRUTH, truth)
    save(tmp_path / "array/a.npy", mask, truth)
    save(tmp_path / "both/a.nii", mask, truth)
    pairs = (("nifti", "array"), ("array", "nifti"), ("nifti", "both"))
    results = [
        evaluate_pair(tmp_path / first, tmp_path / second, run=Run(show_progress=False)) for first, second in pairs
    ]
    assert len({result.cases[0].dice for result in results}) == 1


@pytest.mark.parametrize(("truth", "prediction"), PAIRS)
def test_boxes_of_a_prediction_find_the_lesions_of_a_label_in_another_order(
    tmp_path: Path, truth: int, prediction: int
) -> None:
    save(tmp_path / "truth/a.nii", TRUTH, truth)
    save_rois(tmp_path / "pred/rois/a.json", prediction)
    result = evaluate_boxes(BoxInput(tmp_path / "truth", tmp_path / "pred"), samples=0, run=Run(show_progress=False))
    assert result.warnings == () and result.problems == ()
    # By hand: the first box is exact; the second shares 12 of 32 and 24 voxels, IoU 12 / 44.
    assert result.cases[0].criteria[BoxCriterion.IOU_05].found == 1
    assert result.cases[0].criteria[BoxCriterion.IOU_01].found == 2


@pytest.mark.parametrize("truth", [0, 13, 40])
def test_boxes_of_a_table_count_the_voxels_of_the_label_file(tmp_path: Path, truth: int) -> None:
    save(tmp_path / "truth/a.nii", TRUTH, truth)
    rows = [",".join(map(str, ("a", *box, 0.5))) for box in boxes_of(FOUND, truth).values()]
    (tmp_path / "boxes.csv").write_text("\n".join(["case,z0,y0,x0,z1,y1,x1,score", *rows]), encoding="utf-8")
    result = evaluate_boxes(
        BoxInput(tmp_path / "truth", tmp_path / "boxes.csv"), samples=0, run=Run(show_progress=False)
    )
    assert result.warnings == ()
    assert result.cases[0].criteria[BoxCriterion.IOU_05].found == 1
    assert result.cases[0].criteria[BoxCriterion.IOU_01].found == 2


@pytest.mark.parametrize(("truth", "prediction"), PAIRS)
def test_a_map_has_the_order_of_the_mask_beside_it(tmp_path: Path, truth: int, prediction: int) -> None:
    probability = np.random.default_rng(0).random(TRUTH.shape).astype(np.float32)
    save(tmp_path / "truth/a.nii", TRUTH, truth)
    geometry = read_geometry(tmp_path / "truth/a.nii")
    expected = geometry.stored_order.to_canonical(stored(probability, truth)[0].transpose(2, 1, 0))

    def read(file: Path, index: int) -> np.ndarray:
        file.parent.mkdir(parents=True, exist_ok=True)
        lesion = stored(probability, index)[0].transpose(2, 1, 0)
        np.savez_compressed(file, probabilities=np.stack([1 - lesion, lesion]))
        return read_probability_map(file, geometry, tmp_path / "truth/a.nii", (1,)).probability

    np.testing.assert_array_equal(read(tmp_path / "alone/a.npz", truth), expected)
    save(tmp_path / "nnunet/a.nii.gz", TRUTH, prediction)
    np.testing.assert_array_equal(read(tmp_path / "nnunet/a.npz", prediction), expected)
    image = tmp_path / "image/a.nii"
    save(image, probability, prediction)
    np.testing.assert_array_equal(read_probability_map(image, geometry, "label", (1,)).probability, expected)


def test_maps_of_detseg3d_are_evaluated_against_labels_in_another_order(tmp_path: Path) -> None:
    save(tmp_path / "truth/a.nii", TRUTH, 3)
    save(tmp_path / "pred/a.nii", (FOUND > 0).astype(np.uint8), 29)
    save_rois(tmp_path / "pred/rois/a.json", 29)
    (tmp_path / "pred/probabilities").mkdir()
    lesion = stored((FOUND > 0).astype(np.float16), 29)[0].transpose(2, 1, 0)
    np.savez_compressed(tmp_path / "pred/probabilities/a.npz", probabilities=lesion[None])
    options = EvaluationOptions(components=ComponentRule(), samples=0)
    result = evaluate_pair(tmp_path / "truth", tmp_path / "pred", options=options, run=Run(show_progress=False))
    expected = 2 * np.sum((TRUTH > 0) & (FOUND > 0)) / (np.sum(TRUTH > 0) + np.sum(FOUND > 0))
    assert result.problems == () and result.cases[0].dice == pytest.approx(expected)


def test_the_helper_of_these_tests_stores_one_volume_in_all_orders(tmp_path: Path) -> None:
    volumes = set()
    for index in range(48):
        save(tmp_path / "a.nii", TRUTH, index)
        volumes.add(read_image(tmp_path / "a.nii")[0].tobytes())
    assert len(volumes) == 1
