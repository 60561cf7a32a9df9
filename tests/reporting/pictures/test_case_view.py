from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.reporting.pictures.case_view import CaseView, LesionMap


@pytest.mark.parametrize("side", ["truth", "prediction"])
def test_lesions_of_another_shape_are_refused(side: str) -> None:
    lesions = LesionMap(np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(DetSeg3DError) as error:
        CaseView(np.zeros((2, 3, 5), np.float32), (1.0, 1.0, 1.0), **{side: lesions})
    assert error.value.value == (2, 3, 4) and error.value.expected == "(2, 3, 5)"
