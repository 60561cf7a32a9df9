"""The lesions of one scan are the same however its file stores the axes: through reader, networks and writer."""

from __future__ import annotations

import csv
import json
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from detseg3d.inference.predictor import Predictor
from detseg3d.models.detseg import DetSeg3D
from detseg3d.pipeline.predict import OutputOptions, predict_cases
from detseg3d.planning.plans import Plans
from detseg3d.system.run import Run
from tests.evaluations import evaluate_pair

ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
SPACING = np.array([0.8, 1.0, 1.5])  # x, y, z: an axis that is taken for another one is resampled wrongly
MATRICES = {
    "straight": np.diag([-1.0, -1.0, 1.0]) * SPACING,
    "oblique": Rotation.from_euler("xyz", [15, -25, 10], degrees=True).as_matrix() * SPACING,
    "45 degrees": Rotation.from_euler("y", 45, degrees=True).as_matrix() * SPACING,
}


@pytest.fixture(scope="module")
def untrained(tiny_plans: Plans) -> Predictor:
    """Networks with random weights and low thresholds, which find lesions at places without symmetry."""
    torch.manual_seed(3)
    plans = tiny_plans.evolve(
        inference={"candidate_threshold": 0.0, "score_threshold": 0.0, "max_candidates": 6, "minimum_volume_mm3": 0.0}
    )
    return Predictor([DetSeg3D(plans)], plans, torch.device("cpu"), use_mirroring=False)


def scan() -> np.ndarray:
    """Noise with bright balls, float32 ``(x, y, z)``: the median and the mean are the same to the bit in any order."""
    random = np.random.default_rng(5)
    volume = random.integers(0, 60, (24, 22, 15)).astype(np.float32)
    for center in ((6, 7, 4), (16, 12, 10), (11, 16, 6)):
        distance = ((np.indices(volume.shape) - np.reshape(center, (3, 1, 1, 1))) ** 2).sum(axis=0)
        volume[distance <= 8] += 200
    return volume


