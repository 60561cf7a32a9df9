from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.folders import FoldFolder, ModelFolder, PreparedFolder
from detseg3d.data.images import write_image
from detseg3d.evaluation.metrics import Criterion
from detseg3d.pipeline import fold_folder
from detseg3d.pipeline import train as fold_module
from detseg3d.pipeline.train import FoldPaths, run_fold, validate_fold
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.appearance.training import load_training_appearance
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION
from detseg3d.planning.overrides import TrainingOverrides
from detseg3d.planning.plans import Plans, load_plans, save_plans
from detseg3d.planning.splits import FoldCases, load_fold
from detseg3d.system.json_files import read_json, write_json
from detseg3d.training.distributed import DistributedContext
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.trainer import Trainer
from tests.evaluations import result_of
from tests.training.factory import write_store

SPLITS = [{"train": ["c", "a"], "val": ["b"]}, {"train": ["a", "b"], "val": ["c"]}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(SPLITS, tmp_path / "splits_final.json")
    return tmp_path


def test_a_fold_is_a_split_of_the_file(folder: Path) -> None:
    assert load_fold(PreparedFolder(folder), "1") == FoldCases(("a", "b"), ("c",))


def test_all_cases_train_in_the_fold_all(folder: Path) -> None:
    assert load_fold(PreparedFolder(folder), "all") == FoldCases(("a", "b", "c"), ("a", "b", "c"))


def test_folds_of_ones_own_count(folder: Path) -> None:
    write_json([{"train": [str(index)], "val": []} for index in range(7)], folder / "splits_final.json")
    assert load_fold(PreparedFolder(folder), "6") == FoldCases(("6",), ())


@pytest.mark.parametrize("name", ["2", "-1", "first", "", "0.0", "00", "²"])
def test_a_fold_that_is_not_there_is_never_made_up(folder: Path, name: str) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)this fold does not exist.*splits_final\.json.*expected: 0, 1 or all"):
        load_fold(PreparedFolder(folder), name)


def test_missing_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)the file does not exist.*splits_final\.json"):
        load_fold(PreparedFolder(tmp_path), "0")


@pytest.mark.parametrize(
    "splits",
    [{}, [], [["a", "b"]], [{"train": ["a"]}], [{"train": "a", "val": ["b"]}], [{"train": ["a"], "val": [1]}]],
)
@pytest.mark.parametrize("name", ["0", "all"])
def test_splits_of_another_form_are_refused(tmp_path: Path, splits: Any, name: str) -> None:
    write_json(splits, tmp_path / "splits_final.json")
    with pytest.raises(DetSeg3DError, match=r"(?s)the splits cannot be understood.*splits_final\.json.*expected: "):
        load_fold(PreparedFolder(tmp_path), name)


def use_trainer(monkeypatch: pytest.MonkeyPatch, run: Callable[[Trainer], None]) -> None:
    """Replace the training by ``run``."""

    class Quick(Trainer):
        def __init__(self, plans: Plans, data: TrainingData, folder: FoldFolder, options: TrainingOptions) -> None:
            self.plans, self.data, self.folder, self.options = plans, data, folder, options

        def run(self) -> None:
            run(self)

    monkeypatch.setattr(fold_module, "Trainer", Quick)


@pytest.fixture
def paths(tmp_path: Path, tiny_plans: Plans) -> FoldPaths:
    """A preprocessed data set of three cases; there is no raw one."""
    paths = FoldPaths(tmp_path / "raw", PreparedFolder(tmp_path / "preprocessed"), ModelFolder(tmp_path / "results"))
    write_store(paths.preprocessed.cases, tiny_plans, 3)
    save_plans(tiny_plans, paths.preprocessed.plans)
    noise = np.random.default_rng(0).normal(size=(3, 1, 24, 26, 28)).astype(np.float32)
    looks = [measure_appearance(images, Geometry(images.shape[1:])).model_dump(mode="json") for images in noise]
    cases = {f"case{index}": {"appearance": look} for index, look in enumerate(looks)}
    write_json({"version": FINGERPRINT_VERSION, "cases": cases}, paths.preprocessed.fingerprint)
    write_json([{"train": ["case0", "case1"], "val": ["case2"]}], paths.preprocessed.splits)
    return paths


