from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from detseg3d.cli import predict
from detseg3d.core.geometry import Geometry
from detseg3d.data import dataset as raw_dataset
from detseg3d.data.images import read_image, read_label_array, strip_ending, write_image
from tests.scans import make_scan


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of five scans ``a.mha`` to ``e.mha``."""
    folder = tmp_path_factory.mktemp("scans")
    for index, name in enumerate("abcde"):
        image, _ = make_scan(200 + index)
        write_image(image, Geometry(image.shape), folder / f"{name}.mha")
    return folder


def run(model: Path, source: Path, output: Path, *words: str) -> int:
    arguments = ["-i", str(source), "-o", str(output), "-m", str(model), "-f", "0", "-device", "cpu", "--no_progress"]
    return predict.main([*arguments, "--disable_tta", *words])


def test_every_scan_of_a_folder_is_predicted(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, scans, tmp_path) == 0
    others = {"cases.csv", "lesions.csv", "run.json", "run.log"}
    assert {path.name for path in tmp_path.glob("*.*")} == {f"{c}.mha" for c in "abcde"} | others
    assert {path.stem for path in (tmp_path / "rois").iterdir()} == set("abcde")
    assert f"5 of 5 case(s) written to {tmp_path}" in capsys.readouterr().out


def test_the_model_is_found_by_its_data_set(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    words = ["-i", str(scans / "a.mha"), "-o", str(tmp_path), "-d", "Tiny", "--results", str(tiny_model.parent)]
    assert predict.main([*words, "-device", "cpu", "-f", "0", "1"]) == 0
    assert (tmp_path / "a.mha").exists() and not (tmp_path / "b.mha").exists()


@pytest.mark.parametrize("words", [[], ["-d", "1", "-m", "folder"]])
def test_one_model_must_be_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["-i", str(tmp_path), "-o", str(tmp_path), *words]) == 1
    assert "give either -d DATASET or -m MODEL" in capsys.readouterr().err


def test_arrays_give_arrays(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", make_scan(200)[0][::2])
    assert run(tiny_model, tmp_path / "in", tmp_path / "out", "--spacing", "2", "1", "1") == 0
    assert np.load(tmp_path / "out" / "a.npy").shape == (15, 36, 33)
    assert json.loads((tmp_path / "out" / "rois" / "a.json").read_text(encoding="utf-8"))["spacing"] == [2.0, 1.0, 1.0]


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_share_the_cases(tiny_model: Path, scans: Path, tmp_path: Path, parts: int) -> None:
    done = []
    for part in range(parts):
        folder = tmp_path / str(part)
        assert run(tiny_model, scans, folder, "--num_parts", str(parts), "--part_id", str(part)) == 0
        done += [path.stem for path in folder.glob("*.mha")]
    assert sorted(done) == list("abcde")


def test_parts_in_one_folder_equal_a_single_run(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    run(tiny_model, scans, tmp_path / "whole")
    for part in ("0", "1"):
        run(tiny_model, scans, tmp_path / "parts", "--num_parts", "2", "--part_id", part)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*") if path.stem != "run"]
    assert len(files) == 17
    for file in files:
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    records = sorted(path.name for path in (tmp_path / "parts").glob("run*.json"))
    assert records == ["run_part_0.json", "run_part_1.json"]


def test_parts_count_from_zero(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, scans, tmp_path, "--num_parts", "2", "--part_id", "2") == 1
    error = capsys.readouterr().err
    assert "--part_id is out of range" in error and "expected: 0 to 1" in error


def test_some_parts_have_no_case_if_there_are_more_parts_than_cases(
    tiny_model: Path, scans: Path, tmp_path: Path
) -> None:
    assert run(tiny_model, scans / "a.mha", tmp_path, "--num_parts", "2", "--part_id", "1") == 0


def test_a_failed_case_changes_the_exit_code(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mha").write_bytes((scans / "a.mha").read_bytes())
    (tmp_path / "in" / "b.mha").write_bytes((scans / "a.mha").read_bytes()[:500])
    (tmp_path / "in" / "c.mha").write_bytes((scans / "c.mha").read_bytes())
    assert run(tiny_model, tmp_path / "in", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "2 of 3 case(s) written" in printed.out and "failed: b" in printed.err
    assert {path.stem for path in (tmp_path / "out" / "rois").iterdir()} == {"a", "c"}


def test_continuing_keeps_existing_results(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    run(tiny_model, scans / "a.mha", tmp_path)
    marked = json.loads((tmp_path / "rois" / "a.json").read_text(encoding="utf-8")) | {"mark": 1}
    (tmp_path / "rois" / "a.json").write_text(json.dumps(marked), encoding="utf-8")
    assert run(tiny_model, scans, tmp_path, "--continue_prediction") == 0
    assert "mark" in json.loads((tmp_path / "rois" / "a.json").read_text(encoding="utf-8"))
    assert (tmp_path / "rois" / "e.json").exists()


def test_overwriting_is_the_default(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    run(tiny_model, scans / "a.mha", tmp_path)
    (tmp_path / "rois" / "a.json").write_text("{}", encoding="utf-8")
    assert run(tiny_model, scans / "a.mha", tmp_path) == 0
    assert json.loads((tmp_path / "rois" / "a.json").read_text(encoding="utf-8"))["case_id"] == "a"


def test_probabilities_are_written_on_request(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    run(tiny_model, scans / "a.mha", tmp_path, "--save_probabilities")
    assert np.load(tmp_path / "probabilities" / "a.npz")["probabilities"].shape == (1, 30, 36, 33)


def test_a_lesion_has_the_same_number_in_all_files(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    words = ("--candidate_threshold", "0.01", "--score_threshold", "0", "--also", "slicer,itksnap,prompts")
    assert run(tiny_model, scans / "a.mha", tmp_path, *words) == 0
    instances = read_image(tmp_path / "instances" / "a.mha")[0]
    lesions = json.loads((tmp_path / "rois" / "a.json").read_text(encoding="utf-8"))["lesions"]
    rows = list(csv.DictReader((tmp_path / "lesions.csv").read_text(encoding="utf-8").splitlines()))
    prompts = json.loads((tmp_path / "prompts" / "a.json").read_text(encoding="utf-8"))
    points = json.loads((tmp_path / "slicer" / "a.mrk.json").read_text(encoding="utf-8"))["markups"][0]
    labels = (tmp_path / "itksnap" / "a.txt").read_text(encoding="utf-8").splitlines()
    assert lesions and [int(row["id"]) for row in rows] == [lesion["id"] for lesion in lesions]
    assert np.array_equal(read_image(tmp_path / "slicer" / "a.seg.nrrd")[0], instances)
    for lesion, row in zip(lesions, rows, strict=True):
        voxels = np.argwhere(instances == lesion["id"])
        assert len(voxels) == lesion["voxels"] == int(row["voxels"])
        np.testing.assert_allclose(voxels.mean(axis=0) + 0.5, lesion["centroid"])
        assert instances[tuple(prompts[str(lesion["id"])]["point"])] == lesion["id"]
        [point] = [point for point in points["controlPoints"] if point["id"] == str(lesion["id"])]
        assert point["position"] == lesion["centroid_world"]
        assert sum(line.split()[:1] == [str(lesion["id"])] for line in labels) == 1
        assert lesion["intensities"][0]["minimum"] <= lesion["intensities"][0]["mean"]


def test_an_unknown_format_is_refused_before_the_model_is_loaded(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "no model", scans / "a.mha", tmp_path / "out", "--also", "ohif") == 1
    assert "slicer,itksnap,prompts" in capsys.readouterr().err
    assert not (tmp_path / "out" / "rois").exists()


def test_results_are_written_as_bids_and_a_scan_with_another_name_fails_alone(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for source, name in (("a", "sub-1_ses-1_FLAIR"), ("b", "sub-2"), ("c", "scan")):
        shutil.copyfile(scans / f"{source}.mha", tmp_path / "in" / f"{name}.mha")
    words = ("--candidate_threshold", "0.01", "--score_threshold", "0", "--bids_out", str(tmp_path / "bids"))
    assert run(tiny_model, tmp_path / "in", tmp_path / "out", *words) == 1
    assert "failed: scan" in capsys.readouterr().err
    for case_id, name in (("sub-1_ses-1_FLAIR", "sub-1/ses-1/anat/sub-1_ses-1"), ("sub-2", "sub-2/anat/sub-2")):
        written, _ = read_image(tmp_path / "bids" / f"{name}_desc-lesions_dseg.nii.gz")
        instances, _ = read_image(tmp_path / "out/instances" / f"{case_id}.mha")
        assert instances.any() and np.array_equal(written, instances)
        mask, _ = read_image(tmp_path / "bids" / f"{name}_label-lesion_mask.nii.gz")
        assert np.array_equal(mask != 0, instances != 0)


def test_the_folder_of_another_bids_data_set_is_refused_before_the_prediction(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study/sub-1").mkdir(parents=True)
    words = ("--bids_out", str(tmp_path / "study"))
    assert run(tiny_model, scans / "a.mha", tmp_path / "out", *words) == 1
    assert str(tmp_path / "study") in capsys.readouterr().err
    assert not (tmp_path / "out/a.mha").exists()


def test_thresholds_reach_the_prediction(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    run(tiny_model, scans / "a.mha", tmp_path / "all", "--candidate_threshold", "0.01", "--score_threshold", "1")
    record = json.loads((tmp_path / "all" / "rois" / "a.json").read_text(encoding="utf-8"))
    assert record["lesions"] == [] and record["candidates"]


def test_missing_folds_are_named(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, scans, tmp_path, "-f", "0", "7") == 1
    assert "['fold_7']" in capsys.readouterr().err


def test_an_empty_folder_is_an_error(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert run(tiny_model, tmp_path / "in", tmp_path / "out") == 1
    assert "there is no image in the folder" in capsys.readouterr().err


# -- One scan into one file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mask.nii.gz", "mask.nii", "mask.mha", "mask.nrrd", "mask.npy", "New Folder/m.NII.GZ"]
)
def test_a_mask_is_written_to_exactly_the_file_that_is_named(
    tiny_model: Path, scans: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, scans / "a.mha", tmp_path / "folder") == 0
    expected, geometry = read_image(tmp_path / "folder" / "a.mha")
    output = tmp_path / "single" / name
    assert run(tiny_model, scans / "a.mha", output) == 0
    mask, place = read_image(output)
    assert expected.any() and np.array_equal(mask, expected)
    assert name.endswith(".npy") or place.difference(geometry) == []
    assert [path for path in (tmp_path / "single").rglob("*") if path.is_file()] == [output]
    assert f"wrote the mask {output}" in capsys.readouterr().out


def test_a_header_with_its_voxels_beside_it_is_written(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    assert run(tiny_model, scans / "a.mha", tmp_path / "mask.mhd") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.mhd", "mask.zraw"]


def test_a_folder_with_one_case_fits_into_one_file(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a_0000.mha").write_bytes((scans / "a.mha").read_bytes())
    assert run(tiny_model, tmp_path / "in", tmp_path / "mask.nii.gz") == 0
    assert (tmp_path / "mask.nii.gz").is_file()


def test_several_cases_do_not_fit_into_one_file(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, scans, tmp_path / "mask.nii.gz") == 1
    assert "one file cannot contain the masks of several cases" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mask.mgz", "mask.hdr", "mask.nhdr", "mask.nii.bz2"])
def test_a_mask_in_a_format_that_is_not_written_is_refused(
    tiny_model: Path, scans: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an error, the command would create a folder with the name of the mask."""
    assert run(tiny_model, scans / "a.mha", tmp_path / name) == 1
    assert str(tmp_path / name) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_named_like_an_image_stays_a_folder(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "out.nii.gz").mkdir()
    assert run(tiny_model, scans / "a.mha", tmp_path / "out.nii.gz") == 0
    assert (tmp_path / "out.nii.gz" / "a.mha").is_file()


