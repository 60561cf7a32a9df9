"""A value for all classes together, and a value for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from detseg3d.system.json_records import JsonRecord

__all__ = ["ByClass"]

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class ByClass(JsonRecord, Generic[T_co]):
    """A value for all classes together, and a value for each class.

    Attributes
    ----------
    overall : object
        Value for all classes together.
    classes : dict of str to object
        Value of each class, by the name of the class.
    """

    overall: T_co
    classes: Mapping[str, T_co]
