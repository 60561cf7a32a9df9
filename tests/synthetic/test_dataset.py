from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import read_image
from detseg3d.data.verify import verify_dataset
from detseg3d.synthetic import dataset as synthetic
from detseg3d.synthetic.dataset import (
    RANDOM_DATASET,
    PhantomOptions,
    RandomScanOptions,
    write_example_dataset,
    write_random_dataset,
)
from detseg3d.system.json_files import read_json
from detseg3d.system.run import Run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_dataset(
        tmp_path_factory.mktemp("raw"), num_cases=10, num_test=2, phantom=PhantomOptions((20, 24, 28), (3.0, 1.0, 0.5))
    )


def test_the_data_set_has_the_layout_of_nnunet(dataset: Path) -> None:
    assert dataset.name == "Dataset999_Example"
    for part, prefix, count in (("Tr", "example", 10), ("Ts", "held_out", 2)):
        names = [f"{prefix}_{index:03d}" for index in range(1, count + 1)]
        images = sorted(path.name for path in (dataset / f"images{part}").iterdir())
        labels = sorted(path.name for path in (dataset / f"labels{part}").iterdir())
        assert images == [f"{name}_0000.nii.gz" for name in names]
        assert labels == [f"{name}.nii.gz" for name in names]


def test_the_description_is_complete(dataset: Path) -> None:
    description = read_json(dataset / "dataset.json")
    assert description["channel_names"] == {"0": "MRI"}
    assert description["labels"] == {"background": 0, "lesion": 1}
    assert description["file_ending"] == ".nii.gz"
    assert description["numTraining"] == 10


def test_files_have_the_requested_grid(dataset: Path) -> None:
    image, geometry = read_image(dataset / "imagesTr" / "example_001_0000.nii.gz")
    label, label_geometry = read_image(dataset / "labelsTr" / "example_001.nii.gz")
    assert image.shape == label.shape == (20, 24, 28)
    assert geometry.spacing == pytest.approx((3.0, 1.0, 0.5))
    assert geometry.difference(label_geometry) == []


def test_one_of_ten_cases_is_healthy(dataset: Path) -> None:
    empty = [path.name for path in sorted((dataset / "labelsTr").iterdir()) if not read_image(path)[0].any()]
    assert empty == ["example_004.nii.gz"]


def test_held_out_cases_differ_from_training_cases(dataset: Path) -> None:
    training, _ = read_image(dataset / "imagesTr" / "example_001_0000.nii.gz")
    held_out, _ = read_image(dataset / "imagesTs" / "held_out_001_0000.nii.gz")
    assert not np.array_equal(training, held_out)


def test_an_unfinished_data_set_is_completed(tmp_path: Path) -> None:
    (tmp_path / "Dataset999_Example" / "imagesTr").mkdir(parents=True)
    folder = write_example_dataset(tmp_path, num_cases=1, num_test=0, phantom=PhantomOptions((16, 16, 16)))
    assert (folder / "dataset.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_cases": 0}, "at least one training case"),
        ({"num_test": -1}, "at least one training case"),
        ({"dataset_id": 1000}, "number of the data set"),
        ({"phantom": PhantomOptions((4, 4, 4))}, "example_001: the volume is too small"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DetSeg3DError, match=message):
        write_example_dataset(tmp_path, **change)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("dataset.json"))


def test_a_case_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise DetSeg3DError("disk full")

    monkeypatch.setattr(synthetic, "write_image", fail)
    with pytest.raises(DetSeg3DError, match="example_001: disk full"):
        write_example_dataset(tmp_path, num_cases=1, num_test=0, phantom=PhantomOptions((16, 16, 16)))


SMALL = RandomScanOptions(num_cases=3, longest_edge=28, seed=5)


@pytest.fixture(scope="module")
def random_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_dataset(tmp_path_factory.mktemp("random"), SMALL)


def test_random_scans_are_a_complete_raw_data_set(random_dataset: Path) -> None:
    assert random_dataset.name == RANDOM_DATASET
    raw = load_raw_dataset(random_dataset)
    assert [case.case_id for case in raw.cases] == ["random_00001", "random_00002", "random_00003"]
    assert raw.class_names == ("lesion",)
    assert not [problem for problem in verify_dataset(raw, Run(show_progress=False), 2) if problem.stops]


def test_random_scans_differ_in_size_and_spacing(random_dataset: Path) -> None:
    geometries = [read_image(path)[1] for path in sorted((random_dataset / "imagesTr").iterdir())]
    assert len({geometry.shape for geometry in geometries}) == 3
    assert len({geometry.spacing for geometry in geometries}) == 3


def test_equal_seeds_give_equal_random_data_sets(random_dataset: Path, tmp_path: Path) -> None:
    again = write_random_dataset(tmp_path, SMALL)
    for file in sorted((random_dataset / "imagesTr").iterdir()):
        assert file.read_bytes() == (again / "imagesTr" / file.name).read_bytes()


def test_random_scans_are_not_overwritten(random_dataset: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        write_random_dataset(random_dataset.parent, SMALL)
    assert error.value.file == random_dataset


@pytest.mark.parametrize(
    ("options", "value"),
    [(RandomScanOptions(num_cases=1), 1), (RandomScanOptions(longest_edge=24), 24)],
)
def test_bad_options_of_random_scans_are_refused(tmp_path: Path, options: RandomScanOptions, value: int) -> None:
    with pytest.raises(DetSeg3DError) as error:
        write_random_dataset(tmp_path, options)
    assert error.value.value == value
    assert not list(tmp_path.iterdir())
