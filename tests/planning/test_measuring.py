from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.cases import read_case
from detseg3d.data.dataset import RawCase, RawDataset, load_raw_dataset
from detseg3d.data.images import write_image
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.fingerprint import Fingerprint, percentiles
from detseg3d.planning.fingerprint_file import load_appearances, save_fingerprint
from detseg3d.planning.measuring import measure_case, measure_dataset, samples_per_case
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from tests.preprocessing.factory import write_dataset


def two_lesions() -> tuple[np.ndarray, np.ndarray]:
    images = np.zeros((1, 20, 20, 20), np.float32)
    images[0, 2:18, 2:18, 2:18] = 100
    instances = np.zeros((20, 20, 20), np.int32)
    instances[4, 4, 4] = 1
    instances[10:13, 10:14, 10:12] = 2
    images[0][instances == 1], images[0][instances == 2] = 150, 200
    return images, instances


def test_lesions_are_measured_in_millimetres() -> None:
    images, instances = two_lesions()
    record, _ = measure_case(images, Geometry(images.shape[1:], (3.0, 1.0, 0.5)), instances, np.array([1, 0]))
    first, second = record.lesions
    assert (first.class_index, second.class_index) == (1, 0)
    assert (first.voxels, second.voxels) == (1, 24)
    assert (first.volume_mm3, second.volume_mm3) == (1.5, 36.0)
    assert second.extents_mm == (9.0, 4.0, 1.0)
    assert first.center_mm == (2.5 * 3, 2.5, 1.25)  # from the edge of the crop, which begins at voxel 2
    assert first.diameter_mm == pytest.approx((6 * 1.5 / np.pi) ** (1 / 3))
    wanted = np.linalg.norm([(11.5 - 4.5) * 3, 12 - 4.5, (11 - 4.5) * 0.5])
    assert first.nearest_mm == second.nearest_mm == pytest.approx(wanted)


def test_crop_and_intensities() -> None:
    images, instances = two_lesions()
    record, samples = measure_case(images, Geometry(images.shape[1:]), instances, np.array([0, 0]))
    assert record.crop_box == (2, 2, 2, 18, 18, 18)
    assert record.cropped_shape == (16, 16, 16)
    lesions = record.intensity[0].lesions
    assert lesions.mean == pytest.approx((150 + 24 * 200) / 25)
    assert (lesions.percentiles[0], lesions.percentiles[100]) == (150, 200)
    assert record.intensity[0].body.percentiles[0] == 100
    assert len(samples[0].lesions) == 25
    assert len(samples[0].body) == 16**3


def test_case_without_lesions() -> None:
    images, instances = two_lesions()
    record, samples = measure_case(images, Geometry(images.shape[1:]), instances * 0, np.zeros(0, int))
    assert record.lesions == ()
    assert record.intensity[0].lesions is None
    assert len(samples[0].lesions) == 0


def test_a_lone_lesion_has_no_neighbour() -> None:
    images, instances = two_lesions()
    record, _ = measure_case(images, Geometry(images.shape[1:]), np.where(instances == 1, 1, 0), np.array([0]))
    assert record.lesions[0].nearest_mm is None


def test_large_volumes_are_sampled_with_a_seed_and_extremes_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detseg3d.planning.measuring._MAX_SAMPLES", 100)
    monkeypatch.setattr("detseg3d.planning.measuring._PERCENTILE_VALUES", 1000)
    images = np.random.default_rng(0).normal(500, 50, (1, 20, 20, 20)).astype(np.float32)
    images[0, 7, 7, 7] = 5000
    record, samples = measure_case(
        images, Geometry(images.shape[1:]), np.zeros((20, 20, 20), np.int32), np.zeros(0, int), seed=3
    )
    body = record.intensity[0].body
    assert body is not None and body.percentiles[100] == 5000
    assert body.percentiles[50] == pytest.approx(500, abs=10)
    assert len(samples[0].body) == 100
    again = measure_case(
        images, Geometry(images.shape[1:]), np.zeros((20, 20, 20), np.int32), np.zeros(0, int), seed=3
    )[1]
    assert np.array_equal(samples[0].body, again[0].body)


def test_a_measurement_continues_from_the_cases_on_disk_and_gives_the_same_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = load_raw_dataset(write_dataset(tmp_path, lesions=(3, 0, 5, 2), spacing=(2, 1, 1)))
    quiet, folder = Run(0, show_progress=False), tmp_path / "measurements"
    expected = measure_dataset(raw, quiet)
    damaged = raw.cases[1].images[0].path
    content, status = damaged.read_bytes(), damaged.stat()
    damaged.write_bytes(b"no image")
    with pytest.raises(DetSeg3DError):
        measure_dataset(raw, quiet, folder)
    damaged.write_bytes(content)
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))
    read: list[str] = []

    def read_and_note(case: RawCase, dataset: RawDataset) -> object:
        read.append(case.case_id)
        return read_case(case, dataset)

    monkeypatch.setattr("detseg3d.planning.measuring.read_case", read_and_note)
    assert measure_dataset(raw, quiet, folder) == expected
    assert read == ["case1"]
    os.utime(raw.cases[2].images[0].path)  # as if the file were replaced
    (folder / "case3.npz").write_bytes(b"half a file")
    assert measure_dataset(raw, quiet, folder).summary == expected.summary
    assert read == ["case1", "case2", "case3"]


