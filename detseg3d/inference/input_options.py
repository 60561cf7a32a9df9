"""How the scans to predict are read: options that a user states beside what the plans of the model say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image_source import ImageSource
from detseg3d.planning.plans import Plans

__all__ = ["InputOptions"]


@dataclass(frozen=True)
class InputOptions:
    """How the scans to predict are read.

    Parameters
    ----------
    spacing : 3 floats, optional
        Voxel size ``(z, y, x)`` in mm of ``.npy`` files, which store none. By default that of the scan's source, else
        that of the data set the model was trained on, else 1 mm.
    series : tuple of str
        Series to read from DICOM folders: a SeriesInstanceUID, SeriesNumber or SeriesDescription. Either one for all
        channels, or one for each channel; in the second case all channels of a case lie in the same folder.
    suv_channels : tuple of str
        Channels whose PET is converted to SUV, in addition to those of the plans.
    """

    spacing: Spacing | None = None
    series: tuple[str, ...] = ()
    suv_channels: tuple[str, ...] = ()

    def check(self, plans: Plans) -> None:
        """Check that the options fit the channels of a model.

        Raises
        ------
        DetSeg3DError
            If the number of series is neither 1 nor that of the channels, or the model has no such channel.
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

    def apply(self, images: Sequence[ImageSource], plans: Plans) -> tuple[ImageSource, ...]:
        """Return the sources of the channels of a case, with what these options and the plans state of them.

        Parameters
        ----------
        images : sequence of ImageSource
            One for each channel of the model.
        plans : Plans
            Of the model.

        Raises
        ------
        DetSeg3DError
            As :meth:`check`.
        """
        self.check(plans)
        names = plans.channel_names
        suv = {*plans.suv_channels, *self.suv_channels}
        series = self.series if len(self.series) == len(names) else (self.series or (None,)) * len(names)
        return tuple(
            replace(
                image,
                spacing=self.spacing or image.spacing or plans.default_spacing,
                series=chosen or image.series,
                suv=image.suv or name in suv,
            )
            for image, chosen, name in zip(images, series, names, strict=True)
        )
