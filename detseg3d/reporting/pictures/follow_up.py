"""Draw two scans of a patient side by side, with the state of each lesion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from detseg3d.core.lesion_state import LesionState
from detseg3d.core.orientation import SLICE_SIDES
from detseg3d.follow.result import FollowUp, LesionChange
from detseg3d.reporting.pictures.aligned_pair import AlignedPair
from detseg3d.reporting.pictures.overlay import (
    BACKGROUND,
    MUTED,
    TEXT_COLOR,
    CaseFigure,
    LineStyle,
    add_outlines,
    draw_slice,
    prepare_axes,
)
from detseg3d.reporting.pictures.slices import (
    SlicePlane,
    TurnedCase,
    busiest_slice,
    in_plane,
    intensity_window,
    tile_axis,
    tile_region,
    tile_window,
)
from detseg3d.reporting.pictures.state_colors import STATE_COLORS

__all__ = ["draw_comparison", "numbers_text", "size_text"]

_ORDER = (
    LesionState.NEW,
    LesionState.ENLARGED,
    LesionState.MERGED,
    LesionState.SPLIT,
    LesionState.REGROUPED,
    LesionState.SHRUNK,
    LesionState.DISAPPEARED,
    LesionState.OUT_OF_VIEW,
    LesionState.STABLE,
)
_PLANES = ("axial", "coronal", "sagittal")
_PAIRS_PER_ROW = 3
# Sizes in inches.
_WIDTH, _HEADER, _TILE, _MAX_OVERVIEW = 15.0, 0.75, 2.9, 6.5


def draw_comparison(result: FollowUp, index: int, maximum: int = 12) -> Figure:
    """Draw the comparison of scan ``index`` (from 0) and the next scan.

    The first row shows the slice with the most lesions in both scans. Below, each change has two tiles: the same place
    in both scans. The later scan is moved onto the grid of the earlier scan. Numbers are those of the instance maps.

    Parameters
    ----------
    result : FollowUp
        With its scans.
    index : int
    maximum : int, optional
        Maximum number of changes that get tiles. New and enlarged lesions come first, stable lesions last.

    Returns
    -------
    matplotlib.figure.Figure
    """
    pair = AlignedPair.of(result, index)
    changes = sorted(pair.comparison.changes, key=lambda change: (_ORDER.index(change.state), -_largest(change)))
    shown = changes[:maximum]
    rows = math.ceil(len(shown) / _PAIRS_PER_ROW)
    axis = tile_axis(pair.geometry.spacing)
    height_mm, width_mm = (pair.geometry.shape[i] * pair.geometry.spacing[i] for i in in_plane(axis))
    overview = min(_MAX_OVERVIEW, (_WIDTH / 2 - 0.2) * height_mm / width_mm)
    heights = [_HEADER, overview, *[_TILE] * rows]
    figure = CaseFigure(figsize=(_WIDTH, sum(heights) + 0.2), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, left=0.01, right=0.99, top=0.995, bottom=0.01, hspace=0.02
    )
    _draw_header(figure.add_subplot(grid[0]), result, pair, f"{len(shown)} of {len(changes)} changes shown below")
    windows = [intensity_window(case.image) for case in pair.sides]
    titles = [point.title for point in result.time_points[index : index + 2]]
    _draw_overview(figure, grid[1], pair, axis, windows, titles)
    for place, change in enumerate(shown):
        row, column = divmod(place, _PAIRS_PER_ROW)
        tiles = grid[2 + row].subgridspec(1, _PAIRS_PER_ROW, wspace=0.05)[column]
        _draw_change(figure, tiles.subgridspec(2, 2, height_ratios=(0.55, 2.3), wspace=0.03, hspace=0), pair, change)
    return figure


def numbers_text(numbers: Sequence[int]) -> str:
    """Return the numbers of lesions as text; a dash if there are none.

    Examples
    --------
    >>> numbers_text((1, 4)), numbers_text(())
    ('1 + 4', '–')
    """
    return " + ".join(map(str, numbers)) or "–"


def size_text(change: LesionChange) -> str:
    """Return the volumes of a change and their difference in percent."""
    volumes = [None if size is None else size.volume_mm3 for size in (change.size_earlier, change.size_later)]
    in_ml = max(volume for volume in volumes if volume is not None) >= 10_000  # both sizes have the same unit
    text = " → ".join("–" if volume is None else _volume(volume, in_ml) for volume in volumes)
    percent = change.volume_change_percent
    return text if percent is None else f"{text} ({percent:+.0f} %)"


def _volume(volume: float, in_ml: bool) -> str:
    if in_ml:
        return f"{volume / 1000:.1f} ml"
    return f"{volume:.0f} mm³" if volume >= 10 else f"{volume:.2g} mm³"


def _largest(change: LesionChange) -> float:
    return max(size.volume_mm3 for size in (change.size_earlier, change.size_later) if size is not None)


# -- Header and overview -----------------------------------------------------------------------------------------------


def _draw_header(axes: Axes, result: FollowUp, pair: AlignedPair, shown: str) -> None:
    axes.set_axis_off()
    comparison = pair.comparison
    counts = ", ".join(f"{count} {state.value}" for state, count in comparison.counts().items()) or "no lesion"
    axes.text(0.0, 0.78, result.case_id, color=TEXT_COLOR, fontsize=16, fontweight="bold", va="center")
    axes.text(0.0, 0.25, f"{counts}   ·   {shown}", color=TEXT_COLOR, fontsize=11.5, va="center")
    quality = comparison.registration.quality
    text = f"registration: {comparison.registration.method.value}"
    if quality is not None:
        text += f", uncertainty {quality.uncertainty_mm:.1f} mm, overlap {100 * quality.overlap:.0f} %"
    axes.text(1.0, 0.25, text, color=MUTED, fontsize=10.5, va="center", ha="right")
    handles = [
        Line2D([], [], color=STATE_COLORS[state], linewidth=2.5, label=state.value) for state in comparison.counts()
    ]
    if handles:
        legend = axes.legend(
            handles=handles, loc="upper right", ncols=len(handles), frameon=False, fontsize=11, borderaxespad=0
        )
        for label in legend.get_texts():
            label.set_color(TEXT_COLOR)


def _draw_overview(
    figure: Figure,
    place: object,
    pair: AlignedPair,
    axis: int,
    windows: Sequence[tuple[float, float]],
    titles: Sequence[str],
) -> None:
    cells = place.subgridspec(1, 2, wspace=0.02)  # type: ignore[attr-defined]
    joined = TurnedCase(
        pair.earlier.image, pair.earlier.spacing, pair.earlier.prediction, pair.later.prediction, pair.earlier.order
    )
    index = busiest_slice(joined, axis)
    for side, case in enumerate(pair.sides):
        axes = figure.add_subplot(cells[side])
        plane = SlicePlane(case, axis, index)
        prepare_axes(axes, plane)
        draw_slice(axes, plane, windows[side], "antialiased")
        for change in pair.comparison.changes:
            _draw_numbers(axes, plane, side, change, 1.3)
        _draw_letters(axes, axis, 12)
        title = f"{titles[side]}   {_PLANES[axis]} slice {index + 1} of {pair.geometry.shape[axis]}"
        _draw_text(axes, (0.5, 0.985), title, 11.5, "top")


# -- Tiles -------------------------------------------------------------------------------------------------------------


def _draw_change(figure: Figure, tiles: object, pair: AlignedPair, change: LesionChange) -> None:
    """Draw the label of a change and its place in both scans."""
    label = figure.add_subplot(tiles[0, :])  # type: ignore[index]
    label.set_axis_off()
    color = STATE_COLORS[change.state]
    numbers = f"{numbers_text(change.earlier)} → {numbers_text(change.later)}"
    label.text(
        0.0,
        0.68,
        f" {change.state.value.upper()} ",
        fontsize=10,
        fontweight="bold",
        va="center",
        color="#101010",
        bbox={"facecolor": color, "edgecolor": "none", "pad": 1.5},
    )
    label.text(1.0, 0.68, f"lesion {numbers}", fontsize=10.5, va="center", ha="right", color=TEXT_COLOR)
    text = size_text(change)
    if change.doubling_time_days is not None:
        text += f"  ·  doubling {change.doubling_time_days:.0f} days"
    if change.confidence is not None:
        text += f"  ·  confidence {change.confidence:.2f}"
    label.text(0.0, 0.2, text, fontsize=9.5, va="center", color=MUTED)
    axis = tile_axis(pair.geometry.spacing)
    box = pair.box(change)
    region = tile_region(pair.earlier, axis, box)
    low, high = int(box[axis]), int(box[axis + 3])
    others = tuple(other for other in range(3) if other != axis)
    areas = pair.mask(change).sum(axis=others)[low:high]
    index = low + int(np.argmax(areas))
    (top, bottom), (left, right) = region
    for side, case in enumerate(pair.sides):
        axes = figure.add_subplot(tiles[1, side])  # type: ignore[index]
        plane = SlicePlane(case, axis, index, region)
        window = tile_window(plane.take(case.image), intensity_window(case.image))
        prepare_axes(axes, plane)
        draw_slice(axes, plane, window, "nearest")
        for other in pair.comparison.changes:
            _draw_numbers(axes, plane, side, other, 1.8 if other is change else 0.8)
        row_mm, column_mm = plane.scale
        axes.set_xlim(left * column_mm, right * column_mm)
        edges = (bottom * row_mm, top * row_mm)
        axes.set_ylim(edges if axis == 0 else edges[::-1])
        _draw_letters(axes, axis, 8.5)
        _draw_text(axes, (0.5, 0.02), (pair.comparison.earlier, pair.comparison.later)[side], 8.5, "bottom")


def _draw_numbers(axes: Axes, plane: SlicePlane, side: int, change: LesionChange, width: float) -> None:
    """Draw the outlines of the lesions of a change in one scan, with their numbers."""
    numbers = (change.earlier, change.later)[side]
    volume = plane.case.prediction
    if not numbers or volume is None:
        return
    labels = plane.take(volume)
    labels = np.where(np.isin(labels, numbers), labels, 0)
    if not labels.any():
        return
    color = STATE_COLORS[change.state]
    add_outlines(axes, plane, labels, LineStyle(color, width))
    (top, _), (left, _) = plane.limits
    row_mm, column_mm = plane.scale
    for number in np.unique(labels[labels > 0]).tolist():
        rows, columns = np.nonzero(labels == number)
        axes.text(
            (left + columns.max() + 1.4) * column_mm,
            (top + rows.mean() + 0.5) * row_mm,
            f"{number}",
            color=color,
            fontsize=9.5,
            fontweight="bold",
            va="center",
            clip_on=True,
            path_effects=[Stroke(linewidth=2, foreground="#000000"), Normal()],
        )


def _draw_letters(axes: Axes, axis: int, size: float) -> None:
    """Draw the letters of the patient's sides at the edges of a picture."""
    left, right, top, bottom = SLICE_SIDES[axis]
    for letter, place in ((left, (0.025, 0.5)), (right, (0.975, 0.5)), (top, (0.06, 0.95)), (bottom, (0.06, 0.05))):
        _draw_text(axes, place, letter, size, "center")


def _draw_text(axes: Axes, place: tuple[float, float], text: str, size: float, vertical: str) -> None:
    axes.text(
        *place,
        text,
        color=TEXT_COLOR,
        fontsize=size,
        transform=axes.transAxes,
        ha="center",
        va=vertical,
        bbox={"facecolor": BACKGROUND, "alpha": 0.6, "edgecolor": "none", "pad": 1.5},
    )
