"""Classes of the lesions in instance maps.

An instance map gives each lesion a number but no class. One of three places states the classes:

- a file ``CASE.json`` beside the label, as in nnDetection;
- the entry ``instance_classes`` of dataset.json;
- a CSV table, if the entry ``instance_classes`` is the name of the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import normal_name
from detseg3d.data.images import strip_ending
from detseg3d.system.files import read_bounded
from detseg3d.system.json_files import read_json

__all__ = ["InstanceClasses", "class_indices", "instance_class_record", "parse_instance_classes"]

MAX_BYTES: Final = 64 << 20
"""Maximum size of a CSV table or a JSON file."""

_COLUMNS = ("case", "instance", "class")
_MAX_SHOWN = 10
_MAX_NUMBER_LENGTH = 19  # Python refuses to convert numbers of thousands of digits


@dataclass(frozen=True)
class _Entry:
    """Unchecked entry of a file for one lesion."""

    instance: object
    label: object


@dataclass(frozen=True)
class InstanceClasses:
    """Source of the class of each lesion, and the names of the classes.

    Attributes
    ----------
    names : tuple of str
        Names of the classes, by ascending label value.
    values : tuple of int
        Label value of each class.
    from_zero : bool
        True if the numbers of the classes begin with 0, as in nnDetection. If false, the number of a class is its label
        value in dataset.json.
    file : Path
        The table or the dataset.json.
    table : dict of str to tuple, or None
        Entries by case; ``None`` if a JSON file beside each label holds them.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    from_zero: bool
    file: Path
    table: Mapping[str, tuple[_Entry, ...]] | None = field(default=None, repr=False)

    def source_of(self, label: Path) -> Path:
        """Return the file that states the classes of an instance map."""
        return label.parent / f"{strip_ending(label)}.json" if self.table is None else self.file

    def beside_maps(self) -> InstanceClasses:
        """Return the same classes, with the ``CASE.json`` of ``detseg3d_predict`` beside each map as their source."""
        return replace(self, from_zero=True, table=None)

    def entries_of(self, case_id: str) -> tuple[tuple[str, str], ...]:
        """Return the entries of a case in the table as text; empty without a table."""
        if self.table is None:
            return ()
        return tuple((str(entry.instance), str(entry.label)) for entry in self.table.get(normal_name(case_id), ()))

    def unknown_cases(self, cases: Iterable[str]) -> list[str]:
        """Return the cases in the table that are not in ``cases``."""
        return sorted(set(self.table or {}) - {normal_name(case) for case in cases})

    def of_case(self, label: Path, case_id: str | None = None) -> dict[int, int]:
        """Return the stated class index of each lesion of a case, by its number in the instance map.

        Parameters
        ----------
        label : Path
            The instance map.
        case_id : str, optional
            By default the name of the map without its ending.

        Raises
        ------
        DetSeg3DError
            If the file is missing or has another form, if an entry is not the number of a lesion with a known class, or
            if a lesion is listed twice.
        """
        file = self.source_of(label)
        case = normal_name(case_id or strip_ending(label))
        entries = _read_json(file) if self.table is None else self.table.get(case, ())
        classes: dict[int, int] = {}
        wrong: list[str] = []
        for entry in entries:
            number, index = _whole(entry.instance), self._index(entry.label)
            if number is None or number < 1:
                wrong.append(f"instance {entry.instance!r} is not a whole number from 1")
            elif index is None:
                wrong.append(f"instance {number} has the unknown class {entry.label!r}")
            elif number in classes:
                wrong.append(f"instance {number} is listed twice")
            else:
                classes[number] = index
        if wrong:
            raise DetSeg3DError(
                "the classes of the instance map cannot be used",
                file=file,
                value=_shown(wrong),
                expected=self._expected(),
                remedy='correct these entries; "instance_classes_from" in dataset.json counts from 0 or 1',
            )
        return classes

    def _index(self, label: object) -> int | None:
        if isinstance(label, str) and label.strip() in self.names:
            return self.names.index(label.strip())
        number = _whole(label)
        if number is None:
            return None
        if self.from_zero:
            return number if 0 <= number < len(self.names) else None
        return self.values.index(number) if number in self.values else None

    def _expected(self) -> str:
        numbers = range(len(self.names)) if self.from_zero else self.values
        return ", ".join(f"{number} ({name})" for number, name in zip(numbers, self.names, strict=True))


def class_indices(
    numbers: Sequence[int], classes: InstanceClasses | None, label: Path, case_id: str | None = None
) -> dict[int, int]:
    """Return the class index of each lesion in an instance map.

    Parameters
    ----------
    numbers : sequence of int
        All values of the map except 0.
    classes : InstanceClasses or None
        ``None`` for a single class.
    label : Path
        The instance map.
    case_id : str, optional
        By default the name of the map without its ending.

    Raises
    ------
    DetSeg3DError
        If the classes cannot be read, a lesion has no class, or a class is stated for a lesion that does not exist.
    """
    if classes is None:
        return dict.fromkeys(numbers, 0)
    stated = classes.of_case(label, case_id)
    without, absent = sorted(set(numbers) - set(stated)), sorted(set(stated) - set(numbers))
    parts = [
        f"{description} {', '.join(map(str, some[:_MAX_SHOWN]))}{', …' if len(some) > _MAX_SHOWN else ''}"
        for description, some in (("without a class:", without), ("with a class, but not in the map:", absent))
        if some
    ]
    if parts:
        raise DetSeg3DError(
            "the instance map and the stated classes have different lesions",
            file=classes.source_of(label),
            value="; ".join(parts),
            expected=f"one class for each value of {label.name}",
            remedy="state the missing classes and remove the others",
        )
    return {number: stated[number] for number in numbers}


