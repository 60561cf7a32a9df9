"""The whole command with the tiny model, on its two validation scans."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shift.__main__ import main
from benchmarks.shift.conditions import CLEAN, conditions_of
from benchmarks.shift.scans import ChangedScans
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import read_image, write_image
from detseg3d.planning.plans import Plans
from detseg3d.synthetic.shifts.shift import Strength
from detseg3d.system.json_files import read_json, write_json
from tests.scans import write_dataset

SHIFTS = ["thick_slices_z", "offset_and_scale", "cropped"]
NAME = "Dataset001_Tiny"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    write_dataset(folder / "raw", tiny_plans)
    write_json([{"train": ["case1", "case2"], "val": ["case0", "case3"]}], folder / "pre" / NAME / "splits_final.json")
    return folder


def arguments(root: Path, *more: str) -> list[str]:
    common = ["1", "0", "--raw", str(root / "raw"), "--preprocessed", str(root / "pre")]
    return [*common, "--scans", str(root / "scans"), "--shifts", *SHIFTS, *more]


@pytest.fixture(scope="module")
def predicted(root: Path, tiny_model: Path) -> Path:
    main(arguments(root, "--results", str(tiny_model.parent), "-o", str(root / "out")))
    return root / "out"


def test_the_table_has_a_row_for_each_condition(predicted: Path) -> None:
    rows = read_json(predicted / "table_plan.json")["rows"]
    assert [row["condition"] for row in rows] == [
        "clean", "thick_slices_z_medium", "offset_and_scale_medium", "cropped_medium",
    ]  # fmt: skip
    assert rows[0]["lesions"] == 4 and rows[0]["scans"] == 2
    # The network normalises every scan, so another unit changes nothing.
    assert rows[2]["f1"] == rows[0]["f1"]
    assert "| clean |" in (predicted / "table_plan.md").read_text(encoding="utf-8")


def test_another_operating_point_does_not_predict_again(
    predicted: Path, root: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detseg3d.inference.predictor.Predictor.find_candidates", None)
    for point in ("0.9", "home", "robust"):
        results = ["--results", str(tiny_model.parent), "-o", str(predicted)]
        main(arguments(root, *results, "--operating_point", point))
        assert len(read_json(predicted / f"table_{point}.json")["rows"]) == 4


def test_candidates_of_another_model_are_refused(predicted: Path, root: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "results" / NAME
    shutil.copytree(tiny_model / "fold_1", other / "fold_0")
    with pytest.raises(SystemExit, match="another model"):
        main(arguments(root, "--results", str(other.parent), "-o", str(predicted)))


def test_the_changed_scans_are_a_raw_data_set(predicted: Path, root: Path) -> None:
    dataset = load_raw_dataset(root / "scans" / "thick_slices_z_medium" / NAME)
    assert [case.case_id for case in dataset.cases] == ["case0", "case3"]
    case = dataset.cases[0]
    assert case.label is not None
    image, label = read_image(case.images[0]), read_image(case.label)
    assert image.geometry.difference(label.geometry) == [] and image.spacing == (5.0, 1.0, 1.0)
    instances = read_image(root / "scans" / "thick_slices_z_medium" / NAME / "instancesTr" / "case0.mha").array
    assert ((instances > 0) == (label.array > 0)).all() and instances.max() == 4


def test_true_masks_of_another_system_are_perfect(predicted: Path, root: Path, tmp_path: Path) -> None:
    raw = load_raw_dataset(root / "raw" / NAME)
    scans = ChangedScans(raw, root / "scans")
    for condition in conditions_of(raw.channel_names, SHIFTS, [Strength.MEDIUM]):
        for case_id in ("case0", "case3"):
            scan = scans.read(condition, case_id)
            mask = (scan.lesions.instances > 0).astype(np.uint8)
            file = tmp_path / "masks" / condition.folder / f"{case_id}.mha"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(mask, scan.geometry, file)
    main(arguments(root, "--masks", str(tmp_path / "masks"), "-o", str(tmp_path / "out")))
    rows = read_json(tmp_path / "out" / "table.json")["rows"]
    assert [row["f1"] for row in rows] == [1.0] * 4 and [row["dice"] for row in rows] == [1.0] * 4
    assert rows[0]["ap"] is None


def test_a_mask_on_another_grid_ends_the_command(predicted: Path, root: Path, tmp_path: Path) -> None:
    clean = root / "raw" / NAME / "labelsTr"
    for name in ("clean", "thick_slices_z_medium", "offset_and_scale_medium", "cropped_medium"):
        shutil.copytree(clean, tmp_path / "masks" / name)
    with pytest.raises(SystemExit, match="grid"):
        main(arguments(root, "--masks", str(tmp_path / "masks"), "-o", str(tmp_path / "out")))


def test_scans_are_the_same_in_another_folder(predicted: Path, root: Path, tmp_path: Path) -> None:
    main([*arguments(root, "--only_scans"), "--scans", str(tmp_path / "again")])
    for file in (root / "scans").rglob("*.mha"):
        again = tmp_path / "again" / file.relative_to(root / "scans")
        assert (read_image(file).array == read_image(again).array).all()


def test_a_folder_with_scans_of_another_seed_is_refused(predicted: Path, root: Path) -> None:
    with pytest.raises(SystemExit, match="seed"):
        main(arguments(root, "--only_scans", "--seed", "1"))


def test_a_model_is_tested_on_all_scans_of_another_data_set(
    root: Path, tiny_plans: Plans, tiny_model: Path, tmp_path: Path
) -> None:
    write_dataset(root / "raw", tiny_plans, count=2, name="Dataset002_Other")
    results = ["--results", str(tiny_model.parent), "--scans_of", "Dataset002_Other", "-o", str(tmp_path)]
    main(["1", "0", "--raw", str(root / "raw"), "--shifts", "gamma", *results])
    table = read_json(tmp_path / "table_plan.json")
    assert [row["scans"] for row in table["rows"]] == [2, 2] and "Dataset002_Other" in table["title"]


def test_lesions_keep_their_numbers_and_classes(root: Path) -> None:
    scans = ChangedScans(load_raw_dataset(root / "raw" / NAME), root / "scans")
    clean = scans.read(CLEAN, "case0")
    assert scans.lesion_volumes("case0") == {
        number: float((clean.lesions.instances == number).sum()) for number in clean.lesions.classes
    }
    with pytest.raises(DetSeg3DError) as caught:
        scans.read(CLEAN, "case9")
    assert caught.value.value == "case9"
