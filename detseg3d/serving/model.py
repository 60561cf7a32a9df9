"""The model of the service, and how the worker process loads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from detseg3d.inference.model_source import ModelSource
from detseg3d.system.json_records import JsonRecord

if TYPE_CHECKING:
    from detseg3d.inference.predictor import Predictor
    from detseg3d.serving.records import PredictTask, Stage, TaskOutcome

__all__ = ["ModelDescription", "ModelOpener", "OpenModel", "ServedModel"]


class OpenModel(Protocol):
    """A loaded model that predicts scans."""

    @property
    def description(self) -> ModelDescription:
        """Name, channels and classes of the model."""

    def predict(self, task: PredictTask, on_stage: Callable[[Stage], None]) -> TaskOutcome:
        """Predict the scan of a task and write its results; call ``on_stage`` at the beginning of each step."""


class ModelOpener(Protocol):
    """Description of a model that the worker process loads. It must be picklable, as the process is new."""

    def open(self) -> OpenModel:
        """Load the model."""


@dataclass(frozen=True)
class ServedModel:
    """A trained model that the worker process loads.

    Attributes
    ----------
    source : ModelSource
    """

    source: ModelSource

    def open(self) -> OpenModel:
        """Load the model.

        Raises
        ------
        DetSeg3DError
            If the model cannot be read or the device does not exist.
        """
        return _LoadedModel(self.source.open())


@dataclass(frozen=True)
class _LoadedModel:
    """A predictor in the worker process."""

    predictor: Predictor

    @property
    def description(self) -> ModelDescription:
        return ModelDescription.of(self.predictor)

    def predict(self, task: PredictTask, on_stage: Callable[[Stage], None]) -> TaskOutcome:
        from detseg3d.serving.prediction import predict_task

        return predict_task(self.predictor, task, on_stage)


@dataclass(frozen=True)
class ModelDescription(JsonRecord):
    """The loaded model, as a client sees it.

    Attributes
    ----------
    name : str
        Name of the training data set.
    digest : str
        SHA-256 of the weights.
    channels : tuple of str
        Names of the channels, in the order in which the files of a scan are sent.
    classes : tuple of str
        Names of the classes of lesions.
    networks : int
        Number of folds that are averaged.
    device : str
    """

    name: str
    digest: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    networks: int
    device: str

    @classmethod
    def of(cls, predictor: Predictor) -> ModelDescription:
        """Describe a loaded model."""
        plans = predictor.plans
        return cls(
            name=predictor.identity.name or plans.dataset_name,
            digest=predictor.identity.digest or "",
            channels=tuple(plans.channel_names),
            classes=tuple(plans.class_names),
            networks=len(predictor.models),
            device=str(predictor.device),
        )
