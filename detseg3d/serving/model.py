"""The model of the service, and how the worker process loads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from detseg3d.core.backend import Backend
from detseg3d.core.precision import Precision
from detseg3d.system.json_records import JsonRecord

if TYPE_CHECKING:
    from detseg3d.inference.predictor import Predictor
    from detseg3d.serving.records import PredictTask, Stage, TaskOutcome

__all__ = ["ModelDescription", "ModelOpener", "ModelSource", "OpenModel"]


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
class ModelSource:
    """A trained model and the options with which it predicts.

    Attributes
    ----------
    path : Path
        Folder of the model, or a file that ``detseg3d_export_model`` wrote.
    folds : tuple of str or None
        Folds to average; all trained folds by default.
    device : str or None
        ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; CUDA if available by default.
    precision : Precision
    use_mirroring : bool
        Average over the mirrored copies that the plan names.
    memory_gb : float or None
        Memory in GB that a scan may take; by default the free memory.
    backend : Backend or None
        Library that runs the networks; by default the backend for which the model was exported, else PyTorch.
    """

    path: Path
    folds: tuple[str, ...] | None = None
    device: str | None = None
    precision: Precision = Precision.AUTO
    use_mirroring: bool = True
    memory_gb: float | None = None
    backend: Backend | None = None

    def open(self) -> OpenModel:
        """Load the model.

        Raises
        ------
        DetSeg3DError
            If the model cannot be read or the device does not exist.
        """
        from detseg3d.inference.load import LoadOptions
        from detseg3d.inference.model_file import model_backend, opened_model
        from detseg3d.inference.predictor import Predictor
        from detseg3d.system.device import compute_in, resolve_device

        backend = model_backend(self.path)
        if backend is Backend.TORCH:
            compute_in(resolve_device(self.device), self.precision)
        options = LoadOptions(
            device=self.device,
            use_mirroring=self.use_mirroring,
            memory_gb=self.memory_gb,
            backend=backend,
            precision=self.precision,
        )
        with opened_model(self.path) as folder:
            return _ServedModel(Predictor.from_model_folder(folder, self.folds, options))


@dataclass(frozen=True)
class _ServedModel:
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
