"""Compare results with the stored answers of the original implementations, and make records of scored cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg3d.evaluation.matching import overlap_table
from detseg3d.evaluation.scores.froc import (
    ScoredCase,
    scored_case,
)
from tests.evaluation.golden.cases import golden_cases


def single(value: Any) -> Any:
    """Return the value with the tolerance of float32."""
    return pytest.approx(value, abs=5e-6, rel=5e-6)


def double(value: Any) -> Any:
    """Return the value with the tolerance of the ten stored digits."""
    return pytest.approx(value, abs=1e-9, rel=1e-9)


def records(names: list[str], minimum_iou: float | None) -> list[ScoredCase]:
    """Return the records of cases, matched by the overlap of masks."""
    result = []
    for name in names:
        case = golden_cases()[name]
        table = overlap_table(case.truth, case.prediction)
        result.append(scored_case(name, table, np.array(case.scores)[table.prediction.ids - 1], minimum_iou))
    return result
