"""Predict lesions: one scan in memory, or a folder of scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg3d.api.images import ImageLike, as_channels
from detseg3d.core.errors import DetSeg3DError
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.model_file import opened_model
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.pipeline.predict import OutputOptions, predict_cases

__all__ = ["predict", "predict_folder"]


def predict(
    images: ImageLike | Sequence[ImageLike],
    model: str | Path | Predictor,
    *,
    spacing: Sequence[float] | None = None,
    folds: Sequence[str | int] | None = None,
    device: str | None = None,
    probabilities: bool = False,
) -> Prediction:
    """Find and outline the lesions of one scan.

    Parameters
    ----------
    images : image or sequence of images
        One image per channel of the model: paths, arrays ``(Z, Y, X)``, or images of SimpleITK or nibabel. A single
        array may have shape ``(C, Z, Y, X)``. Pass the original intensities: the model normalises them.
    model : path or Predictor
        Folder of a trained model (``results/DatasetXXX_Name``), or a model file that ``detseg3d_export_model`` wrote.
        To predict many scans, load a :class:`~detseg3d.inference.predictor.Predictor` once and pass it here.
    spacing : 3 floats, optional
        Voxel spacing in mm ``(z, y, x)``, required for arrays.
    folds : sequence, optional
        Folds to average; all trained folds by default. Allowed only if ``model`` is a path.
    device : str, optional
        ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; CUDA if available by default. Allowed only if ``model`` is a path.
    probabilities : bool, optional
        Also return the class probabilities.

    Returns
    -------
    Prediction
        Masks, lesions with scores and boxes, and the geometry. Masks are in canonical axis order;
        ``to_simpleitk(prediction.instances, prediction.geometry)`` restores the axis order of the input.

    Raises
    ------
    DetSeg3DError
        If an image or the model cannot be read, or the model needs a different number of channels.

    Examples
    --------
    >>> import detseg3d
    >>> prediction = detseg3d.predict("scan.nii.gz", "results/Dataset101_SynthMS")  # doctest: +SKIP
    >>> prediction.lesions[0].score, prediction.instances.max()                     # doctest: +SKIP
    (0.93, 4)
    """
    channels, geometry = as_channels(images, spacing)
    predictor = _predictor(model, folds, device)
    return predictor.predict_case(channels, geometry, probabilities)


def predict_folder(
    source: str | Path,
    output: str | Path,
    model: str | Path | Predictor,
    *,
    folds: Sequence[str | int] | None = None,
    device: str | None = None,
    show_progress: bool = True,
) -> dict[str, str]:
    """Find and outline the lesions of every scan in a folder, and write the results to another folder.

    Parameters
    ----------
    source : path
        Folder of scans, one scan, or a DICOM folder.
    output : path
        Folder of the results, with the files of ``detseg3d_predict``.
    model : path or Predictor
        See :func:`predict`.
    folds, device : optional
        See :func:`predict`.
    show_progress : bool, optional
        Show a progress bar on a terminal or in a notebook.

    Returns
    -------
    dict of str to str
        Name and error message of each case that failed; empty if all cases succeeded.

    Raises
    ------
    DetSeg3DError
        If there is no scan, or the model cannot be read.

    Examples
    --------
    >>> import detseg3d
    >>> failed = detseg3d.predict_folder("scans", "predictions", "results/Dataset101_SynthMS")  # doctest: +SKIP
    """
    predictor = _predictor(model, folds, device)
    options = OutputOptions(show_progress=show_progress)
    return predict_cases(predictor, predictor.list_inputs(source), output, output=options)


def _predictor(model: str | Path | Predictor, folds: Sequence[str | int] | None, device: str | None) -> Predictor:
    if not isinstance(model, Predictor):
        with opened_model(model) as folder:
            return Predictor.from_model_folder(folder, folds, LoadOptions(device=device))
    if folds is not None or device is not None:
        raise DetSeg3DError(
            "a loaded model has its folds and its device already",
            value={"folds": folds, "device": device},
            expected="folds and device only with the path of a model",
        )
    return model
