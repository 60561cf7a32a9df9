"""The worst and the best cases of a report: which they are, their lesions, and what the viewer needs to show them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.reporting.html.figures import Evaluated
from detseg3d.reporting.html.markup import Html, dig, embed_json, fragment, number, tag
from detseg3d.reporting.html.volumes import CaseView, ViewerVolumes, fit_volumes, load_volumes
from detseg3d.reporting.pictures.overlay import BOX_COLOR, PREDICTION_COLOR, TRUTH_COLOR

__all__ = ["ShownCase", "ViewerContent", "choose_cases", "prepare_viewer", "viewer_section"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownCase:
    """A case for the viewer.

    Attributes
    ----------
    view : CaseView
    rank : str
        ``worst`` or ``best``.
    case : dict
        Its entry in ``result["cases"]``.
    lesions : tuple of dict
        Its entries in ``result["lesions"]``.
    system : str
        Whose predictions these are; empty if there is but one system.
    """

    view: CaseView
    rank: str
    case: Mapping[str, Any]
    lesions: tuple[Mapping[str, Any], ...]
    system: str = ""


@dataclass(frozen=True)
class ViewerContent:
    """What the viewer shows, and what it could not: ``unread`` by case, ``omitted`` for want of room."""

    cases: tuple[ShownCase, ...] = ()
    volumes: tuple[ViewerVolumes, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    omitted: tuple[str, ...] = ()


# -- Choice ------------------------------------------------------------------------------------------------------------


def choose_cases(evaluated: Evaluated, views: Sequence[CaseView], worst: int, best: int) -> list[ShownCase]:
    """The cases with the lowest and the highest lesion F1, then Dice; of equal ones those with more errors or lesions.

    Scans without lesions come last on both sides: their F1 is 0 with the first false positive, and a perfect one shows
    nothing.

    Parameters
    ----------
    evaluated : Evaluated
        The first system decides; so does the system that a view names for that view.
    views : sequence of CaseView
        Others than these cannot be shown.
    worst, best : int
        How many of each.

    Returns
    -------
    list of ShownCase
        The worst first, then the best.
    """
    cases: dict[tuple[str, str], Mapping[str, Any]] = {}
    lesions: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for name, result in evaluated.results.items():
        cases.update({(name, case["case_id"]): case for case in result.get("cases") or ()})
        for lesion in result.get("lesions") or ():
            lesions.setdefault((name, lesion["case_id"]), []).append(lesion)
    candidates = []
    for view in views:
        system = next(iter(evaluated.results)) if view.system is None else view.system
        case = cases.get((system, view.case_id))
        if case is not None:
            own = lesions.get((system, view.case_id), ())
            candidates.append(ShownCase(view, "worst", case, tuple(own), system))
    candidates.sort(key=_badness)
    lowest = candidates[: min(worst, len(candidates) - len(candidates) // 2)]
    rest = candidates[len(lowest) :]
    rest.sort(key=lambda shown: (_is_free(shown), *(-value for value in _quality(shown))))
    return lowest + [replace(shown, rank="best") for shown in rest[:best]]


def _quality(shown: ShownCase) -> tuple[float, float, float]:
    found = dig(shown.case, "lesions", HEADLINE) or {}
    return float(found.get("f1") or 0.0), float(dig(shown.case, "dice") or 0.0), float(found.get("truth") or 0)


def _is_free(shown: ShownCase) -> bool:
    return not dig(shown.case, "lesions", HEADLINE, "truth")


def _badness(shown: ShownCase) -> tuple[bool, float, float, float, str]:
    found = dig(shown.case, "lesions", HEADLINE) or {}
    errors = found.get("truth", 0) - found.get("found", 0) + found.get("false_positives", 0)
    f1, dice, _ = _quality(shown)
    return _is_free(shown), f1, dice, -float(errors), shown.view.case_id


def prepare_viewer(chosen: Sequence[ShownCase], budget: int) -> ViewerContent:
    """Read the chosen cases and make them fit into ``budget`` characters; a case that cannot be read is named."""
    cases, volumes, unread = [], [], []
    for shown in chosen:
        try:
            volumes.append(load_volumes(shown.view))
            cases.append(shown)
        except Exception as error:  # a picture that is missing must not cost the report
            known = isinstance(error, DetSeg3DError)
            unread.append((shown.view.case_id, str(error) if known else f"{type(error).__name__}: {error}"))
            logger.warning("the report cannot show %s: %s", shown.view.case_id, error)
    fitting = fit_volumes(volumes, budget)
    left_out = tuple(shown.view.case_id for shown in cases[len(fitting) :])
    return ViewerContent(tuple(cases[: len(fitting)]), tuple(fitting), tuple(unread), left_out)


# -- Page --------------------------------------------------------------------------------------------------------------


def viewer_section(content: ViewerContent) -> Html:
    """Tabs for the cases, the viewer, a table of lesions for each case, and the data of all this."""
    notes = [
        tag("p", tag("b", case_id), " cannot be shown: ", tag("span", problem, class_="reason"), class_="warn")
        for case_id, problem in content.unread
    ]
    if content.omitted:
        notes.append(tag("p", "Left out for want of room: ", ", ".join(content.omitted), ".", class_="warn"))
    if not content.cases:
        return fragment(tag("p", "There is no case to show."), notes)
    tabs, panels = [], []
    for index, (shown, volumes) in enumerate(zip(content.cases, content.volumes, strict=True)):
        tabs.append(_tab(shown, index))
        panels.append(_panel(shown, volumes, index))
    return fragment(
        tag(
            "p",
            "The worst and the best scans by lesion F1, then Dice; scans without lesions only where there are no other "
            "ones. Choose a lesion in the table and the crosshair goes there. The patient's right is on the left.",
        ),
        notes,
        tag("div", tabs, class_="tabs", role="tablist", aria_label="case"),
        tag("div", _stage(), tag("div", panels, class_="panels"), class_="viewer", id="viewer-box"),
        _data(content),
    )


def _tab(shown: ShownCase, index: int) -> Html:
    f1, dice, _ = _quality(shown)
    return tag(
        "button",
        tag("span", shown.rank, class_=f"rank {shown.rank}"),
        tag("span", shown.view.case_id, class_="case"),
        tag("span", shown.system) if shown.system else None,
        tag("span", f"F1 {number(f1)} · Dice {number(dice)}", class_="faint"),
        type="button",
        role="tab",
        id=f"tab-{index}",
        aria_controls=f"panel-{index}",
        aria_selected="true" if index == 0 else "false",
        data_case=shown.view.case_id,
    )


def _stage() -> Html:
    """The pictures and their controls; the page's script fills them."""
    layers = (("truth", "truth", "T"), ("prediction", "prediction", "P"), ("boxes", "predicted boxes", "B"))
    toggles = [
        tag(
            "label",
            tag("input", type="checkbox", checked=True, data_layer=key),
            tag("span", class_=f"key {key}", aria_hidden="true"),
            f"{name} ",
            tag("kbd", letter),
        )
        for key, name, letter in layers
    ]
    sliders = [
        tag(
            "label", f"{name} ", tag("input", type="range", min=low, max=high, step=step, value=value, data_control=key)
        )
        for key, name, low, high, step, value in (
            ("zoom", "zoom", 1, 8, 0.25, 1),
            ("black", "black", 0, 254, 1, 0),
            ("white", "white", 1, 255, 1, 255),
        )
    ]
    reset = tag("button", "Reset view", type="button", data_action="reset")
    local = tag("button", "Contrast of this area", type="button", data_action="local-window")
    return tag(
        "div",
        tag("div", toggles, class_="controls"),
        tag("div", class_="panes", data_panes=True),
        tag("div", sliders, local, tag("span", class_="presets", data_presets=True), reset, class_="controls"),
        tag(
            "p",
            "Click to move the crosshair, double-click to enlarge a picture. Drag with the right button to change the "
            "contrast. Keys: arrows and page keys move the crosshair, + and − zoom.",
            class_="note",
        ),
        tag("p", "", class_="readout", role="status", data_readout=True),
        tag("noscript", tag("p", "The viewer needs JavaScript.", class_="warn")),
        tag("p", "", class_="note", data_note=True),
        class_="stage",
    )


