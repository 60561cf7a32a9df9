"""Metrics of the program panoptica in its default configuration.

Kofler et al. (2023), https://github.com/BrainLesion/panoptica, version 2.1.7: ``panoptica_evaluator_default.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.evaluation.definitions.surfaces import surface_metrics
from detseg3d.evaluation.matching import overlap_table
from detseg3d.system.json_records import JsonRecord

__all__ = ["PanopticaCase", "panoptica_case"]

MINIMUM_IOU = 0.5


@dataclass(frozen=True)
class PanopticaCase(JsonRecord):
    """One class of one case. The default is a case without lesions on either side.

    Attributes
    ----------
    truth, predictions : int
        Numbers of 26-connected components of the masks.
    iou, dice, masd_mm : tuple of float
        Values of each match. ``masd_mm`` is the mean of both directed mean distances; panoptica calls it ASSD.
    """

    truth: int = 0
    predictions: int = 0
    iou: tuple[float, ...] = ()
    dice: tuple[float, ...] = ()
    masd_mm: tuple[float, ...] = ()

    @property
    def rq(self) -> float | None:
        """Recognition quality, the F1 of the matches; ``None`` if there are no lesions on either side."""
        sides = self.truth + self.predictions
        return 2 * len(self.iou) / sides if sides else None

    @property
    def sq(self) -> float | None:
        """Mean IoU of the matches; 0 without a match."""
        return self._quality(self.iou)

    @property
    def sq_dice(self) -> float | None:
        """Mean Dice of the matches; 0 without a match."""
        return self._quality(self.dice)

    @property
    def sq_masd_mm(self) -> float | None:
        """Mean distance of the matches; ``None`` if there is no match. In this case, panoptica returns infinity."""
        return float(np.mean(self.masd_mm)) if self.masd_mm else None

    @property
    def pq(self) -> float | None:
        """Panoptic quality: ``rq * sq``."""
        return None if self.rq is None or self.sq is None else self.rq * self.sq

    @property
    def pq_dice(self) -> float | None:
        """Panoptic quality with Dice: ``rq * sq_dice``."""
        return None if self.rq is None or self.sq_dice is None else self.rq * self.sq_dice

    def _quality(self, values: tuple[float, ...]) -> float | None:
        if not self.truth + self.predictions:
            return None
        return float(np.mean(values)) if values else 0.0


def panoptica_case(truth: npt.NDArray[Any], prediction: npt.NDArray[Any], spacing: Sequence[float]) -> PanopticaCase:
    """Compare two masks of one class.

    Pairs with an IoU of 0.5 or more are matched one-to-one, in descending order of IoU.

    Parameters
    ----------
    truth, prediction : ndarray, shape ``(Z, Y, X)``
        Every value except 0 is inside.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 1, 9), np.uint8)
    >>> truth[0, 0, 0:4], truth[0, 0, 6], prediction[0, 0, 0:3] = 1, 1, 1
    >>> case = panoptica_case(truth, prediction, (1.0, 1.0, 1.0))
    >>> round(case.rq, 3), case.sq, case.pq
    (0.667, 0.75, 0.5)
    """
    lesions, parts = (cc3d.connected_components(mask != 0, connectivity=26) for mask in (truth, prediction))
    table = overlap_table(lesions, parts)
    taken_truth, taken_prediction, pairs = set[int](), set[int](), []
    for pair in np.argsort(-table.iou, kind="stable").tolist():
        first, second = int(table.truth_index[pair]), int(table.prediction_index[pair])
        if table.iou[pair] >= MINIMUM_IOU and first not in taken_truth and second not in taken_prediction:
            taken_truth.add(first)
            taken_prediction.add(second)
            pairs.append(pair)
    places, other_places = ndimage.find_objects(lesions), ndimage.find_objects(parts)
    distances = []
    for pair in pairs:
        number = int(table.truth.ids[table.truth_index[pair]])
        other = int(table.prediction.ids[table.prediction_index[pair]])
        region = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(places[number - 1], other_places[other - 1], strict=True)
        )
        distances.append(surface_metrics(lesions[region] == number, parts[region] == other, spacing).masd_mm)
    return PanopticaCase(
        len(table.truth),
        len(table.prediction),
        tuple(table.iou[pairs].tolist()),
        tuple(table.dice[pairs].tolist()),
        tuple(distances),
    )
