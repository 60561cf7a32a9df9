"""``report.html``: the results of an evaluation in one file that needs neither network nor server."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from detseg3d.evaluation.remarks import HD95_PENALTY, different_scans, interval_note, left_out, too_few
from detseg3d.reporting.html.cases import ViewerContent, choose_cases, prepare_viewer, viewer_section
from detseg3d.reporting.html.crossval import (
    calibration_section,
    figures_by_origin,
    operating_point_section,
    stage_section,
)
from detseg3d.reporting.html.curves import curve_section, size_section
from detseg3d.reporting.html.figures import Evaluated
from detseg3d.reporting.html.markup import DASH, Html, dig, fragment, tag
from detseg3d.reporting.html.tables import (
    case_table,
    class_table,
    headline_table,
    key_figures,
    problem_list,
    section,
)
from detseg3d.reporting.html.volumes import CaseView
from detseg3d.reporting.pictures.overlay import BOX_COLOR, PREDICTION_COLOR, TRUTH_COLOR
from detseg3d.system.files import write_text

__all__ = ["MOST_BYTES", "CaseView", "write_report"]

logger = logging.getLogger(__name__)

MOST_BYTES = 20_000_000
"""A report is no larger than this."""

_RESERVE = 200_000  # for the tables of lesions, which are made after the volumes
_SCRIPTS = ("tables.js", "slices.js", "viewer.js")

# The browser loads nothing: script, style and volumes are in the page.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
)


def write_report(
    path: str | Path,
    result: Mapping[str, Any],
    *,
    consolidation: Mapping[str, Any] | None = None,
    cases_view: Sequence[CaseView] | None = None,
    title: str = "Lesion detection and segmentation",
    date: str | None = None,
    worst: int = 2,
    best: int = 2,
    most_bytes: int = MOST_BYTES,
) -> Path:
    """Write the report; equal input gives an equal file.

    Parameters
    ----------
    path : path
        The file to write, atomically.
    result : dict
        What :func:`~detseg3d.evaluation.folders.evaluate_folders` returned; or ``{"systems": {name: result},
        "comparisons": [{"first", "second", "figures"}]}`` to set several systems side by side.
    consolidation : dict, optional
        ``consolidation.json`` of a cross-validation.
    cases_view : sequence of CaseView, optional
        The files of the cases that may be shown in the viewer: of these, the ``worst`` and the ``best`` are. What
        cannot be read is named in the page.
    title : str, optional
    date : str, optional
        To be stated in the page.
    worst, best : int, optional
        How many cases the viewer gets.
    most_bytes : int, optional
        Volumes are made coarser, and left out at last, until the file is no larger.

    Returns
    -------
    Path
        Where it is.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    evaluated = Evaluated.of(result)
    views = list(cases_view or ())
    chosen = choose_cases(evaluated, views, worst, best)
    frame = _page(evaluated, consolidation, title, date, ViewerContent(), bool(views))
    budget = max(most_bytes - len(frame.encode("utf-8")) - _RESERVE, 0)
    page = _page(evaluated, consolidation, title, date, prepare_viewer(chosen, budget), bool(views))
    size = len(page.encode("utf-8"))
    if size > most_bytes:
        logger.warning("%s has %.1f MB: there are very many cases or lesions", path, size / 1e6)
    write_text(page, path)
    return Path(path)


def _page(
    evaluated: Evaluated,
    consolidation: Mapping[str, Any] | None,
    title: str,
    date: str | None,
    content: ViewerContent,
    with_viewer: bool,
) -> str:
    shown = [case.view.case_id for case in content.cases]
    sections = [("figures", "Figures", fragment(_headline(evaluated, consolidation)))]
    if with_viewer:
        sections.append(("viewer", "Worst and best scans", viewer_section(content)))
    sections.append(("curves", "Score threshold", curve_section(evaluated)))
    sections.append(("sizes", "Recall by lesion size", size_section(evaluated)))
    sections += _cross_validation(consolidation)
    sections.append(("cases", "Scans", fragment(_case_intro(evaluated), case_table(evaluated, shown))))
    sections.append(("problems", "Not evaluated", problem_list(evaluated)))
    sections.append(("reading", "How to read this page", _explanation()))
    names = [(key, _with_count(key, name, evaluated)) for key, name, _ in sections]
    body = fragment(
        _header(evaluated, title, date, names),
        tag("main", [section(key, name, part) for key, name, part in sections]),
        tag("footer", tag("p", f"Made by DetSeg3D {version('detseg3d')}. For research only, not for diagnosis.")),
        tag("script", Html(_scripts())),
    )
    head = fragment(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_style())),
    )
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def _asset(name: str) -> str:
    return (files("detseg3d.reporting.html") / "assets" / name).read_text(encoding="utf-8")


def _style() -> str:
    """The style sheet, with the colours of the overlay pictures."""
    colors = f":root {{ --truth: {TRUTH_COLOR}; --prediction: {PREDICTION_COLOR}; --boxes: {BOX_COLOR}; }}\n"
    return colors + _asset("report.css")