def test_many_cases_give_fewer_intensities_each() -> None:
    assert [samples_per_case(cases) for cases in (1, 1000, 2000, 10_000)] == [10_000, 10_000, 5000, 1000]


def test_the_summary_counts_the_whole_data_set(tmp_path: Path) -> None:
    raw = load_raw_dataset(write_dataset(tmp_path, lesions=(3, 0, 5, 2), spacing=(2, 1, 1)))
    fingerprint = measure_dataset(raw, Run(0, show_progress=False))
    summary = fingerprint.summary
    assert (summary.cases, summary.lesions) == (4, 10)
    assert summary.cases_without_lesions == ("case1",)
    assert summary.lesions_per_class == {"lesion": 10}
    assert summary.lesions_per_case[50] == 2.5
    assert summary.spacing.z[50] == 2
    assert summary.longest_edge_mm[100] == 6
    assert summary.volume_mm3[0] == 2
    [flair] = summary.intensity
    assert flair.lesions is not None and flair.body is not None and flair.lesions.mean > flair.body.mean
    assert Fingerprint.model_validate(json.loads(json.dumps(fingerprint.model_dump(mode="json")))) == fingerprint


def test_set_without_lesions_is_still_json(tmp_path: Path) -> None:
    fingerprint = measure_dataset(
        load_raw_dataset(write_dataset(tmp_path, lesions=(0, 0))), Run(0, show_progress=False)
    )
    assert fingerprint.summary.volume_mm3 == {}
    assert fingerprint.summary.intensity[0].lesions is None
    json.dumps(fingerprint.model_dump(mode="json"), allow_nan=False)


def test_failed_cases_are_all_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path)
    for name in ("case0", "case2"):
        (folder / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(b"garbage")
    with pytest.raises(DetSeg3DError, match=r"2 of 4 case\(s\) cannot be measured(.|\n)*case0(.|\n)*case2"):
        measure_dataset(load_raw_dataset(folder), Run(0, show_progress=False))


def test_percentiles_of_nothing_are_nothing() -> None:
    assert percentiles([]) == {}


def test_a_case_too_large_to_be_measured_is_refused_from_its_header(tmp_path: Path) -> None:
    image = tmp_path / "huge_0000.npy"
    np.lib.format.open_memmap(image, mode="w+", dtype=np.float32, shape=(4000, 4000, 4000)).flush()
    case = RawCase.of_files("huge", [image], image)
    with pytest.raises(DetSeg3DError, match=r"this scan of 4000×4000×4000 voxels needs about 1\.09e\+03 GB"):
        read_case(case, RawDataset(tmp_path, "D", ("MRI",), {"background": 0, "lesion": 1}, ".npy", (case,)))


def test_each_case_holds_the_appearance_of_its_scan(tmp_path: Path) -> None:
    raw = load_raw_dataset(write_dataset(tmp_path, spacing=(2, 1, 1)))
    fingerprint = measure_dataset(raw, Run(0, show_progress=False))
    save_fingerprint(fingerprint, tmp_path / "f.json")
    looks = load_appearances(tmp_path / "f.json", [case.case_id for case in raw.cases])
    for case, found in zip(raw.cases, looks, strict=True):
        images, geometry, _, _ = read_case(case, raw)
        assert found == measure_appearance(images, geometry)
        assert found.spacing == (2, 1, 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "4"),
        ({"version": 3, "cases": {"a": {}}}, "4"),
        ({"version": 4, "cases": {"b": {}}}, None),
        ({"version": 4, "cases": {"a": {}}}, None),
        ({"version": 4, "cases": {"a": {"appearance": {"spacing": [1, 1, 1]}}}}, None),
    ],
)
def test_a_fingerprint_without_appearances_is_an_error(tmp_path: Path, content: object, expected: str | None) -> None:
    write_json(content, tmp_path / "f.json")
    with pytest.raises(DetSeg3DError) as caught:
        load_appearances(tmp_path / "f.json", ["a"])
    assert (caught.value.file, caught.value.expected) == (tmp_path / "f.json", expected)
    assert caught.value.remedy is not None and "detseg3d_plan_and_preprocess" in caught.value.remedy


@pytest.mark.parametrize("length", [1e-7, 1e7])
def test_a_case_with_a_spacing_out_of_range_is_not_measured(tmp_path: Path, length: float) -> None:
    grid = Geometry((6, 6, 6), (1.0, length, 1.0))
    write_image(np.ones(grid.shape, np.float32), grid, tmp_path / "a_0000.nii.gz")
    write_image(np.zeros(grid.shape, np.uint8), grid, tmp_path / "a.nii.gz")
    case = RawCase.of_files("a", [tmp_path / "a_0000.nii.gz"], tmp_path / "a.nii.gz")
    with pytest.raises(DetSeg3DError) as caught:
        read_case(case, RawDataset(tmp_path, "D", ("MRI",), {"background": 0, "lesion": 1}, ".nii.gz", (case,)))
    assert "case a" in caught.value.problem and caught.value.value[1] == pytest.approx(length)
