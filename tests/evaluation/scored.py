"""Make records of cases with scores, by hand and with hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from detseg3d.evaluation.scores.froc import (
    ScoredCase,
)

MISSED = -np.inf


def record(
    truth: Sequence[float], false: Sequence[float] = (), true: Sequence[float] | None = None, case_id: str = "case"
) -> ScoredCase:
    """Return a record. If ``true`` is None, every finite score in ``truth`` belongs to one true positive."""
    hits = [score for score in truth if score > MISSED] if true is None else true
    return ScoredCase(case_id, np.array(truth, float), np.array(hits, float), np.array(false, float))


# Scores in tenths, so that there are many ties.
tenths = st.integers(1, 9).map(lambda number: number / 10)


some_cases = st.lists(
    st.builds(record, st.lists(st.one_of(tenths, st.just(MISSED)), max_size=4), st.lists(tenths, max_size=4)),
    min_size=1,
    max_size=4,
)
