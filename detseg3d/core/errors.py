"""Exception type for all errors that a user can cause."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DetSeg3DError"]

_MAX_VALUE_LENGTH = 2000


class DetSeg3DError(Exception):
    """Error that the user can understand and correct.

    The message states the problem and, if given, the file, the value that was found, the expected value and the remedy.

    Parameters
    ----------
    problem : str
        The problem, as a plain sentence fragment.
    file : path, optional
        The file or folder that has the problem.
    value : object, optional
        The wrong value, shown with ``repr``.
    expected : str, optional
        A correct value, in words.
    remedy : str, optional
        Advice to the user, as an imperative.

    Examples
    --------
    >>> raise DetSeg3DError("fold does not exist", value=7, expected="one of 0, 1, 2, 3, 4, all",
    ...                     remedy="choose one of these or add the fold to splits_final.json")
    Traceback (most recent call last):
        ...
    detseg3d.core.errors.DetSeg3DError: fold does not exist
      found:    7
      expected: one of 0, 1, 2, 3, 4, all
      remedy:   choose one of these or add the fold to splits_final.json
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        value: object = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else Path(file)
        self.value = value
        self.expected = expected
        self.remedy = remedy
        lines = [problem]
        if file is not None:
            lines.append(f"  file:     {file}")
        if value is not None:
            lines.append(f"  found:    {_short(repr(value))}")
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if remedy is not None:
            lines.append(f"  remedy:   {remedy}")
        super().__init__("\n".join(lines))


def _short(text: str) -> str:
    """Shorten a text, because a wrong value may be a list of a million entries."""
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}… ({len(text)} characters)"
