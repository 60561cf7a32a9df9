"""Options for loading a model. The module imports no PyTorch, so that a program can pass them to another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detseg3d.core.backend import Backend, stored_weights
from detseg3d.core.precision import Precision

if TYPE_CHECKING:
    from detseg3d.models.detseg import DetSeg3D
    from detseg3d.planning.plans import Plans

__all__ = ["LoadOptions"]


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a model.

    Attributes
    ----------
    checkpoint : {"final", "best"}
        Weights from the end of the training, or the weights with the best validation result.
    device : str or None
        ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; by default CUDA if available.
    use_mirroring : bool
        Average over the mirrored copies that the plan names.
    candidate_threshold, score_threshold : float or None
        Used instead of the thresholds of the operating point or the plan. With a score threshold, the scan threshold
        is not used.
    use_operating_point : bool
        Use the thresholds and the calibration that ``detseg3d_consolidate`` stored with the model, if there are any.
    build_model : callable or None
        Function from plans to a network, if the model was trained with a network other than DetSeg3D.
    memory_gb : float or None
        Memory in GB that a scan may take, including the scan itself; by default the free memory.
    backend : Backend or None
        Library that runs the networks; by default the backend for which the model was exported, else PyTorch. Other
        backends than ``TORCH`` need a model that was exported for them, and a CPU.
    precision : Precision
        Number format of the networks. It holds for exported networks, and for a model that
        :class:`~detseg3d.inference.model_source.ModelSource` opens. Networks of PyTorch that are loaded in another way
        use the precision of :func:`~detseg3d.system.device.compute_in`.
    """

    checkpoint: str = "final"
    device: str | None = None
    use_mirroring: bool = True
    candidate_threshold: float | None = None
    score_threshold: float | None = None
    use_operating_point: bool = True
    build_model: Callable[[Plans], DetSeg3D] | None = None
    memory_gb: float | None = None
    backend: Backend | None = None
    precision: Precision = Precision.AUTO

    @property
    def stored_weights(self) -> str:
        """Name under which a fold stores the networks (:func:`~detseg3d.core.backend.stored_weights`).

        Without a backend, this is the name of the weights of PyTorch.
        """
        return stored_weights(self.checkpoint, self.backend or Backend.TORCH)
