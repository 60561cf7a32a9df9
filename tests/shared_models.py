"""Model folders with all that belongs to a model, and model files with something changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.inference.model_file import model_checksum
from detseg3d.inference.operating_point import OperatingPoint, save_operating_point, weights_digest
from detseg3d.planning.fingerprint_file import save_fingerprint
from detseg3d.planning.sections import InferencePlan
from detseg3d.system.json_files import write_json
from tests.planning.factory import cubes, make_dataset, make_fingerprint
from tests.reporting.html.factory import SHAPE, cube, evaluate, save_case

SECRET = "MüllerAnna19610412"
"""Name of a case and a patient: nothing that is handed on may hold it."""


def complete_model(folder: Path, tiny_model: Path) -> Path:
    """Copy the tiny model, with everything that training and consolidation leave beside its folds."""
    for fold in ("fold_0", "fold_1"):
        (folder / fold / "validation").mkdir(parents=True)
        for name in (
            "plans.json",
            "appearance.json",
            "model_final.safetensors",
            "checkpoint_latest.pt",
            "training_log.jsonl",
        ):
            shutil.copyfile(tiny_model / fold / name, folder / fold / name)
        (folder / fold / "validation" / f"{SECRET}.nii.gz").write_bytes(b"a scan")
    shutil.copyfile(tiny_model / "fold_0" / "plans.json", folder / "plans.json")
    labels = {"background": 0, "lesion": 1}
    write_json(
        {
            "name": "Tiny",
            "channel_names": {"0": "FLAIR"},
            "labels": labels,
            "numTraining": 4,
            "file_ending": ".nii.gz",
            "patients": {SECRET: SECRET},
            "dataset": {SECRET: {"images": [f"imagesTr/{SECRET}_0000.nii.gz"], "label": f"labelsTr/{SECRET}.nii.gz"}},
        },
        folder / "dataset.json",
    )
    cases = (SECRET, f"{SECRET}_healthy")  # as the program itself measures and evaluates them
    shapes, spacings = [(20, 30, 30)] * 2, [(1.0, 1.0, 1.0)] * 2
    fingerprint = make_fingerprint(make_dataset(cases), shapes, spacings, [cubes([3, 5]), []])
    save_fingerprint(fingerprint, folder / "dataset_fingerprint.json")
    evaluated = folder.with_name(f"evaluated_{SECRET}")
    for case, edge in zip(cases, (4, 0), strict=True):
        truth, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint16)
        cube(truth, (4, 4, 4), edge, 1)
        cube(prediction, (4, 4, 5), edge, 1)
        save_case(evaluated, case, np.ones(SHAPE, np.float32), truth, prediction)
    write_image(np.zeros(SHAPE, np.uint8), Geometry(SHAPE), evaluated / "labels" / f"{SECRET}_forgotten.nii.gz")
    write_json(evaluate(evaluated).to_json(), folder / "cross_validation" / "metrics.json")
    weights = {fold: weights_digest(folder / fold / "model_final.safetensors") for fold in ("fold_0", "fold_1")}
    point = OperatingPoint(inference=InferencePlan(score_threshold=0.123), objective="F1", weights=weights)
    save_operating_point(point, folder)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(name: str, **changes: object) -> Callable[[ModelContent], None]:
    """Return a change of entries of a JSON document."""

    def change(content: ModelContent) -> None:
        content.documents[name] = json.dumps({**json.loads(content.documents[name]), **changes})

    return change


def with_absurd_plans(content: ModelContent) -> None:
    """Ask for channels that no machine has memory for."""
    for name in ("fold_0/plans.json", "fold_1/plans.json"):
        data = json.loads(content.documents[name])
        data["stage1"]["channels"] = [8, 10**9]
        content.documents[name] = json.dumps(data)


@dataclass
class ModelContent:
    """What a model file holds, to be changed."""

    name: str
    documents: dict[str, str]
    tensors: dict[str, torch.Tensor]

    def write(self, path: Path, **description: object) -> Path:
        """Write the content with a right checksum, whatever it is; ``description`` replaces entries of that."""
        own = {"format": "DetSeg3D model", "version": 1, "name": self.name, "made_with": "0.1.0"}
        own["sha256"] = model_checksum(self.documents, self.tensors.items())
        metadata = {**self.documents, "detseg3d": json.dumps({**own, **description})}
        save_file(self.tensors, str(path), metadata=metadata)
        return path


def read_content(path: Path) -> ModelContent:
    """Read a model file with the library alone."""
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
        description = json.loads(metadata.pop("detseg3d"))
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return ModelContent(description["name"], metadata, tensors)


def changed_model(source: Path, target: Path, change: Callable[[ModelContent], object]) -> Path:
    """Write the model file with a change and a right checksum: the change is all that is wrong."""
    content = read_content(source)
    change(content)
    return content.write(target)