def _data(content: ViewerContent) -> Html:
    colors = {"truth": TRUTH_COLOR, "prediction": PREDICTION_COLOR, "boxes": BOX_COLOR}
    cases = [_describe(shown, volumes) for shown, volumes in zip(content.cases, content.volumes, strict=True)]
    settings = {"colors": colors, "cases": cases}
    blocks = [tag("script", embed_json(settings), type="application/json", id="viewer-data")]
    for index, volumes in enumerate(content.volumes):
        for name, text in volumes.encoded.items():
            blocks.append(tag("script", Html(text), type="application/octet-stream", id=f"volume-{index}-{name}"))
    return fragment(blocks)


def _describe(shown: ShownCase, volumes: ViewerVolumes) -> dict[str, Any]:
    """What the page's script must know of a case; positions in voxel edges of the embedded volumes."""
    boxes = []
    for roi in shown.view.rois:
        if roi.get("box") is not None:
            label = number(roi.get("score")) if roi.get("score") is not None else ""
            boxes.append({"box": [round(edge, 3) for edge in volumes.place_box(roi["box"])], "label": label})
    return {
        "id": shown.view.case_id,
        "shape": list(volumes.image.shape),
        "spacing": list(volumes.spacing),
        "layers": {name: str(volume.dtype) for name, volume in volumes.layers.items()},
        "intensities": list(volumes.window),
        "presets": [asdict(preset) for preset in volumes.presets],
        "boxes": boxes,
        "frame": {
            "permutation": list(volumes.orders.image.permutation),
            "flipped": list(volumes.orders.image.flipped),
            "shape": list(volumes.orders.image.shape),
            "offset": list(volumes.offset),
            "factor": list(volumes.factor),
        },
    }


