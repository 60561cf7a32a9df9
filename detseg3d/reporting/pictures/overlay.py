"""Pictures of a case: slices through every kind of finding, with the outlines of truth and prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.orientation import StoredOrder
from detseg3d.reporting.pictures.findings import (
    DETECTED,
    FALSE_POSITIVE,
    FOUND,
    MISSED,
    Finding,
    collect_findings,
    select_findings,
)
from detseg3d.reporting.pictures.slices import (
    Region,
    View,
    best_slice,
    busiest_slice,
    clip_region,
    in_plane,
    intensity_window,
    outline_segments,
    take_slice,
    tile_axis,
    tile_region,
    tile_window,
)
from detseg3d.system.files import atomic_path

__all__ = ["draw_case", "save_figure"]

# Leaves matplotlib room to compute in float32.
_BRIGHTEST = 1e30


# Green and magenta are told apart by people with any of the common colour vision deficiencies; the truth is also drawn
# thicker, so that where the two coincide both remain visible.
TRUTH_COLOR, PREDICTION_COLOR, BOX_COLOR = "#2ee6a6", "#ff4fc3", "#ffd24d"
BACKGROUND, TEXT_COLOR, MUTED = "#16181d", "#f2f2f2", "#a5abb8"
STATUS_COLORS = {FOUND: TRUTH_COLOR, MISSED: "#ffb000", FALSE_POSITIVE: PREDICTION_COLOR, DETECTED: PREDICTION_COLOR}

_PLANES = ("axial", "coronal", "sagittal")
_PAIRS_PER_ROW = 4
# Inches.
_WIDTH, _HEADER_HEIGHT, _GAP, _TILE_HEIGHT, _HIGHEST_OVERVIEW = 16.0, 0.65, 0.1, 2.45, 6.5


def draw_case(
    image: npt.NDArray[Any],
    spacing: Sequence[float],
    predictions: AnyIntArray | None = None,
    records: Sequence[Mapping[str, Any]] | None = None,
    truth: AnyIntArray | None = None,
    *,
    truth_classes: Mapping[int, str] | None = None,
    prediction_classes: Mapping[int, str] | None = None,
    direction: Sequence[float] | None = None,
    maximum: int = 12,
    title: str = "",
) -> Figure:
    """Draw a case.

    The first row shows an axial, a coronal and a sagittal slice, each where most lesions are. Below, each finding has a
    pair of tiles: the image by itself and the same with outlines, box and score, labelled FOUND, MISSED or FALSE
    POSITIVE (at any overlap within a class).

    Parameters
    ----------
    image : ndarray, shape ``(Z, Y, X)``
    spacing : 3 floats
        Millimetres ``(z, y, x)``; pixels are drawn in their true proportions.
    predictions, truth : ndarray of int, shape ``(Z, Y, X)``, optional
        Instance maps: 0 is background, every other value one lesion.
    records : sequence of dict, optional
        The predicted lesions as in ``rois/CASE.json`` (``id``, ``box``, ``score``, ``class``).
    truth_classes, prediction_classes : dict of int to str, optional
        Class of each lesion, by its value in the map: only lesions of one class are compared.
    direction : 9 floats, optional
        As in :class:`~detseg3d.core.geometry.Geometry`. With it, the volume is turned to the radiological view.
    maximum : int, optional
        Most findings shown; see :func:`~detseg3d.reporting.pictures.findings.select_findings`.
    title : str, optional
        Name of the case.

    Returns
    -------
    matplotlib.figure.Figure
        With the Agg canvas, so no display is needed; see :func:`save_figure`.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    for name, volume in (("predictions", predictions), ("truth", truth)):
        if volume is not None and volume.shape != image.shape:
            raise ValueError(f"{name} {volume.shape} and image {image.shape} differ in shape")
    if direction is None:
        orientation = StoredOrder((image.shape[0], image.shape[1], image.shape[2]))
    else:
        orientation = StoredOrder.of_direction(direction, image.shape)
    findings = collect_findings(spacing, predictions, records, truth, truth_classes, prediction_classes)
    shown = select_findings(findings, maximum)
    seen = View(
        orientation.to_canonical(_finite(image)),
        orientation.triple_to_canonical(spacing),
        None if truth is None else orientation.to_canonical(truth),
        None if predictions is None else orientation.to_canonical(predictions),
        orientation,
    )
    return _compose(seen, findings, shown, title)


