"""Colours of the states of followed lesions. A state is always written as a word as well."""

from __future__ import annotations

from detseg3d.core.lesion_state import LesionState

__all__ = ["STATE_COLORS"]

STATE_COLORS = {
    LesionState.NEW: "#ff5fc8",
    LesionState.ENLARGED: "#ff9f1a",
    LesionState.STABLE: "#c3cad6",
    LesionState.SHRUNK: "#5cc8ff",
    LesionState.DISAPPEARED: "#3fe0a5",
    LesionState.MERGED: "#ffe14d",
    LesionState.SPLIT: "#c9a4ff",
    LesionState.REGROUPED: "#e7b48f",
    LesionState.OUT_OF_VIEW: "#8d96a5",
}
"""Colours on a dark background."""
