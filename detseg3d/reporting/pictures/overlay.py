"""Draw pictures of a case: slices through the findings, with the outlines of truth and prediction."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from detseg3d.core.arrays import AnyIntArray, Array
from detseg3d.reporting.pictures.case_view import CaseView
from detseg3d.reporting.pictures.findings import Finding, Outcome, collect_findings, select_findings
from detseg3d.reporting.pictures.slices import (
    SlicePlane,
    TurnedCase,
    best_slice,
    busiest_slice,
    in_plane,
    intensity_window,
    outline_segments,
    tile_axis,
    tile_region,
    tile_window,
)
from detseg3d.system.files import atomic_path

__all__ = [
    "BACKGROUND",
    "BOX_COLOR",
    "MUTED",
    "PREDICTION_COLOR",
    "TEXT_COLOR",
    "TRUTH_COLOR",
    "CaseFigure",
    "LineStyle",
    "add_outlines",
    "draw_case",
    "draw_slice",
    "prepare_axes",
    "save_figure",
]

# People with any of the common colour vision deficiencies can tell green and magenta apart.
TRUTH_COLOR, PREDICTION_COLOR, BOX_COLOR = "#2ee6a6", "#ff4fc3", "#ffd24d"
BACKGROUND, TEXT_COLOR, MUTED = "#16181d", "#f2f2f2", "#a5abb8"
OUTCOME_COLORS = {
    Outcome.FOUND: TRUTH_COLOR,
    Outcome.MISSED: "#ffb000",
    Outcome.FALSE_POSITIVE: PREDICTION_COLOR,
    Outcome.DETECTED: PREDICTION_COLOR,
}

_PLANES = ("axial", "coronal", "sagittal")
_PAIRS_PER_ROW = 4
# Sizes in inches.
_WIDTH, _HEADER_HEIGHT, _GAP, _TILE_HEIGHT, _MAX_OVERVIEW_HEIGHT = 16.0, 0.65, 0.1, 2.45, 6.5


@dataclass(frozen=True)
class LineStyle:
    """Colour, width and opacity of an outline."""

    color: str
    width: float
    alpha: float = 1.0


# The truth is thicker and drawn first. Both outlines remain visible where they coincide.
_TRUTH_LINE, _PREDICTION_LINE = LineStyle(TRUTH_COLOR, 2.8), LineStyle(PREDICTION_COLOR, 1.5)
_BOX_DASHES = (0, (3, 2))


class CaseFigure(Figure):
    """A figure that a notebook shows as a picture, without the global state of ``matplotlib.pyplot``."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=60, facecolor=self.get_facecolor())
        return content.getvalue()


def draw_case(case: CaseView, maximum: int = 12) -> Figure:
    """Draw a case.

    The first row shows an axial, a coronal and a sagittal slice. Each is the slice with the most lesions. Below, each
    finding has two tiles: the image alone, and the image with outlines, box and score. A tile is labelled FOUND, MISSED
    or FALSE POSITIVE. A true lesion counts as found at any overlap with a predicted lesion of its class.

    Parameters
    ----------
    case : CaseView
        The case. Pixels are drawn in their true proportions.
    maximum : int, optional
        Maximum number of findings; see :func:`~detseg3d.reporting.pictures.findings.select_findings`.

    Returns
    -------
    matplotlib.figure.Figure
        A figure with the Agg canvas, which needs no display; see :func:`save_figure`.
    """
    findings = collect_findings(case.spacing, case.truth, case.prediction)
    return _compose(TurnedCase.of(case), findings, select_findings(findings, maximum), case.title)