def _finite(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A scan to be looked at: what is no number is 0, and the infinite is far brighter than anything else."""
    with np.errstate(over="ignore"):
        return np.nan_to_num(image.astype(np.float32), posinf=_BRIGHTEST, neginf=-_BRIGHTEST)


def save_figure(figure: Figure, path: str | Path, dots_per_inch: int = 100) -> None:
    """Write the figure atomically; the ending of ``path`` (.png, .pdf, .svg) names the format."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dots_per_inch, facecolor=figure.get_facecolor())


def _compose(seen: View, findings: Sequence[Finding], shown: Sequence[Finding], title: str) -> Figure:
    rows = math.ceil(len(shown) / _PAIRS_PER_ROW)
    # Millimetres across and down; the three planes are shown at one scale.
    sizes = [tuple(seen.image.shape[i] * seen.spacing[i] for i in in_plane(axis)) for axis in range(3)]
    width = sum(size[1] for size in sizes)
    overview_height = min(_HIGHEST_OVERVIEW, (_WIDTH - 0.8) * max(size[0] for size in sizes) / width)
    heights = [_HEADER_HEIGHT, overview_height, _GAP] + [_TILE_HEIGHT] * rows
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.2), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, left=0.012, right=0.988, top=0.995, bottom=0.01, hspace=0.0
    )
    _draw_header(figure.add_subplot(grid[0]), findings, shown, title, seen.truth is not None)
    overview = grid[1].subgridspec(1, 3, wspace=0.03, width_ratios=[size[1] for size in sizes])
    window = intensity_window(seen.image)
    for axis in range(3):
        _draw_overview(figure.add_subplot(overview[axis]), seen, axis, shown, window)
    several_classes = len({finding.class_name for finding in findings} - {None}) > 1
    for row in range(rows):
        pairs = grid[3 + row].subgridspec(1, _PAIRS_PER_ROW, wspace=0.06)
        for column, finding in enumerate(shown[row * _PAIRS_PER_ROW : (row + 1) * _PAIRS_PER_ROW]):
            tiles = pairs[column].subgridspec(2, 2, height_ratios=(0.5, 1.95), wspace=0.02, hspace=0.0)
            number = row * _PAIRS_PER_ROW + column + 1
            _draw_label(figure.add_subplot(tiles[0, :]), finding, number, several_classes)
            _draw_tiles(figure.add_subplot(tiles[1, 0]), figure.add_subplot(tiles[1, 1]), seen, finding, window)
    return figure


def _draw_header(axes: Axes, findings: Sequence[Finding], shown: Sequence[Finding], title: str, compared: bool) -> None:
    axes.set_axis_off()
    count = {status: sum(finding.status == status for finding in findings) for status in STATUS_COLORS}
    if compared:
        lesions = count[FOUND] + count[MISSED]
        text = f"{lesions} lesion{'s' * (lesions != 1)}: {count[FOUND]} found, {count[MISSED]} missed"
        text += f"   ·   {count[FALSE_POSITIVE]} false positive{'s' * (count[FALSE_POSITIVE] != 1)}"
    else:
        text = f"{count[DETECTED]} lesion{'s' * (count[DETECTED] != 1)} detected"
    if len(shown) < len(findings):
        text += f"   ·   {len(shown)} of {len(findings)} shown below"
    left = 0.0
    if title:
        name = axes.text(0.0, 0.55, title, color=TEXT_COLOR, fontsize=17, fontweight="bold", va="center")
        figure = axes.get_figure()
        assert figure is not None
        extent = name.get_window_extent().transformed(axes.transAxes.inverted())
        left = float(extent.x1) + 0.015
    axes.text(left, 0.55, text, color=TEXT_COLOR, fontsize=13, va="center")
    handles = [Line2D([], [], color=PREDICTION_COLOR, linewidth=1.8, label="prediction")]
    if compared:
        handles.insert(0, Line2D([], [], color=TRUTH_COLOR, linewidth=3, label="truth"))
    handles.append(Line2D([], [], color=BOX_COLOR, linewidth=1.2, linestyle=(0, (3, 2)), label="predicted box"))
    legend = axes.legend(handles=handles, loc="center right", ncols=3, frameon=False, fontsize=12, borderaxespad=0)
    for label in legend.get_texts():
        label.set_color(TEXT_COLOR)


