"""A two-stage network that was exported for another backend."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from detseg3d.core.arrays import Array
from detseg3d.core.backend import Backend
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.deploy.networks import ExportedFiles, StagePorts
from detseg3d.deploy.runners import choose_backend_precision, load_runner
from detseg3d.models.networks.detector import DetectorOutput, LevelOutput
from detseg3d.models.networks.segmenter import SegmenterOutput
from detseg3d.models.two_stage import TwoStageNetwork
from detseg3d.planning.plans import Plans

__all__ = ["ExportedNetwork"]


class ExportedNetwork(TwoStageNetwork):
    """Both stages of one fold, run by OpenVINO or ONNX Runtime on a CPU.

    Everything between and after the networks (grids, crops, decoding, merging) is the code that PyTorch's networks
    use as well. Tensors and the arrays of the backend share memory.

    Parameters
    ----------
    plans : Plans
    files : ExportedFiles
    precision : Precision, optional
        See :func:`~detseg3d.deploy.runners.choose_backend_precision`.
    threads : int, optional
        Largest number of threads; by default the library decides.

    Raises
    ------
    DetSeg3DError
        If the package of the backend is missing, it does not offer the precision, or the networks cannot be loaded or
        do not fit the plans.
    """

    # Measured with both backends and both precisions: 1.7 to 2.0 times the estimate for PyTorch.
    memory_factor = 2.0

    def __init__(
        self,
        plans: Plans,
        files: ExportedFiles,
        precision: Precision = Precision.AUTO,
        threads: int | None = None,
    ) -> None:
        self.plans = plans
        self.backend = Backend.of(files.network_format)
        self.has_int8 = files.has_int8
        self.precision = choose_backend_precision(self.backend, precision)
        stage1, stage2 = StagePorts.of_stage1(plans), StagePorts.of_stage2(plans)
        self._stage1 = load_runner(files, "stage1", stage1, self.precision, threads)
        self._stage2 = load_runner(files, "stage2", stage2, self.precision, threads)
        self._stage2_inputs = stage2.inputs

    def ready_on(self, device: torch.device) -> ExportedNetwork:
        """Return the network.

        Raises
        ------
        DetSeg3DError
            If ``device`` is not the CPU.
        """
        if device.type != "cpu":
            raise DetSeg3DError(
                f"the backend {self.backend} runs on the CPU only",
                value=str(device),
                expected="cpu",
                remedy="use -device cpu, or predict with the trained model and --backend torch",
            )
        return self

    def precision_on(self, device: torch.device) -> Precision:  # noqa: ARG002 (it is always the CPU)
        """Return the precision of the feature maps; never ``AUTO``."""
        return self.precision

    def run_stage(self, stage: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run ``stage1`` or ``stage2``; return the outputs by name."""
        return (self._stage1 if stage == "stage1" else self._stage2).run(inputs)

    def detect(self, image: torch.Tensor) -> DetectorOutput:
        """Run Stage 1 on ``(1, C, Z, Y, X)`` on the detection grid, padded (:meth:`to_detection_grid`)."""
        result = {
            name: torch.from_numpy(array)
            for name, array in self.run_stage("stage1", {"image": np.ascontiguousarray(image.float().numpy())}).items()
        }
        levels = [
            LevelOutput(result[f"heatmap_{level}"], result[f"log_size_{level}"], result[f"offset_{level}"])
            for level in range(len(self.plans.stage1.head_stages))
        ]
        # Without features, no code reads the empty tensor.
        features = result.get("features", torch.empty(0))
        return DetectorOutput(levels, features, None, result.get("dense"))

    def roi_features(self, features: torch.Tensor) -> torch.Tensor | None:
        """Return ``features``, which the exported Stage 1 has projected; ``None`` if the plan shares no features."""
        return features if self.plans.stage2.feature_channels else None

    def segment(
        self,
        crops: torch.Tensor,
        features: torch.Tensor | None,
        classes: torch.Tensor,
        context: torch.Tensor | None = None,
    ) -> SegmenterOutput:
        """Run Stage 2 on RoIs; see :meth:`detseg3d.models.detseg.DetSeg3D.segment`."""
        assert context is None, "a plan with context attention is not exported"
        given = {"crops": crops, "features": features}
        inputs = {}
        for name in self._stage2_inputs:
            tensor = given[name]
            assert tensor is not None, f"the plan gives {name} to Stage 2"
            inputs[name] = np.ascontiguousarray(tensor.float().numpy())
        result = self.run_stage("stage2", inputs)
        row, chosen = np.arange(len(classes)), classes.numpy()
        mask, score = result["mask"][row, chosen], result["score"][row, chosen]
        return SegmenterOutput(torch.from_numpy(mask), torch.from_numpy(score))
