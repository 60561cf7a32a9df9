"""Run exported networks with OpenVINO or ONNX Runtime, on a CPU.

Both libraries are imported only if one of their networks is loaded. Inputs and outputs are NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.backend import Backend, NetworkFormat
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision, require_offered
from detseg3d.data.roots import send_no_telemetry
from detseg3d.deploy.networks import ExportedFiles, StagePorts
from detseg3d.system.signals import use_usual_signal_stack

__all__ = ["NetworkRunner", "choose_backend_precision", "load_runner", "missing_package"]


class NetworkRunner(Protocol):
    """An exported network that is ready to run."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name.

        Parameters
        ----------
        inputs : mapping of str to ndarray of float32
        """
        ...  # pragma: no cover


def missing_package(package: str, error: ImportError, extra: str = "deploy") -> DetSeg3DError:
    """Return the error for a missing package of an extra."""
    return DetSeg3DError(
        f"the package {package} is needed, and it is not installed ({error})",
        remedy=f'install it with: pip install "detseg3d[{extra}]"',
    )


def choose_backend_precision(backend: Backend, wanted: Precision = Precision.AUTO) -> Precision:
    """Return the precision in which a backend runs exported networks.

    :func:`detseg3d.system.device.choose_precision` does the same for PyTorch. The choices can differ, because each
    library decides by its own means whether the processor computes in bfloat16. Here ``AUTO`` means bfloat16 if
    OpenVINO reports it, else float32. ONNX Runtime computes convolutions on a CPU in float32 only.

    Parameters
    ----------
    backend : Backend
        Not ``TORCH``.
    wanted : Precision, optional

    Returns
    -------
    Precision
        Never ``AUTO``.

    Raises
    ------
    DetSeg3DError
        If the backend does not offer the precision, or its package is missing.
    """
    offered = (Precision.FP32, Precision.BF16) if backend is Backend.OPENVINO else (Precision.FP32,)
    if wanted is Precision.AUTO:
        return Precision.BF16 if backend is Backend.OPENVINO and _openvino_has_bfloat16() else Precision.FP32
    require_offered(wanted, offered, str(backend))
    return wanted


def _openvino_has_bfloat16() -> bool:
    offered = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    use_usual_signal_stack()
    return "BF16" in offered


def load_runner(
    files: ExportedFiles, stage: str, ports: StagePorts, precision: Precision, threads: int | None = None
) -> NetworkRunner:
    """Load one stage of an exported fold.

    Parameters
    ----------
    files : ExportedFiles
    stage : {"stage1", "stage2"}
    ports : StagePorts
        Inputs and outputs that the network must have.
    precision : Precision
        From :func:`choose_backend_precision`.
    threads : int, optional
        Largest number of threads; by default the library decides.

    Returns
    -------
    NetworkRunner

    Raises
    ------
    DetSeg3DError
        If the package of the backend is missing, the network cannot be loaded, or its inputs and outputs differ from
        ``ports``.
    """
    load = _OpenVinoRunner if files.network_format is NetworkFormat.OPENVINO else _OnnxRunner
    try:
        runner = load(files.of_stage(stage), precision, threads)
    except DetSeg3DError:
        raise
    except Exception as error:  # both libraries raise their own types
        raise DetSeg3DError(
            f"the network of {stage} cannot be loaded: {_first_line(error)}",
            remedy="export the model again with detseg3d_export_model",
        ) from error
    if runner.ports != ports:
        raise DetSeg3DError(
            f"the network of {stage} does not fit the plans",
            value=f"inputs {' '.join(runner.ports.inputs)}; outputs {' '.join(runner.ports.outputs)}",
            expected=f"inputs {' '.join(ports.inputs)}; outputs {' '.join(ports.outputs)}",
            remedy="export the model again with detseg3d_export_model",
        )
    return runner


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


class _OpenVinoRunner:
    """A network of OpenVINO on the CPU."""

    def __init__(self, files: tuple[bytes, ...], precision: Precision, threads: int | None) -> None:
        openvino = _openvino()
        structure, weights = files
        core = openvino.Core()
        # The model reads the weights from this tensor later, so the tensor must own a copy.
        tensor = openvino.Tensor(np.frombuffer(weights, np.uint8), shared_memory=False)
        model = core.read_model(model=structure, weights=tensor)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision is Precision.BF16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._compiled = core.compile_model(model, "CPU", options)
        self._request = self._compiled.create_infer_request()
        use_usual_signal_stack()
        self.ports = StagePorts(
            tuple(port.get_any_name() for port in self._compiled.inputs),
            tuple(port.get_any_name() for port in self._compiled.outputs),
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        results = self._request.infer(dict(inputs))
        # The request writes its next results into the same memory.
        return {name: np.array(results[name], np.float32) for name in self.ports.outputs}


class _OnnxRunner:
    """A network of ONNX Runtime on the CPU."""

    def __init__(self, files: tuple[bytes, ...], precision: Precision, threads: int | None) -> None:
        assert precision is Precision.FP32, "choose_backend_precision offers no other precision"
        runtime = _onnxruntime()
        (content,) = files
        _check_that_weights_are_inside(content)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        # The arena keeps the memory of every shape that it has met.
        options.enable_cpu_mem_arena = False
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.ports = StagePorts(
            tuple(port.name for port in self._session.get_inputs()),
            tuple(port.name for port in self._session.get_outputs()),
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        results = self._session.run(list(self.ports.outputs), dict(inputs))
        return {name: np.asarray(result, np.float32) for name, result in zip(self.ports.outputs, results, strict=True)}


def _check_that_weights_are_inside(content: bytes) -> None:
    """Raise an error if an ONNX network refers to other files, which the library would open."""
    try:
        import onnx
        from onnx.external_data_helper import uses_external_data
    except ImportError as error:
        raise missing_package("onnx", error) from error
    graph = onnx.load_model_from_string(content).graph
    outside = [tensor.name for tensor in graph.initializer if uses_external_data(tensor)]
    outside += [
        tensor.name
        for node in graph.node
        for attribute in node.attribute
        for tensor in (attribute.t, *attribute.tensors)
        if uses_external_data(tensor)
    ]
    if outside:
        raise DetSeg3DError("the network reads weights from other files, which is not allowed", value=outside[0][:80])


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", error) from error
    return openvino


def _onnxruntime() -> Any:
    send_no_telemetry()
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", error) from error
    return onnxruntime