def _draw_overview(axes: Axes, seen: View, axis: int, shown: Sequence[Finding], window: tuple[float, float]) -> None:
    index = busiest_slice(seen, axis)
    _prepare(axes, seen, axis)
    _draw_slice(axes, seen, axis, index, None, window, "antialiased")
    _draw_outlines(axes, seen, axis, index, None, None)
    name, stored = seen.orientation.stored_slice(axis, index)
    axes.text(
        0.012, 0.985, f"{_PLANES[axis]}, {name} = {stored}", color=TEXT_COLOR, fontsize=11, transform=axes.transAxes,
        va="top", bbox={"facecolor": BACKGROUND, "alpha": 0.6, "edgecolor": "none", "pad": 2},
    )  # fmt: skip
    rows, columns = in_plane(axis)
    for number, finding in enumerate(shown, start=1):
        where = _pixels(seen, axis, index, finding)
        if len(where[0]):
            axes.text(
                (where[1].max() + 1.5) * seen.spacing[columns], where[0].mean() * seen.spacing[rows], f" {number}",
                color=STATUS_COLORS[finding.status], fontsize=10.5, fontweight="bold", va="center", clip_on=True,
                path_effects=[Stroke(linewidth=2, foreground="#000000"), Normal()],
            )  # fmt: skip


def _pixels(seen: View, axis: int, index: int, finding: Finding) -> tuple[npt.NDArray[Any], ...]:
    """Rows and columns of the finding on a slice."""
    of_truth = finding.truth_id is not None
    volume, number = (seen.truth, finding.truth_id) if of_truth else (seen.predictions, finding.prediction_id)
    assert volume is not None
    return np.nonzero(take_slice(volume, axis, index) == number)


