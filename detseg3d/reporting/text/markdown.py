"""Markdown tables that are also aligned in plain text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DASH", "format_value", "markdown_table"]

DASH = "–"
"""Text that replaces a value that was not measured."""


def format_value(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Return a number with a fixed number of digits after the point, or a dash for ``None``.

    Parameters
    ----------
    value : float or None
        Number, or ``None`` if the value was not measured.
    digits : int, optional
        Digits after the point.
    sign : str, optional
        ``+`` also writes the sign of positive numbers.

    Examples
    --------
    >>> format_value(0.5), format_value(None), format_value(0.25, 1, "+")
    ('0.500', '–', '+0.2')
    """
    return DASH if value is None else f"{value:{sign}.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that is also aligned in plain text. Columns of numbers are aligned to the right.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        Cells of each row. A row has as many cells as the header.

    Examples
    --------
    >>> print(markdown_table(("size", "recall"), [("small", "0.5"), ("x", "1")]))
    | size  | recall |
    | ----- | -----: |
    | small |    0.5 |
    | x     |      1 |
    """
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in escaped)) for column in range(len(header))]
    numeric = [
        bool(rows) and column > 0 and all(_is_number(row[column]) for row in rows) for column in range(len(header))
    ]
    lines = []
    for row in escaped:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text == DASH or text.replace(".", "", 1).isdigit()
