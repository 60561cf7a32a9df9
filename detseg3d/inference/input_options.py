"""Options of a user for reading the scans to predict. They replace the values in the plans of the model."""

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
    """Options for reading the scans to predict.

    Parameters
    ----------
    spacing : 3 floats, optional
        Voxel spacing ``(z, y, x)`` in mm of ``.npy`` files, which store no spacing. By default the spacing of the image
        source is used, else the spacing of the training data set, else 1 mm.
    series : tuple of str
        Series to read from DICOM folders: a SeriesInstanceUID, SeriesNumber or SeriesDescription. There is one entry
        for all channels, or one entry for each channel. In the second case, all channels of a case lie in the same
        folder.
    suv_channels : tuple of str
        Names of channels with PET to convert to SUV, in addition to the channels that the plans name.
    """

    spacing: Spacing | None = None
    series: tuple[str, ...] = ()
    suv_channels: tuple[str, ...] = ()

    def check(self, plans: Plans) -> None:
        """Check that the options fit the channels of a model.

        Raises
        ------
        DetSeg3DError
            If the number of series is not 0, 1 or the number of channels, or if a channel does not exist.
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
        """Return the image sources of a case, completed by these options and by the plans.

        Parameters
        ----------
        images : sequence of ImageSource
            One for each channel of the model.
        plans : Plans
            Plans of the model.

        Returns
        -------
        tuple of ImageSource
            In the order of ``images``.

        Raises
        ------
        DetSeg3DError
            For the reasons of :meth:`check`.
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
