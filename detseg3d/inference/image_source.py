"""How the images of a prediction are read: the spacing of arrays, and what is chosen of DICOM folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom import DicomOptions
from detseg3d.planning.plans import Plans

__all__ = ["ImageSource"]


@dataclass(frozen=True)
class ImageSource:
    """How the images of a prediction are read.

    Parameters
    ----------
    npy_spacing : sequence of 3 floats, optional
        mm ``(z, y, x)`` of .npy inputs, which carry none; by default that of the data set the model was trained on.
    series : tuple of str
        SeriesInstanceUID, SeriesNumber or SeriesDescription that is read of a DICOM folder: one for all channels, or
        one for each channel, which then all lie in the same folder.
    suv_channels : tuple of str
        Channels whose PET is converted to SUV in addition to those of the plans.
    """

    npy_spacing: Sequence[float] | None = None
    series: tuple[str, ...] = ()
    suv_channels: tuple[str, ...] = ()

    def dicom_options(self, plans: Plans) -> tuple[DicomOptions, ...]:
        """What is read of DICOM folders, per channel of a model.

        Raises
        ------
        DetSeg3DError
            If the number of series is neither 1 nor that of the channels, or there is no such channel.
        """
        names = plans.channel_names
        if len(self.series) not in (0, 1, len(names)):
            raise DetSeg3DError(
                "the number of series does not fit the channels of the model",
                value=list(self.series),
                expected=f"one, or one for each of {list(names)}",
            )
        unknown = sorted(set(self.suv_channels) - set(names))
        if unknown:
            raise DetSeg3DError("the model has no such channel", value=unknown, expected=f"some of {list(names)}")
        suv = {*plans.suv_channels, *self.suv_channels}
        series = self.series if len(self.series) == len(names) else (self.series or (None,)) * len(names)
        return tuple(DicomOptions(one, name in suv) for one, name in zip(series, names, strict=True))