def save_figure(figure: Figure, path: str | Path, dots_per_inch: int = 100) -> None:
    """Write a figure atomically. The ending of ``path`` (.png, .pdf or .svg) selects the format."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dots_per_inch, facecolor=figure.get_facecolor())


def _compose(case: TurnedCase, findings: Sequence[Finding], shown: Sequence[Finding], title: str) -> Figure:
    rows = math.ceil(len(shown) / _PAIRS_PER_ROW)
    # Millimetres of each plane, down and across. The three planes have the same scale.
    sizes = [tuple(case.image.shape[i] * case.spacing[i] for i in in_plane(axis)) for axis in range(3)]
    width = sum(size[1] for size in sizes)
    overview_height = min(_MAX_OVERVIEW_HEIGHT, (_WIDTH - 0.8) * max(size[0] for size in sizes) / width)
    heights = [_HEADER_HEIGHT, overview_height, _GAP] + [_TILE_HEIGHT] * rows
    figure = CaseFigure(figsize=(_WIDTH, sum(heights) + 0.2), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, left=0.012, right=0.988, top=0.995, bottom=0.01, hspace=0.0
    )
    header = figure.add_subplot(grid[0])
    header.set_axis_off()
    left = _draw_title(header, title)
    header.text(
        left, 0.55, _summary(findings, shown, case.truth is not None), color=TEXT_COLOR, fontsize=13, va="center"
    )
    _draw_legend(header, case.truth is not None)
    overview = grid[1].subgridspec(1, 3, wspace=0.03, width_ratios=[size[1] for size in sizes])
    window = intensity_window(case.image)
    for axis in range(3):
        plane = SlicePlane(case, axis, busiest_slice(case, axis))
        _draw_overview(figure.add_subplot(overview[axis]), plane, shown, window)
    several_classes = len({finding.class_name for finding in findings} - {None}) > 1
    for row in range(rows):
        pairs = grid[3 + row].subgridspec(1, _PAIRS_PER_ROW, wspace=0.06)
        for column, finding in enumerate(shown[row * _PAIRS_PER_ROW : (row + 1) * _PAIRS_PER_ROW]):
            tiles = pairs[column].subgridspec(2, 2, height_ratios=(0.5, 1.95), wspace=0.02, hspace=0.0)
            _draw_label(figure.add_subplot(tiles[0, :]), finding, several_classes)
            _draw_tiles((figure.add_subplot(tiles[1, 0]), figure.add_subplot(tiles[1, 1])), case, finding, window)
    return figure


# -- Header ------------------------------------------------------------------------------------------------------------


def _draw_title(axes: Axes, title: str) -> float:
    """Draw the name of the case, and return the horizontal position after the name."""
    if not title:
        return 0.0
    name = axes.text(0.0, 0.55, title, color=TEXT_COLOR, fontsize=17, fontweight="bold", va="center")
    extent = name.get_window_extent().transformed(axes.transAxes.inverted())
    return float(extent.x1) + 0.015


def _summary(findings: Sequence[Finding], shown: Sequence[Finding], has_truth: bool) -> str:
    counts = {outcome: sum(finding.outcome is outcome for finding in findings) for outcome in Outcome}
    if has_truth:
        found, missed, false = (counts[o] for o in (Outcome.FOUND, Outcome.MISSED, Outcome.FALSE_POSITIVE))
        text = f"{found + missed} lesion{'s' * (found + missed != 1)}: {found} found, {missed} missed"
        text += f"   ·   {false} false positive{'s' * (false != 1)}"
    else:
        detected = counts[Outcome.DETECTED]
        text = f"{detected} lesion{'s' * (detected != 1)} detected"
    if len(shown) < len(findings):
        text += f"   ·   {len(shown)} of {len(findings)} shown below"
    return text


def _draw_legend(axes: Axes, has_truth: bool) -> None:
    handles = [Line2D([], [], color=PREDICTION_COLOR, linewidth=1.8, label="prediction")]
    if has_truth:
        handles.insert(0, Line2D([], [], color=TRUTH_COLOR, linewidth=3, label="truth"))
    handles.append(Line2D([], [], color=BOX_COLOR, linewidth=1.2, linestyle=_BOX_DASHES, label="predicted box"))
    legend = axes.legend(handles=handles, loc="center right", ncols=3, frameon=False, fontsize=12, borderaxespad=0)
    for label in legend.get_texts():
        label.set_color(TEXT_COLOR)


# -- Overview ----------------------------------------------------------------------------------------------------------


def _draw_overview(axes: Axes, plane: SlicePlane, shown: Sequence[Finding], window: tuple[float, float]) -> None:
    """Draw a whole slice with all outlines and the numbers of the findings that the tiles show."""
    prepare_axes(axes, plane)
    draw_slice(axes, plane, window, "antialiased")
    _draw_outlines(axes, plane, None)
    _draw_slice_name(axes, plane, f"{_PLANES[plane.axis]}, ", 0.985, 11)
    row_mm, column_mm = plane.scale
    for finding in shown:
        rows, columns = _pixels(plane, finding)
        if len(rows):
            axes.text(
                (columns.max() + 1.5) * column_mm,
                rows.mean() * row_mm,
                f" {finding.number}",
                color=OUTCOME_COLORS[finding.outcome],
                fontsize=10.5,
                fontweight="bold",
                va="center",
                clip_on=True,
                path_effects=[Stroke(linewidth=2, foreground="#000000"), Normal()],
            )


def _pixels(plane: SlicePlane, finding: Finding) -> tuple[Array, Array]:
    """Return the rows and columns of a finding on a slice."""
    volume, number = plane.case.lesion_of(finding)
    rows, columns = np.nonzero(plane.take(volume) == number)
    return rows, columns


# -- Tiles -------------------------------------------------------------------------------------------------------------


def _draw_label(axes: Axes, finding: Finding, with_class: bool) -> None:
    """Draw the number, outcome, score and size of a finding."""
    axes.set_axis_off()
    axes.text(
        0.0,
        0.64,
        f" {finding.number}  {finding.outcome.value} ",
        fontsize=10.5,
        fontweight="bold",
        va="center",
        color="#101010",
        bbox={"facecolor": OUTCOME_COLORS[finding.outcome], "edgecolor": "none", "pad": 1.5},
    )
    score = "" if finding.score is None else f"   score {finding.score:.2f}"
    axes.text(1.0, 0.64, score, fontsize=10.5, va="center", ha="right", color=TEXT_COLOR)
    parts = [f"diameter {finding.diameter_mm:.1f} mm", f"{finding.voxels} voxel{'s' * (finding.voxels != 1)}"]
    if finding.dice is not None:
        parts.append(f"Dice {finding.dice:.2f}")
    if with_class and finding.class_name is not None:
        parts.append(finding.class_name)
    axes.text(0.0, 0.2, "  ·  ".join(parts), fontsize=9.5, va="center", color=MUTED)


def _draw_tiles(pair: tuple[Axes, Axes], case: TurnedCase, finding: Finding, window: tuple[float, float]) -> None:
    """Draw a finding twice: the image alone, and the image with outlines and box."""
    axis = tile_axis(case.spacing)
    region = tile_region(case, axis, case.order.box_to_canonical(finding.extent))
    plane = SlicePlane(case, axis, best_slice(case, axis, finding), region)
    plain, outlined = pair
    window = tile_window(plane.take(case.image), window)
    for axes in pair:
        prepare_axes(axes, plane)
        draw_slice(axes, plane, window, "nearest")
    _draw_slice_name(plain, plane, "", 0.02, 8.5)
    if finding.box is not None:
        _draw_box(outlined, plane, case.order.box_to_canonical(finding.box))
    _draw_outlines(outlined, plane, finding)
    row_mm, column_mm = plane.scale
    (top, bottom), (left, right) = region
    for axes in pair:
        axes.set_xlim(left * column_mm, right * column_mm)
        low, high = top * row_mm, bottom * row_mm
        axes.set_ylim((high, low) if axis == 0 else (low, high))


# -- Slices ------------------------------------------------------------------------------------------------------------


def prepare_axes(axes: Axes, plane: SlicePlane) -> None:
    """Set up axes in millimetres. Rows run down in an axial slice, and up in a coronal or sagittal slice."""
    (rows, columns), (row_mm, column_mm) = plane.shape, plane.scale
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_aspect("equal")
    axes.set_xlim(0, columns * column_mm)
    axes.set_ylim((rows * row_mm, 0) if plane.axis == 0 else (0, rows * row_mm))


def draw_slice(axes: Axes, plane: SlicePlane, window: tuple[float, float], interpolation: str) -> None:
    """Draw the intensities of a slice."""
    (top, bottom), (left, right) = plane.limits
    row_mm, column_mm = plane.scale
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        plane.take(plane.case.image),
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        interpolation=interpolation,
        extent=(left * column_mm, right * column_mm, bottom * row_mm, top * row_mm),
        origin="upper",
    )
    # imshow changes the limits, so they are restored.
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _draw_slice_name(axes: Axes, plane: SlicePlane, prefix: str, height: float, fontsize: float) -> None:
    """Draw the axis and the number of a slice as the file stores them."""
    name, stored = plane.case.order.stored_slice(plane.axis, plane.index)
    at_top = height > 0.5
    axes.text(
        0.012 if at_top else 0.02,
        height,
        f"{prefix}{name} = {stored}",
        color=TEXT_COLOR,
        fontsize=fontsize,
        transform=axes.transAxes,
        va="top" if at_top else "baseline",
        bbox={"facecolor": BACKGROUND, "alpha": 0.6, "edgecolor": "none", "pad": 2 if at_top else 1.5},
    )


def _draw_outlines(axes: Axes, plane: SlicePlane, finding: Finding | None) -> None:
    """Draw the outlines of all lesions on a slice. If a finding is given, the other lesions are fainter."""
    for volume, number, style in (
        (plane.case.truth, finding and finding.truth_id, _TRUTH_LINE),
        (plane.case.prediction, finding and finding.prediction_id, _PREDICTION_LINE),
    ):
        if volume is None:
            continue
        labels, thin = plane.take(volume), replace(style, width=style.width / 2)
        if finding is None:
            add_outlines(axes, plane, labels, thin)
        else:
            add_outlines(axes, plane, np.where(labels == number, 0, labels), replace(thin, alpha=0.6))
            add_outlines(axes, plane, np.where(labels == number, labels, 0), style)


def add_outlines(axes: Axes, plane: SlicePlane, labels: AnyIntArray, style: LineStyle) -> None:
    """Draw the outlines of the labels on a slice."""
    (top, _), (left, _) = plane.limits
    row_mm, column_mm = plane.scale
    lines = (outline_segments(labels) + np.array([left, top])) * np.array([column_mm, row_mm])
    axes.add_collection(
        LineCollection(
            list(lines), colors=style.color, linewidths=style.width, alpha=style.alpha, capstyle="projecting"
        )
    )


def _draw_box(axes: Axes, plane: SlicePlane, box: Sequence[float]) -> None:
    """Draw a box. Its coordinates are voxel edges of the turned volume."""
    rows, columns = in_plane(plane.axis)
    row_mm, column_mm = plane.scale
    corner = (box[columns] * column_mm, box[rows] * row_mm)
    width, height = (box[columns + 3] - box[columns]) * column_mm, (box[rows + 3] - box[rows]) * row_mm
    axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=BOX_COLOR, linewidth=1.2, linestyle=_BOX_DASHES)
    )
