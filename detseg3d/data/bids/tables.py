"""Names of the values of a discrete segmentation of BIDS, from the table ``_dseg.tsv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.names import BidsFile, BidsName, parse_bids_name
from detseg3d.system.files import read_bounded

__all__ = ["read_class_names"]

_MAX_BYTES = 1 << 20


def read_class_names(masks: Iterable[BidsFile], root: Path) -> dict[str, int] | None:
    """Return the value of each class that the tables of segmentations state.

    A table lies beside its segmentation or in a folder above it (inheritance principle of BIDS).

    Parameters
    ----------
    masks : iterable of BidsFile
        Masks of other suffixes than ``dseg`` have no tables.
    root : Path
        Highest folder that is searched.

    Returns
    -------
    dict of str to int, or None
        Without the value 0. ``None`` if no mask has a table.

    Raises
    ------
    DetSeg3DError
        If a table lacks the columns ``index`` and ``name``, or two tables contradict each other.
    """
    names: dict[str, int] = {}
    sources: dict[str, Path] = {}
    tables = (_table_of(mask, root) for mask in masks if mask.name.suffix == "dseg")
    for table in dict.fromkeys(table for table in tables if table is not None):
        for name, value in _read_table(table).items():
            other = next((known for known, number in names.items() if number == value and known != name), None)
            if names.setdefault(name, value) != value or other is not None:
                raise DetSeg3DError(
                    "two tables give different names or values to the classes",
                    file=table,
                    value=f"{name}: {value}",
                    expected=f"{name}: {names[name]}, as in {sources[name]}"
                    if other is None
                    else f"{other}: {value}, as in {sources[other]}",
                    remedy="give --labels NAME=VALUE for each class, or --instances if each value is one lesion",
                )
            sources.setdefault(name, table)
    return names or None


def _table_of(mask: BidsFile, root: Path) -> Path | None:
    """Return the closest table of a segmentation."""
    folder = mask.path.parent
    while True:
        for path in sorted(folder.glob("*dseg.tsv")):
            if _applies(path, mask.name):
                return path
        if folder == root or root not in folder.parents:
            return None
        folder = folder.parent


def _applies(table: Path, mask: BidsName) -> bool:
    """Return whether a table applies to a segmentation: it has some of its entities, with the same values."""
    stem = table.name.removesuffix(".tsv")
    parsed = parse_bids_name(f"sub-{mask.subject}_{stem}.nii.gz" if not stem.startswith("sub-") else f"{stem}.nii.gz")
    return parsed is not None and set(parsed.entities) <= set(mask.entities)


def _read_table(table: Path) -> dict[str, int]:
    text = read_bounded(table, _MAX_BYTES).decode("utf-8-sig", errors="replace")
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    try:
        values = {row["name"].strip(): int(row["index"]) for row in rows}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DetSeg3DError(
            "the table of a segmentation cannot be understood",
            file=table,
            value=rows[0] if rows else None,
            expected="the columns index (whole number) and name, separated by tabs",
            remedy="correct the table, or give --labels NAME=VALUE for each class",
        ) from error
    return {name: value for name, value in values.items() if value != 0}
