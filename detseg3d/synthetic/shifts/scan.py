"""A scan with its true lesions, as the shifts change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detseg3d.core.geometry import Geometry
from detseg3d.core.intensities import channel_scheme

__all__ = ["Scan"]


@dataclass(frozen=True, eq=False)
class Scan:
    """The channels and the lesions of one scan before preprocessing, on one grid.

    Attributes
    ----------
    images : ndarray of float32, shape ``(C, Z, Y, X)``
        Intensities in the unit of the files.
    instances : ndarray of int32, shape ``(Z, Y, X)``
        Instance map: 0 is background, each lesion has its own number.
    geometry : Geometry
    is_ct : tuple of bool
        For each channel, true if the intensities are Hounsfield units.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """

    images: npt.NDArray[np.float32]
    instances: npt.NDArray[np.int32]
    geometry: Geometry
    is_ct: tuple[bool, ...]

    def __post_init__(self) -> None:
        shape = self.geometry.shape
        if self.images.ndim != 4 or self.images.shape[1:] != shape or self.instances.shape != shape:
            raise ValueError(f"images {self.images.shape} and instances {self.instances.shape} on a grid of {shape}")
        if len(self.is_ct) != len(self.images):
            raise ValueError(f"{len(self.is_ct)} values of is_ct for {len(self.images)} channels")

    @classmethod
    def of(
        cls,
        images: npt.NDArray[np.float32],
        instances: npt.NDArray[np.integer],
        geometry: Geometry,
        channel_names: Sequence[str],
    ) -> Scan:
        """Return a scan whose channels named ``CT`` hold Hounsfield units."""
        is_ct = tuple(channel_scheme(name) == "ct" for name in channel_names)
        return cls(np.asarray(images, np.float32), np.asarray(instances, np.int32), geometry, is_ct)

    @property
    def lesion_ids(self) -> list[int]:
        """Numbers of the lesions, ascending."""
        return [int(number) for number in np.unique(self.instances[self.instances > 0])]

    def each_channel(self, change: Callable[[npt.NDArray[np.float32], bool], npt.NDArray[np.floating]]) -> Scan:
        """Return the scan with changed intensities on the same grid.

        Parameters
        ----------
        change : callable
            Function of a channel ``(Z, Y, X)`` and of true for Hounsfield units. It returns the changed channel.
        """
        channels = [change(channel, is_ct) for channel, is_ct in zip(self.images, self.is_ct, strict=True)]
        return replace(self, images=np.stack(channels).astype(np.float32))
