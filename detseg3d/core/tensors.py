"""Conversion of NumPy arrays with any strides to tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["tensor_of"]


def tensor_of(array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> torch.Tensor:
    """Return an array as a contiguous tensor, without a copy if possible.

    Torch refuses negative strides, and :func:`numpy.ascontiguousarray` does not remove them from axes of length 1. A
    volume of one slice that was flipped along its slice axis has such a stride.

    Parameters
    ----------
    array : array_like
    dtype : dtype, optional
        Number type of the tensor; by default the number type of the array.

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
