"""Rules for the phases of the training: small windows first, whole volumes last."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detseg3d.core.arrays import Spacing, Triple
from detseg3d.planning.rules.grids import finest_spacing
from detseg3d.planning.sections import CurriculumPhase

__all__ = ["choose_curriculum"]


# Windows of 48³ find more lesions of every size than half as many windows of 64³ in the same time (docs/research_log).
WINDOW_EDGES = (48, 96)
SHARES = (0.6, 0.25, 0.15)
NEARLY_WHOLE = 0.8


def choose_window(
    edge: int, detection_spacing: Spacing, scale: Sequence[float], total_stride: Sequence[int], largest: Triple
) -> Triple:
    """Choose a window with about ``edge`` detection voxels along the finest axis.

    The window has about the same length in mm along all axes. Its edges are multiples of the total stride on the
    detection grid, and it is never larger than the planned volume. Only an axis with 8 voxels or more can be the finest
    axis.

    Parameters
    ----------
    edge : int
        Detection voxels along the finest axis.
    detection_spacing : 3 floats
        In mm.
    scale : 3 floats
        Fine voxels per detection voxel.
    total_stride : 3 ints
        Detection voxels per cell of the coarsest stage.
    largest : 3 ints
        Planned volume in fine voxels.

    Returns
    -------
    3 ints
        Fine voxels ``(z, y, x)``.

    Examples
    --------
    >>> choose_window(64, (1, 1, 1), (1, 1, 1), (16, 16, 16), (96, 160, 128))
    (64, 64, 64)
    >>> choose_window(64, (3, 0.75, 0.75), (1, 1, 1), (8, 32, 32), (56, 330, 330))
    (16, 64, 64)
    """
    window = []
    finest = finest_spacing(detection_spacing, largest)
    for axis in range(3):
        cells = edge * finest / detection_spacing[axis] / total_stride[axis]
        limit = largest[axis] / scale[axis] / total_stride[axis]
        count = max(1, min(round(cells), math.floor(limit + 1e-6)))
        # Rounded down, because one more voxel would need one more cell, and the window would be padded by a stride.
        window.append(min(largest[axis], math.floor(count * total_stride[axis] * scale[axis] + 1e-6)))
    z, y, x = window
    return z, y, x


def choose_curriculum(
    detection_spacing: Spacing,
    scale: Sequence[float],
    total_stride: Sequence[int],
    largest: Triple,
    large_lesion: float = 0.0,
) -> tuple[CurriculumPhase, ...]:
    """Choose the phases of the training: small windows, larger windows, whole volumes.

    Windows have about 48 and 96 detection voxels along the finest axis, and at least twice the length of a large
    lesion. A window with at least 80 % of the voxels of the planned volume becomes the whole volume. Neighbouring
    phases with equal windows are joined.

    Parameters
    ----------
    detection_spacing : 3 floats
        In mm.
    scale : 3 floats
        Fine voxels per detection voxel.
    total_stride : 3 ints
        Detection voxels per cell of the coarsest stage.
    largest : 3 ints
        Planned volume in fine voxels.
    large_lesion : float, optional
        Longest edge of a 95th-percentile lesion in mm.

    Returns
    -------
    tuple of CurriculumPhase
        In the order of the training.

    Examples
    --------
    >>> [phase.window for phase in choose_curriculum((1, 1, 1), (1, 1, 1), (16, 16, 16), (96, 160, 128))]
    [(48, 48, 48), (96, 96, 96), None]
    >>> [phase.fraction for phase in choose_curriculum((1, 1, 1), (1, 1, 1), (8, 8, 8), (40, 50, 40))]
    [1.0]
    """
    phases: list[tuple[float, Triple | None]] = []
    for base, share in zip(WINDOW_EDGES, SHARES, strict=False):
        edge = max(
            base, math.ceil(base / WINDOW_EDGES[0] * 2 * large_lesion / finest_spacing(detection_spacing, largest))
        )
        window = choose_window(edge, detection_spacing, scale, total_stride, largest)
        whole = math.prod(window) >= NEARLY_WHOLE * math.prod(largest)
        phases.append((share, None if whole else window))
    phases.append((SHARES[-1], None))
    (first, small), (second, larger) = phases[:2]
    if larger is None and small is not None:
        # The larger window is the whole volume, so small windows and whole volumes share the time of the middle phase.
        phases[:2] = [(first + second / 2, small), (second / 2, None)]
    merged: list[CurriculumPhase] = []
    for share, chosen in phases:
        if merged and merged[-1].window == chosen:
            merged[-1] = CurriculumPhase(fraction=round(merged[-1].fraction + share, 6), window=chosen)
        else:
            merged.append(CurriculumPhase(fraction=round(share, 6), window=chosen))
    return tuple(merged)
