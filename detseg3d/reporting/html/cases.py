"""Choose the worst and the best scans of a report, and read the data that the viewer needs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.metrics import HEADLINE, CaseMetrics, DetectionCounts
from detseg3d.reporting.html.case_files import CaseFiles
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.volumes import ViewerVolumes, fit_volumes, load_volumes

__all__ = ["ChosenCase", "UnreadableCase", "ViewerContent", "choose_cases", "read_cases"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenCase:
    """A case that the viewer shows.

    Attributes
    ----------
    files : CaseFiles
        Files of the case.
    rank : str
        ``worst`` or ``best``.
    case : CaseMetrics
        Metrics of the case, with its lesions.
    system : str
        Name of the system that made the prediction; empty if there is only one system.
    """

    files: CaseFiles
    rank: str
    case: CaseMetrics
    system: str = ""

    @property
    def is_lesion_free(self) -> bool:
        """True if the case has no true lesion."""
        return self.counts.truth == 0

    @property
    def counts(self) -> DetectionCounts:
        """Detection counts under the main criterion."""
        return self.case.overall.detection[HEADLINE]

    @property
    def f1(self) -> float:
        """Lesion F1 of the case."""
        return self.counts.f1

    @property
    def dice(self) -> float:
        """Dice of the case."""
        return self.case.dice

    @property
    def true_lesions(self) -> int:
        """Number of true lesions."""
        return self.counts.truth

    @property
    def errors(self) -> int:
        """Number of missed lesions and false positives."""
        return self.counts.missed + self.counts.false_positives


@dataclass(frozen=True)
class UnreadableCase:
    """A case with files that cannot be read, and the reason."""

    case_id: str
    reason: str


@dataclass(frozen=True)
class ViewerContent:
    """The content of the viewer.

    Attributes
    ----------
    cases : tuple of ChosenCase
        Cases in the viewer.
    volumes : tuple of ViewerVolumes
        Volumes of each of the ``cases``.
    unreadable : tuple of UnreadableCase
        Cases with files that cannot be read.
    omitted : tuple of str
        Names of the cases that are left out because the file would be too large.
    """

    cases: tuple[ChosenCase, ...] = ()
    volumes: tuple[ViewerVolumes, ...] = ()
    unreadable: tuple[UnreadableCase, ...] = ()
    omitted: tuple[str, ...] = ()


def choose_cases(evaluated: Evaluated, files: Sequence[CaseFiles], worst: int, best: int) -> list[ChosenCase]:
    """Return the cases with the lowest and with the highest lesion F1.

    Dice decides between cases with equal F1. Between cases with equal F1 and Dice, the worst case has the most
    errors, and the best case has the most lesions. Cases without lesions are chosen last, both as worst and as best: a
    single false positive makes their F1 0, and a perfect case without lesions has no lesion to show. A case with F1 0
    is never one of the best cases.

    Parameters
    ----------
    evaluated : Evaluated
        A case is ranked by the metrics of the system that its files name, or else of the first system.
    files : sequence of CaseFiles
        Cases that can be shown.
    worst, best : int
        Maximum number of worst and of best cases.

    Returns
    -------
    list of ChosenCase
        The worst cases first, then the best.
    """
    cases: dict[tuple[str, str], CaseMetrics] = {}
    for name, result in evaluated.results.items():
        cases.update({(name, case.case_id): case for case in result.cases})
    candidates = []
    for entry in files:
        system = next(iter(evaluated.results)) if entry.system is None else entry.system
        case = cases.get((system, entry.case_id))
        if case is not None:
            candidates.append(ChosenCase(entry, "worst", case, system))
    candidates.sort(key=lambda case: (case.is_lesion_free, case.f1, case.dice, -case.errors, case.files.case_id))
    # With few cases, half of them are the worst, so that no case is shown twice.
    lowest = candidates[: min(worst, len(candidates) - len(candidates) // 2)]
    others = candidates[len(lowest) :]
    others.sort(key=lambda case: (case.is_lesion_free, -case.f1, -case.dice, -case.true_lesions))
    return lowest + [replace(case, rank="best") for case in others[:best] if case.f1 > 0]


def read_cases(chosen: Sequence[ChosenCase], budget: int) -> ViewerContent:
    """Read the chosen cases and make their volumes fit into ``budget`` characters.

    If a case cannot be read, the report is still written. The page names the case and the reason.
    """
    cases, volumes, unreadable = [], [], []
    for case in chosen:
        try:
            volumes.append(load_volumes(case.files))
            cases.append(case)
        except Exception as error:  # the report is useful without this picture
            reason = str(error) if isinstance(error, DetSeg3DError) else f"{type(error).__name__}: {error}"
            unreadable.append(UnreadableCase(case.files.case_id, reason))
            logger.warning("the report cannot show %s: %s", case.files.case_id, error)
    fitting = fit_volumes(volumes, budget)
    omitted = tuple(case.files.case_id for case in cases[len(fitting) :])
    return ViewerContent(tuple(cases[: len(fitting)]), tuple(fitting), tuple(unreadable), omitted)
