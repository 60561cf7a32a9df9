"""Backends that run the networks, and the formats in which a model file holds networks."""

from __future__ import annotations

from detseg3d.core.enums import StringEnum

__all__ = ["Backend", "NetworkFormat", "stored_weights"]


class NetworkFormat(StringEnum):
    """Format of the networks in a model file.

    ``DETSEG3D`` holds the weights, and the program builds the networks from the plans. ``OPENVINO`` and ``ONNX`` hold
    complete networks for another backend.
    """

    DETSEG3D = "detseg3d"
    OPENVINO = "openvino"
    ONNX = "onnx"


class Backend(StringEnum):
    """Library that runs the networks of a model.

    Examples
    --------
    >>> str(Backend.ONNXRUNTIME.network_format), Backend.of(NetworkFormat.OPENVINO) is Backend.OPENVINO
    ('onnx', True)
    """

    TORCH = "torch"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"

    @property
    def network_format(self) -> NetworkFormat:
        """Format of the networks that the backend runs."""
        return _FORMATS[self]

    @classmethod
    def of(cls, network_format: NetworkFormat) -> Backend:
        """Return the backend that runs networks of a format."""
        return next(backend for backend, runs in _FORMATS.items() if runs is network_format)


_FORMATS = {
    Backend.TORCH: NetworkFormat.DETSEG3D,
    Backend.OPENVINO: NetworkFormat.OPENVINO,
    Backend.ONNXRUNTIME: NetworkFormat.ONNX,
}


def stored_weights(checkpoint: str, backend: Backend = Backend.TORCH) -> str:
    """Return the name under which a fold stores the networks that a backend runs.

    Parameters
    ----------
    checkpoint : {"final", "best"}
        Weights of ``TORCH``. Networks for other backends are exported from the final weights.
    backend : Backend, optional

    Returns
    -------
    str
        For :meth:`~detseg3d.data.folders.FoldFolder.weights`.

    Examples
    --------
    >>> stored_weights("best"), stored_weights("final", Backend.ONNXRUNTIME)
    ('best', 'onnx')
    """
    return checkpoint if backend is Backend.TORCH else str(backend.network_format)