def _scripts() -> str:
    """All scripts in one function, so that nothing of theirs is global."""
    parts = "\n".join(_asset(name) for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def _header(evaluated: Evaluated, title: str, date: str | None, names: Sequence[tuple[str, str]]) -> Html:
    facts = []
    for name, result in evaluated.results.items():
        label = f"{name}: " if name else "Predictions: "
        if result.get("prediction_folder"):
            facts.append(tag("li", label, tag("code", result["prediction_folder"])))
    truth = evaluated.first.get("truth_folder")
    if truth:
        facts.insert(0, tag("li", "Truth: ", tag("code", truth)))
    if date:
        facts.append(tag("li", date))
    links = [tag("a", name, href=f"#{key}") for key, name in names]
    return tag("header", tag("h1", title), tag("ul", facts, class_="facts"), tag("nav", links, aria_label="sections"))


def _with_count(key: str, name: str, evaluated: Evaluated) -> str:
    if key != "problems":
        return name
    count = sum(len(result.get("problems") or ()) for result in evaluated.results.values())
    return f"{name}: {count}" if count else name


def _headline(evaluated: Evaluated, consolidation: Mapping[str, Any] | None) -> list[Html]:
    differ = different_scans(evaluated.results)
    parts = [tag("p", differ, class_="warn")] if differ else []
    if consolidation is not None and consolidation.get("operating_point"):
        parts.append(figures_by_origin(consolidation))
    if not evaluated.several:
        parts.append(key_figures(evaluated))
    parts.append(headline_table(evaluated))
    notes, few = [], ""
    if any(dig(result, "intervals", "dice", "low") is not None for result in evaluated.results.values()):
        patients = {name: result.get("patients") for name, result in evaluated.results.items()}
        intervals = [result.get("intervals") or {} for result in evaluated.results.values()]
        notes += [note for note in (interval_note(patients), left_out(intervals)) if note]
        few = too_few(intervals)
    if evaluated.comparisons:
        notes.append(
            "Differences are paired, on the same scans; “better” or “worse” stands where the interval leaves out 0."
        )
    notes += [
        f"{f'{name}: scans' if name else 'Scans'} without lesions: {free['scans']}, of which "
        f"{free.get('scans_without_false_positives')} without a false positive."
        for name, result in evaluated.results.items()
        if (free := dig(result, "summary", "false_positives", "lesion_free") or {}).get("scans")
    ]
    parts.append(tag("p", " ".join(notes), class_="note"))
    if few:
        parts.append(tag("p", few, class_="warn"))
    parts.append(class_table(evaluated))
    return parts


def _cross_validation(consolidation: Mapping[str, Any] | None) -> list[tuple[str, str, Html]]:
    if consolidation is None:
        return []
    sections = []
    if consolidation.get("operating_point"):
        sections.append(("operating-point", "Operating point", operating_point_section(consolidation)))
    if consolidation.get("calibration"):
        folds = len(consolidation.get("folds") or ())
        part = calibration_section(consolidation["calibration"], folds)
        sections.append(("calibration", "Calibration of the score", part))
    if consolidation.get("attribution"):
        sections.append(("stages", "Where lesions are lost", stage_section(consolidation["attribution"])))
    return sections


def _case_intro(evaluated: Evaluated) -> Html:
    text = "Click on the name of a column to sort by it. A found lesion has a prediction of its own with IoU ≥ 0.1."
    if not dig(evaluated.first, "summary", "cases"):
        text = "No scan was evaluated."
    finder = tag("label", "Find a scan ", tag("input", type="search", data_filter="case-table"), class_="finder")
    return fragment(tag("p", text), finder)


def _explanation() -> Html:
    entries = (
        ("Lesion", "A connected region of one class (26 neighbours), or one value of an instance map."),
        (
            "Any overlap",
            "A true lesion is found if any prediction shares a voxel with it; one prediction may find several.",
        ),
        (
            "IoU ≥ 0.1, IoU ≥ 0.5",
            "Overlap divided by union, at least this. Lesions and predictions are matched one to one, so a second "
            "prediction in a lesion is a false positive.",
        ),
        (
            "Pooled and mean figures",
            "Recall, precision, F1, panoptic quality and lesion-wise Dice are pooled: all lesions of all scans count "
            "alike. Dice, surface Dice, HD95 and CC-Dice are means over scans.",
        ),
        (
            "Nothing there, nothing found",
            "Such a scan is right: its Dice and F1 are 1 by definition. It is left out of the means of a class that it "
            "has neither in the truth nor in the prediction.",
        ),
        (
            "HD95",
            f"{' '.join(HD95_PENALTY.split())} A false positive in a lesion-free scan therefore costs far more than "
            "any outline; the figure over scans with lesions is free of that.",
        ),
        (DASH, "There is nothing to measure, for example recall where there is no true lesion."),
    )
    definitions = [(tag("dt", name), tag("dd", text)) for name, text in entries]
    return tag("dl", definitions)
