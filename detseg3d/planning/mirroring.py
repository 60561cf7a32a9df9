"""Find the axes along which flipping would produce anatomically impossible scans.

Examples are the front and back part of an organ, or the left and right lung. If two classes always lie in the same
order along an axis, a flipped window shows an order that never occurs. A network that distinguishes the classes would
have to learn both orders. Along all other axes, flipping is a cheap augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["ClassOrder", "copied_axes", "find_class_orders", "undirected_axes"]

# Ten scans agree by chance for one of 500 pairs and axes. A few exceptions are allowed, because labels have mistakes.
_MIN_SCANS = 10
_AGREEMENT = 0.95


@dataclass(frozen=True)
class ClassOrder:
    """Two classes that keep the same order along an axis.

    Attributes
    ----------
    axis : int
        0 is z, inferior to superior; 1 is y, anterior to posterior; 2 is x, right to left.
    first, second : int
        Classes. The centre of ``first`` has the lower coordinate.
    scans : int
        Number of scans with both classes.
    agreeing : int
        Number of these scans with this order.
    """

    axis: int
    first: int
    second: int
    scans: int
    agreeing: int


def find_class_orders(
    centers: Sequence[npt.NDArray[np.float64]], classes: Sequence[npt.NDArray[np.int64]]
) -> list[ClassOrder]:
    """Find, for each axis, two classes that keep an order along it.

    At least 10 scans must show both classes, and 95 % of these scans must agree. The position of a class is the mean of
    the centres of its lesions. All scans have the axes of the patient.

    Parameters
    ----------
    centers : sequence of ndarray, shape ``(n, 3)``
        For each case, the centres of its lesions ``(z, y, x)`` in any unit.
    classes : sequence of ndarray of int64, shape ``(n,)``
        For each case, the classes of its lesions.

    Returns
    -------
    list of ClassOrder
        At most one for each axis, from z to x: the pair with the most agreeing scans.

    Examples
    --------
    >>> import numpy as np
    >>> case = np.array([[5.0, 2.0, 3.0], [5.0, 9.0, 3.0]])
    >>> [order] = find_class_orders([case] * 10, [np.array([1, 0])] * 10)
    >>> order.axis, order.first, order.second, order.agreeing
    (1, 1, 0, 10)
    """
    means = [
        {int(label): center[label_of == label].mean(axis=0) for label in np.unique(label_of)}
        for center, label_of in zip(centers, classes, strict=True)
    ]
    orders: list[ClassOrder] = []
    for first, second in combinations(sorted({label for case in means for label in case}), 2):
        differences = [case[second] - case[first] for case in means if first in case and second in case]
        for axis in range(3):
            forward, back = sum(d[axis] > 0 for d in differences), sum(d[axis] < 0 for d in differences)
            agreeing = int(max(forward, back))
            if len(differences) >= _MIN_SCANS and agreeing >= _AGREEMENT * len(differences):
                pair = (first, second) if forward >= back else (second, first)
                orders.append(ClassOrder(axis, *pair, len(differences), agreeing))
    best = {order.axis: order for order in sorted(orders, key=lambda order: order.agreeing)}
    return [best[axis] for axis in sorted(best)]


def undirected_axes(orders: Sequence[ClassOrder]) -> tuple[int, ...]:
    """Return the axes along which no two classes keep an order, so that scans may be mirrored along them."""
    return tuple(axis for axis in range(3) if axis not in {order.axis for order in orders})


def copied_axes(mirror_axes: Sequence[int]) -> tuple[int, ...]:
    """Return the axis of the mirrored copy that the inference averages: the last axis of the training's flips.

    One copy is about as good as seven and takes less than half the time (docs/research_log/mirrored_copies.md).

    Examples
    --------
    >>> copied_axes((0, 1, 2)), copied_axes(())
    ((2,), ())
    """
    return tuple(mirror_axes[-1:])
