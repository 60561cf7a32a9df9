"""Two plain folders, and single files to be drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detseg3d.cli import convert, visualize
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_image, write_image
from detseg3d.system.json_files import write_json
from tests.integration.bad_input.images import IMAGES, UNREADABLE, BadImage, content, plain, write_images
from tests.integration.bad_input.labels import LABEL, LABELS, SCAN
from tests.integration.bad_input.running import Run, run

GRID = Geometry(LABEL.shape)
# What the label files alone tell: convert does not open scans that need no other format.
TELLING = tuple(label for label in LABELS if "whole numbers" in label.outcome or label.outcome.startswith("the image"))


def convert_folder(root: Path) -> Run:
    words = ["--image_dir", root / "scans", "--label_dir", root / "masks", "--output_dir", root / "raw"]
    return run(convert.main, [*words, "-np", "0", "--no_progress"])


def pair(root: Path, case_id: str = "good") -> None:
    plain(root / "scans" / f"{case_id}.nii.gz")
    write_image(LABEL, GRID, root / "masks" / f"{case_id}.nii.gz")


def test_every_broken_label_is_named_at_once(tmp_path: Path) -> None:
    pair(tmp_path)
    for label in TELLING:
        plain(tmp_path / "scans" / f"{label.case_id}.nii.gz")
        label.write(tmp_path / "masks" / f"{label.case_id}.nii.gz")
    done = convert_folder(tmp_path)
    assert done.code == 1 and done.error.startswith("some labels cannot be used:")
    for label in TELLING:
        assert label.outcome in done.error.partition(f"\n  {label.case_id}: ")[2].splitlines()[0]
    assert "  good: " not in done.error and not list((tmp_path / "raw").rglob("*"))


def test_a_scan_that_must_be_rewritten_and_cannot_be_read_is_named(tmp_path: Path) -> None:
    for case_id in ("a", "b"):
        pair(tmp_path, case_id)
    broken = [image for image in UNREADABLE if image.ending in (".mha", ".nrrd")]
    for case_id in write_images(tmp_path / "scans", broken):
        write_image(LABEL, GRID, tmp_path / "masks" / f"{case_id}.nii.gz")
    for index in range(len(broken)):
        pair(tmp_path, f"more {index}")
    done = convert_folder(tmp_path)
    assert done.code == 1 and done.error.startswith("some cases cannot be converted:")
    for image in broken:
        assert f"\n  {image.case_id}: {image.outcome}" in done.error


PAIRS: list[tuple[str, Callable[[Path], Any], str]] = [
    (
        "two endings",
        lambda root: plain(root / "scans" / "good.mha"),
        "two images have the same name",
    ),
    ("a scan without label", lambda root: plain(root / "scans" / "x.nii.gz"), "images and labels do not match"),
    ("a newline in a name", lambda root: pair(root, "a\nb"), "the case id cannot be a file name"),
    (
        "labels without lesions",
        lambda root: plain(root / "masks" / "good.nii.gz", LABEL * 0),
        "the labels contain no lesion",
    ),
]


@pytest.mark.parametrize(("name", "change", "outcome"), PAIRS, ids=[row[0] for row in PAIRS])
def test_folders_that_cannot_be_paired_are_refused(
    tmp_path: Path, name: str, change: Callable[[Path], Any], outcome: str
) -> None:
    pair(tmp_path)
    change(tmp_path)
    done = convert_folder(tmp_path)
    assert done.code == 1 and done.error.startswith(outcome), done.error


# -- Pictures ----------------------------------------------------------------------------------------------------------


def draw(root: Path, **files: Path) -> Run:
    given = {"image": root / "scan.mha", "pred": root / "pred.mha", "label": root / "label.mha", **files}
    words = [word for name, file in given.items() for word in (f"--{name}", file)]
    return run(visualize.main, [*words, "--output", root / "a.png"])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    plain(tmp_path / "scan.mha", SCAN)
    for name in ("pred", "label"):
        write_image(LABEL, GRID, tmp_path / f"{name}.mha")
    return tmp_path


@pytest.mark.parametrize("which", ["image", "pred", "label"])
def test_no_broken_file_is_drawn(files: Path, which: str) -> None:
    for image in UNREADABLE:
        [file] = write_images(files / "bad", [image]).values()
        done = draw(files, **{which: file})
        assert done.code == 1 and done.error.startswith(image.outcome) and str(file) in done.error
    assert not (files / "a.png").exists()


ODD = ("NaN voxel", "infinite voxel", "constant image", "uint64", "one slice", "one voxel", "float64 beyond float32")


@pytest.mark.parametrize("image", [image for image in IMAGES if image.name in ODD], ids=lambda image: image.name)
def test_an_odd_scan_is_drawn_with_what_lies_on_it(files: Path, image: BadImage) -> None:
    [file] = write_images(files / "odd", [image]).values()
    array, geometry = read_image(file)
    mask = files / "mask.mha"
    write_image((array == array.max()).astype("u1"), geometry, mask)
    assert draw(files, image=file, pred=mask, label=mask).code == 0
    assert (files / "a.png").read_bytes().startswith(b"\x89PNG")


ROI_FILES: list[tuple[str, bytes, str]] = [
    ("rois JSON that is empty", b"", "the file is not valid JSON"),
    ("rois JSON of another form", b'{"lesions": [1]}', "the RoI file differs from what detseg3d_predict writes"),
    ("rois JSON with infinite edges", b'{"lesions": [{"id": 1, "label": 1, "box": [1e999]}]}', "the file is not valid"),
]


@pytest.mark.parametrize(("name", "data", "outcome"), ROI_FILES, ids=[row[0] for row in ROI_FILES])
def test_a_broken_roi_file_is_refused(files: Path, name: str, data: bytes, outcome: str) -> None:
    write_image(LABEL, GRID, files / "instances" / "case.mha")
    content(data)(files / "rois.json")
    done = draw(files, pred=files / "instances" / "case.mha", rois=files / "rois.json")
    assert done.code == 1 and done.error.startswith(outcome) and str(files / "rois.json") in done.error


def test_a_roi_file_of_other_lesions_is_drawn(files: Path) -> None:
    write_image(LABEL, GRID, files / "instances" / "case.mha")
    write_json({"lesions": [{"id": 99, "label": 1}]}, files / "rois.json")
    assert draw(files, pred=files / "instances" / "case.mha", rois=files / "rois.json").code == 0
