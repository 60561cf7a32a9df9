"""A model for the tests that starts within a fraction of a second: the content of a scan decides what happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_geometry
from detseg3d.serving.model import ModelDescription
from detseg3d.serving.records import PredictTask, Stage, TaskOutcome
from detseg3d.system.json_files import write_json


@dataclass(frozen=True)
class FakeSource:
    def open(self) -> FakeModel:
        return FakeModel()


@dataclass(frozen=True)
class MissingSource:
    def open(self) -> FakeModel:
        raise DetSeg3DError("there is no trained model in this folder", file="missing")


@dataclass(frozen=True)
class FakeModel:
    description = ModelDescription("Dataset001_Fake", "0" * 64, ("FLAIR",), ("lesion",), 1, "cpu")

    def predict(self, task: PredictTask, on_stage: Callable[[Stage], None]) -> TaskOutcome:
        """Do what the first file asks for: ``die``, ``sleep SECONDS``, ``fail``, or find as many lesions as bytes.

        A folder is read as DICOM, and has as many lesions as its series has slices.
        """
        on_stage(Stage.READING)
        file = task.images[0] if task.upload_folder is None else task.upload_folder / task.uploads[0].stored
        if file.is_dir():
            series = task.options.series
            return TaskOutcome(read_geometry(ImageSource(file, series=series[0] if series else None)).shape[0])
        order = file.read_text(encoding="utf-8").split()
        if order[:1] == ["die"]:
            os._exit(3)
        if order[:1] == ["sleep"]:
            time.sleep(float(order[1]))
        if order[:1] == ["fail"]:
            raise DetSeg3DError(
                f"{file} is broken", file=file, value=str(file.parent), remedy=f"look at {Path.home()}/x"
            )
        record = task.output / "rois" / f"{task.case_id}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text('{"lesions": []}', encoding="utf-8")
        return TaskOutcome(file.stat().st_size, (f"a warning about {file}",))


@dataclass(frozen=True)
class ReadingSource:
    """A model that reads its scan as the real model does, and finds nothing."""

    def open(self) -> ReadingModel:
        return ReadingModel()


@dataclass(frozen=True)
class ReadingModel(FakeModel):
    def predict(self, task: PredictTask, on_stage: Callable[[Stage], None]) -> TaskOutcome:
        from detseg3d.data.images import read_image
        from detseg3d.serving.unpack import case_of_task

        on_stage(Stage.READING)
        if task.uploads[0].name.endswith(".slow"):
            time.sleep(1.0)
        image = read_image(case_of_task(task, self.description.channels).images[0])
        write_json({"shape": image.array.shape, "lesions": []}, task.output / "rois" / f"{task.case_id}.json")
        return TaskOutcome(0)
