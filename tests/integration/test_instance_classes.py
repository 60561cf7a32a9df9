"""Instance maps of two classes through the commands' own main functions: lesions of different classes touch."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from detseg3d.cli import consolidate, convert, evaluate, plan_and_preprocess, predict, train
from detseg3d.data.case_store import CaseStore
from detseg3d.system.json_files import write_json

pytestmark = pytest.mark.usefixtures("quick_training")

LABELS = {"background": 0, "dark": 1, "bright": 2}
CASES = 6


def make_case(seed: int) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """Image, instance map and class of each instance: pairs of touching cubes, numbered with gaps."""
    random = np.random.default_rng(seed)
    image = random.normal(100, 4, (24, 32, 32)).astype(np.float32)
    instances = np.zeros(image.shape, np.uint16)
    classes: dict[int, int] = {}
    for pair in range(2 if seed != 1 else 0):
        z, y, x = 4 + 10 * pair, 6 + int(random.integers(0, 6)), 6 + int(random.integers(0, 6))
        for part, index in enumerate((pair % 2, 1 - pair % 2)):
            number = 3 + 7 * len(classes)
            region = np.s_[z : z + 5, y : y + 5, x + 5 * part : x + 5 * part + 5]
            instances[region], classes[number] = number, index
            image[region] += (-60, 90)[index]
    return image, instances, classes


def write_volume(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))


def write_set(root: Path, form: str, name: str = "Dataset321_Pairs") -> Path:
    """The data set with its classes in JSON files, in dataset.json or in a table; the last case is for prediction."""
    folder = root / name
    description: dict[str, Any] = {
        "channel_names": {"0": "MR"},
        "labels": LABELS,
        "numTraining": CASES - 1,
        "file_ending": ".nii.gz",
        "instances": True,
    }
    table, rows = {}, [("case", "instance", "class")]
    for number in range(CASES):
        part, case = "Tr" if number < CASES - 1 else "Ts", f"case{number}"
        image, instances, classes = make_case(number)
        write_volume(image, folder / f"images{part}" / f"{case}_0000.nii.gz")
        write_volume(instances, folder / f"labels{part}" / f"{case}.nii.gz")
        if form == "json":
            content = {"instances": {str(key): index for key, index in classes.items()}}
            write_json(content, folder / f"labels{part}" / f"{case}.json")
        table[case] = {str(key): index + 1 for key, index in classes.items()}
        rows += [(case, str(key), ("dark", "bright")[index]) for key, index in classes.items()]
    if form == "table":
        description["instance_classes"] = table
    if form == "csv":
        description["instance_classes"] = "classes.csv"
        with (folder / "classes.csv").open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows(rows)
    write_json(description, folder / "dataset.json")
    return folder


def plan(root: Path, *flags: str) -> int:
    roots = ["--raw", str(root / "raw"), "--preprocessed", str(root / "preprocessed")]
    return plan_and_preprocess.main(["321", *roots, "-np", "0", "--no_progress", *flags])


def fingerprint(root: Path) -> Any:
    file = root / "preprocessed" / "Dataset321_Pairs" / "dataset_fingerprint.json"
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["json", "table", "csv"])
def test_every_form_states_the_same_classes(form: str, tmp_path: Path) -> None:
    write_set(tmp_path / "raw", form)
    assert plan(tmp_path, "--verify") == 0
    measured = fingerprint(tmp_path)
    assert measured["summary"]["lesions_per_class"] == {"dark": 8, "bright": 8}
    store = CaseStore(tmp_path / "preprocessed" / "Dataset321_Pairs" / "cases")
    for number in range(CASES - 1):
        _, _, classes = make_case(number)
        assert [lesion["class_index"] for lesion in measured["cases"][f"case{number}"]["lesions"]] == list(
            classes.values()
        )
        stored = store.properties(f"case{number}")["lesions"]
        assert [lesion["class"] for lesion in stored] == list(classes.values())


def test_a_changed_class_is_measured_again(tmp_path: Path) -> None:
    raw = write_set(tmp_path / "raw", "table")
    assert plan(tmp_path, "--no_pp") == 0
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    description["instance_classes"]["case0"] = dict.fromkeys(description["instance_classes"]["case0"], "dark")
    write_json(description, raw / "dataset.json")
    assert plan(tmp_path, "--no_pp") == 0
    assert fingerprint(tmp_path)["summary"]["lesions_per_class"] == {"dark": 10, "bright": 6}


def test_verify_names_every_bad_case_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_set(tmp_path / "raw", "csv")
    lines = (raw / "classes.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("case2,3,")]  # a lesion without a class
    kept += ["case3,99,dark", "case4,3,dark", "case0,17,purple", "stranger,1,dark"]
    (raw / "classes.csv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    assert plan(tmp_path, "--verify", "--no_pp") == 1
    message = capsys.readouterr().err
    for case, what in (
        ("case2", "without a class: 3"),
        ("case3", "not in the map: 99"),
        ("case4", "instance 3 is listed twice"),
        ("case0", "the unknown class 'purple'"),
        ("stranger", "a case that does not exist"),
    ):
        assert any(line.startswith(case) and what in line for line in message.splitlines()), (case, message)
    assert plan(tmp_path, "--no_pp") == 1
    assert "4 of 5 case(s) cannot be measured" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    write_set(root / "raw", "json")
    assert plan(root, "--val_split", "0.3") == 0
    plans = root / "preprocessed" / "Dataset321_Pairs" / "plans.json"
    content = json.loads(plans.read_text(encoding="utf-8"))
    # So little training is sure of nothing.
    content["inference"].update(candidate_threshold=0.001, score_threshold=0.001, max_candidates=12)
    write_json(content, plans)
    folders = [word for name in ("raw", "preprocessed", "results") for word in (f"--{name}", str(root / name))]
    quick = ["--max_minutes", "0.03", "--num_workers", "0", "-device", "cpu", "--no_progress"]
    quick += ["--disable_tta", "--shifted_scans", "0"]
    assert train.main(["321", "0", *folders, *quick]) == 0
    given = ["-i", str(root / "raw" / "Dataset321_Pairs" / "imagesTs"), "-o", str(root / "predictions")]
    flags = ["--candidate_threshold", "0.001", "--score_threshold", "0.001", "--disable_tta", "--no_progress"]
    assert predict.main([*given, "-d", "321", "-f", "0", "--results", str(root / "results"), *flags]) == 0
    return root


def test_a_prediction_states_the_class_of_each_instance_in_the_form_of_the_labels(trained: Path) -> None:
    stated = json.loads((trained / "predictions" / "instances" / "case5.json").read_text(encoding="utf-8"))
    record = json.loads((trained / "predictions" / "rois" / "case5.json").read_text(encoding="utf-8"))
    assert stated == {"instances": {str(lesion["id"]): lesion["label"] - 1 for lesion in record["lesions"]}}
    with (trained / "predictions" / "lesions.csv").open(newline="", encoding="utf-8") as handle:
        classes = [row["class"] for row in csv.DictReader(handle)]
    assert classes == [lesion["class"] for lesion in record["lesions"]]


def test_a_prediction_is_evaluated_by_class_with_its_records_and_without(trained: Path, tmp_path: Path) -> None:
    truth = str(trained / "raw" / "Dataset321_Pairs" / "labelsTs")
    assert evaluate.main(["-gt", truth, "-pred", str(trained / "predictions"), "-o", str(tmp_path / "a.json")]) == 0
    plain = str(trained / "predictions" / "instances")
    assert evaluate.main(["-gt", truth, "-pred", plain, "--instances", "both", "-o", str(tmp_path / "b.json")]) == 0
    first, second = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("a.json", "b.json"))
    assert set(first["summary"]["classes"]) == {"dark", "bright"}
    for name in ("dark", "bright"):
        counts = [result["summary"]["classes"][name]["detection"] for result in (first, second)]
        assert counts[0] == counts[1]


def test_the_truth_as_a_prediction_is_perfect_and_with_exchanged_classes_finds_nothing(
    trained: Path, tmp_path: Path
) -> None:
    truth = trained / "raw" / "Dataset321_Pairs" / "labelsTr"
    shutil.copytree(truth, tmp_path / "pred")
    for exchanged in (False, True):
        if exchanged:
            for file in (tmp_path / "pred").glob("*.json"):
                content = json.loads(file.read_text(encoding="utf-8"))["instances"]
                write_json({"instances": {key: 1 - index for key, index in content.items()}}, file)
        words = ["-gt", str(truth), "-pred", str(tmp_path / "pred"), "--instances", "both"]
        assert evaluate.main([*words, "-o", str(tmp_path / "m.json")]) == 0
        metrics = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
        for name in ("dark", "bright"):
            figures = metrics["summary"]["classes"][name]["detection"]["iou_0.1"]
            assert (figures["truth"], figures["found"]) == (8, 0 if exchanged else 8)


def test_the_cross_validation_reads_the_classes(trained: Path) -> None:
    folders = [word for name in ("raw", "results") for word in (f"--{name}", str(trained / name))]
    assert consolidate.main(["321", "-f", "0", *folders, "-np", "0", "--no_progress"]) == 0


def test_two_folders_of_nndetection_become_a_data_set_with_its_classes(tmp_path: Path) -> None:
    given = write_set(tmp_path / "given", "json")
    for image in (given / "imagesTr").iterdir():
        image.rename(image.with_name(image.name.replace("_0000", "")))
    words = ["--image_dir", str(given / "imagesTr"), "--label_dir", str(given / "labelsTr"), "--instances", "-np", "0"]
    target = ["--output_dir", str(tmp_path / "raw"), "--dataset_name", "Dataset321_Pairs", "--no_progress"]
    assert convert.main([*words, *target, "--labels", "dark", "bright", "--test_split", "0.2"]) == 0
    assert plan(tmp_path, "--verify", "--no_pp") == 0
    assert set(fingerprint(tmp_path)["summary"]["lesions_per_class"]) == {"dark", "bright"}
    assert len(list((tmp_path / "raw" / "Dataset321_Pairs" / "labelsTs").glob("*.json"))) == 1