def parse_instance_classes(
    data: Mapping[str, Any], labels: Mapping[str, int], file: Path, instances: bool
) -> InstanceClasses | None:
    """Return the source of the classes of instance maps from the entries of a dataset.json.

    The entries are ``instance_classes`` and ``instance_classes_from``.

    Parameters
    ----------
    data : mapping
        Content of the dataset.json.
    labels : mapping
        Checked labels of the data set, including the background.
    file : Path
        The dataset.json.
    instances : bool
        True if the labels are instance maps.

    Returns
    -------
    InstanceClasses or None
        ``None`` if the labels are not instance maps or have one class only.

    Raises
    ------
    DetSeg3DError
        If an entry is not valid or the CSV table cannot be read.
    """
    stated, start = data.get("instance_classes"), data.get("instance_classes_from")
    if start is not None and (isinstance(start, bool) or start not in (0, 1)):
        raise DetSeg3DError(
            '"instance_classes_from" is neither 0 (the first class is 0) nor 1 (numbers are label values)',
            file=file,
            value=start,
        )
    if not instances or len(labels) == 2:
        return None
    named = sorted(((value, name) for name, value in labels.items() if value != 0))
    names, values = tuple(name for _, name in named), tuple(value for value, _ in named)
    if stated is None:
        return InstanceClasses(names, values, start != 1, file)
    if isinstance(stated, dict):
        entries = [(case, _entries(content, file, case)) for case, content in stated.items()]
        return InstanceClasses(names, values, start == 0, file, _by_case(entries))
    if not isinstance(stated, str) or not stated:
        raise DetSeg3DError(
            '"instance_classes" is neither an object nor the name of a CSV file beside dataset.json',
            file=file,
            value=stated,
            expected='{"CASE": {"1": "a", "2": "b"}}, or "instances.csv" with the columns case, instance, class',
        )
    table = file.parent / stated
    if not table.resolve().is_relative_to(file.parent.resolve()):
        raise DetSeg3DError('"instance_classes" does not name a file beside dataset.json', file=file, value=stated)
    return InstanceClasses(names, values, start == 0, table, _by_case(_read_csv(table)))


def instance_class_record(classes: Mapping[int, int]) -> dict[str, dict[str, int]]:
    """Return the content of a ``CASE.json`` beside an instance map in the format of nnDetection: classes from 0.

    Examples
    --------
    >>> instance_class_record({2: 0, 1: 1})
    {'instances': {'1': 1, '2': 0}}
    """
    return {"instances": {str(number): int(classes[number]) for number in sorted(classes)}}


def _by_case(entries: Iterable[tuple[str, Sequence[_Entry]]]) -> dict[str, tuple[_Entry, ...]]:
    table: dict[str, list[_Entry]] = {}
    for case, found in entries:
        table.setdefault(normal_name(case), []).extend(found)
    return {case: tuple(found) for case, found in table.items()}


def _entries(content: object, file: Path, where: str) -> list[_Entry]:
    if not isinstance(content, dict):
        raise DetSeg3DError(
            f'the classes of the instances of "{where}" are not an object',
            file=file,
            value=content,
            expected='{"1": 0, "2": 1}: a class for each number of the instance map',
        )
    return [_Entry(number, label) for number, label in content.items()]


def _read_json(file: Path) -> list[_Entry]:
    data = read_json(file, MAX_BYTES)
    if not isinstance(data, dict) or "instances" not in data:
        raise DetSeg3DError(
            'the file does not state "instances"', file=file, expected='{"instances": {"1": 0, "2": 1}}'
        )
    return _entries(data["instances"], file, "instances")


def _read_csv(file: Path) -> list[tuple[str, list[_Entry]]]:
    try:
        text = read_bounded(file, MAX_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        if not set(_COLUMNS) <= set(columns):
            raise DetSeg3DError(
                "the table lacks columns", file=file, value=columns, expected=f"the columns {', '.join(_COLUMNS)}"
            )
        reader.fieldnames = columns
        rows = [(reader.line_num, [row[name] for name in _COLUMNS]) for row in reader]
    except FileNotFoundError as error:
        raise DetSeg3DError("the table of instance classes does not exist", file=file) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DetSeg3DError(f"the table of instance classes cannot be read: {error}", file=file) from error
    # Missing cells of a short line are None.
    short = [line for line, cells in rows if not all(cell is not None and cell.strip() for cell in cells)]
    if short:
        raise DetSeg3DError(
            "lines of the table lack an entry", file=file, value=short[:_MAX_SHOWN], expected="case, instance, class"
        )
    return [(case.strip(), [_Entry(instance.strip(), label.strip())]) for _, (case, instance, label) in rows]


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and len(text) < _MAX_NUMBER_LENGTH else None
    if isinstance(value, (int, float)) and value == int(value):
        return int(value)
    return None


def _shown(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _MAX_SHOWN} more" if len(problems) > _MAX_SHOWN else ""
    return "; ".join(problems[:_MAX_SHOWN]) + more
