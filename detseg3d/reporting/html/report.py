"""Write ``report.html``: the results of an evaluation as a page that needs neither a network nor a server."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from detseg3d.evaluation.cross_validation import ConsolidationSummary
from detseg3d.evaluation.result import EvaluationResult, SystemsResult
from detseg3d.reporting.html.case_files import CaseFiles
from detseg3d.reporting.html.cases import ViewerContent, choose_cases, read_cases
from detseg3d.reporting.html.crossval import (
    calibration_section,
    metrics_by_origin,
    operating_point_section,
    shift_section,
    stage_section,
)
from detseg3d.reporting.html.curves import curve_section, size_section
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.pairs import pair_section
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.html.scan_files import ScanFiles, write_scan_files
from detseg3d.reporting.html.tables import case_table, class_table, key_metrics, metric_table, problem_list
from detseg3d.reporting.html.viewer import COLORS, viewer_section
from detseg3d.reporting.text.remarks import (
    HD95_PENALTY,
    describe_different_scans,
    describe_few_patients,
    describe_intervals,
    describe_left_out,
)
from detseg3d.system.files import write_text

__all__ = ["POLICY", "PageSection", "ReportInput", "asset", "write_report"]

logger = logging.getLogger(__name__)

MAX_BYTES = 20_000_000
"""Maximum size of a report in bytes."""

_LESION_TABLE_BYTES = 200_000  # reserved for the tables of lesions in the viewer
_SCRIPTS = ("tables.js", "slices.js", "viewer.js")

# The browser loads no other file: script, style and volumes are in the page.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
)
# The scripts of the scans lie beside the page, on a disk or on the server of the page.
SCAN_POLICY = POLICY.replace("'unsafe-inline'", "'unsafe-inline' 'self' file:", 1)


@dataclass(frozen=True)
class ReportInput:
    """Everything that a report shows.

    Attributes
    ----------
    result : EvaluationResult or SystemsResult
        Result of :func:`~detseg3d.evaluation.folders.evaluate_folders`, or of
        :func:`~detseg3d.evaluation.folders.evaluate_systems` to compare several systems.
    consolidation : ConsolidationSummary, optional
        Result of the consolidation of a cross-validation.
    cases : sequence of CaseFiles
        Cases that the viewer can show. The page holds some of these cases, see ``worst`` and ``best``. The others are
        in the folder ``NAME_scans`` beside the page.
    title : str
        Title of the page.
    date : str, optional
        Date that the page states.
    worst, best : int
        Maximum number of the worst and of the best cases in the page.
    """

    result: EvaluationResult | SystemsResult
    consolidation: ConsolidationSummary | None = None
    cases: tuple[CaseFiles, ...] = ()
    title: str = "Lesion detection and segmentation"
    date: str | None = None
    worst: int = 2
    best: int = 2


@dataclass(frozen=True)
class PageSection:
    """A section of the page.

    Attributes
    ----------
    key : str
        Identifier of the section for links within the page.
    title : str
        Title of the section.
    content : Markup
        HTML of the section.
    name : str
        Name in the navigation.
    """

    key: str
    title: str
    content: Markup
    name: str


def write_report(path: str | Path, report: ReportInput, max_bytes: int = MAX_BYTES) -> Path:
    """Write a report, and the scans that its viewer opens into a folder beside it. Equal input gives equal files.

    Parameters
    ----------
    path : path
        File to write; it is written atomically.
    report : ReportInput
        Content of the report.
    max_bytes : int, optional
        Maximum size of the page in bytes. If the page would be larger, the volumes in the page are made coarser, and
        finally left out.

    Returns
    -------
    Path
        The written file.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    evaluated = Evaluated.of(report.result)
    without_viewer = _page(report, evaluated, ViewerContent(), ScanFiles())
    budget = max(max_bytes - len(_encode(without_viewer)) - _LESION_TABLE_BYTES, 0)
    chosen = choose_cases(evaluated, report.cases, report.worst, report.best)
    content = read_cases(chosen, budget)
    # In a comparison, the page shows a scan with one system, and its file shows the scan with all systems.
    embedded = () if evaluated.several else tuple(case.files.case_id for case in content.cases)
    known = {case.case_id for case in content.unreadable}
    files = [case for case in report.cases if case.case_id not in known]
    page = _page(report, evaluated, content, write_scan_files(Path(path), evaluated, files, embedded))
    size = len(_encode(page))
    if size > max_bytes:
        logger.warning("%s has %.1f MB because there are very many cases or lesions", path, size / 1e6)
    write_text(_encode(page).decode("utf-8"), path)
    return Path(path)


