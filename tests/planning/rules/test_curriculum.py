from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.rules.curriculum import choose_curriculum, choose_window
from detseg3d.planning.rules.grids import coarser_spacings

SPACINGS = st.tuples(*[st.floats(0.3, 6)] * 3)


def test_windows_of_a_head_scan() -> None:
    phases = choose_curriculum((1, 1, 1), (1, 1, 1), (16, 16, 16), (96, 160, 128))
    assert [(phase.fraction, phase.window) for phase in phases] == [(0.6, (48,) * 3), (0.25, (96,) * 3), (0.15, None)]


def test_windows_have_about_the_same_millimetres_on_all_axes() -> None:
    assert choose_window(64, (3, 0.75, 0.75), (1, 1, 1), (4, 16, 16), (100, 400, 400)) == (16, 64, 64)


def test_window_in_a_short_volume_is_still_a_multiple_of_the_stride() -> None:
    assert choose_window(64, (1, 1, 1), (1, 1, 1), (16, 16, 16), (40, 12, 400)) == (32, 12, 64)


def test_windows_count_detection_voxels() -> None:
    assert choose_window(64, (2, 2, 2), (2, 2, 2), (16, 16, 16), (300, 300, 300)) == (128, 128, 128)


@pytest.mark.parametrize("edge", [48, 96])
def test_a_window_is_a_multiple_of_the_stride_on_every_coarser_grid(edge: int) -> None:
    for spacing in coarser_spacings((1, 1, 1), (400, 400, 400)):
        window = choose_window(edge, spacing, spacing, (16, 16, 16), (400, 400, 400))
        cells = [math.ceil(n / scale - 1e-6) for n, scale in zip(window, spacing, strict=True)]
        assert all(n % 16 == 0 for n in cells), (spacing, window)


def test_window_holds_twice_a_large_lesion() -> None:
    phases = choose_curriculum((1, 1, 1), (1, 1, 1), (16, 16, 16), (400, 400, 400), large_lesion=60)
    assert [phase.window for phase in phases] == [(128,) * 3, (240,) * 3, None]


def test_time_of_a_window_that_is_nearly_the_whole_volume_is_shared_by_its_neighbours() -> None:
    phases = choose_curriculum((1, 1, 1), (1, 1, 1), (16, 16, 16), (96, 100, 100))
    assert [(phase.fraction, phase.window) for phase in phases] == [(0.725, (48,) * 3), (0.275, None)]


def test_tiny_volumes_are_trained_as_a_whole() -> None:
    phases = choose_curriculum((1, 1, 1), (1, 1, 1), (8, 8, 8), (45, 52, 41))
    assert [(phase.fraction, phase.window) for phase in phases] == [(1.0, None)]


@given(SPACINGS, st.floats(1, 3), st.tuples(*[st.integers(1, 600)] * 3), st.floats(0, 100))
def test_windows_lie_in_the_volume_and_fractions_sum_to_one(
    spacing: tuple[float, float, float], scale: float, largest: tuple[int, int, int], lesion: float
) -> None:
    stride = tuple(2 ** min(5, max(0, int(math.log2(n)) - 2)) for n in largest)
    phases = choose_curriculum(spacing, (scale,) * 3, stride, largest, lesion)
    assert sum(phase.fraction for phase in phases) == pytest.approx(1)
    assert phases[-1].window is None
    for phase in phases[:-1]:
        assert phase.window is not None
        assert all(1 <= n <= limit for n, limit in zip(phase.window, largest, strict=True))
        assert math.prod(phase.window) < 0.8 * math.prod(largest)
