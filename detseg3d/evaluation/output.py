"""The files of an evaluation: everything as JSON, cases and lesions as spreadsheets, the summary as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg3d.data.folders import EvaluationFolder
from detseg3d.evaluation.metrics import CRITERIA, HEADLINE
from detseg3d.evaluation.table import format_evaluation
from detseg3d.system.files import write_text
from detseg3d.system.json_files import write_json

__all__ = ["case_rows", "lesion_rows", "write_evaluation"]

_LESION_FIELDS = ("kind", "id", "class_name", "voxels", "volume_mm3")
_COUNTED = ("f1", "recall", "precision", "found", "true_positives", "false_positives")
_PARTNER_FIELDS = ("partner", "iou", "dice", "score")


def write_evaluation(result: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write ``metrics.json``, ``metrics.csv`` (cases), ``lesions.csv`` and ``metrics.md``.

    Parameters
    ----------
    result : dict
        From :func:`~detseg3d.evaluation.folders.evaluate_folders` or
        :func:`~detseg3d.evaluation.folders.evaluate_systems`.
    folder : path

    Returns
    -------
    list of Path
        What was written.
    """
    files = EvaluationFolder(Path(folder))
    write_json(result, files.metrics)
    write_text(_table(case_rows(result)), files.case_table)
    write_text(_table(lesion_rows(result)), files.lesion_table)
    write_text(format_evaluation(result) + "\n", files.text)
    return [files.metrics, files.case_table, files.lesion_table, files.text]


def case_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per evaluated case (and system, if there are several): counts, rates and figures over all classes."""
    rows = []
    for system, case in _records(result, "cases"):
        voxel = case["voxel_volume_mm3"]
        lesions = case["lesions"]
        row = {
            **system,
            "case": case["case_id"],
            **{name: lesions[HEADLINE][name] for name in ("truth", "predictions")},
            **{f"{name}_{criterion}": lesions[criterion][name] for criterion in CRITERIA for name in _COUNTED},
            "pq": case["panoptic"]["pq"],
            "dice": case["dice"],
            **case.get("figures", {}),
            "truth_mm3": case["truth_voxels"] * voxel,
            "prediction_mm3": case["prediction_voxels"] * voxel,
        }
        rows.append(row)
    return rows


def lesion_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per true and per predicted lesion (and system): size, place, match and score."""
    rows = []
    for system, lesion in _records(result, "lesions"):
        z, y, x = lesion["center"]
        rows.append(
            {
                **system,
                "case": lesion["case_id"],
                **{name: lesion[name] for name in _LESION_FIELDS},
                "center_z": z,
                "center_y": y,
                "center_x": x,
                **{f"matched_{name}": int(lesion["matched"][name]) for name in CRITERIA},
                **{name: lesion[name] for name in _PARTNER_FIELDS},
            }
        )
    return rows


def _records(result: Mapping[str, Any], key: str) -> Iterator[tuple[dict[str, str], Mapping[str, Any]]]:
    """The records of one system or of all, each with the column that names its system."""
    if "systems" not in result:
        yield from (({}, record) for record in result[key])
        return
    for name, part in result["systems"].items():
        yield from (({"system": name}, record) for record in part[key])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns or ["case"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: "" if value is None else value for name, value in row.items()} for row in rows])
    return text.getvalue()