@pytest.mark.parametrize("flag", ["--save_probabilities", "--save_candidates", "--continue_prediction"])
def test_results_that_need_a_folder_are_refused_with_a_file(
    tiny_model: Path, scans: Path, tmp_path: Path, flag: str
) -> None:
    assert run(tiny_model, scans / "a.mha", tmp_path / "mask.nii.gz", flag) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_scan_is_never_replaced_by_its_mask(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "a.mha"
    scan.write_bytes((scans / "a.mha").read_bytes())
    (tmp_path / "link.mha").symlink_to(scan)
    for output in (scan, tmp_path / "link.mha"):
        assert run(tiny_model, scan, output) == 1
        assert "replace the scan" in capsys.readouterr().err
    assert scan.read_bytes() == (scans / "a.mha").read_bytes()


def test_a_scan_that_cannot_be_read_leaves_an_earlier_mask(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.mha").write_bytes((scans / "a.mha").read_bytes()[:500])
    (tmp_path / "mask.nii.gz").write_bytes(b"earlier")
    assert run(tiny_model, tmp_path / "b.mha", tmp_path / "mask.nii.gz") == 1
    assert "b.mha" in capsys.readouterr().err
    assert (tmp_path / "mask.nii.gz").read_bytes() == b"earlier"


# -- A bad input costs no time -----------------------------------------------------------------------------------------

WITHOUT_TORCH = (
    "import sys\nfrom detseg3d.cli import predict\ncode = predict.main(sys.argv[1:])\n"
    "print('torch' in sys.modules)\nraise SystemExit(code)\n"
)


def bad_input(folder: Path, kind: str) -> Path:
    path = folder / "input"
    if kind == "a folder without an image":
        path.mkdir()
        (path / "notes.txt").write_text("x", encoding="utf-8")
    elif kind == "an empty folder":
        path.mkdir()
    elif kind == "an empty file":
        path = folder / "scan.nii.gz"
        path.touch()
    elif kind == "another kind of file":
        path = folder / "notes.txt"
        path.write_text("x", encoding="utf-8")
    elif kind == "a pipe":
        path = folder / "scan.mha"
        os.mkfifo(path)
    elif kind == "a broken link":
        path = folder / "scan.nrrd"
        path.symlink_to("gone.nrrd")
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "nothing",
        "an empty folder",
        "a folder without an image",
        "an empty file",
        "another kind of file",
        "a pipe",
        "a broken link",
    ],
)
def test_a_bad_input_is_found_before_torch_is_imported(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    source = bad_input(tmp_path, kind)
    words = ["-i", str(source), "-o", str(tmp_path / "out"), "-m", str(tiny_model), "-f", "0"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (1, "False"), done.stderr
    assert str(source) in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_input_without_permission_is_named(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is simulated, because the test may run as a user with all permissions."""
    original = raw_dataset.open_regular_file

    def refuse(path: str | Path) -> BinaryIO:
        if Path(path).suffix == ".mha":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(raw_dataset, "open_regular_file", refuse)
    assert run(tiny_model, scans / "a.mha", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "Permission denied" in error and str(scans / "a.mha") in error


# -- No lesion anywhere ------------------------------------------------------------------------------------------------


def test_an_empty_prediction_names_the_threshold_above_all_scores(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, scans, tmp_path / "score", "--candidate_threshold", "0.01", "--score_threshold", "1") == 0
    said = capsys.readouterr().err
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "score" / "rois").iterdir()]
    best = max(candidate["score"] for record in records for candidate in record["candidates"])
    assert (
        "no lesion in any of 5 scan(s)" in said
        and f"above {best:.3g} (in" in said
        and "under the score threshold 1;" in said
    )
    assert run(tiny_model, scans / "a.mha", tmp_path / "mask.npy", "--candidate_threshold", "1") == 0
    said = capsys.readouterr().err
    assert "no lesion in any of 1 scan(s)" in said and "detection threshold 1" in said


def test_a_lesion_in_one_scan_prevents_the_warning(
    tiny_model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_model, scans, tmp_path)
    assert "no lesion in any" not in capsys.readouterr().err


# -- Names that are not text -------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names are text on other systems")
def test_scans_with_names_that_are_not_text_do_not_affect_other_scans(
    tiny_model: Path, scans: Path, tmp_path: Path
) -> None:
    """The command runs in a separate process, because a library may end the process because of such a name."""
    array, geometry = read_image(scans / "a.mha")
    names = {".mha": b"m\xfcller", ".nii.gz": b"\x83\x51", ".nrrd": b"\xff", ".npy": b"half \xc3"}
    files = [os.fsdecode(name) + ending for ending, name in names.items()]
    for file in ("a_good.mha", *files, "z_good.mha"):
        write_image(array, geometry, tmp_path / "in" / file)
    words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(tiny_model), "-f", "0", "--disable_tta"]
    done = subprocess.run(
        [sys.executable, "-m", "detseg3d.cli.predict", *words, "-device", "cpu"], capture_output=True, check=False
    )
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr, done.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a_good.mha", "z_good.mha"} <= written
    for file in set(files) - written:
        assert strip_ending(file).encode("ascii", "backslashreplace") in done.stderr
    for file in set(files) & written:
        expected = read_image(tmp_path / "out" / "a_good.mha")[0]
        assert np.array_equal(read_label_array(tmp_path / "out" / file)[0], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="names are text on other systems")
def test_folders_with_names_that_are_not_text_can_be_used(tiny_model: Path, scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"stra\xdfe")
    shutil.copytree(tiny_model, folder / "model")
    (folder / "in").mkdir()
    shutil.copy(scans / "a.mha", folder / "in")
    assert run(folder / "model", folder / "in", folder / "out") == 0
    assert run(tiny_model, scans / "a.mha", tmp_path / "out") == 0
    assert (folder / "out" / "a.mha").read_bytes() == (tmp_path / "out" / "a.mha").read_bytes()
    assert run(folder / "model", folder / "in", folder / "one.nii.gz") == 0
