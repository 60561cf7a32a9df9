"""Colours of the lesions in viewers."""

from __future__ import annotations

import colorsys

__all__ = ["lesion_colour"]

_GOLDEN_RATIO = 0.6180339887498949


def lesion_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a lesion as red, green and blue from 0 to 255.

    Steps of the golden ratio on the circle of hues keep the colours of any few numbers in a row far apart.

    Examples
    --------
    >>> lesion_colour(1), lesion_colour(1) == lesion_colour(2)
    ((230, 46, 46), False)
    """
    hue = ((number - 1) * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.8, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
