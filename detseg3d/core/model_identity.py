"""Identity of the model that made a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detseg3d.core.version import __version__

__all__ = ["ModelIdentity"]


@dataclass(frozen=True)
class ModelIdentity:
    """Name, weights and program of a model.

    Attributes
    ----------
    name : str
        Name of the data set on which the model was trained; empty if it is unknown.
    digest : str
        SHA-256 of the weights of all folds; empty if it is unknown.
    version : str
        Version of DetSeg3D that made the result.
    """

    name: str = ""
    digest: str = ""
    version: str = __version__

    def to_json(self) -> dict[str, str]:
        """Return the identity for ``rois/CASE.json``."""
        return {"name": self.name, "digest": self.digest, "version": self.version}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> ModelIdentity:
        """Return the identity from ``rois/CASE.json``; missing entries are empty."""
        data = data or {}
        return cls(*(str(data.get(key, "")) for key in ("name", "digest", "version")))
