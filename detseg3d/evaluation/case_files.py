"""List the files of a folder by case, and find the cases that two folders have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
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
from detseg3d.system.json_records import JsonRecord
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = [
    "CaseProblem",
    "common_cases",
    "files_by_case",
    "image_case",
    "infer_single_class",
    "roi_case",
]


@dataclass(frozen=True)
class CaseProblem(JsonRecord):
    """A case that could not be evaluated, and the reason.

    Attributes
    ----------
    case_id : str
        Name of the case.
    problem : str
        The reason, as a sentence for the user.
    """

    case_id: str
    problem: str

    @classmethod
    def of(cls, case_id: str, error: Exception | None) -> CaseProblem:
        """Return the problem of a case that failed with an error. An unexpected error is named by its type."""
        is_known = isinstance(error, DetSeg3DError)
        return cls(case_id, str(error) if is_known else f"{type(error).__name__}: {error}")


def image_case(path: Path) -> str | None:
    """Return the name of the case of an image file (the file name without ending); ``None`` for other files."""
    return None if file_ending(path) is None else strip_ending(path)


def roi_case(path: Path) -> str | None:
    """Return the name of the case of a RoI file ``CASE.json``; ``None`` for other files."""
    return path.name.removesuffix(".json") if path.name.endswith(".json") else None


def files_by_case(
    folder: Path, description: str, case_of: Callable[[Path], str | None], problems: list[CaseProblem]
) -> dict[str, Path]:
    """Return the files of a folder by case.

    A case with several files is added to ``problems`` and left out. Names that differ only in their Unicode normal form
    belong to one case.

    Parameters
    ----------
    folder : path
        Folder to list.
    description : str
        Description of the files for messages, such as ``truth``.
    case_of : callable
        Function that returns the name of the case of a file, or ``None`` if the file does not belong to a case. Hidden
        files are always skipped.
    problems : list of CaseProblem
        The function appends new problems to this list.

    Raises
    ------
    DetSeg3DError
        If the folder does not exist.
    """
    if not folder.is_dir():
        raise DetSeg3DError(f"the folder of the {description} does not exist", file=folder, remedy="check the path")
    files: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(folder.iterdir()):
        # Pipes and devices are kept: reading such a file gives a clear error.
        is_file = path.exists() and not path.is_dir() and not path.name.startswith(".")
        case_id = case_of(path) if is_file else None
        if case_id is not None:
            files.setdefault(normal_name(case_id), []).append((case_id, path))
    single = {}
    for (case_id, path), *others in files.values():
        if not others:
            single[case_id] = path
            continue
        names = [path.name, *(other.name for _, other in others)]
        look_equal = len({normal_name(name) for name in names}) < len(names)
        listed = ", ".join(map(ascii, names) if look_equal else names)
        listed += " (they differ only in their Unicode normal form)" if look_equal else ""
        problems.append(CaseProblem(case_id, f"the {description} has several files: {listed}"))
    return single


def common_cases(
    truths: Collection[str],
    predictions: Collection[str],
    places: tuple[Path, Path],
    problems: list[CaseProblem],
    cases: Sequence[str] | None = None,
    hint: str = "",
) -> list[str]:
    """Return the sorted cases that both sides have. Cases that only one side has are added to ``problems``.

    Parameters
    ----------
    truths, predictions : collection of str
        Cases of each side.
    places : pair of paths
        Folders or files of truth and prediction, for messages.
    problems : list of CaseProblem
        The function appends new problems to this list. A case that already has a problem does not get a second problem.
    cases : sequence of str, optional
        Names of the cases to use; by default all of ``truths``.
    hint : str, optional
        Text that is added to the problem of a prediction without a label.

    Raises
    ------
    DetSeg3DError
        If there is no common case.
    """
    named = {normal_name(problem.case_id) for problem in problems}
    wanted = set(truths) if cases is None else set(cases)
    missing = [(case_id, f"no label in {places[0]}") for case_id in wanted - set(truths)]
    missing += [(case_id, f"no prediction in {places[1]}") for case_id in (wanted & set(truths)) - set(predictions)]
    if cases is None:
        extra = set(predictions) - set(truths)
        missing += [(case_id, f"a prediction, but no label in {places[0]}{hint}") for case_id in extra]
    problems += [CaseProblem(case_id, text) for case_id, text in sorted(missing) if normal_name(case_id) not in named]
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


def infer_single_class(files: Sequence[Path], label_format: LabelFormat, run: Run = Run()) -> int:
    """Infer the label value of the class of single-class probability maps, if no dataset.json states the value.

    Parameters
    ----------
    files : sequence of path
        All label files of the data set. A file that cannot be read is skipped, because the evaluation reports the file
        as a problem of its case.
    label_format : LabelFormat
        Meaning of the label values.
    run : Run, optional
        Number of worker processes and display of progress bars.

    Returns
    -------
    int
        The single value besides 0 in all labels. The result is 1 if there are several values or no values, or if
        ``label_format`` states the classes.
    """
    if label_format.classes is not None or label_format.truth_instances:
        return 1
    values: set[int] = set()
    for result in run_cases(partial(_values_of_label, label_format), files, run, "reading labels"):
        values |= result.value or set()
    return values.pop() if len(values) == 1 else 1


def _values_of_label(label_format: LabelFormat, file: Path) -> set[int]:
    return label_values(read_label(file, label_format)[0])
