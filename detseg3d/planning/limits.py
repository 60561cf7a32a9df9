"""Types of the fields of the plans, with the limits of their values.

The limits are far above every sensible value and far below values that would make a computer hang. They are checked
before anything is built from the plans, because a ``plans.json`` may come from an unknown source or contain a typing
error.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

__all__ = [
    "Axes",
    "AxisLength",
    "Channels",
    "Count",
    "FiniteFloat",
    "Kernel",
    "Length",
    "MAX_STAGES",
    "RoiLength",
    "Stride",
]


MAX_STAGES: Final = 12


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("a kernel must be odd, so that it has a middle")
    return value


def _once_each(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) != len(axes):
        raise ValueError("an axis is named twice")
    return axes


Channels = Annotated[int, Field(ge=1, le=4096)]
Stride = Annotated[int, Field(ge=1, le=16)]
Kernel = Annotated[int, Field(ge=1, le=15), AfterValidator(_odd)]
RoiLength = Annotated[int, Field(ge=4, le=512)]
AxisLength = Annotated[int, Field(ge=1, le=100_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
# Millimetres. Spacings are a nanometre to a kilometre (core/geometry.py), an extent is several of them.
Length = Annotated[float, Field(ge=1e-7, le=1e9, allow_inf_nan=False)]
Axes = Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], AfterValidator(_once_each)]  # 0 is z
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