def _draw_label(axes: Axes, finding: Finding, number: int, with_class: bool) -> None:
    axes.set_axis_off()
    score = "" if finding.score is None else f"   score {finding.score:.2f}"
    axes.text(
        0.0, 0.64, f" {number}  {finding.status} ", fontsize=10.5, fontweight="bold", va="center", color="#101010",
        bbox={"facecolor": STATUS_COLORS[finding.status], "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    axes.text(1.0, 0.64, score, fontsize=10.5, va="center", ha="right", color=TEXT_COLOR)
    parts = [f"{finding.diameter_mm:.1f} mm across", f"{finding.voxels} voxel{'s' * (finding.voxels != 1)}"]
    if finding.dice is not None:
        parts.append(f"Dice {finding.dice:.2f}")
    if with_class and finding.class_name is not None:
        parts.append(finding.class_name)
    axes.text(0.0, 0.2, "  ·  ".join(parts), fontsize=9.5, va="center", color=MUTED)


def _draw_tiles(plain: Axes, outlined: Axes, seen: View, finding: Finding, window: tuple[float, float]) -> None:
    axis = tile_axis(seen.spacing)
    index = best_slice(seen, axis, finding)
    box = seen.orientation.box_to_canonical(finding.extent)
    region = tile_region(seen, axis, box)
    name, stored = seen.orientation.stored_slice(axis, index)
    for axes in (plain, outlined):
        _prepare(axes, seen, axis)
        _draw_slice(axes, seen, axis, index, region, window, "nearest")
    plain.text(
        0.02, 0.02, f"{name} = {stored}", color=TEXT_COLOR, fontsize=8.5, transform=plain.transAxes,
        bbox={"facecolor": BACKGROUND, "alpha": 0.6, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    if finding.box is not None:
        _draw_box(outlined, seen, axis, seen.orientation.box_to_canonical(finding.box))
    _draw_outlines(outlined, seen, axis, index, region, finding)
    rows, columns = in_plane(axis)
    for axes in (plain, outlined):
        low, high = ((value * seen.spacing[columns]) for value in region[1])
        axes.set_xlim(low, high)
        low, high = ((value * seen.spacing[rows]) for value in region[0])
        axes.set_ylim((high, low) if axis == 0 else (low, high))


def _prepare(axes: Axes, seen: View, axis: int) -> None:
    rows, columns = in_plane(axis)
    height, width = seen.image.shape[rows] * seen.spacing[rows], seen.image.shape[columns] * seen.spacing[columns]
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_aspect("equal")
    axes.set_xlim(0, width)
    axes.set_ylim((height, 0) if axis == 0 else (0, height))


def _draw_slice(
    axes: Axes,
    seen: View,
    axis: int,
    index: int,
    region: Region | None,
    window: tuple[float, float],
    interpolation: str,
) -> None:
    """Draw a slice, or the part of it in ``region``, at its place in mm."""
    plane = take_slice(seen.image, axis, index)
    (top, bottom), (left, right) = clip_region(plane.shape, region)
    rows, columns = in_plane(axis)
    part = plane[top:bottom, left:right]
    if region is not None:
        window = tile_window(part, window)
    edges = (
        left * seen.spacing[columns],
        right * seen.spacing[columns],
        bottom * seen.spacing[rows],
        top * seen.spacing[rows],
    )
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        part, cmap="gray", vmin=window[0], vmax=window[1], interpolation=interpolation, extent=edges, origin="upper"
    )
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _draw_outlines(
    axes: Axes, seen: View, axis: int, index: int, region: Region | None, finding: Finding | None
) -> None:
    """Outline what is on the slice; with a ``finding``, all others stand back."""
    for volume, number, color, width in (
        (seen.truth, finding and finding.truth_id, TRUTH_COLOR, 2.8),
        (seen.predictions, finding and finding.prediction_id, PREDICTION_COLOR, 1.5),
    ):
        if volume is None:
            continue
        plane = take_slice(volume, axis, index)
        (top, bottom), (left, right) = clip_region(plane.shape, region)
        labels = plane[top:bottom, left:right]
        if finding is None:
            _add_outlines(axes, seen, axis, labels, (left, top), color, width / 2, 1.0)
        else:
            _add_outlines(axes, seen, axis, np.where(labels == number, 0, labels), (left, top), color, width / 2, 0.6)
            _add_outlines(axes, seen, axis, np.where(labels == number, labels, 0), (left, top), color, width, 1.0)


def _add_outlines(
    axes: Axes,
    seen: View,
    axis: int,
    labels: npt.NDArray[Any],
    offset: tuple[int, int],
    color: str,
    width: float,
    alpha: float,
) -> None:
    rows, columns = in_plane(axis)
    lines = (outline_segments(labels) + np.array(offset)) * np.array([seen.spacing[columns], seen.spacing[rows]])
    axes.add_collection(LineCollection(list(lines), colors=color, linewidths=width, alpha=alpha, capstyle="projecting"))


def _draw_box(axes: Axes, seen: View, axis: int, box: Sequence[float]) -> None:
    rows, columns = in_plane(axis)
    row_scale, column_scale = seen.spacing[rows], seen.spacing[columns]
    corner = (box[columns] * column_scale, box[rows] * row_scale)
    width, height = (box[columns + 3] - box[columns]) * column_scale, (box[rows + 3] - box[rows]) * row_scale
    axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=BOX_COLOR, linewidth=1.2, linestyle=(0, (3, 2)))
    )
