"""From numpy to torch, for arrays with any strides."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["tensor_of"]


def tensor_of(array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> torch.Tensor:
    """A tensor of an array with any strides, contiguous and without a copy where that is possible.

    Torch refuses negative strides. :func:`numpy.ascontiguousarray` does not always remove them: numpy counts an array
    as contiguous whatever the stride of an axis of length 1 is. A volume of one slice that was flipped along that axis
    is such an array.

    Parameters
    ----------
    array : array_like
    dtype : dtype, optional
        Of the tensor; that of the array by default.

    Examples
    --------
    >>> flipped = np.zeros((1, 2, 2), np.float32)[::-1]
    >>> np.ascontiguousarray(flipped).strides, tuple(tensor_of(flipped).shape)
    ((-16, 8, 4), (1, 2, 2))
    """
    plain: npt.NDArray[Any] = np.ascontiguousarray(array, dtype=dtype)
    if any(stride < 0 for stride in plain.strides):
        plain = plain.copy()
    return torch.from_numpy(plain)
