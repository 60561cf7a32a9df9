"""Write the files of an evaluation: the complete result as JSON, cases and lesions as CSV, a summary as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg3d.data.folders import EvaluationFolder
from detseg3d.evaluation.metrics import HEADLINE, CaseMetrics, Criterion, LesionMetrics
from detseg3d.evaluation.result import EvaluationResult, SystemsResult
from detseg3d.reporting.text.evaluation import format_evaluation
from detseg3d.system.files import write_text
from detseg3d.system.json_files import write_json

__all__ = ["case_rows", "write_evaluation"]

_COUNTS = ("f1", "recall", "precision", "found", "true_positives", "false_positives")

Row = dict[str, str | int | float | None]


def write_evaluation(
    result: EvaluationResult | SystemsResult, folder: str | Path, more: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write ``metrics.json``, ``metrics.csv`` (cases), ``lesions.csv`` and ``metrics.md``.

    Parameters
    ----------
    result : EvaluationResult or SystemsResult
        Result of one system or of several systems.
    folder : path
        Folder to write to.
    more : dict, optional
        Additional entries of ``metrics.json``. The values must be of types that JSON can represent.

    Returns
    -------
    list of Path
        The files that were written.
    """
    files = EvaluationFolder(Path(folder))
    write_json({**result.to_json(), **(more or {})}, files.metrics)
    write_text(_table(case_rows(result)), files.case_table)
    write_text(_table(lesion_rows(result)), files.lesion_table)
    write_text(format_evaluation(result) + "\n", files.text)
    return [files.metrics, files.case_table, files.lesion_table, files.text]


def case_rows(result: EvaluationResult | SystemsResult) -> list[Row]:
    """Return the metrics of the cases, one row for each evaluated case of each system."""
    return [{**system, **_case_row(case)} for system, part in _systems(result) for case in part.cases]


def _case_row(case: CaseMetrics) -> Row:
    overall = case.overall
    row: Row = {
        "case": case.case_id,
        "truth": overall.detection[HEADLINE].truth,
        "predictions": overall.detection[HEADLINE].predictions,
    }
    for criterion in Criterion:
        row |= {f"{name}_{criterion}": getattr(overall.detection[criterion], name) for name in _COUNTS}
    row |= {"pq": overall.panoptic.pq, "dice": overall.dice}
    if case.outlines is not None:
        outlines = case.outlines.overall
        row |= {
            "nsd": outlines.nsd,
            "hd95_mm": outlines.hd95_mm,
            "lesionwise_dice": outlines.lesionwise.dice,
            "lesionwise_hd95_mm": outlines.lesionwise.hd95_mm,
            "cc_dice": outlines.cc_dice,
            "assd_mm": outlines.assd_mm,
            "nsd_area": outlines.nsd_area,
            "hd95_area_mm": outlines.hd95_area_mm,
        }
    return row | {
        "truth_mm3": overall.truth_voxels * case.voxel_volume_mm3,
        "prediction_mm3": overall.prediction_voxels * case.voxel_volume_mm3,
    }


def lesion_rows(result: EvaluationResult | SystemsResult) -> list[Row]:
    """Return the measures of the lesions, one row for each true and each predicted lesion of each system."""
    return [{**system, **_lesion_row(lesion)} for system, part in _systems(result) for lesion in part.lesions]


def _lesion_row(lesion: LesionMetrics) -> Row:
    z, y, x = lesion.center
    shape = lesion.shape
    row: Row = {
        "case": lesion.case_id,
        "kind": lesion.kind,
        "id": lesion.id,
        "class_name": lesion.class_name,
        "voxels": lesion.voxels,
        "volume_mm3": lesion.volume_mm3,
        "long_axis_mm": None if shape is None else shape.long_axis_mm,
        "short_axis_mm": None if shape is None else shape.short_axis_mm,
        "maximum_diameter_mm": None if shape is None else shape.maximum_diameter_mm,
        "surface_mm2": None if shape is None else shape.surface_mm2,
        "sphericity": None if shape is None else shape.sphericity,
        "center_z": z,
        "center_y": y,
        "center_x": x,
    }
    row |= {f"matched_{criterion}": int(lesion.matched[criterion]) for criterion in Criterion}
    return row | {"partner": lesion.partner, "iou": lesion.iou, "dice": lesion.dice, "score": lesion.score}


def _systems(result: EvaluationResult | SystemsResult) -> Iterator[tuple[Row, EvaluationResult]]:
    """Yield each system, with a column for its name if there are several systems."""
    if isinstance(result, EvaluationResult):
        yield {}, result
        return
    for name, system in result.systems.items():
        yield {"system": name}, system


def _table(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns or ["case"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: "" if value is None else value for name, value in row.items()} for row in rows])
    return text.getvalue()