def _encode(page: str) -> bytes:
    """Return the page as UTF-8. File names may contain bytes that are not characters; they become question marks."""
    return page.encode("utf-8", "replace")


def _page(report: ReportInput, evaluated: Evaluated, content: ViewerContent, scans: ScanFiles) -> str:
    return render(
        "report",
        title=report.title,
        facts=_facts(report, evaluated),
        sections=_sections(report, evaluated, content, scans),
        colors=COLORS,
        policy=SCAN_POLICY if scans.entries else POLICY,
        style=asset("report.css"),
        script="\n".join(asset(name) for name in _SCRIPTS),
        version=version("detseg3d"),
    )


@cache
def asset(name: str) -> str:
    """Return the text of a script or a style sheet of the pages."""
    return (files("detseg3d.reporting.html") / "assets" / name).read_text(encoding="utf-8")


def _facts(report: ReportInput, evaluated: Evaluated) -> list[tuple[str, str]]:
    """Return the folders and the date that the head of the page states."""
    facts = [("Truth", evaluated.first.truth_folder)]
    for name, result in evaluated.results.items():
        facts.append((name or "Predictions", result.prediction_folder))
    if report.date:
        facts.append(("", report.date))
    return facts


def _sections(report: ReportInput, evaluated: Evaluated, content: ViewerContent, scans: ScanFiles) -> list[PageSection]:
    """Return the sections of the page in their order. A section is left out if the input has no data for it."""
    shown = [*(case.files.case_id for case in content.cases), *(scan.case_id for scan in scans.entries)]
    content = replace(content, unreadable=(*content.unreadable, *scans.unreadable))
    problems = sum(len(result.problems) for result in evaluated.results.values())
    sections = [("metrics", "Metrics", _metrics(report, evaluated))]
    if report.cases:
        sections.append(("viewer", "Viewer", viewer_section(content, scans.entries)))
    pairs = pair_section(evaluated)
    if pairs:
        sections.append(("pairs", "Scan by scan", pairs))
    sections.append(("curves", "Curves over the score threshold", curve_section(evaluated)))
    sections.append(("sizes", "Recall by lesion size", size_section(evaluated)))
    if report.consolidation is not None:
        sections += _cross_validation(report.consolidation)
    sections.append(("cases", "Scans", case_table(evaluated, shown)))
    sections.append(("problems", "Not evaluated", problem_list(evaluated)))
    reading = render("reading", hd95_penalty=" ".join(HD95_PENALTY.split()))
    sections.append(("reading", "How to read this page", reading))
    return [
        PageSection(key, title, part, f"{title}: {problems}" if key == "problems" and problems else title)
        for key, title, part in sections
    ]


def _cross_validation(consolidation: ConsolidationSummary) -> list[tuple[str, str, Markup]]:
    calibration = calibration_section(consolidation.calibration, len(consolidation.folds))
    shifts = consolidation.shifts
    return [
        ("operating-point", "Operating point", operating_point_section(consolidation)),
        *([] if shifts is None else [("shifts", "Scans unlike the training scans", shift_section(shifts))]),
        ("calibration", "Calibration of the score", calibration),
        ("stages", "Where lesions are lost", stage_section(consolidation.attribution)),
    ]


def _metrics(report: ReportInput, evaluated: Evaluated) -> Markup:
    differ = describe_different_scans(evaluated.systems)
    notes, few = [], ""
    estimates = [entry for result in evaluated.results.values() for entry in result.estimates.values()]
    if any(entry.low is not None for entry in estimates):
        patients = {name: result.patients for name, result in evaluated.results.items()}
        notes += [note for note in (describe_intervals(patients), describe_left_out(estimates)) if note]
        few = describe_few_patients(estimates)
    if evaluated.comparisons:
        notes.append(
            "Differences are paired: both systems are compared on the same scans. A difference is called better or "
            "worse if its interval does not contain 0."
        )
    for name, result in evaluated.results.items():
        free = result.summary.overall.lesion_free
        if free.scans:
            notes.append(
                f"{f'{name}: scans' if name else 'Scans'} without lesions: {free.scans}, of which "
                f"{free.scans_without_false_positives} without a false positive."
            )
    return render(
        "metrics",
        first_warnings=[differ] if differ else [],
        by_origin="" if report.consolidation is None else metrics_by_origin(report.consolidation.choice),
        tiles=key_metrics(evaluated),
        table=metric_table(evaluated),
        notes=notes,
        last_warnings=[few] if few else [],
        classes=class_table(evaluated),
    )