def test_cases_made_with_other_plans_are_refused(paths: FoldPaths, tiny_plans: Plans) -> None:
    save_plans(tiny_plans.evolve(interpolation_order=3), paths.preprocessed.plans)
    with pytest.raises(
        DetSeg3DError, match=r"(?s)3 case\(s\) are not preprocessed with these plans.*case0.*detseg3d_plan"
    ):
        run_fold(paths, "0", TrainingOptions())


def test_cases_that_are_not_preprocessed_are_refused(paths: FoldPaths) -> None:
    write_json([{"train": ["case0", "gone"], "val": ["case2"]}], paths.preprocessed.splits)
    with pytest.raises(DetSeg3DError, match=r"(?s)1 case\(s\) are not preprocessed with these plans.*\['gone'\]"):
        run_fold(paths, "0", TrainingOptions())


def test_a_fold_trains_with_its_overrides(paths: FoldPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trainer] = []
    use_trainer(monkeypatch, seen.append)
    monkeypatch.setattr(fold_module, "validate_fold", lambda *arguments: {"cases": list(arguments[2])})
    assert run_fold(paths, "0", TrainingOptions(), TrainingOverrides(epochs=3)) == {"cases": ["case2"]}
    [trainer] = seen
    assert trainer.plans.training.epochs == 3
    assert (trainer.data.train_cases, trainer.data.val_cases) == (("case0", "case1"), ("case2",))
    assert trainer.folder == paths.model.fold("0")
    assert load_training_appearance(trainer.folder.appearance).cases == 2


def test_a_fingerprint_that_is_not_there_stops_a_training_before_it_begins(
    paths: FoldPaths, trainings: list[Path]
) -> None:
    (paths.preprocessed.fingerprint).unlink()
    with pytest.raises(DetSeg3DError) as caught:
        run_fold(paths, "0", TrainingOptions())
    assert caught.value.file == paths.preprocessed.fingerprint and trainings == []


def test_validation_alone_does_not_train(paths: FoldPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_module, "validate_fold", lambda *arguments: {"cases": list(arguments[2])})
    assert run_fold(paths, "0", TrainingOptions(), validation_only=True) == {"cases": ["case2"]}
    assert not paths.model.path.exists()


