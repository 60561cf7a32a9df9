"""Which cases two folders have in common, and the true lesions of a label file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import normal_name
from detseg3d.data.images import file_ending, strip_ending
from detseg3d.data.labels import (
    LabelFormat,
    label_values,
    read_label,
)
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = [
    "common_cases",
    "describe_problem",
    "files_by_case",
    "image_case",
    "only_class",
    "roi_case",
]


def image_case(path: Path) -> str | None:
    """The case of an image file, by its name without ending; ``None`` for other files."""
    return None if file_ending(path) is None else strip_ending(path)


def roi_case(path: Path) -> str | None:
    """The case of a RoI file, ``CASE.json``; ``None`` for other files."""
    return path.name.removesuffix(".json") if path.name.endswith(".json") else None


def files_by_case(
    folder: Path, what: str, case_of: Callable[[Path], str | None], problems: list[dict[str, str]]
) -> dict[str, Path]:
    """Files of a folder by case. A case with several files is added to ``problems`` and left out: none is guessed.

    Names that differ in their Unicode normal form only are those of one case.

    Parameters
    ----------
    folder : path
    what : str
        What the files are, for messages.
    case_of : callable
        Gives the case of a file, ``None`` if it is of no interest. Hidden files are never asked for.
    problems : list
        Grows by ``{"case", "problem"}``.

    Raises
    ------
    DetSeg3DError
        If the folder does not exist.
    """
    if not folder.is_dir():
        raise DetSeg3DError(f"the folder of the {what} does not exist", file=folder, remedy="check the path")
    found: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(folder.iterdir()):
        # A pipe or a device counts as well: reading it says what it is.
        there = path.exists() and not path.is_dir() and not path.name.startswith(".")
        case_id = case_of(path) if there else None
        if case_id is not None:
            found.setdefault(normal_name(case_id), []).append((case_id, path))
    single = {}
    for (case_id, path), *others in found.values():
        if not others:
            single[case_id] = path
            continue
        names = [name.name for name in (path, *(other for _, other in others))]
        alike = len({normal_name(name) for name in names}) < len(names)
        shown = ", ".join(map(ascii, names) if alike else names)
        shown += " (they differ in their Unicode normal form only)" if alike else ""
        problems.append({"case": case_id, "problem": f"the {what} has several files: {shown}"})
    return single


def common_cases(
    truths: Collection[str],
    predictions: Collection[str],
    places: tuple[Path, Path],
    problems: list[dict[str, str]],
    cases: Sequence[str] | None = None,
    hint: str = "",
) -> list[str]:
    """The cases that both sides have, in order; what only one has is added to ``problems``.

    Parameters
    ----------
    truths, predictions : collection of str
        Cases of either side.
    places : pair of paths
        Where they come from, for messages.
    problems : list
        Grows by ``{"case", "problem"}``; a case that is named there already is not named again.
    cases : sequence of str, optional
        Only these; by default all of ``truths``.
    hint : str, optional
        Added to what is said of a prediction without a label.

    Raises
    ------
    DetSeg3DError
        If there is none.
    """
    named = {normal_name(problem["case"]) for problem in problems}
    wanted = set(truths) if cases is None else set(cases)
    missing = [(case_id, f"no label in {places[0]}") for case_id in wanted - set(truths)]
    missing += [(case_id, f"no prediction in {places[1]}") for case_id in (wanted & set(truths)) - set(predictions)]
    if cases is None:
        extra = set(predictions) - set(truths)
        missing += [(case_id, f"a prediction, but no label in {places[0]}{hint}") for case_id in extra]
    problems += [
        {"case": case_id, "problem": text} for case_id, text in sorted(missing) if normal_name(case_id) not in named
    ]
    common = sorted(wanted & set(truths) & set(predictions))
    if not common:
        raise DetSeg3DError(
            "truth and prediction have no case in common",
            file=places[1],
            value=sorted(predictions)[:3],
            expected=f"names like those in {places[0]}: {sorted(truths)[:3]}",
            remedy="name each prediction like its label",
        )
    return common


def describe_problem(case_id: str, error: Exception | None) -> dict[str, str]:
    """Why a case failed, as an entry of ``problems``: the message, and the kind of error if nobody foresaw it."""
    known = isinstance(error, DetSeg3DError)
    return {"case": case_id, "problem": str(error) if known else f"{type(error).__name__}: {error}"}


def only_class(files: Sequence[Path], form: LabelFormat, run: Run = Run()) -> int:
    """Value of the class that a probability map of one class is of, where no dataset.json says so.

    Parameters
    ----------
    files : sequence of path
        All labels of the set. One that cannot be read is passed over: that is a problem of its case.
    form : LabelFormat
    run : Run, optional

    Returns
    -------
    int
        The only value but 0 of all labels; 1 if there are several or none, or ``form`` says what a value means.
    """
    if form.classes is not None or form.truth_instances:
        return 1
    found: set[int] = set()
    for case in run_cases(partial(_values_of_label, form), files, run, "reading labels"):
        found |= case.value or set()
    return found.pop() if len(found) == 1 else 1


def _values_of_label(form: LabelFormat, file: Path) -> set[int]:
    return label_values(read_label(file, form)[0])
