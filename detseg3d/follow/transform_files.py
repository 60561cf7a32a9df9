"""Read and write rigid motions as text files of ITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

from detseg3d.core.arrays import FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.rigid import RigidTransform
from detseg3d.system.files import atomic_path, read_bounded

__all__ = ["read_transform", "write_transform"]

# Rotation matrices in text files have about six digits.
_ORTHOGONAL_TOLERANCE = 1e-3
_MAX_FILE_BYTES = 1 << 20
_TEXT_ENDINGS = (".tfm", ".txt")


def read_transform(path: str | Path) -> RigidTransform:
    """Read a rigid transform from a text file of ITK (``.tfm``, ``.txt``), as 3D Slicer, SimpleITK and ANTs write it.

    The transform maps points of the earlier scan to points of the later scan, in mm LPS. Programs that register the
    later scan ("moving") to the earlier scan ("fixed") write this direction.

    Parameters
    ----------
    path : path

    Returns
    -------
    RigidTransform

    Raises
    ------
    DetSeg3DError
        If the file is missing, is not a text file of ITK, is larger than 1 MiB, or holds a transform that is not a
        rotation with a translation.
    """
    path = Path(path)
    expected = "a text file of ITK (.tfm or .txt) with a rigid transform"
    if path.suffix.lower() not in _TEXT_ENDINGS:
        raise DetSeg3DError("the format of the transform is not supported", file=path, expected=expected)
    try:
        text = read_bounded(path, _MAX_FILE_BYTES).decode("utf-8")
    except FileNotFoundError as error:
        raise DetSeg3DError("the transform does not exist", file=path, remedy="check the path") from error
    except (OSError, ValueError) as error:
        raise DetSeg3DError(f"the transform cannot be read: {error}", file=path, expected=expected) from error
    if not text.startswith("#Insight Transform File"):
        raise DetSeg3DError("the file is not a transform of ITK", file=path, expected=expected)
    try:
        transform = SimpleITK.ReadTransform(str(path))
        is_linear = transform.GetDimension() == 3 and transform.IsLinear()
    except RuntimeError as error:
        raise DetSeg3DError("ITK cannot read the transform", file=path, expected=expected) from error
    if not is_linear:
        raise DetSeg3DError(
            "the transform is not a rigid motion in 3D", file=path, value=transform.GetName(), expected=expected
        )
    # Every linear transform is known by its effect on the origin and on the three unit vectors.
    offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(axis))) - offset for axis in np.eye(3).tolist()]
    return _checked(np.stack(columns, axis=1), offset, path)


def _checked(matrix: FloatArray, offset: FloatArray, path: Path) -> RigidTransform:
    """Return the transform if its matrix is a rotation."""
    with np.errstate(invalid="ignore"):
        error = np.abs(matrix @ matrix.T - np.eye(3)).max()
    if not (np.isfinite(offset).all() and error <= _ORTHOGONAL_TOLERANCE and np.linalg.det(matrix) > 0):
        raise DetSeg3DError(
            "the transform scales, shears or mirrors",
            file=path,
            value=matrix.round(4).tolist(),
            expected="a rotation and a translation",
            remedy="register the scans rigidly: volumes would change under this transform",
        )
    left, _, right = np.linalg.svd(matrix)  # the nearest rotation, without the rounding of the file
    return RigidTransform.of_matrix(left @ right, offset)


def write_transform(transform: RigidTransform, path: str | Path) -> None:
    """Write a rigid transform atomically as a text file of ITK, which 3D Slicer, SimpleITK and ANTs can read.

    Parameters
    ----------
    transform : RigidTransform
    path : path
        With the ending ``.tfm``.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    affine = SimpleITK.AffineTransform(3)
    affine.SetMatrix(transform.rotation)
    affine.SetTranslation(transform.translation)
    with atomic_path(path) as temporary:
        SimpleITK.WriteTransform(affine, str(temporary))
