"""Write the volumes and the lesions of one result for the viewer of the service's page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from detseg3d.data.image import Image
from detseg3d.inference.result import Prediction
from detseg3d.reporting.html.formatting import number
from detseg3d.reporting.html.key_images import css_color
from detseg3d.reporting.html.volumes import fit_volumes, volumes_on_one_grid
from detseg3d.system.json_files import write_json

__all__ = ["write_viewer_data"]

_MAX_BYTES = 24_000_000


def write_viewer_data(prediction: Prediction, scan: Image, file: Path) -> None:
    """Write a JSON file with the scan, the instance map and the lesions, as the script of the page reads them.

    Positions and boxes are in voxel edges of the volumes in the file. Volumes that are too large for a browser are made
    coarser.

    Parameters
    ----------
    prediction : Prediction
    scan : Image
        First channel of the scan, on the grid of the prediction.
    file : Path

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    image = np.asarray(scan.array, dtype=np.float32)
    volumes = volumes_on_one_grid([image], [prediction.instances], scan.geometry.spacing)
    fitting = fit_volumes(volumes, _MAX_BYTES)
    shown = fitting[0] if fitting else volumes[0]
    lesions = sorted(prediction.lesions, key=lambda lesion: lesion.id)
    write_json(
        {
            "shape": list(shown.image.shape),
            "spacing": list(shown.spacing),
            "reduced": shown.reduced,
            "layers": {name: str(volume.dtype) for name, volume in shown.layers.items()},
            "volumes": dict(shown.encoded),
            "presets": [asdict(preset) for preset in shown.presets],
            "colors": {str(lesion.id): css_color(lesion.id) for lesion in lesions},
            "boxes": [{"box": shown.place_box(lesion.box), "label": number(lesion.score)} for lesion in lesions],
            "lesions": [
                {
                    "number": lesion.id,
                    "class": lesion.class_name,
                    "score": lesion.score,
                    "volume_mm3": lesion.measures.volume_mm3,
                    "long_axis_mm": lesion.measures.long_axis_mm,
                    "point": shown.place(lesion.center),
                }
                for lesion in lesions
            ],
        },
        file,
    )
