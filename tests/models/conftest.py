from __future__ import annotations

import pytest

from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans
from tests.models.factory import make_model


@pytest.fixture
def model(tiny_plans: Plans) -> DetSeg3D:
    return make_model(tiny_plans)
