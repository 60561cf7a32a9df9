"""The whole corpus as training data: verified, measured, planned and preprocessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli import plan_and_preprocess
from detseg3d.core.geometry import Geometry
from detseg3d.data.case_store import CaseStore
from detseg3d.data.images import read_image, write_image
from detseg3d.system.json_files import write_json
from tests.integration.bad_input.images import IMAGES, UNREADABLE, USABLE, BadImage, write_images
from tests.integration.bad_input.labels import GOOD, LABELS, SCAN
from tests.integration.bad_input.running import Run, run
from tests.scans import make_scan

NAME = "Dataset001_Bad"
# .npy says nothing of its place, and one data set has one ending.
NIFTI = tuple(image for image in IMAGES if image.ending == ".nii.gz")
SEMANTIC = tuple(label for label in LABELS if not label.instances)


def describe(root: Path, **changes: object) -> None:
    labels = {"background": 0, "lesion": 1}
    data = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", **changes}
    write_json(data, root / "raw" / NAME / "dataset.json")


def write_case(root: Path, case_id: str, seed: int = 301, lesions: int = 3) -> None:
    image, label = make_scan(seed, lesions)
    folder = root / "raw" / NAME
    write_image(image, Geometry(image.shape), folder / "imagesTr" / f"{case_id}_0000.nii.gz")
    write_image(label, Geometry(label.shape), folder / "labelsTr" / f"{case_id}.nii.gz")


def write_labels_for(root: Path, images: tuple[BadImage, ...]) -> None:
    """A lesion of one voxel in the middle of each scan that can be read."""
    for image in images:
        if image not in UNREADABLE:
            array, geometry = read_image(root / "raw" / NAME / "imagesTr" / f"{image.case_id}_0000{image.ending}")
            label = np.zeros(array.shape, np.uint8)
            label[tuple(n // 2 for n in label.shape)] = 1
            write_image(label, geometry, root / "raw" / NAME / "labelsTr" / f"{image.case_id}{image.ending}")


def plan(root: Path, *words: str) -> Run:
    folders = [f"--raw={root / 'raw'}", f"--preprocessed={root / 'preprocessed'}"]
    return run(plan_and_preprocess.main, ["-d", "1", *folders, "-np", "0", "--no_progress", *words])


# -- Scans -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad_training_scans")
    describe(root)
    write_images(root / "raw" / NAME / "imagesTr", NIFTI, "_0000")
    write_labels_for(root, NIFTI)
    write_case(root, "good")
    return root


@pytest.fixture(scope="module")
def verified(scans: Path) -> Run:
    return plan(scans, "--verify")


@pytest.mark.parametrize("image", NIFTI, ids=lambda image: image.name)
def test_the_verification_names_each_broken_scan(verified: Run, image: BadImage) -> None:
    rows = [line for line in verified.err.splitlines() if line.startswith(f"{image.case_id} ")]
    assert verified.code == 1
    if image in USABLE:
        # Some are one scan in several forms, and some state two places, which the verification is right to tell.
        harmless = (
            "it would leak between folds",
            "(not used) disagree",
            "carries no information after normalisation",
            "shows only the label",
            "fewer than the",
        )
        assert all(any(words in row for words in harmless) for row in rows), rows
    elif image.used is None:
        found = "channel 0 is missing" if "does not exist" in image.outcome else image.outcome
        assert any(found in row for row in rows), rows
    else:
        assert any("NaN or infinite" in row for row in rows), rows


def test_without_verification_all_scans_that_cannot_be_measured_are_named(scans: Path) -> None:
    done = plan(scans)
    assert done.code == 1 and "case(s) cannot be measured" in done.error
    for image in NIFTI:
        # The message names 20 cases at most.
        assert (f"  {image.case_id}: " in done.error) <= (image not in USABLE)
    assert "Error: " not in done.error.replace("DetSeg3DError: ", "")


def test_an_absurd_spacing_is_named_by_the_planner(tmp_path: Path) -> None:
    describe(tmp_path, file_ending=".mha")
    images = tuple(i for i in IMAGES if i.name in ("constant image", "smaller than the stride", "spacing of metres"))
    write_images(tmp_path / "raw" / NAME / "imagesTr", images, "_0000")
    write_labels_for(tmp_path, images)
    done = plan(tmp_path)
    assert done.code == 1 and "no detection grid fits into 8 GB" in done.error
    assert "the largest scan, spacing_of_metres: " in done.error


def test_a_scan_that_outgrows_the_plan_does_not_cost_the_others(tmp_path: Path) -> None:
    describe(tmp_path, file_ending=".mha")
    images = tuple(image for image in USABLE if image.ending == ".mha")
    write_images(tmp_path / "raw" / NAME / "imagesTr", images, "_0000")
    write_labels_for(tmp_path, images)
    assert plan(tmp_path, "--no_pp").code == 0
    absurd = tuple(image for image in IMAGES if image.name == "spacing of metres")
    write_images(tmp_path / "raw" / NAME / "imagesTr", absurd, "_0000")
    write_labels_for(tmp_path, absurd)
    done = plan(tmp_path, "--keep_plans")
    assert done.code == 1 and f"1 of {len(images) + 1} case(s) could not be preprocessed:" in done.error
    assert f"{absurd[0].case_id}: {absurd[0].used}" in done.error
    store = CaseStore(tmp_path / "preprocessed" / NAME / "cases")
    assert store.case_ids() == sorted(image.case_id for image in images)


def test_odd_nifti_scans_are_planned_and_preprocessed(tmp_path: Path) -> None:
    describe(tmp_path)
    images = tuple(image for image in USABLE if image.ending == ".nii.gz")
    write_images(tmp_path / "raw" / NAME / "imagesTr", images, "_0000")
    write_labels_for(tmp_path, images)
    assert plan(tmp_path, "--verify").err.count("it would leak") >= 1, "some are one scan in several forms"
    assert plan(tmp_path).code == 0
    store = CaseStore(tmp_path / "preprocessed" / NAME / "cases")
    for image in images:
        assert len(store.shape_and_lesions(image.case_id)[1]) == 1


# -- Labels ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad_training_labels")
    describe(root)
    for index, label in enumerate(SEMANTIC):
        write_image(SCAN + index, Geometry(SCAN.shape), root / "raw" / NAME / f"imagesTr/{label.case_id}_0000.nii.gz")
        (root / "raw" / NAME / "labelsTr").mkdir(exist_ok=True)
        label.write(root / "raw" / NAME / "labelsTr" / f"{label.case_id}.nii.gz")
    return root


@pytest.mark.parametrize("verify", [True, False])
def test_broken_labels_are_named_and_no_others(labelled: Path, verify: bool) -> None:
    done = plan(labelled, *["--verify"] * verify)
    assert done.code == 1
    for label in SEMANTIC:
        row = f"\n{label.case_id} " if verify else f"\n  {label.case_id}: "
        assert (row in done.error) == (label.outcome != GOOD), label.name
        if label.outcome != GOOD and not verify:
            assert label.outcome in done.error.partition(row)[2].splitlines()[0]


def test_odd_labels_are_used(labelled: Path, tmp_path: Path) -> None:
    describe(tmp_path)
    for label in SEMANTIC:
        if label.outcome == GOOD:
            for part in (f"imagesTr/{label.case_id}_0000.nii.gz", f"labelsTr/{label.case_id}.nii.gz"):
                target = tmp_path / "raw" / NAME / part
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(labelled / "raw" / NAME / part)
    assert plan(tmp_path).code == 0
    store = CaseStore(tmp_path / "preprocessed" / NAME / "cases")
    counts = {case_id: len(store.shape_and_lesions(case_id)[1]) for case_id in store.case_ids()}
    special = {"no_lesion": 0, "lesion_at_every_border": 1, "label_all_lesion": 1}
    used = [label.case_id for label in SEMANTIC if label.outcome == GOOD]
    assert counts == {case_id: special.get(case_id, 4) for case_id in used}


@pytest.mark.slow
def test_instance_numbers_may_have_holes_and_go_beyond_65535(tmp_path: Path) -> None:
    describe(tmp_path, instances=True)
    for label in LABELS:
        if label.instances:
            write_case(tmp_path, label.case_id)
            label.write(tmp_path / "raw" / NAME / "labelsTr" / f"{label.case_id}.nii.gz")
    write_case(tmp_path, "crowded")
    crowded = np.zeros((84, 84, 84), np.int32)
    crowded[::2, ::2, ::2] = np.arange(1, 42**3 + 1).reshape(42, 42, 42)
    noise = np.random.default_rng(0).normal(100, 10, crowded.shape).astype(np.float32)
    write_image(noise, Geometry(crowded.shape), tmp_path / "raw" / NAME / "imagesTr" / "crowded_0000.nii.gz")
    write_image(crowded, Geometry(crowded.shape), tmp_path / "raw" / NAME / "labelsTr" / "crowded.nii.gz")
    assert plan(tmp_path).code == 0
    store = CaseStore(tmp_path / "preprocessed" / NAME / "cases")
    assert len(store.shape_and_lesions("crowded")[1]) == 42**3 > 65_535
    assert len(store.shape_and_lesions("label_numbers_with_holes")[1]) == 3


# -- Data sets ---------------------------------------------------------------------------------------------------------


def test_a_data_set_without_any_lesion_is_planned(tmp_path: Path) -> None:
    describe(tmp_path)
    for index in range(3):
        write_case(tmp_path, f"case {index}", seed=index, lesions=0)
    assert plan(tmp_path, "--verify").code == 0


def test_channels_on_different_grids_are_named(tmp_path: Path) -> None:
    describe(tmp_path, channel_names={"0": "T1", "1": "T2"})
    folder = tmp_path / "raw" / NAME
    for case, spacing in (("good", 1.0), ("swapped", 2.0), ("missing", 1.0)):
        write_case(tmp_path, case)
        grid = Geometry(SCAN.shape, (1.0, 1.0, spacing))
        write_image(SCAN, grid, folder / "imagesTr" / f"{case}_0001.nii.gz")
    (folder / "imagesTr" / "missing_0001.nii.gz").unlink()
    done = plan(tmp_path)
    assert done.code == 1 and "2 of 3 case(s) cannot be measured" in done.error
    assert "swapped: channel 1 does not lie on the grid of channel 0: spacing" in done.error
    assert "missing: the image does not exist" in done.error


def test_an_edited_fingerprint_and_broken_plans(tmp_path: Path) -> None:
    describe(tmp_path)
    for index in range(2):
        write_case(tmp_path, f"case{index}", seed=index)
    assert plan(tmp_path, "--no_pp").code == 0
    folder = tmp_path / "preprocessed" / NAME
    (folder / "dataset_fingerprint.json").write_text('{"version": 1, "cases": []}', encoding="utf-8")
    again = plan(tmp_path, "--no_pp")
    assert again.code == 0 and "the data set is measured again" in again.err
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        ({"fine_spacing": [1, 0, 1]}, "fine_spacing.1: Input should be greater than or equal to 0.0000001"),
        ({"roi": None}, "roi: "),
    ):
        write_json({**plans, **change}, folder / "plans.json")
        done = plan(tmp_path, "--keep_plans")
        assert done.code == 1 and message in done.error and str(folder / "plans.json") in done.error
    (folder / "plans.json").write_text(json.dumps({**plans, "training_budget_gb": float("nan")}), encoding="utf-8")
    assert "NaN is not allowed in JSON" in plan(tmp_path, "--keep_plans").error


@pytest.mark.parametrize("image", [image for image in NIFTI if image.used], ids=lambda image: image.name)
def test_a_scan_that_cannot_be_used_is_named_without_verification(tmp_path: Path, image: BadImage) -> None:
    describe(tmp_path)
    write_case(tmp_path, "good")
    write_images(tmp_path / "raw" / NAME / "imagesTr", [image], "_0000")
    write_labels_for(tmp_path, (image,))
    done = plan(tmp_path)
    assert done.code == 1 and f"  {image.case_id}: {image.used}" in done.error, done.error
    assert "  good: " not in done.error