# -- Lesions -----------------------------------------------------------------------------------------------------------


def _panel(shown: ShownCase, volumes: ViewerVolumes, index: int) -> Html:
    classes = len({entry["class_name"] for entry in shown.lesions}) > 1
    titles = [
        "lesion",
        "outcome",
        *(["class"] if classes else []),
        "volume (mm³)",
        "across (mm)",
        "Dice",
        "IoU",
        "score",
    ]
    header = [
        tag(
            "th",
            tag("button", text, type="button", class_="sort"),
            scope="col",
            class_="number" if n > 1 + classes else None,
        )
        for n, text in enumerate(titles)
    ]
    # At any overlap one prediction may find several lesions, which then all show its score.
    found = Counter(e["partner"] for e in shown.lesions if e["kind"] == "truth" and e["partner"] is not None)
    rows = [
        _lesion_row(place + 1, outcome, record, (score, found[record["partner"]]), volumes, classes)
        for place, (outcome, record, score) in enumerate(_outcomes(shown.lesions))
    ]
    body: Html = tag("table", tag("thead", tag("tr", header)), tag("tbody", rows), class_="sortable lesions")
    if not rows:
        body = tag("p", "No lesion, neither in truth nor in prediction.")
    low, high = (number(value, 0) for value in volumes.window)
    told = f"Intensities from {low} to {high} are shown from black to white."
    if volumes.reduced:
        told += f" To keep the file small: {volumes.reduced}."
    system = tag("p", f"Predictions of {shown.system}.", class_="note") if shown.system else None
    return tag(
        "div",
        tag("h3", shown.view.case_id, " ", tag("span", _tally(shown), class_="faint")),
        tag("div", body, class_="scroll lesion-scroll", role="region", aria_label="lesions", tabindex="0"),
        system,
        tag("p", told, class_="note"),
        role="tabpanel",
        id=f"panel-{index}",
        aria_labelledby=f"tab-{index}",
        data_panel=index,
    )


def _tally(shown: ShownCase) -> str:
    found = dig(shown.case, "lesions", "any") or {}
    false = found.get("false_positives", 0)
    plural = "" if false == 1 else "s"
    hits = f"{found.get('found', 0)} of {found.get('truth', 0)} lesions found"
    return f"{hits}, {false} false positive{plural} (any overlap)"


def _outcomes(lesions: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], float | None]]:
    """What became of each true lesion, largest first, then of the other predictions by score; and the score."""
    truths = sorted((e for e in lesions if e["kind"] == "truth"), key=lambda e: (-e["volume_mm3"], e["id"]))
    predictions = [entry for entry in lesions if entry["kind"] == "prediction"]
    score_of = {entry["id"]: entry.get("score") for entry in predictions}
    rows: list[tuple[str, Mapping[str, Any], float | None]] = []
    for entry in truths:
        rows.append(("found" if entry["matched"]["any"] else "missed", entry, score_of.get(entry["partner"])))
    partners = {entry["partner"] for entry in truths}
    others = [entry for entry in predictions if entry["id"] not in partners]
    for entry in sorted(others, key=lambda e: (-(e.get("score") or 0.0), e["id"])):
        outcome = "found again" if entry["matched"]["any"] else "false positive"
        rows.append((outcome, entry, entry.get("score")))
    return rows


def _lesion_row(
    place: int,
    outcome: str,
    record: Mapping[str, Any],
    of_prediction: tuple[float | None, int],
    volumes: ViewerVolumes,
    with_class: bool,
) -> Html:
    score, finds = of_prediction
    z, y, x = (round(value, 2) for value in volumes.place(record["center"]))
    across = (6 * record["volume_mm3"] / math.pi) ** (1 / 3)
    button = tag("button", place, type="button", class_="goto", aria_label=f"show lesion {place}, {outcome}")
    paired = outcome in ("found", "found again")
    others = finds - 1 if outcome == "found" else 0
    shared = f"shares its prediction with {others} other{'' if others == 1 else 's'}" if others > 0 else None
    cells = [
        tag("td", button, data_value=place),
        tag(
            "td",
            tag("span", outcome, class_=f"outcome {outcome.replace(' ', '-')}"),
            tag("span", shared, class_="meaning") if shared else None,
            data_value=outcome,
        ),
        tag("td", record["class_name"], data_value=record["class_name"]) if with_class else None,
        _figure(record["volume_mm3"], 0 if record["volume_mm3"] >= 10 else 1),
        _figure(across, 1),
        _figure(record["dice"] if paired else None),
        _figure(record["iou"] if paired else None),
        _figure(score),
    ]
    return tag("tr", cells, data_point=f"{z} {y} {x}", data_across=round(across, 2))


def _figure(value: float | None, digits: int = 2) -> Html:
    return tag(
        "td",
        number(value, digits),
        class_="number",
        data_value="" if value is None else value,
    )
