"""Number formats of the networks."""

from __future__ import annotations

from collections.abc import Sequence

from detseg3d.core.enums import StringEnum
from detseg3d.core.errors import DetSeg3DError

__all__ = ["Precision", "require_offered"]


class Precision(StringEnum):
    """Number format of the feature maps; weights are always float32.

    ``AUTO`` is half precision if the hardware computes in it, else ``FP32``. ``BF16`` is bfloat16, ``FP16`` is float16
    (training scales the loss), ``FP32`` is float32.

    Examples
    --------
    >>> Precision("bf16").bytes_per_value, Precision.FP32.bytes_per_value, str(Precision.FP16)
    (2, 4, 'fp16')
    """

    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one value of a feature map.

        Raises
        ------
        ValueError
            For ``AUTO``, which is not a number format.
        """
        if self is Precision.AUTO:
            raise ValueError("auto is not a number format; detseg3d.system.device.choose_precision chooses one")
        return 4 if self is Precision.FP32 else 2


def require_offered(wanted: Precision, offered: Sequence[Precision], place: str) -> None:
    """Raise an error if a device or a backend does not offer a precision.

    Parameters
    ----------
    wanted : Precision
        Not ``AUTO``.
    offered : sequence of Precision
    place : str
        Type of the device, or name of the backend.

    Raises
    ------
    DetSeg3DError
        If ``wanted`` is not in ``offered``.
    """
    if wanted not in offered:
        raise DetSeg3DError(
            f"the precision {wanted} is not offered here",
            value=f"--precision {wanted} on {place}",
            expected=" or ".join(map(str, (Precision.AUTO, *offered))),
            remedy="use --precision auto",
        )
