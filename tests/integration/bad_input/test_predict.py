"""One folder with every scan of the corpus: each broken one is reported, each usable one predicted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli import predict
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_image, write_image
from tests.integration.bad_input.images import IMAGES, SCAN, USABLE, BadImage, plain, write_images
from tests.integration.bad_input.running import Run, run

BROKEN = tuple(image for image in IMAGES if image not in USABLE)
_FAILED = re.compile(r"ERROR: (\S+) failed: (.*)")


def predict_folder(model: Path, source: Path, output: Path, *words: str) -> Run:
    common = ["-m", model, "-f", "0", "-device", "cpu", "--disable_tta", "--no_progress"]
    return run(predict.main, ["-i", source, "-o", output, *common, *words])


@pytest.fixture(scope="module")
def predicted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Run]:
    """Folder of the scans, folder of the results, and the run."""
    root = tmp_path_factory.mktemp("bad_scans")
    write_images(root / "scans", IMAGES)
    return root / "scans", root / "out", predict_folder(tiny_model, root / "scans", root / "out")


def test_the_exit_code_and_the_last_lines_tell(predicted: tuple[Path, Path, Run]) -> None:
    *_, done = predicted
    assert done.code == 1
    assert f"{len(USABLE)} of {len(IMAGES)} case(s) written" in done.out
    assert "failed: " + ", ".join(sorted(image.case_id for image in BROKEN)) in done.err
    assert {case for case, _ in _FAILED.findall(done.err)} == {image.case_id for image in BROKEN}


@pytest.mark.parametrize("image", BROKEN, ids=lambda image: image.name)
def test_a_broken_scan_is_reported(predicted: tuple[Path, Path, Run], image: BadImage) -> None:
    _, output, done = predicted
    assert dict(_FAILED.findall(done.err))[image.case_id].startswith(image.used or image.outcome)
    assert not list(output.rglob(f"{image.case_id}.*"))


@pytest.mark.parametrize("image", USABLE, ids=lambda image: image.name)
def test_an_odd_scan_is_predicted(predicted: tuple[Path, Path, Run], image: BadImage) -> None:
    scans, output, _ = predicted
    _, geometry = read_image(scans / f"{image.case_id}{image.ending}")
    record = json.loads((output / "rois" / f"{image.case_id}.json").read_text(encoding="utf-8"))
    mask, place = read_image(output / f"{image.case_id}{image.ending}")
    numbers, _ = read_image(output / "instances" / f"{image.case_id}{image.ending}")
    assert place == geometry and mask.shape == numbers.shape == geometry.shape
    assert sorted(np.unique(numbers[numbers > 0]).tolist()) == sorted(lesion["id"] for lesion in record["lesions"])


def test_the_same_lesions_are_found_whatever_the_voxels_are_stored_as(predicted: tuple[Path, Path, Run]) -> None:
    _, output, _ = predicted
    same = [image for image in USABLE if image.name in ("float64", "big-endian Fortran npy", "naïve name with 日本")]
    masks = [read_image(output / f"{image.case_id}{image.ending}")[0] for image in same]
    assert len(masks) == 3 and masks[0].any()
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


# -- A folder that cannot be predicted at all --------------------------------------------------------------------------


def two_endings(folder: Path) -> None:
    plain(folder / "a.mha")
    plain(folder / "a.nii.gz")


def control_character(folder: Path) -> None:
    plain(folder / "a.mha")
    plain(folder / "b\nc.mha")


def two_channels(folder: Path) -> None:
    for channel in range(2):
        plain(folder / f"a_{channel:04d}.mha")


def only_text(folder: Path) -> None:
    (folder / "notes.txt").touch()


FOLDERS: list[tuple[str, Callable[[Path], None], str]] = [
    (
        "a case with two endings",
        two_endings,
        "two images have the same name with different endings: a.mha and a.nii.gz",
    ),
    ("a newline in a name", control_character, "the case id cannot be a file name"),
    ("more channels than the model has", two_channels, "1 case(s) have missing or superfluous channels:"),
    ("a folder without images", only_text, "there is no image in the folder"),
    ("a folder that is no folder", Path.rmdir, "the folder of images does not exist"),
]


@pytest.mark.parametrize(("name", "make", "outcome"), FOLDERS, ids=[row[0] for row in FOLDERS])
def test_a_folder_that_cannot_be_meant_is_refused(
    tiny_model: Path, tmp_path: Path, name: str, make: Callable[[Path], None], outcome: str
) -> None:
    (tmp_path / "scans").mkdir()
    make(tmp_path / "scans")
    done = predict_folder(tiny_model, tmp_path / "scans", tmp_path / "out")
    assert (done.code, done.error.splitlines()[0]) == (1, outcome)
    assert str(tmp_path / "scans") in done.error or "b\\nc" in done.error
    assert not (tmp_path / "out").exists()


MODEL_FILES = [
    ("weights that are truncated", "fold_0/model_final.safetensors", None, "the weights cannot be read"),
    ("plans.json that is no JSON", "fold_0/plans.json", b"{", "the file is not valid JSON"),
    ("plans.json with an unknown key", "fold_0/plans.json", b'{"colour": 1}', "the plans have"),
    ("operating_point.json that is empty", "operating_point.json", b"", "the file is not valid JSON"),
    ("operating_point.json of another form", "operating_point.json", b"[]", "the operating point has 1 problem(s)"),
    ("operating_point.json with NaN", "operating_point.json", b'{"objective": NaN}', "the file is not valid JSON"),
]


@pytest.mark.parametrize(("name", "file", "content", "outcome"), MODEL_FILES, ids=[row[0] for row in MODEL_FILES])
def test_a_model_that_is_broken_is_refused(
    tiny_model: Path, tmp_path: Path, name: str, file: str, content: bytes | None, outcome: str
) -> None:
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    for part in ("plans.json", "model_final.safetensors", "appearance.json"):
        (model / "fold_0" / part).write_bytes((tiny_model / "fold_0" / part).read_bytes())
    whole = (model / file).read_bytes() if content is None else content
    (model / file).write_bytes(whole[:-100] if content is None else whole)
    plain(tmp_path / "a.mha")
    done = predict_folder(model, tmp_path / "a.mha", tmp_path / "out")
    assert done.code == 1 and done.error.startswith(outcome), done.error
    assert str(model / file) in done.error


def test_as_a_process_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    """What ITK prints or does to its process is seen here only."""
    write_images(tmp_path / "in", [image for image in BROKEN if image.ending in (".mha", ".nrrd")])
    write_image(SCAN, Geometry(SCAN.shape), tmp_path / "in" / "good.mha")
    words = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", tiny_model, "-f", "0", "-device", "cpu"]
    command = [sys.executable, "-m", "detseg3d.cli.predict", *map(str, words), "--disable_tta"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False, env={**os.environ})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (tmp_path / "out" / "good.mha").is_file()
