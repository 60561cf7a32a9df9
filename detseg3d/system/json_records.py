"""Base class of frozen dataclasses that are written to JSON and read back.

Results are typed objects in the package and JSON in files. :class:`JsonRecord` converts in both directions, so that no
result class spells out its own fields twice. Reading is left to pydantic, which checks the type of each value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from detseg3d.core.errors import DetSeg3DError

__all__ = ["JsonRecord", "plain"]


Record = TypeVar("Record", bound="JsonRecord")


class JsonRecord:
    """Mixin that gives a frozen dataclass ``to_json`` and ``from_json``.

    The JSON object has an entry for each field and for each property named in ``JSON_PROPERTIES``. The file can
    therefore state rates, such as the recall, next to the counts. ``from_json`` reads the fields and ignores all other
    entries. A field with ``metadata={"json": False}`` is not written and needs a default value.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Size(JsonRecord):
    ...     JSON_PROPERTIES = ("area",)
    ...     rows: int
    ...     columns: int
    ...
    ...     @property
    ...     def area(self) -> int:
    ...         return self.rows * self.columns
    >>> Size(2, 3).to_json()
    {'rows': 2, 'columns': 3, 'area': 6}
    >>> Size.from_json({"rows": 2, "columns": 3, "area": 6})
    Size(rows=2, columns=3)
    """

    JSON_PROPERTIES: ClassVar[tuple[str, ...]] = ()

    # Fields that are not part of the JSON may hold NumPy arrays, which pydantic does not know.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True}

    def to_json(self) -> dict[str, Any]:
        """Return the record as dicts, lists, strings, numbers, booleans and ``None``."""
        result: dict[str, Any] = plain(self)
        return result

    @classmethod
    def from_json(cls: type[Record], data: Mapping[str, Any]) -> Record:
        """Return the record with the fields of a JSON object.

        Parameters
        ----------
        data : mapping
            The content of a JSON object. Unknown entries are ignored.

        Raises
        ------
        DetSeg3DError
            If an entry is missing or has a wrong type. ``value`` names the first such entry.
        """
        from pydantic import ValidationError

        try:
            record: Record = _validator(cls)(data)  # type: ignore[arg-type]
            return record
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DetSeg3DError(
                f"the JSON data do not describe {cls.__name__}", value=f"{place}: {first['msg']}"
            ) from error


@cache
def _validator(cls: type) -> Callable[[Mapping[str, Any]], Any]:
    """Return pydantic's validator of a class. It is slow to build and quick to use."""
    from pydantic import TypeAdapter  # imported here, because most programs write records and never read them

    adapter: TypeAdapter[Any] = TypeAdapter(cls)
    return adapter.validate_python


def plain(value: Any) -> Any:
    """Return a value as plain dicts, lists, strings and numbers, ready for JSON.

    Parameters
    ----------
    value : any
        Dataclasses, pydantic models, mappings, sequences, enumerations, paths, dates, NumPy numbers and plain values,
        nested in any way.

    Examples
    --------
    >>> plain({"folder": Path("a"), "sizes": (1, 2)})
    {'folder': 'a', 'sizes': [1, 2]}
    """
    if value is None or type(value) in (str, int, float, bool):  # most values, and checked first because it is fast
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _stored_names(type(value))}
    if hasattr(value, "model_dump"):  # a pydantic model
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if hasattr(value, "tolist"):  # a NumPy number or array
        return value.tolist()
    return value


@cache
def _stored_names(cls: type[Any]) -> tuple[str, ...]:
    """Return the names of the fields and properties of a dataclass that its JSON holds."""
    names = [field.name for field in fields(cls) if field.metadata.get("json", True)]
    return (*names, *getattr(cls, "JSON_PROPERTIES", ()))
