"""Simulate one scan with random anatomy, intensities, lesions, scanner and protocol.

A network that is trained on such scans cannot rely on the intensities of a modality or on the anatomy of a region. It
has to learn the property that all lesions share: they differ from their surroundings, and they are neither a normal
organ nor a tube, a membrane or a capsule. SynthSeg introduced training on random intensities.

References
----------
Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without retraining", Medical
Image Analysis 86, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Spacing, Triple
from detseg3d.core.errors import DetSeg3DError
from detseg3d.synthetic.random_scans.anatomy import draw_anatomy
from detseg3d.synthetic.random_scans.canvas import Canvas
from detseg3d.synthetic.random_scans.lesions import LesionStyle, draw_lesions, label_of
from detseg3d.synthetic.random_scans.scanner import Protocol, acquire, paint_regions

__all__ = ["MIN_EDGE", "RandomScan", "simulate_random_scan"]

MIN_EDGE = 16
"""Smallest edge of a random scan in voxels."""
# One of twelve scans has no lesion.
_HEALTHY_FRACTION = 1 / 12
_LARGEST_VALUE = 32_000


@dataclass(frozen=True)
class RandomScan:
    """A simulated scan.

    Attributes
    ----------
    image : ndarray of int16, shape ``(Z, Y, X)``
    label : ndarray of uint8, shape ``(Z, Y, X)``
        1 in lesions, 0 elsewhere.
    spacing : 3 floats
        In mm, ``(z, y, x)``.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    spacing: Spacing


def simulate_random_scan(shape: Triple, seed: Sequence[int]) -> RandomScan:
    """Simulate one scan.

    Parameters
    ----------
    shape : 3 ints
        Voxels ``(z, y, x)`` of the anatomy, at least 16 along each axis. The image has fewer slices along an axis with
        thick slices.
    seed : sequence of int
        The same seed gives the same scan.

    Returns
    -------
    RandomScan

    Raises
    ------
    DetSeg3DError
        If the volume is too small.

    Examples
    --------
    >>> scan = simulate_random_scan((32, 32, 32), (7,))
    >>> str(scan.image.dtype), sorted(set(scan.label.ravel().tolist()))
    ('int16', [0, 1])
    """
    if min(shape) < MIN_EDGE:
        raise DetSeg3DError(
            "the volume is too small for a body", value=shape, expected=f"at least {MIN_EDGE} voxels per axis"
        )
    random = np.random.default_rng(list(seed))
    canvas = Canvas(shape, random)
    protocol = Protocol.draw(random)
    anatomy = draw_anatomy(canvas)
    image = paint_regions(canvas, anatomy)
    weights = np.zeros(shape, np.float32)
    if random.random() >= _HEALTHY_FRACTION:
        weights = draw_lesions(canvas, image, anatomy, LesionStyle.draw(anatomy, random), protocol.noise)
    acquired = acquire(canvas, image, weights, protocol)
    values = np.clip(np.rint(acquired.image), -_LARGEST_VALUE, _LARGEST_VALUE).astype(np.int16)
    return RandomScan(values, label_of(acquired.weights), acquired.spacing)
