"""All shifts, in the order of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from detseg3d.core.intensities import channel_scheme
from detseg3d.synthetic.shifts.acquisition import blur, other_spacing, thick_slices
from detseg3d.synthetic.shifts.field_of_view import cropped, masked, padded, rotated
from detseg3d.synthetic.shifts.intensity import bias_field, gamma, inverted_contrast, monotone_curve, offset_and_scale
from detseg3d.synthetic.shifts.lesions import fainter_lesions
from detseg3d.synthetic.shifts.noise import gaussian_noise, rician_noise
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Shift, Strength

__all__ = ["SHIFTS", "shifts_for"]


def _other_scanner(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Shading, another curve, noise and thick slices; all but the slices one strength lower."""
    lower = strength.choose(Strength.MILD, Strength.MILD, Strength.MEDIUM)
    scan = monotone_curve(bias_field(scan, lower, random), lower, random)
    scan = thick_slices(scan, strength, random, int(random.integers(3)))
    return gaussian_noise(scan, lower, random)


def _other_study(scan: Scan, strength: Strength, random: np.random.Generator) -> Scan:
    """Fainter lesions, a mask, axial thick slices and another unit; all but the mask one strength lower."""
    lower = strength.choose(Strength.MILD, Strength.MILD, Strength.MEDIUM)
    scan = masked(fainter_lesions(scan, lower, random), strength, random)
    return offset_and_scale(thick_slices(scan, lower, random, 0), lower, random)


SHIFTS: tuple[Shift, ...] = (
    Shift(
        "thick_slices_z",
        "slices of 3, 5 or 8 mm along z, at least 1.5, 2 or 3 of the present ones",
        partial(thick_slices, axis=0),
    ),
    Shift(
        "thick_slices_y",
        "slices of 3, 5 or 8 mm along y, at least 1.5, 2 or 3 of the present ones",
        partial(thick_slices, axis=1),
    ),
    Shift(
        "thick_slices_x",
        "slices of 3, 5 or 8 mm along x, at least 1.5, 2 or 3 of the present ones",
        partial(thick_slices, axis=2),
    ),
    Shift("blur", "frequencies limited to voxels of 1.25, 1.75 or 2.5 times the size (of 1 mm at least)", blur),
    Shift("other_spacing", "voxels 1.25, 1.5 or 2 times as long on two axes, shorter on the third", other_spacing),
    Shift("gaussian_noise", "noise of 0.15, 0.3 or 0.5 spreads of the tissue (CT: 20, 40 or 80 HU)", gaussian_noise),
    Shift("rician_noise", "magnitude of a signal with noise of 0.15, 0.3 or 0.5 spreads", rician_noise, False),
    Shift("bias_field", "shading of a coil: a ratio of 1.5, 2 or 3 over the volume", bias_field, False),
    Shift("gamma", "exponent of 1.25, 1.6 or 2.2, or its inverse", gamma, False),
    Shift("monotone_curve", "a random ascending curve, random by 0.4, 0.65 or 0.85", monotone_curve, False),
    Shift("inverted_contrast", "contrast of the tissue times -0.5, -0.75 or -1", inverted_contrast, False),
    Shift("offset_and_scale", "another unit (CT: 10, 20 or 40 HU and 1, 2 or 4 %)", offset_and_scale),
    Shift("fainter_lesions", "contrast of each lesion times 0.75, 0.5 or 0.35", fainter_lesions, version=2),
    Shift("cropped", "0.9, 0.8 or 0.65 of each length at a random place", cropped),
    Shift("padded", "0.1, 0.2 or 0.4 of each length added as air", padded),
    Shift("masked", "a constant outside the body (mild) or outside its inner part", masked),
    Shift("rotated", "turned by 10, 20 or 30 degrees about a random axis", rotated),
    Shift("other_scanner", "bias field, monotone curve, thick slices and noise together", _other_scanner),
    Shift("other_study", "fainter lesions, mask, thick slices and another unit together", _other_study, version=2),
)
"""Every shift, in the order of the tables."""


def shifts_for(channel_names: Sequence[str]) -> tuple[Shift, ...]:
    """Return the shifts that are sensible for channels of these names.

    Examples
    --------
    >>> len(shifts_for(["FLAIR"])), [shift.name for shift in shifts_for(["CT"])][:4]
    (19, ['thick_slices_z', 'thick_slices_y', 'thick_slices_x', 'blur'])
    """
    is_ct = tuple(channel_scheme(name) == "ct" for name in channel_names)
    return tuple(shift for shift in SHIFTS if shift.suits(is_ct))
