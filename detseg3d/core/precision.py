"""The numbers that networks compute in."""

from __future__ import annotations

from enum import Enum

__all__ = ["Precision"]


class Precision(str, Enum):
    """Type of the feature maps: what a user may ask for, and what a machine computes in.

    ``AUTO`` leaves the choice to the machine: half precision if its hardware computes in it, else ``FP32``.
    ``BF16`` is bfloat16, ``FP16`` float16 (its losses are scaled in training), ``FP32`` float32. Weights are float32.

    Examples
    --------
    >>> Precision("bf16").bytes_per_value, Precision.FP32.bytes_per_value, str(Precision.FP16)
    (2, 4, 'fp16')
    """

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"

    def __str__(self) -> str:
        return self.value

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one value of a feature map.

        Raises
        ------
        ValueError
            For ``AUTO``, which names no type.
        """
        if self is Precision.AUTO:
            raise ValueError("auto names no type: ask detseg3d.system.device.choose_precision what it stands for")
        return 4 if self is Precision.FP32 else 2
