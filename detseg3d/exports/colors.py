"""Colours of lesions, the same in all exports."""

from __future__ import annotations

import colorsys

__all__ = ["lesion_color"]

# Successive multiples of the golden ratio spread hues evenly, however many lesions a scan has.
_GOLDEN_RATIO = 0.618033988749895
_SATURATION, _VALUE = 0.75, 0.95


def lesion_color(number: int) -> tuple[int, int, int]:
    """Return the colour of a lesion as red, green and blue from 0 to 255.

    Parameters
    ----------
    number : int
        Number of the lesion, from 1. Lesions with near numbers have clearly different colours.

    Examples
    --------
    >>> lesion_color(1), lesion_color(2)
    ((242, 61, 61), (61, 114, 242))
    """
    red, green, blue = colorsys.hsv_to_rgb((number - 1) * _GOLDEN_RATIO % 1.0, _SATURATION, _VALUE)
    return round(red * 255), round(green * 255), round(blue * 255)
