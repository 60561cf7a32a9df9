"""Which axes of a scan have a direction of their own, so that its mirror image is no scan of this kind.

Front and back part of an organ, left and right lung: where classes always lie in the same order along an axis, a
flipped window shows an order that never occurs, and a network that has to tell the classes apart must learn both. Where
nothing speaks for a direction, a flip is the cheapest augmentation there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["ClassOrder", "find_class_orders", "undirected_axes"]

# Ten scans that all agree do so by chance in one of 500 pairs and axes; a few exceptions may be mistakes of the labels.
_MIN_SCANS = 10
_AGREEMENT = 0.95


@dataclass(frozen=True)
class ClassOrder:
    """Two classes that lie in the same order along an axis.

    Attributes
    ----------
    axis : int
        0 is z, inferior to superior; 1 is y, anterior to posterior; 2 is x, right to left.
    first, second : int
        Classes; the centre of ``first`` has the lower coordinate.
    scans : int
        In which both classes occur.
    agreeing : int
        Of these, how many have this order.
    """

    axis: int
    first: int
    second: int
    scans: int
    agreeing: int


def find_class_orders(
    centers: Sequence[npt.NDArray[np.float64]], classes: Sequence[npt.NDArray[np.int64]]
) -> list[ClassOrder]:
    """The order of two classes along each axis that has one: at least 10 scans show both, and 95 % of them agree.

    A class lies at the mean of its lesions' centres. All scans have the axes of the patient.

    Parameters
    ----------
    centers : sequence of ndarray, shape ``(n, 3)``
        Of each case, the centres of its lesions ``(z, y, x)`` in any unit.
    classes : sequence of ndarray of int64, shape ``(n,)``

    Returns
    -------
    list of ClassOrder
        At most one an axis, from z to x: of the pair that most scans show.

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
        apart = [case[second] - case[first] for case in means if first in case and second in case]
        for axis in range(3):
            forward, back = sum(d[axis] > 0 for d in apart), sum(d[axis] < 0 for d in apart)
            agreeing = int(max(forward, back))
            if len(apart) >= _MIN_SCANS and agreeing >= _AGREEMENT * len(apart):
                pair = (first, second) if forward >= back else (second, first)
                orders.append(ClassOrder(axis, *pair, len(apart), agreeing))
    best = {order.axis: order for order in sorted(orders, key=lambda order: order.agreeing)}
    return [best[axis] for axis in sorted(best)]


def undirected_axes(orders: Sequence[ClassOrder]) -> tuple[int, ...]:
    """The axes along which no two classes have an order: scans may be mirrored along these."""
    return tuple(axis for axis in range(3) if axis not in {order.axis for order in orders})
