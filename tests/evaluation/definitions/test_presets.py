from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.evaluation.arrays import evaluate_arrays
from detseg3d.evaluation.definitions.brats_mets import mets2026_case
from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.definitions.presets import Preset, preset_metrics
from detseg3d.evaluation.summary import summarize
from detseg3d.reporting.text.evaluation import format_evaluation
from tests.evaluations import evaluate_maps, result_of

MM = (1.0, 1.0, 1.0)


def volume(*spans: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return a volume with bars along x: (start, end, value)."""
    result = np.zeros((4, 4, 30), np.uint8)
    for start, end, value in spans:
        result[:, :, start:end] = value
    return result


@pytest.mark.parametrize("preset", list(Preset))
def test_each_class_has_metrics_and_a_case_without_it_counts_as_empty(preset: Preset) -> None:
    rule = MetricVariants(preset=preset)
    first = evaluate_arrays(
        volume((0, 5, 1), (10, 15, 2)), volume((0, 5, 1)), MM, classes={"a": 1, "b": 2}, variants=rule
    )
    second = evaluate_arrays(volume((0, 5, 1)), volume((1, 5, 1)), MM, classes={"a": 1}, variants=rule)
    summary = summarize([first, second], ["a", "b"])
    assert summary.preset is not None and summary.preset.preset is preset
    assert first.preset is not None and second.preset is not None
    metrics = {
        name: preset_metrics(preset, [case.preset.classes.get(name) for case in (first, second) if case.preset])
        for name in "ab"
    }
    for name, entries in summary.preset.classes.items():
        assert [entry.value for entry in entries] == [metric.value for metric in metrics[name]]
    text = format_evaluation(result_of([first, second], ["a", "b"]))
    assert f"### Preset {preset}" in text
    for record in (summary, replace(first, scored=None)):
        assert type(record).from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == record


def test_touching_instances_are_one_component_if_the_original_reads_masks() -> None:
    touching = volume((0, 5, 1), (5, 10, 2)).astype(np.int32)
    case = evaluate_maps("a", touching, touching, MM, variants=MetricVariants(preset=Preset.BRATS2026_METS))
    assert case.preset is not None
    assert case.preset.classes["lesion"] == mets2026_case(touching > 0, touching > 0, MM, 1.0)


def test_cases_without_a_preset_have_no_preset_metrics() -> None:
    case = evaluate_arrays(volume((0, 5, 1)), volume((0, 5, 1)), MM)
    assert summarize([case]).preset is None
    assert "Preset" not in format_evaluation(result_of([case]))
