"""Label descriptions of ITK-SNAP: name and colour of each lesion of an instance map."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from detseg3d.core.errors import DetSeg3DError
from detseg3d.exports.colors import lesion_color
from detseg3d.exports.lesion_table import LesionTable
from detseg3d.system.files import write_text

__all__ = ["write_itksnap_labels"]

MAX_LABEL: Final = 65_535
"""Largest label value of ITK-SNAP."""

_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def write_itksnap_labels(table: LesionTable, path: Path) -> None:
    """Write the label descriptions (.txt) for the instance map of a case.

    Open ``instances/CASE`` as a segmentation in ITK-SNAP, then this file by *Segmentation > Import Label Descriptions*.

    Parameters
    ----------
    table : LesionTable
    path : Path

    Raises
    ------
    DetSeg3DError
        If a lesion has a number above 65 535, or the file cannot be written.
    """
    lines = [_line(0, (0, 0, 0), 0, "Clear Label")]
    for lesion in table.lesions:
        if lesion.number > MAX_LABEL:
            raise DetSeg3DError(
                "ITK-SNAP cannot show the number of a lesion",
                file=table.instances,
                value=lesion.number,
                expected=f"at most {MAX_LABEL}",
                remedy="leave out itksnap",
            )
        name = f"{lesion.number} {lesion.class_name}, score {lesion.score:.3f}"
        lines.append(_line(lesion.number, lesion_color(lesion.number), 1, name))
    write_text(_HEADER + "".join(lines), path)


def _line(index: int, color: tuple[int, int, int], shown: int, name: str) -> str:
    red, green, blue = color
    # Quotation marks enclose the name, and each label has one line.
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", name.replace('"', "'"))
    return f'{index:5d} {red:5d} {green:4d} {blue:4d} {shown:8d} {shown:2d} {shown:2d}    "{text}"\n'