def save(path: Path, volume: np.ndarray, name: str, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Store the volume with its axes in this order and direction."""
    turn = np.zeros((4, 4))
    array = volume.transpose(order)
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        if sign < 0:
            turn[old, 3] = volume.shape[old] - 1
            array = np.flip(array, new)
    turn[3, 3] = 1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = MATRICES[name], (30.1, -20.4, 7.7)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), affine @ turn), path)


def as_first(path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """The voxels of a file ``(x, y, z)`` in the order of the first file."""
    array = np.asarray(nibabel.load(path).dataobj)
    for axis, sign in enumerate(signs):
        if sign < 0:
            array = np.flip(array, axis)
    return array.transpose(np.argsort(order))


@pytest.mark.parametrize(("name", "every"), [("straight", 3), ("oblique", 11), ("45 degrees", 9)])
def test_every_order_of_the_axes_gives_the_same_lesions_voxel_for_voxel(
    untrained: Predictor, tmp_path: Path, name: str, every: int
) -> None:
    chosen = [ORDERS[0], *ORDERS[every::every]]
    volume = scan()
    for number, (order, signs) in enumerate(chosen):
        save(tmp_path / f"in/c{number:02d}.nii", volume, name, order, signs)
    output = OutputOptions(save_probabilities=True, show_progress=False)
    assert predict_cases(untrained, untrained.list_inputs(tmp_path / "in"), tmp_path / "out", output=output) == {}
    expected = as_first(tmp_path / "out/instances/c00.nii", *chosen[0])
    assert expected.max() >= 2, "the test needs several lesions"
    first = json.loads((tmp_path / "out/rois/c00.json").read_text(encoding="utf-8"))
    for number, (order, signs) in enumerate(chosen):
        case = f"c{number:02d}"
        for folder in ("out", "out/instances"):
            given = nibabel.load(tmp_path / f"in/{case}.nii")
            np.testing.assert_array_equal(nibabel.load(tmp_path / folder / f"{case}.nii").affine, given.affine)
        np.testing.assert_array_equal(as_first(tmp_path / f"out/instances/{case}.nii", order, signs), expected)
        record = json.loads((tmp_path / f"out/rois/{case}.json").read_text(encoding="utf-8"))
        check_record(record, first, np.asarray(nibabel.load(tmp_path / f"out/instances/{case}.nii").dataobj))
        probabilities = np.load(tmp_path / f"out/probabilities/{case}.npz")["probabilities"]
        mask = np.asarray(nibabel.load(tmp_path / f"out/{case}.nii").dataobj).transpose(2, 1, 0)
        assert probabilities.shape[1:] == mask.shape
        assert not mask.any() or probabilities[0][mask > 0].min() > 0.499


def check_record(record: dict, first: dict, instances: np.ndarray) -> None:
    """Boxes index the written mask; scores and places in the patient are those of the first file."""
    assert record["shape"] == list(instances.shape[::-1])
    for lesion, other in zip(record["lesions"], first["lesions"], strict=True):
        assert [lesion[key] for key in ("id", "score", "voxels", "volume_mm3")] == [
            other[key] for key in ("id", "score", "voxels", "volume_mm3")
        ]
        z0, y0, x0, z1, y1, x1 = (int(edge) for edge in lesion["box"])
        inside = instances.transpose(2, 1, 0)[z0:z1, y0:y1, x0:x1] == lesion["id"]
        assert inside.sum() == lesion["voxels"]
        assert all(inside.any(axis=tuple(a for a in range(3) if a != axis))[[0, -1]].all() for axis in range(3))
        np.testing.assert_allclose(lesion["center_world"], other["center_world"], atol=1e-4)
        np.testing.assert_allclose(
            np.sort(np.array(lesion["box_world"]).sum(axis=0)),
            np.sort(np.array(other["box_world"]).sum(axis=0)),
            atol=1e-3,
        )


def test_truth_and_prediction_may_be_stored_in_different_orders(untrained: Predictor, tmp_path: Path) -> None:
    volume = scan()
    for number, index in enumerate((0, 13, 30)):
        save(tmp_path / f"in/c{number}.nii", volume, "oblique", *ORDERS[index])
    output = OutputOptions(show_progress=False)
    assert predict_cases(untrained, untrained.list_inputs(tmp_path / "in"), tmp_path / "out", output=output) == {}
    expected = as_first(tmp_path / "out/instances/c0.nii", *ORDERS[0])
    for number, index in enumerate((0, 21, 47)):  # not the orders of the predictions
        save(tmp_path / f"truth/c{number}.nii", (expected > 0).astype(np.uint8), "oblique", *ORDERS[index])
    result = evaluate_pair(tmp_path / "truth", tmp_path / "out", run=Run(show_progress=False))
    assert result.problems == ()
    assert [case.dice for case in result.cases] == [1.0, 1.0, 1.0]
    for lesion in (entry for entry in result.lesions if entry.kind == "truth"):
        truth = np.asarray(nibabel.load(tmp_path / f"truth/{lesion.case_id}.nii").dataobj).transpose(2, 1, 0)
        assert all(0 <= place <= size for place, size in zip(lesion.center, truth.shape, strict=True))


def test_the_table_of_lesions_counts_the_voxels_of_the_masks(untrained: Predictor, tmp_path: Path) -> None:
    save(tmp_path / "in/a.nii", scan(), "straight", *ORDERS[29])
    output = OutputOptions(show_progress=False)
    assert predict_cases(untrained, untrained.list_inputs(tmp_path / "in"), tmp_path / "out", output=output) == {}
    instances = np.asarray(nibabel.load(tmp_path / "out/instances/a.nii").dataobj).transpose(2, 1, 0)
    with (tmp_path / "out/lesions.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert rows
    for row in rows:
        voxels = np.argwhere(instances == int(row["id"]))
        assert [float(row[f"{axis}0"]) for axis in "zyx"] == voxels.min(axis=0).tolist()
        assert [float(row[f"{axis}1"]) for axis in "zyx"] == (voxels.max(axis=0) + 1).tolist()