def test_what_an_earlier_validation_wrote_of_a_case_does_not_stay(
    paths: FoldPaths, tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case that fails this time must not be judged by the mask of last time."""
    validation = paths.model.fold("0").validation.path
    old = ["case2.mha", "instances/case2.mha", "rois/case2.json", "candidates/case2.npz"]
    old += ["shifted_scans.json", "shifted_scans/noise/truth/case2.npz"]
    old += ["summary.json", "true_boxes.json"]  # which would vouch for a validation that stops halfway
    for name in [*old, "notes.txt", "rois/other.json"]:
        (validation / name).parent.mkdir(parents=True, exist_ok=True)
        (validation / name).write_bytes(b"old")
    seen: list[str] = []

    def predict_cases(*_: Any, **__: Any) -> dict[str, str]:
        seen.extend(sorted(str(path.relative_to(validation)) for path in validation.rglob("*.*")))
        return {"case2": "unreadable"}

    raw = SimpleNamespace(
        cases=[SimpleNamespace(case_id="case2")],
        file_ending=".mha",
        label_files={},
        instance_classes=None,
        default_spacing=None,
    )
    predictor = SimpleNamespace(plans=tiny_plans)
    monkeypatch.setattr(fold_module, "predict_cases", predict_cases)
    monkeypatch.setattr(fold_module, "load_raw_dataset", lambda _: raw)
    monkeypatch.setattr(fold_module.Predictor, "from_model_folder", lambda *_, **__: predictor)
    monkeypatch.setattr(fold_module, "evaluate_folders", lambda *_, **__: result_of([]))
    with pytest.raises(DetSeg3DError, match=r"1 validation case\(s\) failed: case2"):
        run_fold(paths, "0", TrainingOptions(), validation_only=True)
    assert seen == ["notes.txt", "rois/other.json"]


# -- A fold that holds a training --------------------------------------------------------------------------------------

TRAINED = ("checkpoint_latest.pt", "model_best.safetensors", "model_final.safetensors")


def fill_folder(folder: Path, *names: str, content: bytes = b"earlier") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the description of the training scans, which every training begins with."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name != "appearance.json"}


@pytest.fixture
def trainings(paths: FoldPaths, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that trainings wrote to; each leaves the files of a complete model."""
    folders: list[Path] = []

    def train(trainer: Trainer) -> None:
        folders.append(trainer.folder.path)
        fill_folder(trainer.folder.path, *TRAINED, content=b"new")

    use_trainer(monkeypatch, train)
    monkeypatch.setattr(fold_module, "validate_fold", lambda *arguments: {"cases": list(arguments[2])})
    return folders


@pytest.mark.parametrize("left", TRAINED)
def test_a_fold_that_holds_something_trained_is_refused(paths: FoldPaths, trainings: list[Path], left: str) -> None:
    fill_folder(paths.model.fold("0").path, left)
    with pytest.raises(DetSeg3DError) as caught:
        run_fold(paths, "0", TrainingOptions())
    assert caught.value.file == paths.model.fold("0").path
    assert "--overwrite" in str(caught.value.remedy)
    assert trainings == [] and contents(paths.model.fold("0").path) == {left: b"earlier"}


@pytest.mark.parametrize("left", [(), ("plans.json", "training_log.jsonl")])
def test_a_fold_that_learned_nothing_yet_is_trained(
    paths: FoldPaths, trainings: list[Path], left: tuple[str, ...]
) -> None:
    fill_folder(paths.model.fold("0").path, *left)
    run_fold(paths, "0", TrainingOptions())
    assert trainings == [paths.model.fold("0").path]


@pytest.mark.parametrize("left", [TRAINED, TRAINED[:1], TRAINED[1:]])
def test_an_overwritten_fold_stays_until_the_new_model_is_complete(
    paths: FoldPaths, trainings: list[Path], left: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_folder(paths.model.fold("0").path, *left, "notes.txt")
    fill_folder(paths.model.fold("0").validation.path, "summary.json")
    before = contents(paths.model.fold("0").path)

    def fail(trainer: Trainer) -> None:
        fill_folder(trainer.folder.path, "checkpoint_latest.pt", content=b"new")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        use_trainer(patch, fail)
        with pytest.raises(KeyboardInterrupt):
            run_fold(paths, "0", TrainingOptions(overwrite=True))
    assert contents(paths.model.fold("0").path) == before
    with pytest.raises(DetSeg3DError) as caught:  # without a word on what shall become of the new training
        run_fold(paths, "0", TrainingOptions())
    assert caught.value.file == paths.model.replacement("0").path
    assert trainings == []
    save_plans(load_plans(paths.preprocessed.plans), paths.model.replacement("0").plans)
    run_fold(paths, "0", TrainingOptions(resume=True))
    assert trainings == [paths.model.replacement("0").path]
    after = contents(paths.model.fold("0").path)
    assert {name: after[name] for name in TRAINED} == dict.fromkeys(TRAINED, b"new")
    assert "notes.txt" not in after and "validation/summary.json" not in after
    assert [path.name for path in paths.model.path.iterdir() if path.is_dir()] == ["fold_0"]


def test_overwriting_a_fold_that_is_not_there_is_a_training(paths: FoldPaths, trainings: list[Path]) -> None:
    run_fold(paths, "0", TrainingOptions(overwrite=True))
    assert trainings == [paths.model.fold("0").path] and paths.model.fold("0").path.is_dir()


def test_a_replacement_is_begun_again_by_another_overwrite(paths: FoldPaths, trainings: list[Path]) -> None:
    fill_folder(paths.model.replacement("0").path, "checkpoint_latest.pt")
    run_fold(paths, "0", TrainingOptions(overwrite=True))
    assert trainings == [paths.model.replacement("0").path]
    assert contents(paths.model.fold("0").path) == dict.fromkeys(TRAINED, b"new")


def test_a_model_without_a_checkpoint_is_not_resumed_into_nothing(paths: FoldPaths, trainings: list[Path]) -> None:
    """As an installed model has none: going on would begin anew and remove its weights."""
    fill_folder(paths.model.fold("0").path, "model_final.safetensors")
    with pytest.raises(DetSeg3DError) as caught:
        run_fold(paths, "0", TrainingOptions(resume=True))
    assert caught.value.file == paths.model.fold("0").path
    assert trainings == [] and contents(paths.model.fold("0").path) == {"model_final.safetensors": b"earlier"}


def test_a_new_model_that_cannot_take_its_place_stays_beside_the_earlier_one(
    paths: FoldPaths, trainings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_folder(paths.model.fold("0").path, *TRAINED)

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fold_folder, "replace_folder", refuse)
    with pytest.raises(DetSeg3DError) as caught:
        run_fold(paths, "0", TrainingOptions(overwrite=True))
    assert caught.value.file == paths.model.replacement("0").path
    assert contents(paths.model.fold("0").path) == dict.fromkeys(TRAINED, b"earlier")
    assert contents(paths.model.replacement("0").path) == dict.fromkeys(TRAINED, b"new")


def test_only_the_main_process_moves_the_new_model(paths: FoldPaths, trainings: list[Path]) -> None:
    fill_folder(paths.model.fold("0").path, *TRAINED)
    assert run_fold(paths, "0", TrainingOptions(overwrite=True, distributed=DistributedContext(1, 2))) is None
    assert trainings == [paths.model.replacement("0").path]
    assert contents(paths.model.fold("0").path) == dict.fromkeys(TRAINED, b"earlier")


@pytest.fixture
def touching(paths: FoldPaths, tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The label of ``case2``, two lesions side by side; the "network" predicts just these."""
    label = np.zeros((6, 6, 6), np.uint8)
    label[2, 2, 2], label[2, 2, 3] = 1, 7
    geometry = Geometry(label.shape)
    write_image(label, geometry, paths.raw / "imagesTr" / "case2_0000.mha")
    write_image(label, geometry, paths.raw / "labelsTr" / "case2.mha")
    description = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".mha"}
    write_json(description, paths.raw / "dataset.json")

    def predict_cases(_predictor: Any, _cases: Any, folder: Path, **__: Any) -> dict[str, str]:
        write_image(label, geometry, folder / "instances" / "case2.mha")
        lesions = [{"id": number, "label": 1, "score": 0.5} for number in (1, 7)]
        write_json({"case_id": "case2", "lesions": lesions}, folder / "rois" / "case2.json")
        return {}

    predictor = SimpleNamespace(plans=tiny_plans.evolve(instances=True))
    monkeypatch.setattr(fold_module, "predict_cases", predict_cases)
    monkeypatch.setattr(fold_module.Predictor, "from_model_folder", lambda *_, **__: predictor)
    monkeypatch.setattr(fold_module, "segment_true_boxes", lambda *_: [])
    return label


def test_labels_are_validated_as_the_plans_read_them(paths: FoldPaths, touching: np.ndarray) -> None:
    """By ``--instances`` they are instance maps; the raw dataset.json does not say so."""
    result = validate_fold(paths, "0", ["case2"], TrainingOptions(show_progress=False, shifted_scans=0))
    assert result is not None and result.problems == ()
    lesions = result.summary.overall.detection[Criterion.ANY]
    assert (lesions.truth, lesions.found, lesions.predictions) == (2, 2, 2)


def test_labels_that_the_description_lists_are_found_anywhere(paths: FoldPaths, touching: np.ndarray) -> None:
    """nnU-Net's entry ``dataset``: neither the folder nor the name of a label tells its case."""
    (paths.raw / "labelsTr").rename(paths.raw / "masks")
    (paths.raw / "masks" / "case2.mha").rename(paths.raw / "masks" / "rater1.mha")
    description = read_json(paths.raw / "dataset.json")
    entry = {"images": ["imagesTr/case2_0000.mha"], "label": "masks/rater1.mha"}
    write_json(description | {"dataset": {"case2": entry}}, paths.raw / "dataset.json")
    result = validate_fold(paths, "0", ["case2"], TrainingOptions(show_progress=False, shifted_scans=0))
    assert result is not None and result.problems == ()
    assert [case.case_id for case in result.cases] == ["case2"]
