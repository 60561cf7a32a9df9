"""DetSeg3D: find every lesion in a 3D medical scan, however small, and outline each one.

The public names are loaded on first use, so that ``import detseg3d`` and ``-h`` of every command stay quick:

``DetSeg3D``
    The two-stage network, built from plans: ``model(image, mode="test")``.
``Predictor``
    A trained model with its preprocessing: ``Predictor.from_model_folder(...)``.
``load_plans``
    Read and validate a ``plans.json``.
``evaluate_arrays``
    Every metric of a predicted mask against a true one: ``evaluate_arrays(truth, prediction, spacing)``.
``from_simpleitk``, ``to_simpleitk``
    A SimpleITK image as an array with its geometry, and back.
``DetSeg3DError``
    Raised for everything that a user can cause and mend.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg3d.core.errors import DetSeg3DError
    from detseg3d.data.simpleitk import from_simpleitk, to_simpleitk
    from detseg3d.evaluation.arrays import evaluate_arrays
    from detseg3d.inference.predictor import Predictor
    from detseg3d.models.detseg import DetSeg3D
    from detseg3d.planning.plans import load_plans

__version__ = "0.2.0"
__all__ = [
    "DetSeg3D",
    "DetSeg3DError",
    "Predictor",
    "__version__",
    "evaluate_arrays",
    "from_simpleitk",
    "load_plans",
    "to_simpleitk",
]

# As strings, not import statements: the layers below may import this package without pulling in those above them.
_HOMES = {
    "DetSeg3D": "detseg3d.models.detseg",
    "DetSeg3DError": "detseg3d.core.errors",
    "Predictor": "detseg3d.inference.predictor",
    "evaluate_arrays": "detseg3d.evaluation.arrays",
    "from_simpleitk": "detseg3d.data.simpleitk",
    "load_plans": "detseg3d.planning.plans",
    "to_simpleitk": "detseg3d.data.simpleitk",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'detseg3d' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
