from __future__ import annotations

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.run import Run


def test_a_negative_number_of_processes_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        Run(processes=-1)
    assert caught.value.value == -1
