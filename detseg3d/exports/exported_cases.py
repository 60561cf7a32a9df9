"""Outcome of the export of several cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError

__all__ = ["ExportedCases"]


@dataclass(frozen=True)
class ExportedCases:
    """Outcome of an export.

    Attributes
    ----------
    files : dict of str to tuple of Path
        Files of each case that was written.
    failures : dict of str to DetSeg3DError
        Error of each case that was not written.
    """

    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    failures: Mapping[str, DetSeg3DError] = field(default_factory=dict)
