"""Read boxes of nnDetection and convert them to voxel edges.

The box of a lesion in nnDetection reaches from the smallest voxel index minus one to the largest voxel index plus one,
on each axis of its resampled grid (``instances_to_boxes`` in ``nndet/io/transforms/instances.py``). In voxel edges, the
lesion reaches from ``min`` to ``max + 1``. The box of nnDetection therefore is one voxel too large, and its centre is
half a voxel too low. Adding one voxel to the lower end corrects both. The program of nnDetection that draws boxes
(``boxes2nii`` in ``scripts/utils.py``) does the same.

The correction matters for small lesions. Two cubes of 3³ voxels that are shifted by one voxel on all axes have an IoU
of 0.17, but 0.27 if each is one voxel larger. For this reason, nnDetection reports higher metrics for the same boxes.

nnDetection scales and shifts boxes back to the image (``restore_boxes`` in ``nndet/inference/restore.py``) and scales
the additional voxel with them. The additional voxel has the size of a voxel of the image only if the network worked at
the spacing of the image. Otherwise, the conversion also needs the spacing of the network.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import open_regular_file
from detseg3d.system.json_files import read_json

__all__ = ["EXPORT_RECIPE", "edges_from_nndetection", "pickles_only", "read_nndetection_boxes"]


EXPORT_RECIPE = """\
import numpy, pathlib, pickle
for p in pathlib.Path(".").glob("*_boxes.pkl"): numpy.savez(p.with_suffix(".npz"), **pickle.loads(p.read_bytes()))"""
"""Two lines of Python that export the pickle files of nnDetection. Their owner runs them in the folder of the files."""

_MAX_BYTES = 1 << 30  # ten million boxes
_KEYS = ("pred_boxes", "pred_scores", "pred_labels")
# Maximum edge in voxels. Every image is smaller, and sums and products of edges up to this value stay finite.
_MAX_EDGE = 1e9


def edges_from_nndetection(boxes: npt.ArrayLike, voxel: Sequence[float] | FloatArray = (1.0, 1.0, 1.0)) -> FloatArray:
    """Convert boxes of nnDetection to half-open boxes in voxel edges.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        Edges ``z0 y0 z1 y1 x0 x1``, the order of nnDetection for an image with the axes ``(z, y, x)``.
    voxel : 3 floats, optional
        Size ``(z, y, x)`` of a voxel of the network in voxels of the image: network spacing / image spacing.

    Returns
    -------
    ndarray of float64, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1``. A box that is too small to contain a voxel becomes a point at its centre.

    Examples
    --------
    The box of the voxel with the indices 5, 6, 7:

    >>> edges_from_nndetection([[4, 5, 6, 7, 6, 8]]).tolist()
    [[5.0, 6.0, 7.0, 6.0, 7.0, 8.0]]
    """
    array = np.asarray(boxes, np.float64)
    array = array.reshape(-1, 6)[:, [0, 1, 4, 2, 3, 5]]
    size = np.asarray(voxel, np.float64)
    low, high = array[:, :3] + size, array[:, 3:]
    middle = (low + high) / 2
    return np.concatenate([np.minimum(low, middle), np.maximum(high, middle)], axis=1)


def pickles_only(folder: Path, pickles: Sequence[Path]) -> DetSeg3DError:
    """Return the error for a folder that has only pickle files."""
    return DetSeg3DError(
        "the boxes are in pickle files, which are not read because unpickling a file can run any code",
        file=folder,
        value=[path.name for path in pickles[:3]],
        expected="CASE_boxes.npz, or one of the other formats",
        remedy="if you trust these files, export them with these lines of Python in their folder:\n" + EXPORT_RECIPE,
    )


def read_nndetection_boxes(
    file: Path, network_spacing: Sequence[float] | None = None
) -> tuple[FloatArray, FloatArray, list[int]]:
    """Read ``CASE_boxes.npz`` or ``CASE_boxes.json``.

    Parameters
    ----------
    file : path
        The file has the entries of ``CASE_boxes.pkl`` of nnDetection: ``pred_boxes``, ``pred_scores``, ``pred_labels``
        and, if known, ``restore`` (must be true) and ``itk_spacing``. A JSON file may also have the form that
        ``nndet_boxes2nii`` writes, ``{"1": {"box", "score", "label"}, …}``. This program rounds boxes down to whole
        voxels and drops scores below its threshold (0.5 by default), so the metrics of such files are too low.
    network_spacing : 3 floats, optional
        Spacing ``(z, y, x)`` of the network in mm; by default the spacing of the image. If it is given, the file must
        contain ``itk_spacing``.

    Returns
    -------
    boxes : ndarray of float64, shape ``(N, 6)``
        Half-open, voxel edges, see :func:`edges_from_nndetection`.
    scores : ndarray of float64, shape ``(N,)``
        Score of each box.
    labels : list of int
        Class numbers, from 0.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read or has another form, or if its boxes are not on the grid of the image.
    """
    data = _read_npz(file) if file.suffix.lower() == ".npz" else _read_json(file)
    restored = data.get("restore")
    if restored is not None and not bool(restored):
        raise DetSeg3DError(
            "the boxes are on the grid of the preprocessed data of nnDetection",
            file=file,
            value="restore = False",
            expected="boxes on the grid of the image",
            remedy="predict with restored boxes, as nndet_predict does, and export again",
        )
    try:
        boxes = np.asarray(data["pred_boxes"], np.float64)
        scores = np.asarray(data["pred_scores"], np.float64).reshape(-1)
        labels = np.asarray(data["pred_labels"], np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown_form(file, data) from error
    boxes = boxes.reshape(0, 6) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 6 or not len(boxes) == len(scores) == len(labels):
        raise _unknown_form(file, data)
    if not all(np.all(np.isfinite(values)) for values in (boxes, scores, labels)):
        raise DetSeg3DError("a box, score or label is not a finite number", file=file)
    if boxes.size and np.abs(boxes).max() > _MAX_EDGE:
        raise DetSeg3DError(
            "a box lies outside any image",
            file=file,
            value=float(boxes.ravel()[np.abs(boxes).argmax()]),
            expected=f"voxels, at most {_MAX_EDGE:.0e}",
        )
    if np.any(boxes[:, [2, 3, 5]] < boxes[:, [0, 1, 4]]) or not _are_counts(labels):
        raise _unknown_form(file, data)
    return edges_from_nndetection(boxes, _voxel(data, network_spacing, file)), scores, labels.astype(int).tolist()


def _are_counts(labels: FloatArray) -> bool:
    return bool(np.all((labels == np.rint(labels)) & (labels >= 0) & (labels < 1 << 31)))


def _voxel(data: Mapping[str, Any], network_spacing: Sequence[float] | None, file: Path) -> FloatArray:
    if network_spacing is None:
        return np.ones(3)
    try:
        image = np.asarray(data["itk_spacing"], np.float64).reshape(3)[::-1]  # x y z
    except (KeyError, TypeError, ValueError) as error:
        raise DetSeg3DError(
            "the spacing of the network needs the spacing of the image",
            file=file,
            expected="itk_spacing, three numbers x y z, which nnDetection writes",
        ) from error
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        voxel: FloatArray = np.asarray(network_spacing, np.float64) / image
    if not np.all((voxel > 1 / _MAX_EDGE) & (voxel < _MAX_EDGE)):
        raise DetSeg3DError("a spacing is not a positive number", file=file, value=[network_spacing, image.tolist()])
    return voxel


def _unknown_form(file: Path, data: Mapping[str, Any]) -> DetSeg3DError:
    found = {name: np.asarray(data[name], object).shape if name in data else "missing" for name in _KEYS}
    return DetSeg3DError(
        "the file does not have the form of nnDetection predictions",
        file=file,
        value=found,
        expected="pred_boxes (N, 6) as z0 y0 z1 y1 x0 x1, pred_scores (N,), and pred_labels (N,), whole numbers from 0",
    )


def _read_npz(file: Path) -> dict[str, Any]:
    try:
        with open_regular_file(file) as handle, np.load(handle, allow_pickle=False) as archive:
            size = sum(entry.file_size for entry in archive.zip.infolist())
            if size > _MAX_BYTES:
                raise ValueError(f"its arrays take {size} bytes, more than {_MAX_BYTES}")
            wanted = (*_KEYS, "restore", "itk_spacing")
            return {name: archive[name] for name in wanted if name in archive.files}
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DetSeg3DError(f"the boxes cannot be read: {error}", file=file, remedy="export them again") from error


def _read_json(file: Path) -> dict[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict):
        raise _unknown_form(file, {})
    if any(name in data for name in _KEYS):
        return data
    try:
        entries = [(entry["box"], entry["score"], entry["label"]) for entry in data.values()]
    except (KeyError, TypeError) as error:
        raise _unknown_form(file, {}) from error
    return dict(zip(_KEYS, zip(*entries, strict=True), strict=True)) if entries else dict.fromkeys(_KEYS, ())
