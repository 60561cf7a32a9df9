from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.catalogue import metric_spec
from detseg3d.reporting.pictures.training_curves import draw_progress, plot_progress, read_training_log


def epoch(number: int, phase: str = "windows", **losses: float) -> dict[str, Any]:
    losses = {"heatmap": 1 / number, "segmentation": 0.5, "total": 1 / number + 0.5} | losses
    return {
        "kind": "epoch",
        "epoch": number,
        "step": number * 10,
        "seconds": number * 60.0,
        "learning_rate": 0.001,
        "phase": phase,
        "losses": losses,
        "data_seconds": 1.0,
        "compute_seconds": 9.0,
    }


def validation(number: int, f1: float | None) -> dict[str, Any]:
    return {
        "kind": "validation",
        "epoch": number,
        "step": 1,
        "seconds": 1.0,
        "f1_iou_0.1": f1,
        "recall_iou_0.1": 0.5,
        "stage1_recall": 0.9,
    }


def write(records: list[dict[str, Any]], path: Path, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail, encoding="utf-8")
    return path


def test_a_picture_is_written(tmp_path: Path) -> None:
    log = write([epoch(1), validation(1, 0.2), epoch(2, "whole volumes"), validation(2, 0.7)], tmp_path / "log.jsonl")
    plot_progress(log, tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "tail", ['{"kind": "epoch", "epo', '{"kind"', "\n\n", "null\n", "[1]\n", '{"kind": "epoch"}\n']
)
def test_an_incomplete_line_is_left_out(tmp_path: Path, tail: str) -> None:
    assert len(read_training_log(write([epoch(1), epoch(2)], tmp_path / "log.jsonl", tail))) == 2


def test_lines_show_what_was_logged() -> None:
    figure = draw_progress([epoch(1), epoch(2), validation(2, 0.25), epoch(3), validation(3, 0.75)])
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    assert list(lines["heatmap"].get_ydata()) == [1.0, 0.5, pytest.approx(1 / 3)]
    assert (
        list(lines[metric_spec("f1_iou_0.1").label].get_xdata()),
        list(lines[metric_spec("f1_iou_0.1").label].get_ydata()),
    ) == (
        [2, 3],
        [0.25, 0.75],
    )
    assert {
        "segmentation",
        "total",
        "learning rate",
        metric_spec("recall_iou_0.1").label,
        "Stage 1 recall",
        "computing (s)",
    } <= set(lines)


def test_the_title_names_the_best_validation() -> None:
    figure = draw_progress([epoch(1), validation(1, 0.75), epoch(2), validation(2, 0.5)])
    assert figure.get_suptitle() == "epoch 2  ·  2.0 min  ·  Lesion F1 at IoU ≥ 0.1: best 0.750 at epoch 1, last 0.500"


@pytest.mark.parametrize(
    "records",
    [
        [],
        [epoch(1)],
        [validation(1, 0.5)],
        [validation(1, None)],
        [epoch(1, heatmap=0.0)],
        [{"kind": "epoch", "epoch": 1}],
        [{"kind": "something else", "epoch": 1}],
    ],
)
def test_every_entry_may_be_missing(records: list[dict[str, Any]]) -> None:
    draw_progress(records).canvas.draw()


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        plot_progress(tmp_path / "nothing.jsonl", tmp_path / "progress.png")
    assert error.value.file == tmp_path / "nothing.jsonl"
