"""Give hostile folders of scans and labels to the real commands."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli import evaluate, predict
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import write_image
from detseg3d.training.log import EpochRecord, TrainingLog
from detseg3d.training.state import LossValues
from tests.reporting.html.factory import Page, cube, save_case
from tests.scans import make_scan

ATTACK = "<img src=x onerror=alert(1)>"
ESCAPE = "</script><script>alert(1)</script><!--"


def write_scan(path: Path) -> None:
    image = make_scan(101)[0]
    write_image(image, Geometry(image.shape), path)


def run(model: Path, source: Path, output: Path) -> int:
    flags = ["-device", "cpu", "--no_progress", "--disable_tta", "-f", "0"]
    return predict.main(["-i", str(source), "-o", str(output), "-m", str(model), *flags])


def link(path: Path, target: Path, folder: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target, target_is_directory=folder)
    except OSError:
        pytest.skip("links cannot be made here")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a file outside the folders that are given to the command."""
    path = tmp_path / "elsewhere" / "victim.mha"
    path.parent.mkdir()
    write_scan(path)
    return path


# -- Links -------------------------------------------------------------------------------------------------------------


def test_a_linked_scan_is_read_and_written_under_the_name_of_the_link(
    tiny_model: Path, victim: Path, tmp_path: Path
) -> None:
    before = victim.read_bytes()
    link(tmp_path / "in" / "case.mha", victim)
    assert run(tiny_model, tmp_path / "in", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "case.mha",
        "cases.csv",
        "instances",
        "lesions.csv",
        "rois",
        "run.json",
        "run.log",
    ]
    assert victim.read_bytes() == before and list(victim.parent.iterdir()) == [victim]


@pytest.mark.parametrize("name", ["case.mha", "instances/case.mha", "rois/case.json", "lesions.csv", "cases.csv"])
def test_a_link_where_a_result_belongs_is_replaced_and_not_followed(
    tiny_model: Path, victim: Path, tmp_path: Path, name: str
) -> None:
    before = victim.read_bytes()
    write_scan(tmp_path / "in" / "case.mha")
    link(tmp_path / "out" / name, victim)
    assert run(tiny_model, tmp_path / "in", tmp_path / "out") == 0
    assert victim.read_bytes() == before
    assert (tmp_path / "out" / name).is_file() and not (tmp_path / "out" / name).is_symlink()


def test_a_link_in_place_of_the_training_log_is_replaced(victim: Path, tmp_path: Path) -> None:
    before = victim.read_bytes()
    link(tmp_path / "fold_0" / "training_log.jsonl", victim)
    record = EpochRecord(1, 1, 2.5, 0.01, "whole volumes", LossValues(), 0.5, 1.5)
    TrainingLog(tmp_path / "fold_0" / "training_log.jsonl", None).append(record)
    assert victim.read_bytes() == before
    written = (tmp_path / "fold_0" / "training_log.jsonl").read_text(encoding="utf-8")
    assert json.loads(written) == record.to_json()


def test_a_broken_link_affects_only_its_case(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "in" / "good.mha")
    link(tmp_path / "in" / "bad.mha", tmp_path / "gone.mha")
    assert run(tiny_model, tmp_path / "in", tmp_path / "out") == 1
    assert "bad failed: the image does not exist" in capsys.readouterr().err
    assert (tmp_path / "out" / "good.mha").is_file()


