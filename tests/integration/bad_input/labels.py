"""The corpus of labels that are broken, or only odd, for the scan that ``tests.scans.make_scan(SEED)`` makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from tests.integration.bad_input import images
from tests.scans import make_scan

__all__ = ["GOOD", "LABEL", "LABELS", "SCAN", "BadLabel"]

SCAN, LABEL = make_scan(300)
GOOD = "used"


@dataclass(frozen=True)
class BadLabel:
    """One label: what is the matter, what writes it, how the planning and the evaluation must end.

    ``outcome`` and ``evaluated`` are ``used``, or how the message begins; by default both are alike. ``instances``:
    it is meant as an instance map.
    """

    name: str
    write: Callable[[Path], Any]
    outcome: str = GOOD
    evaluated: str | None = None
    instances: bool = False

    @property
    def case_id(self) -> str:
        """The name as part of a file name."""
        return "".join(character if character.isalnum() else "_" for character in self.name)


def label(change: Callable[[np.ndarray], np.ndarray], **geometry: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        array = change(LABEL.copy())
        write_image(array, Geometry(array.shape, **geometry), path)

    return write


def borders(array: np.ndarray) -> np.ndarray:
    inside = tuple(slice(1, -1) for _ in array.shape)
    array[:] = 1
    array[inside] = 0
    return array


def numbered(*numbers: int) -> Callable[[np.ndarray], np.ndarray]:
    """Lesions with these numbers, each a voxel."""

    def change(array: np.ndarray) -> np.ndarray:
        result = np.zeros(array.shape, np.int64)
        for index, number in enumerate(numbers):
            result[2 * index + 4, 10, 10] = number
        return result

    return change


def huge_value(array: np.ndarray) -> np.ndarray:
    result = array.astype(np.uint64)
    result[result > 0] = 2**63 + 5
    return result


OFF_GRID = ("the label is not on the grid of the image: ", "truth and prediction are not on the same grid: ")
UNKNOWN = ("the label has values that dataset.json does not name",) * 2
FRACTION = "voxel(s) of the label are not whole numbers"
NEGATIVE = ("the label file holds negative values",) * 2

LABELS = (
    BadLabel("no lesion", label(np.zeros_like)),
    BadLabel("lesion at every border", label(borders)),
    BadLabel("label all lesion", label(np.ones_like)),
    BadLabel("float label", label(lambda a: a.astype(np.float32))),
    BadLabel("float label of 0.9999", label(lambda a: a * np.float64(0.9999))),
    BadLabel("float label of 0.99", label(lambda a: a * np.float32(0.99)), FRACTION),
    BadLabel("NaN label", label(lambda a: np.where(a > 0, np.nan, 0.0)), FRACTION),
    BadLabel("int64 label", label(lambda a: a.astype(np.int64))),
    BadLabel("uint64 label", label(lambda a: a.astype(np.uint64))),
    BadLabel("label beyond int64", label(huge_value), *UNKNOWN),
    BadLabel("negative label", label(lambda a: -a.astype(np.int16)), *NEGATIVE),
    BadLabel("unknown label value", label(lambda a: a * np.uint8(7)), *UNKNOWN),
    BadLabel("label larger than the image", label(lambda a: np.pad(a, 1)), *(f"{text}size" for text in OFF_GRID)),
    BadLabel("label smaller than the image", label(lambda a: a[1:]), *(f"{text}size" for text in OFF_GRID)),
    BadLabel("label shifted by rounding", label(lambda a: a, origin=(0.001, 0.0, 0.0))),
    BadLabel("label shifted by a voxel", label(lambda a: a, origin=(1.0, 0.0, 0.0)), *(f"{t}origin" for t in OFF_GRID)),
    BadLabel("label of a rounded spacing", label(lambda a: a, spacing=(1.00001, 1.0, 1.0))),
    BadLabel("label of another spacing", label(lambda a: a, spacing=(1.01, 1.0, 1.0)), *(f"{t}sp" for t in OFF_GRID)),
    BadLabel("complex label", images.nifti(SCAN.astype(np.complex64)), "the voxels are not real numbers"),
    BadLabel("truncated label", images.cut(0.3), "the image cannot be read"),
    BadLabel("2D label", images.nifti(LABEL[0]), "the image is not a 3D volume"),
    BadLabel("empty label file", images.content(b""), "the image cannot be read"),
    BadLabel("label numbers with holes", label(numbered(1, 5, 900_000)), instances=True),
    BadLabel("label numbers from 2", label(numbered(2, 3)), instances=True),
)
