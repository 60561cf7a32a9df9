"""The tables of a report: headline figures, classes, cases, and what could not be evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.remarks import measured
from detseg3d.reporting.html.charts import interval_strip
from detseg3d.reporting.html.figures import CRITERION_NAMES, FIGURES, GROUPS, Estimate, Evaluated, Figure, estimate
from detseg3d.reporting.html.markup import DASH, Html, dig, fragment, number, tag

__all__ = ["case_table", "class_table", "headline_table", "key_figures", "problem_list", "scrolling", "section"]


def section(key: str, title: str, *content: object) -> Html:
    """A section of the page; ``key`` is its address in the page."""
    return tag("section", tag("h2", title, id=f"{key}-title"), content, id=key, aria_labelledby=f"{key}-title")


def scrolling(table: Html, label: str) -> Html:
    """A table in a frame of its own that scrolls where the table is wider than the page."""
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


# -- Headline ----------------------------------------------------------------------------------------------------------


def key_figures(evaluated: Evaluated) -> Html:
    """The figures that people ask for first, large; only for a single system."""
    result = evaluated.first
    summary = result.get("summary") or {}
    free = dig(summary, "false_positives", "lesion_free", "scans")
    tiles = [
        _tile("scans", number(summary.get("cases"), 0), f"{number(free, 0)} without lesions" if free else ""),
        _tile("true lesions", number(dig(summary, "lesions", "any", "truth"), 0), _found(summary)),
    ]
    for figure in FIGURES:
        if figure.key in ("f1_iou_0.1", "recall_iou_0.1", "precision_iou_0.1", "fp_per_scan_iou_0.1", "dice"):
            known = estimate(result, figure)
            name = "FP per scan at IoU ≥ 0.1" if figure.key == "fp_per_scan_iou_0.1" else figure.name
            tiles.append(_tile(name, number(known.value, figure.digits), _interval(known, figure.digits)))
    return tag("ul", tiles, class_="tiles")


def _found(summary: Mapping[str, Any]) -> str:
    if not dig(summary, "lesions", HEADLINE, "truth"):
        return ""
    return f"{number(dig(summary, 'lesions', HEADLINE, 'found'), 0)} found at {CRITERION_NAMES[HEADLINE]}"


def _tile(name: str, value: str, detail: str) -> Html:
    parts = (tag("span", name, class_="name"), tag("span", value, class_="value"), tag("span", detail, class_="detail"))
    return tag("li", parts)


def headline_table(evaluated: Evaluated) -> Html:
    """Every figure with its interval, for each system, and the paired differences between systems."""
    columns = [tag("th", "", scope="col")]
    if evaluated.several:
        columns += [tag("th", name, scope="col", class_="number") for name in evaluated.results]
        for entry in evaluated.comparisons:
            columns.append(tag("th", f"{entry['second']} − {entry['first']}", scope="col", class_="number"))
    else:
        columns += [tag("th", "value", scope="col", class_="number"), tag("th", "95 % interval", scope="col")]
        columns.append(tag("th", "of scans", scope="col", class_="number"))
        columns.append(tag("th", tag("span", "0 to 1", class_="faint"), scope="col", class_="strip-column"))
    bodies = [_sizes(evaluated)] if evaluated.several else []
    for group in GROUPS:
        rows = [_headline_row(evaluated, figure) for figure in FIGURES if figure.group == group]
        rows = [row for row in rows if row]
        if rows:
            heading = tag("th", group, colspan=len(columns), scope="rowgroup", class_="group")
            bodies.append(tag("tbody", tag("tr", heading), rows))
    return scrolling(
        tag("table", tag("thead", tag("tr", columns)), bodies, class_="headline"), "headline figures with intervals"
    )


def _sizes(evaluated: Evaluated) -> Html:
    """Scans and true lesions of each system; a single system has them in its tiles."""
    summaries = [result.get("summary") for result in evaluated.results.values()]
    rows = []
    for name, path in (("Scans", ("cases",)), ("True lesions", ("lesions", "any", "truth"))):
        cells = [tag("td", number(dig(summary, *path), 0), class_="number strong") for summary in summaries]
        for entry in evaluated.comparisons:
            common = f"{number(entry.get('cases'), 0)} in both" if name == "Scans" else DASH
            cells.append(tag("td", common, class_="number"))
        rows.append(tag("tr", tag("th", name, scope="row"), cells))
    return tag("tbody", rows)


def _headline_row(evaluated: Evaluated, figure: Figure) -> Html:
    known = [estimate(result, figure) for result in evaluated.results.values()]
    if all(entry.value is None for entry in known) and not figure.needs:
        return Html("")  # was not asked for
    if figure.group == GROUPS[-1] and not any(dig(r, "summary", "scores") for r in evaluated.results.values()):
        return Html("")
    name = tag("th", _with_options(figure, evaluated), tag("span", figure.meaning, class_="meaning"), scope="row")
    if not evaluated.several:
        [only] = known
        strip = interval_strip(only.value, only.low, only.high) if figure.share else None
        cells = [
            tag("td", number(only.value, figure.digits), class_="number strong"),
            tag("td", _interval(only, figure.digits), class_="interval"),
            tag("td", number(only.scans, 0), class_="number"),
            tag("td", strip, class_="strip-column"),
        ]
        return tag("tr", name, cells)
    cells = [
        tag(
            "td",
            tag("span", number(entry.value, figure.digits), class_="strong"),
            tag("span", _interval(entry, figure.digits), class_="interval below"),
            class_="number",
        )
        for entry in known
    ]
    return tag("tr", name, cells, [_difference(entry, figure) for entry in evaluated.comparisons])


def _with_options(figure: Figure, evaluated: Evaluated) -> str:
    """The name of a figure, with the tolerance if it has one."""
    tolerance = dig(evaluated.first, "options", "figures", "tolerance_mm")
    return f"{figure.name}, {tolerance:g} mm" if figure.key == "nsd" and tolerance is not None else figure.name


def _interval(known: Estimate, digits: int) -> str:
    if known.value is None or known.low is None or known.high is None:
        return ""
    return f"{number(known.low, digits)} to {number(known.high, digits)}"


def _difference(comparison: Mapping[str, Any], figure: Figure) -> Html:
    """The paired difference; a word says if its interval leaves out 0, and which way that is."""
    entry = dig(comparison, "figures", figure.key) or {}
    difference, low, high = (entry.get(name) for name in ("difference", "low", "high"))
    if difference is None:
        return tag("td", DASH, class_="number")
    digits = figure.digits + 1  # a limit of 0.00 would leave it open on which side of 0 the interval ends
    text = number(difference, digits)
    sign = "+" if difference > 0 and any(digit in text for digit in "123456789") else ""
    parts = [tag("span", sign + text, class_="strong")]
    if low is not None and high is not None:
        if (low > 0 or high < 0) and figure.lower_is_better is not None:
            word = "better" if (difference < 0) == figure.lower_is_better else "worse"
            parts.insert(0, tag("span", word, class_=f"verdict {word}"))
        interval = f"{number(low, digits)} to {number(high, digits)}"
        parts.append(tag("span", interval, class_="interval below"))
    return tag("td", parts, class_="number")


def class_table(evaluated: Evaluated) -> Html:
    """The main figures by class; nothing if there is but one class."""
    names = list(dict.fromkeys(name for r in evaluated.results.values() for name in dig(r, "summary", "classes") or {}))
    if len(names) < 2:
        return Html("")
    header = (
        "class",
        "true lesions",
        "F1 at IoU ≥ 0.1",
        "recall",
        "precision",
        "F1 at any overlap",
        "F1 at IoU ≥ 0.5",
        "PQ",
        "Dice",
        "of scans",
    )
    rows = []
    for name in names:
        for system, result in evaluated.results.items():
            group = dig(result, "summary", "classes", name)
            if group is not None:
                label = tag("th", name, tag("span", system, class_="meaning") if system else None, scope="row")
                rows.append(tag("tr", label, [tag("td", cell, class_="number") for cell in _class_cells(group)]))
    for system, result in evaluated.results.items():
        means = dig(result, "summary", "class_mean")
        if means is not None:
            name = f"mean of {number(means.get('classes'), 0)} classes"
            label = tag("th", name, tag("span", system, class_="meaning") if system else None, scope="row")
            rows.append(tag("tr", label, [tag("td", cell, class_="number") for cell in _mean_cells(means)]))
    note = tag(
        "p",
        "Recall and precision are at IoU ≥ 0.1. Dice is the mean over the scans that have the class in the truth or in "
        f"the prediction; a class that no scan has so has no figures ({DASH}).",
    )
    columns = [tag("th", text, scope="col", class_=None if n == 0 else "number") for n, text in enumerate(header)]
    table = tag("table", tag("thead", tag("tr", columns)), tag("tbody", rows))
    return fragment(tag("h3", "By class"), scrolling(table, "figures by class"), note)


def _class_cells(group: Mapping[str, Any]) -> list[str]:
    found = dig(group, "lesions", HEADLINE) or {}
    shown = (
        (found.get("f1"), "either"),
        (found.get("recall"), "truth"),
        (found.get("precision"), "predictions"),
        (dig(group, "lesions", "any", "f1"), "either"),
        (dig(group, "lesions", "iou_0.5", "f1"), "either"),
        (dig(group, "panoptic", "pq"), "either"),
        (dig(group, "dice", "mean"), "either"),
    )
    cells = (number(value) if measured(group, needs) else DASH for value, needs in shown)
    return [number(found.get("truth"), 0), *cells, number(dig(group, "dice", "cases"), 0)]


def _mean_cells(means: Mapping[str, Any]) -> list[str]:
    """The means over the classes that the truth has."""
    f1 = [number(means.get(f"f1_{name}")) for name in ("iou_0.1", "any", "iou_0.5")]
    return [DASH, f1[0], DASH, DASH, *f1[1:], number(means.get("pq")), number(means.get("dice")), DASH]


# -- Cases -------------------------------------------------------------------------------------------------------------

_COUNTS = (("found", "found"), ("false_positives", "false positives"))
_CASE_FIGURES = (
    ("nsd", "NSD", 2),
    ("hd95_mm", "HD95 (mm)", 1),
    ("cc_dice", "CC-Dice", 2),
    ("lesionwise_dice", "lesion-wise Dice", 2),
)


def case_table(evaluated: Evaluated, shown: Sequence[str] = ()) -> Html:
    """One row per case, to be sorted by a click on a column's name.

    Parameters
    ----------
    evaluated : Evaluated
    shown : sequence of str
        Cases that the viewer has; their names lead there.
    """
    systems = [{case["case_id"]: case for case in r.get("cases") or ()} for r in evaluated.results.values()]
    names = sorted({name for cases in systems for name in cases})
    figures: list[tuple[str, str, int]] = []
    if not evaluated.several:
        figures = [
            entry
            for entry in _CASE_FIGURES
            if any(dig(c, "figures", entry[0]) is not None for c in systems[0].values())
        ]
    titles = [title for _, title in _COUNTS] + ["F1 at IoU ≥ 0.1", "Dice"] + [title for _, title, _ in figures]
    columns = ["case", "true lesions"] + titles * len(systems)
    header = [
        tag("th", _sort_button(text), scope="col", class_=None if n == 0 else "number")
        for n, text in enumerate(columns)
    ]
    head = [tag("tr", header)]
    if evaluated.several:
        blank = tag("td", "", colspan=2)
        head.insert(
            0, tag("tr", blank, [tag("th", s, colspan=len(titles), scope="colgroup") for s in evaluated.results])
        )
    rows = []
    for name in names:
        cells = [_case_name(name, name in shown)]
        known = next(cases[name] for cases in systems if name in cases)
        cells.append(_numeric(dig(known, "lesions", "any", "truth"), 0))
        for cases in systems:
            cells += _case_cells(cases.get(name), figures)
        rows.append(tag("tr", cells))
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="sortable", id="case-table")
    return tag("div", table, class_="scroll tall", role="region", aria_label="figures by case", tabindex="0")


def _sort_button(text: str) -> Html:
    return tag("button", text, type="button", class_="sort")


def _case_name(name: str, shown: bool) -> Html:
    link = tag("a", name, href="#viewer", data_show_case=name) if shown else name
    return tag("th", link, scope="row", data_value=name)


def _case_cells(case: Mapping[str, Any] | None, figures: Sequence[tuple[str, str, int]]) -> list[Html]:
    found = dig(case, "lesions", HEADLINE) or {}
    cells = [_numeric(found.get("found") if found.get("truth") else None, 0), _numeric(found.get("false_positives"), 0)]
    cells += [_numeric(found.get("f1")), _numeric(dig(case, "dice"))]
    return cells + [_numeric(dig(case, "figures", key), digits) for key, _, digits in figures]


def _numeric(value: Any, digits: int = 2) -> Html:
    return tag("td", number(value, digits), class_="number", data_value="" if value is None else value)


# -- Problems ----------------------------------------------------------------------------------------------------------


def problem_list(evaluated: Evaluated) -> Html:
    """What could not be evaluated, by reason: the same reason is most often that of many cases."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for system, result in evaluated.results.items():
        for problem in result.get("problems") or ():
            reasons.setdefault((system, str(problem["problem"])), []).append(str(problem["case"]))
    if not reasons:
        return tag("p", "Every case was evaluated.")
    items = []
    for (system, reason), cases in reasons.items():
        names = tag("b", ", ".join(cases))
        items.append(
            tag("li", tag("span", f"{system}: ") if system else None, names, tag("span", reason, class_="reason"))
        )
    return fragment(
        tag("p", "These cases are in no figure on this page."), tag("ul", items, class_="problems", role="list")
    )