# -- Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made")
@pytest.mark.parametrize("name", ["a\\..\\..\\case.mha", "a\nb.mha", "a\x1b[2J.mha"])
def test_names_that_could_leave_the_folder_are_refused(
    tiny_model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "in" / "plain.mha")
    (tmp_path / "in" / "plain.mha").rename(tmp_path / "in" / name)
    assert run(tiny_model, tmp_path / "in", tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert "the case id cannot be a file name" in shown and "\x1b" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../case", "..", "a/b", "/tmp/case", "..\\case", ".hidden", ""])
def test_case_names_of_a_dataset_json_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    data = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".mha",
        "dataset": {name: {"images": ["a.mha"], "label": "b.mha"}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DetSeg3DError, match="the case id cannot be a file name"):
        load_raw_dataset(tmp_path)


# -- Headers -----------------------------------------------------------------------------------------------------------


def huge_npy(path: Path) -> None:
    np.save(path, np.zeros((100, 100, 100), np.float32))
    path.write_bytes(path.read_bytes()[:128].replace(b"(100, 100, 100)", b"(10000000,9,99)").ljust(128) + bytes(400))


def huge_mha(path: Path) -> None:
    lines = "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = False\nDimSize = 90000 90000 90000\n"
    path.write_text(
        lines + "ElementSpacing = 1 1 1\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n" + "0" * 400,
        encoding="ascii",
    )


def huge_nrrd(path: Path) -> None:
    lines = "NRRD0004\ntype: float\ndimension: 3\nsizes: 90000 90000 90000\nencoding: raw\nendian: little\n"
    path.write_text(lines + "\n" + "0" * 400, encoding="ascii")


def huge_nii(path: Path) -> None:
    write_scan(path)
    header = bytearray(path.read_bytes()[:352])
    header[40:48] = np.array([3, 32000, 32000, 32000], "<i2").tobytes()
    path.write_bytes(header + bytes(400))


def huge_nii_gz(path: Path) -> None:
    plain = path.with_name("plain.nii")
    huge_nii(plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


@pytest.mark.parametrize(
    ("ending", "write"),
    [(".npy", huge_npy), (".mha", huge_mha), (".nrrd", huge_nrrd), (".nii", huge_nii), (".nii.gz", huge_nii_gz)],
)
def test_a_header_that_states_terabytes_affects_only_its_case(
    tiny_model: Path, tmp_path: Path, ending: str, write: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "in" / "good.mha")
    write(tmp_path / "in" / f"bad{ending}")
    assert run(tiny_model, tmp_path / "in", tmp_path / "out") == 1
    # What the file's length gives away is no image; what it does not, the machine's memory cannot hold.
    assert re.search(r"bad failed: (the image cannot be read|reading this scan of .* needs)", capsys.readouterr().err)
    assert (tmp_path / "out" / "good.mha").is_file() and not list((tmp_path / "out").glob("bad*"))


# -- The report --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made")
def test_names_of_cases_classes_and_systems_are_text_in_the_report(tmp_path: Path) -> None:
    shape = (12, 14, 16)
    truth, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    cube(truth, (2, 2, 2), 4, 1)
    cube(prediction, (2, 2, 3), 4, 1)
    for name in (ATTACK, "--><svg onload=alert(1)>", "' onmouseover='alert(1)"):
        save_case(tmp_path, name, np.ones(shape, np.float32), truth, prediction)
    labels = {"background": 0, ESCAPE: 1}
    (tmp_path / "labels" / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    shutil.copytree(tmp_path / "predictions", tmp_path / "other")
    words = ["-gt", str(tmp_path / "labels"), "-pred", f"<script>alert(1)</script>={tmp_path / 'predictions'}"]
    words += ["-pred", f"{ESCAPE}={tmp_path / 'other'}", "-o", str(tmp_path / "out"), "--bootstrap", "10", "-np", "0"]
    assert evaluate.main([*words, "--report", "--images", str(tmp_path / "images")]) == 0
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert not {"img", "iframe", "object"} & {element["tag"] for element in page.elements}
    attributes = {name for element in page.elements for name in element["attributes"]}
    assert not [name for name in attributes if name.startswith("on")]
    scripts = [element for element in page.find("script") if element["attributes"].get("type") in (None, "module")]
    assert all("alert(1)" not in script["text"] for script in scripts)
    for text in (ATTACK, ESCAPE, "<svg onload=alert(1)>", "<script>alert(1)</script>"):
        assert text in page.visible
