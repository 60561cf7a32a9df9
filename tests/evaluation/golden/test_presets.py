"""Compare the presets with their original programs, on the golden cases with a grid of 1 mm.

``presets.json`` is made by benchmarks/golden/make_presets.py.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.evaluation.definitions.presets import Preset, PresetInput, PresetMetric, preset_case, preset_metrics
from detseg3d.evaluation.matching import overlap_table
from tests.evaluation.golden.answers import double
from tests.evaluation.golden.cases import FOLDER, golden_cases


@cache
def presets() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "presets.json").read_text(encoding="utf-8"))
    return loaded


NAMES = sorted(presets()["cases"])


def given(name: str) -> PresetInput:
    case_name, index = name.split("/")
    case = golden_cases()[case_name]
    truth, prediction = case.of_class(int(index))
    lesions, parts = (cc3d.connected_components(volume > 0, connectivity=26) for volume in (truth, prediction))
    scores: npt.NDArray[np.float64] = np.zeros(int(parts.max()) + 1)
    np.maximum.at(scores, parts.ravel(), np.concatenate([[0.0], case.scores])[prediction].ravel())
    table = overlap_table(lesions, parts)
    return PresetInput(lesions, parts, table, scores[table.prediction.ids], (1.0, 1.0, 1.0), 1.0)


def check(metrics: tuple[PresetMetric, ...], answer: dict[str, float | None]) -> None:
    assert {metric.key for metric in metrics} == set(answer)
    for metric in metrics:
        expected = answer[metric.key]
        assert metric.value == (None if expected is None else double(expected)), metric.key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", [Preset.BRATS2026_METS, Preset.PANOPTICA])
def test_metrics_of_a_case_equal_the_original(preset: Preset, name: str) -> None:
    check(preset_metrics(preset, [preset_case(preset, given(name))]), answers_to(preset, name))


def answers_to(preset: Preset, name: str) -> dict[str, float | None]:
    answer: dict[str, float | None] = dict(presets()["cases"][name][str(preset)])
    return answer


def test_metrics_of_all_cases_equal_picai_eval() -> None:
    cases = [preset_case(Preset.PICAI, given(name)) for name in presets()["cases"]]
    check(preset_metrics(Preset.PICAI, cases), presets()["picai"])
