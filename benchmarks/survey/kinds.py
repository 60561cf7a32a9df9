"""All kinds of the survey."""

from __future__ import annotations

from benchmarks.survey.kinds_ct import CT_KINDS, PET_KINDS
from benchmarks.survey.kinds_mr import BODY_KINDS, BRAIN_KINDS
from benchmarks.survey.kinds_other import OTHER_KINDS
from benchmarks.survey.kinds_stress import STRESS_KINDS

__all__ = ["KINDS"]

KINDS = (*CT_KINDS, *PET_KINDS, *BRAIN_KINDS, *BODY_KINDS, *OTHER_KINDS, *STRESS_KINDS)
