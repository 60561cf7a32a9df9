"""The section of the report with the viewer: pictures of the chosen scans and tables of their lesions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from detseg3d.evaluation.metrics import Criterion, LesionMetrics
from detseg3d.reporting.html.cases import ChosenCase, ViewerContent
from detseg3d.reporting.html.formatting import number, sphere_diameter
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.html.volumes import ViewerVolumes
from detseg3d.reporting.pictures.overlay import BOX_COLOR, PREDICTION_COLOR, TRUTH_COLOR

__all__ = ["COLORS", "ScanEntry", "scan_data", "viewer_section"]

COLORS = {"truth": TRUTH_COLOR, "prediction": PREDICTION_COLOR, "boxes": BOX_COLOR}
"""Colours of the outlines, the same as in the overlay pictures."""


@dataclass(frozen=True)
class ScanEntry:
    """A scan in a file beside the page.

    Attributes
    ----------
    case_id : str
    file : str
        Path of the file relative to the page.
    description : str
        F1 and Dice of each system, for the list of scans.
    """

    case_id: str
    file: str
    description: str


@dataclass(frozen=True)
class _LesionRow:
    """A row of the table of lesions.

    Attributes
    ----------
    number : str
        Number of the prediction in the instance map; for a missed lesion, ``T`` and its number in the truth.
    outcome : str
        ``found``, ``missed``, ``found again`` (a second prediction in a true lesion) or ``false positive``.
    class_name : str
        Name of the class.
    volume_mm3 : float
        Volume in mm³.
    length_mm : float
        Long axis, or the diameter of a sphere with the same volume if the axes were not measured.
    dice, iou : float or None
        Overlap with the best overlapping lesion of the other side; ``None`` for missed lesions and false positives.
    score : float or None
        Score of the prediction; ``None`` if there is no prediction or no score.
    sharing : int
        Number of other true lesions that the same prediction found. At any overlap, one prediction may find several
        lesions, and each of these lesions shows its score.
    point : tuple of 3 floats
        Centre ``(z, y, x)`` in voxel edges of the embedded volumes.
    """

    number: str
    outcome: str
    class_name: str
    volume_mm3: float
    length_mm: float
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
    has_axes: bool
    lesions: tuple[_LesionRow, ...]
    window: tuple[float, float]
    reduced: str
    voxels: Mapping[str, str]


def viewer_section(content: ViewerContent, scans: Sequence[ScanEntry] = ()) -> Markup:
    """Return the tabs of the cases, the pictures with their controls, the tables of lesions, and the embedded data.

    Parameters
    ----------
    content : ViewerContent
        Scans in the page.
    scans : sequence of ScanEntry
        Scans in files beside the page, which the viewer loads when the reader chooses them.
    """
    pairs = list(zip(content.cases, content.volumes, strict=True))
    return render(
        "viewer",
        cases=[_describe_case(case, volumes) for case, volumes in pairs],
        scans=scans,
        several=any(case.system for case in content.cases),
        unreadable=content.unreadable,
        omitted=content.omitted,
        settings={
            "colors": COLORS,
            "cases": [_script_data(case, volumes) for case, volumes in pairs],
            "scans": [{"id": scan.case_id, "file": scan.file} for scan in scans],
        },
    )


def scan_data(cases: Sequence[ChosenCase], volumes: Sequence[ViewerVolumes]) -> dict[str, Any]:
    """Return the content of the file of one scan: the data for the script, the table of lesions, and the voxels.

    Parameters
    ----------
    cases : sequence of ChosenCase
        The scan with the prediction of each system.
    volumes : sequence of ViewerVolumes
        From :func:`~detseg3d.reporting.html.volumes.load_systems`, in the order of ``cases``.
    """
    info = _script_data(cases[0], volumes[0])
    encoded = dict(volumes[0].encoded)
    if len(cases) > 1:
        encoded.pop("prediction", None)
        info["layers"].pop("prediction", None)
        info["systems"] = []
        for index, (case, part) in enumerate(zip(cases, volumes, strict=True)):
            layer = f"prediction-{index}"
            if part.prediction is not None:
                encoded[layer] = part.encoded["prediction"]
                info["layers"][layer] = str(part.prediction.dtype)
            boxes = _script_data(case, part)["boxes"]
            info["systems"].append({"name": case.system, "layer": layer, "boxes": boxes})
    tables = [_describe_case(case, part) for case, part in zip(cases, volumes, strict=True)]
    return {"info": info, "panel": str(render("scan_panel", tables=tables)), "volumes": encoded}


def _describe_case(case: ChosenCase, volumes: ViewerVolumes) -> _Case:
    counts = case.case.overall.detection[Criterion.ANY]
    return _Case(
        case_id=case.files.case_id,
        rank=case.rank,
        system=case.system,
        f1=case.f1,
        dice=case.dice,
        found=counts.found,
        true_lesions=counts.truth,
        false_positives=counts.false_positives,
        several_classes=len({entry.class_name for entry in case.case.lesions}) > 1,
        has_axes=all(lesion.shape is not None for lesion in case.case.lesions),
        lesions=_lesion_rows(case.case.lesions, volumes),
        window=volumes.window,
        reduced=volumes.reduced,
        voxels=volumes.encoded,
    )


def _script_data(case: ChosenCase, volumes: ViewerVolumes) -> dict[str, Any]:
    """Return the data of a case for the script of the page. Positions are voxel edges of the embedded volumes."""
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
        # The script uses these values to convert a position in the embedded volumes to a voxel of the image file.
        "frame": {
            "permutation": order.permutation,
            "flipped": order.flipped,
            "shape": order.shape,
            "offset": volumes.offset,
            "factor": volumes.factor,
        },
    }


def _lesion_rows(lesions: Sequence[LesionMetrics], volumes: ViewerVolumes) -> tuple[_LesionRow, ...]:
    """Return the true lesions, largest first, then the other predictions, highest score first."""
    truths = sorted((lesion for lesion in lesions if lesion.is_true), key=lambda entry: (-entry.volume_mm3, entry.id))
    predictions = [lesion for lesion in lesions if not lesion.is_true]
    scores = {lesion.id: lesion.score for lesion in predictions}
    finds = Counter(lesion.partner for lesion in truths if lesion.partner is not None)
    has_axes = all(lesion.shape is not None for lesion in lesions)

    def row(lesion: LesionMetrics, outcome: str, score: float | None, sharing: int = 0) -> _LesionRow:
        has_partner = outcome in ("found", "found again")
        length = sphere_diameter(lesion.volume_mm3)
        if has_axes and lesion.shape is not None:
            length = lesion.shape.long_axis_mm
        predicted = lesion.partner if lesion.is_true else lesion.id
        return _LesionRow(
            number=f"T{lesion.id}" if predicted is None else str(predicted),
            outcome=outcome,
            class_name=lesion.class_name,
            volume_mm3=lesion.volume_mm3,
            length_mm=length,
            dice=lesion.dice if has_partner else None,
            iou=lesion.iou if has_partner else None,
            score=score,
            sharing=sharing,
            point=tuple(round(value, 2) for value in volumes.place(lesion.center)),
        )

    rows = []
    for lesion in truths:
        if lesion.partner is None:
            rows.append(row(lesion, "missed", None))
        else:
            rows.append(row(lesion, "found", scores.get(lesion.partner), finds[lesion.partner] - 1))
    others = [lesion for lesion in predictions if lesion.id not in finds]
    for lesion in sorted(others, key=lambda entry: (-(entry.score or 0.0), entry.id)):
        outcome = "found again" if lesion.matched[Criterion.ANY] else "false positive"
        rows.append(row(lesion, outcome, lesion.score))
    return tuple(rows)
