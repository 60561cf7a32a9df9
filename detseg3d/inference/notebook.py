"""Show a prediction in a notebook: the slice with most lesion voxels, and a table of the lesions."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.inference.result import Prediction

__all__ = ["prediction_html"]

_MAX_ROWS = 20
_COLUMNS = ("id", "class", "score", "volume (mm³)", "diameter (mm)", "centre x y z (mm)")


def prediction_html(prediction: Prediction) -> str:
    """Return the picture and the table of a prediction as HTML, without any script or link."""
    lesions = prediction.lesions
    parts = [f"<p>{html.escape(repr(prediction))}</p>"]
    if prediction.similarity is not None and prediction.similarity.unlike:
        parts.append(f"<p>unlike the training scans: {html.escape(prediction.similarity.summary())}</p>")
        if prediction.expectation is not None:
            parts.append(f"<p>{html.escape(prediction.expectation.describe())}</p>")
    if lesions or prediction.image is not None:
        picture = base64.b64encode(_slice_png(prediction)).decode("ascii")
        parts.append(f'<img alt="slice with most lesion voxels" src="data:image/png;base64,{picture}">')
    if lesions:
        rows = [
            (
                str(lesion.id),
                lesion.class_name,
                f"{lesion.score:.3f}",
                f"{lesion.volume_mm3:.4g}",
                f"{lesion.diameter_mm:.3g}",
                " ".join(f"{value:.1f}" for value in lesion.center_world),
            )
            for lesion in lesions[:_MAX_ROWS]
        ]
        head = "".join(f"<th>{html.escape(column)}</th>" for column in _COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row) + "</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    if len(lesions) > _MAX_ROWS:
        parts.append(f"<p>and {len(lesions) - _MAX_ROWS} more</p>")
    return "".join(parts)


def _slice_png(prediction: Prediction) -> bytes:
    """Draw the axial slice with most lesion voxels, or the middle slice, with the outlines of the lesions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    inside = prediction.instances > 0
    index = int(inside.sum(axis=(1, 2)).argmax()) if inside.any() else len(inside) // 2
    mask = inside[index]
    background: npt.NDArray[Any] = np.zeros(mask.shape) if prediction.image is None else prediction.image[index]
    _, height, width = prediction.geometry.spacing
    figure = Figure(figsize=(3.2, 3.2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 0.93))
    axes.imshow(background, cmap="gray", aspect=height / width, interpolation="nearest")
    if mask.any():
        # matplotlib draws contours of arrays with at least two voxels along each axis.
        if min(mask.shape) > 1:
            axes.contour(mask, levels=[0.5], colors="red", linewidths=1.0)
        else:
            axes.imshow(np.ma.masked_equal(mask, False), cmap="autumn", aspect=height / width)
    axes.set_axis_off()
    figure.suptitle(f"slice z = {index}", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
