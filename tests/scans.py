"""Scans that a tiny network learns within seconds: a body of noise in air, with bright blocks as lesions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.components import instances_from_semantic
from detseg3d.core.geometry import Geometry
from detseg3d.data.case_store import CaseStore
from detseg3d.data.images import write_image
from detseg3d.pipeline.prepare import PrepareOptions, prepare_dataset
from detseg3d.planning.appearance.scan import measure_appearance
from detseg3d.planning.appearance.training import TrainingAppearance, save_training_appearance
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.preprocessing.case import preprocess_case
from detseg3d.system.files import write_text
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run

SHAPE = (30, 36, 33)


def make_scan(
    seed: int, lesions: int = 4, shape: Sequence[int] = SHAPE, edges: tuple[int, int] = (3, 6), value: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """A scan float32 ``(Z, Y, X)`` and its label uint8; lesions do not touch.

    Parameters
    ----------
    edges : 2 ints
        Smallest and largest edge of a lesion, in voxels.
    value : int
        Of the lesions in the label.
    """
    random = np.random.default_rng(seed)
    image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    body = tuple(slice(2, n - 3) for n in shape)
    image[body] = random.normal(100, 10, image[body].shape)
    placed = 0
    for _ in range(200):
        size = random.integers(edges[0], edges[1] + 1, 3)
        low = [int(random.integers(4, n - 5 - s)) for n, s in zip(shape, size, strict=True)]
        around = tuple(slice(a - 2, a + int(s) + 2) for a, s in zip(low, size, strict=True))
        if placed < lesions and not label[around].any():
            label[tuple(slice(a, a + int(s)) for a, s in zip(low, size, strict=True))] = value
            placed += 1
    image[label > 0] += 60
    return image, label


def train_model(folder: Path, plans: Plans) -> Path:
    """Train ``fold_0`` for some seconds, and ``fold_1`` a little on from there, so that it differs."""
    from detseg3d.data.folders import FoldFolder
    from detseg3d.training.options import TrainingData, TrainingOptions
    from detseg3d.training.trainer import Trainer

    store = CaseStore(folder / "cases")
    looks = []
    for seed in range(6):
        image, label = make_scan(seed)
        looks.append(measure_appearance(image[None], Geometry(image.shape, plans.fine_spacing)))
        instances, classes = instances_from_semantic(label, [1])
        case = preprocess_case(image[None], plans.fine_spacing, plans, instances, classes)
        store.write(
            f"case{seed}", case.image, case.instances, {"shape": case.transform.fine_shape, "lesions": case.lesions}
        )
    training = {
        "steps": 168,
        "steps_per_epoch": 24,  # a checkpoint after every fourth step would take as long as the steps
        "learning_rate": 5e-3,
        "ema_decay": 0.9,
        "max_windows_per_case": 4,
        "min_rois_per_window": 4,
        "curriculum": [{"fraction": 0.8, "window": [20, 20, 20]}, {"fraction": 0.2, "window": None}],
    }
    quick = plans.evolve(training=training)
    options = TrainingOptions(num_workers=0, show_progress=False)
    data = TrainingData(store, store.case_ids())
    with quick_trainings():
        Trainer(quick, data, FoldFolder(folder / "fold_0"), options).run()
    again = TrainingOptions(
        num_workers=0, show_progress=False, seed=1, pretrained_weights=folder / "fold_0" / "model_final.safetensors"
    )
    longer = quick.evolve(training={"steps": 24})
    with quick_trainings():
        Trainer(longer, data, FoldFolder(folder / "fold_1"), again).run()
    reference = TrainingAppearance.of(looks, plans.channel_names, plans.normalization)
    for fold in ("fold_0", "fold_1"):
        save_training_appearance(reference, folder / fold / "appearance.json")
    return folder


@contextmanager
def quick_trainings() -> Iterator[None]:
    """Draw no curves and trust half precision: both take longer than tiny trainings, and both have their own tests."""
    from detseg3d.training import trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "plot_progress", lambda _log, picture: write_text("picture", picture))
        patch.setattr(trainer, "check_precision", lambda *_: None)
        yield


def write_dataset(
    root: Path, plans: Plans, count: int = 4, name: str = "Dataset001_Tiny", ending: str = ".mha"
) -> Path:
    """A raw data set of ``make_scan`` cases ``case0``, ``case1``, … for these plans; the last one is healthy."""
    folder = root / name
    for index in range(count):
        image, label = make_scan(index, lesions=0 if index == count - 1 else 4)
        write_image(image, Geometry(image.shape), folder / "imagesTr" / f"case{index}_0000{ending}")
        write_image(label, Geometry(label.shape), folder / "labelsTr" / f"case{index}{ending}")
    write_json(
        {
            "channel_names": dict(enumerate(plans.channel_names)),
            "labels": {"background": 0, **dict(zip(plans.class_names, plans.class_labels, strict=True))},
            "numTraining": count,
            "file_ending": ending,
        },
        folder / "dataset.json",
    )
    return folder


def prepare(raw: Path, preprocessed: Path, plans: Plans) -> Path:
    """Preprocess a data set with plans of one's own, into one split: ``case0`` and the last case are held out."""
    save_plans(plans.evolve(dataset_name=raw.name), preprocessed / raw.name / "plans.json")
    options = PrepareOptions(run=Run(0, show_progress=False), keep_plans=True)
    prepared = prepare_dataset(raw, preprocessed, options)
    cases = sorted(prepared.preprocessed)
    write_json([{"train": cases[1:-1], "val": [cases[0], cases[-1]]}], prepared.folder / "splits_final.json")
    return prepared.folder
