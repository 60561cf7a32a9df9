"""Short texts of DICOM objects."""

from __future__ import annotations

from detseg3d.core.model_identity import ModelIdentity
from detseg3d.exports.dicom.tracking import tracking_identifier

__all__ = ["MANUFACTURER", "as_long_string", "as_short_text", "lesion_label", "model_title", "serial_number"]

MANUFACTURER = "DetSeg3D"
_MAX_LENGTH = 64  # the value representation LO


def model_title(model: ModelIdentity) -> str:
    """Return the name of the program and its model.

    Examples
    --------
    >>> model_title(ModelIdentity("Dataset101_SynthMS", "abc", "1.0"))
    'DetSeg3D Dataset101_SynthMS'
    """
    return as_long_string(f"{MANUFACTURER} {model.name}".strip())


def serial_number(model: ModelIdentity) -> str:
    """Return the digest of the model as a serial number; ``unknown`` if there is none."""
    return as_long_string(model.digest) or "unknown"


def as_long_string(text: str) -> str:
    r"""Return a text that the value representation LO can hold: one line, no backslash, at most 64 characters.

    Examples
    --------
    >>> as_long_string("a\\b\nc"), len(as_long_string("x" * 100))
    ('a/b c', 64)
    """
    text = "".join(character if character.isprintable() else " " for character in text.replace("\\", "/"))
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"


def as_short_text(text: str) -> str:
    """Return a text that the value representation ST can hold: printable, at most 1024 characters."""
    return "".join(character if character.isprintable() else " " for character in text)[:1024]


def lesion_label(number: int, class_name: str, score: float) -> str:
    """Return the label of a lesion: number, class and score. A long name of a class is shortened.

    Examples
    --------
    >>> lesion_label(3, "metastasis", 0.871)
    'Lesion 3: metastasis (0.87)'
    """
    ending = f" ({score:.2f})"
    text = as_long_string(f"{tracking_identifier(number)}: {class_name}")
    return text[: _MAX_LENGTH - len(ending)] + ending
