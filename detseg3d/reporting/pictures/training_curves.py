"""Draw the curves of a training from its log: losses, validation and learning rate over time."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.catalogue import metric_spec
from detseg3d.system.files import atomic_path, open_regular_file

__all__ = ["draw_progress", "plot_progress", "read_training_log"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]

# Palette of Okabe and Ito: people with any of the common colour vision deficiencies can tell these colours apart.
_COLORS = {
    "total": "#000000",
    "heatmap": "#D55E00",
    "size": "#0072B2",
    "offset": "#56B4E9",
    "dense": "#E69F00",
    "segmentation": "#009E73",
    "roi_score": "#CC79A7",
    "f1_iou_0.1": "#000000",
    "recall_iou_0.1": "#D55E00",
    "precision_iou_0.1": "#0072B2",
    "f1_any": "#CC79A7",
    "dice": "#009E73",
    "stage1_recall": "#E69F00",
}
_MAIN = "f1_iou_0.1"
_VALIDATION = {
    **{key: metric_spec(key).label for key in (_MAIN, "recall_iou_0.1", "precision_iou_0.1", "f1_any", "dice")},
    "stage1_recall": "Stage 1 recall",
}
_TIMES = (("data_seconds", "#56B4E9", "waiting for data (s)"), ("compute_seconds", "#0072B2", "computing (s)"))
_NOT_METRICS = ("kind", "epoch", "step", "seconds")


def plot_progress(log_file: str | Path, output: str | Path) -> None:
    """Draw a training log and write the picture.

    Parameters
    ----------
    log_file : path
        ``training_log.jsonl``. The training may still be running.
    output : path
        The picture. It is written atomically, and its ending selects the format.

    Raises
    ------
    DetSeg3DError
        If the log cannot be read or the picture cannot be written.
    """
    figure = draw_progress(read_training_log(log_file))
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=100)


def read_training_log(log_file: str | Path) -> list[Record]:
    """Return the records of a training log.

    Incomplete lines are left out. The last line is incomplete if the training was killed while it wrote.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read.
    """
    try:
        with open_regular_file(log_file) as handle:
            lines = handle.read().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DetSeg3DError(f"the training log cannot be read: {error.strerror or error}", file=log_file) from error
    records: list[Record] = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and _is_number(record.get("epoch")):
            records.append(record)
    return records


def draw_progress(records: Sequence[Record]) -> Figure:
    """Draw the records of a training log: losses, total loss, validation, learning rate and time per epoch.

    Parameters
    ----------
    records : sequence of dict
        ``{"kind": "epoch", "epoch", "seconds", "learning_rate", "phase", "losses": {name: value}, "data_seconds",
        "compute_seconds"}`` and ``{"kind": "validation", "epoch", "f1_iou_0.1", …}``. Every entry may be missing.
    """
    epochs = [record for record in records if record.get("kind") == "epoch"]
    validations = [record for record in records if record.get("kind") == "validation"]
    figure = Figure(figsize=(14, 9), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    (losses, total), (quality, speed) = figure.subplots(2, 2)
    names = _names([record.get("losses") or {} for record in epochs])
    _draw_losses(losses, epochs, [name for name in names if name != "total"])
    losses.set_title("losses")
    _draw_losses(total, epochs, [name for name in names if name == "total"])
    total.set_title("total loss")
    _draw_validation(quality, validations)
    _draw_schedule(speed, epochs)
    last = max((float(record["epoch"]) for record in records), default=0.0)
    for axes in (losses, total, quality, speed):
        _draw_phases(axes, epochs)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.set_xlim(0, max(last * 1.02, 1))
    figure.suptitle(_title(epochs, validations))
    return figure


def _title(epochs: Sequence[Record], validations: Sequence[Record]) -> str:
    if not epochs and not validations:
        return "nothing logged yet"
    parts = []
    if epochs:
        parts.append(f"epoch {epochs[-1]['epoch']}")
        _, seconds = _series(epochs[-1:], "seconds")
        parts += [f"{value / 60:.1f} min" for value in seconds]
    scored = [record for record in validations if _is_number(record.get(_MAIN))]
    if scored:
        best = max(scored, key=lambda record: float(record[_MAIN]))
        values = f"{best[_MAIN]:.3f} at epoch {best['epoch']}, last {scored[-1][_MAIN]:.3f}"
        parts.append(f"{_VALIDATION[_MAIN]}: best {values}")
    return "  ·  ".join(parts)


def _draw_losses(axes: Axes, epochs: Sequence[Record], names: Sequence[str]) -> None:
    lowest = np.inf
    parts = [{"epoch": record["epoch"], **(record.get("losses") or {})} for record in epochs]
    # A term of the loss that the plan does not use is always 0. It would forbid a logarithmic axis.
    names = [name for name in names if any(_series(parts, name)[1])]
    for name in names:
        x, y = _series(parts, name)
        axes.plot(x, y, color=_COLORS.get(name), label=name.replace("_", " "), **_style(len(x)))
        lowest = min(lowest, min(y, default=np.inf))
    if 0 < lowest < np.inf:  # the losses differ by orders of magnitude
        axes.set_yscale("log")
    if names:
        axes.legend(framealpha=0.85, edgecolor="none", fontsize=9)


def _draw_validation(axes: Axes, validations: Sequence[Record]) -> None:
    axes.set_title("validation, on whole volumes")
    axes.set_ylim(-0.02, 1.02)
    logged = [name for name in _names(validations) if name not in _NOT_METRICS]
    names = [name for name in _VALIDATION if name in logged] + [name for name in logged if name not in _VALIDATION]
    for name in names:
        x, y = _series(validations, name)
        width = 2.6 if name == _MAIN else 1.4
        label = _VALIDATION.get(name, name)
        axes.plot(x, y, color=_COLORS.get(name), label=label, linewidth=width, marker="o", markersize=4)
    if names:
        axes.legend(framealpha=0.85, edgecolor="none", fontsize=9, loc="lower right")


def _draw_schedule(axes: Axes, epochs: Sequence[Record]) -> None:
    axes.set_title("learning rate and time per epoch")
    x, rates = _series(epochs, "learning_rate")
    lines = axes.plot(x, rates, color="#D55E00", label="learning rate", **_style(len(x)))
    axes.set_ylim(bottom=0)
    time = axes.twinx()
    for key, color, label in _TIMES:
        x, seconds = _series(epochs, key)
        lines += time.plot(x, seconds, color=color, label=label, linestyle="--", **_style(len(x)))
    time.set_ylabel("seconds")
    time.set_ylim(bottom=0)
    if epochs:
        axes.legend(handles=lines, framealpha=0.85, edgecolor="none", fontsize=9)


def _draw_phases(axes: Axes, epochs: Sequence[Record]) -> None:
    """Draw a line and the name of the phase at the beginning of each phase."""
    previous: Any = None
    for record in epochs:
        phase = record.get("phase")
        if phase is not None and phase != previous:
            axes.axvline(float(record["epoch"]), color="#999999", linewidth=0.8, linestyle=":")
            axes.text(
                float(record["epoch"]),
                0.99,
                f" {phase}",
                transform=axes.get_xaxis_transform(),
                fontsize=8,
                color="#666666",
                va="top",
                rotation=90,
                clip_on=True,
            )
            previous = phase


def _names(records: Sequence[Record]) -> list[str]:
    """Return the keys with numbers as values, in the order in which they first appear."""
    return list(dict.fromkeys(key for record in records for key, value in record.items() if _is_number(value)))


def _series(records: Sequence[Record], name: str) -> tuple[list[float], list[float]]:
    """Return the epochs and the values of an entry, leaving out the records without it."""
    kept = [(float(record["epoch"]), float(record[name])) for record in records if _is_number(record.get(name))]
    return [epoch for epoch, _ in kept], [value for _, value in kept]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _style(points: int) -> dict[str, Any]:
    """Return markers if there are few points, because a line of one point is invisible."""
    return {"marker": "o", "markersize": 3} if points < 30 else {}
