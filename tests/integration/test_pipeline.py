"""From a data set to an evaluated prediction through the commands' own main functions, on whatever users bring."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from detseg3d.cli import evaluate, example, plan_and_preprocess, predict, train, visualize
from detseg3d.planning.plans import load_plans
from detseg3d.system.json_files import write_json
from tests.scans import make_scan, quick_trainings

TURN = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)


class Pipeline:
    """A folder with ``raw``, ``preprocessed``, ``results`` and ``predictions``, and the commands between them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folders(self, *names: str) -> list[str]:
        return [word for name in names for word in (f"--{name}", str(self.root / name))]

    def run(self, dataset: str, minutes: float, ending: str, *predict_flags: str, has_copies: bool = False) -> Pipeline:
        """Run all commands; ``has_copies``: with mirrored and shifted copies of the scans."""
        roots = self.folders("raw", "preprocessed")
        assert plan_and_preprocess.main(["-d", dataset, *roots, "--verify", "-np", "0", "--val_split", "0.3"]) == 0
        [self.raw] = [path for path in (self.root / "raw").iterdir() if dataset in path.name]
        quick = ["--max_minutes", str(minutes), "--num_workers", "0", "-device", "cpu"]
        if not has_copies:
            quick += ["--disable_tta", "--shifted_scans", "0"]
            predict_flags = (*predict_flags, "--disable_tta")
        assert train.main([dataset, "0", *roots, *self.folders("results"), *quick]) == 0
        self.model = self.root / "results" / self.raw.name
        self.predictions = self.root / "predictions"
        source = ["-i", str(self.raw / "imagesTs"), "-o", str(self.predictions), "-d", dataset, "-f", "0"]
        flags = ["--candidate_threshold", "0.05", "--score_threshold", "0.05", *predict_flags]
        assert predict.main([*source, *self.folders("results"), *flags]) == 0
        folders = ["-gt", str(self.raw / "labelsTs"), "-pred", str(self.predictions)]
        assert evaluate.main([*folders, "-o", str(self.root / "metrics.json")]) == 0
        self.metrics = json.loads((self.root / "metrics.json").read_text(encoding="utf-8"))
        self.cases = sorted(path.name.removesuffix(ending) for path in (self.raw / "labelsTs").iterdir())
        return self

    def record(self, case_id: str) -> Any:
        return json.loads((self.predictions / "rois" / f"{case_id}.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Scans:
    """Properties of the scans of a data set; spacing in mm and shape in voxels, both ``(z, y, x)``."""

    channels: int = 1
    classes: int = 1
    spacing: Sequence[float] = (1.0, 1.0, 1.0)
    lesions: int = 4
    shape: Sequence[int] = (32, 40, 36)


def write_data(root: Path, name: str, ending: str, scans: Scans | None = None, **description: Any) -> None:
    """Write a raw data set of four training cases and two test cases."""
    folder = root / "raw" / name
    scans = scans or Scans()
    channels, classes, spacing = scans.channels, scans.classes, scans.spacing
    lesions, shape = scans.lesions, scans.shape
    for index in range(6):
        part, case_id = ("Tr", f"case{index}") if index < 4 else ("Ts", f"case{index}")
        image, label = make_scan(index, lesions if index != 3 else 0, shape)
        if classes > 1:  # odd slices of the scan's halves: class by place, and by brightness
            label[:, :, : shape[2] // 2] *= 2
            image[label == 2] += 60
        for channel in range(channels):
            noise = np.random.default_rng([index, channel]).normal(0, 5, image.shape)
            write(folder / f"images{part}" / f"{case_id}_{channel:04d}{ending}", image + noise * (image > 0), spacing)
        write(folder / f"labels{part}" / f"{case_id}{ending}", label, spacing)
    write_json(
        {
            "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
            "labels": {"background": 0, **{f"class {number}": number for number in range(1, classes + 1)}},
            "numTraining": 4,
            "file_ending": ending,
            **description,
        },
        folder / "dataset.json",
    )


def write(path: Path, array: np.ndarray, spacing: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array if array.dtype == np.uint8 else array.astype(np.float32)
    if path.suffix == ".npy":
        np.save(path, array)
        return
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([float(length) for length in reversed(spacing)])
    image.SetOrigin((-91.5, 126.1, 1 / 3))
    image.SetDirection(TURN)
    SimpleITK.WriteImage(image, str(path))


def assert_same_geometry(first: Path, second: Path) -> None:
    one, other = SimpleITK.ReadImage(str(first)), SimpleITK.ReadImage(str(second))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one, name)() == getattr(other, name)(), name


# -- The example data set ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_example(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    root = tmp_path_factory.mktemp("example")
    words = ["--num_cases", "5", "--num_test", "2", "--shape", "32", "40", "36", "-np", "0"]
    assert example.main([str(root / "raw"), *words]) == 0
    return Pipeline(root).run("999", 0.03, ".nii.gz", has_copies=True)


def test_every_scan_has_its_results(on_example: Pipeline) -> None:
    for case_id in on_example.cases:
        for name in (f"{case_id}.nii.gz", f"instances/{case_id}.nii.gz", f"rois/{case_id}.json"):
            assert (on_example.predictions / name).is_file()


def test_results_lie_where_the_scans_lie(on_example: Pipeline) -> None:
    for case_id in on_example.cases:
        given = on_example.raw / "imagesTs" / f"{case_id}_0000.nii.gz"
        assert_same_geometry(given, on_example.predictions / f"{case_id}.nii.gz")
        assert_same_geometry(given, on_example.predictions / "instances" / f"{case_id}.nii.gz")


def test_the_lesion_table_agrees_with_the_records(on_example: Pipeline) -> None:
    with (on_example.predictions / "lesions.csv").open(newline="", encoding="utf-8") as handle:
        rows = [(row["case"], int(row["id"]), int(row["voxels"])) for row in csv.DictReader(handle)]
    expected = [
        (case_id, lesion["id"], lesion["voxels"])
        for case_id in on_example.cases
        for lesion in on_example.record(case_id)["lesions"]
    ]
    assert rows == expected


def test_every_scan_is_evaluated(on_example: Pipeline) -> None:
    assert [case["case_id"] for case in on_example.metrics["cases"]] == on_example.cases
    assert on_example.metrics["problems"] == []


def test_the_held_out_cases_of_the_fold_are_evaluated(on_example: Pipeline) -> None:
    summary = json.loads((on_example.model / "fold_0" / "validation" / "summary.json").read_text(encoding="utf-8"))
    splits = json.loads(
        (on_example.root / "preprocessed" / on_example.raw.name / "splits_final.json").read_text(encoding="utf-8")
    )
    assert [case["case_id"] for case in summary["cases"]] == splits[0]["val"]


def test_the_training_is_drawn(on_example: Pipeline) -> None:
    assert (on_example.model / "fold_0" / "progress.png").read_bytes().startswith(b"\x89PNG")


def test_a_prediction_can_be_drawn(on_example: Pipeline, tmp_path: Path) -> None:
    case_id = on_example.cases[0]
    words = ["--image", str(on_example.raw / "imagesTs" / f"{case_id}_0000.nii.gz")]
    words += ["--pred", str(on_example.predictions / f"{case_id}.nii.gz")]
    words += ["--label", str(on_example.raw / "labelsTs" / f"{case_id}.nii.gz"), "--output", str(tmp_path / "a.png")]
    assert visualize.main(words) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_predicting_again_gives_the_same_files(on_example: Pipeline, tmp_path: Path) -> None:
    words = ["-i", str(on_example.raw / "imagesTs"), "-o", str(tmp_path), "-m", str(on_example.model)]
    assert predict.main([*words, "--candidate_threshold", "0.05", "--score_threshold", "0.05"]) == 0
    # Records of runs state times.
    files = [path for path in on_example.predictions.rglob("*.*") if not path.name.startswith("run.")]
    assert files
    for path in files:
        assert (tmp_path / path.relative_to(on_example.predictions)).read_bytes() == path.read_bytes()


# -- Other data --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick() -> Iterator[None]:
    """Only the training on the example draws its curves and checks the precision."""
    with quick_trainings():
        yield


@pytest.mark.usefixtures("quick")
def test_two_channels_two_classes_and_thick_slices(tmp_path: Path) -> None:
    spacing, shape = (4.0, 1.0, 0.75), (20, 44, 40)
    write_data(tmp_path, "Dataset002_Two", ".mha", Scans(channels=2, classes=2, spacing=spacing, shape=shape))
    done = Pipeline(tmp_path).run("002", 0.03, ".mha")
    plans = load_plans(done.model / "fold_0" / "plans.json")
    assert (plans.num_channels, plans.num_classes) == (2, 2)
    assert plans.stage1.strides[0][0] == 1, "thick slices are not pooled at once"
    for case_id in done.cases:
        for channel in ("0000", "0001"):
            given = done.raw / "imagesTs" / f"{case_id}_{channel}.mha"
            assert_same_geometry(given, done.predictions / f"{case_id}.mha")
        semantic = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(done.predictions / f"{case_id}.mha")))
        instances = SimpleITK.GetArrayFromImage(
            SimpleITK.ReadImage(str(done.predictions / "instances" / f"{case_id}.mha"))
        )
        for lesion in done.record(case_id)["lesions"]:
            assert lesion["class"] == f"class {lesion['label']}"
            assert set(np.unique(semantic[instances == lesion["id"]])) == {lesion["label"]}
    assert set(done.metrics["class_labels"]) == {"class 1", "class 2"}


@pytest.mark.usefixtures("quick")
def test_scans_without_any_lesion(tmp_path: Path) -> None:
    write_data(tmp_path, "Dataset003_Healthy", ".nii.gz", Scans(lesions=0))
    done = Pipeline(tmp_path).run("Healthy", 0.02, ".nii.gz")
    assert done.metrics["summary"]["overall"]["detection"]["any"]["truth"] == 0
    assert len(done.metrics["cases"]) == 2
    json.dumps(done.metrics, allow_nan=False)


@pytest.mark.usefixtures("quick")
def test_arrays(tmp_path: Path) -> None:
    write_data(tmp_path, "Dataset004_Arrays", ".npy", default_spacing=[2.0, 1.0, 1.0])
    done = Pipeline(tmp_path).run("Dataset004_Arrays", 0.02, ".npy", "--spacing", "2", "1", "1")
    for case_id in done.cases:
        given = np.load(done.raw / "imagesTs" / f"{case_id}_0000.npy")
        assert np.load(done.predictions / f"{case_id}.npy").shape == given.shape
        assert np.load(done.predictions / "instances" / f"{case_id}.npy").dtype == np.uint16
        assert done.record(case_id)["spacing"] == [2.0, 1.0, 1.0]


@pytest.mark.usefixtures("quick")
def test_instance_maps(tmp_path: Path) -> None:
    """Lesions that touch are told apart in the truth, and predictions are compared with them one by one."""
    write_data(tmp_path, "Dataset005_Maps", ".nii.gz", instances=True)
    for path in (tmp_path / "raw" / "Dataset005_Maps").glob("labelsT?/*.nii.gz"):
        image = SimpleITK.ReadImage(str(path))
        halves = SimpleITK.GetArrayFromImage(image)
        halves[:, :, 18:] *= 2  # two lesions, each in several pieces
        changed = SimpleITK.GetImageFromArray(halves)
        changed.CopyInformation(image)
        SimpleITK.WriteImage(changed, str(path))
    done = Pipeline(tmp_path).run("005", 0.02, ".nii.gz")
    assert done.metrics["summary"]["overall"]["detection"]["any"]["truth"] == 4
