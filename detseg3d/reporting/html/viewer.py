"""The section of the report with the viewer: pictures of the chosen scans and tables of their lesions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from detseg3d.reporting.html.cases import ChosenCase, ViewerContent
from detseg3d.reporting.html.figures import dig
from detseg3d.reporting.html.formatting import number, sphere_diameter
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.html.volumes import ViewerVolumes
from detseg3d.reporting.pictures.overlay import BOX_COLOR, PREDICTION_COLOR, TRUTH_COLOR

__all__ = ["COLORS", "viewer_section"]

COLORS = {"truth": TRUTH_COLOR, "prediction": PREDICTION_COLOR, "boxes": BOX_COLOR}
"""Colours of the outlines: those of the overlay pictures."""


@dataclass(frozen=True)
class _LesionRow:
    """A row of the table of lesions.

    Attributes
    ----------
    outcome : str
        ``found``, ``missed``, ``found again`` (a second prediction in a true lesion) or ``false positive``.
    class_name : str
    volume_mm3, diameter_mm : float
    dice, iou : float or None
        Overlap with the partner of the lesion.
    score : float or None
        Score of the prediction.
    sharing : int
        Number of other true lesions that were found by the same prediction. At any overlap one prediction may find
        several lesions, which then all show its score.
    point : tuple of 3 floats
        Centre ``(z, y, x)`` in voxel edges of the embedded volumes.
    """

    outcome: str
    class_name: str
    volume_mm3: float
    diameter_mm: float
    dice: float | None
    iou: float | None
    score: float | None
    sharing: int
    point: tuple[float, ...]


@dataclass(frozen=True)
class _Case:
    """A case as the template shows it."""

    case_id: str
    rank: str
    system: str
    f1: float
    dice: float
    found: int
    true_lesions: int
    false_positives: int
    several_classes: bool
    lesions: tuple[_LesionRow, ...]
    window: tuple[float, float]
    reduced: str
    voxels: Mapping[str, str]


def viewer_section(content: ViewerContent) -> Markup:
    """Return the tabs of the cases, the pictures with their controls, the tables of lesions, and the embedded data."""
    pairs = list(zip(content.cases, content.volumes, strict=True))
    return render(
        "viewer",
        cases=[_describe_case(case, volumes) for case, volumes in pairs],
        unreadable=content.unreadable,
        omitted=content.omitted,
        settings={"colors": COLORS, "cases": [_script_data(case, volumes) for case, volumes in pairs]},
    )


def _describe_case(case: ChosenCase, volumes: ViewerVolumes) -> _Case:
    counts = dig(case.case, "lesions", "any") or {}
    return _Case(
        case_id=case.files.case_id,
        rank=case.rank,
        system=case.system,
        f1=case.f1,
        dice=case.dice,
        found=counts.get("found", 0),
        true_lesions=counts.get("truth", 0),
        false_positives=counts.get("false_positives", 0),
        several_classes=len({entry["class_name"] for entry in case.lesions}) > 1,
        lesions=_lesion_rows(case.lesions, volumes),
        window=volumes.window,
        reduced=volumes.reduced,
        voxels=volumes.encoded,
    )


def _script_data(case: ChosenCase, volumes: ViewerVolumes) -> dict[str, Any]:
    """Return what the script of the page needs about a case. Positions are voxel edges of the embedded volumes."""
    order = volumes.orders.image
    return {
        "id": case.files.case_id,
        "shape": volumes.image.shape,
        "spacing": volumes.spacing,
        "layers": {name: str(volume.dtype) for name, volume in volumes.layers.items()},
        "intensities": volumes.window,
        "presets": [asdict(preset) for preset in volumes.presets],
        "boxes": [
            {
                "box": [round(edge, 3) for edge in volumes.place_box(entry.box)],
                "label": "" if entry.score is None else number(entry.score),
            }
            for entry in case.files.boxes
        ],
        # From a position in the embedded volumes to a voxel of the image file.
        "frame": {
            "permutation": order.permutation,
            "flipped": order.flipped,
            "shape": order.shape,
            "offset": volumes.offset,
            "factor": volumes.factor,
        },
    }


def _lesion_rows(lesions: Sequence[Mapping[str, Any]], volumes: ViewerVolumes) -> tuple[_LesionRow, ...]:
    """Return the true lesions, largest first, then the other predictions, highest score first."""
    truths = sorted((e for e in lesions if e["kind"] == "truth"), key=lambda e: (-e["volume_mm3"], e["id"]))
    predictions = [entry for entry in lesions if entry["kind"] == "prediction"]
    scores = {entry["id"]: entry.get("score") for entry in predictions}
    finds = Counter(entry["partner"] for entry in truths if entry["partner"] is not None)
    rows = []
    for entry in truths:
        partner = entry["partner"]
        if entry["matched"]["any"]:
            rows.append(_lesion_row(entry, "found", scores.get(partner), volumes, sharing=finds[partner] - 1))
        else:
            rows.append(_lesion_row(entry, "missed", scores.get(partner), volumes))
    others = [entry for entry in predictions if entry["id"] not in finds]
    for entry in sorted(others, key=lambda e: (-(e.get("score") or 0.0), e["id"])):
        outcome = "found again" if entry["matched"]["any"] else "false positive"
        rows.append(_lesion_row(entry, outcome, entry.get("score"), volumes))
    return tuple(rows)


def _lesion_row(
    lesion: Mapping[str, Any], outcome: str, score: float | None, volumes: ViewerVolumes, sharing: int = 0
) -> _LesionRow:
    has_partner = outcome in ("found", "found again")
    return _LesionRow(
        outcome=outcome,
        class_name=lesion["class_name"],
        volume_mm3=lesion["volume_mm3"],
        diameter_mm=sphere_diameter(lesion["volume_mm3"]),
        dice=lesion["dice"] if has_partner else None,
        iou=lesion["iou"] if has_partner else None,
        score=score,
        sharing=max(sharing, 0),
        point=tuple(round(value, 2) for value in volumes.place(lesion["center"])),
    )
