from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.metrics import DetectionCounts
from detseg3d.training.log import EpochRecord, TrainingLog, ValidationRecord, describe_seconds
from detseg3d.training.state import LossValues
from detseg3d.training.validation import ValidationResult


def epoch(step: int, **values: Any) -> EpochRecord:
    record = EpochRecord(1, step, 2.5, 0.01, "windows", LossValues(), 0.5, 1.5)
    return replace(record, **values)


def validation(step: int) -> ValidationRecord:
    counts = DetectionCounts(2, 1, 2, 1)
    return ValidationRecord(1, step, 2.5, ValidationResult(counts, counts, 0.5, 1.0))


def write_log(path: Path, steps: tuple[int, ...], tail: str = "") -> None:
    log = TrainingLog(path, None)
    for step in steps:
        log.append(epoch(step))
    with path.open("a", encoding="utf-8") as handle:
        handle.write(tail)


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_are_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "fold_0" / "training_log.jsonl"
    log = TrainingLog(path, None)
    log.append(epoch(4, losses=LossValues(size=0.5)))
    log.append(validation(4))
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert first == {"kind": "epoch", **asdict(epoch(4, losses=LossValues(size=0.5)))}
    assert second == {
        "kind": "validation",
        "epoch": 1,
        "step": 4,
        "seconds": 2.5,
        "f1_iou_0.1": 0.5,
        "recall_iou_0.1": 0.5,
        "precision_iou_0.1": 0.5,
        "f1_any": 0.5,
        "dice": 0.5,
        "stage1_recall": 1.0,
    }


def test_a_new_training_starts_a_new_log(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", (1, 2))
    TrainingLog(tmp_path / "log.jsonl", None)
    assert steps_in(tmp_path / "log.jsonl") == []


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", (10, 20, 20, 30))
    TrainingLog(tmp_path / "log.jsonl", 20).append(epoch(31))
    assert steps_in(tmp_path / "log.jsonl") == [10, 20, 20, 31]


def test_resuming_drops_a_line_that_was_being_written(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", (10,), tail='{"kind": "epoch", "st')
    TrainingLog(tmp_path / "log.jsonl", 20).append(epoch(11))
    assert steps_in(tmp_path / "log.jsonl") == [10, 11]


@pytest.mark.parametrize(
    "damaged",
    [b"\xff\xfe\x00\x9c", b'{"kind": "epoch", "step": "many"}', b"[1]", b"null", b"[" * 100_000, b"9" * 5000, b"{} {}"],
)
def test_resuming_drops_damaged_lines_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    path = tmp_path / "log.jsonl"
    write_log(path, (10, 20))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damaged + b"\n" + second)
    TrainingLog(path, 20).append(epoch(21))
    assert steps_in(path) == [10, 20, 21]
    assert "1 damaged line(s)" in caplog.text and str(path) in caplog.text


def test_a_log_that_cannot_be_read_is_an_error_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(DetSeg3DError) as caught:
        TrainingLog(tmp_path / "log.jsonl", 20)
    assert caught.value.file == tmp_path / "log.jsonl"


def test_resuming_without_a_log_starts_one(tmp_path: Path) -> None:
    TrainingLog(tmp_path / "log.jsonl", 20).append(epoch(21))
    assert steps_in(tmp_path / "log.jsonl") == [21]


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        TrainingLog(tmp_path / "log.jsonl", None).append(epoch(1, learning_rate=float("nan")))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_describe_seconds(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


def test_describe_epoch() -> None:
    text = epoch(9, epoch=3, seconds=65.0, phase="whole volumes", losses=LossValues(1.23456, 0.5)).describe(130)
    assert text.startswith("epoch 3 (whole volumes): heatmap 1.235  size 0.500  offset 0.000  ")
    assert text.endswith("total 0.000  [1 min 5 s, about 2 min 10 s left]")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_the_numbers_of_a_record_become_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    log = TrainingLog(tmp_path / "log.jsonl", None, tmp_path / "events")
    log.append(epoch(4, losses=LossValues(size=0.5)))
    log.append(epoch(8, losses=LossValues(size=0.25)))
    curves = scalars(tmp_path / "events")
    assert curves["epoch/losses/size"] == [(4, 0.5), (8, 0.25)]
    assert "epoch/step" not in curves and "epoch/phase" not in curves


def test_a_new_training_starts_new_curves_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    for resumed, step in ((None, 4), (None, 5), (5, 9)):
        TrainingLog(tmp_path / "log.jsonl", resumed, tmp_path / "events").append(validation(step))
    assert scalars(tmp_path / "events")["validation/f1_any"] == [(5, 0.5), (9, 0.5)]


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DetSeg3DError) as caught:
        TrainingLog(tmp_path / "log.jsonl", None, tmp_path / "events")
    assert "detseg3d[track]" in str(caught.value.remedy)
