"""Write small data sets, evaluate them, and parse the pages of their reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.geometry import IDENTITY_DIRECTION, Geometry
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import write_image
from detseg3d.data.labels import LabelFormat
from detseg3d.evaluation.cross_validation import (
    Attribution,
    CalibrationSummary,
    ChoiceMetrics,
    ConsolidationSummary,
    GoalMetrics,
    PooledMetrics,
    Reliability,
    ScanCounts,
    ShiftMetrics,
    ShiftSummary,
    SizeAttribution,
    StageRecall,
    ThresholdChoice,
)
from detseg3d.evaluation.folders import evaluate_folders
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.evaluation.scores.calibration import ReliabilityBin
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.thresholds import Thresholds
from detseg3d.reporting.html.case_files import CaseFiles, PredictedBox
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run

SHAPE = (8, 16, 16)
SPACING = (2.0, 1.0, 1.0)
TWO = (3, 10, 10)  # corner of the second lesion of a case


def cube(volume: np.ndarray, corner: Sequence[int], size: int, value: int) -> None:
    """Add a lesion: a block with half as many slices as rows and columns."""
    z, y, x = corner
    volume[z : z + max(size // 2, 1), y : y + size, x : x + size] = value


def write_cases(root: Path, names: Sequence[str] = ("bad", "good", "middle", "healthy"), scores: bool = True) -> Path:
    """Write scans, labels and predictions in the layout of ``detseg3d_predict``.

    The names choose the cases. ``good``: both lesions are found exactly. ``middle``: one lesion is found with a shift,
    and one is missed. ``bad``: one lesion is found, one is missed, and there is a false positive. Every other name: no
    lesion and no prediction.
    """
    random = np.random.default_rng(0)
    for name in names:
        image = random.normal(100, 5, SHAPE).astype(np.float32)
        truth, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint16)
        if name in ("good", "middle", "bad"):
            cube(truth, (2, 3, 3), 4, 1)
            cube(truth, TWO, 4, 1)
            cube(prediction, (2, 3, 3 if name != "middle" else 4), 4, 1)
        if name == "good":
            cube(prediction, TWO, 4, 2)
        if name == "bad":
            cube(prediction, (6, 1, 12), 2, 3)
        image[truth > 0] += 60
        save_case(root, name, image, truth, prediction, scores)
    return root


def save_case(
    root: Path,
    name: str,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    scores: bool = True,
    direction: Sequence[float] = IDENTITY_DIRECTION,
) -> None:
    """Write one case into ``images``, ``labels`` and ``predictions``. The scores are 0.9, 0.6, 0.3."""
    geometry = Geometry(image.shape, SPACING, direction=tuple(direction))
    write_image(image, geometry, root / "images" / f"{name}_0000.nii.gz")
    write_image(truth, geometry, root / "labels" / f"{name}.nii.gz")
    write_image((prediction > 0).astype(np.uint8), geometry, root / "predictions" / f"{name}.nii.gz")
    write_image(prediction, geometry, root / "predictions" / "instances" / f"{name}.nii.gz")
    ids, boxes = boxes_from_instances(prediction)
    lesions = [
        {
            "id": int(number),
            "label": 1,
            "class": "lesion",
            "score": round(0.9 - 0.3 * place, 2) if scores else None,
            "box": box.tolist(),
        }
        for place, (number, box) in enumerate(zip(ids.tolist(), boxes, strict=True))
    ]
    write_json({"lesions": lesions}, root / "predictions" / "rois" / f"{name}.json")


def evaluate(root: Path) -> EvaluationResult:
    """Evaluate the predictions of :func:`write_cases`."""
    given = EvaluationInput(root / "labels", root / "predictions", LabelFormat({"lesion": 1}))
    return evaluate_folders(given, run=Run(show_progress=False))


def case_files(root: Path, name: str, boxes: Sequence[PredictedBox] = (), system: str | None = None) -> CaseFiles:
    """Return the files of one case of :func:`write_cases`."""
    return CaseFiles(
        name,
        ImageSource(root / "images" / f"{name}_0000.nii.gz"),
        root / "labels" / f"{name}.nii.gz",
        root / "predictions" / "instances" / f"{name}.nii.gz",
        tuple(boxes),
        system,
    )


def pooled_metrics(**changes: float) -> PooledMetrics:
    """Return metrics that are made up."""
    metrics = PooledMetrics(
        f1_iou_0_1=0.7,
        recall_iou_0_1=0.8,
        precision_iou_0_1=0.625,
        fp_per_scan_iou_0_1=1.5,
        f1_any=0.75,
        recall_any=0.85,
        precision_any=0.7,
        fp_per_scan_any=1.2,
        dice=0.6,
        lesions=50,
        found_iou_0_1=40,
        found_any=42,
        predictions=48,
    )
    return replace(metrics, **changes)


def shift_summary() -> ShiftSummary:
    """Return metrics of shifted scans that are made up."""
    goals = ((OperatingGoal.HOME, 0.6, 0.8, 0.4), (OperatingGoal.ROBUST, 0.3, 0.79, 0.55))
    home, robust = (
        GoalMetrics(
            goal,
            Thresholds(score_threshold=score),
            pooled_metrics(f1_iou_0_1=at_home),
            pooled_metrics(f1_iou_0_1=shifted),
            (0.6, 0.9),
            None,
        )
        for goal, score, at_home, shifted in goals
    )
    after = pooled_metrics(recall_iou_0_1=0.234, f1_iou_0_1=0.345)
    thick = ShiftMetrics("thick_slices_z", "slices of 5 mm", 4, pooled_metrics(), after, ())
    return ShiftSummary(OperatingGoal.HOME, "medium", 8, 6, (home, robust), (thick,), 0.031, 0.117)


def consolidation(folds: int = 5) -> ConsolidationSummary:
    """Return the summary of a consolidation whose values are made up."""
    plan = Thresholds(score_threshold=0.3, growth_threshold=0.2)
    empty, full = ReliabilityBin(0.0, 0.5, 0, None, None), ReliabilityBin(0.5, 1.0, 8, 0.8, 0.5)
    return ConsolidationSummary(
        dataset="Dataset101_Example",
        folds=tuple(str(fold) for fold in range(folds)),
        cases=20,
        choice=ThresholdChoice(
            objective="highest lesion F1 (IoU ≥ 0.1)",
            target_reached=True,
            predicted_at_thresholds_of=ThresholdOrigin.OTHER_FOLDS if folds > 1 else ThresholdOrigin.SAME_SCANS,
            thresholds=plan.evolve(score_threshold=0.45),
            thresholds_of_the_plan=plan,
            thresholds_chosen_without_each_fold={},
            metrics=ChoiceMetrics(
                cross_fitted=pooled_metrics(f1_iou_0_1=0.688) if folds > 1 else None,
                chosen_on_the_same_scans=pooled_metrics(),
                plan=pooled_metrics(f1_iou_0_1=0.65),
            ),
            gain_on_other_folds=None,
            f1_without_minimum=0.69,
            true_lesions=80,
            true_lesions_below_minimum=3,
            scans=ScanCounts(with_lesions=36, missed=1, without_lesions=4, clean=3),
            settings_tried=48,
        ),
        sweep=(),
        calibration=CalibrationSummary(Reliability(0.3, (empty, full)), Reliability(0.05, (full, empty))),
        attribution=Attribution(
            stages=tuple(StageRecall(name, 0.9, 9, 10) for name in ("Stage 1, stored candidates", "in the final mask")),
            by_size=(
                SizeAttribution("under 15 voxels", 10, (0.9, 0.9), 10, 0.75),
                SizeAttribution("15 voxels or more", 0, (None, None), 0, None),
            ),
            dice_in_true_boxes=0.75,
        ),
        failures={},
    )


class Page(HTMLParser):
    """A parsed page. Parsing fails if an element is not closed.

    Attributes
    ----------
    elements : list of dict
        All elements in their order: ``tag``, ``attributes``, ``text`` (with the text of inner elements) and ``within``
        (the outer elements).
    visible : str
        All text except that of scripts and styles.
    """

    VOID = frozenset({"meta", "input", "br", "col"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.visible = ""
        self.feed(str(text))  # not Markup, which would escape the text that is added to it
        self.close()
        assert self.open == [], "these elements are not closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"{tag} has an attribute twice"
        element = {"tag": tag, "attributes": attributes, "text": "", "within": list(self.open)}
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open[-1]['tag']}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data
        if not any(element["tag"] in ("script", "style") for element in self.open):
            self.visible += data + " "

    def find(self, tag: str, within: dict[str, Any] | None = None, **attributes: str) -> list[dict[str, Any]]:
        """Return the elements with these attributes, optionally within another one. ``class_`` names one class."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and (within is None or any(entry is within for entry in element["within"]))
            and all(_has(element["attributes"].get(name), name, value) for name, value in wanted.items())
        ]

    def rows(self, table: dict[str, Any]) -> list[list[str]]:
        """Return the texts of the cells of each row of a table."""
        return [
            [
                e["text"]
                for e in self.elements
                if e["tag"] in ("td", "th") and any(entry is row for entry in e["within"])
            ]
            for row in self.find("tr", within=table)
        ]


def _has(found: str | None, name: str, wanted: str) -> bool:
    return found is not None and (wanted in found.split() if name == "class" else found == wanted)
