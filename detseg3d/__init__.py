"""DetSeg3D: find every lesion in a 3D medical scan, and outline each one.

The names in ``__all__`` are the public Python interface. Each name is imported at its first use, so that
``import detseg3d`` and the help of every command start quickly.

Predict and evaluate
    :func:`predict`, :func:`predict_folder`, :class:`Predictor`, :class:`Prediction`, :func:`evaluate`,
    :func:`evaluate_folders`, :class:`EvaluationInput`, :func:`draw`.
Follow lesions over time
    :func:`follow_lesions`, :class:`FollowOptions`, :class:`FollowUp`.
Report a patient
    :func:`report_patient`.
Train
    :func:`convert`, :func:`plan`, :func:`train`, :func:`consolidate`, :func:`write_example_dataset`,
    :func:`export_model`, :func:`install_model`, :class:`PrepareOptions`, :class:`TrainingOptions`.
Images
    :class:`Image`, :func:`read_image`, :func:`write_image`, :func:`as_image`, :func:`to_simpleitk`,
    :func:`to_nibabel`.
Plans and networks
    :class:`Plans`, :func:`load_plans`, :class:`DetSeg3D`.
Errors
    :class:`DetSeg3DError`, raised for every problem that a user can solve.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from detseg3d.core.version import __version__

if TYPE_CHECKING:
    from detseg3d.api.drawing import draw
    from detseg3d.api.evaluation import evaluate
    from detseg3d.api.following import follow_lesions
    from detseg3d.api.images import as_image
    from detseg3d.api.patient_report import report_patient
    from detseg3d.api.prediction import predict, predict_folder
    from detseg3d.api.training import consolidate, plan, train
    from detseg3d.core.errors import DetSeg3DError
    from detseg3d.data.image import Image
    from detseg3d.data.images import read_image, write_image
    from detseg3d.data.nibabel import to_nibabel
    from detseg3d.data.simpleitk import to_simpleitk
    from detseg3d.evaluation.folders import evaluate_folders
    from detseg3d.evaluation.options import EvaluationInput
    from detseg3d.follow.compare import FollowOptions
    from detseg3d.follow.result import FollowUp
    from detseg3d.inference.predictor import Predictor
    from detseg3d.inference.result import Prediction
    from detseg3d.models.detseg import DetSeg3D
    from detseg3d.pipeline.convert import convert_folders as convert
    from detseg3d.pipeline.exchange import export_model, install_model
    from detseg3d.pipeline.prepare import PrepareOptions
    from detseg3d.planning.plans import Plans, load_plans
    from detseg3d.synthetic.dataset import write_example_dataset
    from detseg3d.training.options import TrainingOptions

__all__ = [
    "DetSeg3D",
    "DetSeg3DError",
    "EvaluationInput",
    "FollowOptions",
    "FollowUp",
    "Image",
    "Plans",
    "Prediction",
    "Predictor",
    "PrepareOptions",
    "TrainingOptions",
    "__version__",
    "as_image",
    "consolidate",
    "convert",
    "draw",
    "evaluate",
    "evaluate_folders",
    "export_model",
    "follow_lesions",
    "install_model",
    "load_plans",
    "plan",
    "predict",
    "predict_folder",
    "read_image",
    "report_patient",
    "to_nibabel",
    "to_simpleitk",
    "train",
    "write_example_dataset",
    "write_image",
]

# Module of each public name, and its name in that module. Strings are used because imports would load torch for every
# command.
_LOCATIONS = {
    "DetSeg3D": ("detseg3d.models.detseg", "DetSeg3D"),
    "DetSeg3DError": ("detseg3d.core.errors", "DetSeg3DError"),
    "EvaluationInput": ("detseg3d.evaluation.options", "EvaluationInput"),
    "FollowOptions": ("detseg3d.follow.compare", "FollowOptions"),
    "FollowUp": ("detseg3d.follow.result", "FollowUp"),
    "Image": ("detseg3d.data.image", "Image"),
    "Plans": ("detseg3d.planning.plans", "Plans"),
    "Prediction": ("detseg3d.inference.result", "Prediction"),
    "Predictor": ("detseg3d.inference.predictor", "Predictor"),
    "PrepareOptions": ("detseg3d.pipeline.prepare", "PrepareOptions"),
    "TrainingOptions": ("detseg3d.training.options", "TrainingOptions"),
    "as_image": ("detseg3d.api.images", "as_image"),
    "consolidate": ("detseg3d.api.training", "consolidate"),
    "convert": ("detseg3d.pipeline.convert", "convert_folders"),
    "draw": ("detseg3d.api.drawing", "draw"),
    "evaluate": ("detseg3d.api.evaluation", "evaluate"),
    "evaluate_folders": ("detseg3d.evaluation.folders", "evaluate_folders"),
    "export_model": ("detseg3d.pipeline.exchange", "export_model"),
    "follow_lesions": ("detseg3d.api.following", "follow_lesions"),
    "install_model": ("detseg3d.pipeline.exchange", "install_model"),
    "load_plans": ("detseg3d.planning.plans", "load_plans"),
    "plan": ("detseg3d.api.training", "plan"),
    "predict": ("detseg3d.api.prediction", "predict"),
    "predict_folder": ("detseg3d.api.prediction", "predict_folder"),
    "read_image": ("detseg3d.data.images", "read_image"),
    "report_patient": ("detseg3d.api.patient_report", "report_patient"),
    "to_nibabel": ("detseg3d.data.nibabel", "to_nibabel"),
    "to_simpleitk": ("detseg3d.data.simpleitk", "to_simpleitk"),
    "train": ("detseg3d.api.training", "train"),
    "write_example_dataset": ("detseg3d.synthetic.dataset", "write_example_dataset"),
    "write_image": ("detseg3d.data.images", "write_image"),
}


def __getattr__(name: str) -> Any:
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'detseg3d' has no attribute {name!r}")
    module, original = _LOCATIONS[name]
    return getattr(importlib.import_module(module), original)


def __dir__() -> list[str]:
    return sorted(__all__)
